"""Side tasks of the hub's lifespan, and how others wait for what becomes of it.

No task is started in the context of whoever asks: a request leaves none behind.
"""

from __future__ import annotations

from collections import deque
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

import anyio

from .._runtime.loop import current_loop

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine

    import anyio.abc

    from ._faults import Faults

T = TypeVar("T")
TaskFunction: TypeAlias = "Callable[[], Coroutine[Any, Any, object]]"

_PARTS = 8
"""In how many the time is counted within which the log has to answer."""
_LATE_SECONDS = 0.02
"""How late the loop may be at the least, for a part to count."""


class SideTasks:
    """Those of one lifespan; used on its loop alone."""

    def __init__(self, faults: Faults) -> None:
        self._faults = faults
        self._waiting: deque[TaskFunction] = deque()
        self._added = anyio.Event()

    def start(self, function: TaskFunction) -> None:
        """Have `function` run in a task of the lifespan."""
        self._waiting.append(function)
        self._added.set()

    async def run(self, tasks: anyio.abc.TaskGroup) -> None:
        """Start them as they come, for as long as the lifespan lasts."""
        while True:
            self._added = anyio.Event()
            while self._waiting:
                tasks.start_soon(self._do, self._waiting.popleft())
            await self._added.wait()

    async def _do(self, function: TaskFunction) -> None:
        try:
            await function()
        except Exception as exc:
            # Nobody waits for it, and the lifespan doesn't end because of it.
            self._faults.note("task", exc)

    def clear(self) -> None:
        """Forget those that haven't been started."""
        self._waiting.clear()


async def settle(future: Future[T], call: Callable[[], Awaitable[T]]) -> None:
    """Tell `future` what `call` returns."""
    result = await call()
    with suppress(InvalidStateError):  # Whoever asked may have gone.
        future.set_result(result)


async def outcome(future: Future[T]) -> T:
    """Wait for what another task, perhaps on another loop, finds."""
    loop = current_loop()
    done = anyio.Event()

    def tell(_: Future[T]) -> None:
        try:
            loop.call_soon_threadsafe(done.set)
        except RuntimeError:
            pass  # That loop has been closed, so nobody waits.

    future.add_done_callback(tell)
    try:
        await done.wait()
    except BaseException:
        future.cancel()
        raise
    return future.result()


async def give_up_after(scope: anyio.CancelScope, seconds: float) -> None:
    """Cancel `scope` after this time, of which only those parts count that the loop was free to look at."""
    left = _PARTS
    while left > 0:
        due = anyio.current_time() + seconds / _PARTS
        await anyio.sleep_until(due)
        if anyio.current_time() - due <= max(seconds / _PARTS, _LATE_SECONDS):
            left -= 1
    scope.cancel()
