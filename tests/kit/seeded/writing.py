"""What goes over the wire: headers, fields, chunks and the last of them."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import anyio
from starlette.requests import Request

from sse_starlette import EventSourceResponse, ServerSentEvent

if TYPE_CHECKING:
    from starlette.types import Message, Receive, Scope, Send

START: dict[str, Any] = {
    "type": "http.response.start",
    "status": 200,
    "headers": [(b"content-type", b"text/event-stream")],
}


def body(text: str, *, more: bool = True) -> dict[str, Any]:
    return {"type": "http.response.body", "body": text.encode(), "more_body": more}


ONE, END = body("data: 1\n\n"), body("", more=False)


async def write(send: Send, frame: str) -> None:
    await send(body(frame))


async def send_all(send: Send, *messages: Message) -> None:
    for message in messages:
        await send(message)


async def finished(scope: Scope, receive: Receive, send: Send) -> None:
    await send_all(send, START, ONE, END)


async def without_its_header(scope: Scope, receive: Receive, send: Send) -> None:
    start = {**START, "headers": [(b"cache-control", b"no-store")]}
    await send_all(send, start, ONE, END)


async def with_text_as_data(scope: Scope, receive: Receive, send: Send) -> None:
    text = Request(scope).query_params["text"]
    await EventSourceResponse([ServerSentEvent(data=text)])(scope, receive, send)


async def with_text_as_it_comes(scope: Scope, receive: Receive, send: Send) -> None:
    """Knows that LF ends a line, and forgets that a lone CR does."""
    text = Request(scope).query_params["text"]
    lines = "".join(f"data: {line}\n" for line in text.split("\n"))
    await send_all(send, START, body(f"{lines}\n"), END)


async def unfinished(scope: Scope, receive: Receive, send: Send) -> None:
    """Takes the end of its source for the end of the response."""
    await send_all(send, START, ONE)


async def with_one_writer(scope: Scope, receive: Receive, send: Send) -> None:
    lock = anyio.Lock()

    async def locked(frame: str) -> None:
        async with lock:
            await write(send, frame)

    await send(START)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(partial(locked, "data: 1\n\n"))
        tasks.start_soon(partial(locked, ": ping\n\n"))
    await send(END)


async def with_two_writers(scope: Scope, receive: Receive, send: Send) -> None:
    """Sends its pings from a task of their own."""
    await send(START)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(write, send, "data: 1\n\n")
        tasks.start_soon(write, send, ": ping\n\n")
    await send(END)
