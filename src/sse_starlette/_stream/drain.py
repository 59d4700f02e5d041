"""How a stream comes to its end when it's asked to: its source is told, has its time, and then is cut off.

And how long a server that goes down waits for what is still under way at that end.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .lifecycle import DRAINING, OVER, STREAMING

if TYPE_CHECKING:
    from .context import StreamContext
    from .lifecycle import CloseReason
    from .producers import Producers
    from .writer import Writer


class Drain:
    """The way to its end of one stream that has been asked to go it."""

    __slots__ = (
        "_feed",
        "_grace",
        "_life",
        "_loop",
        "_options",
        "_producers",
        "_requested",
        "_timer",
        "_writer",
    )

    def __init__(self, context: StreamContext, producers: Producers, writer: Writer) -> None:
        """Be ready for the first `request`; the parts are those of the stream."""
        self._feed = context.feed
        self._life = context.life
        self._options = context.options
        self._loop = context.loop
        self._producers = producers
        self._writer = writer
        self._grace = self._options.shutdown_grace_period
        self._requested = False
        self._timer = self._loop.timer(self._on_alarm, context.tasks)

    def request(self, delay: float, grace: float | None, *, automatic: bool) -> None:
        """Let the stream end by itself; see `Stream.drain`."""
        if self._life.reason is not None:
            self._call_in(self._options.patience.asked)
            return
        if automatic and self._requested:
            return
        if grace is not None:
            self._grace = grace
        if delay <= 0:
            self._begin()
        else:
            self._call_in(delay + self._grace if self._life.phase is DRAINING else delay)
        self._requested = True

    def end(self, reason: CloseReason, failure: Exception | None) -> None:
        """End now, for a reason that leaves no time; a client that doesn't read is waited for no longer."""
        self._producers.end(reason, failure)
        self._call_in(self._options.patience.asked)

    def close(self) -> None:
        """Stop the timer."""
        self._timer.stop()

    def _begin(self) -> None:
        if self._life.drain():
            self._options.tell_source()
        if self._grace > 0:
            self._call_in(self._grace)
        else:
            self._finish()

    def _finish(self) -> None:
        self.end("shutdown", None)

    def _call_in(self, seconds: float) -> None:
        self._timer.set(self._loop.time() + seconds)

    def _on_alarm(self) -> None:
        if self._life.phase is OVER:
            return  # On trio it may fire after it has been stopped.
        if self._life.phase is STREAMING:
            self._begin()
        elif self._life.phase is DRAINING:
            self._finish()
        else:
            # The server waits. What is being sent has its second, whenever it began.
            patience = self._options.patience.asked
            left = self._writer.sending_since + patience - self._loop.time()
            if self._writer.sending and left <= 0:
                self._writer.scope.cancel()
            elif self._writer.sending:
                self._call_in(left)
            else:
                # Its client may have left long ago, while the source was at a step that never ends.
                self._feed.release()
                self._call_in(patience)
