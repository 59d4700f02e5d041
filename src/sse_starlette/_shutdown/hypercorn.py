"""hypercorn: the event that its `worker_serve` sets first when it stops, and SIGTERM in its workers."""

from __future__ import annotations

import signal
import sys
from functools import partial, wraps
from typing import TYPE_CHECKING, Any

from .._runtime.loop import current_loop
from .._runtime.workers import given_to_worker
from .hooks import Hook, MethodHook
from .signals import getsignal, in_main_thread
from .streams import drain_loop_of_server

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable


class WorkerHook(Hook):
    """
    Keeps a worker of hypercorn alive while it goes down.

    When the first of several workers has gone, their parent sends SIGTERM to the others, which don't
    handle it: it would end them in mid-stream, even before they have noticed that they are to stop.
    """

    def __init__(self) -> None:
        self._installed: tuple[Any, Any] | None = None

    def install(self) -> None:
        # What the parent tells this worker with that it's to stop.
        stop = given_to_worker("shutdown_event", "hypercorn")
        if (
            stop is not None
            and self._installed is None
            and in_main_thread()
            and getsignal(signal.SIGTERM) == signal.SIG_DFL
        ):
            # Asked on the loop and not in the handler, which may have come in the middle of such a
            # question; the event has a lock.
            ours = partial(
                self._handle,
                current_loop().call_soon_threadsafe,
                partial(self._die_unless, stop.is_set),
            )
            signal.signal(signal.SIGTERM, ours)
            self._installed = (stop, ours)

    def uninstall(self) -> None:
        if self._installed is not None and in_main_thread():
            stop, ours = self._installed
            # On its way down it's needed to the end.
            if not stop.is_set():
                if getsignal(signal.SIGTERM) is ours:
                    signal.signal(signal.SIGTERM, signal.SIG_DFL)
                self._installed = None

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


def _around_set(
    original: Callable[..., Awaitable[None]],
) -> Callable[..., Awaitable[None]]:
    @wraps(original)
    async def set_(self: object) -> None:
        # Of all the events of hypercorn, `worker_serve` sets one: the one that says it stops. That
        # event lives as long as its server does.
        if sys._getframe(1).f_code.co_name == "worker_serve":  # noqa: SLF001  (its public form is slow)
            drain_loop_of_server(self)
        await original(self)

    return set_


HOOKS = (
    MethodHook("hypercorn.asyncio.worker_context", "EventWrapper", "set", _around_set),
    MethodHook("hypercorn.trio.worker_context", "EventWrapper", "set", _around_set),
    WorkerHook(),
)
