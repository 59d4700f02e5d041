"""When a frame may wait for further ones: a source earns that by being quick, and loses it by being slow. Pure.

Two wishes meet here. An event must be with the server before the source computes the next one, even
if it does so without ever waiting; and events that are ready together must leave together, for that
is where the speed is. So a source earns the right to have frames held back: after a warm-up a few at
first, then more. A slow stretch takes it away. When the loop is late, everybody's events are late
by that already, and a few quick ones do.

The rules know neither frames nor a clock: they are told how many frames came in how many seconds.
"""

from __future__ import annotations

HELD_SECONDS = 0.001
"""About how long a frame may wait for further ones that the source is busy making."""
SLOW_SECONDS = 0.01
"""A source that keeps the loop for longer than this computes: for now none of its frames waits."""
LATE_SECONDS = 0.01
"""A loop is late that takes longer than this until it makes a call that is due."""
WARM_UP = 100
"""Quick events that a source has to deliver before a frame of its own may wait at all."""
RATIO = 8
"""Further quick events for each frame that may wait."""
SETBACK = 400
"""Events that a source has to deliver, beside the warm-up, after a slow stretch."""


class Batching:
    """How many frames of one source may wait at a time."""

    __slots__ = ("late", "limit", "on", "quick")

    def __init__(self, *, on: bool) -> None:
        """
        Begin with a source that nothing is known of.

        Args:
            on: whether its frames may wait at all.
        """
        self.on = on
        self.limit = 0
        """So many frames may wait, as far as `allow` was asked; below 0: not even one that is due."""
        self.quick = 0
        """Events that came quickly; below 0: so many have yet to, after a slow stretch."""
        self.late = False
        """Whether the loop was late when the source last left it a turn, and hasn't waited since."""

    def turn_off(self) -> None:
        """Let no frame wait from now on."""
        self.on = False
        self.limit = -1

    def had_a_turn(self, seconds: float) -> None:
        """Take note that the loop took so long for the turn that the source has left it."""
        self.late = seconds > LATE_SECONDS

    def waits(self, events: int, seconds: float) -> None:
        """Count the events of a stretch that took so long, from one wait of the source to the next."""
        if self.late:
            self.late = False
            self.limit = min(self.limit, 0)
        if seconds <= SLOW_SECONDS:
            self.quick += events
        else:
            self.quick = -SETBACK
            self.limit = min(self.limit, 0)

    def allow(self, events: int, seconds: float) -> int:
        """Return how many frames may wait, so many events and seconds into a stretch; only while `on`."""
        affordable = int(HELD_SECONDS * events / seconds) if seconds > 0 else events
        quick = self.quick + events
        self.limit = max(0, min(quick if self.late else (quick - WARM_UP) // RATIO, affordable))
        return self.limit
