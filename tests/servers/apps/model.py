"""A stand-in for the server of a language model, which speaks enough of OpenAI's Responses API for its SDK."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import anyio
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from streams import (  # type: ignore[import-not-found,unused-ignore]  # found beside this file
    journal,
    read_journal,
)

from sse_starlette import EventSourceResponse

Event = dict[str, Any]


def delta(text: str) -> Event:
    kind = "response.output_text.delta"
    return {"event": kind, "data": {"type": kind, "item_id": "m", "delta": text}}


async def answer(prompt: str) -> AsyncIterator[Event]:
    for text in ("Hello", "\r\n", " world"):
        yield delta(text)
    if prompt == "cut":
        raise ConnectionError("the machine of the model has gone")
    try:
        while prompt == "endless":
            yield delta("on and on")
            await anyio.sleep(0.01)
    finally:
        journal.note(f"{prompt} is over")
    kind = "response.failed" if prompt == "failed" else "response.completed"
    yield {"event": kind, "data": {"type": kind, "response": {"id": "r", "output": []}}}


async def create(request: Request) -> Response:
    prompt = (await request.json())["input"]
    if prompt == "busy":
        error = {"error": {"message": "a secret of the model's server"}}
        return JSONResponse(error, 429, {"x-should-retry": "false"})
    return EventSourceResponse(answer(prompt))


app = Starlette(
    routes=[Route("/v1/responses", create, methods=["POST"]), Route("/journal", read_journal)]
)
