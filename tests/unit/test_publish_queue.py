"""What is published to an event log: in order, together, bounded, and told what becomes of it."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future
from contextlib import suppress
from typing import Any

import anyio
import pytest
from tests.unit.driving import settled, until
from tests.unit.logs import FakeLog
from tests.unit.replicating import Process, one, raising, replicator_of

import sse_starlette.eventlogs._publish_queue as module
from sse_starlette._runtime.lock import Lock
from sse_starlette.channels._replica import ReplicatedChannel
from sse_starlette.channels.channel import Channel, state_of
from sse_starlette.errors import ChannelClosed, LogRefused, LogUnavailable, PublishQueueFull
from sse_starlette.eventlogs.base import Limits, NewEntry, Position

pytestmark = pytest.mark.anyio


class Batches(FakeLog):
    """Notes what comes together."""

    def __init__(self) -> None:
        super().__init__()
        self.batches: list[list[bytes]] = []

    async def append_many(
        self, channel: str, entries: Sequence[NewEntry], *, limits: Limits
    ) -> Sequence[Position | Exception]:
        self.batches.append([entry.body for entry in entries])
        return await super().append_many(channel, entries, limits=limits)


@pytest.fixture
def log() -> Batches:
    return Batches()


async def ids_of(futures: list[Future[str]]) -> list[str]:
    """Wait for what was published."""
    await until(lambda: all(future.done() for future in futures))
    return [future.result() for future in futures]


async def test_what_waits_goes_together_and_in_order(process: Process, log: Batches) -> None:
    log.appending.shut()
    futures = [process.channel.publish_threadsafe(f"{number}") for number in range(300)]
    await until(lambda: log.appending.waiting)
    log.appending.open()

    assert await ids_of(futures) == [f"e1.{offset}" for offset in range(1, 301)]
    assert max(map(len, log.batches)) == 256


async def test_what_is_large_goes_by_itself(process: Process, log: Batches) -> None:
    await ids_of([process.channel.publish_threadsafe("x" * 700_000) for _ in range(3)])

    assert [len(batch) for batch in log.batches] == [1, 1, 1]


async def test_too_much_that_waits_is_refused_and_nothing_else_is(log: Batches) -> None:
    async with one(log, queue_limit=3) as hub:
        log.appending.shut()
        futures = [hub.channel(name).publish_threadsafe("x") for name in "aab"]
        with pytest.raises(PublishQueueFull, match="3 events of this process wait"):
            await hub.channel("b").publish("x")
        with pytest.raises(PublishQueueFull):
            hub.channel("c").publish_threadsafe("x").result()
        log.appending.open()
        assert [each[2:] for each in await ids_of(futures)] == [".1", ".2", ".1"]
        # What has been given up counts no more either.
        with anyio.move_on_after(0):
            await hub.channel("a").publish("x")
        for _ in range(5):
            await hub.channel("a").publish("x")


async def test_an_attempt_that_fails_is_repeated_before_anything_newer(process: Process) -> None:
    store, channel = process.store, process.channel
    store.down = True
    futures = [channel.publish_threadsafe(f"{number}", key=f"{number}") for number in range(3)]
    await until(lambda: store.calls["append"] > 1)
    futures += [channel.publish_threadsafe("3")]
    store.down = False

    assert await ids_of(futures) == [f"e1.{offset}" for offset in range(1, 5)]


async def test_who_does_not_wait_is_told_at_once_while_others_go_on_trying(log: Batches) -> None:
    log.store.down = True
    async with one(log, publish_wait=1_000) as hub:
        channel = hub.channel("c")
        others = [channel.publish_threadsafe("x") for _ in range(5)]
        await until(lambda: log.store.calls["append"] > 1)

        with pytest.raises(LogUnavailable):
            await channel.publish("now or never", wait=0)

        log.store.down = False
        await ids_of(others)

    assert log.store.shelf("c").head == 5


async def test_a_pause_between_attempts_ends_when_the_time_of_whoever_came_meanwhile_is_over(
    log: Batches,
) -> None:
    log.store.down = True
    async with one(log, publish_wait=20_000, publish_pauses=(10_000, 2)) as hub:
        first = hub.channel("c").publish_threadsafe("x")
        await until(lambda: log.store.calls["append"])
        await settled()
        log.store.down = False
        with suppress(LogUnavailable):  # If it's over before there's an answer.
            await hub.channel("c").publish("soon", wait=0.01)

        assert await ids_of([first]) == ["e1.1"]


async def test_who_waits_behind_an_attempt_that_hangs_is_told_when_its_time_is_over(
    log: Batches,
) -> None:
    log.store.down = True
    async with one(log, publish_wait=1_000) as hub:
        channel = hub.channel("c")
        first = channel.publish_threadsafe("x")
        await until(lambda: log.store.calls["append"] > 1)
        log.appending.shut()
        await until(lambda: log.appending.waiting)

        with pytest.raises(LogUnavailable):
            await channel.publish("never sent", wait=0)

        log.store.down = False
        log.appending.open()
        await ids_of([first])
        await channel.publish("next")

    bodies = [entry.body for entry in log.store.shelf("c").entries]
    assert bodies == [b"data: x\r\n\r\n", b"data: next\r\n\r\n"]


REFUSED = LogRefused("fake://", "NOPERM", "Give the user its rights.")
UNFORESEEN = "channel 'c' can't be published to on its log"


@pytest.mark.parametrize(
    ("error", "told"), [(REFUSED, "NOPERM"), (ZeroDivisionError("made up"), UNFORESEEN)]
)
async def test_what_others_have_to_mend_is_raised_where_it_was_published_and_said_once(
    process: Process,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    error: Exception,
    told: str,
) -> None:
    refused = error is REFUSED
    monkeypatch.setattr(process.log, "append" if refused else "append_many", raising(error))
    for _ in range(3 if refused else 1):
        with pytest.raises(type(error)) as raised:
            await process.channel.publish("x")
        assert str(raised.value) == str(error)
    assert ("NOPERM" if refused else "made up") in process.hub.stats().reason
    monkeypatch.undo()
    await process.channel.publish("x")
    assert process.hub.stats().reason == ""

    assert caplog.text.count(told) == 1


@pytest.mark.parametrize("room", [1, 0])
async def test_a_signal_handler_that_interrupts_who_publishes_is_served_after_it(
    log: FakeLog, room: int
) -> None:
    async with one(log, queue_limit=room) as hub:
        lock = replicator_of(hub)._queues._lock
        assert isinstance(lock, Lock)
        with lock:
            interrupting = hub.channel("c").publish_threadsafe("x")
            assert not interrupting.done()
        if room:
            assert await ids_of([interrupting]) == ["e1.1"]
        else:
            with pytest.raises(PublishQueueFull):
                interrupting.result(0)


async def test_entries_added_one_by_one_say_what_became_of_each(
    log: FakeLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    append = log.append

    async def append_the_last(channel: str, body: bytes, **arguments: Any) -> Position:
        position = await append(channel, body, **arguments)
        log.cut = True
        return position

    entries = [NewEntry(body, body.decode(), 60) for body in (b"x", b"", b"z")]
    async with log.open():
        *added, late = await log.append_many("c", entries, limits=Limits())
        monkeypatch.setattr(log, "append", append_the_last)
        last, *away = await log.append_many("d", entries, limits=Limits())
        none = await log.append_many("d", entries, limits=Limits())

    assert added == [("e1", 1), ("e1", 2)]
    assert isinstance(late, ChannelClosed)
    assert last == ("e2", 1)
    assert [type(each) for each in away] == [LogUnavailable] * 2
    assert [type(each) for each in none] == [LogUnavailable] * 3


async def test_a_channel_of_the_same_name_has_its_own_batch(process: Process, log: Batches) -> None:
    log.appending.shut()
    one, other = process.channel, Channel("c", replicator=replicator_of(process.hub))
    futures = [each.publish_threadsafe("x") for each in (one, one, other)]
    await until(lambda: log.appending.waiting)
    log.appending.open()
    await ids_of(futures)

    assert [len(batch) for batch in log.batches] == [2, 1]


async def test_what_is_too_much_for_one_batch_fails_with_it_when_its_time_is_over(
    log: Batches,
) -> None:
    log.store.down = True
    async with one(log, publish_wait=0, queue_limit=300) as hub:
        futures = [hub.channel("c").publish_threadsafe("x") for _ in range(300)]
        await until(lambda: all(future.done() for future in futures))
        # They have made room for as many others.
        log.store.down = False
        await ids_of([hub.channel("c").publish_threadsafe("x") for _ in range(300)])

    assert all(isinstance(future.exception(), LogUnavailable) for future in futures)
    assert len({id(future.exception()) for future in futures}) == 300


async def test_who_waits_behind_an_attempt_when_the_lifespan_ends_is_told(
    log: Batches,
) -> None:
    said: list[str] = []

    async def publish(channel: Channel) -> None:
        try:
            await channel.publish("x")
        except RuntimeError as error:
            said.append(str(error))

    log.appending.shut()
    async with anyio.create_task_group() as tasks:
        async with one(log, last_appends=0.001) as hub:
            channel = hub.channel("c")
            tasks.start_soon(publish, channel)
            await until(lambda: log.appending.waiting)
            tasks.start_soon(publish, channel)
            with anyio.CancelScope() as gone:
                gone.cancel()
                await publish(channel)
            await settled()
            queues = replicator_of(hub)._queues
        log.appending.open()

    assert gone.cancelled_caught
    assert [each.partition(":")[0] for each in said[:1]] == ["the hub's lifespan has ended"]
    state = state_of(channel)
    assert isinstance(state, ReplicatedChannel)
    with pytest.raises(RuntimeError, match="lifespan has ended"):
        queues.put(module.Job(state, b"x", None, 0, 0))


async def test_a_run_that_a_fork_has_copied_leaves_the_next_one_alone(log: Batches) -> None:
    async with one(log) as hub:
        replicator_of(hub).after_fork()
        async with hub.lifespan():
            await hub.channel("c").publish("x")

    assert not replicator_of(hub).running
