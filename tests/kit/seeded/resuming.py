"""
Clients that come back: one app that resumes exactly, and three that do it as it's often done.

New events arrive while the history is read, as they do on any day that is busy enough.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing, contextmanager
from typing import TYPE_CHECKING

import anyio
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from sse_starlette import EventSourceResponse

if TYPE_CHECKING:
    from collections.abc import Iterator

    from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream


class Log:
    """Events with contiguous offsets, and those who are told of new ones."""

    def __init__(self, count: int) -> None:
        self.top = 0
        self._listeners: set[MemoryObjectSendStream[int]] = set()
        self.publish(count)

    def publish(self, count: int = 1) -> None:
        for _ in range(count):
            self.top += 1
            for listener in self._listeners:
                listener.send_nowait(self.top)

    def after(self, offset: int) -> list[int]:
        return list(range(offset + 1, self.top + 1))

    @contextmanager
    def listen(self) -> Iterator[MemoryObjectReceiveStream[int]]:
        told, news = anyio.create_memory_object_stream[int](100)
        with told, news:
            self._listeners.add(told)
            try:
                yield news
            finally:
                self._listeners.discard(told)


Subscription = Callable[[Log, int], AsyncGenerator[int, None]]


async def correct(log: Log, cursor: int) -> AsyncGenerator[int, None]:
    with log.listen() as news:
        history = log.after(cursor)
        log.publish()
        for offset in history:
            yield offset
            cursor = offset
        async for offset in news:
            if offset > cursor:
                yield offset


async def with_a_gap(log: Log, cursor: int) -> AsyncGenerator[int, None]:
    """Reads the history before it listens."""
    history = log.after(cursor)
    log.publish()
    with log.listen() as news:
        for offset in history:
            yield offset
        async for offset in news:
            yield offset


async def with_a_duplicate(log: Log, cursor: int) -> AsyncGenerator[int, None]:
    """Listens before it reads the history, and doesn't compare."""
    with log.listen() as news:
        log.publish()
        for offset in log.after(cursor):
            yield offset
        async for offset in news:
            yield offset


def with_a_wrong_cursor(log: Log, cursor: int) -> AsyncGenerator[int, None]:
    """Takes the last event that the client has for the first that it wants."""
    return correct(log, max(0, cursor - 1))


def app_of(subscription: Subscription) -> tuple[Starlette, Log]:
    log = Log(3)

    async def events(request: Request) -> Response:
        cursor = request.headers.get("last-event-id", "e.0")

        async def source() -> AsyncIterator[dict[str, object]]:
            async with aclosing(subscription(log, int(cursor.removeprefix("e.")))) as offsets:
                async for offset in offsets:
                    yield {"id": f"e.{offset}", "data": offset}

        return EventSourceResponse(source())

    return Starlette(routes=[Route("/events", events)]), log
