"""When frames may wait for further ones: a source earns that by being quick, and loses it by being slow. Pure.

Two wishes meet here. An event must be with the server before the source computes the next one, even
if it does so without ever waiting; and events that are ready together must leave together, for that
is where the speed is. Nobody knows what a source will do next, so it counts what it has done.

The rule knows neither frames nor a clock: it is told how many events came in how many seconds.
"""

from __future__ import annotations

HELD_SECONDS = 0.001
"""About how long a frame may wait for further ones that the source is busy making."""
SLOW_SECONDS = 0.01
"""A source that keeps the loop for longer than this computes: none of its frames waits."""
LATE_SECONDS = 0.01
"""A loop is late that takes longer than this until it makes a call that is due."""
WARM_UP = 100
"""Quick events that a source has to deliver before its frames may wait; and as many more after a slow stretch."""
WARM_UP_WHEN_LATE = 4
"""The same on a loop that is late: there everybody's events are late anyway."""


class Batching:
    """Whether the frames of one source may wait."""

    __slots__ = ("_late", "_on", "_quick", "joins", "joins_first", "sent")

    def __init__(self, *, on: bool) -> None:
        """
        Begin with a source that nothing is known of.

        Args:
            on: whether its frames may wait at all.
        """
        self._on = on
        # Events that came quickly; below 0: so many have yet to, after a slow stretch.
        self._quick = 0
        self.joins = False
        """Whether frames may wait in the stretch that comes next."""
        self.joins_first = False
        """Whether the first one may, too: on a loop that is late, more will be ready by then."""
        self.sent = 0
        """Frames that went to the writer, alone or joined. No rule asks for it, and it never goes back."""
        self._late = False  # The loop was, when the source last left it a turn.

    def turn_off(self) -> None:
        """Let no frame wait from now on."""
        self._on = self.joins = self.joins_first = False

    def had_a_turn(self, seconds: float) -> None:
        """Take note that the loop took so long for the turn that the source has left it."""
        self._late = seconds > LATE_SECONDS
        self._decide()

    def waits(self, events: int, seconds: float) -> None:
        """Count the events of a stretch that took so long, from one wait of the source to the next."""
        self._quick = self._quick + events if seconds <= SLOW_SECONDS else -WARM_UP
        self._decide()

    def _decide(self) -> None:
        self.joins = self._on and self._quick >= (WARM_UP_WHEN_LATE if self._late else WARM_UP)
        self.joins_first = self.joins and self._late
