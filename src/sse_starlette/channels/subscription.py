"""Subscriptions: one client's way through channels. What it's told, and what it gets.

A subscription is a position in the ring of each channel and nothing else: no queue, no task, and until
it is streamed not even a place in a list. What a change here must keep:

- The next event of a subscription is the next offset of the same epoch, or the client is told first.
- A position is a ring and an offset in it: the id that a client is sent is always of one history.
- Where it begins may have to be asked of a log. Until that's known nothing is sent but comments.
- It's used on one loop, but for what is said to be for any thread.
- However much there is to read, the loop has its turn after some milliseconds; however many channels
  there are, an event costs what it costs with one.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from inspect import isawaitable, iscoroutine
from typing import TYPE_CHECKING, Literal, Self, cast

import anyio
from starlette.requests import HTTPConnection

from .._runtime.loop import current_loop
from .._stream.feed import JOINED_BYTES, Feed
from .._stream.source import SourceFeed
from .._wire.cursor import MOST_CHANNELS, Cursor, last_event_id
from ..errors import SubscriberTooSlow
from ..event import ServerSentEvent, check_field, encoder, parse_frame, split_frames
from ._checks import required_arguments
from ._opening import Events, Opening, Step
from ._options import Gap, Snapshot, SubscribeOptions, check_request
from ._ring import Ring
from ._start import asked_by

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .._runtime.loop import Loop, WakeUp
    from ._start import GapReason
    from ._state import ChannelState

__all__ = ["Gap", "Subscription"]

_logger = logging.getLogger("sse_starlette.channel")

_ENCODE = encoder("\r\n")
_TURN_SECONDS = 0.003
"""How long one subscription may read before the loop has its turn."""
_LOOKS = 16
"""Events that are looked at before it's asked how long that has taken."""
_READ_AT_ONCE = 256
"""Events of one channel that are looked at before it's another one's turn."""


class Seat:
    """A subscription's place in one of its channels: what that channel calls."""

    __slots__ = ("__weakref__", "_place", "_subscription")

    def __init__(self, subscription: Subscription, place: int) -> None:
        self._subscription = subscription
        self._place = place

    def call(self) -> None:
        """Look for something new in this channel; on the loop of the subscription."""
        self._subscription.news_in(self._place)

    def offset_in(self, channel: ChannelState) -> int:
        """The offset of the newest event of `channel` that was taken."""
        return self._subscription.offset_in(channel)


class Subscription(Feed):
    """
    One client's way through one or several channels; made by `Channel.subscribe`.

    Give it to an `EventSourceResponse`. Or iterate it: it yields `ServerSentEvent`s with their ids and
    the names of their channels, `reset` events among them, ends when the channels are closed, and should
    be closed (`aclose`, or `async with`) if it's left before. It can be used once.
    """

    ended: bool
    drained: bool
    error: Exception | None
    close_reason: Literal["lagging"] | None

    def __init__(
        self,
        channels: Sequence[ChannelState],
        request: HTTPConnection | str | None,
        options: SubscribeOptions,
    ) -> None:
        """Take the positions; see `Channel.subscribe`."""
        _check_channels(channels, request, options)
        came_with = last_event_id(request) if isinstance(request, HTTPConnection) else request
        self._options = options
        self._filter = options.filter
        self._channels = list(channels)
        self._places = {id(channel): place for place, channel in enumerate(self._channels)}
        self._followers = {one for channel in channels if (one := channel.follower) is not None}
        # The position in each channel: a history, and an offset in it.
        self._rings: list[Ring] = [_NO_RING] * len(self._channels)
        self._offsets: list[int] = [0] * len(self._channels)
        self._cursor: Cursor | None = None
        # Whether each frame is looked at.
        self._each = (
            len(self._channels) > 1
            or options.filter is not None
            or options.name_channels
            or not options.id_blocks
        )
        # Those that may have something new, and those that aren't known to be at their end.
        self._due: dict[int, None] = {}
        self._open: set[int] = set(range(len(self._channels)))
        self._seats: list[Seat] = []
        # The application's functions may wait, so they need a task, and it an end.
        self.has_work: bool = options.on_gap is not None or options.snapshot is not None
        self._wake: Callable[[], None] = _wake_nobody
        self.call: Callable[[], None] = _wake_nobody
        """Look for something new; on the subscription's loop."""
        self._loop: Loop | None = None
        self._own_wake_up: WakeUp | None = None
        self._work: WakeUp | None = None
        self._wake_work: Callable[[], None] = _wake_nobody
        self._taken_from = False
        self._stopped = False
        self._to_prepare = True
        # The events that come first, where the application makes them: sent, or iterated.
        self._sending_first: SourceFeed | None = None
        self._opening: Opening | None = None
        self._opening_steps: list[bytes | Step] = []
        self._ready: list[bytes] = []
        self._new_to: list[int] = []
        self._cursor_first = not came_with
        self._gaps: list[_Hole] = []
        # Those that have gone on too far while the application made events; it isn't asked for others.
        self._outrun: set[int] = set()
        # What goes out before anything that is read from the channels.
        self._before: deque[bytes] = deque()
        self._cursor_told = True
        self._away_told = False
        self._reading_since: float | None = None
        self._in_a_row = 0
        self._failed = False
        self._from: str | None = None
        self._events: deque[ServerSentEvent] = deque()
        self._came_with = came_with
        self._asked = asked_by(came_with, options.after, options.seconds_ago(), options.replay)
        self._unsettled: list[int] | None = None
        for follower in self._followers:
            follower.must_run()
        self._settle(list(range(len(self._channels))))

    @property
    def last_event_id(self) -> str:
        """The id with which the client would come back now."""
        if self._unsettled is not None:
            return self._came_with or ""
        if self._cursor is not None:
            return str(self._cursor)
        return f"{self._rings[0].epoch}.{self._offsets[0]}"

    def offset_in(self, channel: ChannelState) -> int:
        """The offset of the newest event of `channel` that was taken."""
        return self._offsets[self._places[id(channel)]]

    def news_in(self, place: int) -> None:
        """Look for something new in the channel at this place; on the subscription's loop."""
        self._due[place] = None
        self.call()

    # The feed of a response.

    def is_over(self) -> bool:
        """Whether the channels are closed and the client has all their events."""
        return (
            not self._gaps
            and not (self._new_to and self._options.snapshot is not None)
            and all(
                channel.closed and self._has_all(channel, ring, offset)
                for channel, ring, offset in zip(
                    self._channels, self._rings, self._offsets, strict=True
                )
            )
        )

    def _has_all(self, channel: ChannelState, ring: Ring, offset: int) -> bool:
        if not self._options.id_blocks and channel.closes_at == offset + 1:
            return True  # What is left is an id alone.
        return channel.read_each(ring, offset, 1) == []

    def open(self, wake: Callable[[], None]) -> None:
        if self._work is not None or self._stopped:
            raise RuntimeError("a Subscription can be streamed or iterated once: subscribe again")
        self._loop = loop = current_loop()
        self._work = loop.wake_up()
        self._wake_work = self._work.set
        self._wake = self.call = wake
        self._due.update(dict.fromkeys(range(len(self._channels))))
        if len(self._channels) > 1:
            self._seats = [Seat(self, place) for place in range(len(self._channels))]
        for channel, member in self._members():
            channel.join(member, loop)
        if not self.has_work and self._unsettled is None:
            self._prepare_at_once()

    def _members(self) -> list[tuple[ChannelState, Subscription | Seat]]:
        """Each channel, and what it calls; one alone calls the subscription itself."""
        if self._seats:
            return list(zip(self._channels, self._seats, strict=True))
        return [(channel, self) for channel in self._channels]

    async def run(self) -> None:
        if not self.has_work or self._work is None or self._loop is None:
            return
        while not self.ended and not self._stopped:
            if self._to_prepare and self._unsettled is None:
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
            for channel, member in self._members():
                channel.leave(self, member)
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
            if self._unsettled is not None and not self.ended:
                return self._take_unsettled(self._unsettled)
            return b""
        loop = self._loop
        assert loop is not None  # noqa: S101  (it has been opened)
        if self._each or not self.joins:
            return self._take_each(loop)
        if self._reading_since is not None and self._is_others_turn(self._reading_since):
            return b""
        channel = self._channels[0]
        # Asked first: another thread may publish, and close the channel, in between.
        closed = channel.closed
        found = channel.read(self._rings[0], self._offsets[0])
        if found is None:
            return self._on_lag()
        frames, self._offsets[0] = found
        if frames:
            if found is self._rings[0].newest:
                self.drained = not closed
            elif self._reading_since is None:
                self._reading_since = loop.stopwatch()
            return frames
        self._reading_since = None
        if closed:
            self._end()
        elif channel.follower is not None:
            return self._news_of_the_log()
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

    def ping(self) -> bytes:
        return self._cursor_block() + self._out_of_reach()

    # The subscription by itself.

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> ServerSentEvent:
        """
        Wait for the next event.

        If the wait is cancelled, no event is lost; one for the snapshot has it made anew.

        Raises:
            SubscriberTooSlow: the channel has forgotten the next event (`slow="disconnect"`).
            StopAsyncIteration: the channels have been closed, or the subscription has.
        """
        loop = self._loop
        if self._own_wake_up is None or loop is None:
            if self._stopped:
                raise StopAsyncIteration
            loop = current_loop()
            own_wake_up = loop.wake_up()
            # One by one, so that each is known to be of its channel.
            self.joins = False
            self.open(own_wake_up.set)
            self._own_wake_up = own_wake_up
        while not self._events:
            if self._stopped:
                raise StopAsyncIteration
            if not self._before and self._to_prepare and self._unsettled is None:
                await self._prepare_next(loop)
            self._from = None
            if frames := self.take():
                # An id alone is for clients that may be cut off.
                for one in map(parse_frame, split_frames(frames)):
                    if one.data is not None or one.event:
                        one.channel = self._from
                        self._events.append(one)
            elif self.ended:
                self.stop()
                if self.error is not None:
                    raise self.error
                if self.close_reason == "lagging":
                    raise SubscriberTooSlow(
                        [channel.name for channel in self._channels], self.last_event_id
                    )
            elif not self._to_prepare or self._unsettled is not None:
                await self._own_wake_up
        return self._events.popleft()

    async def aclose(self) -> None:
        """Give up the subscription, also while another task waits for it; may be called twice."""
        self.ended = True
        wake = self._wake
        self.stop()
        self._events.clear()
        opening, self._opening = self._opening, None
        if opening is not None and not opening.busy:
            await opening.aclose()
        wake()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    # Where to begin.

    def _settle(self, places: list[int]) -> None:
        """Take the positions that are known by now."""
        left: list[int] = []
        epochs = [channel.epoch for channel in self._channels]
        known = set(epochs)
        for place in places:
            channel = self._channels[place]
            # Which epochs of the client's id are other channels', if those are all known.
            others = None if "" in known - {epochs[place]} else known - {channel.epoch}
            start = channel.begin(self, self._asked, others)
            if start is not None:
                self._rings[place], self._offsets[place], reason, anew = start
                if reason is not None:
                    self._gaps.append(_Hole(place, channel, reason, []))
                if anew:
                    self._new_to.append(place)
            else:
                left.append(place)
                if self._loop is not None and not (
                    channel.follower is not None and channel.follower.running
                ):
                    self._end()  # Nobody will ever say where.
        self._unsettled = left or None
        if not left and len(self._channels) > 1:
            self._cursor = Cursor(
                (ring.epoch, offset)
                for ring, offset in zip(self._rings, self._offsets, strict=True)
            )

    def _take_unsettled(self, unsettled: list[int]) -> bytes:
        self._settle(unsettled)
        if self._unsettled is not None:
            return b"" if self.ended else self._news_of_the_log()
        self._due.update(dict.fromkeys(range(len(self._channels))))
        if self.has_work:
            self._wake_work()
        else:
            self._prepare_at_once()
        return self.take()

    # The log.

    def _news_of_the_log(self) -> bytes:
        """Say so when the log is out of reach, and when it's back, once each."""
        out_of_reach = self._out_of_reach()
        if bool(out_of_reach) == self._away_told:
            return b""
        self._away_told = bool(out_of_reach)
        return out_of_reach or b": the log is in reach again\r\n\r\n"

    def _out_of_reach(self) -> bytes:
        for follower in self._followers:
            if (since := follower.tracks.figures.away_since) is not None:
                return f": the log is out of reach since {since}\r\n\r\n".encode()
        return b""

    # What comes first: a reset, the application's events, the cursor.

    def _steps(self) -> list[bytes | Step]:
        """What has to be sent before the channels' events; at its end the client's cursor moves."""
        gaps, options, cursor = self._gaps, self._options, self.last_event_id
        steps: list[bytes | Step] = []
        # What the client has missed while the application made events for it is told, and nothing is
        # made anew: it would take as long again.
        quietly = any(hole.place in self._outrun for hole in gaps)
        new_to = list(self._new_to)
        if gaps and (options.on_gap is None or quietly):
            steps.append(self._reset_frame(gaps, cursor))
            if not quietly:
                new_to += [hole.place for hole in gaps]
        elif options.on_gap is not None:
            for hole in gaps:
                gap = Gap(hole.channel.name, hole.reason, cursor)
                instead = partial(self._reset_instead, hole, cursor)
                steps.append(Step(partial(options.on_gap, gap), instead))
        if options.snapshot is not None and new_to:
            steps.append(Step(self._snapshot_of(options.snapshot, new_to)))
        # These have ids, so they come after what the client has to have before it moves on.
        steps += [frame for hole in gaps for frame in hole.latest]
        # The cursor comes last: who is cut off before it comes back with the one it had.
        if gaps or self._cursor_first or self._new_to:
            if len(steps) == 1 and isinstance(steps[0], bytes):
                steps[0] = self._cursor_line() + steps[0]
            elif options.id_blocks:
                steps.append(self._cursor_line() + b"\r\n")
        return steps

    def _snapshot_of(
        self, snapshot: Snapshot, places: list[int]
    ) -> Callable[[], Events | Awaitable[Events]]:
        if required_arguments(snapshot):
            names = [self._channels[place].name for place in sorted(places)]
            return partial(
                cast("Callable[[list[str]], Events | Awaitable[Events]]", snapshot), names
            )
        return cast("Callable[[], Events | Awaitable[Events]]", snapshot)

    def _prepare_at_once(self) -> None:
        steps = self._steps()
        self._before.extend(step for step in steps if isinstance(step, bytes))
        self._prepared(steps)

    def _prepared(self, steps: list[bytes | Step], error: Exception | None = None) -> None:
        if error is not None:
            self.error = error
            self._end()
        self._outrun = set()
        if any(isinstance(step, Step) for step in steps):
            self._outrun = {
                place
                for place, channel in enumerate(self._channels)
                if channel.read_each(self._rings[place], self._offsets[place], 1) is None
            }
        self._gaps = []
        self._new_to = []
        self._cursor_first = False
        self._to_prepare = False

    async def _prepare(self, loop: Loop) -> None:
        """Send what comes first, as any source is sent."""
        steps = self._steps()
        first = SourceFeed(
            Opening(steps, loop, self._channels[0].serializer),
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
        self._prepared(steps, first.error)

    async def _prepare_next(self, loop: Loop) -> None:
        """Make the next one of what comes first."""
        if self._opening is None:
            self._opening_steps = self._steps()
            self._opening = Opening(self._opening_steps, loop, self._channels[0].serializer)
        opening = self._opening
        try:
            # What is ready waits for what has to be made: if that's cancelled, all of it comes anew.
            while not opening.made:
                self._ready.append(await anext(opening))
            if not self._ready:
                self._ready.append(await anext(opening))
        except StopAsyncIteration:
            self._opening = None
            self._prepared(self._opening_steps)
        except Exception as exc:
            self._opening = None
            self._prepared(self._opening_steps, exc)
        except BaseException:
            # The wait was cancelled, and with it what was being made.
            self._opening = None
            self._ready.clear()
            with anyio.CancelScope(shield=True):
                await opening.aclose()
            raise
        self._before.extend(self._ready)
        self._ready.clear()
        if self._stopped:
            self._opening = None
            await opening.aclose()

    def _reset_frame(self, gaps: list[_Hole], cursor: str) -> bytes:
        told: dict[str, object] = {
            "reason": gaps[0].reason,
            "channel": gaps[0].channel.name,
            "cursor": cursor,
        }
        if len(gaps) > 1:
            by_reason: dict[str, list[str]] = {}
            for hole in gaps:
                by_reason.setdefault(hole.reason, []).append(hole.channel.name)
            told["gaps"] = by_reason
        return _ENCODE({"event": "reset", "data": told})

    def _reset_instead(self, hole: _Hole, cursor: str, error: Exception) -> bytes:
        hole.channel.count_failure()
        _logger.error(
            "on_gap failed for channel %r: the client is sent the event `reset`",
            hole.channel.name,
            exc_info=error,
        )
        return self._reset_frame([hole], cursor)

    def _cursor_block(self) -> bytes:
        """What moves the client's cursor, if it has to be moved."""
        if self._cursor_told or self._to_prepare or not self._options.id_blocks:
            return b""
        return self._cursor_line() + b"\r\n"

    def _cursor_line(self) -> bytes:
        # An id without data moves the client's cursor and fires no event (WHATWG HTML 9.2.6).
        self._cursor_told = True
        return f"id: {self.last_event_id}\r\n".encode()

    # What is read from the channels.

    def _move(self, place: int, offset: int) -> None:
        self._offsets[place] = offset
        if self._cursor is not None:
            self._cursor.move(place, self._rings[place].epoch, offset)

    def _on_lag(self) -> bytes:
        """Tell of the events that are not here any more: in all channels that have such, at once."""
        for place in list(self._due) if self._cursor is not None else [0]:
            channel = self._channels[place]
            if channel.read_each(self._rings[place], self._offsets[place], 1) is not None:
                continue
            stays = place in self._outrun
            lag = channel.on_lag(self._rings[place], self._offsets[place], stays=stays)
            if lag is None or lag.ends:
                if lag is not None:
                    self.close_reason = "lagging"
                self._end()
                return b""
            self._rings[place] = lag.ring
            frames: list[bytes] = []
            for offset, frame in lag.latest:
                self._move(place, offset)
                if self._wants(channel, offset, frame):
                    frames.append(self._with_cursor(place, frame))
            self._move(place, lag.offset)
            channel.count_delivered(len(frames))
            self._gaps.append(_Hole(place, channel, lag.reason, frames))
        self._to_prepare = True
        if not self.has_work:
            self._prepare_at_once()
        else:
            self._wake_work()
        return self.take()

    def _take_each(self, loop: Loop) -> bytes:
        """Take frames one by one, from the channels that have any, in turn."""
        due, joins, stopwatch = self._due, self.joins, loop.stopwatch
        if not due:
            # Nobody has called since the last look, so this one is to make sure.
            due.update(dict.fromkeys(range(len(self._channels))))
        most = _READ_AT_ONCE if joins else 1
        taken: list[bytes] = []
        size = looked = 0
        since = self._reading_since
        if since is None:
            since = stopwatch()
        elif self._is_others_turn(since):
            return b""
        full = late = False
        while due and not full and not late:
            place = next(iter(due))
            channel = self._channels[place]
            # Asked first: another thread may publish, and close the channel, in between.
            closed = channel.closed
            offset = self._offsets[place]
            frames = channel.read_each(self._rings[place], offset, most)
            if frames is None:
                if not taken:
                    return self._on_lag()
                break  # What has been taken so far goes out with the cursor of before the gap.
            if not frames or self._in_a_row >= _READ_AT_ONCE:
                del due[place]
                self._in_a_row = 0
            if not frames:
                (self._open.discard if closed else self._open.add)(place)
                continue
            due[place] = None  # Behind the others, if it has had its share.
            before = len(taken)
            for frame in frames:
                offset += 1
                looked += 1
                self._in_a_row += 1
                wanted = self._wants(channel, offset, frame)
                self._move(place, offset)
                self._cursor_told = wanted
                if wanted:
                    self._from = channel.name
                    taken.append(self._with_cursor(place, frame))
                    size += len(taken[-1])
                    full = size >= JOINED_BYTES or not joins
                late = looked % _LOOKS == 0 and stopwatch() - since > _TURN_SECONDS
                if full or late:
                    break
            channel.count_delivered(len(taken) - before)
        # For the next call: it may be the same turn of the loop.
        self._reading_since = since if due else None
        if taken:
            self.drained = not due and bool(self._open)
            return b"".join(taken)
        if late:
            self._reading_since = None
            loop.soon(self._look_again)
            return b""
        if not self._open and not self._gaps:
            # Who doesn't know that what was left out is behind it would come back for ever.
            if not self._cursor_told:
                return self._cursor_line() + b"\r\n"
            self._end()
            return b""
        return self._news_of_the_log()

    def _is_others_turn(self, since: float) -> bool:
        """Whether this has read for so long that others are to have their turn; it's called after it."""
        loop = self._loop
        if loop is None or loop.stopwatch() - since <= _TURN_SECONDS:
            return False
        self._reading_since = None
        loop.soon(self._look_again)
        return True

    def _look_again(self) -> None:
        self._wake()

    def _wants(self, channel: ChannelState, offset: int, frame: bytes) -> bool:
        if offset == channel.closes_at:
            return self._options.id_blocks  # It's an id alone.
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
                )
            return False

    def _with_cursor(self, place: int, frame: bytes) -> bytes:
        """Return the frame of a channel as the client is to get it: with all positions as its id."""
        if self._cursor is not None:
            frame = b"id: %b\r\n%b" % (str(self._cursor).encode(), frame[frame.index(b"\n") + 1 :])
        if self._options.name_channels:
            frame = _with_name(frame, self._channels[place].name.encode())
        return frame

    def _end(self) -> None:
        self.ended = True
        self._wake_work()


@dataclass(frozen=True, slots=True)
class _Hole:
    """A gap that the client has not been told of yet, and the newest events of each key after it."""

    place: int
    channel: ChannelState
    reason: GapReason
    latest: list[bytes]


def _check_channels(
    channels: Sequence[ChannelState],
    request: HTTPConnection | str | None,
    options: SubscribeOptions,
) -> None:
    check_request(request)
    if len(channels) > MOST_CHANNELS:
        raise ValueError(
            f"a stream can have {MOST_CHANNELS} channels, got {len(channels)}: its ids hold a position for "
            "each, and servers and proxies refuse longer ones when the client comes back. Use several "
            "streams, or one channel for what belongs together, with a filter."
        )
    if isinstance(options.after, int) and len(channels) > 1:
        raise TypeError(
            f"after={options.after} is an offset in one channel, got {len(channels)} channels: give an id, "
            'such as the last_event_id of a subscription to them, or "start".'
        )
    if options.name_channels:
        for channel in channels:
            check_field("the name of a channel, for name_channels,", channel.name)
    if request == "" and any(channel.follower is not None for channel in channels):
        raise ValueError(
            "the id is empty: where the channel is isn't known here. Ask for it, "
            "`await channel.position()`, or give None for a client that begins anew."
        )
    if options.since is not None:
        for channel in channels:
            if channel.follower is not None and not channel.follower.backend.keeps_times:
                raise ValueError(
                    f"the event log of channel {channel.name!r}, a "
                    f"{type(channel.follower.backend).__name__}, keeps no times that can be asked for: use "
                    "after, with an id or an offset, instead of since."
                )


_NO_RING = Ring(events=1, bytes_=1, seconds=None)


def _wake_nobody() -> None:
    """Stand in for who is to be woken until there is one."""


def _as_it_is(frame: object) -> bytes:
    """Encode what is encoded already."""
    assert isinstance(frame, bytes)  # noqa: S101  (an opening makes nothing else)
    return frame


def _with_name(frame: bytes, channel: bytes) -> bytes:
    """Return the frame with the name of its channel in that of its event."""
    # At the beginning of a line this is the field, and not something in the data.
    name = frame.find(b"\r\nevent: ")
    if name >= 0:
        return b"%b%b:%b" % (frame[: name + 9], channel, frame[name + 9 :])
    data = frame.find(b"\r\ndata: ")
    if data < 0:
        return frame
    return b"%b\r\nevent: %b%b" % (frame[:data], channel, frame[data:])
