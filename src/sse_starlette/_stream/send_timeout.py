"""Cuts off a send that takes too long, because its client doesn't read."""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING

from ..errors import SendTimeoutError

if TYPE_CHECKING:
    from collections.abc import Callable

    from .._runtime.loop import CancelScope
    from .context import StreamContext


class _Bound(Enum):
    """What becomes of sends that take too long."""

    UNSET = 0
    """No timer will look."""
    SET = 1
    """A timer will."""
    EXCEEDED = 2
    """One took too long."""


class SendTimeout:
    """The bound of each send of one stream: one timer for as many as there are."""

    __slots__ = ("_bound", "_loop", "_scope", "_seconds", "_sending_since", "_timer")

    def __init__(
        self,
        context: StreamContext,
        seconds: float,
        scope: CancelScope,
        sending_since: Callable[[], float | None],
    ) -> None:
        """
        Be ready for the first send.

        Args:
            context: of the stream.
            seconds: how long a send may take.
            scope: is cancelled when one has taken longer.
            sending_since: when the send that is under way has begun; None: there's none.
        """
        self._loop = context.loop
        self._seconds = seconds
        self._scope = scope
        self._sending_since = sending_since
        self._bound = _Bound.UNSET
        self._timer = context.loop.timer(self._on_timer, context.tasks)

    def begin(self) -> float:
        """Watch the send that begins now; return the time."""
        now = self._loop.time()
        if self._bound is _Bound.UNSET:
            self._bound = _Bound.SET
            self._timer.set(now + self._seconds)
        return now

    def check(self) -> None:
        """
        Tell behind the scope whether it was cancelled because a send took too long.

        Raises:
            SendTimeoutError: it was.
        """
        if self._bound is _Bound.EXCEEDED:
            raise SendTimeoutError(self._seconds)

    def close(self) -> None:
        """Stop the timer."""
        self._timer.stop()

    def _on_timer(self) -> None:
        self._bound = _Bound.UNSET
        since = self._sending_since()
        if since is not None:
            until = since + self._seconds
            if until <= self._loop.time():
                self._bound = _Bound.EXCEEDED
                self._scope.cancel()
            else:
                self._bound = _Bound.SET
                self._timer.set(until)
