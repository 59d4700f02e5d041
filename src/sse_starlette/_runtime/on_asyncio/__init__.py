"""What `loop` asks of asyncio: bare futures, plain tasks and their native cancellation.

No anyio here: its task group and cancel scopes cost an idle stream several times what asyncio's own do,
and what has to be right, a cancellation that comes once and is never mistaken for another, asyncio
does by counting (`Task.cancelling`). What a change here must keep: nothing is cancelled that has not been
asked to be, and each `cancel` is taken back by `uncancel` where the task goes on.
"""

from __future__ import annotations

import asyncio
import time
import types
from typing import TYPE_CHECKING, Any

from .tasks import AsyncioCancelScope, AsyncioSourceRunner, AsyncioTaskGroup
from .timers import AsyncioTimer
from .wakers import AsyncioEagerRunner, AsyncioWaker

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Generator

__all__ = ["AsyncioLoop"]


class AsyncioLoop:
    """The running loop of asyncio."""

    __slots__ = ("__weakref__", "_loop", "call_later", "call_soon", "key", "stopwatch", "time")

    cancel_scope = AsyncioCancelScope

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
        yield from coroutine

    def current_task(self) -> asyncio.Task[Any] | None:
        return asyncio.current_task(self._loop)

    def is_current(self) -> bool:
        try:
            return asyncio.get_running_loop() is self._loop
        except RuntimeError:
            return False

    def call_soon_threadsafe(self, call: Callable[[], object]) -> None:
        self._loop.call_soon_threadsafe(call)
