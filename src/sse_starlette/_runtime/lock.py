"""A lock that is held for moments, and that no signal handler can wait for in vain."""

from __future__ import annotations

import threading
from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


class InterruptedHolderError(RuntimeError):
    """The lock is wanted by what has interrupted its holder in the same thread."""


class Lock:
    """
    A lock for `with`, which a thread that holds it can't wait for.

    A signal handler, a weak reference's callback or a finalizer may run in the middle of the stretch that
    holds the lock, in the same thread. It would wait for ever; going on would find a change half made.
    So it's refused, and may leave a call behind that is made when the stretch has ended.
    """

    __slots__ = ("entered", "held", "later")

    def __init__(self) -> None:
        # Reentrant, so that the same thread comes as far as to look.
        self.held = threading.RLock()
        """Keeps other threads out. For who writes out what `with` does, on the way of every event."""
        self.entered: bool = False
        """Whether a thread is in the stretch."""
        self.later: deque[Callable[[], object]] = deque()
        """What is called when the stretch has ended."""

    def __enter__(self) -> None:
        self.held.acquire()
        if self.entered:
            self.held.release()
            raise interrupted_holder()
        self.entered = True

    def __exit__(self, *_: object) -> None:
        self.entered = False
        self.held.release()
        if self.later:
            self.call_later_ones()

    def after(self, call: Callable[[], object]) -> None:
        """Have `call` called when the stretch has ended; for who was refused."""
        self.later.append(call)

    def call_later_ones(self) -> None:
        """Call what was left behind; the stretch has ended."""
        while self.later:
            self.later.popleft()()


def interrupted_holder() -> InterruptedHolderError:
    """Return what is raised in the thread that is in the stretch already."""
    return InterruptedHolderError(
        "this has interrupted a change of the same channel or hub in its own thread, as a signal handler "
        "may: use channel.publish_threadsafe(…) there, which doesn't wait, or loop.add_signal_handler(…)."
    )
