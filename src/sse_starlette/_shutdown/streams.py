"""The streams of this process, which of their servers go down, and `drain`.

What is known here belongs to an event loop; one that was closed in mid-stream is forgotten when streams
begin or end elsewhere.
"""

from __future__ import annotations

import threading
import weakref
from functools import partial
from typing import TYPE_CHECKING, ClassVar, Literal, Protocol, TypeAlias

from .._runtime.fork import call_in_child
from .._runtime.loop import current_loop

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from .._runtime.loop import Loop
    from .hooks import Hook


EndedFromOutside: TypeAlias = Literal["expired", "revoked"]


class Draining(Protocol):
    """What can be asked to end: a stream."""

    loop: Loop
    listener: str | None
    """Who listens; None: nobody in particular."""

    def end(self, reason: EndedFromOutside, /) -> None:
        """End now, for this reason. On its own loop only."""

    def drain(self, delay: float, grace: float | None, *, automatic: bool) -> None:
        """
        Begin to end in `delay` seconds, and be done `grace` seconds later. On its own loop only.

        An automatic request changes nothing where there has been one already.
        """


def install_with_streams(hooks: Sequence[Hook]) -> None:
    """Have these hooks installed as long as there are streams."""
    State.hooks = hooks


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
    drain_streams(current_streams(), grace=grace, spread=spread)


def stream_begins(stream: Draining) -> None:
    """Have `stream` told when the server goes down; at once if it already does. On its loop only."""
    loop = stream.loop
    call_in_child(_after_fork)
    with State.lock:
        if loop.key not in State.streams:
            _forget_closed_loops()
            State.streams[loop.key] = (loop, weakref.WeakSet())
            # Too late for the hook on a server that is on its way down already.
            if any(hook.is_going_down() for hook in State.hooks):
                State.going_down[stream] = loop.key
        # Not only for the first stream: another server may have come, or taken ours away.
        for hook in State.hooks:
            hook.install()
        State.streams[loop.key][1].add(stream)
        listener_calls = State.listener_calls
    if stream.listener is not None:
        for call in listener_calls:
            call()
    if should_exit():
        stream.drain(0.0, None, automatic=True)


def stream_ended(stream: Draining) -> None:
    """Forget `stream`. The opposite of `stream_begins`; may be called twice."""
    key = stream.loop.key
    with State.lock:
        State.going_down.pop(stream, None)
        if key in State.streams:
            _, streams = State.streams[key]
            streams.discard(stream)
            if not streams:
                del State.streams[key]
                _forget_closed_loops()
        if not State.streams:
            for hook in reversed(State.hooks):
                hook.uninstall()


class State:
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
    """Whether streams are to end because somebody has set `AppStatus.should_exit`."""
    automatic = True
    """Whether streams end by themselves when the server goes down."""
    hooks: ClassVar[Sequence[Hook]] = ()
    listener_calls: ClassVar[tuple[Callable[[], None], ...]] = ()
    """Called when a stream begins that says who listens."""


def _after_fork() -> None:
    # The streams are the parent's, and another thread may have held the lock.
    State.lock = threading.RLock()
    State.streams.clear()
    State.going_down.clear()
    State.listener_calls = ()
    for hook in reversed(State.hooks):
        hook.uninstall()


def should_exit() -> bool:
    """Whether streams are to end: set by hand, or because their server goes down."""
    return State.by_hand or goes_down()


def goes_down() -> bool:
    """Whether the server on the calling task's loop goes down; outside of any task: any server."""
    if not State.automatic or not State.going_down:
        return False
    try:
        here = current_loop().key
    except (RuntimeError, ImportError):
        return True
    with State.lock:
        return any(loop is here for loop in State.going_down.values())


def _forget_closed_loops() -> None:
    # Nobody has ended their streams, and anyio may keep their tasks for ever.
    for key, (loop, _) in list(State.streams.items()):
        try:
            loop.call_soon_threadsafe(_do_nothing)
        except RuntimeError:
            del State.streams[key]
            for witness, its_loop in list(State.going_down.items()):
                if its_loop is key:
                    del State.going_down[witness]


def _do_nothing() -> None:
    """Show that the loop can be reached."""


def current_streams() -> list[Draining]:
    """Return all streams of this process."""
    with State.lock:
        return [stream for _, streams in State.streams.values() for stream in streams]


def drain_streams(
    streams: list[Draining],
    *,
    grace: float | None = None,
    spread: float = 0.0,
    automatic: bool = False,
) -> None:
    """Do what `drain` does to some of the streams, each on its loop; see `Draining.drain`."""

    def drain_here(plan: list[tuple[Draining, float]]) -> None:
        for stream, delay in plan:
            stream.drain(delay, grace, automatic=automatic)

    plans: dict[int, tuple[Loop, list[tuple[Draining, float]]]] = {}
    for place, stream in enumerate(streams):
        _, plan = plans.setdefault(id(stream.loop.key), (stream.loop, []))
        plan.append((stream, spread * (place + 0.5) / len(streams)))
    for loop, plan in plans.values():
        try:
            loop.call_soon_threadsafe(partial(drain_here, plan))
        except RuntimeError:
            pass  # The loop was closed in mid-stream: nobody is left to be told.


def end_streams(reason: EndedFromOutside, listener: str | None = None) -> None:
    """
    End the streams of this process, each on its loop.

    Args:
        reason: why.
        listener: whose; None: those of all listeners that have a name.
    """
    for stream in current_streams():
        if stream.listener is not None and listener in (None, stream.listener):
            try:
                stream.loop.call_soon_threadsafe(partial(stream.end, reason))
            except RuntimeError:
                pass  # As above.


def on_listener(call: Callable[[], None]) -> Callable[[], None]:
    """Have `call` called when a stream begins that says who listens; return what ends that."""
    with State.lock:
        State.listener_calls = (*State.listener_calls, call)

    def forget() -> None:
        with State.lock:
            State.listener_calls = tuple(one for one in State.listener_calls if one is not call)

    return forget


def drain_loop_of_server(witness: object) -> None:
    """Let the streams on the running loop end, and those that begin there as long as `witness` lives."""
    if State.automatic:
        loop = current_loop().key
        with State.lock:
            State.going_down[witness] = loop
        drain_streams([one for one in current_streams() if one.loop.key is loop], automatic=True)
