"""Requests to FastAPI applications, in memory, and what their streams say."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import anyio
import httpx2
from starlette.types import ASGIApp, Message
from tests.unit.driving import SEAT_BELT_SECONDS, http_scope
from tests.unit.parsers import Fired, read_by_the_standard

from sse_starlette.fastapi import EventSourceResponse, FastAPI


def app_of(endpoint: Callable[..., Any], **options: Any) -> FastAPI:
    """An application that streams what this endpoint yields or returns."""
    app = FastAPI()
    app.get("/", **{"response_class": EventSourceResponse, **options})(endpoint)
    return app


async def ask(
    app: ASGIApp,
    path: str,
    *,
    method: str = "GET",
    json: Any = None,
    headers: Mapping[str, str] | None = None,
    raising: bool = False,
) -> httpx2.Response:
    """Send a request whose answer ends, and return that answer; `raising`: or raise what the application does."""
    request = httpx2.Request(method, f"http://app{path}", json=json, headers=headers)
    raw_headers = [(name.lower(), value) for name, value in request.headers.raw]
    scope = http_scope(
        method, request.url.path, query_string=request.url.query, headers=raw_headers
    )
    messages: list[Message] = [{"type": "http.request", "body": request.content}]
    sent: list[Message] = []

    async def receive() -> Message:
        if not messages:
            await anyio.sleep_forever()
        return messages.pop()

    async def send(message: Message) -> None:
        sent.append(message)

    with anyio.fail_after(SEAT_BELT_SECONDS):
        try:
            await app(scope, receive, send)
        except Exception:
            if raising:
                raise
    start, *body = sent
    content = b"".join(message.get("body", b"") for message in body)
    return httpx2.Response(start["status"], headers=start["headers"], content=content)


async def fired(app: ASGIApp, path: str, **request: Any) -> list[Fired]:
    """The events that a client's listeners get from a stream that ends."""
    response = await ask(app, path, **request)
    assert response.status_code == 200, response.text
    return read_by_the_standard([response.content]).fired


async def data(app: ASGIApp, path: str, **request: Any) -> list[str]:
    """The data of these events."""
    return [event.data for event in await fired(app, path, **request)]
