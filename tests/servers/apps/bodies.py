"""Sources that read their request: its body, in several ways, and whether its client has left; and one that is blocked."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from functools import partial
from typing import Annotated, Any

import anyio
from fastapi import Body, FastAPI
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Mount, Route

from sse_starlette import EventSourceResponse
from sse_starlette._stream import receive as _receive

if "BODY_SECONDS" in os.environ:
    _receive._BODY_SECONDS = float(os.environ["BODY_SECONDS"])
_journal = os.open(os.environ["JOURNAL"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)


def note(what: str, reason: str = "", **facts: Any) -> None:
    facts["reason"] = reason
    os.write(_journal, json.dumps({"what": what, **facts}).encode() + b"\n")


async def read_json(request: Request) -> int:
    return len((await request.json())["text"])


async def read_body(request: Request) -> int:
    return len(json.loads(await request.body())["text"])


async def read_stream(request: Request) -> int:
    return len(json.loads(b"".join([chunk async for chunk in request.stream()]))["text"])


async def read_form(request: Request) -> int:
    form = await request.form()
    text = form["text"]
    return len(text if isinstance(text, str) else await text.read())


async def read_after_a_wait(request: Request) -> int:
    await anyio.sleep(0.05)
    return len((await request.json())["text"])


READERS = {
    "json": read_json,
    "body": read_body,
    "stream": read_stream,
    "form": read_form,
    "after-a-wait": read_after_a_wait,
}


def reading(read: Callable[[Request], Awaitable[int]]) -> Callable[[Request], Awaitable[Response]]:
    async def answer(request: Request) -> AsyncIterator[dict[str, int]]:
        yield {"data": await read(request)}

    async def endpoint(request: Request) -> Response:
        return EventSourceResponse(answer(request))

    return endpoint


async def polled(request: Request) -> AsyncIterator[dict[str, int]]:
    number = 0
    try:
        while not await request.is_disconnected():
            number += 1
            yield {"data": number}
            await anyio.sleep(0.01)
    finally:
        note("finally", events=number)


async def poll(request: Request) -> Response:
    return EventSourceResponse(polled(request))


async def poll_after_the_body(request: Request) -> Response:
    await request.json()
    return EventSourceResponse(polled(request))


async def who(request: Request) -> Response:
    return PlainTextResponse(str(os.getpid()))


api = FastAPI()


@api.post("/{name}")
async def in_fastapi(name: str, request: Request) -> Response:
    return await reading(READERS[name])(request)


@api.post("/parsed/by-fastapi")
async def parsed_by_fastapi(text: Annotated[str, Body(embed=True)]) -> Response:
    async def answer() -> AsyncIterator[dict[str, int]]:
        yield {"data": len(text)}

    return EventSourceResponse(answer())


@api.post("/parsed/and-silent")
async def silent(text: Annotated[str, Body(embed=True)]) -> Response:
    async def answer() -> AsyncIterator[str]:
        try:
            await anyio.sleep_forever()
            yield text
        finally:
            note("finally")

    return EventSourceResponse(answer())


async def read_and_silent(request: Request) -> Response:
    async def answer() -> AsyncIterator[str]:
        try:
            await request.json()
            note("read")
            await anyio.sleep_forever()
            yield ""
        finally:
            note("finally")

    return EventSourceResponse(answer())


def blocked() -> Iterator[str]:
    yield "a"
    threading.Event().wait()


async def until_the_client_has_left() -> None:
    try:
        await anyio.sleep_forever()
    finally:
        note("left")


async def block(request: Request) -> Response:
    return EventSourceResponse(
        blocked(),
        data_sender_callable=until_the_client_has_left,
        on_close=partial(note, "closed"),
        cleanup_timeout=None,
    )


app = Starlette(
    routes=[
        Route("/who", who),
        *(Route(f"/{name}", reading(read), methods=["POST"]) for name, read in READERS.items()),
        Route("/poll", poll),
        Route("/poll-after-the-body", poll_after_the_body, methods=["POST"]),
        Route("/read-and-silent", read_and_silent, methods=["POST"]),
        Route("/block", block),
        Mount("/api", api),
    ]
)
