"""Subscriptions: one client's way through channels. Where it begins, what it's told, what it gets.

A subscription is a position in the ring of each channel and nothing else: no queue, no task, and until
it is streamed not even a place in a list. What a change here must keep:

- The next event of a subscription is the next offset of the same epoch, or the client is told first.
- A position is a ring and an offset in it: the id that a client is sent is always of one history.
- Where it begins may have to be asked of a log. Until that's known nothing is sent but comments.
- It's used on one loop, but for what is said to be for any thread.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Callable, Iterable
from dataclasses import dataclass
from inspect import isawaitable
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol, Self, TypeAlias

import anyio
from starlette.requests import HTTPConnection

from ._cursor import format_cursor, last_event_id, parse_cursor
from ._feed import JOINED_BYTES, Feed
from ._loop import current_loop
from ._ring import Ring
from .errors import SubscriberTooSlow
from .event import ServerSentEvent, check_field, encoder, own_event, parse_frame, split_frames

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ._follower import Follower
    from ._json import Serializer
    from ._loop import Loop, WakeUp

__all__ = ["Gap", "Subscription"]

GapReason: TypeAlias = Literal["unknown", "epoch", "future", "trimmed", "lagging"]
"""
Why a client can't be given all that it missed:

- `"unknown"`: its id is none of ours.
- `"epoch"`: its id is from a history that has been lost, or from another channel.
- `"future"`: its id is newer than the newest event.
- `"trimmed"`: what follows its id is no longer kept.
- `"lagging"`: it is connected, and read too slowly.
"""

Event: TypeAlias = Any
"""What may be published: whatever a source may yield, without an id of its own."""
Events: TypeAlias = Iterable[Event] | AsyncIterable[Event]
Start: TypeAlias = "tuple[Ring, int, GapReason | None]"
"""Where a subscription begins in a channel, and why not where its client left off."""
Snapshot: TypeAlias = Callable[[], Events | Awaitable[Events]]

_ENCODE = encoder("\r\n")


@dataclass(frozen=True, slots=True)
class Gap:
    """
    A hole in what a client gets, as `on_gap` is told of it.

    Attributes:
        channel: the name of the channel.
        reason: why there is one; see `GapReason`.
        cursor: the id from which the client goes on.
    """

    channel: str
    reason: GapReason
    cursor: str


class Overtaken(NamedTuple):
    """What becomes of a subscription whose next event is not here."""

    reason: GapReason
    ring: Ring
    head: int
    latest: list[tuple[int, bytes]]
    ends: bool


class Source(Protocol):
    """What a subscription needs of a channel. Any thread may call it."""

    name: str
    closed: bool
    closes_at: int | None
    follower: Follower | None
    serializer: Serializer | None

    def begin(
        self, subscription: Subscription, positions: dict[str, int] | None, replay: int | None
    ) -> Start | None:
        """Say where `subscription` begins; None: call it when that's known."""

    def join(self, subscription: Subscription, loop: Loop) -> None:
        """Call `subscription` on `loop` from now on when there's something new."""

    def leave(self, subscription: Subscription) -> None:
        """Don't call `subscription` any more."""

    def read(self, ring: Ring, after: int) -> tuple[bytes, int] | None:
        """Join the frames after a position, and say which is the last; None: they're not here."""

    def read_each(self, ring: Ring, after: int) -> list[bytes] | None:
        """Return the frames after a position, each by itself; None: they're not here."""

    def count_delivered(self, events: int) -> None:
        """Count events that were read by `read_each` and went to the client."""

    def parsed(self, offset: int, frame: bytes) -> ServerSentEvent:
        """Return the event of a frame."""

    def overtook(self, ring: Ring, after: int) -> Overtaken | None:
        """Deal with a subscription whose next event is not here."""


class Subscription(Feed):
    """
    One client's way through one or several channels; made by `Channel.subscribe`.

    Give it to an `EventSourceResponse`. Or iterate it: it yields `ServerSentEvent`s with their ids,
    `reset` events among them, ends when the channels are closed, and should be closed (`aclose`, or
    `async with`) if it's left before. It can be used once.
    """

    ended: bool
    drained: bool
    error: Exception | None
    close_reason: Literal["lagging"] | None

    def __init__(
        self,
        channels: Sequence[Source],
        request: HTTPConnection | str | None,
        filter_: Callable[[ServerSentEvent], object] | None,
        on_gap: Callable[[Gap], Events | Awaitable[Events]] | None,
        snapshot: Snapshot | None,
        replay: int,
    ) -> None:
        """Take the positions; see `Channel.subscribe`."""
        if replay < 0:
            raise ValueError(f"replay must be >= 0 events, got: {replay}")
        came_with = last_event_id(request) if isinstance(request, HTTPConnection) else request
        positions = parse_cursor(came_with) if came_with else None
        self._channels = list(channels)
        # The position in each channel: a history, and an offset in it.
        self._rings: list[Ring] = []
        self._offsets: list[int] = []
        self._filter = filter_
        self._on_gap = on_gap
        self._snapshot = snapshot
        # The application's functions may wait, so they need a task, and it an end.
        self.has_work: bool = on_gap is not None or snapshot is not None
        self._preparing: anyio.CancelScope | None = None
        self._wake: Callable[[], None] = _wake_nobody
        self.call: Callable[[], None] = _wake_nobody
        """Look for something new; on the subscription's loop."""
        self._own_wake_up: WakeUp | None = None
        self._work: WakeUp | None = None
        self._wake_work: Callable[[], None] = _wake_nobody
        self._taken_from = False
        self._stopped = False
        self._to_prepare = True
        self._begins_anew = not came_with
        self._gaps: list[_Hole] = []
        # What goes out before anything that is read from the channels.
        self._before: list[bytes] = []
        self._cursor_told = True
        self._away_told = False
        self._events: deque[ServerSentEvent] = deque()
        replay_or_resume = None if came_with else replay
        unsettled: list[int] = []
        for place, channel in enumerate(self._channels):
            if channel.follower is not None:
                channel.follower.must_run()
            start = channel.begin(self, positions, replay_or_resume)
            if start is None:
                unsettled.append(place)
                start = _NOWHERE
            ring, offset, reason = start
            self._rings.append(ring)
            self._offsets.append(offset)
            if reason is not None:
                self._gaps.append(_Hole(channel, reason, []))
        self._unsettled: _Unsettled | None = None
        if unsettled:
            self._unsettled = _Unsettled(unsettled, came_with, positions, replay_or_resume)

    @property
    def last_event_id(self) -> str:
        """The id with which the client would come back now."""
        if self._unsettled is not None:
            return self._unsettled.came_with or ""
        return format_cursor(
            (ring.epoch, offset) for ring, offset in zip(self._rings, self._offsets, strict=True)
        )

    def offset_in(self, channel: Source) -> int:
        """The offset of the newest event of `channel` that was taken."""
        return self._offsets[self._channels.index(channel)]

    # The feed of a response.

    def is_over(self) -> bool:
        """Whether the channels are closed and the client has all their events."""
        return not self._gaps and all(
            channel.closed and channel.read_each(ring, offset) == []
            for channel, ring, offset in zip(
                self._channels, self._rings, self._offsets, strict=True
            )
        )

    def open(self, wake: Callable[[], None]) -> None:
        if self._work is not None or self._stopped:
            raise RuntimeError("a Subscription can be streamed or iterated once: subscribe again")
        loop = current_loop()
        self._work = loop.wake_up()
        self._wake_work = self._work.set
        self._wake = self.call = wake
        for channel in self._channels:
            channel.join(self, loop)
        if not self.has_work and self._unsettled is None:
            self._prepare_at_once()

    async def run(self) -> None:
        if not self.has_work or self._work is None:
            return
        with anyio.CancelScope(shield=True) as self._preparing:
            while not self.ended and not self._stopped:
                if self._to_prepare and self._unsettled is None:
                    await self._prepare()
                    self._wake()
                else:
                    await self._work

    def stop(self) -> None:
        if not self._stopped:
            self._stopped = True
            if not self._taken_from:
                # Nothing has been asked for: the answer is a HEAD's, or 204.
                self.ended = True
                self._before.clear()
            for channel in self._channels:
                channel.leave(self)
            self._wake = self.call = _wake_nobody
            if self._preparing is not None:
                self._preparing.cancel()

    def sent(self) -> None:
        pass

    def take(self) -> bytes:
        self._taken_from = True
        self.drained = False
        if self._before:
            count = len(self._before) if self.joins else 1
            before = b"".join(self._before[:count])
            del self._before[:count]
            return before
        if self._to_prepare or self.ended:
            if self._unsettled is not None and not self.ended:
                return self._take_unsettled(self._unsettled)
            return b""
        if len(self._channels) > 1 or self._filter is not None or not self.joins:
            return self._take_each()
        channel = self._channels[0]
        # Asked first: another thread may publish, and close the channel, in between.
        closed = channel.closed
        found = channel.read(self._rings[0], self._offsets[0])
        if found is None:
            return self._fall_behind(0)
        frames, self._offsets[0] = found
        if frames:
            self.drained = not closed and found is self._rings[0].newest
        elif closed:
            self._end()
        elif channel.follower is not None:
            return self._news_of_the_log()
        return frames

    def ping(self) -> bytes:
        return self._cursor_block() + self._out_of_reach()

    # The subscription by itself.

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> ServerSentEvent:
        """
        Wait for the next event.

        If the wait is cancelled, no event is lost.

        Raises:
            SubscriberTooSlow: the channel has forgotten the next event (`slow="disconnect"`).
            StopAsyncIteration: the channels have been closed, or the subscription has.
        """
        if self._own_wake_up is None:
            if self._stopped:
                raise StopAsyncIteration
            own_wake_up = current_loop().wake_up()
            self.open(own_wake_up.set)
            self._own_wake_up = own_wake_up
        while not self._events:
            if self._stopped:
                raise StopAsyncIteration
            if self._to_prepare and self._unsettled is None:
                await self._prepare()
            if frames := self.take():
                # An id alone is for clients that may be cut off.
                found = map(parse_frame, split_frames(frames))
                self._events.extend(one for one in found if one.data is not None or one.event)
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
        wake()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    # Where to begin.

    def _settle(self, unsettled: _Unsettled) -> None:
        """Take the positions that are known by now."""
        for place in list(unsettled.places):
            channel = self._channels[place]
            start = channel.begin(self, unsettled.positions, unsettled.replay)
            if start is not None:
                unsettled.places.remove(place)
                self._rings[place], self._offsets[place], reason = start
                if reason is not None:
                    self._gaps.append(_Hole(channel, reason, []))
            elif channel.follower is None or not channel.follower.running:
                self._end()  # Nobody will ever say where.
        if not unsettled.places:
            self._unsettled = None

    def _take_unsettled(self, unsettled: _Unsettled) -> bytes:
        self._settle(unsettled)
        if self._unsettled is not None:
            return b"" if self.ended else self._news_of_the_log()
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
        for channel in self._channels:
            if channel.follower is not None and (since := channel.follower.away_since) is not None:
                return f": the log is out of reach since {since}\r\n\r\n".encode()
        return b""

    # What comes first: resets, the application's events, the cursor.

    def _prepare_at_once(self) -> None:
        frames: list[bytes] = []
        for hole in self._gaps:
            frames += [self._reset_frame(hole), *hole.latest]
        self._begin_with(frames)

    async def _prepare(self) -> None:
        frames: list[bytes] = []
        try:
            for hole in self._gaps:
                if self._on_gap is None:
                    frames.append(self._reset_frame(hole))
                else:
                    gap = Gap(hole.channel.name, hole.reason, self.last_event_id)
                    frames += await _frames_of(self._on_gap(gap), hole.channel.serializer)
            if self._snapshot is not None and (
                self._begins_anew or (self._gaps and self._on_gap is None)
            ):
                frames += await _frames_of(self._snapshot(), self._channels[0].serializer)
            # These have ids, so they come after what the client has to have before it moves on.
            for hole in self._gaps:
                frames += hole.latest
        except Exception as exc:
            self.error = exc
            self._end()
        self._begin_with(frames)

    def _begin_with(self, frames: list[bytes]) -> None:
        # The cursor comes last: who is cut off before it comes back with the one it had.
        if (self._gaps or self._begins_anew) and self.error is None:
            if frames and frames[-1].startswith(b"event: reset"):
                frames[-1] = self._cursor_line() + frames[-1]
            else:
                frames.append(self._cursor_line() + b"\r\n")
        self._before = frames
        self._gaps = []
        self._begins_anew = False
        self._to_prepare = False

    def _reset_frame(self, hole: _Hole) -> bytes:
        return _ENCODE(
            {
                "event": "reset",
                "data": {
                    "reason": hole.reason,
                    "channel": hole.channel.name,
                    "cursor": self.last_event_id,
                },
            }
        )

    def _cursor_block(self) -> bytes:
        """What moves the client's cursor, if it has to be moved."""
        return b"" if self._cursor_told or self._to_prepare else self._cursor_line() + b"\r\n"

    def _cursor_line(self) -> bytes:
        # An id without data moves the client's cursor and fires no event (WHATWG HTML 9.2.6).
        self._cursor_told = True
        return f"id: {self.last_event_id}\r\n".encode()

    def _fall_behind(self, place: int) -> bytes:
        channel = self._channels[place]
        found = channel.overtook(self._rings[place], self._offsets[place])
        if found is None or found.ends:
            if found is not None:
                self.close_reason = "lagging"
            self._end()
            return b""
        self._rings[place] = found.ring
        frames: list[bytes] = []
        for offset, frame in found.latest:
            self._offsets[place] = offset
            if self._wants(channel, offset, frame):
                frames.append(self._with_cursor(frame))
        self._offsets[place] = found.head
        channel.count_delivered(len(frames))
        self._gaps.append(_Hole(channel, found.reason, frames))
        self._to_prepare = True
        if not self.has_work:
            self._prepare_at_once()
        else:
            self._wake_work()
        return self.take()

    def _take_each(self) -> bytes:
        taken: list[bytes] = []
        size = 0
        try:
            for place, channel in enumerate(self._channels):
                frames = channel.read_each(self._rings[place], self._offsets[place])
                if frames is None:
                    # What has been taken so far goes out with the cursor of before the gap.
                    return b"".join(taken) or self._fall_behind(place)
                taken_before = len(taken)
                try:
                    for frame in frames:
                        if size >= JOINED_BYTES or (taken and not self.joins):
                            break
                        offset = self._offsets[place] + 1
                        wanted = self._wants(channel, offset, frame)
                        self._offsets[place] = offset
                        self._cursor_told = wanted
                        if wanted:
                            taken.append(self._with_cursor(frame))
                            size += len(frame)
                finally:
                    channel.count_delivered(len(taken) - taken_before)
        except Exception as exc:
            self.error = exc
            self._end()
        if not taken and not self.ended and self.is_over():
            # Who doesn't know that what was left out is behind it would come back for ever.
            if cursor := self._cursor_block():
                return cursor
            self._end()
        elif not taken and not self.ended:
            return self._news_of_the_log()
        return b"".join(taken)

    def _wants(self, channel: Source, offset: int, frame: bytes) -> bool:
        return (
            self._filter is None
            or offset == channel.closes_at
            or bool(self._filter(channel.parsed(offset, frame)))
        )

    def _with_cursor(self, frame: bytes) -> bytes:
        """Return the frame of a channel with the positions in all channels as its id."""
        if len(self._channels) == 1:
            return frame
        return self._cursor_line() + frame[frame.index(b"\n") + 1 :]

    def _end(self) -> None:
        self.ended = True
        self._wake_work()


@dataclass(frozen=True, slots=True)
class _Hole:
    """A gap that the client has not been told of yet, and the newest events of each key after it."""

    channel: Source
    reason: GapReason
    latest: list[bytes]


@dataclass(slots=True)
class _Unsettled:
    """What it takes to say where a subscription begins, and the places of which it isn't known yet."""

    places: list[int]
    came_with: str | None
    positions: dict[str, int] | None
    replay: int | None


_NOWHERE: Start = (Ring(events=1, bytes_=1, seconds=None), 0, None)


def _wake_nobody() -> None:
    """Stand in for who is to be woken until there is one."""


async def _frames_of(
    result: Events | Awaitable[Events], serializer: Serializer | None
) -> list[bytes]:
    events = await result if isawaitable(result) else result
    if isinstance(events, AsyncIterable):
        try:
            return [encode_body(event, serializer) async for event in events]
        finally:
            # Not all of it has been read when an event can't be encoded.
            if isinstance(events, AsyncGenerator):
                await events.aclose()
    if isinstance(events, (dict, str, bytes)) or own_event(events) is not None:
        return [encode_body(events, serializer)]
    return [encode_body(event, serializer) for event in events]


def encode_body(event: Event, serializer: Serializer | None = None) -> bytes:
    """Encode an event that gets its id from the channel; refuse what would not arrive as it is."""
    encode = _ENCODE if serializer is None else encoder("\r\n", serializer)
    if isinstance(event, (bytes, bytearray, memoryview)):
        event = parse_frame(bytes(event))
    elif isinstance(event, dict):
        name = event.get("event")
        plain = name is None or (type(name) is str and name.isprintable())
        if plain and "id" not in event and "sep" not in event:
            return encode(event)  # The usual event.
        encode(dict.fromkeys(event))  # Says what is wrong with its keys.
        event = ServerSentEvent(**event)
    elif not isinstance(event, ServerSentEvent):
        foreign = own_event(event, serializer)
        if foreign is None:
            return encode(event)
        event = foreign
    elif type(event).encode is not ServerSentEvent.encode:
        event = parse_frame(event.encode())  # It has a way of its own.
    if event.id is not None:
        raise ValueError(
            f"the event has the id {event.id!r}: a channel numbers its events itself. Leave it out, "
            "and put an id of your own into the data."
        )
    if event.event is not None:
        check_field("event", str(getattr(event.event, "value", event.event)))
    return encode(
        ServerSentEvent(
            event.data, event=event.event, retry=event.retry, comment=event.comment, sep="\r\n"
        )
    )
