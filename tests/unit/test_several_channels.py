"""Several channels on one stream."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import anyio
import anyio.lowlevel
import fastapi.sse
import pytest
from tests.unit.driving import (
    SEAT_BELT_SECONDS,
    drive,
    settled,
    until,
)
from tests.unit.following import (
    Client,
    ManualLoop,
    fill,
    numbers,
    opened,
    read,
    taken,
)
from tests.unit.subscribing import (
    both,
    key,
    note,
    publish,
    reading,
)

import sse_starlette._stream.batching as batching_module
import sse_starlette._stream.source as source_module
import sse_starlette.channels._reader as reader_module
from sse_starlette.channels._options import SubscribeOptions
from sse_starlette.channels.channel import Channel, state_of
from sse_starlette.channels.subscription import Subscription
from sse_starlette.errors import HistoryGap
from sse_starlette.sse import EventSourceResponse


def test_one_cursor_holds_the_position_in_each_channel(loop: ManualLoop) -> None:
    a, b = Channel("a"), Channel("b")
    fill(a, 1, 2)
    subscription = both(a, b)

    first = subscription._feed.take()
    b.publish_nowait("b1")
    a.publish_nowait("a3")
    got = read(subscription)

    assert first == f"id: {a.epoch}.2-{b.epoch}.0\r\n\r\n".encode()
    assert {one.data for one in got} == {"a3", "b1"}
    assert got[-1].id == f"{a.epoch}.3-{b.epoch}.1"
    assert (a.stats().delivered, b.stats().delivered) == (1, 1)


@pytest.mark.anyio
async def test_what_several_channels_publish_in_one_turn_leaves_in_one_send() -> None:
    # None of them pauses, for as long as its last round has taken.
    channels = [Channel(name, prefer="latency") for name in "abc"]
    states = [state_of(channel) for channel in channels]
    subscription: Subscription[Any] = Subscription(states, None, SubscribeOptions())

    async with drive(EventSourceResponse(subscription)) as client:
        await client.chunk(0)
        await settled()
        for _ in range(2):
            before = len(client.chunks)
            for channel in channels:
                channel.publish_nowait(channel.name)
            await client.chunk(before)
            await settled()
            assert len(client.chunks) == before + 1
            assert client.chunks[-1].count(b"data: ") == 3


def test_the_newest_events_of_one_channel_move_no_position_in_another(loop: ManualLoop) -> None:
    a, b = Channel("a"), Channel("b", history=2, slow="latest", latest_by=key)
    fill(a, 1, 7)
    subscription = both(a, b)
    taken(subscription)

    publish(b, "x1", "y2", "x3")
    reset, *latest = read(subscription)

    assert reset.reset["channel"] == "b"
    assert [one.id for one in latest] == [f"{a.epoch}.7-{b.epoch}.{offset}" for offset in (2, 3)]


def test_what_is_ready_in_one_channel_goes_out_before_the_gap_in_another(loop: ManualLoop) -> None:
    a, b = Channel("a"), Channel("b", history=2, slow="reset")
    subscription = both(a, b)
    client = Client()
    read(subscription, client)
    a.publish_nowait("a1")
    fill(b, 1, 3)

    client.read(subscription._feed.take())
    assert (client.data, client.last_event_id) == (["a1"], f"{a.epoch}.1-{b.epoch}.0")
    (reset,) = read(subscription, client)

    assert reset.reset["channel"] == "b"
    assert reset.id == f"{a.epoch}.1-{b.epoch}.3"


@pytest.mark.anyio
async def test_who_is_not_opened_has_nothing_to_run() -> None:
    with anyio.fail_after(SEAT_BELT_SECONDS):
        await Channel("c").subscribe(snapshot=list)._feed.run()


@pytest.mark.anyio
async def test_who_is_stopped_before_its_task_began_has_nothing_made_for_it() -> None:
    asked: list[str] = []

    def snapshot() -> list[str]:
        asked.append("snapshot")
        return []

    subscription = Channel("c").subscribe(snapshot=snapshot)
    subscription._feed.open(lambda: None)
    assert subscription._feed.take() == b""
    subscription._feed.stop()

    with anyio.fail_after(SEAT_BELT_SECONDS):
        await subscription._feed.run()

    assert asked == []


@pytest.mark.anyio
async def test_the_task_of_a_subscription_ends_with_it() -> None:
    channel = Channel("c")
    subscription = channel.subscribe(snapshot=lambda: ["snapshot"])
    subscription._feed.open(lambda: None)

    with anyio.fail_after(SEAT_BELT_SECONDS):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(subscription._feed.run)
            await settled()
            channel.close()
            assert b"snapshot" in taken(subscription)
            while not subscription._feed.ended:
                await settled()
                taken(subscription)

    subscription._feed.stop()


def test_each_gap_is_told_once(loop: ManualLoop) -> None:
    channel = Channel("c", history=2, slow="reset")
    subscription = opened(channel.subscribe("nonsense"))
    client = Client()

    for _ in range(3):
        read(subscription, client)
        fill(channel, 1, 3)
    read(subscription, client)

    assert [one.reset["reason"] for one in client.got] == ["unknown", *["lagging"] * 3]


@pytest.mark.anyio
async def test_a_publisher_that_lets_go_of_the_loop_overtakes_nobody() -> None:
    channel = Channel("burst", history=100)
    ended: list[str] = []
    response = EventSourceResponse(channel.subscribe(), on_close=ended.append)

    async with drive(response) as exchange:
        await exchange.chunk(0)
        for number in range(5_000):
            channel.publish_nowait({"data": number})
            await anyio.lowlevel.checkpoint()
        await exchange.until(lambda: exchange.body.count(b"data:") == 5_000)
        exchange.leave()
        await exchange.returns()

    assert ended == ["client"]
    assert channel.stats().disconnected == 0


def test_an_event_of_fastapi_is_published_as_an_event() -> None:
    channel = Channel("c")

    channel.publish_nowait(fastapi.sse.ServerSentEvent(data={"a": 1}, event="e"))

    frame = f'id: {channel.epoch}.1\r\nevent: e\r\ndata: {{"a":1}}\r\n\r\n'
    assert state_of(channel)._ring.frames(0, 1) == [frame.encode()]
    with pytest.raises(ValueError, match="the event has the id '7'"):
        channel.publish_nowait(fastapi.sse.ServerSentEvent(data="a", id="7"))


@pytest.mark.anyio
async def test_a_snapshot_that_takes_longer_than_the_history_lasts_is_made_once() -> None:
    channel = Channel("c", history=2)
    made: list[int] = []

    async def snapshot() -> AsyncIterator[object]:
        made.append(1)
        yield "snapshot"
        fill(channel, 1, 5)

    async with drive(EventSourceResponse(channel.subscribe(snapshot=snapshot))) as client:
        await client.contains("event: reset")
        fill(channel, 6, 6)
        await client.contains("data: 6\r\n")

    assert [one.event for one in reading(client).got] == ["message", "reset", "message"]
    assert made == [1]


@pytest.mark.anyio
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
        client.leave()
        await client.returns()

    assert cleaned == ["up"]


@pytest.mark.anyio
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
        async with drive(EventSourceResponse(subscription)) as client:
            await client.returns()
        assert (client.status, reading(client).data) == (200, ["all"])


@pytest.mark.anyio
async def test_where_blocks_of_an_id_alone_are_unwanted_there_are_none() -> None:
    channel = Channel("c")
    subscription = opened(
        channel.subscribe(id_blocks=False, filter=lambda event: event.data != "2")
    )
    assert taken(subscription) == b""
    fill(channel, 1, 2)

    assert taken(subscription) == f"id: {channel.epoch}.1\r\ndata: 1\r\n\r\n".encode()
    assert subscription._feed.ping() == b""


def test_events_may_be_named_after_their_channels(loop: ManualLoop) -> None:
    a, b = Channel("a"), Channel("b")
    subscription = both(a, b, name_channels=True)
    taken(subscription)
    a.publish_nowait({"data": "1", "event": "tick"})
    b.publish_nowait("event: none")
    b.publish_nowait({"comment": "only"})

    frames = taken(subscription)

    got = Client().read(frames)
    assert [(one.event, one.data) for one in got] == [("a:tick", "1"), ("b", "event: none")]


def test_an_event_is_named_after_a_channel_whose_name_is_half_a_surrogate_pair(
    loop: ManualLoop,
) -> None:
    channel = Channel("\ud800!")
    subscription = both(channel, Channel("b"), name_channels=True)
    taken(subscription)
    channel.publish_nowait("x")

    assert b"event: \xef\xbf\xbd!\r\n" in taken(subscription)


@pytest.mark.anyio
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


@pytest.mark.anyio
@pytest.mark.parametrize("way", ["filtered", "one by one", "joined"])
async def test_much_that_is_read_leaves_the_loop_its_turns(
    monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    monkeypatch.setattr(reader_module, "_TURN_SECONDS", 0.0)
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


@pytest.mark.anyio
async def test_a_subscription_that_is_closed_while_a_snapshot_is_made_closes_the_snapshot() -> None:
    channel = Channel("c")
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

    subscription = channel.subscribe(snapshot=snapshot)
    got: list[str] = []
    with anyio.fail_after(SEAT_BELT_SECONDS):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(note, subscription, got)
            await asked.wait()
            subscription._feed.stop()
            answered.set()

    assert closed == [True]


def test_a_channel_that_has_news_is_not_behind_because_another_one_is(loop: ManualLoop) -> None:
    behind, other = Channel("behind", history=2, slow="reset"), Channel("other")
    subscription = both(behind, other)
    subscription._feed.take()

    fill(behind, 1, 5)
    other.publish_nowait("news")
    loop.settle()
    client = Client()
    while frames := subscription._feed.take():
        client.read(frames)

    assert [one.event for one in client.got] == ["reset", "message"]
    assert client.got[0].gaps == {"behind": "lagging"}
    assert client.got[1].data == "news"
    assert other.stats().resets == {}


@pytest.mark.anyio
async def test_what_is_left_of_a_snapshot_when_it_ends_is_not_lost(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It was quick, so its last events were held for further ones, and the writer is at a send."""
    for module in (batching_module, source_module):
        monkeypatch.setattr(module, "HELD_SECONDS", 1e9)
    monkeypatch.setattr(batching_module, "SLOW_SECONDS", 1e9)
    channel = Channel("c")
    subscription = channel.subscribe(snapshot=lambda: list(map(str, range(300))))
    taken: list[bytes] = []

    def take() -> None:
        sender = subscription._feed._opening_sender
        if sender is not None and sender._source is not None and not sender._source.ended:
            taken.append(subscription._feed.take())
            subscription._feed.sent()

    async with anyio.create_task_group() as tasks:
        subscription._feed.open(take)
        tasks.start_soon(subscription._feed.run)
        await until(lambda: not subscription._feed._preface.due)
        left = subscription._feed.take()
        subscription._feed.stop()

    client = Client()
    client.read(b"".join(taken))
    before = len(client.data)
    client.read(left)
    assert before < 300
    assert client.data == numbers(0, 299)
