"""Channels: publish once, every subscriber gets it, and who comes back gets exactly what it missed.

A channel encodes an event once and keeps its frame in a ring. A subscription is a position in that
ring and nothing else: no queue, no task, and until it is streamed not even a place in a list. What a
change here must keep:

- Deciding where a subscription begins and knowing what has been published until then is one stretch
  under the channel's lock. After it nothing is missed, since nothing is copied.
- The next event of a subscription is the next offset of the same epoch, or the client is told first.
- A channel never waits for a client. A client that the ring has overtaken is dealt with as the
  channel says (`slow`), counted, and told.
- Any thread may publish. What wakes a subscription runs on the loop of the subscription.
"""

from __future__ import annotations

import threading
import time
import weakref
from collections import Counter, deque
from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Callable, Iterable
from concurrent.futures import Future
from dataclasses import dataclass
from inspect import isawaitable
from typing import TYPE_CHECKING, Any, Literal, Self, TypeAlias, get_args

import anyio
import anyio.lowlevel
from starlette.requests import HTTPConnection

from ._audience import Audience
from ._cursor import format_cursor, last_event_id, new_epoch, parse_cursor
from ._feed import JOINED_BYTES, Feed
from ._loop import current_loop
from ._ring import Ring
from .errors import ChannelClosed, SubscriberTooSlow
from .event import ServerSentEvent, check_field, encoder, parse_frame, split_frames

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ._loop import Loop, WakeUp

__all__ = [
    "Channel",
    "ChannelStats",
    "Gap",
    "Subscription",
    "last_event_id",
]

Slow: TypeAlias = Literal["disconnect", "reset", "latest"]
"""
What becomes of a client that has not taken an event when the channel forgets it:

- `"disconnect"`: its stream ends. `EventSource` comes back, with the id of what it got last.
- `"reset"`: it's told so by a `reset` event, and goes on with what is published from then on.
- `"latest"`: it's told so, gets the newest event of every key (`latest_by`), and goes on.
"""

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
Snapshot: TypeAlias = Callable[[], Events | Awaitable[Events]]

_KEYS_KEPT_SECONDS = 120.0
"""How long an idempotency key is remembered."""
_MOST_PARSED = 256
_MOST_PARSED_BYTES = 1024 * 1024
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


@dataclass(frozen=True, slots=True)
class ChannelStats:
    """
    What has happened to a channel so far, and how it stands.

    Attributes:
        subscribers: streams that are open now.
        published: events since the channel was made.
        delivered: events that were handed to a client's connection, all clients together.
        dropped: events that clients did not get because they read too slowly.
        disconnected: streams that were ended because their clients read too slowly.
        resets: how often clients were told of a gap, by reason.
        lag: how many events the slowest open stream is behind.
        kept_events: how many events can be replayed.
        kept_bytes: how much memory these take.
    """

    subscribers: int
    published: int
    delivered: int
    dropped: int
    disconnected: int
    resets: dict[GapReason, int]
    lag: int
    kept_events: int
    kept_bytes: int


class Channel:
    """
    One stream of events with many subscribers; made by `Hub.channel`.

    The ids of its events are `epoch.offset`: the offset counts from 1 without a gap, the epoch is
    the channel's own.
    """

    def __init__(
        self,
        name: str,
        *,
        history: int = 1_000,
        history_bytes: int = 16 * 1024 * 1024,
        history_seconds: float | None = None,
        slow: Slow = "disconnect",
        latest_by: Callable[[ServerSentEvent], object] | None = None,
        linger: float = 30.0,
    ) -> None:
        """Make a channel that nobody else finds; the arguments are those of `Hub.channel`."""
        if history < 1:
            raise ValueError(f"history must be at least 1 event, got: {history}")
        if history_bytes < 1:
            raise ValueError(f"history_bytes must be at least 1, got: {history_bytes}")
        if history_seconds is not None and not history_seconds > 0:
            raise ValueError(f"history_seconds must be > 0, got: {history_seconds}")
        if slow not in get_args(Slow):
            raise ValueError(f"slow must be one of {get_args(Slow)}, got: {slow!r}")
        if (latest_by is not None) != (slow == "latest"):
            raise ValueError('slow="latest" and latest_by go together: give both or neither')
        if not linger >= 0:
            raise ValueError(f"linger must be >= 0 seconds, got: {linger}")
        self.name = name
        self.epoch: str = new_epoch()
        """Names this channel's history; part of its ids."""
        self.options: dict[str, object] = {
            "history": history,
            "history_bytes": history_bytes,
            "history_seconds": history_seconds,
            "slow": slow,
            "latest_by": latest_by,
            "linger": linger,
        }
        self.closed: bool = False
        """Whether `close` has been called."""
        self._slow = slow
        self._latest_by = latest_by
        self._linger = linger
        self._history = history
        self._history_bytes = history_bytes
        # Held for moments and never across an await; whoever holds it holds no other.
        self._lock = threading.Lock()
        self._ring = Ring(events=history, bytes_=history_bytes, seconds=history_seconds)
        self._latest: dict[object, tuple[int, bytes]] = {}
        self._latest_bytes = 0
        self._ids_by_key: dict[str, tuple[str, float]] = {}
        self._parsed: dict[int, ServerSentEvent] = {}
        self._parsed_bytes = 0
        self._subscriptions: weakref.WeakSet[Subscription] = weakref.WeakSet()
        self._audiences: dict[int, Audience] = {}
        self._used = time.monotonic()
        self._delivered = 0
        self._dropped = 0
        self._disconnected = 0
        self._resets: Counter[GapReason] = Counter()

    def __repr__(self) -> str:
        return f"<Channel {self.name!r} at {self.last_event_id}>"

    @property
    def last_event_id(self) -> str:
        """The id of the newest event, or the one before the first: where a new client begins."""
        return f"{self.epoch}.{self._ring.head}"

    async def publish(self, event: Event, *, key: str | None = None) -> str:
        """
        Send `event` to every subscriber and return its id.

        Other tasks get a turn. If the call is cancelled, the event has not been published.

        Args:
            event: what a source may yield, with no id of its own.
            key: makes it safe to try again: an event with the same key that was published within
                the last 120 seconds is not published again, and its id is returned.

        Raises:
            ChannelClosed: the channel has been closed.
            TypeError, ValueError: the event can't be encoded, has an id, or a name that an event
                stream can't carry.
        """
        await anyio.lowlevel.checkpoint()
        return self.publish_nowait(event, key=key)

    def publish_threadsafe(self, event: Event, *, key: str | None = None) -> Future[str]:
        """
        Do what `publish` does, from any thread, without waiting.

        Returns:
            A future of the id. What `publish` raises, it raises when asked for its result, too.
        """
        future: Future[str] = Future()
        try:
            future.set_result(self.publish_nowait(event, key=key))
        except Exception as exc:
            future.set_exception(exc)
        return future

    def publish_nowait(self, event: Event, *, key: str | None = None) -> str:
        """
        Do what `publish` does without letting go of the loop; any thread may call it.

        Raises:
            ChannelClosed, TypeError, ValueError: as for `publish`.
        """
        body = _encode_body(event)
        latest_key = None if self._latest_by is None else self._latest_by(parse_frame(body))
        hash(latest_key)  # If it has none, nothing has been published yet.
        now = time.monotonic()
        with self._lock:
            if key is not None:
                self._forget_keys(now)
                if key in self._ids_by_key:
                    return self._ids_by_key[key][0]
            if self.closed:
                raise ChannelClosed(self.name)
            event_id = f"{self.epoch}.{self._ring.head + 1}"
            frame = b"id: %b\r\n%b" % (event_id.encode(), body)
            offset = self._ring.append(frame, now)
            if self._latest_by is not None:
                self._remember_latest(latest_key, offset, frame)
            if key is not None:
                self._ids_by_key[key] = (event_id, now)
            self._used = now
            audiences = list(self._audiences.values())
        for audience in audiences:
            audience.call()
        return event_id

    def subscribe(
        self,
        request: HTTPConnection | str | None = None,
        *,
        filter: Callable[[ServerSentEvent], object] | None = None,  # noqa: A002  (the usual word)
        on_gap: Callable[[Gap], Events | Awaitable[Events]] | None = None,
        snapshot: Snapshot | None = None,
        replay: int = 0,
    ) -> Subscription:
        """
        Subscribe from where the client left off, or from now on.

        What is published after this call is part of the subscription, however late it's streamed:
        give it to an `EventSourceResponse`, or iterate it.

        Args:
            request: the request, for its `last_event_id`; or that id itself; None for a client
                that begins anew.
            filter: called with each event (its data as text); those for which it returns something
                false are left out. It doesn't make gaps: what was left out counts as got.
            on_gap: called when the client can't get all that it missed; the events that it returns
                (a list, an async generator...) are sent instead of the `reset` event.
            snapshot: called when a client begins anew, and after a `reset` event; the events that it
                returns (a list, an async generator...) are sent before the channel's. Whatever is
                published while it's at work follows, so nothing falls between.
            replay: how many of the newest events that are kept a client gets first that begins anew.

        Raises:
            ValueError: `replay` is negative.
        """
        return Subscription([self], request, filter, on_gap, snapshot, replay)

    def close(self) -> None:
        """
        End the channel for good; nothing can be published any more.

        Streams end when they have sent what was published before. A client that comes back is
        answered with 204, which tells `EventSource` to stay away (WHATWG HTML 9.2.2). That is
        remembered for the linger time. May be called twice, and from any thread.
        """
        with self._lock:
            self.closed = True
            self._used = time.monotonic()
            audiences = list(self._audiences.values())
        for audience in audiences:
            audience.call()

    def stats(self) -> ChannelStats:
        """How the channel stands."""
        with self._lock:
            ring = self._ring
            ring.expire(time.monotonic())
            open_ = [one for audience in self._audiences.values() for one in audience.members()]
            behind = [ring.head - one.offset_in(self) for one in open_]
            return ChannelStats(
                subscribers=len(open_),
                published=ring.head,
                delivered=self._delivered,
                dropped=self._dropped,
                disconnected=self._disconnected,
                resets=dict(self._resets),
                lag=max(behind, default=0),
                kept_events=len(ring),
                kept_bytes=ring.size,
            )

    # What follows is for the hub and for subscriptions.

    def touch(self) -> None:
        """Count as used now."""
        self._used = time.monotonic()

    def idle_since(self, now: float) -> bool:
        """Whether nobody has used the channel for its linger time."""
        return not self._subscriptions and now - self._used > self._linger

    def begin(
        self, subscription: Subscription, positions: dict[str, int] | None, replay: int | None
    ) -> tuple[int, GapReason | None]:
        """Say where `subscription` begins; with `replay` None, where its client left off."""
        now = time.monotonic()
        with self._lock:
            self._subscriptions.add(subscription)
            self._used = now
            ring = self._ring
            ring.expire(now)
            reason: GapReason
            if replay is not None:
                return max(ring.oldest - 1, ring.head - replay), None
            if positions is None:
                reason = "unknown"
            elif self.epoch not in positions:
                reason = "epoch"
            elif ring.holds(positions[self.epoch]):
                return positions[self.epoch], None
            else:
                reason = "future" if positions[self.epoch] > ring.head else "trimmed"
            self._resets[reason] += 1
            return ring.head, reason

    def join(self, subscription: Subscription, loop: Loop) -> None:
        """Call `subscription` on `loop` from now on when there's something new."""
        with self._lock:
            audience = self._audiences.get(id(loop.key))
            if audience is None:
                audience = self._audiences[id(loop.key)] = Audience(
                    loop, self.forsake, max(1, self._history // 4)
                )
            audience.add(subscription)

    def leave(self, subscription: Subscription) -> None:
        """Don't call `subscription` any more."""
        with self._lock:
            self._used = time.monotonic()
            self._subscriptions.discard(subscription)
            for key, audience in list(self._audiences.items()):
                audience.discard(subscription)
                if not audience:
                    del self._audiences[key]

    def forsake(self, audience: Audience) -> None:
        """Forget those whose loop has been closed."""
        with self._lock:
            self._audiences = {
                key: one for key, one in self._audiences.items() if one is not audience
            }

    def read(self, after: int) -> tuple[bytes, int] | None:
        """Join the frames after `after`, as `Ring.read` does; None if they're no longer here."""
        ring = self._ring
        if after == ring.head:
            return b"", after
        with self._lock:
            if after < ring.oldest - 1:
                return None
            frames, last = ring.read(after)
            self._delivered += last - after
            return frames, last

    def read_each(self, after: int) -> list[bytes] | None:
        """Return the frames after `after`, each by itself; None if they're no longer here."""
        with self._lock:
            ring = self._ring
            return ring.frames(after, ring.head) if after >= ring.oldest - 1 else None

    def count_delivered(self, events: int) -> None:
        """Count events that were read by `read_each` and went to the client."""
        with self._lock:
            self._delivered += events

    def parsed(self, offset: int, frame: bytes) -> ServerSentEvent:
        """Return the event of a frame; parsed once for all who ask soon."""
        event = self._parsed.get(offset)
        if event is None:
            event = parse_frame(frame)
            if len(self._parsed) >= _MOST_PARSED or self._parsed_bytes > _MOST_PARSED_BYTES:
                self._parsed.clear()
                self._parsed_bytes = 0
            self._parsed[offset] = event
            self._parsed_bytes += len(frame)
        return event

    def overtook(self, after: int) -> tuple[Slow, int, list[tuple[int, bytes]]]:
        """Deal with a subscription that is behind the ring: what to do, where to go on, what to send."""
        with self._lock:
            head = self._ring.head
            latest: list[tuple[int, bytes]] = []
            if self._slow == "disconnect":
                self._disconnected += 1
            else:
                self._resets["lagging"] += 1
                if self._slow == "latest":
                    latest = [one for one in self._latest.values() if one[0] > after]
                self._dropped += head - after - len(latest)
            return self._slow, head, latest

    def _remember_latest(self, key: object, offset: int, frame: bytes) -> None:
        latest = self._latest
        if key in latest:
            self._latest_bytes -= len(latest.pop(key)[1])
        latest[key] = (offset, frame)
        self._latest_bytes += len(frame)
        while len(latest) > self._history or (
            self._latest_bytes > self._history_bytes and len(latest) > 1
        ):
            self._latest_bytes -= len(latest.pop(next(iter(latest)))[1])

    def _forget_keys(self, now: float) -> None:
        keys = self._ids_by_key
        while keys:
            oldest = next(iter(keys))
            if now - keys[oldest][1] < _KEYS_KEPT_SECONDS:
                break
            del keys[oldest]


class Subscription(Feed):
    """
    One client's way through one or several channels; made by `Channel.subscribe`.

    Give it to an `EventSourceResponse`. Or iterate it: it yields `ServerSentEvent`s with their ids,
    `reset` events among them, ends when the channels are closed, and should be closed (`aclose`, or
    `async with`) if it's left before. It can be used once.
    """

    ended: bool
    error: Exception | None
    close_reason: Literal["lagging"] | None

    def __init__(
        self,
        channels: Sequence[Channel],
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
        self._offsets: list[int] = []
        self._filter = filter_
        self._on_gap = on_gap
        self._snapshot = snapshot
        # The application's functions may wait, so they need a task, and it an end.
        self.has_work: bool = on_gap is not None or snapshot is not None
        self._preparing: anyio.CancelScope | None = None
        self._wake: Callable[[], None] = _wake_nobody
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
        self._events: deque[ServerSentEvent] = deque()
        for channel in self._channels:
            offset, reason = channel.begin(self, positions, None if came_with else replay)
            self._offsets.append(offset)
            if reason is not None:
                self._gaps.append(_Hole(channel, reason, []))

    @property
    def last_event_id(self) -> str:
        """The id with which the client would come back now."""
        return format_cursor(
            (channel.epoch, offset)
            for channel, offset in zip(self._channels, self._offsets, strict=True)
        )

    def offset_in(self, channel: Channel) -> int:
        """The offset of the newest event of `channel` that was taken."""
        return self._offsets[self._channels.index(channel)]

    # The feed of a response.

    def is_over(self) -> bool:
        """Whether the channels are closed and the client has all their events."""
        return not self._gaps and all(
            channel.closed and channel.read_each(offset) == []
            for channel, offset in zip(self._channels, self._offsets, strict=True)
        )

    def open(self, wake: Callable[[], None]) -> None:
        if self._work is not None or self._stopped:
            raise RuntimeError("a Subscription can be streamed or iterated once: subscribe again")
        loop = current_loop()
        self._work = loop.wake_up()
        self._wake_work = self._work.set
        self._wake = wake
        for channel in self._channels:
            channel.join(self, loop)
        if not self.has_work:
            self._prepare_at_once()

    async def run(self) -> None:
        if not self.has_work or self._work is None:
            return
        with anyio.CancelScope(shield=True) as self._preparing:
            while not self.ended and not self._stopped:
                if self._to_prepare:
                    await self._prepare()
                    self._wake()
                else:
                    await self._work.wait()

    def stop(self) -> None:
        if not self._stopped:
            self._stopped = True
            if not self._taken_from:
                # Nothing has been asked for: the answer is a HEAD's, or 204.
                self.ended = True
                self._before.clear()
            for channel in self._channels:
                channel.leave(self)
            if self._preparing is not None:
                self._preparing.cancel()

    def call(self) -> None:
        """Look for something new; on the subscription's loop."""
        self._wake()

    def sent(self) -> None:
        pass

    def take(self) -> bytes:
        self._taken_from = True
        if self._before:
            count = len(self._before) if self.joins else 1
            before = b"".join(self._before[:count])
            del self._before[:count]
            return before
        if self._to_prepare or self.ended:
            return b""
        if len(self._channels) > 1 or self._filter is not None or not self.joins:
            return self._take_each()
        channel = self._channels[0]
        # Asked first: another thread may publish, and close the channel, in between.
        closed = channel.closed
        found = channel.read(self._offsets[0])
        if found is None:
            return self._fall_behind(0)
        frames, self._offsets[0] = found
        if not frames and closed:
            self._end()
        return frames

    def ping(self) -> bytes:
        if self._cursor_told or self._to_prepare:
            return b""
        return self._cursor_line() + b"\r\n"

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
            if self._to_prepare:
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
            elif not self._to_prepare:
                await self._own_wake_up.wait()
        return self._events.popleft()

    async def aclose(self) -> None:
        """Give up the subscription, also while another task waits for it; may be called twice."""
        self.ended = True
        self.stop()
        self._events.clear()
        self._wake()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

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
                    frames += await _frames_of(self._on_gap(gap))
            if self._snapshot is not None and (
                self._begins_anew or (self._gaps and self._on_gap is None)
            ):
                frames += await _frames_of(self._snapshot())
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

    def _cursor_line(self) -> bytes:
        # An id without data moves the client's cursor and fires no event (WHATWG HTML 9.2.6).
        self._cursor_told = True
        return f"id: {self.last_event_id}\r\n".encode()

    def _fall_behind(self, place: int) -> bytes:
        channel = self._channels[place]
        policy, head, latest = channel.overtook(self._offsets[place])
        if policy == "disconnect":
            self.close_reason = "lagging"
            self._end()
            return b""
        frames: list[bytes] = []
        for offset, frame in latest:
            self._offsets[place] = offset
            if self._wants(channel, offset, frame):
                frames.append(self._with_cursor(frame))
        self._offsets[place] = head
        channel.count_delivered(len(frames))
        self._gaps.append(_Hole(channel, "lagging", frames))
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
                frames = channel.read_each(self._offsets[place])
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
            if cursor := self.ping():
                return cursor
            self._end()
        return b"".join(taken)

    def _wants(self, channel: Channel, offset: int, frame: bytes) -> bool:
        return self._filter is None or bool(self._filter(channel.parsed(offset, frame)))

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

    channel: Channel
    reason: GapReason
    latest: list[bytes]


def _wake_nobody() -> None:
    """Stand in for who is to be woken until there is one."""


async def _frames_of(result: Events | Awaitable[Events]) -> list[bytes]:
    events = await result if isawaitable(result) else result
    if isinstance(events, AsyncIterable):
        try:
            return [_encode_body(event) async for event in events]
        finally:
            # Not all of it has been read when an event can't be encoded.
            if isinstance(events, AsyncGenerator):
                await events.aclose()
    if isinstance(events, (dict, str, bytes, ServerSentEvent)):
        return [_encode_body(events)]
    return [_encode_body(event) for event in events]


def _encode_body(event: Event) -> bytes:
    """Encode an event that gets its id from the channel; refuse what would not arrive as it is."""
    if isinstance(event, (bytes, bytearray, memoryview)):
        event = parse_frame(bytes(event))
    elif isinstance(event, dict):
        name = event.get("event")
        plain = name is None or (type(name) is str and name.isprintable())
        if plain and "id" not in event and "sep" not in event:
            return _ENCODE(event)  # The usual event.
        _ENCODE(dict.fromkeys(event))  # Says what is wrong with its keys.
        event = ServerSentEvent(**event)
    elif not isinstance(event, ServerSentEvent):
        return _ENCODE(event)
    elif type(event).encode is not ServerSentEvent.encode:
        event = parse_frame(event.encode())  # It has a way of its own.
    if event.id is not None:
        raise ValueError(
            f"the event has the id {event.id!r}: a channel numbers its events itself. Leave it out, "
            "and put an id of your own into the data."
        )
    if event.event is not None:
        check_field("event", str(getattr(event.event, "value", event.event)))
    return _ENCODE(
        ServerSentEvent(
            event.data, event=event.event, retry=event.retry, comment=event.comment, sep="\r\n"
        )
    )
