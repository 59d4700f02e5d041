"""Runs on an event log that several processes share: one makes it, and the others learn what becomes of it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import anyio
import pytest
from tests.unit.driving import SEAT_BELT_SECONDS, turns
from tests.unit.jumping import backend_that_jumps, clock_of_the_loop, comes
from tests.unit.leasing import LeasingFakeLog
from tests.unit.logs import FakeStore
from tests.unit.replicating import running as hubs_on
from tests.unit.subscribing import streamed
from tests.unit.test_runs import (
    RUN_A,
    TOKENS,
    Source,
    all_of,
    endless,
    first_of,
    found,
    rest_of,
    told,
)

from sse_starlette import Hub, LogUnavailable, Run, RunNotFound, RunStatus
from sse_starlette.channels._registry import OF_RUNS
from sse_starlette.channels.subscription import Subscription
from sse_starlette.errors import LogRefused
from sse_starlette.eventlogs.base import NewEntry
from sse_starlette.runs._ledger import RunLedger
from sse_starlette.runs._options import RunOptions, note_of
from sse_starlette.testing.eventlogs import opened

pytestmark = pytest.mark.anyio


@pytest.fixture(params=["asyncio", pytest.param("trio", marks=pytest.mark.trio)])
def anyio_backend(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> tuple[str, dict[str, Any]]:
    """Nobody waits for leases to be lost: the clock jumps."""
    clock_of_the_loop(monkeypatch)
    return backend_that_jumps(request.param)


Logs = list[LeasingFakeLog]
Hubs = list[Hub]


@pytest.fixture
def logs(store: FakeStore) -> Logs:
    """The ways of three processes to one store."""
    return [LeasingFakeLog(store) for _ in range(3)]


@pytest.fixture
async def hubs(logs: Logs) -> AsyncIterator[Hubs]:
    """Those three processes."""
    async with hubs_on(*logs) as hubs:
        yield hubs


async def begun(hub: Hub) -> Subscription:
    """Read the first token of the run."""
    events = (await found(hub)).subscribe()
    assert (await anext(events)).data == "one"
    return events


def die(hub: Hub) -> None:
    """Have a process say nothing any more, as one that is stopped or cut off."""
    log = hub._parts.runs._replicator and hub._parts.runs._replicator.backend
    assert isinstance(log, LeasingFakeLog)
    log.cut = True


async def test_after_a_restart_of_everything_it_is_read_and_ends(logs: Logs) -> None:
    async with hubs_on(logs[0]) as (hub,):
        await (await hub.run("a", Source("one", "two"))).wait()
    async with hubs_on(logs[1]) as (hub,):
        async with (await found(hub)).subscribe() as events:
            got = await rest_of(events)
        answers = [await streamed((await found(hub)).subscribe(events.last_event_id))]
    async with hubs_on(logs[2]) as (hub,):
        # This process has read nothing of it.
        answers.append(await streamed((await found(hub)).subscribe(events.last_event_id)))

    assert got == ["one", "two"]
    assert [answer.status for answer in answers] == [204, 204]


@pytest.mark.parametrize("last_event", [None, lambda _: None], ids=["told", "without an event"])
async def test_any_process_can_stop_it(hubs: Hubs, last_event: Any) -> None:
    source = endless()
    await hubs[0].run("a", source, **({"last_event": last_event} if last_event else {}))
    events = await begun(hubs[2])
    run = await found(hubs[1])

    assert await run.stop() is RunStatus.STOPPED

    assert await rest_of(events) == ([] if last_event else ["stopped stop"])
    assert await run.status() is RunStatus.STOPPED
    await comes(lambda: source.closed)


@pytest.mark.parametrize("reads", ["it's read meanwhile", "it's read later"])
async def test_a_lost_producer_is_told_and_adds_nothing_when_it_comes_back(
    hubs: Hubs, logs: Logs, reads: str
) -> None:
    source = endless()
    await hubs[0].run("a", source)
    reading = await begun(hubs[1])
    if reads == "it's read later":
        await reading.aclose()
    die(hubs[0])
    run = await found(hubs[1])
    if reads == "it's read later":
        reading = await begun(hubs[1])

    assert await rest_of(reading) == ["lost silence"]
    source.go.set()
    logs[0].cut = False
    await comes(lambda: source.closed)

    assert await run.status() is RunStatus.LOST
    assert told(await run.events()) == ["one", "lost silence"]


@pytest.mark.parametrize("way", ["in place of the dead one", "after it was told"])
async def test_a_lost_one_is_started_again_as_one_run(hubs: Hubs, way: str) -> None:
    second, third = Source("three", held=True), Source("four", held=True)
    await hubs[0].run("a", endless())
    begin = await begun(hubs[1])
    cursor = begin.last_event_id
    if way == "in place of the dead one":
        await begin.aclose()
    die(hubs[0])
    if way == "after it was told":
        assert await rest_of(begin) == ["lost silence"]

    again = await hubs[1].run("a", second, restart=["lost"])
    also = await hubs[2].run("a", third, restart=["lost"])
    await comes(lambda: second.calls or third.calls)
    maker = second if second.calls else third
    maker.go.set()

    assert second.calls + third.calls == 1
    for run in (again, also):
        assert await all_of(run, cursor) == ["reset epoch", str(maker.tokens[0])]
    assert again.started == (way == "after it was told")


async def test_one_that_is_to_be_started_again_is_so_after_an_outage(
    logs: Logs, caplog: pytest.LogCaptureFixture
) -> None:
    second = Source("two")
    async with hubs_on(*logs[:2], publish_wait=60) as hubs:
        await hubs[0].run("a", endless())
        await (await begun(hubs[1])).aclose()
        die(hubs[0])
        again = await hubs[1].run("a", second, restart=["lost"])
        logs[1].refused, logs[1].refuses = "take_lease", LogUnavailable("fake://", "away")
        await logs[1].asked_again("take_lease", times=2)
        await anyio.sleep(20)
        logs[1].refuses = None

        await comes(lambda: second.closed)
        assert await again.wait() is RunStatus.DONE
    # Nobody ends it meanwhile.
    assert caplog.text.count("the producer of run 'a' is lost") == 1


async def test_one_that_another_process_starts_again_is_watched_as_any_other(hubs: Hubs) -> None:
    go = anyio.Event()

    async def never_over() -> AsyncIterator[object]:
        try:
            yield "one"
            await anyio.sleep_forever()
        finally:
            with anyio.CancelScope(shield=True):
                await go.wait()

    await (await hubs[0].run("a", never_over)).stop()
    await hubs[1].run("a", endless(), restart=["stopped"], ttl=60.0)
    run = await found(hubs[0])
    die(hubs[1])

    # What this process made itself, and is still closing, is not what it watches.
    assert await run.wait() is RunStatus.LOST
    go.set()


async def test_one_whose_channel_somebody_has_closed_is_lost(store: FakeStore, hubs: Hubs) -> None:
    source = endless()
    run = await hubs[0].run("a", source)
    events = await begun(hubs[0])
    store.add(RUN_A, b"")
    source.go.set()

    assert await rest_of(events) == []
    await comes(lambda: source.closed)
    assert await run.status() is RunStatus.LOST


class StrangeLog(LeasingFakeLog):
    """A log that somebody has written with a mistake in it."""

    def append_now(self, channel: str, entry: NewEntry, *, holder: str) -> bool:
        raise ValueError("strange")


async def test_whatever_a_log_raises_the_lifespan_goes_on_and_clients_are_told(
    store: FakeStore,
) -> None:
    async with hubs_on(StrangeLog(store)) as (hub,):
        run = await hub.run("a", Source("one"))

        assert await run.wait() is RunStatus.LOST
        assert told(await run.events()) == ["lost silence"]


async def test_who_can_not_look_or_end_it_tries_again_and_says_so(
    logs: Logs, caplog: pytest.LogCaptureFixture
) -> None:
    async with hubs_on(*logs[:2], publish_wait=0.01) as hubs:
        await hubs[0].run("a", endless())
        reading = await begun(hubs[1])
        die(hubs[0])
        for logs[1].refused, logs[1].refuses in (
            ("take_lease", LogUnavailable("fake://", "away")),
            ("find_leases", ValueError("strange")),
        ):
            await logs[1].asked_again(logs[1].refused, times=2)
        logs[1].refuses = None

        assert await rest_of(reading) == ["lost silence"]
    assert "run 'a' can't be ended yet, which is tried again: " in caplog.text


class LateLog(LeasingFakeLog):
    """The log of a process that is stopped just when it has taken a lease, for so long that another takes it."""

    async def append_leased(self, channel: str, entries: Any, **options: Any) -> Any:
        lease, since = self.held[channel]
        self.held[channel] = lease._replace(holder="another"), since
        return await super().append_leased(channel, entries, **options)


@pytest.mark.parametrize("outage", [5, 20], ids=["for some leases", "until it's forgotten"])
async def test_one_that_can_not_be_written_down_yet_is_not_lost(logs: Logs, outage: float) -> None:
    """As while a Redis is a replica: it answers who looks."""
    source, started = Source("one"), list[Run]()

    async def start() -> None:
        started.append(await hub.run("a", source))

    async with hubs_on(logs[0], publish_wait=60) as (hub,), anyio.create_task_group() as tasks:
        logs[0].refused, logs[0].refuses = "take_lease", LogUnavailable("fake://", "away")
        tasks.start_soon(start)
        await anyio.sleep(outage)
        logs[0].refuses = None
        await comes(lambda: started)
        (run,) = started

        assert run.started
        assert await run.wait() is RunStatus.DONE
        assert told(await run.events()) == ["one"]


async def test_one_that_could_not_be_started_can_be_started_again(logs: Logs) -> None:
    async with hubs_on(logs[0], publish_wait=5) as (hub,):
        logs[0].refused, logs[0].refuses = "take_lease", LogUnavailable("fake://", "away")
        with pytest.raises(LogUnavailable):
            await hub.run("a", Source("never"))
        logs[0].refuses = None
        await anyio.sleep(5)
        run = await hub.run("a", Source("one"))

        assert run.started
        assert await run.wait() is RunStatus.DONE


@pytest.mark.parametrize("log", [LeasingFakeLog, LateLog])
async def test_who_is_not_the_one_to_end_it_adds_nothing(
    store: FakeStore, log: type[LeasingFakeLog]
) -> None:
    mine = log(store)
    ledger = RunLedger(mine, 0.0)
    note = note_of(RunOptions(), lambda event: f"{event}".encode())
    async with opened(mine):
        seen = await ledger.take(RUN_A, None, note, anew=False)
        if log is LeasingFakeLog:
            await ledger.take(RUN_A, seen, note, anew=False)

        ended = await ledger.end_for_another(RUN_A, seen, note, RunStatus.LOST, renewed=False)

    assert not ended
    assert not store.shelf(RUN_A).entries


async def test_a_call_that_the_lifespan_does_not_outlive_says_so(logs: Logs) -> None:
    async def ask(hub: Hub) -> None:
        with pytest.raises(RuntimeError, match="the hub's lifespan has ended meanwhile"):
            await hub.find_run("a")

    async with (
        anyio.create_task_group() as tasks,
        hubs_on(logs[0], publish_wait=SEAT_BELT_SECONDS) as (hub,),
    ):
        logs[0].cut = True
        tasks.start_soon(ask, hub)
        await comes(lambda: logs[0].store.calls["find_leases"])


async def test_it_needs_the_lifespan_of_its_hub(logs: Logs) -> None:
    with pytest.raises(RuntimeError, match="isn't connected to its log"):
        await Hub(logs[0]).find_run("a")


async def test_who_would_start_it_again_joins_one_that_is_alive(hubs: Hubs) -> None:
    source, other = endless(), endless()
    await hubs[0].run("a", source)
    run = await hubs[1].run("a", other, restart=["lost"])
    assert run._entry.restarter is not None
    await comes(lambda: run._entry.restarter is None)
    die(hubs[0])

    assert await run.wait() is RunStatus.LOST

    assert (source.calls, other.calls) == (1, 0)


async def test_the_status_of_one_that_looks_dead_is_known_after_a_while(
    hubs: Hubs, logs: Logs
) -> None:
    await hubs[0].run("a", endless())
    run = await found(hubs[1])
    assert await run.status() is RunStatus.RUNNING
    die(hubs[0])
    await comes(lambda: logs[1].lease(RUN_A).age > 3)

    assert await run.status() is RunStatus.LOST


async def test_an_outage_is_nobodys_death_and_loses_no_token(store: FakeStore, hubs: Hubs) -> None:
    source = Source(*TOKENS, held=True)
    run = await hubs[0].run("a", source)
    async with (await found(hubs[1])).subscribe() as events:
        assert (await anext(events)).data == TOKENS[0]
        store.down = True
        source.go.set()
        await comes(lambda: store.calls["renew_lease"] > 8)
        store.down = False

        assert await rest_of(events) == TOKENS[1:]
    assert await run.wait() is RunStatus.DONE


async def test_an_append_whose_answer_is_lost_is_repeated_and_not_doubled(
    store: FakeStore, hubs: Hubs
) -> None:
    answers = iter([True, False, True, True])

    def lose_answer() -> None:
        if next(answers, False):
            raise LogUnavailable("fake://", "the answer was lost")

    store.on_append = lose_answer
    run = await hubs[0].run("a", Source(*TOKENS))

    assert await run.wait() is RunStatus.DONE
    assert told(await run.events()) == TOKENS


@pytest.mark.parametrize(
    "error", [LogRefused("fake://", "full", "Make room."), ValueError("strange")]
)
async def test_a_log_that_refuses_is_waited_for(hubs: Hubs, logs: Logs, error: Exception) -> None:
    source = endless()
    run = await hubs[0].run("a", source)
    await first_of(run)
    logs[0].refuses = error
    source.go.set()
    for call in ("append_leased", "renew_lease", "append_leased"):
        await logs[0].asked_again(call)
    with pytest.raises(type(error)):
        await run.status()
    logs[0].refuses = None

    assert await run.wait() is RunStatus.DONE
    assert told(await run.events()) == ["one", "two"]


async def test_a_source_waits_while_too_much_waits_for_the_log(hubs: Hubs, logs: Logs) -> None:
    made = []

    async def source() -> AsyncIterator[int]:
        for number in range(3_000):
            made.append(number)
            yield number

    logs[0].appending.shut()
    run = await hubs[0].run("b", source)
    await comes(lambda: logs[0].appending.waiting and len(made) > 1_000)
    await turns(20)
    ahead = len(made)
    logs[0].appending.open()

    assert await run.wait() is RunStatus.DONE
    assert told(await run.events()) == [str(number) for number in range(3_000)]

    assert ahead < 1_100


async def test_who_reads_in_another_process_keeps_it_alive(hubs: Hubs, logs: Logs) -> None:
    await hubs[0].run("left", endless(), on_abandon="cancel", abandon_after=2)
    # Longer, for its reader is to be noticed before.
    is_read = await hubs[0].run("read", endless(), on_abandon="cancel", abandon_after=12)
    async with (await found(hubs[1], "read")).subscribe() as events:
        await anext(events)
        left = await found(hubs[1], "left")
        await comes(lambda: logs[1].lease(f"{OF_RUNS}left").closed_by)

        assert await left.status() is RunStatus.STOPPED
        await anyio.sleep(15)
        assert await is_read.status() is RunStatus.RUNNING
    await comes(lambda: logs[1].lease(f"{OF_RUNS}read").closed_by)


async def test_the_end_of_a_lifespan_is_told_to_the_readers_of_others(logs: Logs) -> None:
    async with hubs_on(logs[0]) as (reader,):
        async with hubs_on(logs[1]) as (maker,):
            await maker.run("a", endless())
            events = await begun(reader)

        assert await rest_of(events) == ["lost shutdown"]


async def test_the_end_of_a_lifespan_waits_for_a_log_that_is_away_but_not_for_long(
    logs: Logs,
) -> None:
    source = endless()
    async with hubs_on(logs[0]) as (hub,):
        await hub.run("a", source)
        await comes(lambda: source.calls)
        die(hub)
        before = anyio.current_time()

    assert source.closed
    assert anyio.current_time() - before == pytest.approx(2)


async def test_a_log_that_has_lost_its_data_ends_it(store: FakeStore, hubs: Hubs) -> None:
    source = endless()
    await hubs[0].run("a", source)
    events = await begun(hubs[1])
    store.flush(RUN_A)
    store.lose_all()

    assert await rest_of(events) == ["reset epoch", "lost silence"]
    await comes(lambda: source.closed)


async def test_one_that_is_forgotten_is_not_found(store: FakeStore, hubs: Hubs) -> None:
    run = await hubs[0].run("a", Source("one"))
    await run.wait()
    store.flush(RUN_A)

    assert await hubs[0].find_run("a") is None
    with pytest.raises(RunNotFound):
        await run.status()


async def test_what_nobody_uses_is_let_go(hubs: Hubs) -> None:
    run = await hubs[0].run("a", Source("one"))
    await run.wait()

    await comes(lambda: hubs[0]._parts.runs._lifespan and not hubs[0]._parts.runs._lifespan.entries)
    assert await run.status() is RunStatus.DONE


async def test_an_outage_in_the_call_is_said_there(logs: Logs) -> None:
    async with hubs_on(logs[0], publish_wait=0.1) as (hub,):
        logs[0].cut = True

        with pytest.raises(LogUnavailable):
            await hub.run("a", Source())
