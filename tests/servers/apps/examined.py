"""What `doctor` and `tail` are pointed at: a channel on which something happens, and a quiet one."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route

from sse_starlette import EventSourceResponse, Hub

hub = Hub()
numbers = hub.channel("numbers")


async def events(request: Request) -> EventSourceResponse:
    """Something about once a second, and a comment in between; `?headers=` has further ones, as JSON."""
    headers = json.loads(request.query_params.get("headers", "null"))
    return EventSourceResponse(numbers.subscribe(request), ping=0.3, headers=headers)


async def quiet(request: Request) -> EventSourceResponse:
    """Nothing for a quarter of a minute after the first block."""
    return EventSourceResponse(hub.channel("quiet").subscribe(request))


async def moved(request: Request) -> Response:
    return RedirectResponse("/events?token=of-the-redirect")


async def over(request: Request) -> Response:
    return Response(status_code=204)


async def page(request: Request) -> Response:
    return PlainTextResponse("data: not a stream\n\n")


@asynccontextmanager
async def lifespan(app: Starlette) -> AsyncIterator[None]:
    async def publish() -> None:
        number = 0
        while True:
            await numbers.publish({"event": "number", "data": number})
            number += 1
            await anyio.sleep(0.8)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(publish)
        yield
        tasks.cancel_scope.cancel()


app = Starlette(
    routes=[
        Route("/events", events, methods=["GET", "POST"]),
        Route("/quiet", quiet),
        Route("/moved", moved),
        Route("/over", over),
        Route("/page", page),
    ],
    lifespan=lifespan,
)
