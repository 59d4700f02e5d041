"""What a stream that is to end says at last, and what its source and its application see of it."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import anyio
import pytest
from starlette.applications import Starlette
from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from tests.unit.driving import drive, settled

from sse_starlette import EventSourceResponse, ServerSentEvent, drain
from sse_starlette._shutdown import AppStatus
from sse_starlette.testing import connect

pytestmark = pytest.mark.anyio


# Farewell


async def asleep() -> AsyncIterator[dict[str, str]]:
    yield {"data": "hello"}
    await anyio.sleep_forever()


async def last_frames(**options: Any) -> str:
    """What a client gets between its last event and the end of the body."""
    async with drive(EventSourceResponse(asleep(), **options)) as exchange:
        await exchange.contains("hello")
        drain()
        await exchange.returns()
    assert exchange.complete
    return exchange.body.decode().partition("data: hello\r\n\r\n")[2]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, ""),
        ({"farewell": {"event": "e", "data": "bye"}}, "event: e\r\ndata: bye\r\n\r\n"),
        ({"farewell": ServerSentEvent("bye", id=7)}, "id: 7\r\ndata: bye\r\n\r\n"),
        ({"farewell": "bye"}, "data: bye\r\n\r\n"),
        ({"farewell": b"data: raw\n\n"}, "data: raw\n\n"),
        ({"farewell": lambda: {"data": "just now"}}, "data: just now\r\n\r\n"),
        ({"shutdown_retry_ms": (500, 500)}, "retry: 500\r\n\r\n"),
    ],
    ids=["none", "dict", "event", "text", "bytes", "function", "a retry alone"],
)
async def test_farewell_reaches_the_client_before_the_stream_ends(
    options: dict[str, Any], said: str
) -> None:
    assert await last_frames(**options) == said


def raises() -> str:
    raise RuntimeError("no words")


@pytest.mark.parametrize("farewell", [raises, lambda: {"unknown": 1}])
async def test_farewell_that_cannot_be_made_is_logged_and_the_body_completed(
    farewell: Any, caplog: pytest.LogCaptureFixture
) -> None:
    assert await last_frames(farewell=farewell) == ""
    assert [(each.name, each.levelno) for each in caplog.records if each.name != "asyncio"] == [
        ("sse_starlette.sse", logging.ERROR)
    ]


async def test_clients_are_told_to_wait_for_times_that_differ() -> None:
    retries = []
    for _ in range(20):
        response = EventSourceResponse(
            asleep(), shutdown_retry_ms=(1_000, 1_000_000), farewell="bye"
        )
        async with connect(response) as stream:
            await stream.expect(data="hello")
            drain()
            await stream.expect(data="bye")
            retries.append(stream.retry_ms)

    assert all(1_000 <= each <= 1_000_000 for each in retries)
    assert len(set(retries)) > 10


# The response as a whole


class Worker:
    """A source that finishes its work when it's told to, and notes what befell it."""

    def __init__(self, left: int) -> None:
        self.going_down = anyio.Event()
        self.seen: list[str] = []
        self._left = left

    async def events(self) -> AsyncIterator[dict[str, int | str]]:
        try:
            yield {"data": "hello"}
            await self.going_down.wait()
            for left in range(self._left):
                await anyio.lowlevel.checkpoint()
                yield {"data": left}
            self.seen.append("finished")
        except anyio.get_cancelled_exc_class():
            self.seen.append("cancelled")
            raise
        finally:
            self.seen.append("finally")


@pytest.mark.parametrize(
    ("grace", "heard", "seen"),
    [
        pytest.param(60, ["0", "1", "2", "bye"], ["finished", "finally"], id="finishes"),
        pytest.param(0, ["bye"], ["cancelled", "finally"], id="is cancelled without grace"),
    ],
)
async def test_source_that_listens_to_shutdown_event(
    grace: float, heard: list[str], seen: list[str]
) -> None:
    worker = Worker(left=3)
    reasons: list[str] = []
    response = EventSourceResponse(
        worker.events(),
        shutdown_event=worker.going_down,
        shutdown_grace_period=grace,
        farewell="bye",
        on_close=reasons.append,
    )

    async with connect(response) as stream:
        await stream.expect(data="hello")
        await settled()
        drain()
        assert [event.data async for event in stream] == heard

    assert worker.going_down.is_set()
    assert worker.seen == seen
    assert reasons == ["shutdown"]


async def test_event_that_can_not_be_set_keeps_no_stream_from_its_end(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Broken:
        def set(self) -> None:
            raise ValueError("not so")

    events: list[Any] = [None, Broken(), Broken(), None]
    responses = [
        EventSourceResponse(Worker(left=0).events(), shutdown_event=event, farewell="bye")
        for event in events
    ]
    async with AsyncExitStack() as stack:
        streams = [await stack.enter_async_context(connect(each)) for each in responses]
        for stream in streams:
            await stream.expect(data="hello")
        drain()
        for stream in streams:
            assert [event.data async for event in stream] == ["bye"]

    assert caplog.text.count("set() of shutdown_event raised") == 2
    assert caplog.text.count("ValueError: not so") == 2


async def test_stream_that_begins_while_streams_are_to_end_ends_at_once() -> None:
    reasons: list[str] = []
    AppStatus.should_exit = True
    try:
        response = EventSourceResponse(asleep(), farewell="bye", on_close=reasons.append)
        async with connect(response) as stream:
            assert [event.data async for event in stream] == ["bye"]
    finally:
        AppStatus.should_exit = False

    assert reasons == ["shutdown"]


async def test_stream_behind_middleware_ends_properly() -> None:
    async def pass_on(request: Request, call_next: RequestResponseEndpoint) -> Response:
        return await call_next(request)

    async def route(request: Request) -> EventSourceResponse:
        return EventSourceResponse(asleep(), farewell="bye")

    app = BaseHTTPMiddleware(Starlette(routes=[Route("/", route)]), dispatch=pass_on)

    async with connect(app) as stream:
        await stream.expect(data="hello")
        drain()
        assert [event.data async for event in stream] == ["bye"]


async def test_sync_source_ends_too() -> None:
    endless = EventSourceResponse(iter(int, 1), farewell="bye")
    async with connect(endless) as stream:
        await stream.expect(data="0")
        drain()
        await stream.until_ended()

    assert {event.data for event in stream.events[:-1]} == {"0"}
    assert stream.events[-1].data == "bye"
