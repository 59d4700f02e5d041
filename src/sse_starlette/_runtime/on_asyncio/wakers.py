"""Where a task of asyncio waits to be woken, and what others do in its name meanwhile.

What a change here must keep: what is done in the name of a task that waits can't tell. That task is the
current one meanwhile, in its own context, and whoever acts for it is the current one again afterwards. That
is what Python's own eager tasks do, by the functions that "Extending asyncio" in its documentation names.
"""

from __future__ import annotations

import asyncio
from asyncio import current_task
from inspect import CORO_CREATED, getcoroutinestate
from types import CoroutineType
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Generator
    from contextvars import Context

# A Python without them: then the waiting task is woken, which takes longer.
enter_task: Callable[[Any, Any], None] | None = getattr(asyncio.tasks, "_enter_task", None)
leave_task: Callable[[Any, Any], None] | None = getattr(asyncio.tasks, "_leave_task", None)


class AsyncioWaker:
    """
    As much of a future as a task needs to wait for it.

    `anyio.Event` costs some three times as much, and a source may wait for every event.
    """

    __slots__ = ("_asyncio_future_blocking", "_context", "_failure", "_loop", "_resume")

    _context: Context

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._asyncio_future_blocking = False
        self._loop = loop
        self._resume: Callable[[Any], object] | None = None
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

    _task: asyncio.Task[Any]

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop)
        # What was begun in the task's name and waits, and what for.
        self._begun: tuple[Coroutine[Any, Any, Any], object] | None = None

    @property
    def busy(self) -> bool:
        return self._begun is not None or self._failure is not None

    def run_eagerly(
        self,
        caller: asyncio.Task[Any] | None,
        run: Callable[[Any], Awaitable[object]],
        argument: object,
    ) -> bool:
        loop = self._loop
        if self._resume is None or not (enter_task and leave_task):
            return False
        coroutine = run(argument)
        if type(coroutine) is not CoroutineType:
            coroutine = _awaited(coroutine)
        task = self._task
        if caller is not None:
            try:
                leave_task(loop, caller)
            except RuntimeError:
                # The loop has been closed, and what is left of its tasks is thrown away.
                coroutine.close()
                return False
        enter_task(loop, task)
        try:
            waits_for = self._context.run(next, coroutine.__await__(), _DONE)
        except BaseException as exc:  # It's for the waiting task: raised there.
            if isinstance(exc, RuntimeError) and getcoroutinestate(coroutine) == CORO_CREATED:
                # Whoever acts has the context of the task, and it can't be entered twice.
                coroutine.close()
            else:
                self._failure = exc
            return False
        finally:
            leave_task(loop, task)
            if caller is not None:
                enter_task(loop, caller)
        if waits_for is _DONE:
            return True
        self._begun = coroutine, waits_for
        return False

    def __await__(self) -> Generator[Any, Any, None]:
        self._task = cast("asyncio.Task[Any]", current_task(self._loop))
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


async def _awaited(awaitable: Awaitable[object]) -> None:
    await awaitable


def _rest(
    coroutine: Coroutine[Any, Any, Any], waits_for: object, thrown: BaseException | None
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
