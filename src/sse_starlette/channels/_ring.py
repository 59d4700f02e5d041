"""What a channel remembers: the frames of its newest events, in order, with no gap between them.

Pure: no loop, no lock, no clock of its own. Offsets start at 1; `head` is the newest there is and
`oldest` the first that is kept, so `oldest == head + 1` while nothing is. A ring is of one history: a
channel whose history has been lost takes a new ring.
"""

from __future__ import annotations

import math
from bisect import bisect_left

from .._stream.feed import JOINED_BYTES

_JOINS_LIMIT = 32
"""Joined stretches that are kept for others at the same position."""
_NONE = (b"", -1)
"""No frame, and the offset of none."""


class Ring:
    """The newest frames, bounded in number, bytes and age."""

    def __init__(
        self,
        *,
        events: int,
        bytes_: int,
        seconds: float | None,
        epoch: str = "",
        head: int = 0,
    ) -> None:
        """
        Remember nothing yet.

        Args:
            events: how many frames are kept at the most.
            bytes_: how many bytes they may have together; the newest frame is kept in any case.
            seconds: how long a frame is kept; None: that doesn't matter.
            epoch: the name of the history.
            head: how many events it has already.
        """
        self.epoch = epoch
        self.head: int = head
        self.oldest: int = head + 1
        self.origin: int = head
        """Where it was begun, or begun anew after a hole."""
        self.floor: int = 0
        """Up to here nothing can be remembered any more. What lies between may be put before."""
        self.hole: int = 0
        """Up to here something is missing that was never here."""
        self.size: int = 0
        self.forgotten: float = -math.inf
        """When the newest was remembered that isn't kept any more."""
        self._events = events
        self._bytes = bytes_
        self._seconds = seconds
        # Frames that are no longer kept are let go in stretches: to cut a list costs its length.
        self._frames: list[bytes] = []
        self._first = head + 1
        self._times: list[float] = []
        self._joins: dict[int, tuple[bytes, int]] = {}
        self.newest: tuple[bytes, int] = _NONE
        """The newest frame and its offset, for whoever has all that comes before it; no lock is needed."""

    def renamed(self, epoch: str) -> Ring:
        """Return a ring of the same events, as another history: frames get their ids anew."""
        other = Ring(
            events=self._events,
            bytes_=self._bytes,
            seconds=self._seconds,
            epoch=epoch,
            head=self.oldest - 1,
        )
        other.floor = self.floor
        other.forgotten = self.forgotten
        for place in range(self.oldest - self._first, self.head + 1 - self._first):
            other.append(renamed(self._frames[place], epoch, other.head + 1), self._times[place])
        return other

    def __len__(self) -> int:
        return self.head + 1 - self.oldest

    @property
    def reach(self) -> int:
        """The lowest position whose successors may all be here, once they're put before."""
        return max(self.floor, self.head - self._events)

    def append(self, frame: bytes, now: float) -> int:
        """Remember `frame` as the newest and return its offset."""
        frames = self._frames
        head = self.head + 1
        kept = head - self._first
        if kept != len(frames):
            # An exception, as a signal handler may raise, has interrupted the last time.
            del frames[kept:], self._times[kept:]
        frames.append(frame)
        self._times.append(now)
        self.head = head
        self.size += len(frame)
        if self._joins:
            self._joins.clear()
        self.newest = frame, head
        self.expire(now)
        return head

    def expire(self, now: float) -> None:
        """Forget what is too much or, at the time `now`, too old."""
        oldest, first, head, frames = self.oldest, self._first, self.head, self._frames
        while oldest <= head and (
            head - oldest >= self._events
            or (self.size > self._bytes and oldest < head)
            or (self._seconds is not None and self._times[oldest - first] < now - self._seconds)
        ):
            self.size -= len(frames[oldest - first])
            self.forgotten = self._times[oldest - first]
            frames[oldest - first] = b""
            oldest += 1
        if oldest > self.oldest:
            self.oldest = oldest
            self.floor = oldest - 1
            self._joins.clear()
            if oldest > head:
                self.newest = _NONE
        gone = oldest - first
        if gone > 64 and gone > len(frames) // 8:
            del frames[:gone]
            del self._times[:gone]
            self._first = oldest

    def prepend(self, frames: list[bytes], now: float) -> None:
        """Remember `frames` before the oldest; only the newest of them, if there's no room for all."""
        count, size = 0, self.size
        room = self._events - len(self)
        for frame in reversed(frames):
            if count == room or (size + len(frame) > self._bytes and len(self) + count):
                # There never will be room: as long as those that follow are here, they take it.
                self.floor = self.oldest - 1 - count
                break
            count += 1
            size += len(frame)
        if not count:
            return
        gone = self.oldest - self._first
        # How old they are isn't known; no younger than what follows them.
        age = self._times[gone] if len(self) else now
        self._frames[:gone] = frames[-count:]
        self._times[:gone] = [age] * count
        self.oldest -= count
        self._first = self.oldest
        self.size = size

    def skip(self, to: int) -> None:
        """Forget everything and go on after `to`: what lies between can't be had."""
        self.head = self.origin = self.hole = self.floor = to
        self.oldest = self._first = to + 1
        self.size = 0
        self._frames.clear()
        self._times.clear()
        self._joins.clear()
        self.newest = _NONE

    def holds(self, offset: int) -> bool:
        """Whether all that came after `offset` is here."""
        return self.oldest - 1 <= offset <= self.head

    def read(self, after: int) -> tuple[bytes, int]:
        """
        Join the frames that follow `after`, up to about `JOINED_BYTES`; say which one is the last.

        Everything after `after` must be here (`holds`), and something must be.
        """
        joined = self._joins.get(after)
        if joined is None:
            start = end = after + 1 - self._first
            size = 0
            while end < len(self._frames) and size < JOINED_BYTES:
                size += len(self._frames[end])
                end += 1
            joined = b"".join(self._frames[start:end]), self._first + end - 1
            if len(self._joins) >= _JOINS_LIMIT:
                self._joins.clear()
            self._joins[after] = joined
        return joined

    def before(self, when: float) -> int:
        """The offset of the newest frame that was remembered before `when`; of those that are kept."""
        kept = self._times[self.oldest - self._first :]
        return self.oldest - 1 + bisect_left(kept, when)

    def frames(self, after: int, last: int) -> list[bytes]:
        """The frames that follow `after` up to `last`, each by itself."""
        return self._frames[after + 1 - self._first : last + 1 - self._first]


def with_id(epoch: str, offset: int, body: bytes) -> bytes:
    """Return the frame of a body, which is a frame without an id."""
    return b"id: %b.%d\r\n%b" % (epoch.encode(), offset, body)


def renamed(frame: bytes, epoch: str, offset: int) -> bytes:
    """Return the frame with another id."""
    return with_id(epoch, offset, frame[frame.index(b"\n") + 1 :])
