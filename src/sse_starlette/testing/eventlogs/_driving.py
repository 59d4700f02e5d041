"""How the tests of a log use it: as its publishers and its followers do. Decides nothing about a log."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager

import anyio
import pytest

from ...eventlogs.base import Backend, Entry, Limits, Listener, Page, Position

MakeLog = Callable[[], Backend]
"""What the fixture `make_log` returns: each call makes one more `Backend` on the same store."""

KEEP_ALL = Limits(events=1_000, seconds=None, expire=3_600)
"""Limits that forget nothing in a test."""

PATIENCE_SECONDS = 60
"""Nothing that a test waits for takes as long, unless it's broken."""


class RecordingListener(Listener):
    """Notes what a log tells, in its order, and waits for facts."""

    def __init__(self, *, patience: float = PATIENCE_SECONDS) -> None:
        self.subscriptions: list[str] = []
        """The channels that `subscribed` was called for."""
        self.entries: list[tuple[str, str, Entry]] = []
        """What `received` was called with: channel, epoch, entry."""
        self.notifications: list[str] = []
        """The channels that `notified` was called for."""
        self.losses: list[Exception] = []
        """What `lost` was called with."""
        self.patience = patience
        """Seconds that `until` waits."""
        self._news = anyio.Event()

    def subscribed(self, channel: str) -> None:
        self.subscriptions.append(channel)
        self._news.set()

    def received(self, channel: str, epoch: str, entry: Entry) -> None:
        self.entries.append((channel, epoch, entry))
        self._news.set()

    def notified(self, channel: str) -> None:
        self.notifications.append(channel)
        self._news.set()

    def lost(self, error: Exception) -> None:
        self.losses.append(error)
        self._news.set()

    async def until(self, fact: Callable[[], object]) -> None:
        """Wait until `fact` holds; AssertionError, with all that was told, if it never does."""
        with anyio.move_on_after(self.patience):
            while not fact():
                self._news = anyio.Event()
                await self._news.wait()
        if not fact():
            entries = [(channel, entry.offset) for channel, _, entry in self.entries]
            raise AssertionError(
                f"in {self.patience} seconds, the log has told its listener nothing but:"
                f" subscribed: {self.subscriptions}; received: {entries};"
                f" notified: {self.notifications}; lost: {self.losses}"
            )

    def has_subscribed(self, channel: str, times: int = 1) -> bool:
        """Whether `subscribed` was called for the channel, so many times at the least."""
        return self.subscriptions.count(channel) >= times

    def has(self, channel: str, offset: int) -> bool:
        """Whether the entry was received."""
        return offset in self.offsets(channel)

    def offsets(self, channel: str) -> list[int]:
        """The offsets that were received; what came twice counts once."""
        found = dict.fromkeys(entry.offset for name, _, entry in self.entries if name == channel)
        return list(found)


@asynccontextmanager
async def listening(log: Backend, *channels: str) -> AsyncIterator[RecordingListener]:
    """Listen to these channels, after `subscribed` has come for each; the log has to be open."""
    listener = RecordingListener()
    failure: BaseException | None = None
    async with anyio.create_task_group() as tasks:
        for channel in channels:
            log.watch(channel)
        tasks.start_soon(log.listen, listener)
        try:
            await listener.until(lambda: set(listener.subscriptions) >= set(channels))
            yield listener
        except (Exception, pytest.fail.Exception) as error:
            failure = error  # Raised below, without the exception group that it would be in.
        tasks.cancel_scope.cancel()
    if failure is not None:
        raise failure


async def append(
    log: Backend,
    channel: str,
    body: bytes = b"x",
    *,
    key: str | None = None,
    limits: Limits = KEEP_ALL,
) -> Position:
    """Append an entry, with a key of its own if none is given, which is remembered for two minutes."""
    key = secrets.token_hex(8) if key is None else key
    return await log.append(channel, body, key=key, key_seconds=120, limits=limits)


async def read(
    log: Backend,
    channel: str,
    after: int = 0,
    until: int | None = None,
    *,
    limit: int = 10_000,
    limits: Limits = KEEP_ALL,
) -> Page:
    """Read from a channel, all of it if nothing else is said."""
    return await log.read(channel, after=after, until=until, limit=limit, limits=limits)


def offsets(page: Page) -> list[int]:
    """The offsets of the entries of a page."""
    return [entry.offset for entry in page.entries]


@asynccontextmanager
async def opened(*logs: Backend) -> AsyncIterator[None]:
    """Open logs, and bound what is done with them: three minutes."""
    async with AsyncExitStack() as stack:
        for log in logs:
            await stack.enter_async_context(log.open())
        with anyio.fail_after(3 * PATIENCE_SECONDS):
            yield
