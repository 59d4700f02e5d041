"""Knows when the server goes down, and lets the streams of this process end.

No server tells its applications in time: uvicorn and granian wait for open streams for ever,
hypercorn cuts them after a while. So hooks are put where each of them passes on its way down, when
the first stream begins and never at import, and taken back when the last one ends:

- uvicorn: `Server.shutdown`, looked up when it is called, whoever runs the server and why ever it
  stops (signal, `should_exit`, `--limit-max-requests`). Gunicorn's uvicorn worker passes there too.
- hypercorn: the event that its `worker_serve` sets first when it stops; and SIGTERM in its workers,
  which its parent sends them as soon as the first of them has gone.
- SIGTERM and SIGINT, behind the handler that is there: granian, daphne and others.

Nothing polls, and nothing is remembered of a server that has stopped. What is known here belongs to
an event loop; one that was closed in mid-stream is forgotten when streams begin or end elsewhere.
"""

from __future__ import annotations

import signal
import sys
import threading
import weakref

# What `signal` is made of; the type checker doesn't know it. `signal` makes an enum member of each answer, or tries to: 30 µs for a handler.
from _signal import getsignal  # type: ignore[import-not-found]
from _signal import signal as set_signal
from functools import partial, wraps
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from .._runtime.fork import call_in_child
from .._runtime.loop import current_loop

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from types import FrameType

    from .._runtime.loop import Loop

__all__ = ["AppStatus", "drain"]


class Draining(Protocol):
    """What can be asked to end: a stream."""

    loop: Loop

    def drain(self, delay: float, grace: float | None, *, automatic: bool) -> None:
        """
        Begin to end in `delay` seconds, and be done `grace` seconds later. On its own loop only.

        An automatic request changes nothing where there has been one already.
        """


def drain(grace: float | None = None, spread: float = 0.0) -> None:
    """
    Let the streams of this process end, as they do when the server goes down.

    May be called from anywhere: any thread, a signal handler, a route. It returns at once. Each
    stream then sets its `shutdown_event`, gives its source the grace period, says farewell and
    completes its body. Streams that begin later are not concerned: clients that reconnect to this
    process find it open. Called again, it replaces what was asked for before; what a server that
    goes down asks for doesn't.

    Args:
        grace: seconds that sources have to end by themselves before they're cancelled. None: the
            `shutdown_grace_period` of each response.
        spread: seconds over which the streams begin to end, one by one at even distances, so that
            their clients don't all come back at once. 0: all now.

    Raises:
        ValueError: an argument is negative.
    """
    if grace is not None and not grace >= 0:
        raise ValueError(f"grace must be >= 0 seconds, got: {grace}")
    if not spread >= 0:
        raise ValueError(f"spread must be >= 0 seconds, got: {spread}")
    _drain(_current_streams(), grace=grace, spread=spread)


class _AppStatusType(type):
    """Makes an assignment to `AppStatus.should_exit` an order rather than a flag to look at."""

    @property
    def should_exit(cls) -> bool:
        """Whether streams are to end: set by hand, or because their server goes down."""
        return _State.by_hand or _goes_down()

    @should_exit.setter
    def should_exit(cls, value: bool) -> None:
        _State.by_hand = bool(value)
        if value:
            _drain(_current_streams())

    @should_exit.deleter
    def should_exit(cls) -> None:
        _State.by_hand = False


class AppStatus(metaclass=_AppStatusType):
    """
    The switch of earlier versions, on what `drain` does now.

    Setting `should_exit` to True, from any thread, ends all streams, and those that begin later,
    until it's set back to False. It reads True as well while the server goes down.
    """

    should_exit_event: object = None
    """Without effect; there so that it can be assigned."""
    enable_automatic_graceful_drain: bool = True
    """Whether streams end by themselves when the server goes down."""
    original_handler: Callable[..., object] | None = None
    """Called by `handle_exit` with its arguments."""

    @staticmethod
    def disable_automatic_graceful_drain() -> None:
        """From now on leave it to `should_exit` or `drain` to end streams: the server waits for it."""
        AppStatus.enable_automatic_graceful_drain = False

    @staticmethod
    def enable_automatic_graceful_drain_mode() -> None:
        """Let streams end by themselves again when the server goes down."""
        AppStatus.enable_automatic_graceful_drain = True

    @staticmethod
    def handle_exit(*args: Any, **kwargs: Any) -> None:
        """Do what a signal handler should: set `should_exit`, then call `original_handler`."""
        if AppStatus.enable_automatic_graceful_drain:
            AppStatus.should_exit = True
        if AppStatus.original_handler is not None:
            AppStatus.original_handler(*args, **kwargs)


def stream_begins(stream: Draining) -> None:
    """Have `stream` told when the server goes down; at once if it already does. On its loop only."""
    loop = stream.loop
    call_in_child(_after_fork)
    with _State.lock:
        if loop.key not in _State.streams:
            _forget_closed_loops()
            _State.streams[loop.key] = (loop, weakref.WeakSet())
            if _uvicorn_stops():
                _State.going_down[stream] = loop.key
        # Not only for the first stream: another server may have come, or taken ours away.
        for hook in _HOOKS:
            hook.put()
        _State.streams[loop.key][1].add(stream)
    if AppStatus.should_exit:
        stream.drain(0.0, None, automatic=True)


def stream_ended(stream: Draining) -> None:
    """Forget `stream`. The opposite of `stream_begins`; may be called twice."""
    key = stream.loop.key
    with _State.lock:
        _State.going_down.pop(stream, None)
        if key in _State.streams:
            _, streams = _State.streams[key]
            streams.discard(stream)
            if not streams:
                del _State.streams[key]
                _forget_closed_loops()
        if not _State.streams:
            for hook in reversed(_HOOKS):
                hook.take_back()


class _State:
    """All that is known of this process. Only `lock` allows to look at more than one thing."""

    # Reentrant: a signal handler may run in the middle of anything the main thread does here.
    lock = threading.RLock()
    streams: ClassVar[dict[object, tuple[Loop, weakref.WeakSet[Draining]]]] = {}
    """Each loop that has streams, and these, by the key of the loop."""
    going_down: ClassVar[weakref.WeakKeyDictionary[object, object]] = weakref.WeakKeyDictionary()
    """
    The loops of servers that go down, each for as long as the key, a witness of it, is alive.

    That's a part of the server where there is one to be had, and else a stream that is to end.
    """
    by_hand = False


def _after_fork() -> None:
    # The streams are the parent's, and another thread may have held the lock.
    _State.lock = threading.RLock()
    _State.streams.clear()
    _State.going_down.clear()
    for hook in reversed(_HOOKS):
        hook.take_back()


class _GoingDown:
    """Witness of a server that goes down."""


def _goes_down() -> bool:
    """Whether the server on the calling task's loop goes down; outside of any task: any server."""
    if not AppStatus.enable_automatic_graceful_drain or not _State.going_down:
        return False
    try:
        here = current_loop().key
    except (RuntimeError, ImportError):
        return True
    with _State.lock:
        return any(loop is here for loop in _State.going_down.values())


def _uvicorn_stops() -> bool:
    # The hook on a server that is on its way down already comes too late. If the server handles the
    # signals, it can be asked.
    server = getattr(getsignal(signal.SIGTERM), "__self__", None)
    uvicorn = sys.modules.get("uvicorn")
    return uvicorn is not None and isinstance(server, uvicorn.Server) and server.should_exit


def _forget_closed_loops() -> None:
    # Nobody has ended their streams, and anyio may keep their tasks for ever.
    for key, (loop, _) in list(_State.streams.items()):
        try:
            loop.knock(_do_nothing)
        except RuntimeError:
            del _State.streams[key]
            for witness, its_loop in list(_State.going_down.items()):
                if its_loop is key:
                    del _State.going_down[witness]


def _do_nothing() -> None:
    """Show that the loop can be reached."""


def _current_streams() -> list[Draining]:
    with _State.lock:
        return [stream for _, streams in _State.streams.values() for stream in streams]


def _drain(
    streams: list[Draining],
    *,
    grace: float | None = None,
    spread: float = 0.0,
    automatic: bool = False,
) -> None:
    def drain_here(plan: list[tuple[Draining, float]]) -> None:
        for stream, delay in plan:
            stream.drain(delay, grace, automatic=automatic)

    plans: dict[int, tuple[Loop, list[tuple[Draining, float]]]] = {}
    for place, stream in enumerate(streams):
        _, plan = plans.setdefault(id(stream.loop.key), (stream.loop, []))
        plan.append((stream, spread * (place + 0.5) / len(streams)))
    for loop, plan in plans.values():
        try:
            loop.knock(partial(drain_here, plan))
        except RuntimeError:
            pass  # The loop was closed in mid-stream: nobody is left to be told.


class _MethodHook:
    """Stands before a method of a server's class while there are streams."""

    def __init__(
        self, module: str, owner: str, name: str, around: Callable[[Any], Callable[..., Any]]
    ) -> None:
        self._module = module
        self._owner = owner
        self._name = name
        self._around = around
        self._put: tuple[type, Any, Any] | None = None

    def put(self) -> None:
        # A server that runs has been imported; no other is looked for.
        owner = getattr(sys.modules.get(self._module), self._owner, None)
        if owner is None:
            return
        found = getattr(owner, self._name)
        if self._put is None or found is not self._put[2]:
            ours = self._around(found)
            setattr(owner, self._name, ours)
            self._put = (owner, found, ours)

    def take_back(self) -> None:
        if self._put is not None:
            owner, original, ours = self._put
            # Where somebody has put theirs on top of ours, it stays; without streams it does nothing.
            if getattr(owner, self._name) is ours:
                setattr(owner, self._name, original)
            self._put = None


class _SignalHook:
    """Stands behind the handler of a signal while there are streams."""

    def __init__(self, signum: signal.Signals) -> None:
        self._signum = signum
        self._put: tuple[Any, Any] | None = None

    def put(self) -> None:
        # What isn't handled in Python isn't anybody's way to stop streams in order: it stays.
        found = getsignal(self._signum)
        if not callable(found) or not _in_main_thread():
            return
        if self._put is None or found is not self._put[1]:
            ours = partial(self._handle, found)
            set_signal(self._signum, ours)
            self._put = (found, ours)

    def take_back(self) -> None:
        if self._put is not None and _in_main_thread():
            handler, ours = self._put
            if getsignal(self._signum) is ours:
                set_signal(self._signum, handler)
            self._put = None

    @staticmethod
    def _handle(handler: Callable[..., Any], signum: int, frame: FrameType | None) -> Any:
        try:
            # First, for what comes before it gives another signal the time to overtake this one:
            # uvicorn takes a SIGINT after a SIGTERM for a second Ctrl+C.
            return handler(signum, frame)
        finally:
            if AppStatus.enable_automatic_graceful_drain:
                streams = _current_streams()
                with _State.lock:
                    _State.going_down.update((stream, stream.loop.key) for stream in streams)
                _drain(streams, automatic=True)


class _HypercornWorkerHook:
    """
    Keeps a worker of hypercorn alive while it goes down.

    When the first of several workers has gone, their parent sends SIGTERM to the others, which don't
    handle it: it would end them in mid-stream, even before they have noticed that they are to stop.
    """

    def __init__(self) -> None:
        self._put: tuple[Any, Any] | None = None

    def put(self) -> None:
        stop = self._stop_event()
        if (
            stop is not None
            and self._put is None
            and _in_main_thread()
            and getsignal(signal.SIGTERM) == signal.SIG_DFL
        ):
            # Asked on the loop and not in the handler, which may have come in the middle of such a
            # question; the event has a lock.
            ours = partial(
                self._handle, current_loop().knock, partial(self._die_unless, stop.is_set)
            )
            signal.signal(signal.SIGTERM, ours)
            self._put = (stop, ours)

    def take_back(self) -> None:
        if self._put is not None and _in_main_thread():
            stop, ours = self._put
            # On its way down it's needed to the end.
            if not stop.is_set():
                if getsignal(signal.SIGTERM) is ours:
                    signal.signal(signal.SIGTERM, signal.SIG_DFL)
                self._put = None

    @staticmethod
    def _stop_event() -> Any:
        """Find what the parent tells this worker with that it's to stop."""
        processes = sys.modules.get("multiprocessing.process")
        if processes is None:
            return None
        worker = processes.current_process()
        if not getattr(getattr(worker, "_target", None), "__module__", "").startswith("hypercorn."):
            return None
        return worker._kwargs.get("shutdown_event")  # noqa: SLF001  (there's no other way to it)

    @staticmethod
    def _handle(
        knock: Callable[[Callable[[], None]], None], die_unless: Callable[[], None], *_: object
    ) -> None:
        knock(die_unless)

    @staticmethod
    def _die_unless(stopping: Callable[[], bool]) -> None:
        if not stopping():
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            signal.raise_signal(signal.SIGTERM)


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


def _drain_loop_of_server(witness: object) -> None:
    if AppStatus.enable_automatic_graceful_drain:
        loop = current_loop().key
        with _State.lock:
            _State.going_down[witness] = loop
        _drain([one for one in _current_streams() if one.loop.key is loop], automatic=True)


def _around_uvicorn_shutdown(
    original: Callable[..., Awaitable[None]],
) -> Callable[..., Awaitable[None]]:
    @wraps(original)
    async def shutdown(*args: Any, **kwargs: Any) -> None:
        going_down = _GoingDown()
        _drain_loop_of_server(going_down)
        try:
            await original(*args, **kwargs)
        finally:
            # The next server on this loop has nothing to do with it.
            with _State.lock:
                _State.going_down.pop(going_down, None)

    return shutdown


def _around_hypercorn_event(
    original: Callable[..., Awaitable[None]],
) -> Callable[..., Awaitable[None]]:
    @wraps(original)
    async def set_(self: object) -> None:
        # Of all the events of hypercorn, `worker_serve` sets one: the one that says it stops. That
        # event lives as long as its server does.
        if sys._getframe(1).f_code.co_name == "worker_serve":  # noqa: SLF001  (its public form is slow)
            _drain_loop_of_server(self)
        await original(self)

    return set_


_HOOKS: list[_MethodHook | _SignalHook | _HypercornWorkerHook] = [
    _MethodHook("uvicorn.server", "Server", "shutdown", _around_uvicorn_shutdown),
    _MethodHook("hypercorn.asyncio.worker_context", "EventWrapper", "set", _around_hypercorn_event),
    _MethodHook("hypercorn.trio.worker_context", "EventWrapper", "set", _around_hypercorn_event),
    _HypercornWorkerHook(),
    _SignalHook(signal.SIGTERM),
    _SignalHook(signal.SIGINT),
]
