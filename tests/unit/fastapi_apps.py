"""Requests to FastAPI applications, in memory, and what their streams say."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import anyio
import httpx2
from starlette.types import ASGIApp
from tests.unit.driving import SEAT_BELT_SECONDS

from sse_starlette.fastapi import EventSourceResponse, FastAPI
from sse_starlette.testing import Event, EventStreamParser, StreamingASGITransport


def app_of(endpoint: Callable[..., Any], **options: Any) -> FastAPI:
    """An application that streams what this endpoint yields or returns."""
    app = FastAPI()
    app.get("/", **{"response_class": EventSourceResponse, **options})(endpoint)
    return app


async def ask(
    app: ASGIApp, path: str, *, method: str = "GET", raising: bool = False, **request: Any
) -> httpx2.Response:
    """Send a request whose answer ends, and return that answer; `raising`: or raise what the application does."""
    transport = StreamingASGITransport(app, raise_app_exceptions=raising)
    with anyio.fail_after(SEAT_BELT_SECONDS):
        async with httpx2.AsyncClient(transport=transport, base_url="http://app") as client:
            return await client.request(method, path, **request)


async def fired(app: ASGIApp, path: str, **request: Any) -> list[Event]:
    """The events that a client's listeners get from a stream that ends."""
    response = await ask(app, path, **request)
    assert response.status_code == 200, response.text
    return [one for one in EventStreamParser().feed(response.content) if isinstance(one, Event)]


async def data(app: ASGIApp, path: str, **request: Any) -> list[str]:
    """The data of these events."""
    return [event.data for event in await fired(app, path, **request)]
