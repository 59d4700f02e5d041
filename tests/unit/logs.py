"""
A log in memory, for several hubs in one process; it fails, forgets and lies when the test says so.

It keeps the contract of a `Backend`. What one hub has of it is a `FakeLog`; what they share, a
`FakeStore`. Nothing in it takes time: what is to be late waits until the test lets it go.
"""

from __future__ import annotations

import math
import time
from bisect import bisect_left
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import count

import anyio
import anyio.lowlevel

from sse_starlette.errors import ChannelClosed, LogUnavailable
from sse_starlette.eventlogs.base import (
    Backend,
    Beginning,
    Entry,
    Limits,
    Listener,
    Page,
    Position,
)
from sse_starlette.eventlogs.leases import Lease


class Gate:
    """Something that waits while it's shut."""

    def __init__(self) -> None:
        self.waiting = 0
        self._shut: anyio.Event | None = None

    def shut(self) -> None:
        if self._shut is None:
            self._shut = anyio.Event()

    def open(self) -> None:
        if self._shut is not None:
            self._shut.set()
            self._shut = None

    async def passed(self) -> None:
        await anyio.lowlevel.checkpoint()
        self.waiting += 1
        try:
            while self._shut is not None:
                await self._shut.wait()
        finally:
            self.waiting -= 1


@dataclass
class Shelf:
    """The history of one channel."""

    epoch: str
    head: int = 0
    entries: list[Entry] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    """When each entry was added, those that are no longer kept too."""
    keys: dict[str, tuple[Position, float]] = field(default_factory=dict)
    """Where each key was used, and until when that's remembered."""
    closed: bool = False


class FakeStore:
    """What all that follow one log have in common: the server."""

    def __init__(self) -> None:
        self.shelves: dict[str, Shelf] = {}
        self.leases: dict[str, tuple[Lease, float]] = {}
        """Who may append to which channel, and since when."""
        self.logs: list[FakeLog] = []
        self.calls: Counter[str] = Counter()
        """How often each method was called, by all."""
        self.reads: list[tuple[str, int, int | None, int]] = []
        """Each read: channel, after, until, limit."""
        self.down = False
        """Nothing can be reached."""
        self.on_append: Callable[[], None] = lambda: None
        """Called when an entry has been added, before its publisher is answered; it may raise."""
        self.stirs = False
        """Says only that something was added, not what."""
        self._epochs = count(1)

    def shelf(self, channel: str) -> Shelf:
        if channel not in self.shelves:
            self.shelves[channel] = Shelf(f"e{next(self._epochs)}")
        return self.shelves[channel]

    def add(
        self, channel: str, body: bytes, key: str | None = None, until: float = math.inf
    ) -> Entry:
        """Add an entry as another process does; who listens is told."""
        shelf = self.shelf(channel)
        shelf.head += 1
        entry = Entry(shelf.head, f"k{next(self._epochs)}" if key is None else key, body)
        shelf.entries.append(entry)
        shelf.times.append(time.monotonic())
        shelf.keys[entry.key] = Position(shelf.epoch, entry.offset), until
        shelf.closed = not body
        for log in self.logs:
            log.tell(channel, shelf.epoch, entry)
        return entry

    def say(self, channel: str, *data: object) -> None:
        """Publish as another process does."""
        for one in data:
            self.add(channel, f"data: {one}\r\n\r\n".encode())

    def trim(self, channel: str, until: int) -> None:
        """Forget the entries up to this offset."""
        shelf = self.shelf(channel)
        shelf.entries = [entry for entry in shelf.entries if entry.offset > until]

    def flush(self, *channels: str) -> None:
        """Forget everything, or everything about some channels."""
        for channel in channels or list(self.shelves):
            self.shelves.pop(channel, None)
            self.leases.pop(channel, None)

    def fall_back(self, channel: str, to: int) -> None:
        """Lose the entries after this offset, as a replica does that takes over too early."""
        shelf = self.shelf(channel)
        shelf.entries = [entry for entry in shelf.entries if entry.offset <= to]
        shelf.keys = {key: one for key, one in shelf.keys.items() if one[0].offset <= to}
        shelf.head = to
        del shelf.times[to:]

    def renew(self, channel: str) -> None:
        """Begin a new history; what is known of keys stays."""
        keys = self.shelf(channel).keys
        self.flush(channel)
        self.shelf(channel).keys = keys

    def lose_all(self) -> None:
        """Break each connection; all of them come back by themselves."""
        for log in self.logs:
            log.lose()


class FakeLog(Backend):
    """One process's way to the store."""

    keeps_times = True

    def __init__(self, store: FakeStore | None = None) -> None:
        self.store = store or FakeStore()
        self.watched: dict[str, bool] = {}
        """The channels that are watched, and whether it has been said that they're joined."""
        self.cut = False
        """This process can reach nothing."""
        self.deaf = False
        """Nothing is heard, though the connection looks fine."""
        self.reading = Gate()
        self.seeking = Gate()
        self.appending = Gate()
        self.joining = Gate()
        self.hearing = Gate()
        self.unwatched: list[str] = []
        self.opened = 0
        self._listener: Listener | None = None
        self._news: list[Callable[[], None]] = []
        self._wake = anyio.Event()

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        self.opened += 1
        self._wake = anyio.Event()
        try:
            yield
        finally:
            self.opened -= 1

    def _reach(self, what: str) -> None:
        if not self.opened:
            raise RuntimeError("the log isn't open")
        self.store.calls[what] += 1
        if self.store.down or self.cut:
            raise LogUnavailable("fake://", "cut off")

    async def append(
        self, channel: str, body: bytes, *, key: str, key_seconds: float, limits: Limits
    ) -> Position:
        await self.appending.passed()
        self._reach("append")
        shelf = self.store.shelf(channel)
        now = anyio.current_time()
        position, until = shelf.keys.get(key, (None, 0))
        if position is not None and now < until:
            return position
        if shelf.closed:
            raise ChannelClosed(channel)
        entry = self.store.add(channel, body, key, now + key_seconds)
        self.store.on_append()
        del shelf.entries[: -(limits.events or 1_000)]
        return Position(shelf.epoch, entry.offset)

    async def read(
        self, channel: str, *, after: int, until: int | None, limit: int, limits: Limits
    ) -> Page:
        self.store.reads.append((channel, after, until, limit))
        await anyio.lowlevel.checkpoint()
        self._reach("read")
        shelf = self.store.shelf(channel)
        last = shelf.head if until is None else until
        entries = [entry for entry in shelf.entries if after < entry.offset <= last][:limit]
        page = Page(shelf.epoch, shelf.head, shelf.closed, entries)
        await self.reading.passed()
        self._reach("answer")
        return page

    async def seek(self, channel: str, *, age: float, limits: Limits) -> Beginning:
        await self.seeking.passed()
        self._reach("seek")
        shelf = self.store.shelf(channel)
        first = shelf.entries[0].offset if shelf.entries else shelf.head + 1
        offset = max(first - 1, bisect_left(shelf.times, time.monotonic() - age))
        return Beginning(shelf.epoch, offset, offset >= first or first == 1)

    async def heads(self, channels: Sequence[str], *, expire: float | None) -> dict[str, Position]:
        await anyio.lowlevel.checkpoint()
        self._reach("heads")
        return {
            name: Position(shelf.epoch, shelf.head)
            for name in channels
            if (shelf := self.store.shelves.get(name)) is not None
        }

    async def renew(self, channel: str, epoch: str) -> None:
        await anyio.lowlevel.checkpoint()
        self._reach("renew")
        if self.store.shelf(channel).epoch == epoch:
            self.store.renew(channel)

    async def listen(self, listener: Listener) -> None:
        if not self.opened:
            raise RuntimeError("the log isn't open")
        self._listener = listener
        self.store.logs.append(self)
        self.watched = dict.fromkeys(self.watched, False)
        try:
            while True:
                self._wake = anyio.Event()
                await self.joining.passed()
                if not (self.store.down or self.cut):
                    for channel, joined in list(self.watched.items()):
                        if not joined:
                            self.watched[channel] = True
                            listener.subscribed(channel)
                await self.hearing.passed()
                while self._news:
                    self._news.pop(0)()
                await self._wake.wait()
        finally:
            self.store.logs.remove(self)
            self._listener = None
            self._news.clear()

    def watch(self, channel: str) -> None:
        self.watched.setdefault(channel, False)
        self._wake.set()

    def unwatch(self, channel: str) -> None:
        self.watched.pop(channel, None)
        self.unwatched.append(channel)

    async def check(self) -> None:
        await anyio.lowlevel.checkpoint()
        self._reach("check")

    def tell(self, channel: str, epoch: str, entry: Entry) -> None:
        """Have the listener hear of an entry."""
        listener = self._listener
        if listener is None or not self.watched.get(channel) or self.deaf:
            return
        if self.store.stirs:
            self._news.append(lambda: listener.notified(channel))
        else:
            self._news.append(lambda: listener.received(channel, epoch, entry))
        self._wake.set()

    def lose(self) -> None:
        """Break the connection: what is under way is lost. It comes back by itself, unless cut."""
        self._news.clear()
        self.watched = dict.fromkeys(self.watched, False)
        if self._listener is not None:
            self._listener.lost(LogUnavailable("fake://", "connection reset"))
        self._wake.set()

    def go_away(self) -> None:
        """Break the connection until `come_back`."""
        self.cut = True
        self.lose()

    def come_back(self) -> None:
        self.cut = False
        self._wake.set()
