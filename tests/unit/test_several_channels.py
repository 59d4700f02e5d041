"""Several channels on one stream, and what else a subscription does. See also test_channel_scenarios.py."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from tests.unit.driving import SEAT_BELT_SECONDS, StillLoop, drive, settled, until
from tests.unit.following import Client, ManualLoop, fill, numbers, opened, read, taken
from tests.unit.subscribing import both, note, reading, streamed, streaming

from sse_starlette._runtime.loop import loop_override
from sse_starlette.channels._options import SubscribeOptions
from sse_starlette.channels.channel import Channel, state_of
from sse_starlette.channels.subscription import Subscription
from sse_starlette.errors import HistoryGap
from sse_starlette.sse import EventSourceResponse

pytestmark = pytest.mark.anyio


async def test_what_several_channels_publish_in_one_turn_leaves_in_one_send() -> None:
    # None of them pauses, for as long as its last round has taken.
    channels = [Channel(name, prefer="latency") for name in "abc"]
    states = [state_of(channel) for channel in channels]
    subscription: Subscription[Any] = Subscription(states, None, SubscribeOptions())

    async with streaming(subscription) as client:
        await settled()
        for _ in range(2):
            before = len(client.chunks)
            for channel in channels:
                channel.publish_nowait(channel.name)
            await client.chunk(before)
            await settled()
            assert len(client.chunks) == before + 1
            assert client.chunks[-1].count(b"data: ") == 3


async def test_who_is_stopped_before_its_task_began_has_nothing_made_for_it() -> None:
    asked: list[str] = []

    def snapshot() -> list[str]:
        asked.append("snapshot")
        return []

    subscription = Channel("c").subscribe(snapshot=snapshot)

    with anyio.fail_after(SEAT_BELT_SECONDS):
        await subscription._feed.run()  # Nor has who isn't opened.
        opened(subscription)
        assert subscription._feed.take() == b""
        subscription._feed.stop()
        await subscription._feed.run()

    assert asked == []


async def test_a_publisher_that_lets_go_of_the_loop_overtakes_nobody() -> None:
    channel = Channel("burst", history=100)
    ended: list[str] = []

    async with streaming(channel.subscribe(), on_close=ended.append) as exchange:
        for number in range(5_000):
            channel.publish_nowait({"data": number})
            await anyio.lowlevel.checkpoint()
        await exchange.until(lambda: exchange.body.count(b"data:") == 5_000)

    assert ended == ["client"]
    assert channel.stats().disconnected == 0


async def test_a_snapshot_that_takes_longer_than_the_history_lasts_is_made_once() -> None:
    channel = Channel("c", history=2)
    made: list[int] = []

    async def snapshot() -> AsyncIterator[object]:
        made.append(1)
        yield "snapshot"
        fill(channel, 1, 5)

    async with streaming(channel.subscribe(snapshot=snapshot)) as client:
        await client.contains("event: reset")
        fill(channel, 6, 6)
        await client.contains("data: 6\r\n")

    assert [one.event for one in reading(client).got] == ["message", "reset", "message"]
    assert made == [1]


async def test_a_large_snapshot_is_sent_as_the_client_takes_it_and_cleaned_up_in_its_time() -> None:
    channel = Channel("c")
    made: list[int] = []
    cleaned: list[str] = []

    async def snapshot() -> AsyncIterator[object]:
        try:
            for number in range(1_000):
                made.append(number)
                yield "x" * 20_000
        finally:
            await anyio.lowlevel.checkpoint()
            cleaned.append("up")

    response = EventSourceResponse(channel.subscribe(snapshot=snapshot))
    async with drive(response, blocked=True) as client:
        client.unblock()
        await client.chunk(0)
        client.block()
        await settled()
        assert len(made) < 100

    assert cleaned == ["up"]


@pytest.mark.parametrize("way", ["streamed", "iterated"])
async def test_a_new_client_of_a_closed_channel_gets_the_snapshot_and_then_the_end(
    way: str,
) -> None:
    channel = Channel("c")
    channel.close()
    subscription = channel.subscribe(snapshot=lambda: "all")

    if way == "iterated":
        assert [event.data async for event in subscription] == ["all"]
    else:
        client = await streamed(subscription)
        assert (client.status, reading(client).data) == (200, ["all"])


def test_events_may_be_named_after_their_channels(loop: ManualLoop) -> None:
    a, b, odd = Channel("a"), Channel("b"), Channel("\ud800!")
    subscription = both(a, b, odd, name_channels=True)
    taken(subscription)
    a.publish_nowait({"data": "1", "event": "tick"})
    b.publish_nowait("event: none")
    b.publish_nowait({"comment": "only"})
    odd.publish_nowait("x")

    got = [(one.event, one.data) for one in read(subscription)]

    assert got == [("a:tick", "1"), ("b", "event: none"), ("\ufffd!", "x")]


async def test_what_is_kept_can_be_read_without_a_subscription() -> None:
    channel = Channel("c", history=4)
    fill(channel, 1, 6)

    async def data(**options: Any) -> list[str]:
        events = await channel.history(**options)
        assert all(event.channel == "c" and event.id for event in events)
        return [event.data for event in events]

    assert await data() == ["3", "4", "5", "6"]
    assert await data(limit=2) == ["5", "6"]
    assert await data(after=3, limit=2) == ["4", "5"]
    assert await data(after=f"{channel.epoch}.5") == ["6"]
    for after, reason in (("start", "trimmed"), (7, "future"), ("e.1", "epoch"), ("x", "unknown")):
        with pytest.raises(HistoryGap, match=reason) as caught:
            await data(after=after)
        assert (caught.value.channel, caught.value.reason) == ("c", reason)


class SlowLoop(StillLoop):
    """By its stopwatch a hundredth of a second goes by whenever it's looked at."""

    passed = 0.0

    def stopwatch(self) -> float:
        self.passed += 0.01
        return self.passed


@pytest.mark.parametrize("way", ["filtered", "one by one", "joined"])
async def test_much_that_is_read_leaves_the_loop_its_turns(way: str) -> None:
    loop_override.set(SlowLoop())
    channel = Channel("c", history=3_000)
    fill(channel, 1, 2_000, comment="x" * 100)
    turns = 0

    async def other() -> None:
        nonlocal turns
        while True:
            await anyio.lowlevel.checkpoint()
            turns += 1

    options: Any = {"filter": lambda event: event.data == "2000"} if way == "filtered" else {}
    subscription = channel.subscribe(f"{channel.epoch}.0", **options)
    response = EventSourceResponse(subscription, join_events=way == "joined")
    async with anyio.create_task_group() as tasks, drive(response) as client:
        tasks.start_soon(other)
        await client.contains("data: 2000\r\n")
        tasks.cancel_scope.cancel()

    assert turns > 2


def test_what_takes_no_time_is_read_in_one_turn(loop: ManualLoop) -> None:
    channel = Channel("c", history=3_000)
    fill(channel, 1, 2_000, comment="x" * 100)
    subscription = opened(channel.subscribe(f"{channel.epoch}.0"))
    subscription._feed.joins = True

    assert [one.data for one in read(subscription)] == numbers(1, 2_000)
    assert not loop.calls


async def test_a_subscription_that_is_closed_while_a_snapshot_is_made_closes_the_snapshot() -> None:
    asked, answered = anyio.Event(), anyio.Event()
    closed: list[bool] = []

    async def snapshot() -> AsyncIterator[str]:
        try:
            asked.set()
            await answered.wait()
            yield "all"
            yield "more"
        finally:
            closed.append(True)

    subscription = Channel("c").subscribe(snapshot=snapshot)
    with anyio.fail_after(SEAT_BELT_SECONDS):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(note, subscription, [])
            await asked.wait()
            subscription._feed.stop()
            answered.set()

    assert closed == [True]


async def test_what_is_left_of_a_snapshot_when_it_ends_is_not_lost() -> None:
    """It was quick, so its last events were held for further ones, and the writer is at a send."""
    loop_override.set(StillLoop())
    subscription = Channel("c").subscribe(snapshot=lambda: list(map(str, range(300))))
    client = Client()

    def take() -> None:
        sender = subscription._feed._opening_sender
        if sender is not None and sender._source is not None and not sender._source.ended:
            client.read(subscription._feed.take())
            subscription._feed.sent()

    async with anyio.create_task_group() as tasks:
        opened(subscription, take)
        tasks.start_soon(subscription._feed.run)
        await until(lambda: not subscription._feed._preface.due)
        before = len(client.data)
        client.read(subscription._feed.take())
        subscription._feed.stop()

    assert before < 300
    assert client.data == numbers(0, 299)
