"""Publishing to a log: once, in order, from anywhere, and how it fails."""

from __future__ import annotations

from contextvars import ContextVar
from typing import Any

import anyio
import anyio.to_thread
import pytest
from tests.unit.driving import SEAT_BELT_SECONDS, drive, until
from tests.unit.following import numbers
from tests.unit.logs import FakeLog, FakeStore
from tests.unit.replicating import FakeClient, Process, in_a_loop_of_its_own, one, running

from sse_starlette.channels.channel import Channel
from sse_starlette.errors import ChannelClosed, LogUnavailable
from sse_starlette.eventlogs.base import Position
from sse_starlette.hub import Hub
from sse_starlette.sse import EventSourceResponse

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("without_pauses")]


@pytest.mark.parametrize("where", ["hub", "publish"])
async def test_publishing_may_give_up_at_once(store: FakeStore, log: FakeLog, where: str) -> None:
    store.down = True
    async with one(log, **({"publish_wait": 0} if where == "hub" else {})) as hub:
        with pytest.raises(LogUnavailable, match="cut off"):
            await hub.channel("c").publish("1", wait=0 if where == "publish" else None)

    assert store.calls["append"] == 1


async def test_publishing_gives_up_when_its_time_is_over(process: Process) -> None:
    process.store.down = True
    with pytest.raises(LogUnavailable):
        await process.channel.publish("1", wait=0.001)


@pytest.mark.parametrize("wait", [-1, float("nan")])
async def test_a_wait_of_less_than_nothing_is_refused(process: Process, wait: float) -> None:
    with pytest.raises(ValueError, match="wait must be >= 0 seconds"):
        await process.channel.publish("1", wait=wait)
    with pytest.raises(ValueError, match="wait must be >= 0 seconds"):
        await process.channel.aclose(wait=wait)


async def test_a_key_counts_for_all_processes(store: FakeStore) -> None:
    async with running(FakeLog(store), FakeLog(store)) as (hub, other):
        ids = [await one.channel("c").publish("x", key="payment-17") for one in (hub, other)]

        assert ids == ["e1.1", "e1.1"]
        assert store.shelf("c").head == 1


async def test_keys_are_remembered_for_longer_than_publishing_is_tried_and_limits_are_passed_on(
    log: FakeLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[dict[str, Any]] = []

    async def append(channel: str, body: bytes, **options: Any) -> Position:
        asked.append(options)
        return Position("e", 1)

    monkeypatch.setattr(log, "append", append)
    async with one(log, expire=600) as hub:
        channel = hub.channel("c", history=7, history_seconds=9)
        await channel.publish("x", key="k")
        await channel.publish("x", key="k", wait=200)
        await channel.publish("x", wait=200)
        for _ in range(2):
            await channel.publish("x")

    keys = [options["key"] for options in asked]
    assert keys[:2] == ["k", "k"]
    assert len(set(keys)) == 4
    first, second, third, fourth, _ = (options["key_seconds"] for options in asked)
    assert first == 120
    assert second == third > 200
    assert fourth > 5
    assert {options["limits"] for options in asked} == {(7, 9, 600, None)}


async def test_publish_nowait_says_what_to_use_instead(log: FakeLog) -> None:
    with pytest.raises(RuntimeError, match=r"await channel\.publish"):
        Hub(log).channel("c").publish_nowait("x")


@pytest.mark.parametrize("what", ["subscribe", "publish", "close", "aclose", "threadsafe"])
async def test_a_hub_outside_of_its_lifespan_says_what_it_needs(log: FakeLog, what: str) -> None:
    channel = Hub(log).channel("c")

    async def use() -> None:
        match what:
            case "subscribe" | "close":
                getattr(channel, what)()
            case "publish":
                await channel.publish("x")
            case "aclose":
                await channel.aclose()
            case _:
                channel.publish_threadsafe("x").result()

    with pytest.raises(RuntimeError, match=r"Starlette\(lifespan=hub\.lifespan\)"):
        await use()


async def test_what_can_not_be_encoded_raises_at_the_publisher(process: Process) -> None:
    with pytest.raises(ValueError, match="a channel numbers its events itself"):
        await process.channel.publish({"data": "x", "id": "5"})
    with pytest.raises(ValueError, match="a channel numbers its events itself"):
        process.channel.publish_threadsafe({"data": "x", "id": "5"}).result()

    assert process.store.calls["append"] == 0


async def test_a_hub_may_be_used_from_other_loops(process: Process) -> None:
    got: list[str] = []
    channel = process.channel

    async def elsewhere() -> str:
        assert await process.hub.ready()
        async with channel.subscribe() as subscription:
            event_id = await channel.publish("1")
            for _ in range(2):
                got.append((await anext(subscription)).data)  # noqa: PERF401
        return event_id

    async def follow() -> None:
        assert await anyio.to_thread.run_sync(in_a_loop_of_its_own, elsewhere) == "e1.1"

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(follow)
        await until(lambda: got)
        await channel.publish("2")

    assert got == ["1", "2"]


async def test_what_is_raised_on_the_loop_of_the_log_is_raised_where_it_was_published(
    process: Process,
) -> None:
    process.store.add("c", b"")

    async def elsewhere() -> None:
        with pytest.raises(ChannelClosed):
            await process.channel.publish("x")

    await anyio.to_thread.run_sync(in_a_loop_of_its_own, elsewhere)


async def test_the_loop_of_who_published_may_be_gone_when_it_is_done(process: Process) -> None:
    appending = process.log.appending
    appending.shut()

    async def elsewhere() -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(process.channel.publish, "x")
            await until(lambda: appending.waiting)
            tasks.cancel_scope.cancel()

    await anyio.to_thread.run_sync(in_a_loop_of_its_own, elsewhere)
    appending.open()
    await until(lambda: process.store.shelf("c").head == 1)


async def test_who_gives_up_elsewhere_before_it_is_its_turn_has_published_nothing(
    process: Process,
) -> None:
    process.log.appending.shut()
    first = process.channel.publish_threadsafe("1")
    await until(lambda: process.log.appending.waiting)

    with anyio.move_on_after(0):
        await process.channel.publish("2")
    process.log.appending.open()
    await process.channel.publish("3")

    assert first.result() == "e1.1"
    bodies = [entry.body for entry in process.store.shelf("c").entries]
    assert bodies == [b"data: 1\r\n\r\n", b"data: 3\r\n\r\n"]


async def test_a_thread_publishes_in_its_order_and_closes_after_it(process: Process) -> None:
    channel = process.channel
    client = await process.client()

    def work() -> list[str]:
        futures = [channel.publish_threadsafe(number) for number in range(5)]
        channel.close()
        return [future.result(SEAT_BELT_SECONDS) for future in futures]

    assert await anyio.to_thread.run_sync(work) == [f"e1.{offset}" for offset in range(1, 6)]
    await client.ends()
    assert client.data == numbers(0, 4)


async def test_a_stream_that_has_had_each_event_at_once_ends_with_its_channel(
    process: Process,
) -> None:
    # No ping that would wake it.
    response = EventSourceResponse(process.channel.subscribe("e1.0"), ping=0)
    async with drive(response) as http:
        for number in range(1, 6):
            process.say(number)
            await http.contains(f"data: {number}\r\n")
        process.store.add("c", b"")

        await http.returns()


async def test_who_filters_events_gets_its_own_of_a_closed_channel_and_has_seen_the_end(
    process: Process,
) -> None:
    process.say(1, 2)
    process.store.add("c", b"")
    client = FakeClient(process.channel.subscribe("e1.0", filter=lambda event: event.data == "1"))
    await client.ends()

    assert client.data == ["1"]
    assert client.client.last_event_id == "e1.3"


async def test_a_close_that_fails_is_logged(
    store: FakeStore, log: FakeLog, caplog: pytest.LogCaptureFixture
) -> None:
    store.down = True
    async with one(log, publish_wait=0) as hub:
        hub.channel("c").close()
        for wait in (None, 0):
            with pytest.raises(LogUnavailable):
                await hub.channel("d").aclose(wait=wait)

    assert caplog.text.count("channel 'c' could not be closed") == 1


async def test_a_channel_in_memory_can_be_closed_and_waited_for() -> None:
    channel = Channel("c")

    await channel.aclose()

    assert channel.closed


async def test_no_task_is_started_on_behalf_of_who_asks(
    process: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    request: ContextVar[str] = ContextVar("request", default="none")
    seen: set[str] = set()
    real = process.log.read

    async def read(channel: str, **options: Any) -> Any:
        seen.add(request.get())
        return await real(channel, **options)

    monkeypatch.setattr(process.log, "read", read)
    request.set("ours")
    client = await process.client()
    await process.channel.publish("1")
    await process.channel.aclose()
    await client.ends()

    assert seen == {"none"}
