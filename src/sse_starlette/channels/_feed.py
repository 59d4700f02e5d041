"""A subscription as the feed of a response: one client's way through channels, and what it's sent.

A subscription is a position in the ring of each channel and nothing else: no queue, no task, and until
it is streamed not even a place in a list. What a change here must keep:

- The next event of a subscription is the next offset of the same epoch, or the client is told first.
- Where it begins may have to be asked of a log. Until that's known nothing is sent but comments.
- It's used on one loop, but for what is said to be for any thread.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Literal

import anyio

from .._runtime.loop import current_loop
from .._stream.feed import JOINED_BYTES, Feed
from .._stream.source import SourceFeed
from ._log_news import LogNews
from ._opening import Opening
from ._pending_start import PendingStart
from ._positions import Positions
from ._preface import Preface
from ._reader import Read, Reader

if TYPE_CHECKING:
    from collections.abc import Callable

    from .._runtime.loop import Loop, Waker
    from ._options import SubscribeOptions
    from ._state import ChannelState


class Seat:
    """A subscription's place in one of its several channels: what that channel calls."""

    __slots__ = ("__weakref__", "_due", "_offsets", "_place", "_subscription")

    def __init__(
        self, subscription: SubscriptionFeed, due: dict[int, None], offsets: list[int], place: int
    ) -> None:
        self._subscription = subscription
        self._due = due
        self._offsets = offsets
        self._place = place

    def call(self) -> None:
        """Look for something new in this channel; on the loop of the subscription."""
        self._due[self._place] = None
        self._subscription.call()

    def newest(self) -> int:
        """The offset of the newest event of this channel that was taken."""
        return self._offsets[self._place]


class SubscriptionFeed(Feed):
    """The frames of a subscription on their way to its client."""

    ended: bool
    drained: bool
    error: Exception | None
    close_reason: Literal["lagging"] | None

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
        self._channels = channels
        self._positions = Positions(channels, options)
        self._preface = Preface(self._positions, options, cursor_first=not came_with)
        self._reader = Reader(self._positions, options)
        self._log_news = LogNews(channels)
        self._id_blocks = options.id_blocks
        # Whether each frame is looked at.
        self._each = (
            len(channels) > 1
            or options.filter is not None
            or options.name_channels
            or not options.id_blocks
        )
        self._seats: list[Seat] = []
        # The application's functions may wait, so they need a task, and it an end.
        self.has_work: bool = options.on_gap is not None or options.snapshot is not None
        self._wake: Callable[[], None] = _wake_nobody
        self.call: Callable[[], None] = _wake_nobody
        """Look for something new; on the subscription's loop."""
        self._loop: Loop | None = None
        self._work: Waker | None = None
        self._taken_from = False
        self._stopped = False
        self._to_prepare = True
        # The events that come first, where the application makes them.
        self._sending_first: SourceFeed | None = None
        # What goes out before anything that is read from the channels.
        self._before: deque[bytes] = deque()
        self._pending: PendingStart | None = PendingStart(came_with, options, len(channels))
        self._log_news.must_run()
        self._resolve(self._pending)

    @property
    def last_event_id(self) -> str:
        """The id with which the client would come back now."""
        if self._pending is not None:
            return self._pending.came_with or ""
        return self._positions.last_event_id

    def newest(self) -> int:
        """The offset of the newest event that was taken, of one channel alone."""
        return self._positions.offsets[0]

    def is_over(self) -> bool:
        """Whether the channels are closed and the client has all their events."""
        return not self._preface.has_events and all(
            channel.closed and self._has_all(place, channel)
            for place, channel in enumerate(self._channels)
        )

    def _has_all(self, place: int, channel: ChannelState) -> bool:
        offset = self._positions.offsets[place]
        if not self._id_blocks and channel.closes_at == offset + 1:
            return True  # What is left is an id alone.
        return channel.read_each(self._positions.rings[place], offset, 1) == []

    def open(self, wake: Callable[[], None]) -> None:
        if self._work is not None or self._stopped:
            raise RuntimeError("a Subscription can be streamed or iterated once: subscribe again")
        self._loop = loop = current_loop()
        self._work = loop.waker()
        self._wake = self.call = wake
        self._reader.look_everywhere()
        if len(self._channels) > 1:
            due, offsets = self._reader.due, self._positions.offsets
            self._seats = [Seat(self, due, offsets, place) for place in range(len(offsets))]
        for channel, subscriber in self._subscribers():
            channel.join(subscriber, loop)
        if not self.has_work and self._pending is None:
            self._prepare_at_once()

    def _subscribers(self) -> list[tuple[ChannelState, SubscriptionFeed | Seat]]:
        """Each channel, and what it calls; one alone calls the subscription itself."""
        if self._seats:
            return list(zip(self._channels, self._seats, strict=True))
        return [(channel, self) for channel in self._channels]

    async def run(self) -> None:
        if not self.has_work or self._work is None or self._loop is None:
            return
        while not self.ended and not self._stopped:
            if self._to_prepare and self._pending is None:
                await self._prepare(self._loop)
                self._wake()
            else:
                with anyio.CancelScope(shield=True):
                    await self._work

    def stop(self) -> None:
        if not self._stopped:
            self._stopped = True
            if not self._taken_from:
                # Nothing has been asked for: the answer is a HEAD's, or 204.
                self.ended = True
                self._before.clear()
            for channel, subscriber in self._subscribers():
                channel.leave(self, subscriber)
            self._seats = []
            self._wake = self.call = _wake_nobody
            if self._sending_first is not None:
                self._sending_first.stop()
            self._wake_work()

    def sent(self) -> None:
        if self._sending_first is not None:
            self._sending_first.sent()

    def take(self) -> bytes:
        self._taken_from = True
        self.drained = False
        if self._before:
            return self._take_before()
        if self._sending_first is not None:
            self._sending_first.sent()  # Nobody takes more before that.
            return self._sending_first.take()
        if self._to_prepare or self.ended:
            if self._pending is not None and not self.ended:
                return self._take_pending(self._pending)
            return b""
        loop, reader = self._loop, self._reader
        assert loop is not None  # noqa: S101  (it has been opened)
        if self._each or not self.joins:
            return self._take_each(loop)
        if reader.since is not None and reader.is_late(loop):
            loop.call_soon(self._look_again)
            return b""
        channel, positions = self._channels[0], self._positions
        # Asked first: another thread may publish, and close the channel, in between.
        closed = channel.closed
        found = channel.read(positions.rings[0], positions.offsets[0])
        if found is None:
            return self._on_lag()
        frames, positions.offsets[0] = found
        if frames:
            if found is positions.rings[0].newest:
                self.drained = not closed
            elif reader.since is None:
                reader.since = loop.stopwatch()
            return frames
        reader.since = None
        if closed:
            self._end()
        elif channel.replicator is not None:
            return self._log_news.change()
        return frames

    def _take_before(self) -> bytes:
        if not self.joins:
            return self._before.popleft()
        frames: list[bytes] = []
        size = 0
        while self._before and size < JOINED_BYTES:
            frames.append(self._before.popleft())
            size += len(frames[-1])
        return b"".join(frames)

    def _take_each(self, loop: Loop) -> bytes:
        """Take frames one by one, from the channels that have any, in turn."""
        frames, read = self._reader.read(loop, joins=self.joins)
        if frames:
            self.drained = read is Read.ALL
            return frames
        if read is Read.LAGS:
            return self._on_lag()
        if read is Read.LATE:
            loop.call_soon(self._look_again)
            return b""
        if read is Read.OVER:
            # Who doesn't know that what was left out is behind it would come back for ever.
            if not self._positions.told:
                return self._positions.tell() + b"\r\n"
            self._end()
            return b""
        return self._log_news.change()

    def ping(self) -> bytes:
        cursor = b""
        if not self._positions.told and not self._to_prepare and self._id_blocks:
            cursor = self._positions.tell() + b"\r\n"
        return cursor + self._log_news.out_of_reach()

    # Where to begin.

    def _resolve(self, pending: PendingStart) -> None:
        """Take the positions that are known by now."""
        if pending.resolve(self, self._positions, self._preface):
            self._pending = None
        elif self._loop is not None and pending.is_in_vain(self._positions):
            self._end()

    def _take_pending(self, pending: PendingStart) -> bytes:
        self._resolve(pending)
        if self._pending is not None:
            return b"" if self.ended else self._log_news.change()
        self._reader.look_everywhere()
        self._prepare_soon()
        return self.take()

    # What comes first.

    def _prepare_soon(self) -> None:
        if self.has_work:
            self._wake_work()
        else:
            self._prepare_at_once()

    def _prepare_at_once(self) -> None:
        self._before.extend(step for step in self._preface.steps() if isinstance(step, bytes))
        self._prepared()

    async def _prepare(self, loop: Loop) -> None:
        """Send what comes first, as any source is sent."""
        first = SourceFeed(
            Opening(self._preface.steps(), loop, self._channels[0].serializer),
            _as_it_is,
            loop,
            sep="\r\n",
            cleanup_timeout=self.cleanup_timeout,
            joins=self.joins,
        )
        first.open(self._wake)
        self._sending_first = first
        await first.run()
        self._sending_first = None
        if rest := first.take():
            self._before.append(rest)
        self._prepared(first.error)

    def _prepared(self, error: Exception | None = None) -> None:
        if error is not None:
            self.error = error
            self._end()
        self._preface.told()
        self._to_prepare = False

    def _on_lag(self) -> bytes:
        """Tell of the events that are not here any more: in all channels that have such, at once."""
        positions = self._positions
        for place in list(self._reader.due) if positions.cursor is not None else [0]:
            if not positions.is_lost(place):
                continue
            channel = self._channels[place]
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
        self._to_prepare = True
        self._prepare_soon()
        return self.take()

    def _look_again(self) -> None:
        self._wake()

    def _wake_work(self) -> None:
        if self._work is not None:
            self._work.set()

    def _end(self) -> None:
        self.ended = True
        self._wake_work()


def _wake_nobody() -> None:
    """Stand in for who is to be woken until there is one."""


def _as_it_is(frame: object) -> bytes:
    """Encode what is encoded already."""
    assert isinstance(frame, bytes)  # noqa: S101  (an opening makes nothing else)
    return frame
