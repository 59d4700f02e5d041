"""Tasks of asyncio and how they are cancelled: groups of them, stretches of one, and the task of a source."""

from __future__ import annotations

import asyncio
import types
from asyncio import current_task
from enum import Enum
from typing import TYPE_CHECKING, Any, Self

from .wakers import AsyncioWaker

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Generator

    from ..steps import StepObserver


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


class _Phase(Enum):
    """How far a source has come on the way to its end."""

    RUNS = 0
    """Nobody wants it to end."""
    IS_TO_END = 1
    """It's cancelled where it waits next."""
    CLEANS_UP = 2
    """It's left alone, until its time is up."""


_RUNS, _IS_TO_END, _CLEANS_UP = _Phase  # A member's name is looked up each time.


class AsyncioSourceRunner:
    """How a source is run: cancelled once where it waits, and left alone after that until time is up."""

    __slots__ = (
        "_cleanup_seconds",
        "_loop",
        "_phase",
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
        self._phase = _RUNS
        self._waits = False
        self.cut_short: bool = False

    def cancel(self) -> None:
        if self._phase is _RUNS:
            self._phase = _IS_TO_END
            if self._waits:
                self._cancel()

    def clean_up(self) -> None:
        self._phase = _CLEANS_UP

    @types.coroutine
    def run(
        self, begin: Callable[[], Coroutine[Any, Any, None]], observer: StepObserver
    ) -> Generator[Any, Any, None]:
        self._task = current_task()
        source = begin()
        send: Callable[[Any], Any] = source.send
        resume = send
        outcome: Any = None
        now = observer.time
        try:
            while True:
                observer.runs_since = now()
                observer.just_woke = True
                try:
                    wait = resume(outcome)
                except StopIteration:
                    return
                if observer.notes_waits:
                    observer.about_to_wait()
                if self._phase is not _RUNS:
                    self._bound()
                self._waits = True
                try:
                    outcome = yield wait
                    resume = send
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
        if self._phase is _CLEANS_UP:
            self._set_timer()
        else:
            self._loop.call_soon(self._cancel)
        if self.cut_short:
            self._loop.call_soon(self._cut)

    def _cancel(self) -> None:
        if self._task is not None and self._phase is not _CLEANS_UP:
            self._phase = _CLEANS_UP
            self._task.cancel()
            self._set_timer()

    def _set_timer(self) -> None:
        if self._timer is None and self._cleanup_seconds is not None:
            self._timer = self._loop.call_later(self._cleanup_seconds, self._cut)

    def _cut(self) -> None:
        if self._task is not None:
            self.cut_short = True
            self._task.cancel()
