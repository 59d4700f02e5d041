"""When the client leaves, or stops reading: what is ended with it, and what isn't."""

from __future__ import annotations

from contextlib import aclosing, asynccontextmanager, nullcontext
from typing import TYPE_CHECKING, Any

import anyio
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from tests.kit.seeded.writing import START, body

from sse_starlette import EventSourceResponse

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator

    from starlette.types import ASGIApp, Message, Receive, Scope, Send


def polling(*, stops: bool) -> Starlette:
    """Polls something for each client, in a task that the app owns."""

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[dict[str, Any]]:
        async with anyio.create_task_group() as tasks:
            yield {"tasks": tasks}
            tasks.cancel_scope.cancel()

    async def poll(scope: anyio.CancelScope) -> None:
        with scope:
            await anyio.sleep_forever()

    async def source(tasks: anyio.abc.TaskGroup) -> AsyncIterator[str]:
        scope = anyio.CancelScope()
        tasks.start_soon(poll, scope)
        try:
            yield "polling"
            await anyio.sleep_forever()
        finally:
            if stops:
                scope.cancel()

    async def events(request: Request) -> Response:
        return EventSourceResponse(source(request.state.tasks))

    return Starlette(routes=[Route("/", events)], lifespan=lifespan)


def with_registry(*, closes: bool) -> ASGIApp:
    """Keeps the source of each client in a registry."""
    sources: dict[object, AsyncGenerator[str, None]] = {}

    async def rows() -> AsyncGenerator[str, None]:
        for number in range(1000):
            yield f"data: {number}\n\n"

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        source = sources[object()] = rows()
        await send(START)
        async with anyio.create_task_group() as tasks:

            async def until_the_client_leaves() -> None:
                message: Message = {}
                while message.get("type") != "http.disconnect":
                    message = await receive()
                tasks.cancel_scope.cancel()

            tasks.start_soon(until_the_client_leaves)
            async with aclosing(source) if closes else nullcontext():
                async for row in source:
                    await send(body(row))

    return app


def without_end(*, gives_up_after: float | None) -> ASGIApp:
    """Sends and sends."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(START)
        takes = True
        while takes:
            with anyio.move_on_after(gives_up_after) as within:
                await send(body("data: 1\n\n"))
            takes = not within.cancelled_caught

    return app
