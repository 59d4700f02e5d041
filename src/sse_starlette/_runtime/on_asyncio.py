"""What `loop` asks of asyncio: bare futures, plain tasks and their native cancellation.

No anyio here: its task group and cancel scopes cost an idle stream several times what asyncio's own do,
and what has to be right, a cancellation that comes once and is never mistaken for another, asyncio
does by counting (`Task.cancelling`). What a change here must keep:

- What is done in the name of a task that waits (`act`) can't tell: that task is the current one
  meanwhile, in its own context, and whoever acts for it is the current one again afterwards. That is
  what Python's own eager tasks do, by the functions that "Extending asyncio" in its documentation names.
- Nothing is cancelled that has not been asked to be, and each `cancel` is taken back by `uncancel` where
  the task goes on.
"""

from __future__ import annotations

import asyncio
import math
import time
import types
from asyncio import current_task
from asyncio.tasks import _enter_task as enter_task
from asyncio.tasks import _leave_task as leave_task
from contextvars import Context
from inspect import CORO_CREATED, getcoroutinestate
from typing import TYPE_CHECKING, Any, Self

from .fork import call_in_child

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Generator

    from .steps import StepObserver


class AsyncioLoop:
    """The running loop of asyncio."""

    __slots__ = ("_loop", "call_later", "call_soon", "key", "stopwatch", "time")

    def __init__(self) -> None:
        self._loop = loop = asyncio.get_running_loop()
        self.key: object = loop
        # The same clock, without a call in between.
        own = getattr(type(loop), "time", None) is asyncio.BaseEventLoop.time
        self.time: Callable[[], float] = time.monotonic if own else loop.time
        # Those of uvloop are milliseconds.
        self.stopwatch: Callable[[], float] = time.perf_counter
        self.call_soon: Callable[[Callable[[], object]], object] = loop.call_soon
        self.call_later: Callable[[float, Callable[[], object]], object] = loop.call_later

    def waker(self) -> AsyncioWaker:
        return AsyncioWaker(self._loop)

    def eager_runner(self) -> AsyncioEagerRunner:
        return AsyncioEagerRunner(self._loop)

    def timer(self, fire: Callable[[], None], starter: object) -> AsyncioTimer:  # noqa: ARG002  (trio needs it)
        return AsyncioTimer(self._loop, fire)

    def task_group(self) -> AsyncioTaskGroup:
        return AsyncioTaskGroup(self._loop)

    def cancel_scope(self) -> AsyncioCancelScope:
        return AsyncioCancelScope()

    def source_runner(self, cleanup_seconds: float | None) -> AsyncioSourceRunner:
        return AsyncioSourceRunner(self._loop, cleanup_seconds)

    @types.coroutine
    def run_noting_first_wait(
        self, coroutine: Coroutine[Any, Any, None], note: Callable[[], None]
    ) -> Generator[Any, Any, None]:
        try:
            try:
                waits_for = coroutine.send(None)
            finally:
                note()
            while True:
                try:
                    yield waits_for
                except GeneratorExit:
                    coroutine.close()  # The task is thrown away, and perhaps it has been already.
                    raise
                except BaseException as exc:  # It's for the coroutine: thrown there.
                    waits_for = coroutine.throw(exc)
                else:
                    break
        except StopIteration:
            return
        # A task of asyncio sends nothing but None, which is how `yield from` goes on, too.
        yield from coroutine.__await__()

    def is_current(self) -> bool:
        try:
            return asyncio.get_running_loop() is self._loop
        except RuntimeError:
            return False

    def call_soon_threadsafe(self, call: Callable[[], object]) -> None:
        self._loop.call_soon_threadsafe(call)


class AsyncioWaker:
    """
    As much of a future as a task needs to wait for it.

    `anyio.Event` costs some three times as much, and a source may wait for every event.
    """

    __slots__ = ("_asyncio_future_blocking", "_context", "_failure", "_loop", "_resume")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._asyncio_future_blocking = False
        self._loop = loop
        self._resume: Callable[[Any], object] | None = None
        self._context: Context | None = None
        self._failure: BaseException | None = None

    def set(self) -> None:
        resume = self._resume
        if resume is not None:
            try:
                self._loop.call_soon(resume, self, context=self._context)
                self._resume = None
            except RuntimeError:
                if not self._loop.is_closed():
                    raise

    def __await__(self) -> Generator[Any, Any, None]:
        self._asyncio_future_blocking = True
        # Yields once. A generator that does so costs three times as much.
        return iter((self,))  # type: ignore[return-value]

    # What a task, and who looks at one, asks of the future that it waits for.

    def done(self) -> bool:
        return self._resume is None

    def add_done_callback(self, resume: Callable[[Any], object], *, context: Context) -> None:
        self._resume = resume
        self._context = context

    def cancel(self, msg: object = None) -> bool:
        if self._resume is None:
            return False
        # anyio knows its own cancellations by their message.
        self._failure = asyncio.CancelledError() if msg is None else asyncio.CancelledError(msg)
        self.set()
        return True

    def result(self) -> None:
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise failure


class AsyncioEagerRunner(AsyncioWaker):
    """A waker whose waiting task needn't be woken for what others can do in its name."""

    __slots__ = ("_begun", "_task")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop)
        self._task: asyncio.Task[Any] | None = None
        # What was begun in the task's name and waits, and what for.
        self._begun: tuple[Coroutine[Any, Any, None], object] | None = None

    def run_eagerly(self, run: Callable[[], Coroutine[Any, Any, None]]) -> bool:
        loop, task, context = self._loop, self._task, self._context
        # A loop that stands still has been closed, and what is left of its tasks is thrown away.
        if self._resume is None or task is None or context is None or not loop.is_running():
            return False
        coroutine = run()
        actor = current_task(loop)
        if actor is not None:
            leave_task(loop, actor)
        enter_task(loop, task)
        try:
            waits_for = context.run(next, coroutine.__await__(), _DONE)
        except BaseException as exc:  # It's for the waiting task: raised there.
            if isinstance(exc, RuntimeError) and getcoroutinestate(coroutine) == CORO_CREATED:
                # Whoever acts has the context of the task, and it can't be entered twice.
                coroutine.close()
            else:
                self._failure = exc
            return False
        finally:
            leave_task(loop, task)
            if actor is not None:
                enter_task(loop, actor)
        if waits_for is _DONE:
            return True
        self._begun = coroutine, waits_for
        return False

    def __await__(self) -> Generator[Any, Any, None]:
        self._task = current_task(self._loop)
        self._asyncio_future_blocking = True
        thrown: BaseException | None = None
        try:
            yield self
        except BaseException as exc:  # It's for what was begun, if anything was.
            if self._begun is None:
                raise
            thrown = exc
        if self._begun is not None:
            (coroutine, waits_for), self._begun = self._begun, None
            yield from _rest(coroutine, waits_for, thrown)


_DONE = object()


def _rest(
    coroutine: Coroutine[Any, Any, None], waits_for: object, thrown: BaseException | None
) -> Generator[Any, Any, None]:
    """Go on with a coroutine that waits for something, or first throw something into it."""
    outcome: Any = None
    try:
        while True:
            if thrown is None:
                try:
                    outcome = yield waits_for
                except BaseException as exc:  # It's for the coroutine: thrown there.
                    thrown = exc
            if thrown is None:
                waits_for = coroutine.send(outcome)
            else:
                to_throw, thrown = thrown, None
                waits_for = coroutine.throw(to_throw)
    except StopIteration:
        pass


class AsyncioTimer:
    __slots__ = ("_fire", "_loop", "_set")

    def __init__(self, loop: asyncio.AbstractEventLoop, fire: Callable[[], None]) -> None:
        self._loop = loop
        self._fire = fire
        self._set: asyncio.TimerHandle | tuple[_TimerWheel, int] | None = None

    def set(self, when: float) -> None:
        self.stop()
        if when < self._loop.time() + _FAR_SECONDS:
            self._set = self._loop.call_at(when, self._fire)
        elif when < math.inf:
            self._set = _wheel_of(self._loop).set(self, when)

    def stop(self) -> None:
        if isinstance(self._set, tuple):
            wheel, tick = self._set
            wheel.stop(self, tick)
        elif self._set is not None:
            self._set.cancel()
        self._set = None

    def fire(self) -> None:
        self._set = None
        self._fire()


_FAR_SECONDS = 1.0
"""Timers as far off as this share one of the loop's, and fire up to a tick late."""
_TICK_SECONDS = 0.02
_RUNG_AT_ONCE = 100
"""After so many timers the loop gets its turn."""


class _TimerWheel:
    """
    Fires the timers of one loop that are far off, by one timer of the loop's.

    Ten thousand silent streams are as many timers. One of the loop's for each is a handle and a place in the
    loop's heap; here it is a place in the dict of those that fire at the same tick.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._alarms: dict[int, dict[AsyncioTimer, None]] = {}
        self._next: float = math.inf
        self._timer: asyncio.Handle | None = None

    def set(self, timer: AsyncioTimer, when: float) -> tuple[_TimerWheel, int]:
        tick = math.ceil(when / _TICK_SECONDS)
        self._alarms.setdefault(tick, {})[timer] = None
        if tick < self._next:
            self._wait_for(tick)
        return self, tick

    def stop(self, timer: AsyncioTimer, tick: int) -> None:
        timers = self._alarms[tick]
        del timers[timer]
        if not timers:
            del self._alarms[tick]
            if not self._alarms:
                self._end()

    def _wait_for(self, tick: int) -> None:
        self._stop_timer()
        self._next = tick
        # In nobody's context: it would be kept for all that come after.
        self._timer = self._loop.call_at(tick * _TICK_SECONDS, self._fire, context=Context())

    def _fire(self) -> None:
        # The timer may come a little early, as its loop rounds.
        until = max(self._next, self._loop.time() // _TICK_SECONDS)
        rung = 0
        for tick in sorted(one for one in self._alarms if one <= until):
            # Whoever fires may set and stop others.
            while timers := self._alarms.get(tick):
                if rung == _RUNG_AT_ONCE:
                    self._timer = self._loop.call_soon(self._fire, context=Context())
                    return
                rung += 1
                timer = next(iter(timers))
                del timers[timer]
                if not timers:
                    del self._alarms[tick]
                try:
                    timer.fire()
                except Exception as exc:
                    self._loop.call_exception_handler(
                        {"message": "a timer raised when its time had come", "exception": exc}
                    )
        if self._alarms:
            self._wait_for(min(self._alarms))
        else:
            self._end()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _end(self) -> None:
        self._stop_timer()
        if _WHEELS.get(self._loop) is self:
            del _WHEELS[self._loop]


_WHEELS: dict[asyncio.AbstractEventLoop, _TimerWheel] = {}
"""The wheel of each loop that has timers far off."""


def _wheel_of(loop: asyncio.AbstractEventLoop) -> _TimerWheel:
    wheel = _WHEELS.get(loop)
    if wheel is None:
        for other in list(_WHEELS):
            if other.is_closed():  # In mid-stream: nobody has stopped its timers.
                _WHEELS.pop(other, None)
        call_in_child(_WHEELS.clear)
        wheel = _WHEELS[loop] = _TimerWheel(loop)
    return wheel


class AsyncioTaskGroup:
    """Tasks that are over when the `async with` is."""

    __slots__ = ("_failure", "_loop", "_tasks", "_waiting")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._tasks: list[asyncio.Task[object]] = []
        self._failure: BaseException | None = None
        self._waiting: AsyncioWaker | None = None

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
        self._waiting = AsyncioWaker(self._loop)
        while self._tasks:
            try:
                await self._waiting
            except asyncio.CancelledError as exc:
                interrupted = exc
        if self._failure is not None:
            raise self._failure
        if interrupted is not None:
            raise interrupted


class AsyncioCancelScope:
    """A stretch of one task that another may cut off; it goes on behind it."""

    __slots__ = ("_before", "_called", "_left", "_task")

    def __init__(self) -> None:
        self._task: asyncio.Task[Any] | None = None
        self._called = False
        self._left = False
        self._before = 0

    def cancel(self) -> None:
        if not self._called and not self._left:
            task = self._task
            if task is None:
                self._called = True
            elif not task.get_loop().is_closed():
                self._called = True
                task.cancel()

    def __enter__(self) -> None:
        self._task = task = current_task()
        if task is not None:
            self._before = task.cancelling()
            if self._called:
                # As with a scope of anyio, where it first waits. Not at once: a stretch that doesn't
                # wait would leave that to what comes behind it.
                self._called = False
                task.get_loop().call_soon(self.cancel)

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> bool:
        if kind is GeneratorExit:
            # Thrown away with its task, which is held on to here: if it went now, it would close what is
            # being closed.
            return False
        task, self._task = self._task, None
        self._left = True
        if task is None or not self._called:
            return False
        # As `asyncio.timeout` does: if somebody else has cancelled too, it's theirs.
        return task.uncancel() <= self._before and kind is asyncio.CancelledError


class AsyncioSourceRunner:
    """How a source is run: cancelled once where it waits, and left alone after that until time is up."""

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
    def run(
        self, source: Coroutine[Any, Any, None], observer: StepObserver
    ) -> Generator[Any, Any, None]:
        self._task = current_task()
        resume: Callable[[Any], Any] = source.send
        outcome: Any = None
        now = observer.time
        try:
            while True:
                observer.runs_since = now()
                try:
                    wait = resume(outcome)
                except StopIteration:
                    return
                observer.about_to_wait()
                if self._ending:
                    self._bound()
                self._waits = True
                try:
                    outcome = yield wait
                    resume = source.send
                except GeneratorExit:
                    # The task is thrown away, and perhaps the source has been already.
                    source.close()
                    raise
                except BaseException as exc:  # It's for the source: thrown there.
                    resume, outcome = source.throw, exc
                self._waits = False
        finally:
            self._task = None
            outcome = None  # An exception knows this frame by its traceback, and would live in its own circle.
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None

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
