"""Who subscribes to a channel on a log and doesn't know its place yet, and what has to be found out first.

Where a subscription begins may depend on the log's head, on a time in the log, on what comes before the ring, and
on what this process is appending: an event that is published after a subscription belongs to it, also if the
ring begins later. What has to be asked for is kept here until the replicator has brought it.

Not for several threads: the channel's lock is held for every call. No loop, no clock of its own.
"""

from __future__ import annotations

import weakref
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ..eventlogs.base import Position
from ._start import place

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ..eventlogs.base import Beginning, Entry
    from ._ring import Ring
    from ._start import Asked, Place

_DOUBTS_LIMIT = 500
"""Failed attempts to publish of which it's looked for whether they have been added nevertheless."""


@dataclass(slots=True)
class _Seek:
    """A time at which a subscription begins, and where the channel was when it was made."""

    when: float
    epoch: str
    head: int
    found: Beginning | None = None


class Newcomers:
    """The subscriptions to one channel that wait for their place, and the questions that they have."""

    def __init__(self) -> None:
        self.refreshes_requested = 0
        """How often somebody has wanted a look into the log."""
        self.refreshes_completed = 0
        """How many of these have had it."""
        # Who waits for a look into the log, and for which one.
        self._refreshes: weakref.WeakKeyDictionary[object, int] = weakref.WeakKeyDictionary()
        # Who has come before its ring, and after which offset of each history it has to get everything.
        self._early: weakref.WeakKeyDictionary[object, dict[str, int]]
        self._early = weakref.WeakKeyDictionary()
        # Who begins at a time, and where that is.
        self._seeks: weakref.WeakKeyDictionary[object, _Seek] = weakref.WeakKeyDictionary()
        # The appends that are under way, and those of them that may come before the ring's begin.
        self._appending: set[object] = set()
        self._unplaced: set[object] = set()
        # Those that have failed and may have been added nevertheless, with their keys.
        self._doubts: dict[object, str] = {}
        self._wanted_from: int | None = None

    def __len__(self) -> int:
        return len(self._early)

    def start(
        self,
        subscription: object,
        ring: Ring,
        channel: str,
        asked: Asked,
        others: set[str] | None,
        now: float,
    ) -> Place | None:
        """Say where `subscription` begins; None: it isn't known yet. See `ChannelState.begin`."""
        found: Beginning | None = None
        if asked.seconds_ago is not None:
            found = self._found_for(subscription, ring, now - asked.seconds_ago)
            asked = replace(asked, offset=found and found.offset, seconds_ago=None)
            if found is None and ring.epoch:
                return None
        if not ring.epoch:
            self._early.setdefault(subscription, {})
            return None
        start = place(ring, channel, asked, others, now)
        if start is None:
            return None
        if (start.anew or found is not None) and subscription in self._early:
            if self._unplaced:
                return None  # One of them may have the smallest offset that it has to get.
            # It may look only when more has been heard.
            since = self._early[subscription].get(ring.epoch, ring.origin)
            needed = min(ring.origin, since)
            if needed < ring.reach:
                return self._placed(
                    subscription, start._replace(offset=ring.head, reason="trimmed")
                )
            start = start._replace(offset=min(start.offset, needed))
        elif start.reason in ("epoch", "future"):
            # The log may be further than what has been heard of it: another process knew the id.
            refresh = self._refreshes.get(subscription)
            if refresh is None:
                self.refreshes_requested += 1
                self._refreshes[subscription] = self.refreshes_requested
                return None
            if refresh > self.refreshes_completed:
                return None
        if found is not None and not found.complete:
            start = start._replace(reason=start.reason or "trimmed")
        if ring.holds(start.offset):
            return self._placed(subscription, start)
        # What comes before the ring is read when somebody wants it.
        self._wanted_from = min(start.offset, self._wanted_from or start.offset)
        return None

    def _placed(self, subscription: object, start: Place) -> Place:
        self._seeks.pop(subscription, None)
        self._early.pop(subscription, None)
        return start

    def _found_for(self, subscription: object, ring: Ring, when: float) -> Beginning | None:
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

    # What this process appends.

    def appends(self, append: object) -> None:
        """Note that something is about to be appended; `append` stands for it."""
        self._appending.add(append)

    def appended(self, append: object, position: Position | None, doubt: str | None) -> bool:
        """
        Note where that is: who has subscribed by now is to get it. Return whether it's still in doubt.

        None: it failed; with `doubt`, nobody knows whether it was added with this key.
        """
        self._appending.discard(append)
        if doubt is not None and self._early:
            self._doubts[append] = doubt
            if len(self._doubts) > _DOUBTS_LIMIT:
                self._unplaced.discard(oldest := next(iter(self._doubts)))
                del self._doubts[oldest]
        if position is not None:
            self._doubts.pop(append, None)
            self._needed(position)
        if append not in self._doubts:
            self._unplaced.discard(append)
        return append in self._unplaced

    @property
    def waits_for_appends(self) -> bool:
        """Whether something is being appended, or may have been, that may come before the ring's begin."""
        return bool(self._unplaced)

    def doubtful(self) -> dict[object, str]:
        """Return what may have been added before the ring's begin, with its keys."""
        if not self._early:
            self._doubts.clear()
        return {append: key for append, key in self._doubts.items() if append in self._unplaced}

    def cleared(self, appends: Mapping[object, str], entries: list[Entry], epoch: str) -> None:
        """Note which of these are among the entries before the ring's begin; the others come after it."""
        offsets = {entry.key: entry.offset for entry in entries}
        for append, key in appends.items():
            self._doubts.pop(append, None)
            self._unplaced.discard(append)
            if key in offsets:
                self._needed(Position(epoch, offsets[key]))

    def _needed(self, position: Position) -> None:
        epoch, before = position.epoch, position.offset - 1
        for since in list(self._early.values()):
            # Answers may come in another order than that of the events.
            since[epoch] = min(before, since.get(epoch, before))

    # What the log is asked for.

    def reset(self) -> None:
        """Take note of a new ring: what is appended from now on comes after its begin."""
        self._unplaced = self._appending | self._doubts.keys()

    def forget_wanted(self) -> None:
        """Ask for nothing before a ring that isn't there any more."""
        self._wanted_from = None

    def wanted(self, ring: Ring, now: float) -> tuple[int, int] | None:
        """Return what somebody waits for that came before what is here: after, until."""
        if self._wanted_from is not None:
            ring.expire(now)
            after = max(self._wanted_from, ring.reach)
            if after < ring.oldest - 1:
                return after, ring.oldest - 1
            self._wanted_from = None
        return None

    def sought(self) -> float | None:
        """Return a time that the log has to be asked for, on the monotonic clock."""
        return next((seek.when for seek in self._seeks.values() if seek.found is None), None)

    def sought_is(self, when: float, found: Beginning) -> None:
        """Take note where that time is."""
        for seek in self._seeks.values():
            if seek.when == when:
                seek.found = found
