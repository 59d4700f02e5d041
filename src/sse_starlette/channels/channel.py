"""Channels: publish once, every subscriber gets it, and who comes back gets exactly what it missed.

A channel encodes an event once and keeps its frame in a ring. What a change here must keep:

- Deciding where a subscription begins and knowing what has been published until then is one stretch
  under the channel's lock. After it nothing is missed, since nothing is copied.
- A channel never waits for a client. A client that the ring has overtaken is dealt with as the
  channel says (`slow`), counted, and told.
- Any thread may publish. What wakes a subscription runs on the loop of the subscription.
- A ring is of one history. Who finds that its channel has another one by now is told.
- On a log it's the follower alone who adds to a channel; until the log has been heard of, where a
  subscription begins isn't known, and it waits.
"""

from __future__ import annotations

import logging
import time
import weakref
from collections import Counter
from concurrent.futures import Future
from dataclasses import dataclass, replace
from functools import partial
from inspect import isawaitable, iscoroutine
from typing import TYPE_CHECKING, Literal, TypeAlias, get_args

import anyio.lowlevel

from .._runtime.fork import tell_child
from .._runtime.lock import InterruptedHolderError, Lock, interrupted_holder
from .._wire.cursor import last_event_id, new_epoch, parse_cursor
from ..errors import ChannelClosed, HistoryGap
from ..event import encode_body, parse_frame
from ..eventlogs.base import DEFAULT_BYTES, DEFAULT_EVENTS, Limits, Position
from ._audience import Audience
from ._checks import check_count, check_function, check_key, check_name, check_seconds
from ._ring import Ring, renamed, with_id
from ._start import place
from ._wishes import Gap, Wishes
from .subscription import Overtaken, Subscription

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from starlette.requests import HTTPConnection

    from .._runtime.loop import Loop
    from .._wire.values import Serializer
    from ..event import Event, ServerSentEvent
    from ..eventlogs._follower import Follower
    from ..eventlogs.base import Beginning, Entry
    from ._opening import Events
    from ._start import Asked, GapReason, Place
    from ._wishes import Since, Snapshot
    from .subscription import Seat, Start

__all__ = [
    "Channel",
    "ChannelStats",
    "Gap",
    "Subscription",
    "last_event_id",
]

_logger = logging.getLogger("sse_starlette.channel")

Slow: TypeAlias = Literal["disconnect", "reset", "latest"]
"""
What becomes of a client that has not taken an event when the channel forgets it:

- `"disconnect"`: its stream ends. `EventSource` comes back, with the id of what it got last.
- `"reset"`: it's told so by a `reset` event, and goes on with what is published from then on.
- `"latest"`: it's told so, gets the newest event of every key (`latest_by`), and goes on.
"""

_KEYS_KEPT_SECONDS = 120.0
"""How long an idempotency key is remembered."""
_MOST_DOUBTS = 500
"""Failed attempts to publish of which it's looked for whether they have been added nevertheless."""
_PAGE = 500
"""Entries that are read from a log at a time."""
_MOST_PARSED = 256
_MOST_PARSED_BYTES = 1024 * 1024


@dataclass(frozen=True, slots=True)
class ChannelStats:
    """
    What has happened to a channel so far, and how it stands.

    Attributes:
        subscribers: streams that are open now.
        published: events since the channel was made; on a log, since its history began, as far as
            this process knows.
        delivered: events that were handed to a client's connection, all clients together.
        dropped: events that clients did not get because they read too slowly.
        disconnected: streams that were ended because their clients read too slowly.
        resets: how often clients were told of a gap, by reason.
        lag: how many events the slowest open stream is behind.
        kept_events: how many events can be replayed.
        kept_bytes: how much memory these take.
        failures: how often a filter or `on_gap` raised; the event was left out for that client, or it
            got the event `reset`.
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
    failures: int = 0


@dataclass(slots=True)
class _Seek:
    """A time at which a subscription begins, and where the channel was when it was made."""

    when: float
    epoch: str
    head: int
    found: Beginning | None = None


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
        history: int | None = None,
        history_bytes: int | None = None,
        history_seconds: float | None = None,
        slow: Slow = "disconnect",
        latest_by: Callable[[ServerSentEvent], object] | None = None,
        linger: float = 30.0,
        follower: Follower | None = None,
        serializer: Serializer | None = None,
    ) -> None:
        """
        Make a channel that nobody else finds; the arguments are those of `Hub.channel`.

        A hub gives its `serializer`, and its `follower` if it has a log.
        """
        # On a log, what nobody has said counts as somebody else has said it.
        given = history, history_bytes
        history = DEFAULT_EVENTS if history is None else history
        history_bytes = DEFAULT_BYTES if history_bytes is None else history_bytes
        check_name(name)
        check_count("history", history, 1, "at least 1 event")
        check_count("history_bytes", history_bytes, 1, "at least 1")
        if history_seconds is not None:
            check_seconds("history_seconds", history_seconds, above=0, unit="")
        if slow not in get_args(Slow):
            raise ValueError(f"slow must be one of {get_args(Slow)}, got: {slow!r}")
        if latest_by is not None:
            check_function("latest_by", latest_by, "one event", may_wait=False)
        if (latest_by is not None) != (slow == "latest"):
            raise ValueError('slow="latest" and latest_by go together: give both or neither')
        check_seconds("linger", linger)
        self.name = name
        self.options: dict[str, object] = {
            "history": history,
            "history_bytes": history_bytes,
            "history_seconds": history_seconds,
            "slow": slow,
            "latest_by": latest_by,
            "linger": linger,
        }
        self.closed: bool = False
        """Whether `close` has been called; on a log, by any process, as far as this one knows."""
        self.serializer = serializer
        """Makes JSON of the data of events; see `Hub`."""
        self.follower = follower
        """What keeps the channel in step with its log; None: it has none."""
        self.closes_at: int | None = None
        """Where the log says that the channel was closed: no event, an id alone."""
        self._slow = slow
        self._latest_by = latest_by
        self._linger = linger
        self._history = history
        self._history_bytes = history_bytes
        # Held for moments and never across an await; whoever holds it holds no other.
        self._lock = Lock()
        self._history_seconds = history_seconds
        self._ring = self._new_ring(new_epoch(name) if follower is None else "", 0)
        self._latest: dict[object, tuple[int, bytes]] = {}
        self._latest_bytes = 0
        self._ids_by_key: dict[str, tuple[str, float]] = {}
        self._parsed: dict[int, tuple[bytes, ServerSentEvent]] = {}
        self._parsed_bytes = 0
        self._subscriptions: weakref.WeakSet[Subscription] = weakref.WeakSet()
        self._audiences: dict[int, Audience] = {}
        self._used = self._listened = time.monotonic()
        self._delivered = 0
        self._dropped = 0
        self._disconnected = 0
        self._failures = 0
        self._resets: Counter[GapReason] = Counter()
        # The newest that this process has added to the log.
        self._added: Position | None = None
        if follower is not None:
            self.limits: Limits = Limits(given[0], history_seconds, follower.expire, given[1])
            """How much of the channel the log is to keep."""
            self.asked: int = 0
            self.answered: int = 0
            # Who waits for a look into the log, and for which one.
            self._askers: weakref.WeakKeyDictionary[Subscription, int] = weakref.WeakKeyDictionary()
            # Who is new and doesn't know its place yet, and after which offset of each history it has
            # to get everything.
            self._newcomers: weakref.WeakKeyDictionary[Subscription, dict[str, int]]
            self._newcomers = weakref.WeakKeyDictionary()
            # Who begins at a time, and where that is.
            self._seeks: weakref.WeakKeyDictionary[Subscription, _Seek]
            self._seeks = weakref.WeakKeyDictionary()
            # The appends that are under way, and those of them that may come before the ring's begin.
            self._appending: set[object] = set()
            self._unplaced: set[object] = set()
            # Those that have failed and may have been added nevertheless, with their keys.
            self._doubts: dict[object, str] = {}
            self._wanted_from: int | None = None
        tell_child(self)

    def __repr__(self) -> str:
        return f"<Channel {self.name!r} at {self.last_event_id}>"

    @property
    def epoch(self) -> str:
        """
        Names this channel's history; part of its ids.

        On a log it's known while somebody in this process listens to the channel; empty otherwise.
        """
        return self._ring.epoch

    @property
    def head(self) -> int:
        """The offset of the newest event; 0 before the first."""
        return self._ring.head

    @property
    def last_event_id(self) -> str:
        """
        The id of the newest event, or the one before the first: where a new client begins.

        On a log it's known while somebody in this process listens to the channel; empty otherwise.
        """
        ring = self._ring
        return ring.epoch and f"{ring.epoch}.{ring.head}"

    async def publish(
        self, event: Event, *, key: str | None = None, wait: float | None = None
    ) -> str:
        """
        Send `event` to every subscriber and return its id.

        Other tasks get a turn. If the call is cancelled, the event has not been published. On a log
        it may have been; publish it again with the same `key`.

        Args:
            event: what a source may yield, with no id of its own.
            key: makes it safe to try again: an event with the same key that was published within
                the last 120 seconds is not published again, and its id is returned.
            wait: seconds for which it's tried again while the log is out of reach; 0: not at all.
                None: as the hub's `publish_wait` says.

        Raises:
            ChannelClosed: the channel has been closed.
            LogUnavailable: the log was out of reach all the time; nobody knows whether the event was
                added. With the same `key` it's safe to publish it again.
            TypeError, ValueError: the event can't be encoded, has an id, or a name that an event
                stream can't carry.
            RuntimeError: the channel is on a log, and its hub's lifespan isn't under way.
        """
        _check_publish(key, wait)
        if self.follower is not None:
            return await self.follower.publish(self, self._encode(event), key, wait)
        await anyio.lowlevel.checkpoint()
        return self.publish_nowait(event, key=key)

    def publish_threadsafe(self, event: Event, *, key: str | None = None) -> Future[str]:
        """
        Do what `publish` does, from any thread, without waiting.

        On a log, what one thread publishes so is added in its order.

        Returns:
            A future of the id. What `publish` raises, it raises when asked for its result, too.
        """
        future: Future[str] = Future()
        try:
            _check_publish(key, None)
            if self.follower is not None:
                return self.follower.publish_in_line(self, self._encode(event), key)
            future.set_result(self._publish(event, key, knock=True))
        except InterruptedHolderError:
            # In a signal handler, in the middle of a change of this channel: it's next.
            self._lock.after(partial(self._publish_late, future, event, key))
        except Exception as exc:
            future.set_exception(exc)
        return future

    def _publish_late(self, future: Future[str], event: Event, key: str | None) -> None:
        try:
            future.set_result(self._publish(event, key, knock=True))
        except Exception as exc:
            future.set_exception(exc)

    def publish_nowait(self, event: Event, *, key: str | None = None) -> str:
        """
        Do what `publish` does without letting go of the loop; any thread may call it.

        Raises:
            ChannelClosed, TypeError, ValueError: as for `publish`.
            RuntimeError: the channel is on a log, which has to be waited for.
        """
        if self.follower is not None:
            raise RuntimeError(
                f"channel {self.name!r} is on a log, and what is added there has to be waited for: "
                "use `await channel.publish(…)`, or `channel.publish_threadsafe(…)` where nothing "
                "can be awaited."
            )
        return self._publish(event, key)

    def _publish(self, event: Event, key: str | None, *, knock: bool = False) -> str:
        if key is not None:
            check_key(key)
        body = encode_body(event, self.serializer)
        if b"event: reset" in body:
            _refuse_reset(body)
        latest_key = None if self._latest_by is None else self._key_in(body)
        now = time.monotonic()
        lock = self._lock
        with lock.held:
            # What `with lock` does, without its calls.
            if lock.entered:
                raise interrupted_holder()
            lock.entered = True
            try:
                if key is not None:
                    self._forget_keys(now)
                    if key in self._ids_by_key:
                        return self._ids_by_key[key][0]
                if self.closed:
                    raise ChannelClosed(self.name)
                ring = self._ring
                event_id = f"{ring.epoch}.{ring.head + 1}"
                frame = b"id: %b\r\n%b" % (event_id.encode(), body)
                offset = ring.append(frame, now)
                if self._latest_by is not None:
                    self._remember_latest(latest_key, offset, frame)
                if key is not None:
                    self._ids_by_key[key] = (event_id, now)
                self._used = now
                audiences = list(self._audiences.values())
            finally:
                lock.entered = False
        if lock.later:
            lock.call_later_ones()
        for audience in audiences:
            audience.call(knock=knock)
        return event_id

    def subscribe(
        self,
        request: HTTPConnection | str | None = None,
        *,
        filter: Callable[[ServerSentEvent], object] | None = None,  # noqa: A002  (the usual word)
        on_gap: Callable[[Gap], Events | Awaitable[Events]] | None = None,
        snapshot: Snapshot | None = None,
        replay: int = 0,
        after: str | int | None = None,
        since: Since | None = None,
        id_blocks: bool = True,
        name_channels: bool = False,
    ) -> Subscription:
        """
        Subscribe from where the client left off, or from now on.

        What is published after this call is part of the subscription, however late it's streamed:
        give it to an `EventSourceResponse`, or iterate it.

        Args:
            request: the request, for its `last_event_id`; or that id itself; None for a client
                that begins anew.
            filter: a plain function, called with each event (its data as text); those for which it
                returns something false are left out. It doesn't make gaps: what was left out counts as
                got. An event for which it raises is left out too; that's logged, and counted.
            on_gap: called when the client can't get all that it missed; the events that it returns
                (a list, an async generator...) are sent instead of the `reset` event. If it raises,
                that's logged, and the `reset` event is sent.
            snapshot: called when a client begins anew, and after a `reset` event; the events that it
                returns (a list, an async generator...) are sent before the channel's. Whatever is
                published while it's at work follows, so nothing falls between. With one parameter it's
                called with the names of the channels that it's needed for.
            replay: how many of the newest events that are kept a client gets first that begins anew.
            after: where a client begins that has no id: after the event of this id (see `position`) or
                this offset, or at the `"start"`, with all that is kept. If some of that is no longer
                kept, it's told as any gap is. A client that has an id goes on from there.
            since: the same by time: a `datetime` with a time zone, a `timedelta` (so long ago) or a Unix
                timestamp. How old an event is, is told by the clock of Redis, or of the host of the file.
            id_blocks: whether the stream begins with a block that has nothing but an id, and pings carry
                one along. False for clients that take such a block for an event; they are told of a gap,
                or begin anew, where they have nothing yet to come back with.
            name_channels: whether events are named after their channels: `event: prices` if the event
                has no name of its own, `event: prices:tick` if it has.

        Raises:
            TypeError, ValueError: an argument isn't what it should be; the error says what to write.
            RuntimeError: the channel is on a log, and its hub's lifespan isn't under way.
        """
        wishes = Wishes(filter, on_gap, snapshot, replay, after, since, id_blocks, name_channels)
        return Subscription([self], request, wishes)

    async def position(self) -> str:
        """
        The id of the newest event, for a page that is rendered now and subscribes later.

        Read it before the state that the page shows, and begin there: `subscribe(request, after=…)`.
        On a log that nobody in this process listens to, the log is asked.

        Raises:
            LogUnavailable: the log is out of reach, and the position isn't known.
            RuntimeError: the channel is on a log, and its hub's lifespan isn't under way.
        """
        if self.follower is None:
            await anyio.lowlevel.checkpoint()
            return self.last_event_id
        self.follower.must_run()
        ring, added = self._ring, self._added
        if ring.epoch:
            await anyio.lowlevel.checkpoint()
            # What this process has published may not have come back yet.
            own = added.offset if added is not None and added.epoch == ring.epoch else 0
            return f"{ring.epoch}.{max(ring.head, own)}"
        page = await self.follower.look_up(self, after=0, upto=None, most=0)
        return f"{page.epoch}.{page.head}"

    async def history(
        self, *, after: str | int | None = None, limit: int | None = None
    ) -> list[ServerSentEvent]:
        """
        Return events that are kept, in order and with their ids, without subscribing.

        Args:
            after: the events after the one of this id or offset; `"start"`: all from the beginning.
                None: the newest that are kept.
            limit: the most events that are returned: with `after` the first ones, without it the newest.
                None: all.

        Raises:
            HistoryGap: not all that came after `after` is kept, or it's of no known history.
            LogUnavailable: the log is out of reach.
            RuntimeError: the channel is on a log, and its hub's lifespan isn't under way.
        """
        Wishes(after=after)
        if limit is not None:
            check_count("limit", limit, 1, "at least 1 event")
        if self.follower is not None:
            return await self._history_in_log(self.follower, after, limit)
        await anyio.lowlevel.checkpoint()
        with self._lock:
            ring = self._ring
            ring.expire(time.monotonic())
            first = self._first_after(after, ring.epoch, ring.head)
            if after is None:
                first = max(ring.oldest - 1, ring.head - limit if limit else 0)
            elif first < ring.oldest - 1:
                raise HistoryGap(self.name, after, "trimmed")
            frames = ring.frames(first, min(ring.head, first + limit) if limit else ring.head)
        return [self._event_of(frame) for frame in frames]

    async def _history_in_log(
        self, follower: Follower, after: str | int | None, limit: int | None
    ) -> list[ServerSentEvent]:
        page = await follower.look_up(self, after=0, upto=None, most=0)
        epoch, head = page.epoch, page.head
        first = self._first_after(after, epoch, head)
        if after is None:
            first = max(0, head - min(self._history, limit or self._history))
        until = head if limit is None else min(head, first + limit)
        found: list[Entry] = []
        last = first
        while last < until:
            page = await follower.look_up(
                self, after=last, upto=until, most=min(_PAGE, until - last)
            )
            entries = page.entries
            if page.epoch != epoch:
                raise HistoryGap(self.name, after or "start", "epoch")
            if after is not None and (not entries or entries[0].offset != last + 1):
                raise HistoryGap(self.name, after, "trimmed")
            if not entries:
                break
            found += entries
            last = entries[-1].offset
        return [self._event_of(_frame_of(epoch, entry)) for entry in found if entry.body]

    def _first_after(self, after: str | int | None, epoch: str, head: int) -> int:
        if after is None or after == "start":
            return 0
        offset: int | None
        if isinstance(after, str):
            positions = parse_cursor(after)
            if positions is None:
                raise HistoryGap(self.name, after, "unknown")
            offset = positions.get(epoch)
            if offset is None:
                raise HistoryGap(self.name, after, "epoch")
        else:
            offset = after
        if offset > head:
            raise HistoryGap(self.name, after, "future")
        return offset

    def _event_of(self, frame: bytes) -> ServerSentEvent:
        event = parse_frame(frame)
        event.channel = self.name
        return event

    def close(self) -> None:
        """
        End the channel for good; nothing can be published any more.

        Streams end when they have sent what was published before. A client that comes back is
        answered with 204, which tells `EventSource` to stay away (WHATWG HTML 9.2.2). That is
        remembered for the linger time. May be called twice, and from any thread.

        On a log the channel is closed for all processes, once all that was published here before has
        been added. `aclose` waits for that.

        Raises:
            RuntimeError: the channel is on a log, and its hub's lifespan isn't under way.
        """
        if self.follower is not None:
            self.follower.publish_in_line(self, b"").add_done_callback(self._log_failed_close)
            return
        try:
            with self._lock:
                self.closed = True
                self._used = time.monotonic()
        except InterruptedHolderError:
            self._lock.after(self.close)
        else:
            self.look()

    async def aclose(self, *, wait: float | None = None) -> None:
        """
        Do what `close` does, and return when it's done.

        Args:
            wait: as for `publish`.

        Raises:
            LogUnavailable: the log was out of reach all the time. Try it again.
            RuntimeError: as for `close`.
        """
        _check_publish(None, wait)
        if self.follower is not None:
            await self.follower.close(self, wait)
        else:
            await anyio.lowlevel.checkpoint()
            self.close()

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
                lag=max([0, *behind]),
                kept_events=len(ring),
                kept_bytes=ring.size,
                failures=self._failures,
            )

    # What follows is for the hub and for subscriptions.

    def touch(self) -> None:
        """Count as used now."""
        self._used = time.monotonic()

    def idle_since(self, now: float) -> bool:
        """Whether nobody has used the channel for its linger time."""
        return now - self._used > self._linger and not self._subscriptions

    def idle_at(self, now: float) -> float:
        """When it may be idle, as far as is known at the time `now`."""
        if self._subscriptions:
            return now + max(self._linger, 1.0)
        return self._used + self._linger

    def begin(
        self, subscription: Subscription, asked: Asked, others: set[str] | None
    ) -> Start | None:
        """
        Say where `subscription` begins.

        None: the log has to be asked first. When it has been, the subscription is called, and asks
        again.

        Args:
            subscription: who asks.
            asked: where its client wants to begin.
            others: the epochs of the other channels of the subscription; None: not all are known yet.
        """
        now = time.monotonic()
        with self._lock:
            self._subscriptions.add(subscription)
            self._used = self._listened = now
            ring = self._ring
            ring.expire(now)
            start = self._start(subscription, ring, asked, others, now)
            if start is not None:
                if start.reason is not None:
                    self._resets[start.reason] += 1
                if self.follower is not None:
                    self._seeks.pop(subscription, None)
        if self.follower is not None:
            if start is None:
                self.follower.tend(self)
            else:
                self._newcomers.pop(subscription, None)
        return start and (ring, *start)

    def _start(
        self,
        subscription: Subscription,
        ring: Ring,
        asked: Asked,
        others: set[str] | None,
        now: float,
    ) -> Place | None:
        found: Beginning | None = None
        if self.follower is not None and asked.seconds_ago is not None:
            found = self._found_for(subscription, ring, now - asked.seconds_ago)
            asked = replace(asked, offset=found and found.offset, seconds_ago=None)
            if found is None and ring.epoch:
                return None
        if not ring.epoch:
            self._newcomers.setdefault(subscription, {})
            return None
        if others is None and asked.positions and ring.epoch not in asked.positions:
            return None  # The id may be of the others alone.
        start = place(ring, self.name, asked, others or (), now)
        if self.follower is not None:
            if (start.anew or found is not None) and subscription in self._newcomers:
                if self._unplaced:
                    return None  # One of them may have the smallest offset that it has to get.
                # It may look only when more has been heard.
                since = self._newcomers[subscription].get(ring.epoch, ring.origin)
                needed = min(ring.origin, since)
                if needed < ring.reach:
                    return start._replace(offset=ring.head, reason="trimmed")
                start = start._replace(offset=min(start.offset, needed))
            elif start.reason in ("epoch", "future"):
                # The log may be further than what has been heard of it: another process knew the id.
                look = self._askers.get(subscription)
                if look is None:
                    self.asked += 1
                    self._askers[subscription] = self.asked
                    return None
                if look > self.answered:
                    return None
        if found is not None and not found.complete:
            start = start._replace(reason=start.reason or "trimmed")
        if ring.holds(start.offset):
            return start
        # On a log, what comes before the ring is read when somebody wants it.
        self._wanted_from = min(start.offset, self._wanted_from or start.offset)
        return None

    def _found_for(self, subscription: Subscription, ring: Ring, when: float) -> Beginning | None:
        """Where the log says that this time is; None: it has to be asked."""
        seek = self._seeks.get(subscription)
        if seek is None:
            seek = self._seeks[subscription] = _Seek(when, ring.epoch, ring.head)
        found = seek.found
        if found is None or found.epoch != ring.epoch:
            seek.found = None
            return None
        # What has been published since the subscription belongs to it, whatever the clocks say.
        newest = seek.head if seek.epoch == ring.epoch else ring.head
        return found._replace(offset=min(found.offset, newest, ring.head))

    def join(self, member: Subscription | Seat, loop: Loop) -> None:
        """Call `member` on `loop` from now on when there's something new."""
        with self._lock:
            audience = self._audiences.get(id(loop.key))
            if audience is None:
                audience = self._audiences[id(loop.key)] = Audience(
                    loop, self.forsake, max(1, self._history // 4)
                )
            audience.add(member)

    def leave(self, subscription: Subscription, member: Subscription | Seat) -> None:
        """Don't call `member` of `subscription` any more."""
        with self._lock:
            self._used = self._listened = time.monotonic()
            self._subscriptions.discard(subscription)
            for key, audience in list(self._audiences.items()):
                audience.discard(member)
                if not audience:
                    del self._audiences[key]

    def forsake(self, audience: Audience) -> None:
        """Forget those whose loop has been closed."""
        with self._lock:
            self._audiences = {
                key: one for key, one in self._audiences.items() if one is not audience
            }

    def look(self) -> None:
        """Have all subscriptions look for something new."""
        with self._lock:
            audiences = list(self._audiences.values())
        for audience in audiences:
            audience.call()

    def read(self, ring: Ring, after: int) -> tuple[bytes, int] | None:
        """Join the frames after `after`, as `Ring.read` does; None if they're no longer here."""
        if ring is not self._ring:
            return None
        newest = ring.newest
        if newest[1] == after + 1:
            # What nearly everybody wants. Nothing comes between in this sum either, with the GIL; without
            # it, two loops may lose a few of what is only counted.
            self._delivered += 1
            return newest
        if after == ring.head:
            return b"", after
        with self._lock:
            if after < ring.oldest - 1:
                return None
            frames, last = ring.read(after)
            self._delivered += last - after
            return frames, last

    def read_each(self, ring: Ring, after: int, most: int) -> list[bytes] | None:
        """Return the frames after `after`, each by itself; None if they're no longer here."""
        if ring is self._ring:
            # As in `read`: no lock for what nearly everybody wants.
            newest = ring.newest
            if newest[1] == after + 1:
                return [newest[0]]
            if after == ring.head:
                return []
        with self._lock:
            if ring is not self._ring or after < ring.oldest - 1:
                return None
            return ring.frames(after, min(ring.head, after + most))

    def count_delivered(self, events: int) -> None:
        """Count events that were read by `read_each` and went to the client."""
        # As in `read`: without the GIL, two loops may lose a few.
        self._delivered += events

    def count_failure(self) -> None:
        """Count a function of the application's that has failed for an event."""
        with self._lock:
            self._failures += 1

    def parsed(self, offset: int, frame: bytes) -> ServerSentEvent:
        """Return the event of a frame; parsed once for all who ask soon."""
        parsed = self._parsed.get(offset)
        # Another history may have had another event at this offset.
        if parsed is None or parsed[0] is not frame:
            parsed = frame, self._event_of(frame)
            if len(self._parsed) >= _MOST_PARSED or self._parsed_bytes > _MOST_PARSED_BYTES:
                self._parsed.clear()
                self._parsed_bytes = 0
            self._parsed[offset] = parsed
            self._parsed_bytes += len(frame)
        return parsed[1]

    def overtook(self, ring: Ring, after: int, *, stays: bool = False) -> Overtaken | None:
        """
        Deal with a subscription whose next event is not here: why, where to go on, what to send.

        With `stays` it's not the client that was slow: it goes on, whatever `slow` says.

        None: its stream ends, since the lifespan of the hub has; it can be resumed in the next one.
        """
        with self._lock:
            now = self._ring
            if not now.epoch or (ring is not now and ring.epoch == now.epoch):
                return None
            latest: list[tuple[int, bytes]] = []
            reason: GapReason = "lagging"
            head = now.head
            if ring is not now or after < now.hole:
                reason = "trimmed" if ring is now else "epoch"
                # What came after the break, as long as it's here.
                if now.holds(now.origin):
                    head = now.origin
            elif self._slow == "disconnect" and not stays:
                self._disconnected += 1
                return Overtaken(reason, now, after, latest, ends=True)
            else:
                if self._slow == "latest":
                    latest = [one for one in self._latest.values() if one[0] > after]
                self._dropped += head - after - len(latest)
            self._resets[reason] += 1
            return Overtaken(reason, now, head, latest, ends=False)

    # What follows is for the follower of the log; see `Followed`.

    def appends(self, append: object) -> None:
        """Note that this process is about to add something; `append` stands for it."""
        with self._lock:
            self._appending.add(append)

    def appended(
        self, append: object, position: Position | None, *, doubt: str | None = None
    ) -> None:
        """
        Note where that is: who has subscribed by now is to get it.

        None: it failed; with `doubt`, nobody knows whether it was added with this key.
        """
        with self._lock:
            waited = bool(self._unplaced)
            self._appending.discard(append)
            if doubt is not None and self._newcomers:
                self._doubts[append] = doubt
                if len(self._doubts) > _MOST_DOUBTS:
                    self._unplaced.discard(oldest := next(iter(self._doubts)))
                    del self._doubts[oldest]
            if position is not None:
                self._doubts.pop(append, None)
                added = self._added
                if added is None or added.epoch != position.epoch or added < position:
                    self._added = position
                if self._newcomers:
                    self._wanted_by_newcomers(position)
            if append not in self._doubts:
                self._unplaced.discard(append)
            doubtful = append in self._unplaced
            settled = waited and not self._unplaced
        if settled:
            self.look()
        elif doubtful and self.follower is not None:
            self.follower.tend(self)

    def doubtful(self) -> tuple[int, dict[object, str]] | None:
        """Return the ring's begin, and what may have been added before it, with its keys; None: nothing."""
        with self._lock:
            if not self._newcomers:
                self._doubts.clear()
            doubts = self._doubts.items()
            appends = {append: key for append, key in doubts if append in self._unplaced}
            return (self._ring.origin, appends) if appends else None

    def cleared(self, appends: Mapping[object, str], entries: list[Entry]) -> None:
        """Note which of these are among the entries before the ring's begin; the others come after it."""
        offsets = {entry.key: entry.offset for entry in entries}
        with self._lock:
            for append, key in appends.items():
                self._doubts.pop(append, None)
                self._unplaced.discard(append)
                if key in offsets:
                    self._wanted_by_newcomers(Position(self._ring.epoch, offsets[key]))
            settled = not self._unplaced
        if settled:
            self.look()

    def _wanted_by_newcomers(self, position: Position) -> None:
        epoch, before = position.epoch, position.offset - 1
        for since in list(self._newcomers.values()):
            # Answers may come in another order than that of the events.
            since[epoch] = min(before, since.get(epoch, before))

    def answer(self, asked: int) -> None:
        """Let those go on who had wanted a look into the log by then."""
        self.answered = asked
        self.look()

    def begin_anew(self, epoch: str, head: int, *, closed: bool) -> None:
        """Go on with another history; who was in the last one is told."""
        with self._lock:
            self._change_ring(epoch, head)
            # What is sent from now on comes after the ring's begin.
            self._unplaced = self._appending | self._doubts.keys()
            self.closed = closed
            self.closes_at = head if closed else None
        self.look()

    def emit(self, entries: list[Entry]) -> None:
        """Add what has been added to the log, with no gap."""
        keys = self._keys_of(entries)
        now = time.monotonic()
        with self._lock:
            ring = self._ring
            for entry, key in zip(entries, keys, strict=True):
                frame = _frame_of(ring.epoch, entry)
                ring.append(frame, now)
                if key is not _NO_KEY:
                    self._remember_latest(key, entry.offset, frame)
            if not entries[-1].body:
                self.closes_at = entries[-1].offset
                self.closed = True
        self.look()

    def skip(self, to: int) -> None:
        """Go on after `to`; who misses something is told when it looks."""
        with self._lock:
            self._ring.skip(to)
        self.look()

    def wanted(self) -> tuple[int, int] | None:
        """Return what somebody waits for that came before what is here: after, up to."""
        with self._lock:
            ring = self._ring
            if self._wanted_from is not None:
                ring.expire(time.monotonic())
                after = max(self._wanted_from, ring.reach)
                if after < ring.oldest - 1:
                    return after, ring.oldest - 1
                self._wanted_from = None
            return None

    def sought(self) -> float | None:
        """Return a time that the log has to be asked for, on the monotonic clock."""
        with self._lock:
            return next((seek.when for seek in self._seeks.values() if seek.found is None), None)

    def sought_is(self, when: float, found: Beginning) -> None:
        """Take note where that time is."""
        with self._lock:
            for seek in self._seeks.values():
                if seek.when == when:
                    seek.found = found
        self.look()

    def fill(self, entries: list[Entry], after: int, upto: int) -> None:
        """Put what the log has of (`after`, `upto`] before the oldest event."""
        keys = self._keys_of(entries)
        with self._lock:
            ring = self._ring
            # If not, some have been forgotten meanwhile, and these can't be put before the others.
            if ring.oldest - 1 == upto:
                frames = [_frame_of(ring.epoch, entry) for entry in entries]
                oldest = upto + 1 - len(entries)
                if oldest > after + 1:
                    ring.floor = oldest - 1  # The log has no more.
                ring.prepend(frames, time.monotonic())
                newer = self._latest
                self._latest, self._latest_bytes = {}, 0
                for entry, key, frame in zip(entries, keys, frames, strict=True):
                    if key is not _NO_KEY:
                        self._remember_latest(key, entry.offset, frame)
                for key, (offset, frame) in newer.items():
                    self._remember_latest(key, offset, frame)
        self.look()

    def let_go_if_idle(self) -> bool:
        """Forget what is known of the log if nobody has listened for the linger time; say so."""
        with self._lock:
            if self._subscriptions or time.monotonic() - self._listened <= self._linger:
                return False
            self._change_ring("", 0)
            return True

    def let_go(self) -> None:
        """Forget what is known of the log; the streams end."""
        with self._lock:
            self._change_ring("", 0)
        self.look()

    def after_fork(self) -> None:
        """Begin anew in the child of a fork: the history's name, and all who listen, are the parent's."""
        torn = self._lock.entered  # Another thread was in the middle of a change.
        self._lock = Lock()
        self._subscriptions = weakref.WeakSet()
        self._audiences = {}
        self._parsed, self._parsed_bytes = {}, 0
        self._delivered = self._dropped = self._disconnected = self._failures = 0
        self._resets = Counter()
        if self.follower is not None:
            self.asked = self.answered = 0
            self._askers = weakref.WeakKeyDictionary()
            self._newcomers = weakref.WeakKeyDictionary()
            self._seeks = weakref.WeakKeyDictionary()
            self._appending, self._unplaced, self._added = set(), set(), None
            self._doubts = {}
            self._wanted_from = None
            self._ring = self._new_ring("", 0)
            self._latest, self._latest_bytes = {}, 0
        elif torn:
            self._ring = self._new_ring(new_epoch(self.name), 0)
            self._latest, self._latest_bytes = {}, 0
            self._ids_by_key = {}
        else:
            self._ring = self._ring.renamed(epoch := new_epoch(self.name))
            self._latest = {
                key: (offset, renamed(frame, epoch, offset))
                for key, (offset, frame) in self._latest.items()
            }
            self._ids_by_key = {
                key: (f"{epoch}.{event_id.rpartition('.')[2]}", now)
                for key, (event_id, now) in self._ids_by_key.items()
            }

    def _new_ring(self, epoch: str, head: int) -> Ring:
        return Ring(
            events=self._history,
            bytes_=self._history_bytes,
            seconds=self._history_seconds,
            epoch=epoch,
            head=head,
        )

    def _change_ring(self, epoch: str, head: int) -> None:
        # Who still holds the old one finds nothing there.
        self._ring.skip(self._ring.head)
        self._ring = self._new_ring(epoch, head)
        self._latest.clear()
        self._latest_bytes = 0
        self._wanted_from = None

    def _encode(self, event: Event) -> bytes:
        body = _body_of(event, self.serializer)
        if self._latest_by is not None:
            self._key_in(body)  # If it has no key, it's not published.
        return body

    def _key_in(self, body: bytes) -> object:
        assert self._latest_by is not None  # noqa: S101  (asked for where there is one)
        key = self._latest_by(parse_frame(body))
        if isawaitable(key):
            if iscoroutine(key):
                key.close()
            raise TypeError(
                f"latest_by returned {type(key).__name__}, which has to be awaited: it has to answer at once"
            )
        hash(key)
        return key

    def _keys_of(self, entries: list[Entry]) -> list[object]:
        return [self._key_of(entry) for entry in entries]

    def _key_of(self, entry: Entry) -> object:
        if self._latest_by is None or not entry.body:
            return _NO_KEY
        try:
            return self._key_in(entry.body)
        except Exception:
            # Here nobody can be told; whoever published it was told if it failed there.
            _logger.exception("latest_by failed for an event of channel %r", self.name)
            return _NO_KEY

    def _log_failed_close(self, outcome: Future[str]) -> None:
        error = outcome.exception()
        if error is not None and not isinstance(error, ChannelClosed):
            _logger.error("channel %r could not be closed", self.name, exc_info=error)

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


_NO_KEY = object()


def _frame_of(epoch: str, entry: Entry) -> bytes:
    # Where the channel was closed there's no event, but an id: who has it need not come back.
    return with_id(epoch, entry.offset, entry.body or b"\r\n")


def _check_publish(key: str | None, wait: float | None) -> None:
    if key is not None:
        check_key(key)
    if wait is not None:
        check_seconds("wait", wait)


def _body_of(event: Event, serializer: Serializer | None) -> bytes:
    body = encode_body(event, serializer)
    if b"event: reset" in body:
        _refuse_reset(body)
    return body


def _refuse_reset(body: bytes) -> None:
    if parse_frame(body).event == "reset":
        raise ValueError(
            "`reset` is the event that tells clients of a gap, so none of your own can have that name: "
            "choose another one."
        )
