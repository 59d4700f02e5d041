"""What time it is for a log in a file, on a host whose clock somebody may set."""

from __future__ import annotations

import time
from typing import NamedTuple

MOST_AHEAD_SECONDS = 60.0
"""By how much the clock of another process may be ahead; what was made later is of no known age."""
_BELIEVED_AFTER_SECONDS = 4_000.0
"""How long a clock must have been ahead of what it was set from until things expire by it."""


class Now(NamedTuple):
    """What time it is."""

    wall: float
    """As the clock of the host says."""
    sure: float
    """What has expired by then, has expired whether the clock was set or not."""


class Clock:
    """
    The clock of the host, which somebody may set.

    One that is set ahead would have everything expire at once, though it may be set back in a moment, and
    a history is gone for good. So a leap isn't believed before it has lasted.
    """

    def __init__(self) -> None:
        self._ahead = time.time() - time.monotonic()
        """By how much it's ahead of the one that nobody sets."""
        self._doubted_since: float | None = None

    def now(self) -> Now:
        """Look at it."""
        wall, steady = time.time(), time.monotonic()
        ahead = wall - steady
        if ahead <= self._ahead + MOST_AHEAD_SECONDS:
            self._ahead, self._doubted_since = ahead, None
        elif self._doubted_since is None:
            self._doubted_since = steady
        elif steady - self._doubted_since > _BELIEVED_AFTER_SECONDS:
            self._ahead, self._doubted_since = ahead, None
        return Now(wall, min(wall, steady + self._ahead))
