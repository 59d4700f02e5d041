"""On which loops the tests of event logs run, and how a client of a hub is followed meanwhile."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import pytest
from tests.unit.driving import LOOPS, SEAT_BELT_SECONDS, on

from sse_starlette.channels.channel import Channel
from sse_starlette.eventlogs.redis import RedisLog
from sse_starlette.eventlogs.sqlite import SQLiteLog

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
