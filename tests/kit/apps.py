"""Apps for the kit to stream from, and what its tests have in common."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable

import anyio
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from tests.kit.seeded.writing import send_all

from sse_starlette.testing import StreamingASGITransport, connect

HASTE = 0.05
"""The patience of a test that waits for something in vain."""


async def numbers(count: int, *, ends: bool = False) -> AsyncIterator[dict[str, object]]:
    for number in range(count):
        yield {"id": number, "data": number}
    if not ends:
        await anyio.sleep_forever()


def tasks_here() -> int:
    return len(anyio.get_running_tasks())


def answering(answer: Callable[[Request], Response]) -> ASGIApp:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await answer(Request(scope, receive))(scope, receive, send)

    return app


def sending(*messages: Message, then: Callable[[], Awaitable[object]] | None = None) -> ASGIApp:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send_all(send, *messages)
        if then is not None:
            await then()

    return app


async def fail() -> None:
    raise KeyError("made up")


async def leave(app: ASGIApp, patience: float, *, lifespan: bool = False) -> None:
    """Be a client that leaves when it has heard the first event."""
    async with (
        StreamingASGITransport(app, lifespan=lifespan) as transport,
        connect(transport) as stream,
    ):
        await stream.next()
        stream.leave()
        await stream.until_ended()
        # From here on everybody waits in vain, if it's the buggy twin.
        transport.patience = patience
