"""When a frame may wait for further ones: a source earns that by being quick, and loses it by being slow. Pure.

Two wishes meet here. An event must be with the server before the source computes the next one, even
if it does so without ever waiting; and events that are ready together must leave together, for that
is where the speed is. So a source earns the right to have frames held back: after a warm-up a few at
first, then more. A slow stretch takes it away, for longer each time.

The rules know neither frames nor a clock: they are told how many frames came in how many seconds.
"""

from __future__ import annotations

HELD_SECONDS = 0.001
"""About how long a frame may wait for further ones that the source is busy making."""
SLOW_SECONDS = 0.01
"""A source that keeps the loop for longer than this computes: for now none of its frames waits."""
WARM_UP = 100
"""Quick events that a source has to deliver before a frame of its own may wait at all."""
RATIO = 8
"""Further quick events for each frame that may wait."""
LONGEST_BACKOFF = 4096
"""Events until frames may wait again after a slow stretch: four times as many each time, up to this."""
DECAY = 8192
"""Quick events after which a slow stretch counts as the machine's, not the source's."""


class Batching:
    """How many frames of one source may wait at a time."""

    __slots__ = ("_backoff", "limit", "on", "quick")

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
        self._backoff = WARM_UP

    def turn_off(self) -> None:
        """Let no frame wait from now on."""
        self.on = False
        self.limit = -1

    def waits(self, events: int, seconds: float) -> None:
        """Count the events of a stretch that took so long, from one wait of the source to the next."""
        if seconds <= SLOW_SECONDS:
            self.quick += events
            if self.quick > DECAY:
                self._backoff = WARM_UP
        else:
            self.quick = -self._backoff
            self._backoff = min(4 * self._backoff, LONGEST_BACKOFF)
            self.limit = min(self.limit, 0)

    def allow(self, events: int, seconds: float) -> int:
        """Return how many frames may wait, so many events and seconds into a stretch; only while `on`."""
        affordable = int(HELD_SECONDS * events / seconds) if seconds > 0 else events
        self.limit = max(0, min((self.quick + events - WARM_UP) // RATIO, affordable))
        return self.limit
