"""What is published to an event log: in order, together, bounded, and told what becomes of it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest
from tests.unit.driving import SEAT_BELT_SECONDS, settled, until
from tests.unit.logs import FakeLog, FakeStore

import sse_starlette.eventlogs._publish_queue as module
import sse_starlette.eventlogs._replicator as replicator_module
from sse_starlette._runtime.lock import Lock
from sse_starlette.channels._replica import ReplicatedChannel
from sse_starlette.channels.channel import Channel, state_of
from sse_starlette.errors import ChannelClosed, LogRefused, LogUnavailable, PublishQueueFull
from sse_starlette.eventlogs.base import Limits, NewEntry, Position
from sse_starlette.hub import Hub

pytestmark = pytest.mark.anyio


class Batches(FakeLog):
    """Notes what comes together."""

    def __init__(self, store: FakeStore | None = None) -> None:
        super().__init__(store)
        self.batches: list[list[bytes]] = []

    async def append_many(
        self, channel: str, entries: Sequence[NewEntry], *, limits: Limits
    ) -> Sequence[Position | Exception]:
        self.batches.append([entry.body for entry in entries])
        return await super().append_many(channel, entries, limits=limits)


@pytest.fixture
def log() -> Batches:
    return Batches()


@asynccontextmanager
async def hub_on(log: FakeLog, **options: Any) -> AsyncIterator[Hub]:
    hub = Hub(log, **options)
    with anyio.fail_after(SEAT_BELT_SECONDS):
        async with hub.lifespan():
            yield hub


async def test_what_waits_goes_together_and_in_order(log: Batches) -> None:
    log.appending.shut()
    async with hub_on(log) as hub:
        channel = hub.channel("c")
        futures = [channel.publish_threadsafe(str(number)) for number in range(300)]
        await until(lambda: log.appending.waiting)
        log.appending.open()
        await until(lambda: all(future.done() for future in futures))

        ids = [future.result() for future in futures]

    assert ids == [f"e1.{offset}" for offset in range(1, 301)]
    assert max(map(len, log.batches)) == 256


async def test_what_is_large_goes_by_itself(log: Batches) -> None:
    async with hub_on(log) as hub:
        channel = hub.channel("c")
        futures = [channel.publish_threadsafe("x" * 700_000) for _ in range(3)]
        await until(lambda: all(future.done() for future in futures))

    assert [len(batch) for batch in log.batches] == [1, 1, 1]


async def test_too_much_that_waits_is_refused_and_nothing_else_is(
    log: Batches, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "QUEUE_LIMIT", 3)
    log.appending.shut()
    async with hub_on(log) as hub:
        futures = [hub.channel(name).publish_threadsafe("x") for name in "aab"]
        with pytest.raises(PublishQueueFull, match="3 events of this process wait"):
            await hub.channel("b").publish("x")
        with pytest.raises(PublishQueueFull):
            hub.channel("c").publish_threadsafe("x").result()
        log.appending.open()
        await until(lambda: all(future.done() for future in futures))
        # What has been given up counts no more either.
        with anyio.move_on_after(0):
            await hub.channel("a").publish("x")
        for _ in range(5):
            await hub.channel("a").publish("x")

    assert [future.result()[2:] for future in futures] == [".1", ".2", ".1"]


async def test_an_attempt_that_fails_is_repeated_before_anything_newer(log: Batches) -> None:
    log.store.down = True
    async with hub_on(log) as hub:
        channel = hub.channel("c")
        futures = [channel.publish_threadsafe(str(number), key=f"{number}") for number in range(3)]
        await until(lambda: log.store.calls["append"] > 1)
        futures += [channel.publish_threadsafe("3")]
        log.store.down = False
        await until(lambda: all(future.done() for future in futures))

    assert [future.result() for future in futures] == [f"e1.{offset}" for offset in range(1, 5)]


async def test_who_does_not_wait_is_told_at_once_while_others_go_on_trying(log: Batches) -> None:
    log.store.down = True
    async with hub_on(log, publish_wait=1_000) as hub:
        channel = hub.channel("c")
        others = [channel.publish_threadsafe("x") for _ in range(5)]
        await until(lambda: log.store.calls["append"] > 1)

        with pytest.raises(LogUnavailable):
            await channel.publish("now or never", wait=0)

        log.store.down = False
        await until(lambda: all(future.done() for future in others))

    assert log.store.shelf("c").head == 5


async def test_who_waits_behind_an_attempt_that_hangs_is_told_when_its_time_is_over(
    log: Batches,
) -> None:
    log.store.down = True
    async with hub_on(log, publish_wait=1_000) as hub:
        channel = hub.channel("c")
        first = channel.publish_threadsafe("x")
        await until(lambda: log.store.calls["append"] > 1)
        log.appending.shut()
        await until(lambda: log.appending.waiting)

        with pytest.raises(LogUnavailable):
            await channel.publish("never sent", wait=0)

        log.store.down = False
        log.appending.open()
        await until(first.done)
        await channel.publish("next")

    assert [len(entry.body) for entry in log.store.shelf("c").entries] == [
        len(b"data: x\r\n\r\n"),
        len(b"data: next\r\n\r\n"),
    ]


async def test_what_an_operator_has_to_mend_is_raised_at_once_and_said_once(
    log: Batches, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    refused = LogRefused("fake://", "NOPERM", "Give the user its rights.")

    async def refuse(*_: Any, **__: Any) -> Any:
        raise refused

    async with hub_on(log) as hub:
        monkeypatch.setattr(log, "append", refuse)
        for _ in range(3):
            with pytest.raises(LogRefused, match="Give the user its rights"):
                await hub.channel("c").publish("x")
        assert "NOPERM" in hub.stats().reason
        monkeypatch.undo()
        await hub.channel("c").publish("x")
        assert hub.stats().reason == ""

    assert caplog.text.count("NOPERM") == 1


async def test_an_unexpected_error_is_raised_where_it_was_published(
    log: Batches, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def fail(*_: Any, **__: Any) -> Any:
        raise ZeroDivisionError("made up")

    async with hub_on(log) as hub:
        monkeypatch.setattr(log, "append_many", fail)
        with pytest.raises(ZeroDivisionError):
            await hub.channel("c").publish("x")
        monkeypatch.undo()
        await hub.channel("c").publish("x")

    assert "channel 'c' can't be published to on its log" in caplog.text


async def test_a_signal_handler_that_interrupts_who_publishes_is_served_after_it(
    log: Batches, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with hub_on(log) as hub:
        channel = hub.channel("c")
        assert hub._replicator is not None
        lock = hub._replicator._queues._lock
        assert isinstance(lock, Lock)
        with lock:
            interrupting = channel.publish_threadsafe("x")
            assert not interrupting.done()
        await until(interrupting.done)
        assert interrupting.result() == "e1.1"

        monkeypatch.setattr(module, "QUEUE_LIMIT", 0)
        with lock:
            refused = channel.publish_threadsafe("x")
        with pytest.raises(PublishQueueFull):
            refused.result(0)


async def test_entries_added_one_by_one_say_what_became_of_each(log: FakeLog) -> None:
    entries = [NewEntry(body, body.decode(), 60) for body in (b"x", b"", b"z")]
    async with log.open():
        first, last, late = await log.append_many("c", entries, limits=Limits())
        log.cut = True
        away = await log.append_many("c", entries, limits=Limits())

    assert (first, last) == (("e1", 1), ("e1", 2)) or last == ("e1", 2)
    assert isinstance(late, ChannelClosed)
    assert [type(each) for each in away] == [LogUnavailable] * 3


async def test_a_channel_of_the_same_name_has_its_own_batch(log: Batches) -> None:
    log.appending.shut()
    async with hub_on(log) as hub:
        assert hub._replicator is not None
        one = hub.channel("c")
        other = Channel("c", replicator=hub._replicator)
        futures = [each.publish_threadsafe("x") for each in (one, one, other)]
        await until(lambda: log.appending.waiting)
        log.appending.open()
        await until(lambda: all(future.done() for future in futures))

    assert [len(batch) for batch in log.batches] == [2, 1]


async def test_what_is_too_much_for_one_batch_fails_with_it_when_its_time_is_over(
    log: Batches, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "QUEUE_LIMIT", 300)
    log.store.down = True
    async with hub_on(log, publish_wait=0) as hub:
        futures = [hub.channel("c").publish_threadsafe("x") for _ in range(300)]
        await until(lambda: all(future.done() for future in futures))
        # They have made room for as many others.
        log.store.down = False
        others = [hub.channel("c").publish_threadsafe("x") for _ in range(300)]
        await until(lambda: all(future.done() for future in others))
        assert [future.exception() for future in others] == [None] * 300

    assert all(isinstance(future.exception(), LogUnavailable) for future in futures)
    assert len({id(future.exception()) for future in futures}) == 300


async def test_who_waits_behind_an_attempt_when_the_lifespan_ends_is_told(
    log: Batches, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replicator_module, "_LAST_APPENDS_SECONDS", 0.001)
    said: list[str] = []

    async def publish(channel: Channel) -> None:
        try:
            await channel.publish("x")
        except RuntimeError as error:
            said.append(str(error))

    log.appending.shut()
    async with anyio.create_task_group() as tasks:
        async with hub_on(log) as hub:
            channel = hub.channel("c")
            tasks.start_soon(publish, channel)
            await until(lambda: log.appending.waiting)
            tasks.start_soon(publish, channel)
            with anyio.CancelScope() as gone:
                gone.cancel()
                await publish(channel)
            await settled()
            queues = hub._replicator and hub._replicator._queues
        log.appending.open()

    assert gone.cancelled_caught
    assert [each.partition(":")[0] for each in said[:1]] == ["the hub's lifespan has ended"]
    assert queues
    state = state_of(channel)
    assert isinstance(state, ReplicatedChannel)
    with pytest.raises(RuntimeError, match="lifespan has ended"):
        queues.put(module.Job(state, b"x", None, 0, 0))


async def test_a_run_that_a_fork_has_copied_leaves_the_next_one_alone(log: Batches) -> None:
    async with hub_on(log) as hub:
        assert hub._replicator is not None
        hub._replicator.after_fork()
        async with hub.lifespan():
            await hub.channel("c").publish("x")

    assert not hub._replicator.running
