"""
Streams made at random, the same for everybody who asks for the same number.

They are what a client may have to read rather than what anybody should send: every line end, half
characters, fields nobody knows, ids that are none, cut into pieces anywhere.
"""

from __future__ import annotations

import random
from collections.abc import AsyncIterator

import anyio.lowlevel
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, StreamingResponse
from starlette.routing import Route

COUNT = 300
TYPES = ("message", "update", "größe", "error ")
"""The types of events that there are; `error ` is no `error`, for the space counts."""

_LINE_ENDS = ("\n", "\r\n", "\r")
_TEXTS = (
    "",
    "plain",
    " two  spaces",
    "a:b",
    ": c",
    "Grüße, 世界 🎈",
    "\u2028\u0085\u000b",
    "\ufeff",
    "\0",
)


def pieces(number: int) -> list[bytes]:
    """Make the stream of this number, in the pieces in which it is sent."""
    choice = random.Random(number)
    body = b"".join(_block(choice) for _ in range(choice.randint(1, 8)))
    if choice.random() < 0.2:
        body = b"\xef\xbb\xbf" + body
    if choice.random() < 0.3:
        body += b"data: never dispatched" + choice.choice((b"", b"\n"))
    cuts = sorted(choice.randrange(len(body) + 1) for _ in range(choice.randrange(6)))
    ends = [*cuts, len(body)]
    return [body[start:end] for start, end in zip([0, *cuts], ends, strict=True)]


def _block(choice: random.Random) -> bytes:
    end = choice.choice(_LINE_ENDS)
    lines = [_line(choice) for _ in range(choice.randint(0, 5))]
    if choice.random() < 0.8:
        lines.append(f"data: {choice.choice(_TEXTS)}".encode())
    return b"".join(line + end.encode() for line in [*lines, b""])


def _line(choice: random.Random) -> bytes:
    text = choice.choice(_TEXTS)
    space = choice.choice(("", " "))
    match choice.randrange(9):
        case 0:
            return f"event:{space}{choice.choice(TYPES)}".encode()
        case 1:
            return f"id:{space}{text}".encode()
        case 2:
            return f":{space}{text}".encode()
        case 3:
            return choice.choice((b"data", b"id", b"event", b"Data: x", b" data: x", b"other: x"))
        case 4:
            return choice.choice((b"retry: 100000", b"retry: soon", b"retry: 1e9", b"retry"))
        case 5:
            return b"data: " + choice.choice((b"\xff", b"\xe2\x82", b"\xf0\x9f\x8e", b"\xc3x"))
        case _:
            return f"data:{space}{text}".encode()


async def stream(request: Request) -> StreamingResponse:
    async def body() -> AsyncIterator[bytes]:
        for piece in pieces(request.path_params["number"]):
            yield piece
            await anyio.lowlevel.checkpoint()

    return StreamingResponse(
        body(), media_type="text/event-stream", headers={"cache-control": "no-store"}
    )


async def blank(request: Request) -> HTMLResponse:
    return HTMLResponse("<!doctype html><link rel=icon href='data:,'><title>blank</title>")


app = Starlette(routes=[Route("/{number:int}", stream), Route("/blank", blank)])
