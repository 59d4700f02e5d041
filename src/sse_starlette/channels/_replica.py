"""A channel on a log: what users ask of it goes to the log, and the replicator alone adds to it.

Until the log has been heard of, where a subscription begins isn't known, and it waits (`_newcomers.py`). What
the replicator calls is the protocol `Replica` of `eventlogs/_replica.py`.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

import anyio.lowlevel

from ..errors import ChannelClosed, HistoryGap
from ._newcomers import Newcomers
from ._parsed import event_of
from ._ring import with_id
from ._start import offset_after
from ._state import ChannelState

if TYPE_CHECKING:
    from collections.abc import Mapping
    from concurrent.futures import Future

    from .._wire.values import Serializer
    from ..event import Event, ServerSentEvent
    from ..eventlogs._replicator import Replicator
    from ..eventlogs.base import Beginning, Entry, Limits, Position
    from ._options import ChannelOptions
    from ._ring import Ring
    from ._start import Asked, Place
    from ._state import Start

_logger = logging.getLogger("sse_starlette.channel")

_NO_KEY = object()


class ReplicatedChannel(ChannelState):
    """What this process has of a channel that is kept in a log."""

    def __init__(
        self,
        name: str,
        options: ChannelOptions,
        serializer: Serializer | None,
        replicator: Replicator,
        limits: Limits,
    ) -> None:
        super().__init__(name, options, serializer, "")
        self.replicator: Replicator = replicator
        self.limits = limits
        """How much of the channel the log is to keep."""
        self._newcomers = Newcomers()
        # The newest that this process has added to the log.
        self._added: Position | None = None

    # What users ask for.

    async def publish(self, event: Event, key: str | None, wait: float | None) -> str:
        return await self.replicator.publish(self, self._encode_with_key(event), key, wait)

    def publish_threadsafe(self, event: Event, key: str | None) -> Future[str]:
        return self.replicator.publish_in_line(self, self._encode_with_key(event), key)

    def publish_nowait(self, event: Event, key: str | None) -> str:  # noqa: ARG002
        raise RuntimeError(
            f"channel {self.name!r} is on a log, and what is added there has to be waited for: "
            "use `await channel.publish(…)`, or `channel.publish_threadsafe(…)` where nothing "
            "can be awaited."
        )

    def _encode_with_key(self, event: Event) -> bytes:
        body = self.encode(event)
        if self._latest is not None:
            self._latest.key_of(body)  # If it has no key, it's not published.
        return body

    async def position(self) -> str:
        self.replicator.must_run()
        ring, added = self._ring, self._added
        if ring.epoch:
            await anyio.lowlevel.checkpoint()
            # What this process has published may not have come back yet.
            own = added.offset if added is not None and added.epoch == ring.epoch else 0
            return f"{ring.epoch}.{max(ring.head, own)}"
        page = await self.replicator.look_up(self, after=0, until=None, limit=0)
        return f"{page.epoch}.{page.head}"

    async def history(self, after: str | int | None, limit: int | None) -> list[ServerSentEvent]:
        page = await self.replicator.look_up(self, after=0, until=None, limit=0)
        epoch, head = page.epoch, page.head
        if after is None:
            kept = self.options.history
            first = max(0, head - min(kept, limit or kept))
        else:
            first = offset_after(after, self.name, epoch, head)
        until = head if limit is None else min(head, first + limit)
        found: list[Entry] = []
        last, most = first, self.replicator.options.page
        while last < until:
            page = await self.replicator.look_up(
                self, after=last, until=until, limit=min(most, until - last)
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
        return [event_of(_frame_of(epoch, entry), self.name) for entry in found if entry.body]

    def close(self) -> None:
        self.replicator.publish_in_line(self, b"").add_done_callback(self._log_failed_close)

    def _log_failed_close(self, outcome: Future[str]) -> None:
        error = outcome.exception()
        if error is not None and not isinstance(error, ChannelClosed):
            _logger.error(
                "channel %r could not be closed",
                self.name,
                exc_info=error,
                extra={"sse_event": "channel_not_closed", "sse_channel": self.name},
            )

    async def aclose(self, wait: float | None) -> None:
        await self.replicator.close(self, wait)

    # Who reads.

    def begin(self, subscription: object, asked: Asked, others: set[str] | None) -> Start | None:
        start = super().begin(subscription, asked, others)
        if start is None:
            self.replicator.ensure_following(self)
        return start

    def _start(
        self,
        subscription: object,
        ring: Ring,
        asked: Asked,
        others: set[str] | None,
        now: float,
    ) -> Place | None:
        return self._newcomers.start(subscription, ring, self.name, asked, others, now)

    # What this process appends; see `Replica`.

    def appends(self, append: object) -> None:
        with self._lock:
            self._newcomers.appends(append)

    def appended(
        self, append: object, position: Position | None, *, doubt: str | None = None
    ) -> None:
        with self._lock:
            waited = self._newcomers.waits_for_appends
            in_doubt = self._newcomers.appended(append, position, doubt)
            settled = waited and not self._newcomers.waits_for_appends
            if position is not None:
                added = self._added
                if added is None or added.epoch != position.epoch or added < position:
                    self._added = position
        if settled:
            self.look()
        elif in_doubt:
            self.replicator.ensure_following(self)

    def doubtful(self) -> tuple[int, dict[object, str]] | None:
        with self._lock:
            appends = self._newcomers.doubtful()
            return (self._ring.origin, appends) if appends else None

    def cleared(self, appends: Mapping[object, str], entries: list[Entry]) -> None:
        with self._lock:
            self._newcomers.cleared(appends, entries, self._ring.epoch)
            settled = not self._newcomers.waits_for_appends
        if settled:
            self.look()

    # What the log is asked for, and what it has.

    @property
    def refreshes_requested(self) -> int:
        """See `Replica`."""
        return self._newcomers.refreshes_requested

    @property
    def refreshes_completed(self) -> int:
        """See `Replica`."""
        return self._newcomers.refreshes_completed

    def refreshed(self, requested: int) -> None:
        self._newcomers.refreshes_completed = requested
        self.look()

    def wanted(self) -> tuple[int, int] | None:
        with self._lock:
            return self._newcomers.wanted(self._ring, time.monotonic())

    def sought(self) -> float | None:
        with self._lock:
            return self._newcomers.sought()

    def sought_is(self, when: float, found: Beginning) -> None:
        with self._lock:
            self._newcomers.sought_is(when, found)
        self.look()

    def reset(self, epoch: str, head: int, *, closed: bool) -> None:
        with self._lock:
            self._change_ring(epoch, head)
            self._newcomers.reset()
            self.closed = closed
            self.closes_at = head if closed else None
        self.look()

    def emit(self, entries: list[Entry]) -> None:
        keys = [self._key_of(entry) for entry in entries]
        now = time.monotonic()
        with self._lock:
            ring = self._ring
            for entry, key in zip(entries, keys, strict=True):
                frame = _frame_of(ring.epoch, entry)
                ring.append(frame, now)
                if self._latest is not None and key is not _NO_KEY:
                    self._latest.remember(key, entry.offset, frame)
            if not entries[-1].body:
                self.closes_at = entries[-1].offset
                self.closed = True
        self.look()

    def skip(self, to: int) -> None:
        with self._lock:
            self._ring.skip(to)
        self.look()

    def fill(self, entries: list[Entry], after: int, until: int) -> None:
        keys = [self._key_of(entry) for entry in entries]
        with self._lock:
            ring = self._ring
            # If not, some have been forgotten meanwhile, and these can't be put before the others.
            if ring.oldest - 1 == until:
                frames = [_frame_of(ring.epoch, entry) for entry in entries]
                oldest = until + 1 - len(entries)
                if oldest > after + 1:
                    ring.floor = oldest - 1  # The log has no more.
                ring.prepend(frames, time.monotonic())
                if self._latest is not None:
                    self._latest.remember_older(
                        (key, entry.offset, frame)
                        for entry, key, frame in zip(entries, keys, frames, strict=True)
                        if key is not _NO_KEY
                    )
        self.look()

    def release_if_idle(self) -> bool:
        with self._lock:
            if self._subscriptions or time.monotonic() - self._listened <= self.options.linger:
                return False
            self._change_ring("", 0)
            return True

    def release(self) -> None:
        with self._lock:
            self._change_ring("", 0)
        self.look()

    def _change_ring(self, epoch: str, head: int) -> None:
        # Who still holds the old one finds nothing there.
        self._ring.skip(self._ring.head)
        self._newcomers.forget_wanted()
        self._forget(epoch, head)

    def _renew(self, *, torn: bool) -> None:  # noqa: ARG002  (all of it is in the log)
        self._newcomers = Newcomers()
        self._added = None
        self._forget("", 0)

    def _key_of(self, entry: Entry) -> object:
        if self._latest is None or not entry.body:
            return _NO_KEY
        try:
            return self._latest.key_of(entry.body)
        except Exception:
            # Here nobody can be told; whoever published it was told if it failed there.
            _logger.exception(
                "latest_by failed for an event of channel %r",
                self.name,
                extra={
                    "sse_event": "callback_failed",
                    "sse_callback": "latest_by",
                    "sse_channel": self.name,
                },
            )
            return _NO_KEY


def _frame_of(epoch: str, entry: Entry) -> bytes:
    # Where the channel was closed there's no event, but an id: who has it need not come back.
    return with_id(epoch, entry.offset, entry.body or b"\r\n")
