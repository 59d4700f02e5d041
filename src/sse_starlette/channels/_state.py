"""What a channel is to the other rooms and to its subscriptions: its newest events, and who reads them.

The application holds a `Channel` (`channel.py`), which shows what is for users; everything else holds this.
What a change here must keep:

- Deciding where a subscription begins and knowing what has been published until then is one stretch
  under the channel's lock. After it nothing is missed, since nothing is copied.
- A channel never waits for a client. A client that lags is dealt with as the channel says (`slow`),
  counted, and told.
- What wakes a subscription runs on the loop of the subscription.
- A ring is of one history. Who finds that its channel has another one by now is told.
"""

from __future__ import annotations

import time
import weakref
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, TypeAlias

from .._runtime.fork import tell_child
from .._runtime.lock import Lock
from ..event import encode_published
from ..observe import is_observed, tell
from ._fanout import Fanout
from ._lag import on_lag
from ._latest import Latest
from ._parsed import ParsedEvents
from ._ring import Ring
from ._start import Place, place
from ._stats import Counts

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Future

    from .._runtime.loop import Loop
    from .._wire.values import Serializer
    from ..event import Event, ServerSentEvent
    from ..eventlogs._replicator import Replicator
    from ._fanout import Subscriber
    from ._lag import Lag
    from ._options import ChannelOptions
    from ._start import Asked, GapReason
    from ._stats import ChannelStats

Start: TypeAlias = "tuple[Ring, int, GapReason | None, bool]"
"""
Where a subscription begins in a channel, why not where its client left off, and whether the client has
nothing of it yet.
"""


class ChannelState(ABC):
    """A channel. Any thread may call it."""

    def __init__(
        self, name: str, options: ChannelOptions, serializer: Serializer | None, epoch: str
    ) -> None:
        self.name = name
        self.options = options
        self.serializer = serializer
        """Makes JSON of the data of events; see `Hub`."""
        self.typed: Callable[[Event], ServerSentEvent] | None = None
        """Validates what is published; None: the channel has no type."""
        if options.type is not None:
            from ._typed import Typed  # noqa: PLC0415  (needs pydantic)

            self.typed = Typed(name, options.type).event
        self.replicator: Replicator | None = None
        """What keeps the channel in step with its log; None: it has none."""
        self.closed: bool = False
        """Whether it has been closed; on a log, by any process, as far as this one knows."""
        self.closes_at: int | None = None
        """Where the log says that the channel was closed: no event, an id alone."""
        self.parsed: ParsedEvents = ParsedEvents(name)
        """The events of frames, for filters."""
        # Held for moments and never across an await; whoever holds it holds no other.
        self._lock = Lock()
        self._ring = _new_ring(options, epoch, 0)
        self._latest: Latest | None = None
        if options.latest_by is not None:
            self._latest = Latest(
                options.latest_by, events=options.history, bytes_=options.history_bytes
            )
        self._subscriptions: weakref.WeakSet[object] = weakref.WeakSet()
        self._fanouts: dict[int, Fanout] = {}
        self._used = self._listened = time.monotonic()
        self._counts = Counts()
        tell_child(self)

    @property
    def epoch(self) -> str:
        """The history that is known; empty: none yet."""
        return self._ring.epoch

    @property
    def head(self) -> int:
        """The offset of the newest event; 0 before the first."""
        return self._ring.head

    @property
    def last_event_id(self) -> str:
        """The id of the newest event, or the one before the first; empty: not known."""
        ring = self._ring
        return ring.epoch and f"{ring.epoch}.{ring.head}"

    # What users ask for; see `Channel`.

    @abstractmethod
    async def publish(self, event: Event, key: str | None, wait: float | None) -> str:
        """Do what `Channel.publish` does."""

    @abstractmethod
    def publish_nowait(self, event: Event, key: str | None) -> str:
        """Do what `Channel.publish_nowait` does."""

    @abstractmethod
    def publish_threadsafe(self, event: Event, key: str | None) -> Future[str]:
        """Do what `Channel.publish_threadsafe` does."""

    @abstractmethod
    async def position(self) -> str:
        """Do what `Channel.position` does."""

    @abstractmethod
    async def history(self, after: str | int | None, limit: int | None) -> list[ServerSentEvent]:
        """Do what `Channel.history` does."""

    @abstractmethod
    def close(self) -> None:
        """Do what `Channel.close` does."""

    @abstractmethod
    async def aclose(self, wait: float | None) -> None:
        """Do what `Channel.aclose` does."""

    def stats(self) -> ChannelStats:
        """How the channel stands."""
        with self._lock:
            ring = self._ring
            ring.expire(time.monotonic())
            taken = [one.newest() for each in self._fanouts.values() for one in each.subscribers()]
            return self._counts.stats(ring, taken)

    @property
    def has_subscribers(self) -> bool:
        """Whether somebody has subscribed and not left."""
        return bool(self._subscriptions)

    # For how long the hub remembers it.

    def touch(self) -> None:
        """Count as used now."""
        self._used = time.monotonic()

    def idle_since(self, now: float) -> bool:
        """Whether nobody has used the channel for its linger time."""
        return now - self._used > self.options.linger and not self._subscriptions

    def idle_at(self, now: float) -> float:
        """When it may be idle, as far as is known at the time `now`."""
        if self._subscriptions:
            return now + max(self.options.linger, 1.0)
        return self._used + self.options.linger

    # Who reads.

    def begin(self, subscription: object, asked: Asked, others: set[str] | None) -> Start | None:
        """
        Say where `subscription` begins.

        None: something has to be known first. When it is, the subscription is called, and asks again.

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
            if start is None:
                return None
            if start.reason is not None:
                self._counts.resets[start.reason] += 1
        if start.reason is not None:
            tell("gap_told", self.name, start.reason)
        return (ring, *start)

    def _start(
        self,
        subscription: object,  # noqa: ARG002  (matters on a log)
        ring: Ring,
        asked: Asked,
        others: set[str] | None,
        now: float,
    ) -> Place | None:
        return place(ring, self.name, asked, others, now)

    def join(self, subscriber: Subscriber, loop: Loop) -> None:
        """Call `subscriber` on `loop` from now on when there's something new."""
        with self._lock:
            fanout = self._fanouts.get(id(loop.key))
            if fanout is None:
                fanout = self._fanouts[id(loop.key)] = Fanout(
                    self,
                    loop,
                    max(1, self.options.history // 4),
                    pauses=self.options.prefer == "cpu",
                )
            fanout.add(subscriber)

    def leave(self, subscription: object, subscriber: Subscriber) -> None:
        """Don't call `subscriber` of `subscription` any more."""
        with self._lock:
            self._used = self._listened = time.monotonic()
            self._subscriptions.discard(subscription)
            for key, fanout in list(self._fanouts.items()):
                fanout.discard(subscriber)
                if not fanout:
                    del self._fanouts[key]

    def on_loop_closed(self, fanout: Fanout) -> None:
        """Forget the subscribers of this loop."""
        with self._lock:
            self._fanouts = {key: one for key, one in self._fanouts.items() if one is not fanout}

    def look(self) -> None:
        """Have all subscriptions look for something new."""
        with self._lock:
            fanouts = list(self._fanouts.values())
        for fanout in fanouts:
            fanout.call()

    def read(self, ring: Ring, after: int) -> tuple[bytes, int] | None:
        """Join the frames after `after`, as `Ring.read` does; None if they're no longer here."""
        if ring is not self._ring:
            return None
        newest = ring.newest
        if newest[1] == after + 1:
            # What nearly everybody wants. Nothing comes between in this sum either, with the GIL; without
            # it, two loops may lose a few of what is only counted.
            self._counts.delivered += 1
            return newest
        if after == ring.head:
            return b"", after
        with self._lock:
            if after < ring.oldest - 1:
                return None
            frames, last = ring.read(after)
            self._counts.delivered += last - after
            return frames, last

    def follow(self, ring: Ring, after: int) -> tuple[bytes | None, int]:
        """Read for all that stand together; see `Readable`."""
        with self._lock:
            # Who was offered the last ones of all wouldn't look, and see that it's over.
            if ring is self._ring and ring.holds(after) and not self.closed:
                if after == ring.head:
                    return b"", after
                frames, last = ring.read(after)
                if last == ring.head:
                    return frames, last
            return None, after

    def read_each(self, ring: Ring, after: int, limit: int) -> list[bytes] | None:
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
            return ring.frames(after, min(ring.head, after + limit))

    def count_delivered(self, events: int) -> None:
        """Count events that were read by `read_each` and went to the client."""
        # As in `read`: without the GIL, two loops may lose a few.
        self._counts.delivered += events

    def count_failure(self) -> None:
        """Count a function of the application's that has failed for an event."""
        with self._lock:
            self._counts.failures += 1

    def on_lag(self, held: Ring, after: int, *, stays: bool = False) -> Lag | None:
        """Deal with a subscription whose next event is not here, and count it; see `on_lag`."""
        with self._lock:
            lag = on_lag(
                held, self._ring, after, slow=self.options.slow, latest=self._latest, stays=stays
            )
            if lag is not None:
                self._counts.dropped += lag.dropped
                if lag.ends:
                    self._counts.disconnected += 1
                else:
                    self._counts.resets[lag.reason] += 1
        if lag is not None and is_observed():
            if lag.reason == "lagging":
                tell("subscriber_lagged", self.name, lag.dropped, ended=lag.ends)
            if not lag.ends:
                tell("gap_told", self.name, lag.reason)
        return lag

    def after_fork(self) -> None:
        """Begin anew in the child of a fork: the history's name, and all who listen, are the parent's."""
        torn = self._lock.entered  # Another thread was in the middle of a change.
        self._lock = Lock()
        self._subscriptions = weakref.WeakSet()
        self._fanouts = {}
        self.parsed = ParsedEvents(self.name)
        self._counts = Counts()
        self._renew(torn=torn)

    @abstractmethod
    def _renew(self, *, torn: bool) -> None:
        """Give up the parent's history; `torn`: another thread was in the middle of a change of it."""

    def _forget(self, epoch: str, head: int) -> None:
        """Begin another history."""
        self._ring = _new_ring(self.options, epoch, head)
        if self._latest is not None:
            self._latest.clear()

    def encode(self, event: Event) -> bytes:
        """Return the frame of an event that is to be published, without its id."""
        if self.typed is not None:
            event = self.typed(event)
        return encode_published(event, self.serializer)


def _new_ring(options: ChannelOptions, epoch: str, head: int) -> Ring:
    return Ring(
        events=options.history,
        bytes_=options.history_bytes,
        seconds=options.history_seconds,
        epoch=epoch,
        head=head,
    )
