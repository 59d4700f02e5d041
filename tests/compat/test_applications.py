"""Whole applications: Starlette, FastAPI, middleware, clients in memory, and a real server."""

from __future__ import annotations

import asyncio
import re
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
from fastapi import FastAPI, Request
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint
from starlette.middleware.gzip import GZipMiddleware
from starlette.responses import Response
from starlette.routing import Mount, Route
from starlette.testclient import TestClient
from tests.compat.differences import COMPLETED, STREAMING_RESPONSE
from tests.compat.driving import SEAT_BELT_SECONDS, Client, body_of

from sse_starlette import EventSourceResponse, ServerSentEvent

TWO = b"data: 0\r\n\r\ndata: 1\r\n\r\n"


async def two() -> AsyncIterator[dict[str, Any]]:
    for number in range(2):
        yield {"data": number}


async def endpoint(request: Request) -> EventSourceResponse:
    return EventSourceResponse(two())


async def answer_to_a_post(request: Request) -> EventSourceResponse:
    question = await request.json()
    return EventSourceResponse([ServerSentEvent(question["q"], event="answer")])


class Marking(BaseHTTPMiddleware):
    async def dispatch(self, request: Any, call_next: RequestResponseEndpoint) -> Response:
        answer = await call_next(request)
        answer.headers["x-marked"] = "yes"
        return answer


def starlette(*middleware: Any) -> Starlette:
    return Starlette(routes=[Route("/", endpoint)], middleware=[*map(Middleware, middleware)])


fastapi = FastAPI()
fastapi.add_api_route("/", endpoint, response_model=None)
fastapi.add_api_route("/class", endpoint, response_class=EventSourceResponse)
fastapi.add_api_route("/ask", answer_to_a_post, methods=["POST"], response_model=None)


@pytest.mark.parametrize(
    ("app", "path"),
    [
        pytest.param(starlette(), "/", id="a Starlette route"),
        pytest.param(starlette(Marking), "/", id="through BaseHTTPMiddleware"),
        pytest.param(starlette(GZipMiddleware), "/", id="gzip leaves it alone"),
        pytest.param(fastapi, "/", id="a FastAPI route"),
        pytest.param(fastapi, "/class", id="as FastAPI's response class"),
        pytest.param(Starlette(routes=[Mount("/in", fastapi)]), "/in/", id="a mounted application"),
    ],
)
def test_an_application_streams_to_its_test_client(app: Any, path: str) -> None:
    with TestClient(app) as client:
        answer = client.get(path, headers={"accept-encoding": "gzip"})
        with client.stream("GET", path) as streamed:
            lines = list(streamed.iter_lines())

    assert (answer.status_code, answer.content) == (200, TWO)
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert answer.headers["cache-control"] == "no-store"
    assert "content-encoding" not in answer.headers
    assert lines == ["data: 0", "", "data: 1", ""]


def test_middleware_adds_its_headers_and_a_route_answers_head() -> None:
    with TestClient(starlette(Marking)) as client:
        assert client.get("/").headers["x-marked"] == "yes"
        answer = client.head("/")

    assert (answer.status_code, answer.content) == (200, b"")


@STREAMING_RESPONSE
def test_openapi_tells_the_content_type() -> None:
    answers = fastapi.openapi()["paths"]["/class"]["get"]["responses"]["200"]

    assert "text/event-stream" in answers["content"]


def test_a_post_is_answered_with_a_stream() -> None:
    with TestClient(fastapi) as client:
        assert client.post("/ask", json={"q": "x"}).content == b"event: answer\r\ndata: x\r\n\r\n"


@pytest.mark.anyio
async def test_httpx_reads_a_finite_stream_in_memory() -> None:
    transport = httpx2.ASGITransport(app=starlette())

    async with httpx2.AsyncClient(transport=transport, base_url="http://test") as client:
        assert (await client.get("/")).content == TWO


@pytest.mark.anyio
async def test_the_source_may_ask_whether_the_client_is_there() -> None:
    async def polling(request: Any) -> EventSourceResponse:
        async def events() -> AsyncIterator[str]:
            while not await request.is_disconnected():
                yield "here"
                await asyncio.sleep(0.001)

        return EventSourceResponse(events())

    async with Client(Starlette(routes=[Route("/", polling)])) as client:
        await client.until(b"data: here", 3)
        client.leave()
        await client.end()


@pytest.mark.anyio
async def test_several_streams_of_one_application_are_apart() -> None:
    assert await asyncio.gather(*(body_of(starlette()) for _ in range(5))) == [TWO] * 5


def test_each_new_event_loop_has_streams() -> None:
    for _ in range(3):
        assert asyncio.run(body_of(EventSourceResponse(two()))) == TWO


# A real server

PROGRAM = """
import asyncio
from sse_starlette.sse import EventSourceResponse

async def events():
    number = 0
    while True:
        yield {"id": str(number), "data": number}
        number += 1
        await asyncio.sleep(0.01)

async def app(scope, receive, send):
    if scope["type"] == "http":
        await EventSourceResponse(events())(scope, receive, send)
"""


@contextmanager
def uvicorn(folder: Path) -> Iterator[tuple[subprocess.Popen[str], int]]:
    (folder / "program.py").write_text(PROGRAM, "utf-8")
    command = [sys.executable, "-m", "uvicorn", "program:app", "--port", "0", "--no-access-log"]
    with subprocess.Popen(command, cwd=folder, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            found = None
            while found is None:
                line = process.stderr.readline()
                assert line, "uvicorn has ended"
                found = re.search(r"running on http://127\.0\.0\.1:(\d+)", line)
            yield process, int(found[1])
        finally:
            process.kill()


def read_from_a_server_that_stops(folder: Path) -> bytes:
    """Read a stream until its third event, have the server stop, and read the rest."""
    with (
        uvicorn(folder) as (process, port),
        socket.create_connection(("127.0.0.1", port), timeout=SEAT_BELT_SECONDS) as connection,
    ):
        connection.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        read = b""
        while b"id: 2\r\ndata: 2\r\n\r\n" not in read:
            chunk = connection.recv(65536)
            assert chunk, read
            read += chunk
        process.send_signal(signal.SIGTERM)
        while chunk := connection.recv(65536):
            read += chunk
        process.wait(SEAT_BELT_SECONDS)
    return read


def test_a_real_server_streams_and_stops_when_told_to(tmp_path: Path) -> None:
    read = read_from_a_server_that_stops(tmp_path)

    assert read.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"content-type: text/event-stream; charset=utf-8\r\n" in read
    assert b"id: 0\r\ndata: 0\r\n\r\n" in read


@COMPLETED
def test_the_body_that_a_real_server_stops_is_complete(tmp_path: Path) -> None:
    assert read_from_a_server_that_stops(tmp_path).endswith(b"0\r\n\r\n")
