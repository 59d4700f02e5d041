"""The newest event of each key, for clients that are given these when they lag (`slow="latest"`).

Not for several threads: its owner has a lock. Only `key_of` may be called without it.
"""

from __future__ import annotations

from inspect import isawaitable, iscoroutine
from typing import TYPE_CHECKING

from ..event import parse_frame
from ._ring import renamed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from ..event import ServerSentEvent


class Latest:
    """The newest frame of each key, in the order of their offsets; bounded in number and bytes."""

    def __init__(
        self, latest_by: Callable[[ServerSentEvent], object], *, events: int, bytes_: int
    ) -> None:
        """
        Remember nothing yet.

        Args:
            latest_by: says the key of an event.
            events: how many frames are kept at the most.
            bytes_: how many bytes they may have together; the newest is kept in any case.
        """
        self.frames: dict[object, tuple[int, bytes]] = {}
        self.size = 0
        self._latest_by = latest_by
        self._events = events
        self._bytes = bytes_

    def key_of(self, body: bytes) -> object:
        """Ask the application for the key of an event; it may raise anything."""
        key = self._latest_by(parse_frame(body))
        if isawaitable(key):
            if iscoroutine(key):
                key.close()
            raise TypeError(
                f"latest_by returned {type(key).__name__}, which has to be awaited: it has to answer at once"
            )
        hash(key)
        return key

    def remember(self, key: object, offset: int, frame: bytes) -> None:
        """Remember `frame` as the newest of its key, and as newer than all others."""
        frames = self.frames
        if key in frames:
            self.size -= len(frames.pop(key)[1])
        frames[key] = (offset, frame)
        self.size += len(frame)
        while len(frames) > self._events or (self.size > self._bytes and len(frames) > 1):
            self.size -= len(frames.pop(next(iter(frames)))[1])

    def remember_older(self, older: Iterable[tuple[object, int, bytes]]) -> None:
        """Remember frames, with their keys, that are older than all others."""
        newer = self.frames
        self.clear()
        for key, offset, frame in older:
            self.remember(key, offset, frame)
        for key, (offset, frame) in newer.items():
            self.remember(key, offset, frame)

    def after(self, offset: int) -> list[tuple[int, bytes]]:
        """Return the frames that came after `offset`, with their own."""
        return [one for one in self.frames.values() if one[0] > offset]

    def clear(self) -> None:
        """Forget everything."""
        self.frames = {}
        self.size = 0

    def rename(self, epoch: str) -> None:
        """Give the frames the ids of another history."""
        self.frames = {
            key: (offset, renamed(frame, epoch, offset))
            for key, (offset, frame) in self.frames.items()
        }
