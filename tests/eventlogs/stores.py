"""
What the tests of event logs share: the loops they run on, who else is at the store, its clock, and how
a client of a hub is followed meanwhile.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing, contextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
from tests.servers.redis_servers import RedisServer
from tests.unit.driving import LOOPS, SEAT_BELT_SECONDS, on

from sse_starlette.channels.channel import Channel
from sse_starlette.errors import LogUnavailable
from sse_starlette.eventlogs.base import Backend
from sse_starlette.eventlogs.redis import RedisLog
from sse_starlette.eventlogs.sqlite import SQLiteLog
from sse_starlette.testing.eventlogs import RecordingListener, append, listening

# redis-py runs on asyncio alone.
ON_ASYNCIO = pytest.mark.parametrize("anyio_backend", [on("asyncio"), on("uvloop")], indirect=True)
ON_EACH_LOG = pytest.mark.parametrize(
    ("anyio_backend", "url"),
    [
        *(on(loop, "redis", name="redis") for loop in ("asyncio", "uvloop")),
        *(on(loop, "sqlite", name="sqlite") for loop in LOOPS),
    ],
    indirect=True,
)


class Followed:
    """What a client has got."""

    def __init__(self) -> None:
        self.data: list[str] = []
        self._news = anyio.Event()

    async def follow(self, channel: Channel) -> None:
        async for event in channel.subscribe(replay=1):
            self.data.append(str(event.data))
            self._news.set()

    async def until(self, last: str) -> None:
        with anyio.fail_after(SEAT_BELT_SECONDS):
            while self.data[-1:] != [last]:
                self._news = anyio.Event()
                await self._news.wait()


@asynccontextmanager
async def followed(channel: Channel) -> AsyncIterator[Followed]:
    """Publish the event `first` and follow the channel from there."""
    client = Followed()
    async with anyio.create_task_group() as tasks:
        await channel.publish("first")
        tasks.start_soon(client.follow, channel)
        await client.until("first")
        yield client
        tasks.cancel_scope.cancel()


def log_at(url: str) -> RedisLog | SQLiteLog:
    return RedisLog(url) if url.startswith("redis") else SQLiteLog(url, synchronous="normal")


# --- Who else is at the store ---------------------------------------------------------


@contextmanager
def another_process(path: Path | str, waits: float = 0) -> Iterator[sqlite3.Connection]:
    """What the lock of the file takes for another process: another connection."""
    with closing(sqlite3.connect(path, timeout=waits, isolation_level=None)) as connection:
        yield connection


def execute(path: Path | str, statement: str, *values: Any) -> list[Any]:
    """Do something to the file in another process, when it's that one's turn."""
    with another_process(path, SEAT_BELT_SECONDS) as connection:
        return connection.execute(statement, values).fetchall()


@contextmanager
def kept_by_another_process(path: Path) -> Iterator[sqlite3.Connection]:
    """The file is another program's, and nobody else may open it."""
    with another_process(path) as connection:
        connection.execute("PRAGMA locking_mode = EXCLUSIVE")
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("CREATE TABLE theirs (x)")
        yield connection


def tamper(url: str, server: RedisServer, command: tuple[Any, ...], *statement: Any) -> None:
    """Do something to the store behind the back of its logs: this in Redis, that in a file."""
    if url.startswith("redis"):
        server.say(*command)
    else:
        execute(url.partition("///")[2], *statement)


class FakeClock:
    """Two clocks of a host that stand still: one that can be set, and one that nobody sets."""

    def __init__(self) -> None:
        self.passed = 0.0
        self.ahead = 0.0

    def time(self) -> float:
        return 1_000_000.0 + self.passed + self.ahead

    def monotonic(self) -> float:
        return time.monotonic() + self.passed


# --- A log that can't be used ---------------------------------------------------------


@asynccontextmanager
async def listening_in_vain(log: Backend) -> AsyncIterator[RecordingListener]:
    """Listen to the channel `a` of a log that can't be listened to, after that has been told."""
    log.watch("a")
    async with listening(log) as listener:
        await listener.until(lambda: listener.losses)
        yield listener


async def failed_appends(log: Backend, **options: Any) -> list[LogUnavailable]:
    """Have fifty append at a time, each of them in vain."""
    failed: list[LogUnavailable] = []

    async def fail() -> None:
        with pytest.raises(LogUnavailable) as caught:
            await append(log, "a", **options)
        failed.append(caught.value)

    async with anyio.create_task_group() as tasks:
        for _ in range(50):
            tasks.start_soon(fail)
    return failed
