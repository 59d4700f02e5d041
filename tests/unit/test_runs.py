"""Runs in one process: started once, read by all who ask, ended in each way there is."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from contextvars import ContextVar
from functools import partial
from typing import Any

import anyio
import anyio.from_thread
import anyio.to_thread
import pytest
from tests.unit.driving import SEAT_BELT_SECONDS, drive, until
from tests.unit.logs import FakeLog

from sse_starlette import EventSourceResponse, Hub, Run, RunEnd, RunNotFound, RunStatus
from sse_starlette.channels._registry import OF_RUNS
from sse_starlette.channels.channel import state_of
from sse_starlette.eventlogs.base import NewEntry, Position
from sse_starlette.eventlogs.leases import Lease, LeaseLostError
from sse_starlette.runs import _memory
from sse_starlette.testing import connect

pytestmark = pytest.mark.anyio

RUN_A = f"{OF_RUNS}a"
SEEN: ContextVar[str] = ContextVar("seen", default="nothing")


@asynccontextmanager
async def hub_of_runs() -> AsyncIterator[Hub]:
    hub = Hub()
    with anyio.fail_after(SEAT_BELT_SECONDS):
        async with hub.lifespan():
            yield hub


@pytest.fixture
async def hub() -> AsyncIterator[Hub]:
    async with hub_of_runs() as hub:
        yield hub


class Source:
    """What is to be generated: it waits before each token until the test lets it go on."""

    def __init__(self, *tokens: object, held: bool = False) -> None:
        self.tokens = tokens
        self.calls = 0
        self.closed = False
        self.held = held
        self.go = anyio.Event()

    async def __call__(self) -> AsyncIterator[object]:
        self.calls += 1
        try:
            for token in self.tokens:
                yield token
                if self.held:
                    await self.go.wait()
        finally:
            self.closed = True


def endless() -> Source:
    """A source that waits after its first token."""
    return Source("one", "two", held=True)


def told(run: Any) -> list[str]:
    """What clients got: the names of events, or their data."""
    return [one.event or one.data for one in run]


async def all_of(run: Run, came_with: Any = None) -> list[str]:
    async with run.subscribe(came_with) as events:
        return told([one async for one in events])


TOKENS = [f"t{number}" for number in range(300)]


async def test_all_who_ask_get_all_of_it(hub: Hub) -> None:
    source = Source(*TOKENS, held=True)
    run = await hub.run("a", source, end_event={"event": "end", "data": ""})
    joined = await hub.run("a", source)
    async with run.subscribe() as early, anyio.create_task_group() as tasks:
        first = await anext(early)
        late: dict[int, list[str]] = {}

        async def join(number: int) -> None:
            found = await hub.find_run("a")
            assert found is not None
            assert not found.started
            late[number] = await all_of(found)

        for number in range(5):
            tasks.start_soon(join, number)
        await until(lambda: state_of(run._entry.channel).stats().subscribers == 6)
        source.go.set()
        rest = told([one async for one in early])

    assert (run.started, joined.started, source.calls) == (True, False, 1)
    assert [first.data, *rest] == [*TOKENS, "end"]
    assert list(late.values()) == [[*TOKENS, "end"]] * 5
    assert await run.wait() is RunStatus.DONE
    assert told(await run.events()) == [*TOKENS, "end"]
    assert await all_of(run) == [*TOKENS, "end"]
    assert await all_of(run, first.id) == [*TOKENS[1:], "end"]
    assert source.closed


async def test_of_all_who_start_it_at_once_one_does(hub: Hub) -> None:
    source = Source("one")
    runs: list[Run] = []

    async def start() -> None:
        runs.append(await hub.run("a", source))

    async with anyio.create_task_group() as tasks:
        for _ in range(20):
            tasks.start_soon(start)

    assert source.calls == 1
    assert sum(run.started for run in runs) == 1


async def test_a_request_that_is_cancelled_leaves_it_alone(hub: Hub) -> None:
    SEEN.set("the request's")
    source = Source("one", "two", held=True)
    seen = []

    async def answer() -> AsyncIterator[object]:
        seen.append(SEEN.get())
        async for one in source():
            yield one

    async def app(scope: Any, receive: Any, send: Any) -> None:
        run = await hub.run("a", answer)
        await EventSourceResponse(run.subscribe())(scope, receive, send)

    async with connect(app) as stream:
        await stream.expect(data="one")
    run = await hub.find_run("a")
    assert run is not None
    assert await run.status() is RunStatus.RUNNING
    source.go.set()

    assert await run.wait() is RunStatus.DONE
    assert seen == ["nothing"]
    assert told(await run.events()) == ["one", "two"]


async def test_a_client_that_has_all_of_it_is_told_to_stay_away(hub: Hub) -> None:
    run = await hub.run("a", Source("one"), end_event={"event": "end"})
    await run.wait()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        found = await hub.find_run("a")
        assert found is not None
        await EventSourceResponse(found.subscribe(last))(scope, receive, send)

    last: Any = None
    async with drive(app) as client:
        await client.until(lambda: client.over)
    last = (await run.events())[-1].id
    async with drive(app) as client:
        await client.until(lambda: client.over)
        assert client.status == 204


# --- How it ends


def raises() -> Iterator[object]:
    raise ConnectionError("a secret")


async def raises_later() -> AsyncIterator[object]:
    yield "one"
    raise ConnectionError("a secret")


async def makes(made: object) -> object:
    return made


ERROR, LIMIT = 'error {"reason":"error"}', 'error {"reason":"limit"}'

ENDINGS: dict[str, tuple[Callable[[], Any], dict[str, Any], str, list[str]]] = {
    "to its end": (Source("one"), {}, "done", ["one"]),
    "without an event": (Source(), {}, "done", []),
    "with an event for its end": (
        Source("one"),
        {"end_event": "[DONE]"},
        "done",
        ["one", "[DONE]"],
    ),
    "a list": (lambda: ["one", "two"], {}, "done", ["one", "two"]),
    "a sync generator": (lambda: iter(("one", "two")), {}, "done", ["one", "two"]),
    "an awaitable of a source": (partial(makes, ["one"]), {}, "done", ["one"]),
    "it raises": (raises_later, {}, "failed", ["one", ERROR]),
    "what makes it raises": (lambda: next(raises()), {}, "failed", [ERROR]),
    "one event is no source": (lambda: {"data": "one"}, {}, "failed", [ERROR]),
    "nor is nothing": (lambda: None, {}, "failed", [ERROR]),
    "an event that can't be sent": (lambda: [object()], {}, "failed", [ERROR]),
    "too many events": (Source("one", "two"), {"max_events": 1}, "failed", ["one", LIMIT]),
    "too many bytes": (Source("one", "x" * 99), {"max_bytes": 50}, "failed", ["one", LIMIT]),
    "in other words": (
        raises_later,
        {"last_event": lambda end: {"data": f"{end.status} {end.reason} {end.error!r:.16}"}},
        "failed",
        ["one", "failed error ConnectionError("],
    ),
}


@pytest.mark.parametrize("ending", ENDINGS)
async def test_it_ends(hub: Hub, ending: str) -> None:
    source, options, status, events = ENDINGS[ending]

    run = await hub.run("a", source, **options)

    assert await run.wait() == status
    assert [
        " ".join(str(part) for part in (one.event, one.data) if part is not None)
        for one in await run.events()
    ] == events
    assert await run.status() == status
    assert await run.stop() == status


@pytest.mark.parametrize(("fails_for", "event"), [("failed", "error"), ("done", "two")])
async def test_a_last_event_that_fails_is_replaced(hub: Hub, fails_for: str, event: str) -> None:
    def last_event(end: RunEnd) -> object:
        if end.status == fails_for:
            raise ValueError
        return {"event": "other"}

    source = raises_later if fails_for == "failed" else Source("one", "two")
    run = await hub.run("a", source, last_event=last_event)
    await run.wait()

    assert told(await run.events())[-1] == event


async def test_to_stop_it_is_told_at_once_and_cancels_its_source(hub: Hub) -> None:
    source = endless()
    run = await hub.run("a", source)
    async with run.subscribe() as events:
        assert (await anext(events)).data == "one"

        assert await run.stop() is RunStatus.STOPPED

        assert told([one async for one in events]) == ["stopped"]
    await until(lambda: source.closed)
    assert await run.stop() is RunStatus.STOPPED


async def test_what_is_stopped_before_it_has_begun_makes_nothing(hub: Hub) -> None:
    source = endless()

    run = await hub.run("a", source)
    assert await run.stop() is RunStatus.STOPPED

    assert told(await run.events()) in (["stopped"], ["one", "stopped"])


async def test_a_source_that_is_waited_for_can_be_stopped(hub: Hub) -> None:
    waits = anyio.Event()

    async def source() -> list[object]:
        waits.set()
        await anyio.sleep_forever()
        return []

    run = await hub.run("a", source)
    await waits.wait()

    assert await run.stop() is RunStatus.STOPPED
    await until(lambda: hub._runs._lifespan and not hub._runs._lifespan.entries["a"].producer)


@pytest.mark.parametrize("then", ["returns", "yields", "raises"])
async def test_a_source_that_will_not_be_stopped_adds_nothing(hub: Hub, then: str) -> None:
    waits, go = anyio.Event(), anyio.Event()

    async def stay() -> None:
        with anyio.CancelScope(shield=True):
            waits.set()
            await go.wait()

    async def made() -> list[object]:
        await stay()
        if then == "raises":
            raise ConnectionError
        return ["late"]

    async def makes() -> AsyncIterator[object]:
        await stay()
        yield "late"

    run = await hub.run("a", makes if then == "yields" else made)
    await waits.wait()
    await run.stop()
    go.set()
    await until(lambda: hub._runs._lifespan and not hub._runs._lifespan.entries["a"].producer)

    assert told(await run.events()) == ["stopped"]


async def test_a_source_in_a_thread_stops_at_its_next_token(hub: Hub) -> None:
    go, made = threading.Semaphore(0), []

    def source() -> Iterator[int]:
        for number in range(1_000):
            made.append(number)
            yield number
            go.acquire()

    run = await hub.run("a", source)
    async with run.subscribe() as events:
        await anext(events)
        await run.stop()
        assert told([one async for one in events]) == ["stopped"]
    go.release(1_000)
    await until(lambda: hub._runs._lifespan and not hub._runs._lifespan.entries["a"].producer)

    assert made in ([0], [0, 1])
    assert told(await run.events()) == ["0", "stopped"]


async def test_one_that_nobody_reads_goes_on_or_is_stopped_as_is_said(hub: Hub) -> None:
    kept = await hub.run("kept", endless())
    options: Any = {"on_abandon": "cancel", "abandon_after": 0.1}
    left = await hub.run("left", endless(), **options)
    is_read = await hub.run("read", endless(), **options)
    async with is_read.subscribe() as events:
        await anext(events)

        await until(lambda: state_of(left._entry.channel).closed)
        assert await left.status() is RunStatus.STOPPED
        assert (await left.events())[-1].data == '{"reason":"abandoned"}'
        assert await is_read.status() is RunStatus.RUNNING
        assert await kept.status() is RunStatus.RUNNING
    await until(lambda: state_of(is_read._entry.channel).closed)


async def test_the_end_of_the_lifespan_is_told_to_its_clients() -> None:
    source = endless()
    async with hub_of_runs() as hub:
        run = await hub.run("a", source)
        events = run.subscribe()
        await anext(events)

    assert [(one.event, one.data) async for one in events] == [("lost", '{"reason":"shutdown"}')]
    assert source.closed


async def test_the_end_of_the_lifespan_stops_a_source_that_is_waited_for() -> None:
    waits = anyio.Event()

    async def source() -> None:
        waits.set()
        await anyio.sleep_forever()

    async with hub_of_runs() as hub:
        run = await hub.run("a", source)
        await waits.wait()

    assert told(await run.events()) == ["lost"]


async def test_one_may_be_given_time_to_finish() -> None:
    source = endless()
    async with hub_of_runs() as hub:
        run = await hub.run("a", source, shutdown_grace=SEAT_BELT_SECONDS)
        async with run.subscribe() as reading:
            await anext(reading)
        source.go.set()

    assert told(await run.events()) == ["one", "two"]


async def test_an_error_in_the_lifespan_is_raised_as_it_is() -> None:
    with pytest.raises(ZeroDivisionError):
        async with hub_of_runs():
            1 / 0  # noqa: B018


# --- Started again


@pytest.mark.parametrize("restart", [[], ["stopped"]])
async def test_one_that_has_ended_is_started_again_if_that_is_said(
    hub: Hub, restart: list[str]
) -> None:
    first = await hub.run("a", Source("one", "two", held=True))
    reading = first.subscribe()
    begin = await anext(reading)
    await first.stop()

    second = Source("three", "four")
    again = await hub.run("a", second, restart=restart)
    await again.wait()

    assert again.started == bool(restart)
    assert second.calls == len(restart)
    if restart:
        assert await all_of(again) == ["three", "four"]
        # Who has a part of the first one, and comes back or is still there.
        assert await all_of(again, begin.id) == ["reset", "three", "four"]
        assert told([one async for one in reading]) == ["reset", "three", "four"]
    else:
        assert told([one async for one in reading]) == ["stopped"]


async def test_one_is_started_again_while_the_first_is_still_closing(hub: Hub) -> None:
    waits, go = anyio.Event(), anyio.Event()

    async def first() -> AsyncIterator[object]:
        try:
            yield "one"
            await anyio.sleep_forever()
        finally:
            with anyio.CancelScope(shield=True):
                waits.set()
                await go.wait()

    run = await hub.run("a", first)
    async with run.subscribe() as events:
        await anext(events)
    await run.stop()
    await waits.wait()
    second = endless()
    again = await hub.run("a", second, restart=["stopped"])
    assert hub._runs._lifespan is not None
    producers = hub._runs._lifespan.producers
    assert len(producers) == 2
    go.set()
    await until(lambda: len(producers) == 1)

    assert await again.stop() is RunStatus.STOPPED
    await until(lambda: second.closed)


@pytest.mark.parametrize("came_with", ["x", "otherepoch.3", "{epoch}.9"])
async def test_whatever_id_a_client_has_it_gets_all_of_it(hub: Hub, came_with: str) -> None:
    run = await hub.run("a", Source("one", "two"))
    await run.wait()
    epoch = run._entry.channel.epoch

    assert await all_of(run, came_with.replace("{epoch}", epoch)) == ["reset", "one", "two"]


async def test_after_its_time_it_is_forgotten(hub: Hub) -> None:
    run = await hub.run("a", Source("one"), ttl=1e-9)
    async with run.subscribe() as events:
        assert told([one async for one in events]) == ["one"]
    await until(lambda: state_of(run._entry.channel).closed)

    assert await hub.find_run("a") is None
    with pytest.raises(RunNotFound, match="there is no run 'a'"):
        await run.status()
    with pytest.raises(RunNotFound):
        await run.stop()
    again = await hub.run("a", Source("two"), ttl=1e-9)
    assert again.started
    async with again.subscribe() as events:
        assert told([one async for one in events]) == ["two"]


async def test_an_ended_run_takes_no_memory_after_its_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_memory, "_SWEEP_SECONDS", 0.01)
    async with hub_of_runs() as hub:
        await hub.run("a", Source("one"), ttl=1e-9)

        await until(lambda: not hub._runs._memory._held)


# --- Mistakes, in the call


async def test_a_lifespan_is_needed() -> None:
    hub = Hub()

    for call in (hub.run("a", Source()), hub.find_run("a")):
        with pytest.raises(RuntimeError, match="belongs to the lifespan of its hub"):
            await call


async def test_an_event_log_must_keep_leases(log: FakeLog) -> None:
    hub = Hub(log)
    async with hub.lifespan():
        with pytest.raises(TypeError, match="a FakeLog, keeps no leases"):
            await hub.run("a", Source())


async def test_one_lifespan_at_a_time(hub: Hub) -> None:
    with pytest.raises(RuntimeError, match="is under way"):
        async with hub.lifespan():
            pass


@pytest.mark.parametrize(
    ("key", "source", "error", "text"),
    [
        (3, Source(), TypeError, "the key of a run must be a str"),
        ("", Source(), ValueError, "the key of a run is empty"),
        ("a", [], TypeError, "source must be a function"),
        ("a", endless()(), TypeError, "without calling it"),
        ("a", lambda prompt: prompt, TypeError, "source is called with no argument"),
    ],
)
async def test_a_mistake_is_said_in_the_call(
    hub: Hub, key: Any, source: Any, error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text):
        await hub.run(key, source)


async def test_who_joins_gives_the_same_options_or_none(hub: Hub) -> None:
    await hub.run("a", endless(), ttl=60)

    with pytest.raises(ValueError, match="run 'a' has ttl=60 already, so it can't get ttl=61"):
        await hub.run("a", endless(), ttl=61)
    assert repr(await hub.find_run("a")) == "<Run 'a'>"
    assert not (await hub.run("a", endless(), ttl=60)).started


async def test_to_read_it_after_is_as_with_a_channel(hub: Hub) -> None:
    run = await hub.run("a", Source("one", "two", "three"))
    await run.wait()

    async with run.subscribe(after=1, filter=lambda event: event.data != "two") as events:
        assert told([one async for one in events]) == ["three"]


# --- Other loops, other holders, forks


async def test_another_loop_may_ask(hub: Hub) -> None:
    run = await hub.run("a", Source("one"))

    async def ask() -> tuple[RunStatus, list[str], bool]:
        found = await hub.find_run("a")
        again = await hub.run("a", Source())
        return await run.wait(), told(await run.events()), found is not None and not again.started

    assert await anyio.to_thread.run_sync(anyio.run, ask) == (RunStatus.DONE, ["one"], True)


async def test_who_has_lost_the_lease_adds_nothing(hub: Hub) -> None:
    source = endless()
    run = await hub.run("a", source)
    async with run.subscribe() as events:
        await anext(events)
    lease = (await hub._runs._memory.find_leases([RUN_A]))[RUN_A]
    note = lease.note
    taken: dict[str, Any] = {"renewals": None, "note": note, "anew": False}
    limits = run._entry.note.limits

    other = await hub._runs._memory.take_lease(
        RUN_A, holder="x", replaces=1, limits=limits, **taken
    )
    again = await hub._runs._memory.take_lease(
        RUN_A, holder="y", replaces=1, limits=limits, **taken
    )
    source.go.set()
    await until(lambda: source.closed)

    assert (other.holder, again.holder) == ("x", "x")
    assert told(await run.events()) == ["one"]


async def test_a_cancelled_caller_has_started_it_all_the_same(hub: Hub) -> None:
    source = endless()

    with anyio.CancelScope() as scope:
        scope.cancel()
        await hub.run("a", source)

    assert scope.cancelled_caught
    await until(lambda: source.calls)


async def test_a_forked_child_has_no_run_of_its_parent(hub: Hub) -> None:
    await hub.run("a", endless())

    hub._runs.after_fork()

    with pytest.raises(RuntimeError, match="lifespan"):
        await hub.find_run("a")


async def test_leases_in_memory_are_those_of_an_event_log(hub: Hub) -> None:
    held = hub._runs._memory
    run = await hub.run("a", endless())
    async with run.subscribe() as events:
        await anext(events)
    note, limits = run._entry.note.encode(), run._entry.note.limits

    async def take(replaces: int) -> Lease:
        return await held.take_lease(
            RUN_A,
            holder=f"holder{replaces}",
            replaces=replaces,
            renewals=None,
            note=note,
            anew=False,
            limits=limits,
        )

    def entry(body: bytes, key: str) -> NewEntry:
        return NewEntry(body, key, 60.0, "", 0)

    with pytest.raises(LeaseLostError):
        await held.renew_lease(RUN_A, "somebody", limits=limits)
    await take(1)
    assert (await take(1)).holder == "holder1"
    renewed = await held.renew_lease(RUN_A, "holder1", limits=limits)
    end = [entry(b"data: x\r\n\r\n", "x"), entry(b"", "the end"), entry(b"", "too late")]
    added = await held.append_leased(RUN_A, end, holder="holder1", limits=limits)
    with pytest.raises(LeaseLostError):
        held.append_now(RUN_A, end[0], holder="holder1")
    late = await take(2)

    assert (renewed.token, renewed.renewals) == (2, 1)
    assert added == [Position(run._entry.channel.epoch, 2)] * 3
    assert (late.holder, late.closed_by) == ("holder2", "the end")


async def test_no_channel_of_the_application_is_that_of_a_run(hub: Hub) -> None:
    run = await hub.run("a", Source(*TOKENS))
    await hub.channel("run:a").publish("forged")

    assert await all_of(run) == await all_of(run) == [*TOKENS]
    with pytest.raises(ValueError, match="are the library's own"):
        hub.channel(RUN_A)
    assert RUN_A in hub.stats().channels
