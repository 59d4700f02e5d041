"""Reads frames one by one, where each has to be looked at, from several channels in turn.

However much there is to read, the loop has its turn after some milliseconds; however many channels there are,
an event costs what it costs with one.
"""

from __future__ import annotations

import logging
from enum import Enum, auto
from inspect import isawaitable, iscoroutine
from typing import TYPE_CHECKING

from .._stream.feed import JOINED_BYTES
from ._log_news import LogNews

if TYPE_CHECKING:
    from collections.abc import Callable

    from .._runtime.loop import Loop
    from ..event import ServerSentEvent
    from ._options import SubscribeOptions
    from ._positions import Positions
    from ._state import ChannelState

_logger = logging.getLogger("sse_starlette.channel")

_TURN_SECONDS = 0.003
"""How long one subscription may read before the loop has its turn."""
_LOOKS = 16
"""Events that are looked at before it's asked how long that has taken."""
_READ_AT_ONCE = 256
"""Events of one channel that are looked at before it's another one's turn."""


class Read(Enum):
    """How a reading has ended."""

    SOME = auto()
    """There may be more."""
    ALL = auto()
    """There's nothing left, and the reader will be called."""
    LATE = auto()
    """Nothing was wanted so far, and others are to have their turn before it goes on."""
    LAGS = auto()
    """The next event of a channel isn't here any more."""
    NOTHING = auto()
    """There was nothing that is wanted."""
    OVER = auto()
    """There was nothing, and the channels are closed."""


_SOME, _ALL = Read.SOME, Read.ALL
_NONE: frozenset[int] = frozenset()
"""One for all: Python makes another each time, and there may be ten thousand subscriptions."""


class Reader:
    """The reading of one subscription."""

    __slots__ = (
        "_at_end",
        "_channels",
        "_failed",
        "_filter",
        "_in_a_row",
        "_positions",
        "called",
        "channel",
        "due",
        "id_blocks",
        "log_news",
        "looks_at_each",
        "since",
    )

    def __init__(self, positions: Positions, options: SubscribeOptions) -> None:
        self.due: dict[int, None] = {}
        """The places of the channels that may have something new."""
        self.called: bool = False
        """Whether a channel has called, and nobody has looked since."""
        self.log_news: LogNews = LogNews(positions.channels)
        """What is told of their logs while there is nothing to read."""
        self.since: float | None = None
        """Since when it has read without a turn of the loop in between; None: it has read all."""
        self.channel: str | None = None
        """The name of the channel whose frame was read last."""
        self._positions = positions
        self._channels = positions.channels
        # Those that are known to be at their end.
        self._at_end = _NONE
        self._in_a_row = 0
        self._filter: Callable[[ServerSentEvent], object] | None = options.filter
        self._failed = False
        self.id_blocks: bool = options.id_blocks
        """Whether the client is to get ids alone, too."""
        self.looks_at_each: bool = (
            len(self._channels) > 1
            or options.filter is not None
            or options.name_channels
            or not options.id_blocks
        )
        """Whether each frame is looked at."""

    @property
    def _some_open(self) -> bool:
        return len(self._at_end) < len(self._channels)

    def has_all(self) -> bool:
        """Whether the channels are closed, and nothing of theirs is left to be read."""
        return all(
            channel.closed and self._has_all_of(place, channel)
            for place, channel in enumerate(self._channels)
        )

    def _has_all_of(self, place: int, channel: ChannelState) -> bool:
        offset = self._positions.offsets[place]
        if not self.id_blocks and channel.closes_at == offset + 1:
            return True  # What is left is an id alone.
        return channel.read_each(self._positions.rings[place], offset, 1) == []

    def look_everywhere(self) -> None:
        """Count all channels as those that may have something new, where that's asked."""
        if self.looks_at_each:
            self.due.update(dict.fromkeys(range(len(self._channels))))

    def called_by(self, place: int) -> bool:
        """Count a channel as one that may have something new; True if it's the first since `called` was reset."""
        self.due[place] = None
        first = not self.called
        self.called = True
        return first

    def is_late(self, loop: Loop) -> bool:
        """Whether it has read for so long that others are to have their turn; it's called after it."""
        if self.since is None or loop.stopwatch() - self.since <= _TURN_SECONDS:
            return False
        self.since = None
        return True

    def read(self, loop: Loop, *, joins: bool) -> tuple[bytes, Read]:
        """Read what is wanted, up to about `JOINED_BYTES`; without `joins`, one frame."""
        due, stopwatch = self.due, loop.stopwatch
        if not due:
            # Nobody has called since the last look, so this one is to make sure.
            due.update(dict.fromkeys(range(len(self._channels))))
        positions, offsets = self._positions, self._positions.offsets
        limit = _READ_AT_ONCE if joins else 1
        taken: list[bytes] = []
        size = looked = 0
        since = self.since
        if since is None:
            since = stopwatch()
        elif self.is_late(loop):
            return b"", Read.LATE
        full = late = False
        while due and not full and not late:
            place = next(iter(due))
            channel = self._channels[place]
            # Asked first: another thread may publish, and close the channel, in between.
            closed = channel.closed
            offset = offsets[place]
            frames = channel.read_each(positions.rings[place], offset, limit)
            if frames is None:
                if not taken:
                    return b"", Read.LAGS
                break  # What has been taken so far goes out with the cursor of before the gap.
            if not frames or self._in_a_row >= _READ_AT_ONCE:
                del due[place]
                self._in_a_row = 0
            if not frames:
                if closed:
                    self._at_end |= {place}
                elif self._at_end:
                    self._at_end -= {place}
                continue
            due[place] = None  # Behind the others, if it has had its share.
            before = len(taken)
            for frame in frames:
                offset += 1
                looked += 1
                self._in_a_row += 1
                wanted = self.wants(channel, offset, frame)
                positions.move(place, offset)
                positions.told = wanted
                if wanted:
                    self.channel = channel.name
                    taken.append(positions.framed(place, frame))
                    size += len(taken[-1])
                    full = size >= JOINED_BYTES or not joins
                late = looked % _LOOKS == 0 and stopwatch() - since > _TURN_SECONDS
                if full or late:
                    break
            channel.count_delivered(len(taken) - before)
        # For the next call: it may be the same turn of the loop.
        self.since = since if due else None
        if taken:
            return b"".join(taken), _ALL if not due and self._some_open else _SOME
        if late:
            self.since = None
            return b"", Read.LATE
        return b"", Read.NOTHING if self._some_open else Read.OVER

    def wants(self, channel: ChannelState, offset: int, frame: bytes) -> bool:
        """Whether the client is to get a frame."""
        if offset == channel.closes_at:
            return self.id_blocks  # It's an id alone.
        if self._filter is None:
            return True
        try:
            wanted = self._filter(channel.parsed.event(offset, frame))
            if wanted is True or wanted is False:
                return wanted
            if not isawaitable(wanted):
                return bool(wanted)
            if iscoroutine(wanted):
                wanted.close()
            raise TypeError(
                f"the filter returned {type(wanted).__name__}, which has to be awaited: a filter has to "
                "answer at once, so look up what it needs before you subscribe."
            )
        except Exception:
            # It may be a check of access: whoever can't be checked doesn't get the event.
            channel.count_failure()
            if not self._failed:
                self._failed = True
                _logger.exception(
                    "the filter failed for the event %s.%s of channel %r, which is left out; from now on "
                    "that's only counted for this client",
                    channel.epoch,
                    offset,
                    channel.name,
                    extra={
                        "sse_event": "callback_failed",
                        "sse_callback": "filter",
                        "sse_channel": channel.name,
                    },
                )
            return False
