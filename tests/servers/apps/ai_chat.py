"""A chat of the AI SDK, in as many processes as there are; the model goes on when it's let."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from sse_starlette import Hub
from sse_starlette.adapters.ai_sdk import ChatStreams, text_chunks

hub = Hub(os.environ["HUB_URL"])
chats = ChatStreams(hub)
asked = hub.channel("asked")
released = hub.channel("released")


async def answer() -> AsyncIterator[str]:
    async with released.subscribe(after=await released.position()) as release:
        await asked.publish({"data": os.getpid()})
        for word in ("one ", "two ", "three "):
            yield word
        await anext(release)
        for word in ("four ", "five"):
            yield word


async def send(request: Request) -> Response:
    return await chats.send(await request.json(), lambda: text_chunks(answer()))


async def resume(request: Request) -> Response:
    return await chats.resume(request.path_params["id"])


async def release(request: Request) -> Response:
    await released.publish("now")
    return JSONResponse([event.data for event in await asked.history(after="start")])


app = Starlette(
    routes=[
        Route("/api/chat", send, methods=["POST"]),
        Route("/api/chat/{id}/stream", resume),
        Route("/release", release, methods=["POST"]),
    ],
    lifespan=hub.lifespan,
)
