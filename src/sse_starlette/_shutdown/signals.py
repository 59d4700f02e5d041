"""SIGTERM and SIGINT: granian, daphne, and any server that has no hook of its own."""

from __future__ import annotations

import signal
import threading

# What `signal` is made of; the type checker doesn't know it. `signal` makes an enum member of each answer, or tries to: 30 µs for a handler.
from _signal import getsignal  # type: ignore[import-not-found]
from _signal import signal as set_signal
from functools import partial
from typing import TYPE_CHECKING, Any

from .hooks import Hook
from .streams import State, current_streams, drain_streams

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

__all__ = ["HOOKS", "SignalHook", "getsignal", "in_main_thread"]


class SignalHook(Hook):
    """Stands behind the handler of a signal while there are streams."""

    def __init__(self, signum: signal.Signals) -> None:
        self._signum = signum
        self._installed: tuple[Any, Any] | None = None
        self._left_alone: object = None

    def install(self) -> None:
        # What isn't handled in Python isn't anybody's way to stop streams in order: it stays.
        found = getsignal(self._signum)
        if found is self._left_alone or (self._installed and found is self._installed[1]):
            return
        if not callable(found) or not in_main_thread():
            return
        if any(hook.passes_after(found) for hook in State.hooks):
            self._left_alone = found
            return
        ours = partial(self._handle, found)
        set_signal(self._signum, ours)
        self._installed = (found, ours)

    def uninstall(self) -> None:
        if self._installed is not None and in_main_thread():
            handler, ours = self._installed
            if getsignal(self._signum) is ours:
                set_signal(self._signum, handler)
            self._installed = None
        self._left_alone = None

    @staticmethod
    def _handle(handler: Callable[..., Any], signum: int, frame: FrameType | None) -> Any:
        try:
            # First, for what comes before it gives another signal the time to overtake this one:
            # uvicorn takes a SIGINT after a SIGTERM for a second Ctrl+C.
            return handler(signum, frame)
        finally:
            if State.automatic:
                streams = current_streams()
                with State.lock:
                    State.going_down.update((stream, stream.loop.key) for stream in streams)
                drain_streams(streams, automatic=True)


def in_main_thread() -> bool:
    """Whether this is the thread in which signals can be handled."""
    return threading.current_thread() is threading.main_thread()


HOOKS = (SignalHook(signal.SIGTERM), SignalHook(signal.SIGINT))
