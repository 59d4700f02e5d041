"""Runs in one process: started once, read by all who ask, ended in each way there is."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator
from concurrent.futures import Future
from contextlib import asynccontextmanager
from contextvars import ContextVar
from functools import partial
from inspect import signature
from typing import Any

import anyio
import anyio.to_thread
import pytest
from tests.unit.driving import SEAT_BELT_SECONDS, drive, on_asyncio, until
from tests.unit.jumping import backend_that_jumps, clock_of_the_loop, comes
from tests.unit.leasing import LeasingFakeLog
from tests.unit.logs import FakeLog, FakeStore
from tests.unit.replicating import running as hubs_on

from sse_starlette import EventSourceResponse, Hub, Run, RunEnd, RunNotFound, RunStatus
from sse_starlette.channels._registry import OF_RUNS
from sse_starlette.channels.channel import Channel, state_of
from sse_starlette.channels.subscription import Subscription
from sse_starlette.event import ServerSentEvent
from sse_starlette.eventlogs.base import NewEntry, Position
from sse_starlette.eventlogs.leases import Lease, LeaseLostError
from sse_starlette.runs._producer import Producer, _failure_in
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


@pytest.fixture(params=["one process", "three on a log"])
async def hubs(request: pytest.FixtureRequest, store: FakeStore) -> AsyncIterator[list[Hub]]:
    if request.param == "one process":
        async with hub_of_runs() as hub:
            yield [hub] * 3
    else:
        async with hubs_on(*(LeasingFakeLog(store) for _ in range(3))) as hubs:
            yield hubs


class Source:
    """What is to be generated; if it's held, it waits after each token until the test lets it go on."""

    def __init__(self, *tokens: object, held: bool = False) -> None:
        self.tokens = tokens
        self.calls = 0
        self.closed = False
        self.held = held
        self.asked, self.go = anyio.Event(), anyio.Event()

    async def __call__(self) -> AsyncIterator[object]:
        self.calls += 1
        self.asked.set()
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


class NeverReady:
    """A source that is waited for."""

    def __init__(self) -> None:
        self.asked = anyio.Event()
        self.closed = False

    async def __call__(self) -> list[object]:
        try:
            self.asked.set()
            await anyio.sleep_forever()
        finally:
            self.closed = True
        return []


def shown(event: ServerSentEvent) -> str:
    if not event.event:
        return str(event.data)
    return f"{event.event} {json.loads(event.data)['reason']}" if event.data else str(event.event)


def told(events: Iterable[ServerSentEvent]) -> list[str]:
    """What clients got: the data of events, or the names of those that have one and the reason they give."""
    return [shown(event) for event in events]


async def rest_of(events: Subscription) -> list[str]:
    return told([event async for event in events])


async def all_of(run: Run, came_with: Any = None) -> list[str]:
    async with run.subscribe(came_with) as events:
        return await rest_of(events)


async def first_of(run: Run) -> ServerSentEvent:
    async with run.subscribe() as events:
        return await anext(events)


async def found(hub: Hub, key: str = "a") -> Run:
    run = await hub.find_run(key)
    assert run is not None
    return run


def producers_of(hub: Hub) -> set[Producer]:
    assert hub._parts.runs._lifespan is not None
    return hub._parts.runs._lifespan.producers


TOKENS = [f"t{number}" for number in range(300)]


async def test_all_who_ask_get_all_of_it_and_one_makes_it(hubs: list[Hub]) -> None:
    source = Source(*TOKENS, held=True)
    runs = [await hub.run("a", source, end_event={"event": "end", "data": ""}) for hub in hubs]
    everything = [*TOKENS, "end"]
    late: list[list[str]] = []

    async def join(hub: Hub) -> None:
        run = await found(hub)
        assert not run.started
        late.append(await all_of(run))

    async with runs[0].subscribe() as early, anyio.create_task_group() as tasks:
        first = await anext(early)
        for hub in hubs * 2:
            tasks.start_soon(join, hub)
        channels = {state_of(run._entry.channel) for run in runs}
        await until(lambda: sum(channel.stats().subscribers for channel in channels) == 7)
        source.go.set()
        rest = await rest_of(early)

    assert [run.started for run in runs] == [True, False, False]
    assert source.calls == 1
    assert [first.data, *rest] == everything
    assert late == [everything] * 6
    for run in runs:
        assert await run.wait() is RunStatus.DONE
        assert told(await run.events()) == everything
        assert await all_of(run) == everything
        assert await all_of(run, first.id) == everything[1:]
    assert source.closed


async def test_of_all_who_start_it_at_once_one_does(hubs: list[Hub]) -> None:
    sources = [endless() for _ in range(21)]
    runs: list[Run] = []

    async def start(hub: Hub, source: Source) -> None:
        runs.append(await hub.run("a", source))

    async with anyio.create_task_group() as tasks:
        for hub, source in zip(hubs * 7, sources, strict=True):
            tasks.start_soon(start, hub, source)

    await until(lambda: any(source.calls for source in sources))
    assert sum(source.calls for source in sources) == 1
    assert sum(run.started for run in runs) == 1


async def test_a_request_that_is_cancelled_leaves_it_alone(hub: Hub) -> None:
    SEEN.set("the request's")
    source = endless()
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
    run = await found(hub)
    assert await run.status() is RunStatus.RUNNING
    source.go.set()

    assert await run.wait() is RunStatus.DONE
    assert seen == ["nothing"]
    assert told(await run.events()) == ["one", "two"]


async def test_a_client_that_has_all_of_it_is_told_to_stay_away(hub: Hub) -> None:
    run = await hub.run("a", Source("one"), end_event={"event": "end"})
    await run.wait()

    for last, status in (("", 200), ((await run.events())[-1].id, 204)):
        events = (await found(hub)).subscribe(str(last))
        async with drive(EventSourceResponse(events)) as client:
            await client.returns()
        assert client.status == status


# --- How it ends


def raises() -> Iterator[object]:
    raise ConnectionError("a secret")


async def raises_later() -> AsyncIterator[object]:
    yield "one"
    raise ConnectionError("a secret")


async def makes(made: object) -> object:
    return made


def in_other_words(end: RunEnd) -> object:
    return {"data": f"{end.status} {end.reason} {end.error!r:.16}"}


ENDINGS: dict[str, tuple[Callable[[], Any], dict[str, Any], str, list[str]]] = {
    "to its end": (Source("one"), {}, "done", ["one"]),
    "without an event": (Source(), {}, "done", []),
    "with an event for its end": (Source("1"), {"end_event": "[DONE]"}, "done", ["1", "[DONE]"]),
    "a list": (lambda: ["one", "two"], {}, "done", ["one", "two"]),
    "a sync generator": (lambda: iter(("one", "two")), {}, "done", ["one", "two"]),
    "an awaitable of a source": (partial(makes, ["one"]), {}, "done", ["one"]),
    "it raises": (raises_later, {}, "failed", ["one", "error error"]),
    "what makes it raises": (lambda: next(raises()), {}, "failed", ["error error"]),
    "one event is no source": (lambda: {"data": "one"}, {}, "failed", ["error error"]),
    "nor is nothing": (lambda: None, {}, "failed", ["error error"]),
    "an event that can't be sent": (lambda: [object()], {}, "failed", ["error error"]),
    "too many events": (Source("1", "2"), {"max_events": 1}, "failed", ["1", "error limit"]),
    "too many bytes": (Source("1", "x" * 99), {"max_bytes": 50}, "failed", ["1", "error limit"]),
    "in other words": (
        raises_later,
        {"last_event": in_other_words},
        "failed",
        ["one", "failed error ConnectionError("],
    ),
}


@pytest.mark.parametrize("ending", ENDINGS)
async def test_it_ends(hub: Hub, ending: str) -> None:
    source, options, status, events = ENDINGS[ending]

    run = await hub.run("a", source, **options)

    assert await run.wait() == status
    assert told(await run.events()) == events
    assert await run.status() == status
    assert await run.stop() == status


class PanicError(BaseException):
    """What extensions written in Rust raise."""


async def in_a_step(error: BaseException) -> AsyncIterator[str]:
    yield "one"
    raise error


def in_a_thread(error: BaseException) -> Iterator[str]:
    yield "one"
    raise error


def when_called(error: BaseException) -> list[str]:
    raise error


@pytest.mark.parametrize("how", [in_a_step, in_a_thread, when_called])
@pytest.mark.parametrize("error", [SystemExit(2), PanicError()], ids=repr)
async def test_whatever_a_source_raises_it_ends_its_run_and_no_other(
    hub: Hub,
    how: Callable[[BaseException], Any],
    error: BaseException,
    caplog: pytest.LogCaptureFixture,
) -> None:
    other = await hub.run("other", endless())
    run = await hub.run("a", partial(how, error))

    assert await run.wait() is RunStatus.FAILED
    assert told(await run.events())[-1] == "error error"
    assert repr(error) in caplog.text
    assert await other.status() is RunStatus.RUNNING


@on_asyncio
async def test_what_only_a_loop_raises_may_be_raised_by_a_source_too(hub: Hub) -> None:
    run = await hub.run("a", partial(in_a_step, GeneratorExit()))

    assert await run.wait() is RunStatus.FAILED
    # But a loop that is thrown away closes what is left of it.
    assert _failure_in(GeneratorExit(), thrown_away=True) is None


async def test_cleanup_that_raises_whatever_it_is_is_logged(
    hub: Hub, caplog: pytest.LogCaptureFixture
) -> None:
    async def unclean() -> AsyncIterator[str]:
        try:
            yield "one"
            await anyio.sleep_forever()
        finally:
            raise PanicError

    run = await hub.run("a", unclean)
    await first_of(run)
    assert await run.stop() is RunStatus.STOPPED
    await until(lambda: "error in the cleanup of run" in caplog.text)
    assert (await hub.run("b", Source("one"))).started


@pytest.mark.parametrize(("fails_for", "event"), [("failed", "error error"), ("done", "two")])
async def test_a_last_event_that_fails_is_replaced(hub: Hub, fails_for: str, event: str) -> None:
    def last_event(end: RunEnd) -> object:
        if end.status == fails_for:
            raise ValueError
        return {"event": "other"}

    source = raises_later if fails_for == "failed" else Source("one", "two")
    run = await hub.run("a", source, last_event=last_event)
    await run.wait()

    assert told(await run.events())[-1] == event


@pytest.mark.parametrize("source_type", [endless, NeverReady])
@pytest.mark.parametrize("end", ["stopped stop", "lost shutdown"])
async def test_an_end_from_outside_is_told_at_once_and_cancels_its_source(
    source_type: Callable[[], Source | NeverReady], end: str
) -> None:
    source = source_type()
    async with hub_of_runs() as hub:
        run = await hub.run("a", source)
        events = run.subscribe()
        await source.asked.wait()
        if end == "stopped stop":
            assert await run.stop() is RunStatus.STOPPED
            assert (await rest_of(events))[-1] == end
            await until(lambda: source.closed and not producers_of(hub))
            assert await run.stop() is RunStatus.STOPPED

    assert told(await run.events())[-1] == end
    assert end == "stopped stop" or (await rest_of(events))[-1] == end
    assert source.closed


async def test_what_is_stopped_before_it_has_begun_makes_nothing(hub: Hub) -> None:
    run = await hub.run("a", endless())

    assert await run.stop() is RunStatus.STOPPED
    assert told(await run.events()) in (["stopped stop"], ["one", "stopped stop"])


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
    await until(lambda: not producers_of(hub))

    assert told(await run.events()) == ["stopped stop"]


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
        assert await rest_of(events) == ["stopped stop"]
    go.release(1_000)
    await until(lambda: not producers_of(hub))

    assert made in ([0], [0, 1])
    assert told(await run.events()) == ["0", "stopped stop"]


in_no_time = pytest.mark.parametrize(
    "anyio_backend",
    [
        pytest.param(backend_that_jumps("asyncio"), id="asyncio"),
        pytest.param(backend_that_jumps("trio"), id="trio", marks=pytest.mark.trio),
    ],
)


@in_no_time
async def test_one_that_nobody_reads_goes_on_or_is_stopped_as_is_said() -> None:
    options: Any = {"on_abandon": "cancel", "abandon_after": 5}
    async with hub_of_runs() as hub:
        kept = await hub.run("kept", endless())
        left, began = await hub.run("left", endless(), **options), anyio.current_time()
        is_read = await hub.run("read", endless(), **options)
        async with is_read.subscribe() as events:
            await anext(events)

            await comes(lambda: state_of(left._entry.channel).closed)
            assert anyio.current_time() - began >= 5
            assert await left.status() is RunStatus.STOPPED
            assert told(await left.events())[-1] == "stopped abandoned"
            assert await is_read.status() is RunStatus.RUNNING
            assert await kept.status() is RunStatus.RUNNING
        await comes(lambda: state_of(is_read._entry.channel).closed)


def test_it_is_read_as_a_channel_is() -> None:
    of_run, of_channel = (signature(each.subscribe).parameters for each in (Run, Channel))

    for name in ("filter", "id_blocks"):
        assert of_run[name].default is of_channel[name].default


async def test_one_may_be_given_time_to_finish() -> None:
    source = endless()
    async with hub_of_runs() as hub:
        run = await hub.run("a", source, shutdown_grace=SEAT_BELT_SECONDS)
        await first_of(run)
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
    first = await hub.run("a", endless())
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
        assert await all_of(again, begin.id) == ["reset epoch", "three", "four"]
        assert await rest_of(reading) == ["reset epoch", "three", "four"]
    else:
        assert await rest_of(reading) == ["stopped stop"]


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
    await first_of(run)
    await run.stop()
    await waits.wait()
    second = endless()
    again = await hub.run("a", second, restart=["stopped"])
    producers = producers_of(hub)
    assert len(producers) == 2
    go.set()
    await until(lambda: len(producers) == 1)

    assert await again.stop() is RunStatus.STOPPED
    await until(lambda: second.closed)


@pytest.mark.parametrize(
    ("came_with", "reset"),
    [("x", "reset unknown"), ("otherepoch.3", "reset epoch"), ("{epoch}.9", "reset future")],
)
async def test_whatever_id_a_client_has_it_gets_all_of_it(
    hub: Hub, came_with: str, reset: str
) -> None:
    run = await hub.run("a", Source("one", "two"))
    await run.wait()
    epoch = run._entry.channel.epoch

    assert await all_of(run, came_with.replace("{epoch}", epoch)) == [reset, "one", "two"]


async def test_after_its_time_it_is_forgotten(hub: Hub) -> None:
    run = await hub.run("a", Source("one"), ttl=1e-9)
    assert await all_of(run) == ["one"]
    await until(lambda: state_of(run._entry.channel).closed)

    assert await hub.find_run("a") is None
    with pytest.raises(RunNotFound, match="there is no run 'a'"):
        await run.status()
    with pytest.raises(RunNotFound):
        await run.stop()
    again = await hub.run("a", Source("two"), ttl=1e-9)
    assert again.started
    assert await all_of(again) == ["two"]


@in_no_time
async def test_an_ended_run_takes_no_memory_after_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    clock_of_the_loop(monkeypatch)
    async with hub_of_runs() as hub:
        await hub.run("a", Source("one"), ttl=30)

        await comes(lambda: hub._parts.runs._memory._held)
        await comes(lambda: not hub._parts.runs._memory._held)


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


@pytest.mark.parametrize(
    "options",
    [{"end_event": {"event": "reset"}}, {"last_event": lambda _: {"event": "reset", "data": "x"}}],
    ids=["end_event", "last_event"],
)
async def test_an_end_that_would_be_taken_for_a_gap_is_refused_in_the_call(
    hub: Hub, options: Any
) -> None:
    with pytest.raises(ValueError, match="`reset` is the event that tells clients of a gap"):
        await hub.run("a", Source("one"), **options)
    assert await hub.find_run("a") is None


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
        assert await rest_of(events) == ["three"]


# --- Other loops, other holders, forks


def on_plain_asyncio(ask: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
    return asyncio.run(ask())


@pytest.mark.parametrize("there", [anyio.run, on_plain_asyncio])
async def test_another_loop_may_ask(hub: Hub, there: Callable[..., Any]) -> None:
    run = await hub.run("a", Source("one"))

    async def ask() -> tuple[RunStatus, list[str], bool]:
        await found(hub)
        again = await hub.run("a", Source())
        return await run.wait(), told(await run.events()), again.started

    assert await anyio.to_thread.run_sync(there, ask) == (RunStatus.DONE, ["one"], False)


async def test_what_other_loops_ask_when_the_lifespan_ends_is_refused(hub: Hub) -> None:
    lifespan = hub._parts.runs._lifespan
    assert lifespan is not None
    waiting, late = Future[None](), Future[None]()

    lifespan.ask(waiting, partial(anyio.sleep, 0))
    lifespan.end()
    lifespan.ask(late, partial(anyio.sleep, 0))

    for future in (waiting, late):
        with pytest.raises(RuntimeError, match="the hub's lifespan has ended meanwhile"):
            future.result(timeout=0)


async def take_lease(hub: Hub, run: Run, holder: str, replaces: int) -> Lease:
    note = run._entry.note
    return await hub._parts.runs._memory.take_lease(
        RUN_A,
        holder=holder,
        replaces=replaces,
        renewals=None,
        note=note.encode(),
        anew=False,
        limits=note.limits,
    )


async def test_who_has_lost_the_lease_adds_nothing(hub: Hub) -> None:
    source = endless()
    run = await hub.run("a", source)
    await first_of(run)

    holders = [(await take_lease(hub, run, holder, replaces=1)).holder for holder in "xy"]
    source.go.set()
    await until(lambda: source.closed)

    assert holders == ["x", "x"]
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

    hub._parts.runs.after_fork()

    with pytest.raises(RuntimeError, match="lifespan"):
        await hub.find_run("a")


async def test_leases_in_memory_are_those_of_an_event_log(hub: Hub) -> None:
    held = hub._parts.runs._memory
    run = await hub.run("a", endless())
    await first_of(run)
    limits = run._entry.note.limits

    def entry(body: bytes, key: str) -> NewEntry:
        return NewEntry(body, key, 60.0, "", 0)

    with pytest.raises(LeaseLostError):
        await held.renew_lease(RUN_A, "somebody", limits=limits)
    await take_lease(hub, run, "first", replaces=1)
    renewed = await held.renew_lease(RUN_A, "first", limits=limits)
    end = [entry(b"data: x\r\n\r\n", "x"), entry(b"", "the end"), entry(b"", "too late")]
    added = await held.append_leased(RUN_A, end, holder="first", limits=limits)
    with pytest.raises(LeaseLostError):
        held.append_now(RUN_A, end[0], holder="first")
    late = await take_lease(hub, run, "second", replaces=2)

    assert (renewed.token, renewed.renewals) == (2, 1)
    assert added == [Position(run._entry.channel.epoch, 2)] * 3
    assert (late.holder, late.closed_by) == ("second", "the end")


async def test_no_channel_of_the_application_is_that_of_a_run(hub: Hub) -> None:
    run = await hub.run("a", Source(*TOKENS))
    await hub.channel("run:a").publish("forged")

    assert await all_of(run) == await all_of(run) == [*TOKENS]
    with pytest.raises(ValueError, match="are the library's own"):
        hub.channel(RUN_A)
    assert RUN_A in hub.stats().channels
