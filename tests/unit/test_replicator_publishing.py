"""Publishing to a log: once, in order, from anywhere, and how it fails."""

from __future__ import annotations

from contextvars import ContextVar
from typing import Any

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest
from tests.unit.driving import SEAT_BELT_SECONDS, drive, settled, until
from tests.unit.following import numbers
from tests.unit.logs import FakeLog, FakeStore
from tests.unit.replicating import FakeClient, in_a_loop_of_its_own, one, running

from sse_starlette.channels.channel import Channel
from sse_starlette.errors import ChannelClosed, LogUnavailable
from sse_starlette.eventlogs.base import Position
from sse_starlette.hub import Hub
from sse_starlette.sse import EventSourceResponse

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("without_pauses")]


async def test_an_event_whose_answer_was_lost_is_published_once(
    store: FakeStore, log: FakeLog
) -> None:
    def lose_answer() -> None:
        store.on_append = lambda: None
        raise LogUnavailable("fake://", "reset by peer")

    store.on_append = lose_answer
    async with one(log) as hub:
        client = await FakeClient(hub.channel("c").subscribe()).begun()

        event_id = await hub.channel("c").publish("1")

        assert event_id == "e1.1"
        assert store.calls["append"] == 2
        await client.has(1)


async def test_publishing_bridges_a_hiccup(store: FakeStore, log: FakeLog) -> None:
    async with one(log) as hub:
        log.cut = True
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(hub.channel("c").publish, "1")
            await until(lambda: store.calls["append"] > 3)
            log.cut = False

        assert store.shelf("c").head == 1


@pytest.mark.parametrize("where", ["hub", "publish"])
async def test_publishing_may_give_up_at_once(store: FakeStore, log: FakeLog, where: str) -> None:
    store.down = True
    async with one(log, **({"publish_wait": 0} if where == "hub" else {})) as hub:
        with pytest.raises(LogUnavailable, match="cut off"):
            await hub.channel("c").publish("1", wait=0 if where == "publish" else None)

    assert store.calls["append"] == 1


async def test_publishing_gives_up_when_its_time_is_over(store: FakeStore, log: FakeLog) -> None:
    store.down = True
    async with one(log) as hub:
        with pytest.raises(LogUnavailable):
            await hub.channel("c").publish("1", wait=0.001)


@pytest.mark.parametrize("wait", [-1, float("nan")])
async def test_a_wait_of_less_than_nothing_is_refused(log: FakeLog, wait: float) -> None:
    async with one(log) as hub:
        with pytest.raises(ValueError, match="wait must be >= 0 seconds"):
            await hub.channel("c").publish("1", wait=wait)
        with pytest.raises(ValueError, match="wait must be >= 0 seconds"):
            await hub.channel("c").aclose(wait=wait)


async def test_a_key_counts_for_all_processes(store: FakeStore) -> None:
    async with running(FakeLog(store), FakeLog(store)) as (hub, other):
        ids = [await one.channel("c").publish("x", key="payment-17") for one in (hub, other)]

        assert ids == ["e1.1", "e1.1"]
        assert store.shelf("c").head == 1


async def test_keys_are_remembered_for_longer_than_publishing_is_tried(
    log: FakeLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, float]] = []

    async def append(channel: str, body: bytes, **options: Any) -> Position:
        asked.append((options["key"], options["key_seconds"]))
        return Position("e", 1)

    monkeypatch.setattr(log, "append", append)
    async with one(log) as hub:
        channel = hub.channel("c")
        asking: list[dict[str, Any]] = [
            {"key": "k"},
            {"key": "k", "wait": 200},
            {"wait": 200},
            {},
            {},
        ]
        for options in asking:
            await channel.publish("x", **options)

    (k1, first), (k2, second), (_, third), (r1, fourth), (r2, _) = asked
    assert k1 == k2 == "k"
    assert r1 != r2
    assert first == 120
    assert second == third > 200
    assert fourth > 5


async def test_the_limits_of_a_channel_are_those_of_the_log(
    log: FakeLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[Any] = []

    async def append(channel: str, body: bytes, *, limits: Any, **_: Any) -> Position:
        found.append(limits)
        return Position("e", 1)

    monkeypatch.setattr(log, "append", append)
    async with one(log, expire=600) as hub:
        await hub.channel("c", history=7, history_seconds=9).publish("x")

    assert found == [(7, 9, 600, None)]


async def test_publish_nowait_says_what_to_use_instead(log: FakeLog) -> None:
    with pytest.raises(RuntimeError, match=r"await channel\.publish"):
        Hub(log).channel("c").publish_nowait("x")


@pytest.mark.parametrize("what", ["subscribe", "publish", "close", "aclose", "threadsafe"])
async def test_a_hub_outside_of_its_lifespan_says_what_it_needs(log: FakeLog, what: str) -> None:
    channel = Hub(log).channel("c")

    async def use() -> None:
        match what:
            case "subscribe":
                channel.subscribe()
            case "publish":
                await channel.publish("x")
            case "close":
                channel.close()
            case "aclose":
                await channel.aclose()
            case _:
                channel.publish_threadsafe("x").result()

    with pytest.raises(RuntimeError, match=r"Starlette\(lifespan=hub\.lifespan\)"):
        await use()


async def test_what_can_not_be_encoded_raises_at_the_publisher(
    store: FakeStore, log: FakeLog
) -> None:
    async with one(log) as hub:
        with pytest.raises(ValueError, match="a channel numbers its events itself"):
            await hub.channel("c").publish({"data": "x", "id": "5"})
        with pytest.raises(ValueError, match="a channel numbers its events itself"):
            hub.channel("c").publish_threadsafe({"data": "x", "id": "5"}).result()

    assert store.calls["append"] == 0


async def test_a_hub_may_be_used_from_other_loops(store: FakeStore, log: FakeLog) -> None:
    got: list[str] = []
    async with one(log) as hub:
        channel = hub.channel("c")

        async def elsewhere() -> str:
            assert await hub.ready()
            async with channel.subscribe() as subscription:
                event_id = await channel.publish("1")
                got.append((await anext(subscription)).data)
                got.append((await anext(subscription)).data)
            return event_id

        async with anyio.create_task_group() as tasks:

            async def follow() -> None:
                assert await anyio.to_thread.run_sync(in_a_loop_of_its_own, elsewhere) == "e1.1"

            tasks.start_soon(follow)
            await until(lambda: got)
            await channel.publish("2")

    assert got == ["1", "2"]


async def test_what_is_raised_on_the_loop_of_the_log_is_raised_where_it_was_published(
    store: FakeStore, log: FakeLog
) -> None:
    store.add("c", b"")
    async with one(log) as hub:

        async def elsewhere() -> None:
            with pytest.raises(ChannelClosed):
                await hub.channel("c").publish("x")

        await anyio.to_thread.run_sync(in_a_loop_of_its_own, elsewhere)


async def test_the_loop_of_who_published_may_be_gone_when_it_is_done(
    store: FakeStore, log: FakeLog
) -> None:
    log.appending.shut()
    async with one(log) as hub:

        async def elsewhere() -> None:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(hub.channel("c").publish, "x")
                await until(lambda: log.appending.waiting)
                tasks.cancel_scope.cancel()

        await anyio.to_thread.run_sync(in_a_loop_of_its_own, elsewhere)
        log.appending.open()
        await until(lambda: store.shelf("c").head == 1)


async def test_who_gives_up_elsewhere_before_it_is_its_turn_has_published_nothing(
    store: FakeStore, log: FakeLog
) -> None:
    async with one(log) as hub:
        channel = hub.channel("c")
        log.appending.shut()
        first = channel.publish_threadsafe("1")
        await until(lambda: log.appending.waiting)

        with anyio.move_on_after(0):
            await channel.publish("2")
        log.appending.open()
        await channel.publish("3")

        assert first.result() == "e1.1"
        assert [entry.body for entry in store.shelf("c").entries] == [
            b"data: 1\r\n\r\n",
            b"data: 3\r\n\r\n",
        ]


async def test_a_thread_publishes_in_its_order_and_closes_after_it(
    store: FakeStore, log: FakeLog
) -> None:
    async with one(log) as hub:
        channel = hub.channel("c")
        client = await FakeClient(channel.subscribe()).begun()

        def work() -> list[str]:
            futures = [channel.publish_threadsafe(number) for number in range(5)]
            channel.close()
            return [future.result(SEAT_BELT_SECONDS) for future in futures]

        ids = await anyio.to_thread.run_sync(work)

        assert ids == [f"e1.{offset}" for offset in range(1, 6)]
        await client.ends()
        assert client.data == numbers(0, 4)


async def test_a_channel_is_closed_after_what_is_being_published(
    store: FakeStore, log: FakeLog
) -> None:
    log.appending.shut()
    async with one(log) as hub:
        channel = hub.channel("c")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(channel.publish, "1")
            tasks.start_soon(channel.publish, "2")
            await until(lambda: log.appending.waiting)
            tasks.start_soon(channel.aclose)
            await settled()
            assert log.appending.waiting == 1
            log.appending.open()

        assert [entry.body for entry in store.shelf("c").entries][-1] == b""
        assert store.shelf("c").head == 3


async def test_closing_ends_the_streams_of_all_processes_for_good(store: FakeStore) -> None:
    async with running(FakeLog(store), FakeLog(store)) as (hub, other):
        clients = [await FakeClient(one.channel("c").subscribe()).begun() for one in (hub, other)]
        await hub.channel("c").publish("last")

        await other.channel("c").aclose()

        for client, where in zip(clients, (hub, other), strict=True):
            await client.ends()
            assert client.data == ["last"]
            asked = client.client.last_event_id
            assert asked == "e1.2"
            assert where.channel("c").closed
            async with drive(EventSourceResponse(where.channel("c").subscribe(asked))) as http:
                await http.returns()
            assert http.status == 204
            with pytest.raises(ChannelClosed):
                await where.channel("c").publish("too late")
        hub.channel("c").close()
        await other.channel("c").aclose()
        assert store.shelf("c").head == 2


async def test_a_stream_that_has_had_each_event_at_once_ends_with_its_channel(
    store: FakeStore, log: FakeLog
) -> None:
    async with one(log) as hub:
        # No ping that would wake it.
        response = EventSourceResponse(hub.channel("c").subscribe("e1.0"), ping=0)
        async with drive(response) as http:
            for number in range(1, 6):
                store.say("c", number)
                await http.contains(f"data: {number}\r\n")
            store.add("c", b"")

            await http.returns()


@pytest.mark.parametrize("options", [{}, {"filter": lambda event: event.data == "1"}])
async def test_who_comes_to_a_closed_channel_gets_what_it_lacks_and_stays_away(
    store: FakeStore, log: FakeLog, options: dict[str, Any]
) -> None:
    store.say("c", 1, 2)
    store.add("c", b"")
    async with one(log) as hub:
        client = FakeClient(hub.channel("c").subscribe("e1.0", **options))
        await client.ends()

        assert client.data == (["1"] if options else ["1", "2"])
        assert client.client.last_event_id == "e1.3"
        asked = client.client.last_event_id
        async with drive(EventSourceResponse(hub.channel("c").subscribe(asked))) as http:
            await http.returns()
        assert http.status == 204
        assert hub.channel("c").closed


async def test_a_channel_that_was_closed_is_open_again_when_its_history_was_lost(
    store: FakeStore, log: FakeLog
) -> None:
    store.add("c", b"")
    async with one(log) as hub:
        client = FakeClient(hub.channel("c").subscribe())
        await client.ends()
        store.flush()

        await hub.channel("c").publish("1")

        await until(lambda: not hub.channel("c").closed)


async def test_a_close_that_fails_is_logged(
    store: FakeStore, log: FakeLog, caplog: pytest.LogCaptureFixture
) -> None:
    store.down = True
    async with one(log, publish_wait=0) as hub:
        hub.channel("c").close()
        with pytest.raises(LogUnavailable):
            await hub.channel("d").aclose()
        with pytest.raises(LogUnavailable):
            await hub.channel("d").aclose(wait=0)

    assert caplog.text.count("channel 'c' could not be closed") == 1


async def test_a_channel_in_memory_can_be_closed_and_waited_for() -> None:
    channel = Channel("c")

    await channel.aclose()

    assert channel.closed


async def test_no_task_is_started_on_behalf_of_who_asks(
    store: FakeStore, log: FakeLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    request: ContextVar[str] = ContextVar("request", default="none")
    seen: set[str] = set()
    real = log.read

    async def read(channel: str, **options: Any) -> Any:
        seen.add(request.get())
        return await real(channel, **options)

    monkeypatch.setattr(log, "read", read)
    async with one(log) as hub:
        request.set("ours")
        client = await FakeClient(hub.channel("c").subscribe()).begun()
        await hub.channel("c").publish("1")
        await hub.channel("c").aclose()
        await client.ends()

    assert seen == {"none"}
