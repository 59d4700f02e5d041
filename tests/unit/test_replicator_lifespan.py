"""The lifespan of a hub on a log: what it begins, keeps going and lets go of."""

from __future__ import annotations

import gc
import threading
from functools import partial
from typing import Any

import anyio
import anyio.to_thread
import pytest
from starlette.applications import Starlette
from tests.unit.driving import SEAT_BELT_SECONDS, settled, until
from tests.unit.logs import FakeLog, FakeStore
from tests.unit.replicating import (
    FakeClient,
    Process,
    in_a_loop_of_its_own,
    one,
    raising,
    replicator_of,
    tracks_of,
)

from sse_starlette.channels._replica import ReplicatedChannel
from sse_starlette.channels.channel import state_of
from sse_starlette.errors import LogRefused, LogUnavailable
from sse_starlette.eventlogs.base import Position
from sse_starlette.hub import Hub

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("without_pauses")]


# --- The lifespan


async def test_streams_that_are_open_at_the_end_of_the_lifespan_end(
    store: FakeStore, log: FakeLog
) -> None:
    store.say("other", 1)
    async with one(log) as hub:
        clients = [
            await FakeClient(hub.channel("c").subscribe()).begun(),
            await FakeClient(hub.subscribe(["c", "d"])).begun(),
        ]
        log.joining.shut()
        log.lose()
        clients += [
            FakeClient(hub.channel("new").subscribe()),
            FakeClient(hub.channel("other").subscribe(snapshot=lambda: ["x"])),
            FakeClient(hub.subscribe(["c", "newer"])),
        ]
        await settled()
        assert not any(client.subscription._feed.ended for client in clients)

    for client in clients:
        await client.ends()
        assert client.subscription._feed.close_reason is None
    assert log.watched == {}
    assert log.opened == 0


async def test_a_hub_can_be_entered_again_on_another_loop(store: FakeStore) -> None:
    hub = Hub(FakeLog(store))
    held = hub.channel("c")

    async def run() -> list[object]:
        async with hub.lifespan(), held.subscribe("e1.0") as subscription:
            await held.publish("x")
            return [(await anext(subscription)).id for _ in range(store.shelf("c").head)]

    found = [await anyio.to_thread.run_sync(in_a_loop_of_its_own, run) for _ in range(3)]

    assert found == [["e1.1"], ["e1.1", "e1.2"], ["e1.1", "e1.2", "e1.3"]]


async def test_a_stream_of_an_earlier_lifespan_ends_and_can_be_resumed(
    store: FakeStore, log: FakeLog
) -> None:
    hub = Hub(log)
    async with hub.lifespan():
        client = await FakeClient(hub.channel("c").subscribe()).begun()
        client.subscription._feed.call = lambda: None
        store.say("c", 1)
        await settled()
    async with hub.lifespan():
        await FakeClient(hub.channel("c").subscribe()).begun()
        client._woken = True
        client.look()

        assert client.subscription._feed.ended
        assert client.data == []
        await FakeClient(hub.channel("c").subscribe(client.leave())).has(1)


async def test_a_lifespan_can_not_be_entered_twice_at_a_time(process: Process) -> None:
    with pytest.raises(RuntimeError, match="the hub's lifespan is under way"):
        async with process.hub.lifespan():
            pass
    assert await process.hub.ready()


async def test_two_that_enter_one_lifespan_at_once_are_told_apart(log: FakeLog) -> None:
    hub = Hub(log)
    began = threading.Barrier(2)
    outcomes: list[str] = []

    async def enter() -> None:
        began.wait(SEAT_BELT_SECONDS)
        try:
            async with hub.lifespan():
                outcomes.append("entered")
                await until(lambda: len(outcomes) == 2)
        except RuntimeError as error:
            outcomes.append(str(error).partition(":")[0])

    async with anyio.create_task_group() as tasks:
        for _ in range(2):
            tasks.start_soon(anyio.to_thread.run_sync, in_a_loop_of_its_own, enter)

    assert sorted(outcomes) == ["entered", "the hub's lifespan is under way"]


async def test_what_is_raised_in_the_lifespan_comes_out_as_it_is(log: FakeLog) -> None:
    error = ZeroDivisionError("made up")

    with pytest.raises(ZeroDivisionError) as raised:
        async with Hub(log).lifespan():
            raise error

    assert raised.value is error


async def test_a_lifespan_can_be_cancelled(log: FakeLog) -> None:
    hub = Hub(log)
    with anyio.CancelScope() as scope:
        async with hub.lifespan():
            scope.cancel()
            await anyio.sleep_forever()

    assert log.opened == 0
    async with hub.lifespan():
        assert await hub.ready()


async def test_a_hub_on_a_log_may_be_the_lifespan_of_an_application(log: FakeLog) -> None:
    hub = Hub(log)
    app = Starlette(lifespan=hub.lifespan)

    async with app.router.lifespan_context(app):
        assert await hub.channel("c").publish("x") == "e1.1"


async def test_the_end_of_the_lifespan_waits_for_what_is_in_line(
    store: FakeStore, log: FakeLog
) -> None:
    async with one(log) as hub:
        for name in "ab":
            hub.channel(name).publish_threadsafe("x")
            hub.channel(name).close()

    assert [store.shelf(name).head for name in "ab"] == [2, 2]


async def test_what_can_not_be_published_before_the_end_of_the_lifespan_is_said(
    log: FakeLog,
) -> None:
    log.appending.shut()
    async with one(log, last_appends=0.001) as hub:
        futures = [hub.channel("c").publish_threadsafe(number) for number in range(3)]
        futures[1].cancel()

    for future in (futures[0], futures[2]):
        with pytest.raises(RuntimeError, match="lifespan has ended"):
            future.result(0)
    assert futures[1].cancelled()


@pytest.mark.parametrize("fails", [False, True])
async def test_an_attempt_that_outlives_the_lifespan_changes_nothing(
    log: FakeLog, monkeypatch: pytest.MonkeyPatch, fails: bool
) -> None:
    async def append(channel: str, body: bytes, **_: Any) -> Position:
        with anyio.CancelScope(shield=True):
            await until(lambda: not replicator_of(hub).running)
        if fails:
            raise ZeroDivisionError
        return Position("e", 1)

    monkeypatch.setattr(log, "append", append)
    async with one(log, last_appends=0.001) as hub:
        future = hub.channel("c").publish_threadsafe("x")

    with pytest.raises(RuntimeError, match="lifespan has ended"):
        future.result(0)


async def test_who_publishes_when_the_lifespan_ends_does_not_try_for_long(
    store: FakeStore, log: FakeLog
) -> None:
    store.down = True

    async def publish() -> None:
        with pytest.raises(LogUnavailable):
            await hub.channel("c").publish("x", wait=1_000)

    async with anyio.create_task_group() as tasks, one(log) as hub:
        tasks.start_soon(publish)
        await until(lambda: store.calls["append"])


async def test_who_asks_when_the_lifespan_has_just_ended_is_not_left_waiting(
    log: FakeLog,
) -> None:
    async with one(log) as hub:
        replicator = replicator_of(hub)
        client = FakeClient(hub.channel("c").subscribe())
        client._woken = False
    client._woken = True
    state = state_of(hub.channel("c"))
    assert isinstance(state, ReplicatedChannel)
    replicator.ensure_following(state)
    replicator._ensure_following(state)

    await client.ends()


# --- Letting go


async def test_letting_go_happens_by_itself(log: FakeLog) -> None:
    async with one(log, linger=0, sweep_every=0.01) as hub:
        (await FakeClient(hub.channel("c").subscribe()).begun()).leave()

        await until(lambda: log.unwatched == ["c"])
        await until(lambda: gc.collect() >= 0 and hub.stats().channels == {})


async def test_in_the_child_of_a_fork_the_lifespan_has_never_been_entered(
    process: Process,
) -> None:
    """As the child sees it: nothing that was under way goes on, and what asks for it says why."""
    hub, channel = process.hub, process.channel
    client = await process.client()
    replicator_of(hub).after_fork()
    state_of(channel).after_fork()

    for attempt in (channel.subscribe, channel.publish_threadsafe("x").result, channel.close):
        with pytest.raises(RuntimeError, match="before this process was forked"):
            attempt()
    assert not hub.stats().connected
    assert (channel.epoch, channel.stats().subscribers) == ("", 0)

    async with hub.lifespan():
        again = await process.client()
        await channel.publish("x")
        await again.has("x")
    client.leave()
    replicator_of(hub).after_fork()
    with pytest.raises(RuntimeError, match="isn't connected"):
        channel.subscribe()
    assert process.log.opened == 1


# --- What keeps the channels in step outlives what it calls


async def test_keepers_survive_whatever_they_call_raises(
    log: FakeLog, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    calls = {"check": 0, "sweep": 0}

    def fail(what: str) -> None:
        calls[what] = calls.get(what, 0) + 1
        raise ZeroDivisionError(f"in a {what}")

    async def heads(*_: Any, **__: Any) -> Any:
        fail("check")

    async def side_task() -> None:
        fail("side task")

    async with one(log, check_every=0.001, sweep_every=0.001) as hub:
        client = await FakeClient(hub.channel("c").subscribe()).begun()
        replicator = replicator_of(hub)
        monkeypatch.setattr(log, "heads", heads)
        monkeypatch.setattr(replicator.tracks, "sweep", partial(fail, "sweep"))
        replicator._side_tasks.start(side_task)
        await until(lambda: min(calls["check"], calls["sweep"]) > 2)
        assert hub.stats().reason
        monkeypatch.undo()

        await hub.channel("c").publish("1")

        await client.has(1)
        # One of these has been mended by now, and the question mends the others.
        await until(lambda: "in a sweep" not in hub.stats().reason)

    assert caplog.text.count("what keeps the channels in step") == 3


async def test_what_the_log_refuses_leaves_streams_open_and_is_the_reason(
    log: FakeLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused = LogRefused("fake://", "NOPERM", "Give the user its rights.")
    async with one(log) as hub:
        client = await FakeClient(hub.channel("c").subscribe()).begun()
        for name in ("heads", "check", "read"):
            monkeypatch.setattr(log, name, raising(refused))
        await tracks_of(hub).check_positions()
        log.lose()

        assert not await hub.ready()
        assert "Give the user its rights" in hub.stats().reason

        monkeypatch.undo()
        log.store.say("c", 1)
        await client.has(1)
        assert await hub.ready()
        assert hub.stats().reason == ""
    assert hub.stats().reason == "the hub's lifespan isn't under way"
