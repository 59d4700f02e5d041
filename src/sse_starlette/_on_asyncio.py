"""What `_loop` asks of asyncio: bare futures, plain tasks and their native cancellation.

No anyio here: its task group and cancel scopes cost an idle stream several times what asyncio's own do,
and what has to be right, a cancellation that comes once and is never mistaken for another, asyncio
does by counting (`Task.cancelling`). What a change here must keep:

- A task that `run` switches to is a task like any other: it's the current one while it runs, in its
  own context, and whoever switched to it is the current one again afterwards. That is what Python's
  own eager tasks do, by the functions that "Extending asyncio" in its documentation names.
- Nothing is cancelled that has not been asked to be, and each `cancel` is taken back by `uncancel` where
  the task goes on.
"""

from __future__ import annotations

import asyncio
import math
import time
import types
from asyncio import _get_running_loop, current_task
from asyncio.tasks import _enter_task as enter_task
from asyncio.tasks import _leave_task as leave_task
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Generator
    from contextvars import Context

    from ._led import Led


class AsyncioLoop:
    """The running loop of asyncio."""

    __slots__ = ("_loop", "key", "later", "soon", "time")

    def __init__(self) -> None:
        self._loop = loop = asyncio.get_running_loop()
        self.key: object = loop
        # The same clock, without a call in between.
        own = getattr(type(loop), "time", None) is asyncio.BaseEventLoop.time
        self.time: Callable[[], float] = time.monotonic if own else loop.time
        self.soon: Callable[[Callable[[], object]], object] = loop.call_soon
        self.later: Callable[[float, Callable[[], object]], object] = loop.call_later

    def wake_up(self) -> AsyncioWakeUp:
        return AsyncioWakeUp(self._loop)

    def alarm(self, ring: Callable[[], None], beside: object) -> AsyncioAlarm:  # noqa: ARG002  (trio needs it)
        return AsyncioAlarm(self._loop, ring)

    def tasks(self) -> AsyncioTasks:
        return AsyncioTasks(self._loop)

    def cut(self) -> AsyncioCut:
        return AsyncioCut()

    def reins(self, cleanup_seconds: float | None) -> AsyncioReins:
        return AsyncioReins(self._loop, cleanup_seconds)

    def is_current(self) -> bool:
        try:
            return asyncio.get_running_loop() is self._loop
        except RuntimeError:
            return False

    def knock(self, call: Callable[[], object]) -> None:
        self._loop.call_soon_threadsafe(call)


class AsyncioWakeUp:
    """
    As much of a future as a task needs to wait for it, and to be run by whoever wakes it.

    `anyio.Event` costs some three times as much, and a stream waits for every event.
    """

    __slots__ = ("_asyncio_future_blocking", "_cancelled", "_context", "_loop", "_resume", "_waits")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._asyncio_future_blocking = False
        self._loop = loop
        self._resume: Callable[[Any], object] | None = None
        self._context: Context | None = None
        self._waits = False
        self._cancelled: asyncio.CancelledError | None = None

    def set(self) -> None:
        resume = self._resume
        if resume is not None:
            try:
                self._loop.call_soon(resume, self, context=self._context)
                self._resume = None
            except RuntimeError:
                if not self._loop.is_closed():
                    raise

    def run(self) -> None:
        resume, context = self._resume, self._context
        if resume is None or context is None:
            return
        loop = self._loop
        if _get_running_loop() is not loop:
            # It stands still; or it has been closed, and what is left of its tasks is thrown away.
            self.set()
            return
        self._resume = None
        running = current_task(loop)
        if running is not None:
            leave_task(loop, running)
        try:
            context.run(resume, self)
        except RuntimeError:
            # Whoever runs now has the context of the one that waits.
            if not self._waits:
                raise
            loop.call_soon(resume, self, context=context)
        finally:
            if running is not None:
                enter_task(loop, running)

    def __await__(self) -> Generator[AsyncioWakeUp, None, None]:
        self._asyncio_future_blocking = True
        # Yields once. A generator that does so costs three times as much.
        return iter((self,))  # type: ignore[return-value]

    # What a task, and who looks at one, asks of the future that it waits for.

    def done(self) -> bool:
        return self._resume is None

    def add_done_callback(self, resume: Callable[[Any], object], *, context: Context) -> None:
        self._resume = resume
        self._context = context
        self._waits = True

    def cancel(self, msg: object = None) -> bool:
        if self._resume is None:
            return False
        # anyio knows its own cancellations by their message.
        self._cancelled = asyncio.CancelledError() if msg is None else asyncio.CancelledError(msg)
        self.set()
        return True

    def result(self) -> None:
        self._waits = False
        if self._cancelled is not None:
            cancelled, self._cancelled = self._cancelled, None
            raise cancelled


class AsyncioAlarm:
    __slots__ = ("_handle", "_loop", "_ring")

    def __init__(self, loop: asyncio.AbstractEventLoop, ring: Callable[[], None]) -> None:
        self._loop = loop
        self._ring = ring
        self._handle: asyncio.TimerHandle | None = None

    def set(self, when: float) -> None:
        self.stop()
        if when < math.inf:
            self._handle = self._loop.call_at(when, self._ring)

    def stop(self) -> None:
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None


class AsyncioTasks:
    """Tasks that are over when the `async with` is."""

    __slots__ = ("_failure", "_loop", "_tasks", "_waiting")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._tasks: list[asyncio.Task[object]] = []
        self._failure: BaseException | None = None
        self._waiting: AsyncioWakeUp | None = None

    def start_soon(self, run: Callable[..., Coroutine[Any, Any, object]], *args: object) -> None:
        task = self._loop.create_task(run(*args))
        self._tasks.append(task)
        task.add_done_callback(self._ended)

    def cancel(self) -> None:
        if not self._loop.is_closed():
            caller = current_task(self._loop)
            for task in self._tasks:
                if task is not caller:
                    task.cancel()

    def _ended(self, task: asyncio.Task[object]) -> None:
        self._tasks.remove(task)
        if not task.cancelled():
            self._failure = self._failure or task.exception()
        if self._waiting is not None:
            self._waiting.set()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is GeneratorExit:
            return  # The loop has been closed, and nobody waits any more.
        interrupted: asyncio.CancelledError | None = None
        self._waiting = AsyncioWakeUp(self._loop)
        while self._tasks:
            try:
                await self._waiting
            except asyncio.CancelledError as exc:
                interrupted = exc
        if self._failure is not None:
            raise self._failure
        if interrupted is not None:
            raise interrupted


class AsyncioCut:
    """A stretch of one task that another may cut off; it goes on behind it."""

    __slots__ = ("_before", "_called", "_task")

    def __init__(self) -> None:
        self._task: asyncio.Task[Any] | None = None
        self._called = False
        self._before = 0

    def cancel(self) -> None:
        task = self._task
        if task is not None and not self._called and not task.get_loop().is_closed():
            self._called = True
            task.cancel()

    def __enter__(self) -> None:
        self._task = task = current_task()
        if task is not None:
            self._before = task.cancelling()

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> bool:
        task, self._task = self._task, None
        if task is None or not self._called:
            return False
        # As `asyncio.timeout` does: if somebody else has cancelled too, it's theirs.
        return task.uncancel() <= self._before and kind is asyncio.CancelledError


class AsyncioReins:
    """How a source is led: cancelled once where it waits, and left alone after that until time is up."""

    __slots__ = (
        "_asked",
        "_cleaning",
        "_cleanup_seconds",
        "_due",
        "_ending",
        "_loop",
        "_task",
        "_timer",
        "_waits",
        "cut_short",
    )

    def __init__(self, loop: asyncio.AbstractEventLoop, cleanup_seconds: float | None) -> None:
        self._loop = loop
        self._cleanup_seconds = cleanup_seconds
        self._task: asyncio.Task[Any] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._asked = False
        self._due = False
        self._waits = False
        self._cleaning = False
        self._ending = False
        self.cut_short: bool = False

    def cancel(self) -> None:
        if not self._asked:
            self._asked = self._ending = True
            if self._waits and not self._cleaning:
                self._cancel()
            else:
                self._due = True

    def clean_up(self) -> None:
        self._cleaning = self._ending = True

    @types.coroutine
    def lead(self, source: Coroutine[Any, Any, None], led: Led) -> Generator[Any, Any, None]:
        self._task = current_task()
        resume: Callable[[Any], Any] = source.send
        outcome: Any = None
        now = led.time
        try:
            while True:
                led.runs_since = now()
                try:
                    wait = resume(outcome)
                except StopIteration:
                    return
                led.about_to_wait()
                if self._ending:
                    self._bound()
                self._waits = True
                try:
                    outcome = yield wait
                    resume = source.send
                except BaseException as exc:  # It's for the source: thrown there.
                    resume, outcome = source.throw, exc
                self._waits = False
        finally:
            self._task = None
            if self._timer is not None:
                self._timer.cancel()

    def _bound(self) -> None:
        """Do what is due before a source waits that is to end, or is at it."""
        if self._cleaning:
            self._set_timer()
        elif self._due:
            self._due = False
            self._loop.call_soon(self._cancel)
        if self.cut_short:
            self._loop.call_soon(self._cut)

    def _cancel(self) -> None:
        if self._task is not None and not self._cleaning:
            self._task.cancel()
            self._cleaning = True
            self._set_timer()

    def _set_timer(self) -> None:
        if self._timer is None and self._cleanup_seconds is not None:
            self._timer = self._loop.call_later(self._cleanup_seconds, self._cut)

    def _cut(self) -> None:
        if self._task is not None:
            self.cut_short = True
            self._task.cancel()
