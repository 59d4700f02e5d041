"""A channel in this process alone: it gives out the offsets and remembers the keys itself."""

from __future__ import annotations

import time
from concurrent.futures import Future
from functools import partial
from typing import TYPE_CHECKING

import anyio.lowlevel

from .._arguments import check_key
from .._runtime.lock import InterruptedHolderError, interrupted_holder
from .._runtime.workers import warn_of_other_workers
from .._wire.cursor import new_epoch
from ..errors import ChannelClosed, HistoryGap
from ._parsed import event_of
from ._start import offset_after
from ._state import ChannelState

if TYPE_CHECKING:
    from .._runtime.loop import Loop
    from .._wire.values import Serializer
    from ..event import Event, ServerSentEvent
    from ._fanout import Subscriber
    from ._options import ChannelOptions

_KEYS_KEPT_SECONDS = 120.0
"""How long an idempotency key is remembered."""


class MemoryChannel(ChannelState):
    """A channel without a log."""

    def __init__(self, name: str, options: ChannelOptions, serializer: Serializer | None) -> None:
        super().__init__(name, options, serializer, new_epoch(name))
        self._ids_by_key: dict[str, tuple[str, float]] = {}

    def join(self, subscriber: Subscriber, loop: Loop) -> None:
        warn_of_other_workers(
            "its channels are in memory: their subscribers here get what is published here, and nothing else",
            'Keep channels where all workers reach them, as in Hub("redis://localhost") or '
            'Hub("sqlite:///channels.db"), or run one worker',
        )
        super().join(subscriber, loop)

    async def publish(self, event: Event, key: str | None, wait: float | None) -> str:  # noqa: ARG002
        await anyio.lowlevel.checkpoint()
        return self.publish_nowait(event, key)

    def publish_threadsafe(self, event: Event, key: str | None) -> Future[str]:
        future: Future[str] = Future()
        try:
            future.set_result(self.publish_nowait(event, key, knock=True))
        except InterruptedHolderError:
            # In a signal handler, in the middle of a change of this channel: it's next.
            self._lock.after(partial(self._publish_late, future, event, key))
        return future

    def _publish_late(self, future: Future[str], event: Event, key: str | None) -> None:
        try:
            future.set_result(self.publish_nowait(event, key, knock=True))
        except Exception as exc:
            future.set_exception(exc)

    def publish_nowait(self, event: Event, key: str | None, *, knock: bool = False) -> str:
        if key is not None:
            check_key(key)
        return self.append(self.encode(event), key, knock=knock)

    def append(self, body: bytes, key: str | None = None, *, knock: bool = False) -> str:
        """Publish what has been encoded, a frame without its id, and return its id."""
        latest = self._latest
        latest_key = None if latest is None else latest.key_of(body)
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
                if latest is not None:
                    latest.remember(latest_key, offset, frame)
                if key is not None:
                    self._ids_by_key[key] = (event_id, now)
                self._used = now
                fanouts = list(self._fanouts.values())
            finally:
                lock.entered = False
        if lock.later:
            lock.call_later_ones()
        for fanout in fanouts:
            fanout.call(knock=knock, events=True)
        return event_id

    async def position(self) -> str:
        await anyio.lowlevel.checkpoint()
        return self.last_event_id

    async def history(self, after: str | int | None, limit: int | None) -> list[ServerSentEvent]:
        await anyio.lowlevel.checkpoint()
        with self._lock:
            ring = self._ring
            ring.expire(time.monotonic())
            if after is None:
                first = max(ring.oldest - 1, ring.head - limit if limit else 0)
            else:
                first = offset_after(after, self.name, ring.epoch, ring.head)
                if first < ring.oldest - 1:
                    raise HistoryGap(self.name, after, "trimmed")
            frames = ring.frames(first, min(ring.head, first + limit) if limit else ring.head)
        return [event_of(frame, self.name) for frame in frames]

    def close(self) -> None:
        try:
            with self._lock:
                self.closed = True
                self._used = time.monotonic()
        except InterruptedHolderError:
            self._lock.after(self.close)
        else:
            self.look()

    async def aclose(self, wait: float | None) -> None:  # noqa: ARG002  (nothing has to be waited for)
        await anyio.lowlevel.checkpoint()
        self.close()

    def begin_anew(self) -> None:
        """Begin another history, without an event and not closed."""
        with self._lock:
            self._forget(new_epoch(self.name), 0)
            self._ids_by_key = {}
            self.closed = False
            self._used = time.monotonic()
        self.look()

    def _renew(self, *, torn: bool) -> None:
        epoch = new_epoch(self.name)
        if torn:
            self._forget(epoch, 0)
            self._ids_by_key = {}
            return
        self._ring = self._ring.renamed(epoch)
        if self._latest is not None:
            self._latest.rename(epoch)
        self._ids_by_key = {
            key: (f"{epoch}.{event_id.rpartition('.')[2]}", now)
            for key, (event_id, now) in self._ids_by_key.items()
        }

    def _forget_keys(self, now: float) -> None:
        keys = self._ids_by_key
        while keys:
            oldest = next(iter(keys))
            if now - keys[oldest][1] < _KEYS_KEPT_SECONDS:
                break
            del keys[oldest]
