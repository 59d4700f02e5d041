"""What we ask of an event loop beside anyio: the time, wakers, timers, tasks and their ends.

Every stream waits, wakes, pings and ends through these, so they are as light as the loop allows.
Nothing here knows what a stream is, and nothing outlives the stream that asked for it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Generator
from contextvars import ContextVar
from types import TracebackType
from typing import Any, Protocol, Self
from weakref import WeakValueDictionary

from .on_asyncio import AsyncioLoop
from .on_trio import TrioLoop
from .steps import StepObserver


class Waker(Protocol):
    """One task waits here; anything on the same loop may wake it. A wake-up nobody waits for is lost."""

    def set(self) -> None:
        """Have the loop run the waiting task soon, if there is one."""

    def __await__(self) -> Generator[Any, Any, None]:
        """Wait to be woken. May return although nothing happened: look again, then wait again."""


class EagerRunner(Waker, Protocol):
    """
    A waker whose waiting task needn't be woken for what others can do in its name.

    A task that is woken so often pays for a switch each time.
    """

    @property
    def busy(self) -> bool:
        """Whether something was begun, or has failed, that the waiting task is to be woken for."""

    def run_eagerly(
        self, caller: Any, run: Callable[[Any], Awaitable[object]], argument: Any, /
    ) -> bool:
        """
        Do what the waiting task would do, `await run(argument)`, in its name and now; it goes on waiting.

        `caller` is the loop's `current_task`, which a task knows of itself: to ask takes as long as the rest.

        False if it is to be woken (`set`): the loop can't do that, or nobody waits, and nothing has been
        done; or what was begun waits or has failed (`busy`). The waiting task then awaits the rest of it within
        its `await`, which raises what it raises.
        """


class Timer(Protocol):
    """Fires at one time at the most; setting it again moves it."""

    def set(self, when: float) -> None:
        """Fire at `when`, on the loop's clock; up to 20 ms late if that's a second off or more."""

    def stop(self) -> None:
        """Don't fire. May be called twice."""


class TaskStarter(Protocol):
    """Where a task can be started: a task group of anyio, too."""

    def start_soon(self, run: Callable[..., Coroutine[Any, Any, Any]], /, *args: Any) -> object:
        """Start a task that calls `run`."""


class TaskGroup(TaskStarter, Protocol):
    """Tasks that are over when the `async with` is, beside the one that has entered it."""

    async def __aenter__(self) -> Self:
        """Return these tasks."""

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
        /,
    ) -> bool | None:
        """Wait until all are over; raise what one of them has raised."""

    def cancel(self) -> None:
        """Cancel those that are not over, but for the calling one."""


class CancelScope(Protocol):
    """A stretch of one task, entered by `with`, that others may cut off; the task goes on behind it."""

    def __enter__(self) -> object:
        """Begin the stretch."""

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
        /,
    ) -> bool | None:
        """End the stretch; swallow the cancellation that was meant for it."""

    def cancel(self) -> None:
        """
        Cancel the stretch where it waits.

        Before it begins, it is cut off where it first waits; behind its end this does nothing.
        """


class SourceRunner(Protocol):
    """How a source is run: cancelled once, where it waits, and then left alone until its time is up."""

    cut_short: bool
    """Whether its cleanup has taken longer than it may."""

    def cancel(self) -> None:
        """Cancel the source, once, unless it's cleaning up. May be called twice."""

    def clean_up(self) -> None:
        """From now on the source is left alone, until its time is up."""

    def run(
        self, begin: Callable[[], Coroutine[Any, Any, None]], observer: StepObserver, /
    ) -> Awaitable[None]:
        """Await the source that `begin` returns, and keep `observer` up to date."""


class Loop(Protocol):
    """What a stream needs of the loop it runs on."""

    key: object
    """The loop itself: the same object for whatever runs on it."""

    def time(self) -> float:
        """The loop's clock, in seconds."""

    def stopwatch(self) -> float:
        """A clock in seconds that only tells how long something takes, but that well."""

    def waker(self) -> Waker:
        """A new wake-up, for one waiting task."""

    def eager_runner(self) -> EagerRunner:
        """A new eager runner, for one waiting task."""

    def timer(self, fire: Callable[[], None], starter: TaskStarter, /) -> Timer:
        """A new timer that calls `fire`; where the loop has no timers its task runs in `starter`."""

    def task_group(self) -> TaskGroup:
        """A new task group, without tasks yet."""

    def cancel_scope(self) -> CancelScope:
        """A new stretch that may be cut off."""

    def source_runner(self, cleanup_seconds: float | None, /) -> SourceRunner:
        """A new runner for one source, which has so many seconds for its cleanup; None: any number."""

    def run_noting_first_wait(
        self, coroutine: Coroutine[Any, Any, None], note: Callable[[], None], /
    ) -> Awaitable[None]:
        """Await `coroutine`; call `note` once, when it first waits, or has ended without."""

    def call_soon(self, call: Callable[[], object], /) -> object:
        """Have the loop call `call` after all that is ready to run now, unless it's over by then."""

    def call_later(self, seconds: float, call: Callable[[], object], /) -> object:
        """Have the loop call `call` in so many seconds; a loop without timers does it soon."""

    def current_task(self) -> Any:
        """The task that calls, for `run_eagerly`; None: a callback of the loop, or the loop has no need of it."""

    def is_current(self) -> bool:
        """Whether the calling thread runs this loop. Any thread may ask."""

    def call_soon_threadsafe(self, call: Callable[[], object]) -> None:
        """Have the loop call `call` soon, from any thread; RuntimeError if it has been closed."""


loop_override: ContextVar[Loop | None] = ContextVar("sse_starlette_loop_override", default=None)
"""What `current_loop` answers instead. The testing kit sets it in the context it runs an app in."""


_loops: WeakValueDictionary[asyncio.AbstractEventLoop, AsyncioLoop] = WeakValueDictionary()
"""What stands for the loops of asyncio that have streams: one for all of these, and as long as there are any."""


def current_loop() -> Loop:
    """The loop that runs the calling task."""
    if (loop := loop_override.get()) is not None:
        return loop
    if not is_on_asyncio():
        return TrioLoop()
    running = asyncio.get_running_loop()
    loop = _loops.get(running)
    if loop is None:
        loop = _loops[running] = AsyncioLoop()
    return loop


def is_on_asyncio() -> bool:
    """Whether the calling task is one of asyncio's."""
    try:
        # A trio program that is a guest of an asyncio loop has that loop, but no asyncio task.
        return asyncio.current_task() is not None
    except RuntimeError:
        return False
