"""The channels that a hub holds on to because they were used not long ago.

A channel doesn't say when it's used, so it's looked at when it would be idle if it hadn't been used since
the last look. However many channels there are, a look is at a few of them. Not for several threads: its
owner has a lock.
"""

from __future__ import annotations

from heapq import heappop, heappush
from typing import Protocol

FEW = 4
"""Channels to look at when one is asked for: more than can have come since, and a matter of microseconds."""
MANY = 1_000
"""Channels to look at once a second: a matter of a millisecond."""


class Idle(Protocol):
    """A channel, as far as it matters here."""

    def idle_since(self, now: float) -> bool:
        """Whether nobody has used the channel for its linger time."""

    def idle_at(self, now: float) -> float:
        """When it may be idle, as far as is known at the time `now`."""


class Lingering:
    """Channels by name, each until it has been idle for its linger time."""

    def __init__(self) -> None:
        self._held: dict[str, Idle] = {}
        # When each is looked at next; of a name that isn't held any more, one is left until it's due.
        self._looks: list[tuple[float, str]] = []
        self._awaited: set[str] = set()

    def __len__(self) -> int:
        return len(self._held)

    def hold(self, name: str, channel: Idle, now: float) -> None:
        """Hold on to `channel`, which has been used now."""
        self._held[name] = channel
        if name not in self._awaited:
            self._look_later(name, channel, now)

    def release_if_idle(self, name: str, now: float) -> None:
        """Release one channel if it's idle."""
        channel = self._held.get(name)
        if channel is not None and channel.idle_since(now):
            del self._held[name]

    def sweep(self, now: float, limit: int) -> None:
        """Release channels that are idle, with a look at `limit` of those that may be."""
        looks = self._looks
        for _ in range(limit):
            if not looks or looks[0][0] >= now:
                break
            name = heappop(looks)[1]
            self._awaited.discard(name)
            self.release_if_idle(name, now)
            channel = self._held.get(name)
            if channel is not None:
                self._look_later(name, channel, now)

    def sweep_all(self, now: float) -> None:
        """Release all channels that are idle."""
        for name in list(self._held):
            self.release_if_idle(name, now)

    def _look_later(self, name: str, channel: Idle, now: float) -> None:
        self._awaited.add(name)
        heappush(self._looks, (max(now, channel.idle_at(now)), name))
