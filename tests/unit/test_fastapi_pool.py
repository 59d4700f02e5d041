"""A pool of five connections and two hundred open streams: what each way to write an endpoint holds, and for how long."""

# No `from __future__ import annotations`: FastAPI reads annotations that name local values.

import sqlite3
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Annotated

import anyio
import pytest
from fastapi import Depends
from starlette.types import Message
from tests.unit.driving import SEAT_BELT_SECONDS, http_scope, settled, until

from sse_starlette import Hub, Subscription
from sse_starlette.fastapi import EventSourceResponse, FastAPI, Subscribe

pytestmark = pytest.mark.anyio

CONNECTIONS, STREAMS = 5, 200


class Pool:
    """Connections that are lent, and waited for."""

    def __init__(self) -> None:
        self.free = [sqlite3.connect(":memory:") for _ in range(CONNECTIONS)]
        self._lent = anyio.Semaphore(CONNECTIONS)

    @property
    def lent(self) -> int:
        return CONNECTIONS - len(self.free)

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[sqlite3.Connection]:
        async with self._lent:
            connection = self.free.pop()
            try:
                yield connection
            finally:
                self.free.append(connection)

    async def dependency(self) -> AsyncIterator[sqlite3.Connection]:
        async with self.connection() as connection:
            yield connection

    def close(self) -> None:
        assert len(self.free) == CONNECTIONS
        for connection in self.free:
            connection.close()


def one(connection: sqlite3.Connection) -> int:
    (found,) = connection.execute("SELECT 1").fetchone()
    return int(found)


Endpoint = Callable[..., object]


def held(pool: Pool) -> Endpoint:
    async def endpoint(
        connection: Annotated[sqlite3.Connection, Depends(pool.dependency)],
    ) -> AsyncIterable[int]:
        yield one(connection)
        await anyio.sleep_forever()

    return endpoint


def of_the_function(pool: Pool) -> Endpoint:
    channel = Hub().channel("c")
    channel.publish_nowait("text")

    async def endpoint(
        connection: Annotated[sqlite3.Connection, Depends(pool.dependency, scope="function")],
        subscription: Annotated[Subscription, Subscribe(channel, after="start")],
    ) -> Subscription:
        assert one(connection)
        return subscription

    return endpoint


def within(pool: Pool) -> Endpoint:
    async def endpoint() -> AsyncIterable[int]:
        async with pool.connection() as connection:
            found = one(connection)
        yield found
        await anyio.sleep_forever()

    return endpoint


def by_itself(pool: Pool) -> Endpoint:
    async def checked() -> int:
        async with pool.connection() as connection:
            return one(connection)

    async def endpoint(found: Annotated[int, Depends(checked)]) -> AsyncIterable[int]:
        yield found
        await anyio.sleep_forever()

    return endpoint


@pytest.mark.parametrize(
    ("write", "streaming", "lent"),
    [(held, CONNECTIONS, CONNECTIONS), (of_the_function, STREAMS, 0), (within, STREAMS, 0), (by_itself, STREAMS, 0)],
)  # fmt: skip
async def test_what_open_streams_hold(
    write: Callable[[Pool], Endpoint], streaming: int, lent: int
) -> None:
    pool = Pool()
    app = FastAPI()
    app.get("/", response_class=EventSourceResponse)(write(pool))
    started: set[int] = set()
    leaving = [anyio.Event() for _ in range(STREAMS)]

    def receiving(number: int) -> Callable[[], Awaitable[Message]]:
        async def receive() -> Message:
            await leaving[number].wait()
            return {"type": "http.disconnect"}

        return receive

    def sending(number: int) -> Callable[[Message], Awaitable[None]]:
        async def send(message: Message) -> None:
            if b"data: " in message.get("body", b""):
                started.add(number)

        return send

    with anyio.fail_after(SEAT_BELT_SECONDS):
        async with anyio.create_task_group() as clients:
            for number in range(STREAMS):
                clients.start_soon(app, http_scope(), receiving(number), sending(number))
            await until(lambda: len(started) == streaming)
            await settled()
            assert (len(started), pool.lent) == (streaming, lent)

            if streaming < STREAMS:  # Who waits gets the connection of one that leaves.
                first = min(started)
                leaving[first].set()
                await until(lambda: len(started) == streaming + 1)
                assert pool.lent == lent
            for event in leaving:
                event.set()

    pool.close()
    assert len(started) == STREAMS
