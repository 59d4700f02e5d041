"""How one channel stands to its event log, and what it takes to bring it into step.

What a change here must keep:

- Nothing is handed to a channel but the entry after its head, of its epoch. Whatever else is received
  only leads to a look into the log.
- An entry is handed over in the stretch in which it was received or read: no await comes between.
- A history that differs from what a channel has handed out is never carried on: it's given a new epoch.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

from ._replica import Replica

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from .base import Backend, Entry, Page

logger = logging.getLogger("sse_starlette.hub")


class Standing(Enum):
    """What is known of whether the log has more, or something else, than the channel."""

    IN_STEP = "in step"
    """What is received next is the next that there is, or shows that it isn't."""
    CATCHING_UP = "catching up"
    """A look into the log is under way; what is received meanwhile is held."""
    STALE = "stale"
    """The log has to be looked into, anew if that's under way."""


class Verdict(Enum):
    """What is to be done with an entry that was received."""

    DELIVER = "deliver"
    REFRESH = "refresh"
    IGNORE = "ignore"


# Each event that is received comes by, and to look up a member of an enum takes as long as all the rest.
_IN_STEP = Standing.IN_STEP
_DELIVER, _REFRESH, _IGNORE = Verdict


def judge(its_epoch: str, entry: Entry, epoch: str, head: int, key: str | None) -> Verdict:
    """
    Decide on an entry that was received while the channel is in step. Pure.

    Args:
        its_epoch: the history that it's of.
        entry: the entry.
        epoch: the history of the channel.
        head: the offset of the channel's newest entry.
        key: the key of that, if it's known.
    """
    offset = entry.offset
    if its_epoch != epoch or offset > head + 1:
        return _REFRESH
    if offset == head + 1:
        return _DELIVER
    # Another one at the same place: the history has been written anew.
    is_another = offset == head and key not in (None, entry.key)
    return _REFRESH if is_another else _IGNORE


def was_written_anew(page: Page, head: int, key: str | None) -> bool:
    """Whether the log has something else than what was handed out up to `head`, which ends with `key`. Pure."""
    if page.head < head:
        return True
    at_head = page.entries[0] if page.entries else None
    return at_head is not None and at_head.offset == head and key not in (None, at_head.key)


@dataclass
class Figures:
    """What is told of a hub's way to its log."""

    away_since: str | None = None
    """Since when the log has been out of reach."""
    losses: int = 0
    """How often the connection to the log was lost."""
    catch_ups: int = 0
    """How often something had to be read from the log because it wasn't received."""


class Track:
    """A channel, and what is known of how it stands to the log."""

    def __init__(
        self,
        channel: Replica,
        backend: Backend,
        figures: Figures,
        make_due: Callable[[Track], None],
        *,
        page: int,
    ) -> None:
        self.channel = channel
        self.standing = Standing.STALE
        self.subscribed = False
        """Whether all that is appended is received."""
        self.due = False
        """A worker has it, or will."""
        self.dropped = False
        """Whether the channel is no longer kept in step."""
        self._backend = backend
        self._figures = figures
        self._make_due = make_due
        self._page = page
        self._key: str | None = None
        """That of the entry at the channel's head, if it's known."""
        self._held: deque[tuple[str, Entry]] = deque(maxlen=page)
        """What was received while it wasn't in step."""

    def refresh(self) -> None:
        """Have the log be looked into; what is received is not believed before."""
        self.standing = Standing.STALE
        self._make_due(self)

    def lose(self) -> None:
        """Note that nothing is received any more."""
        self.subscribed = False
        self.standing = Standing.STALE
        self._held.clear()

    def receive(self, epoch: str, entry: Entry) -> None:
        """Take what was appended, or hold it until the channel is in step."""
        if self.standing is not _IN_STEP:
            self._held.append((epoch, entry))
            return
        channel = self.channel
        verdict = judge(epoch, entry, channel.epoch, channel.head, self._key)
        if verdict is _DELIVER:
            channel.emit([entry])
            self._key = entry.key
        elif verdict is _REFRESH:
            self.refresh()

    async def step(self) -> bool:
        """Do one thing that the channel needs; say whether there was any."""
        channel = self.channel
        if not channel.epoch:
            await self._attach()
        elif (
            self.standing is not _IN_STEP
            or channel.refreshes_requested > channel.refreshes_completed
        ):
            await self._catch_up()
        elif (doubtful := channel.doubtful()) is not None:
            await self._clear_up(*doubtful)
        elif (when := channel.sought()) is not None:
            await self._seek(when)
        elif (stretch := channel.wanted()) is not None:
            await self._fill(*stretch)
        else:
            return False
        return True

    async def _attach(self) -> None:
        channel = self.channel
        requested = channel.refreshes_requested
        page = await self._read(after=0, until=None, limit=0)
        if page is not None:
            self._reset(page)
            channel.refreshed(requested)

    def _reset(self, page: Page) -> None:
        self.channel.reset(page.epoch, page.head, closed=page.closed)
        # For what has been added meanwhile, and for the key of the entry at the head.
        self.standing = Standing.STALE
        self._key = None

    async def _catch_up(self) -> None:
        channel = self.channel
        requested, epoch, head = channel.refreshes_requested, channel.epoch, channel.head
        self.standing = Standing.CATCHING_UP
        # The one at the head is read too: is it the one that we know?
        page = await self._read(after=max(head - 1, 0), until=None, limit=self._page)
        if page is not None and page.epoch == epoch and was_written_anew(page, head, self._key):
            logger.warning(
                "the log has lost the newest events of channel %r",
                channel.name,
                extra={"sse_event": "log_lost_events", "sse_channel": channel.name},
            )
            await self._backend.renew(channel.name, epoch)
            return
        while page is not None:
            if page.epoch != epoch:
                self._reset(page)
                channel.refreshed(requested)
                return
            if page.head < head:
                return  # It has been written anew since the first page.
            self._take_page(page)
            head = channel.head
            if head >= page.head:
                channel.refreshed(requested)
                self._caught_up()
                return
            page = await self._read(after=head, until=None, limit=self._page)

    def _take_page(self, page: Page) -> None:
        channel = self.channel
        head = channel.head
        first = page.entries[0].offset if page.entries else page.head + 1
        entries = [entry for entry in page.entries if entry.offset > head]
        if page.head > head:
            self._figures.catch_ups += 1
            if first > head + 1:
                channel.skip(first - 1)
                self._key = None
        if entries:
            channel.emit(entries)
        if page.entries and page.entries[-1].offset == channel.head:
            self._key = page.entries[-1].key

    def _caught_up(self) -> None:
        if self.standing is Standing.STALE:
            return
        self.standing = _IN_STEP
        held = list(self._held)
        self._held.clear()
        for epoch, entry in held:
            if self.standing is _IN_STEP:
                self.receive(epoch, entry)

    async def _clear_up(self, origin: int, appends: Mapping[object, str]) -> None:
        channel = self.channel
        epoch = channel.epoch
        # Not further back: it was appended while somebody waited for the channel's begin.
        after = max(0, origin - self._page)
        page = await self._read(after=after, until=origin, limit=self._page)
        if page is None:
            return
        if page.epoch != epoch:
            self.refresh()
        else:
            channel.cleared(appends, page.entries)

    async def _seek(self, when: float) -> None:
        channel = self.channel
        found = await self._backend.seek(
            channel.name, age=time.monotonic() - when, limits=channel.limits
        )
        if found.epoch == channel.epoch:
            channel.sought_is(when, found)
        elif not self.dropped:
            self.refresh()

    async def _fill(self, after: int, until: int) -> None:
        channel = self.channel
        epoch = channel.epoch
        after = max(after, until - self._page)
        page = await self._read(after=after, until=until, limit=until - after)
        if page is None:
            return
        if page.epoch != epoch or page.head < until:
            self.refresh()
        else:
            channel.fill(page.entries, after, until)

    async def _read(self, *, after: int, until: int | None, limit: int) -> Page | None:
        """Read a page; None if the channel has been let go meanwhile."""
        channel = self.channel
        page = await self._backend.read(
            channel.name, after=after, until=until, limit=limit, limits=channel.limits
        )
        return None if self.dropped else page
