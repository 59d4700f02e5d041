"""What the tests of feeds share: a writer that the test can block."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import anyio.lowlevel
from tests.unit.driving import StillLoop, until

from sse_starlette._runtime.loop import current_loop
from sse_starlette._stream.feed import Feed
from sse_starlette._stream.source import SourceFeed

SEAT_BELT = 60
"""Seconds after which a test that hangs is broken off."""


def encode(value: object) -> bytes:
    """Bytes as they are, numbers with a semicolon; anything else can't be encoded."""
    if isinstance(value, (bytes, bytearray)):
        return bytes(value)
    if isinstance(value, int):
        return b"%d;" % value
    raise TypeError(f"no event: {value!r}")


def numbered(count: int) -> bytes:
    """The frames of 0, 1, ... up to `count`."""
    return b"".join(encode(number) for number in range(count))


def feed_of(
    content: object,
    loop: StillLoop | None = None,
    *,
    cleanup_timeout: float | None = SEAT_BELT,
    joins: bool = True,
) -> SourceFeed:
    return SourceFeed(
        content,
        encode,
        loop or current_loop(),
        sep="\n",
        cleanup_timeout=cleanup_timeout,
        joins=joins,
    )


class Writer:
    """Takes from a feed and "sends", like the one of a stream; the test may block its sends."""

    def __init__(self, feed: Feed) -> None:
        self.feed = feed
        self.taken: list[bytes] = []
        """What was taken, at each time."""
        self.sent = 0
        """How many frames of `encode` have been sent."""
        self.blocked = False
        self._unblocked = anyio.Event()
        self._wake = current_loop().eager_runner()
        self._standing_by = False
        feed.open(self._go_on)

    @property
    def body(self) -> bytes:
        return b"".join(self.taken)

    def unblock(self) -> None:
        self.blocked = False
        self._unblocked.set()

    async def run(self) -> None:
        await self._send_all()
        while not self.feed.ended:
            self._standing_by = True
            await self._wake
            self._standing_by = False
            await self._send_all()

    def _go_on(self) -> None:
        if self._standing_by:
            self._standing_by = False
            if self._wake.run_eagerly(current_loop().current_task(), self._send_all, None):
                self._standing_by = True
                if not self.feed.ended:
                    return
        self._wake.set()

    async def _send_all(self, _: None = None) -> None:
        while frames := self.feed.take():
            self.taken.append(frames)
            await self._send(frames)
            self.feed.sent()

    async def _send(self, frames: bytes) -> None:
        while self.blocked:
            self._unblocked = anyio.Event()
            await self._unblocked.wait()
        self.sent += frames.count(b";")


@asynccontextmanager
async def running(feed: Feed, *, blocked: bool = False) -> AsyncGenerator[Writer, Any]:
    """Run `feed` and a writer; leaving waits until both have returned, as they must."""
    writer = Writer(feed)
    writer.blocked = blocked
    done = anyio.Event()

    returned = False

    async def run() -> None:
        nonlocal returned
        try:
            await feed.run()
            returned = True
        finally:
            done.set()

    with anyio.fail_after(SEAT_BELT):
        # The source's task is one like a stream's: outside of the scopes of whoever started it.
        async with current_loop().task_group() as own, anyio.create_task_group() as tasks:
            try:
                own.start_soon(run)
                tasks.start_soon(writer.run)
                yield writer
                writer.unblock()
                await done.wait()
            except BaseException:
                feed.stop()
                raise
    assert returned


async def settle() -> None:
    """Let every task run until it waits: anyio's `wait_all_tasks_blocked` sleeps 0.1 s on asyncio."""
    for _ in range(20):
        await anyio.lowlevel.checkpoint()


async def sent_by(feed: Feed) -> Writer:
    """Run `feed` to its end and give back the writer that sent everything."""
    async with running(feed) as writer:
        pass
    return writer


async def stopped(feed: Feed, *, blocked: bool = False) -> Writer:
    """Run `feed`, stop it when its source waits, and give back the writer."""
    async with running(feed, blocked=blocked) as writer:
        if blocked:
            await until(lambda: writer.taken)
        await settle()
        feed.stop()
        await settle()
    return writer
