"""Who is told that the server goes down, by whom, and what is left of it afterwards."""

from __future__ import annotations

import asyncio
import signal
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from multiprocessing import process
from types import ModuleType, SimpleNamespace
from typing import Any
from unittest.mock import patch

import anyio
import anyio.abc
import anyio.from_thread
import anyio.lowlevel
import anyio.to_thread
import pytest
import trio
import uvicorn
from tests.unit.driving import (
    Exchange,
    drive,
    http_scope,
    on_asyncio,
    settled,
    until,
)
from tests.unit.nothing_left import SIGNALS, nothing_is_left, sleeping, streams_leave_nothing
from uvicorn.lifespan.off import LifespanOff

from sse_starlette import EventSourceResponse, drain
from sse_starlette._runtime.loop import Loop, current_loop
from sse_starlette._shutdown import AppStatus, stream_begins, stream_ended
from sse_starlette._shutdown import streams as _shutdown

on_each_loop = pytest.mark.anyio


@pytest.fixture(autouse=True)
def _nothing_is_left() -> Iterator[None]:
    with nothing_is_left():
        yield


class Told:
    """Stands for a stream: notes what it was asked for, and ends when the test says so."""

    def __init__(self, loop: Loop | None = None) -> None:
        self.loop = current_loop() if loop is None else loop
        self.thread: threading.Thread | None = None
        self.listener: str | None = None
        self.requests: list[tuple[float, float | None, str]] = []

    def end(self, reason: str, /) -> None:
        self.requests.append((0.0, None, reason))

    def drain(self, delay: float, grace: float | None, *, automatic: bool) -> None:
        self.thread = threading.current_thread()
        self.requests.append((delay, grace, "automatic" if automatic else "explicit"))


AT_ONCE = (0.0, None, "explicit")
BY_ITSELF = (0.0, None, "automatic")


@contextmanager
def open_streams(number: int) -> Iterator[list[Told]]:
    streams = [Told() for _ in range(number)]
    for stream in streams:
        stream_begins(stream)
    try:
        yield streams
    finally:
        for stream in streams:
            stream_ended(stream)


async def told(streams: Sequence[Told]) -> list[list[tuple[float, float | None, str]]]:
    """Wait until each of `streams` has been told to end; give back what they were told."""
    await until(lambda: all(stream.requests for stream in streams))
    return [stream.requests for stream in streams]


@contextmanager
def handling(signum: signal.Signals, handler: Any) -> Iterator[None]:
    """Have a handler for a signal, as a server has that handles it."""
    before = signal.signal(signum, handler)
    try:
        yield
    finally:
        signal.signal(signum, before)


@contextmanager
def without_automatic_drain() -> Iterator[None]:
    AppStatus.disable_automatic_graceful_drain()
    try:
        yield
    finally:
        AppStatus.enable_automatic_graceful_drain_mode()


class Handler:
    """Notes the signals that come."""

    def __init__(self) -> None:
        self.came: list[int] = []

    def __call__(self, signum: int, frame: object) -> str:
        self.came.append(signum)
        return "handled"


# drain


@on_each_loop
async def test_drain_tells_every_stream_once_and_on_its_loop() -> None:
    with open_streams(3) as streams:
        drain()
        told_within_the_call = [list(stream.requests) for stream in streams]
        await settled()

        assert told_within_the_call == [[], [], []]
        assert [stream.requests for stream in streams] == [[AT_ONCE]] * 3


@on_each_loop
async def test_drain_may_be_called_from_another_thread() -> None:
    with open_streams(2) as streams:
        await anyio.to_thread.run_sync(drain, 7.5)

        assert await told(streams) == [[(0.0, 7.5, "explicit")]] * 2
        assert {stream.thread for stream in streams} == {threading.current_thread()}


@on_each_loop
async def test_drain_may_be_called_from_a_signal_handler() -> None:
    with handling(signal.SIGUSR1, lambda *_: drain(grace=3)), open_streams(1) as streams:
        signal.raise_signal(signal.SIGUSR1)

        assert await told(streams) == [[(0.0, 3, "explicit")]]


@on_each_loop
async def test_spread_gives_the_streams_even_distances_over_its_length() -> None:
    with open_streams(500) as streams:
        drain(grace=2, spread=5)
        requests = sorted(request for (request,) in await told(streams))

        delays = [(place + 0.5) / 100 for place in range(500)]
        assert [delay for delay, *_ in requests] == pytest.approx(delays)
        assert {tuple(how) for _, *how in requests} == {(2, "explicit")}


@pytest.mark.parametrize("wrong", [-1, -0.001, float("nan")])
def test_negative_grace_or_spread_is_refused_where_it_is_written(wrong: float) -> None:
    with pytest.raises(ValueError, match=r"^grace must be >= 0 seconds, got: "):
        drain(grace=wrong)
    with pytest.raises(ValueError, match=r"^spread must be >= 0 seconds, got: "):
        drain(spread=wrong)


def test_drain_without_any_stream_does_nothing() -> None:
    drain(grace=1, spread=1)


@on_each_loop
async def test_streams_that_begin_after_drain_are_not_concerned() -> None:
    with open_streams(1):
        drain()
        with open_streams(1) as (later,):
            await settled()

            assert later.requests == []


@on_each_loop
async def test_stream_that_has_ended_maybe_twice_is_not_told() -> None:
    ended, again = Told(), Told()
    stream_begins(ended)
    stream_begins(again)
    stream_ended(ended)
    stream_ended(ended)
    drain()
    await until(lambda: again.requests)
    stream_ended(again)
    stream_ended(again)

    assert ended.requests == []


# AppStatus


@on_each_loop
async def test_should_exit_from_another_thread_ends_all_streams_and_new_ones_until_set_back() -> (
    None
):
    with open_streams(2) as streams:
        await anyio.to_thread.run_sync(setattr, AppStatus, "should_exit", True)
        await told(streams)
        with open_streams(1) as (new,):
            ended_new = list(new.requests)
        AppStatus.should_exit = False
        with open_streams(1) as (later,):
            await settled()

            assert [stream.requests for stream in streams] == [[AT_ONCE]] * 2
            assert ended_new == [BY_ITSELF]
            assert later.requests == []
    assert AppStatus.should_exit is False


@on_each_loop
async def test_should_exit_can_be_patched_and_the_patch_be_undone() -> None:
    with pytest.MonkeyPatch.context() as monkeypatch, open_streams(1) as (first,):
        monkeypatch.setattr(AppStatus, "should_exit", True)
        await until(lambda: first.requests)
        assert AppStatus.should_exit is True
    after_monkeypatch = AppStatus.should_exit
    with patch.object(AppStatus, "should_exit", True), open_streams(1) as (second,):
        assert AppStatus.should_exit is True
    after_mock = AppStatus.should_exit

    assert first.requests == [AT_ONCE]
    assert second.requests == [BY_ITSELF]
    assert (after_monkeypatch, after_mock) == (False, False)


@on_each_loop
async def test_should_exit_event_can_be_assigned_and_does_nothing() -> None:
    with patch.object(AppStatus, "should_exit_event", None), open_streams(1) as (stream,):
        AppStatus.should_exit_event = anyio.Event()
        AppStatus.should_exit_event.set()
        await settled()

        assert stream.requests == []
        assert not AppStatus.should_exit


@on_each_loop
async def test_handle_exit_ends_the_streams_and_calls_the_original_handler() -> None:
    called: list[Any] = []
    original = lambda *args, **kwargs: called.append((args, kwargs))  # noqa: E731

    with open_streams(1) as (stream,):
        AppStatus.handle_exit(signal.SIGTERM, None)
        AppStatus.should_exit = False
        with patch.object(AppStatus, "original_handler", original):
            AppStatus.handle_exit(signal.SIGTERM, frame=None)
        AppStatus.should_exit = False
        await settled()

        assert stream.requests == [AT_ONCE] * 2
        assert called == [((signal.SIGTERM,), {"frame": None})]


@on_each_loop
async def test_without_automatic_drain_only_an_order_ends_streams() -> None:
    handler = Handler()
    with handling(signal.SIGTERM, handler), open_streams(1) as (stream,):
        with without_automatic_drain():
            AppStatus.handle_exit(signal.SIGTERM, None)
            signal.raise_signal(signal.SIGTERM)
            await settled()
            after_the_signal = list(stream.requests), AppStatus.should_exit
            drain()
            await told([stream])

        assert after_the_signal == ([], False)
        assert stream.requests == [AT_ONCE]
        assert handler.came == [signal.SIGTERM]


@on_each_loop
async def test_should_exit_is_true_while_the_server_goes_down_and_on_its_loop_only() -> None:
    def exits() -> bool:
        return AppStatus.should_exit

    async def exits_there() -> bool:
        return AppStatus.should_exit

    with handling(signal.SIGTERM, Handler()):
        with open_streams(1):
            assert not exits()
            signal.raise_signal(signal.SIGTERM)
            here = exits()
            in_a_thread_of_this_loop = await anyio.to_thread.run_sync(exits)
            on_another_loop = await anyio.to_thread.run_sync(anyio.run, exits_there)
        afterwards = exits()

    assert (here, in_a_thread_of_this_loop, on_another_loop) == (True, True, False)
    assert not afterwards


# Signals


@on_each_loop
@pytest.mark.parametrize("signum", SIGNALS)
async def test_signal_ends_the_streams_and_goes_on_to_the_handler_that_was_there(
    signum: signal.Signals,
) -> None:
    handler = Handler()
    with handling(signum, handler):
        with open_streams(2) as streams:
            signal.raise_signal(signum)
            requests = await told(streams)
            with open_streams(1) as (late,):
                pass
            came_while_streaming = list(handler.came)
            in_place = signal.getsignal(signum)
        taken_back = signal.getsignal(signum)

    assert [*requests, late.requests] == [[BY_ITSELF]] * 3
    assert came_while_streaming == [signum]
    assert in_place is not handler
    assert taken_back is handler


@on_each_loop
async def test_handler_of_a_signal_comes_before_anything_that_streams_do() -> None:
    """Else a SIGTERM could overtake a SIGINT, which uvicorn then takes for a second Ctrl+C."""
    seen: list[bool] = []

    with handling(signal.SIGINT, lambda *_: seen.append(AppStatus.should_exit)), open_streams(1):
        signal.raise_signal(signal.SIGINT)
        seen.append(AppStatus.should_exit)

    assert seen == [False, True]


@on_each_loop
async def test_handler_that_raises_ends_the_streams_all_the_same() -> None:
    with handling(signal.SIGINT, signal.default_int_handler), open_streams(1) as (stream,):
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)

        assert await told([stream]) == [[BY_ITSELF]]


OF_ANOTHER_KIND = SimpleNamespace(_target=print, _kwargs={"shutdown_event": threading.Event()})


@on_each_loop
@pytest.mark.parametrize(
    ("disposition", "processes"),
    [
        pytest.param(signal.SIG_DFL, process, id="default"),
        pytest.param(signal.SIG_IGN, process, id="ignored"),
        pytest.param(
            signal.SIG_DFL,
            SimpleNamespace(current_process=lambda: OF_ANOTHER_KIND),
            id="in a child process of another kind than hypercorn's workers",
        ),
        pytest.param(signal.SIG_DFL, None, id="in a program without child processes"),
    ],
)
async def test_signal_that_nobody_handles_in_python_is_left_alone(
    disposition: Any, processes: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "multiprocessing.process", processes)

    with handling(signal.SIGTERM, disposition), open_streams(1):
        assert signal.getsignal(signal.SIGTERM) is disposition


def test_signals_are_left_alone_by_streams_of_other_threads() -> None:
    handler = Handler()

    async def main() -> object:
        with open_streams(1):
            return signal.getsignal(signal.SIGTERM)

    with handling(signal.SIGTERM, handler), anyio.from_thread.start_blocking_portal() as portal:
        in_place = portal.call(main)

    assert in_place is handler


@on_each_loop
async def test_hook_of_a_signal_is_taken_back_by_the_main_thread_alone() -> None:
    handler = Handler()

    with handling(signal.SIGTERM, handler):
        stream = Told()
        stream_begins(stream)
        await anyio.to_thread.run_sync(stream_ended, stream)
        left = signal.getsignal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)
        went_on = list(handler.came), AppStatus.should_exit
        with open_streams(1):
            pass
        taken_back = signal.getsignal(signal.SIGTERM)

    assert left is not handler
    assert went_on == ([signal.SIGTERM], False)
    assert taken_back is handler


@on_each_loop
async def test_handler_that_was_put_on_top_of_ours_stays() -> None:
    below, above = Handler(), Handler()
    with handling(signal.SIGTERM, below):
        with open_streams(1):
            ours: Any = signal.getsignal(signal.SIGTERM)

            def on_top(signum: int, frame: object) -> None:
                above(signum, frame)
                ours(signum, frame)

            signal.signal(signal.SIGTERM, on_top)
        left = signal.getsignal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)

    assert left is on_top
    assert above.came == [signal.SIGTERM]
    assert below.came == [signal.SIGTERM]


@on_each_loop
async def test_handler_that_replaced_ours_is_hooked_by_the_next_stream() -> None:
    """Another server begins while streams of an older one are still there."""
    newer = Handler()
    with handling(signal.SIGTERM, Handler()), open_streams(1) as (old,):
        with handling(signal.SIGTERM, newer), open_streams(1) as (new,):
            signal.raise_signal(signal.SIGTERM)
            await told([new])

        assert newer.came == [signal.SIGTERM]
        assert old.requests == [BY_ITSELF]


# uvicorn


class StandIn(uvicorn.Server):
    """A uvicorn server without sockets: `shutdown` is the real one, and finds nothing to wait for."""

    def __init__(self) -> None:
        super().__init__(uvicorn.Config(app="none:none", log_config=None))
        self.servers = []
        self.lifespan = LifespanOff(self.config)


@on_asyncio
@on_each_loop
async def test_uvicorn_on_its_way_down_ends_the_streams_of_its_loop_whoever_stops_it() -> None:
    seen = []
    with open_streams(2) as streams:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(StandIn().shutdown)
            requests = await told(streams)
            seen.append(AppStatus.should_exit)
            with open_streams(1) as (late,):
                pass
        seen.append(AppStatus.should_exit)
        with open_streams(1) as (of_the_next_server,):
            await settled()

    assert [*requests, late.requests] == [[BY_ITSELF]] * 3
    assert of_the_next_server.requests == []
    assert seen == [True, False]


@on_asyncio
@on_each_loop
async def test_uvicorn_is_let_alone_when_automatic_drain_is_off() -> None:
    with open_streams(1) as (stream,):
        with without_automatic_drain():
            await StandIn().shutdown()

        assert stream.requests == []


@on_asyncio
@on_each_loop
async def test_stream_that_begins_when_uvicorn_has_been_told_to_stop_ends_at_once() -> None:
    """Its shutdown may be under way already, and the hook on it come too late."""
    server = StandIn()
    with handling(signal.SIGTERM, server.handle_exit):
        with open_streams(1) as (in_time,):
            pass
        server.handle_exit(signal.SIGTERM, None)
        with open_streams(1) as (late,):
            assert AppStatus.should_exit

    assert in_time.requests == []
    assert late.requests == [BY_ITSELF]


class WithShutdownOfItsOwn(StandIn):
    """Nobody can know whether it calls uvicorn's."""

    async def shutdown(self, sockets: Any = None) -> None: ...


def patched_shutdown() -> StandIn:
    server = StandIn()
    server.shutdown = WithShutdownOfItsOwn().shutdown  # type: ignore[method-assign]
    return server


@on_asyncio
@on_each_loop
@pytest.mark.parametrize("signum", SIGNALS)
@pytest.mark.parametrize(
    ("server", "left_alone"),
    [(StandIn, True), (WithShutdownOfItsOwn, False), (patched_shutdown, False)],
)
async def test_signal_whose_handler_leads_to_the_shutdown_of_uvicorn_is_left_alone(
    server: Callable[[], StandIn], left_alone: bool, signum: signal.Signals
) -> None:
    """With anything of ours before it, a SIGTERM comes more often within the handler of a SIGINT."""
    handler = server().handle_exit
    with handling(signum, handler), open_streams(1):
        in_place: object = signal.getsignal(signum)

    assert (in_place == handler) is left_alone


@on_asyncio
@on_each_loop
async def test_hook_on_uvicorn_is_there_while_there_are_streams_and_shows_what_it_wraps() -> None:
    original = uvicorn.Server.shutdown

    with open_streams(1), open_streams(1):
        in_place: Any = uvicorn.Server.shutdown
    taken_back = uvicorn.Server.shutdown

    assert in_place is not original
    assert in_place.__wrapped__ is original
    assert taken_back is original


@on_asyncio
@on_each_loop
async def test_what_was_put_on_top_of_our_hook_on_uvicorn_stays_and_works() -> None:
    called = []
    with pytest.MonkeyPatch.context() as monkeypatch:
        with open_streams(1):
            ours = uvicorn.Server.shutdown

            async def on_top(self: uvicorn.Server, sockets: Any = None) -> None:
                called.append("top")
                await ours(self, sockets)

            monkeypatch.setattr(uvicorn.Server, "shutdown", on_top)
        left = uvicorn.Server.shutdown
        await StandIn().shutdown()
        with open_streams(1) as (stream,):
            await StandIn().shutdown()
        left_again = uvicorn.Server.shutdown
        monkeypatch.undo()
        # What is underneath was ours, and the test has put it back, not us.
        assert uvicorn.Server.shutdown is ours
        monkeypatch.setattr(uvicorn.Server, "shutdown", ours.__wrapped__)  # type: ignore[attr-defined]
        monkeypatch._setattr.clear()

    assert left is left_again is on_top
    assert called == ["top", "top"]
    assert stream.requests == [BY_ITSELF, BY_ITSELF]


@on_each_loop
async def test_without_a_server_loaded_there_is_nothing_to_hook() -> None:
    absent = {name: None for name in sys.modules if name.split(".")[0] == "uvicorn"}
    with patch.dict(sys.modules):
        for name in absent:
            del sys.modules[name]
        with open_streams(1):
            assert uvicorn.Server.shutdown.__qualname__ == "Server.shutdown"
            assert "__wrapped__" not in vars(uvicorn.Server.shutdown)


# hypercorn. The older of the supported environments doesn't have it: what stands here has its shape,
# and tests/servers has the real one.


class FakeEvent:
    def __init__(self) -> None:
        self.is_set = False

    async def set(self) -> None:
        self.is_set = True


@pytest.fixture
def hypercorn_event(monkeypatch: pytest.MonkeyPatch) -> type[FakeEvent]:
    """The class of hypercorn's events, wherever hypercorn runs."""

    class EventWrapper(FakeEvent):
        set = FakeEvent.set

    for backend in ("asyncio", "trio"):
        module: Any = ModuleType(f"hypercorn.{backend}.worker_context")
        module.EventWrapper = (
            EventWrapper if backend == "asyncio" else type("Other", (), {"set": 0})
        )
        monkeypatch.setitem(sys.modules, module.__name__, module)
    return EventWrapper


async def worker_serve(event: FakeEvent) -> None:
    await event.set()


async def close_a_connection(event: FakeEvent) -> None:
    await event.set()


@on_each_loop
async def test_hypercorn_that_stops_ends_the_streams_of_its_loop(
    hypercorn_event: type[FakeEvent],
) -> None:
    other, terminated = hypercorn_event(), hypercorn_event()
    before = hypercorn_event.set
    with open_streams(1) as (stream,):
        await close_a_connection(other)
        await settled()
        after_another_event = list(stream.requests), AppStatus.should_exit
        await worker_serve(terminated)
        requests = await told([stream])
        going_down = AppStatus.should_exit
        del terminated
        gone = AppStatus.should_exit

    assert after_another_event == ([], False)
    assert other.is_set
    assert requests == [[BY_ITSELF]]
    assert (going_down, gone) == (True, False)
    assert hypercorn_event.set is before


@pytest.fixture
def told_to_stop(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Makes this process one of hypercorn's workers; its parent sets the event when it's to stop."""
    event = threading.Event()

    def asyncio_worker() -> None: ...

    asyncio_worker.__module__ = "hypercorn.asyncio.run"
    process = SimpleNamespace(_target=asyncio_worker, _kwargs={"shutdown_event": event})
    monkeypatch.setattr("multiprocessing.process.current_process", lambda: process)
    return event


@on_each_loop
async def test_worker_of_hypercorn_that_is_to_stop_outlives_the_signal_its_parent_sends_then(
    told_to_stop: threading.Event,
) -> None:
    with handling(signal.SIGTERM, signal.SIG_DFL):
        with open_streams(2) as streams:
            told_to_stop.set()
            signal.raise_signal(signal.SIGTERM)
            await told(streams)
            await settled()
        # The streams have ended, the lifespan not yet.
        signal.raise_signal(signal.SIGTERM)
        await settled()
        told_to_stop.clear()
        with open_streams(1):
            pass
        taken_back = signal.getsignal(signal.SIGTERM)

    assert taken_back is signal.SIG_DFL


@on_each_loop
async def test_worker_of_hypercorn_that_gets_sigterm_from_elsewhere_ends_as_ever(
    told_to_stop: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    raised: list[int] = []
    really_raise = signal.raise_signal
    with handling(signal.SIGTERM, signal.SIG_DFL), open_streams(1):
        monkeypatch.setattr(signal, "raise_signal", raised.append)
        really_raise(signal.SIGTERM)
        await until(lambda: raised)

        assert raised == [signal.SIGTERM]
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


@on_each_loop
async def test_worker_of_hypercorn_that_handles_sigterm_keeps_its_handler(
    told_to_stop: threading.Event,
) -> None:
    handler = Handler()
    with handling(signal.SIGTERM, signal.SIG_DFL), open_streams(1):
        with handling(signal.SIGTERM, handler):
            with open_streams(1):
                signal.raise_signal(signal.SIGTERM)
            stays = Told()
            stream_begins(stays)
        stream_ended(stays)

    assert handler.came == [signal.SIGTERM]


# Loops, one after the other and side by side


@asynccontextmanager
async def sleeping_stream() -> AsyncIterator[Exchange]:
    async with drive(EventSourceResponse(sleeping(), farewell={"event": "farewell"})) as exchange:
        await exchange.contains("hello")
        yield exchange


class Abandoned:
    """A loop that was closed in mid-stream, without its tasks having been cancelled."""

    def __init__(self) -> None:
        loop = asyncio.new_event_loop()
        self.task = loop.run_until_complete(self._begin())
        loop.close()
        # The task will never end, and Python need not say so.
        self.task._log_destroy_pending = False  # type: ignore[attr-defined]

    async def _begin(self) -> asyncio.Task[None]:
        exchange = Exchange(None, None)
        response = EventSourceResponse(sleeping())
        streaming = response(http_scope(), exchange.receive, exchange.send)
        task = asyncio.ensure_future(streaming)
        await until(lambda: exchange.chunks)
        return task


async def drained() -> bytes:
    async with sleeping_stream() as exchange:
        drain()
        await exchange.returns()
    return exchange.body


def in_thread(main: Callable[[], Awaitable[Any]]) -> Any:
    """Run `main` on a new loop in another thread."""
    with anyio.from_thread.start_blocking_portal() as portal:
        return portal.call(main)


@pytest.mark.parametrize("run_next", [lambda main: asyncio.run(main()), trio.run, in_thread])
def test_loop_that_was_closed_in_mid_stream_is_forgotten_when_the_next_one_has_streams(
    run_next: Callable[[Callable[[], Awaitable[bytes]]], bytes],
) -> None:
    """And each of the loops after it drains its streams."""
    abandoned = Abandoned()
    remembered = len(_shutdown.State.streams)
    drain()

    bodies = [run_next(drained) for _ in range(2)]
    # What was hooked in the main thread is taken back there.
    bodies.append(asyncio.run(drained()))

    assert remembered == 1
    assert not abandoned.task.done()
    assert [b"event: farewell" in body for body in bodies] == [True] * 3


def test_loop_that_was_closed_while_its_server_went_down_is_forgotten_with_it() -> None:
    handler = Handler()
    with handling(signal.SIGTERM, handler):
        abandoned = Abandoned()
        signal.raise_signal(signal.SIGTERM)
        goes_down = AppStatus.should_exit

        async def next_stream() -> list[Any]:
            with open_streams(1) as (stream,):
                await settled()
                return [*stream.requests, AppStatus.should_exit]

        of_the_next = asyncio.run(next_stream())

    assert goes_down
    assert of_the_next == [False]
    assert not abandoned.task.done()


def test_loop_that_is_closed_while_another_streams_is_forgotten_when_that_one_has_ended() -> None:
    async def main() -> list[int]:
        with open_streams(1):
            # Held, or it would be forgotten whenever Python collects it.
            abandoned = await anyio.to_thread.run_sync(Abandoned)
            signal.raise_signal(signal.SIGTERM)
            going_down = [len(_shutdown.State.going_down)]
            await anyio.to_thread.run_sync(asyncio.run, drained())
            assert not abandoned.task.done()
            return [*going_down, len(_shutdown.State.going_down)]

    with handling(signal.SIGTERM, Handler()):
        assert asyncio.run(main()) == [2, 1]


@on_each_loop
async def test_signal_does_not_concern_a_loop_that_comes_later() -> None:
    """Even while the streams that the signal ended are still there."""

    async def new_stream() -> list[Any]:
        with open_streams(1) as (stream,):
            await settled()
            return stream.requests

    with handling(signal.SIGTERM, Handler()), open_streams(1):
        signal.raise_signal(signal.SIGTERM)
        requests = await anyio.to_thread.run_sync(anyio.run, new_stream)

    assert requests == []


@on_each_loop
async def test_streams_leave_no_task_hook_or_registry_entry() -> None:
    """`tests/thorough` does so with a thousand."""
    await streams_leave_nothing(rounds=2, at_a_time=5)


@pytest.mark.parametrize(
    "turn_off",
    [
        AppStatus.disable_automatic_graceful_drain,
        partial(setattr, AppStatus, "enable_automatic_graceful_drain", False),
    ],
    ids=["by its method", "by hand"],
)
def test_the_switch_of_automatic_drain_reads_as_it_was_set(turn_off: Callable[[], None]) -> None:
    assert AppStatus.enable_automatic_graceful_drain

    turn_off()
    try:
        assert not AppStatus.enable_automatic_graceful_drain
    finally:
        AppStatus.enable_automatic_graceful_drain_mode()

    assert AppStatus.enable_automatic_graceful_drain
