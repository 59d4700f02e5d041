"""A subscription as the feed of a response: one client's way through channels, and what it's sent.

A subscription is a position in the ring of each channel and nothing else: no queue, no task, and until
it is streamed not even a place in a list. What a change here must keep:

- The next event of a subscription is the next offset of the same epoch, or the client is told first.
- Where it begins may have to be asked of a log. Until that's known nothing is sent but comments.
- It's used on one loop, but for what is said to be for any thread.
"""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, Literal

from .._runtime.loop import current_loop
from .._stream.feed import Feed, offer_nobody
from ._opening import Opening
from ._opening_sender import OpeningSender
from ._pending_start import PendingStart
from ._positions import Positions
from ._preface import Preface
from ._reader import Read, Reader

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from .._runtime.loop import Loop
    from .._stream.feed import Offer
    from ._options import SubscribeOptions
    from ._ring import Ring
    from ._state import ChannelState


class Seat:
    """A subscription's place in one of its several channels: what that channel calls."""

    __slots__ = ("__weakref__", "_feed", "_loop", "_place", "positions")

    stands: Ring | None = None
    """See `Subscriber`: here, each frame is looked at."""
    offer: Offer = staticmethod(offer_nobody)

    def __init__(
        self, feed: SubscriptionFeed, positions: Positions, place: int, loop: Loop
    ) -> None:
        self._feed = feed
        self._loop = loop
        self._place = place
        self.positions = positions

    def call(self) -> None:
        """Have the subscription look into this channel, and all others that call in this turn of the loop."""
        if self._feed.news_in(self._place):
            self._loop.call_soon(self._feed.look)

    def newest(self) -> int:
        """The offset of the newest event of this channel that was taken."""
        return self.positions.offsets[self._place]


class _Phase(Enum):
    """How far it has come."""

    NEW = 0
    """Nothing has been asked for."""
    TAKEN_FROM = 1
    """It's being sent."""
    STOPPED = 2
    """Nobody wants it any more."""


_NEW, _TAKEN_FROM, _STOPPED = _Phase  # A member's name is looked up each time.


class SubscriptionFeed(Feed):
    """The frames of a subscription on their way to its client."""

    # There may be ten thousand of them.
    __slots__ = (
        "_loop",
        "_opening_sender",
        "_pending",
        "_phase",
        "_preface",
        "_reader",
        "_seats",
        "_whole",
        "call",
        "cleanup_timeout",
        "close_reason",
        "drained",
        "ended",
        "error",
        "has_work",
        "joins",
        "offer",
        "positions",
        "stands",
    )

    def __init__(
        self, channels: list[ChannelState], came_with: str | None, options: SubscribeOptions
    ) -> None:
        """
        Take the positions.

        Args:
            channels: the channels.
            came_with: the id that the client has brought; None or empty: none.
            options: what it's to get.
        """
        self.ended: bool = False
        self.error: Exception | None = None
        self.close_reason: Literal["lagging"] | None = None
        self.joins: bool = True
        self.cleanup_timeout: float | None = 30.0
        self.drained: bool = False
        self._whole = options if options.whole else None
        # The application's functions may wait, so they need a task, and it an end.
        self.has_work: bool = options.on_gap is not None or options.snapshot is not None
        self.offer: Offer = offer_nobody
        self.call: Callable[[], None] = _call_nobody
        """Look for something new; on the subscription's loop."""
        self.positions: Positions = Positions(channels, options)
        """Where the client is."""
        self.stands: Ring | None = None
        """See `Subscriber`."""
        self._preface = Preface(self.positions, options, cursor_first=not came_with)
        self._reader = Reader(self.positions, options)
        self._phase = _NEW
        self._seats: Sequence[Seat] = ()
        self._loop: Loop | None = None
        self._opening_sender: OpeningSender | None = None
        self._pending: PendingStart | None = PendingStart(came_with, options, len(channels))
        self._reader.log_news.must_run()
        self._resolve(self._pending)

    @property
    def last_event_id(self) -> str:
        """The id with which the client would come back now."""
        if self._pending is not None:
            return self._pending.came_with or ""
        return self.positions.last_event_id

    @property
    def stopped(self) -> bool:
        """Whether nobody wants it any more."""
        return self._phase is _STOPPED

    def newest(self) -> int:
        """The offset of the newest event that was taken, of one channel alone."""
        return self.positions.offsets[0]

    def is_over(self) -> bool:
        """Whether the channels are closed and the client has all their events."""
        return not self._preface.has_events and self._reader.has_all()

    def open(self, wake: Callable[[], None]) -> None:
        if self._loop is not None or self.stopped:
            raise RuntimeError("a Subscription can be streamed or iterated once: subscribe again")
        self._loop = loop = current_loop()
        if self.has_work:
            self._opening_sender = OpeningSender(self, loop)
        self.call = wake
        self._reader.look_everywhere()
        positions = self.positions
        if len(positions.channels) > 1:
            places = range(len(positions.channels))
            self._seats = [Seat(self, positions, place, loop) for place in places]
        for channel, subscriber in self._subscribers():
            channel.join(subscriber, loop)
        if not self.has_work and self._pending is None:
            self._prepare_at_once()

    def _subscribers(self) -> list[tuple[ChannelState, SubscriptionFeed | Seat]]:
        """Each channel, and what it calls; one alone calls the subscription itself."""
        channels = self.positions.channels
        if self._seats:
            return list(zip(channels, self._seats, strict=True))
        return [(channel, self) for channel in channels]

    def news_in(self, place: int) -> bool:
        """Take note that a channel may have something new; True if that's the first since the last look."""
        return self._reader.called_by(place)

    def look(self) -> None:
        """Look for something new, in all channels that have called."""
        self._reader.called = False
        self.call()

    async def run(self) -> None:
        if self._opening_sender is not None:
            await self._opening_sender.run()

    def stop(self) -> None:
        if not self.stopped:
            if self._phase is _NEW:
                # Nothing has been asked for: the answer is a HEAD's, or 204.
                self.ended = True
                self._preface.ready.clear()
            self._phase = _STOPPED
            self.stands = None
            for channel, subscriber in self._subscribers():
                channel.leave(self, subscriber)
            self._seats = ()
            self.call = _call_nobody
            if self._opening_sender is not None:
                self._opening_sender.stop()

    def sent(self) -> None:
        if self._opening_sender is not None:
            self._opening_sender.sent()

    def take(self) -> bytes:
        if self._phase is _NEW:
            self._phase = _TAKEN_FROM
        self.drained = False
        if self._preface.ready:
            return self._preface.take(joins=self.joins)
        if self._opening_sender is not None and self._opening_sender.sending:
            return self._opening_sender.take()
        if self._preface.due or self.ended:
            if self._pending is not None and not self.ended:
                return self._take_pending(self._pending)
            return b""
        loop, reader = self._loop, self._reader
        assert loop is not None  # noqa: S101  (it has been opened)
        if reader.looks_at_each or not self.joins:
            return self._take_each(loop)
        if reader.since is not None and reader.is_late(loop):
            loop.call_soon(self.look)
            return b""
        positions = self.positions
        channel, ring = positions.channels[0], positions.rings[0]
        # Asked first: another thread may publish, and close the channel, in between.
        closed = channel.closed
        found = channel.read(ring, positions.offsets[0])
        if found is None:
            return self._on_lag()
        frames, positions.offsets[0] = found
        if frames:
            if found is ring.newest:
                self.drained = not closed
                self.stands = None if closed else ring
            elif reader.since is None:
                reader.since = loop.stopwatch()
            return frames
        reader.since = None
        if closed:
            self._end()
        elif channel.replicator is not None:
            return self._reader.log_news.change()
        return frames

    def take_with_channel(self) -> tuple[bytes, str | None]:
        """Take, and say of which channel it is; None: of none of them."""
        self._reader.channel = None
        frames = self.take()
        return frames, self._reader.channel

    def _take_each(self, loop: Loop) -> bytes:
        """Take frames one by one, from the channels that have any, in turn."""
        frames, read = self._reader.read(loop, joins=self.joins)
        if frames:
            self.drained = read is Read.ALL
            return frames
        if read is Read.LAGS:
            return self._on_lag()
        if read is Read.LATE:
            loop.call_soon(self.look)
            return b""
        if read is Read.OVER:
            # Who doesn't know that what was left out is behind it would come back for ever.
            if not self.positions.told:
                return self.positions.tell() + b"\r\n"
            self._end()
            return b""
        return self._reader.log_news.change()

    def ping(self) -> bytes:
        cursor = b""
        if not self.positions.told and not self._preface.due and self._reader.id_blocks:
            cursor = self.positions.tell() + b"\r\n"
        return cursor + self._reader.log_news.out_of_reach()

    # Where to begin.

    def _resolve(self, pending: PendingStart) -> None:
        """Take the positions that are known by now."""
        if pending.resolve(self, self.positions, self._preface):
            self._pending = None
        elif self._loop is not None and pending.is_in_vain(self.positions):
            self._end()

    def _take_pending(self, pending: PendingStart) -> bytes:
        self._resolve(pending)
        if self._pending is not None:
            return b"" if self.ended else self._reader.log_news.change()
        self._reader.look_everywhere()
        self._prepare_soon()
        return self.take()

    # What comes first.

    def _prepare_soon(self) -> None:
        if self._opening_sender is not None:
            self._opening_sender.wake()
        else:
            self._prepare_at_once()

    def _prepare_at_once(self) -> None:
        self.prepared([step for step in self._preface.steps() if isinstance(step, bytes)])

    @property
    def must_prepare(self) -> bool:
        """Whether what comes first has to be made now, and nothing else comes before that."""
        preface = self._preface
        return not preface.ready and preface.due and self._pending is None

    def opening(self, loop: Loop) -> Opening:
        """Return what makes what comes first."""
        channels = self.positions.channels
        return Opening(self._preface.steps(), loop, channels[0].serializer)

    def prepared_in_part(self, frames: list[bytes]) -> None:
        """Take what has been made so far of what comes first."""
        self._preface.ready += frames

    def prepared(self, frames: list[bytes], error: Exception | None = None) -> None:
        """Take what comes first, as far as it hasn't been sent; with an error, it's the end."""
        if error is not None:
            self.error = error
            self._end()
        self._preface.told(frames)

    def _on_lag(self) -> bytes:
        """Tell of the events that are not here any more: in all channels that have such, at once."""
        self.stands = None
        if self._whole is not None:
            self._pending = PendingStart.anew(self.positions, self._whole)
            if self._pending is not None:
                self._preface.due = True
                return self.take()
        positions = self.positions
        for place in list(self._reader.due) if positions.cursor is not None else [0]:
            if not positions.is_lost(place):
                continue
            channel = positions.channels[place]
            stays = place in self._preface.outrun
            lag = channel.on_lag(positions.rings[place], positions.offsets[place], stays=stays)
            if lag is None or lag.ends:
                if lag is not None:
                    self.close_reason = "lagging"
                self._end()
                return b""
            positions.rings[place] = lag.ring
            frames: list[bytes] = []
            for offset, frame in lag.latest:
                positions.move(place, offset)
                if self._reader.wants(channel, offset, frame):
                    frames.append(positions.framed(place, frame))
            positions.move(place, lag.offset)
            channel.count_delivered(len(frames))
            self._preface.add_gap(place, lag.reason, frames)
        self._preface.due = True
        self._prepare_soon()
        return self.take()

    def _end(self) -> None:
        self.ended = True
        if self._opening_sender is not None:
            self._opening_sender.wake()


def _call_nobody() -> None:
    """Stand in for who is to be called until there is one."""
