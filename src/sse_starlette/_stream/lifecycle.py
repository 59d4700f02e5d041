"""The life of a response: its phases, which ending counts, and what is still sent and called after it. Pure.

Nothing here runs, waits or sends. The stream and its parts tell what has happened, and ask what follows.
"""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING, Literal, TypeAlias

if TYPE_CHECKING:
    from starlette.types import Message

CloseReason: TypeAlias = Literal[
    "end",
    "client",
    "error",
    "timeout",
    "shutdown",
    "cancelled",
    "lagging",
    "refused",
    "expired",
    "revoked",
]
"""
Why a stream ended:

- `"end"`: the source had no more events.
- `"client"`: the client went away.
- `"error"`: the source, a callback that makes events, or the server's `send` raised.
- `"timeout"`: one send took longer than `send_timeout`.
- `"shutdown"`: the server is going down.
- `"cancelled"`: the server or a surrounding cancel scope cancelled the response.
- `"lagging"`: the client read more slowly than its channel was published to.
- `"refused"`: it would have been one stream too many; its source wasn't begun. See `StreamPolicy`.
- `"expired"`: it was as old as `max_age` allows.
- `"revoked"`: its listener may not listen any more.
"""

_SAID_AT_THE_END: frozenset[CloseReason | None] = frozenset(
    ("shutdown", "refused", "expired", "revoked")
)
_NOT_FOR_THIS_CLIENT: frozenset[CloseReason | None] = frozenset(("refused", "revoked"))
_NO_BACKGROUND: frozenset[CloseReason | None] = frozenset(
    (None, "error", "timeout", "cancelled", "refused")
)


class Phase(IntEnum):
    """How far a response has come; it never goes back."""

    STREAMING = 0
    """Events are sent as they come."""
    DRAINING = 1
    """The same, but its source has been asked to end."""
    ENDING = 2
    """It ends for a reason: its source is stopped, then what is due at its end is sent."""
    COMPLETE = 3
    """The last chunk has been sent, or never will be."""
    OVER = 4
    """None of its tasks is left."""


class TaskState(IntEnum):
    """How far a task of a response has come; it never goes back."""

    NONE = 0
    """There's none."""
    STARTED = 1
    """The loop has been asked for it; cancelled now, it never runs."""
    RUNNING = 2
    DONE = 3
    SETTLED = 4
    """It's done, or needn't run, and whoever stopped it knows."""


# By names of their own: in Python 3.11 a function is called to look a member up in its class.
STREAMING, DRAINING, ENDING, COMPLETE, OVER = Phase
NONE, STARTED, RUNNING, DONE, SETTLED = TaskState


class Lifecycle:
    """What has become of one response up to now."""

    __slots__ = ("client_gone", "disconnected", "failure", "phase", "reason", "says_farewell")

    def __init__(self) -> None:
        self.phase = STREAMING
        self.reason: CloseReason | None = None
        """Why the response ends; None as long as it doesn't."""
        self.failure: Exception | None = None
        """What is to be raised once all is over; None also when somebody has dealt with it."""
        self.disconnected: Message | None = None
        """The server's message that the client has left, if that ended the response or a send."""
        self.client_gone = False
        """Whether the server has said so, before or after another ending."""
        self.says_farewell = False
        """Whether something is to be said at its end that depends on the reason."""

    def drain(self) -> bool:
        """Ask the source to end by itself; whether it hadn't been asked before."""
        if self.phase >= DRAINING:
            return False
        self.phase = DRAINING
        return True

    def end(self, reason: CloseReason, failure: Exception | None = None) -> bool:
        """End for this reason; whether it counts, for the first one does."""
        if self.reason is not None:
            return False
        self.reason = reason
        self.failure = failure
        # A server may lose its patience, and cancel, before the time to drain is over.
        self.says_farewell = reason in _SAID_AT_THE_END or (
            reason == "cancelled" and self.phase is DRAINING
        )
        self.phase = max(self.phase, ENDING)
        return True

    def source_ended(self, reason: CloseReason | None) -> None:
        """End because the source has no more events; it may know a better word for that than "end"."""
        self.end("shutdown" if self.phase is DRAINING else reason or "end")

    def client_left(self, message: Message) -> bool:
        """End because the server says that the client has left; whether that counts."""
        self.client_gone = True
        if self.reason is None:
            self.disconnected = message
        return self.end("client")

    def send_failed(self, reason: CloseReason, failure: Exception | None = None) -> bool:
        """Send nothing more, because a send has failed; whether that is what ends the response."""
        if self.reason == "end":
            self.reason = None  # It was about to end well.
        counts = self.end(reason, failure)
        self.phase = COMPLETE
        if self.failure is None and self.disconnected is None:
            self.failure = failure
        return counts

    def send_refused(self) -> bool:
        """
        Send nothing more, because the server has said in `send` that the client has left.

        Returns:
            Whether that is what ends the response.
        """
        self.disconnected = {"type": "http.disconnect"}
        return self.send_failed("client")

    def completes_body(self, *, started: bool) -> bool:
        """Whether anything is to be sent now that it ends; `started`: whether the headers have been."""
        if self.phase >= COMPLETE or self.disconnected is not None:
            return False
        # Before the headers nothing has been said, so the server or a handler may still say it better.
        return started or self.reason not in ("error", "cancelled")

    @property
    def sends_what_is_ready(self) -> bool:
        """Whether events that were made before it ended are still sent."""
        return self.reason not in _NOT_FOR_THIS_CLIENT

    @property
    def stops_side_task(self) -> bool:
        """Whether what runs beside the feed is stopped before it; else it goes on until the body is complete."""
        return self.reason not in ("end", "lagging")

    @property
    def logs_source_error(self) -> bool:
        """Whether the log is told of an error of the source that came too late to end the response."""
        # A source is cancelled from within too when its whole loop is: that's nobody's mistake.
        return self.reason != "cancelled"

    @property
    def runs_background(self) -> bool:
        """Whether `background` runs: a job isn't done because its stream has failed."""
        return self.reason not in _NO_BACKGROUND
