"""The kit streams from apps that don't use this package, too."""

from __future__ import annotations

from collections.abc import AsyncIterator

import anyio
import anyio.lowlevel
import pytest
from fastapi import FastAPI
from fastapi.sse import EventSourceResponse as FastAPIEventSourceResponse
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route
from tests.kit.apps import numbers

from sse_starlette import EventSourceResponse
from sse_starlette.testing import connect

pytestmark = pytest.mark.anyio


async def test_starlettes_own_streaming_response_can_be_tested() -> None:
    ended = []

    async def numbers() -> AsyncIterator[str]:
        try:
            for number in range(3):
                yield f"id: {number}\ndata: {number}\n\n"
            await anyio.sleep_forever()
        finally:
            ended.append(True)

    async def events(request: Request) -> Response:
        return StreamingResponse(numbers(), media_type="text/event-stream")

    app = Starlette(routes=[Route("/events", events)])
    async with connect(app, "/events") as stream:
        assert [(await stream.next()).data for _ in range(3)] == ["0", "1", "2"]
        stream.assert_contiguous()

    assert ended == [True]


async def test_fastapis_own_event_source_response_can_be_tested() -> None:
    app = FastAPI()
    ended = []

    @app.get("/events", response_class=FastAPIEventSourceResponse)
    async def events() -> AsyncIterator[dict[str, int]]:
        try:
            for number in range(3):
                yield {"number": number}
            await anyio.sleep_forever()
        finally:
            ended.append(True)

    async with connect(app, "/events") as stream:
        for number in range(3):
            await stream.expect(event="message", data={"number": number})
        stream.assert_headers()

    assert ended == [True]


# Starlette's middleware leaves a generator to the garbage collector, and trio says so.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
async def test_middleware_in_between_changes_nothing() -> None:
    async def pass_on(request: Request, call_next: RequestResponseEndpoint) -> Response:
        return await call_next(request)

    async def events(request: Request) -> Response:
        return EventSourceResponse(numbers(3))

    app = Starlette(
        routes=[Route("/", events)], middleware=[Middleware(BaseHTTPMiddleware, dispatch=pass_on)]
    )
    async with connect(app) as stream:
        assert [(await stream.next()).data for _ in range(3)] == ["0", "1", "2"]
