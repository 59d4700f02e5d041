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
from tests.compat.driving import SEAT_BELT_SECONDS, Client, body_of

from sse_starlette import EventSourceResponse, ServerSentEvent

TWO = b"data: 0\r\n\r\ndata: 1\r\n\r\n"


async def two() -> AsyncIterator[dict[str, Any]]:
    for number in range(2):
        yield {"data": number}


async def endpoint(request: Any) -> EventSourceResponse:
    return EventSourceResponse(two())


def test_a_starlette_route_is_read_by_its_test_client() -> None:
    app = Starlette(routes=[Route("/", endpoint)])

    with TestClient(app) as client:
        answer = client.get("/")

    assert answer.status_code == 200
    assert answer.content == TWO
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert answer.headers["cache-control"] == "no-store"


def test_a_test_client_streams_line_by_line() -> None:
    app = Starlette(routes=[Route("/", endpoint)])

    with TestClient(app) as client, client.stream("GET", "/") as answer:
        lines = list(answer.iter_lines())

    assert lines == ["data: 0", "", "data: 1", ""]


def test_a_route_answers_head() -> None:
    app = Starlette(routes=[Route("/", endpoint)])

    with TestClient(app) as client:
        answer = client.head("/")

    assert (answer.status_code, answer.content) == (200, b"")


def test_a_fastapi_route_streams() -> None:
    app = FastAPI()

    @app.get("/")
    async def stream(request: Request) -> EventSourceResponse:
        return EventSourceResponse(two(), sep="\n")

    with TestClient(app) as client:
        assert client.get("/").content == TWO.replace(b"\r\n", b"\n")


def test_fastapi_may_have_it_as_response_class() -> None:
    app = FastAPI()

    @app.get("/", response_class=EventSourceResponse)
    async def stream() -> EventSourceResponse:
        return EventSourceResponse(two())

    with TestClient(app) as client:
        assert client.get("/").content == TWO


def test_openapi_tells_the_content_type() -> None:
    app = FastAPI()

    @app.get("/", response_class=EventSourceResponse)
    async def stream() -> EventSourceResponse:
        return EventSourceResponse(two())

    answers = app.openapi()["paths"]["/"]["get"]["responses"]["200"]
    assert "text/event-stream" in answers["content"]


def test_a_mounted_application_streams() -> None:
    inner = FastAPI()
    inner.add_api_route("/stream", endpoint, response_model=None)
    app = Starlette(routes=[Mount("/inner", app=inner)])

    with TestClient(app) as client:
        assert client.get("/inner/stream?request=1").content == TWO


def test_a_post_is_answered_with_a_stream() -> None:
    async def answer(request: Any) -> EventSourceResponse:
        question = await request.json()

        async def events() -> AsyncIterator[ServerSentEvent]:
            yield ServerSentEvent(question["q"], event="answer")

        return EventSourceResponse(events())

    app = Starlette(routes=[Route("/", answer, methods=["POST"])])

    with TestClient(app) as client:
        assert client.post("/", json={"q": "x"}).content == b"event: answer\r\ndata: x\r\n\r\n"


class Marking(BaseHTTPMiddleware):
    async def dispatch(self, request: Any, call_next: RequestResponseEndpoint) -> Response:
        answer = await call_next(request)
        answer.headers["x-marked"] = "yes"
        return answer


def test_it_streams_through_base_http_middleware() -> None:
    app = Starlette(routes=[Route("/", endpoint)], middleware=[Middleware(Marking)])

    with TestClient(app) as client:
        answer = client.get("/")

    assert answer.content == TWO
    assert answer.headers["x-marked"] == "yes"


def test_gzip_leaves_it_alone() -> None:
    app = Starlette(routes=[Route("/", endpoint)], middleware=[Middleware(GZipMiddleware)])

    with TestClient(app) as client:
        answer = client.get("/", headers={"accept-encoding": "gzip"})

    assert "content-encoding" not in answer.headers
    assert answer.content == TWO


@pytest.mark.anyio
async def test_httpx_reads_a_finite_stream_in_memory() -> None:
    app = Starlette(routes=[Route("/", endpoint)])
    transport = httpx2.ASGITransport(app=app)

    async with httpx2.AsyncClient(transport=transport, base_url="http://test") as client:
        answer = await client.get("/")

    assert answer.content == TWO


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
    app = Starlette(routes=[Route("/", endpoint)])

    assert await asyncio.gather(*(body_of(app) for _ in range(5))) == [TWO] * 5


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


def opened(port: int) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", port), timeout=SEAT_BELT_SECONDS)
    connection.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n\r\n")
    return connection


def read_until(connection: socket.socket, wanted: bytes) -> bytes:
    read = b""
    while wanted not in read:
        chunk = connection.recv(65536)
        assert chunk, read
        read += chunk
    return read


def test_a_real_server_streams_and_stops_when_told_to(tmp_path: Path) -> None:
    with uvicorn(tmp_path) as (process, port), opened(port) as connection:
        read = read_until(connection, b"id: 2\r\ndata: 2\r\n\r\n")

        process.send_signal(signal.SIGTERM)
        while connection.recv(65536):
            pass
        process.wait(SEAT_BELT_SECONDS)

    assert read.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"content-type: text/event-stream; charset=utf-8\r\n" in read
    assert b"id: 0\r\ndata: 0\r\n\r\n" in read


def test_the_body_that_a_real_server_stops_is_complete(tmp_path: Path) -> None:
    with uvicorn(tmp_path) as (process, port), opened(port) as connection:
        read = read_until(connection, b"id: 2\r\n")

        process.send_signal(signal.SIGTERM)
        while chunk := connection.recv(65536):
            read += chunk
        process.wait(SEAT_BELT_SECONDS)

    assert read.endswith(b"0\r\n\r\n")
