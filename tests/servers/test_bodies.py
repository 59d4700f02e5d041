"""Sources that read the body of their request, or ask whether the client is there, on each server."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import httpx2
import pytest
from tests.servers import serving
from tests.servers.going_down import (
    TLS,
    Running,
    daphne,
    granian,
    gunicorn,
    hypercorn,
    started,
    uvicorn,
)

ASGI = "bodies:app"


WORKER = "uvicorn.workers.UvicornWorker"
CASES = {
    "uvicorn-h11": uvicorn("", "--http", "h11", app=ASGI),
    "uvicorn-httptools": uvicorn("", "--http", "httptools", app=ASGI),
    "hypercorn-asyncio": hypercorn("", app=ASGI),
    "hypercorn-trio": hypercorn("", "-k", "trio", app=ASGI),
    "hypercorn-http2": hypercorn("", *TLS, app=ASGI, tls=True),
    "granian": granian(1, app=ASGI),
    "daphne": daphne(ASGI),
    "gunicorn-asgi": gunicorn("", "-k", "asgi", app=ASGI),
    "gunicorn-uvicorn": gunicorn("", "-k", WORKER, app=ASGI),
}
TELLS_OF_LEAVING = [name for name in CASES if name not in ("hypercorn-trio", "gunicorn-asgi")]
"""What these say when a source asks is true; docs/servers.md says where it isn't."""


def asking(server: Running) -> httpx2.Client:
    return httpx2.Client(
        base_url=server.url,
        http2=server.url.startswith("https"),
        verify=False,
        trust_env=False,
        timeout=60,
    )


def in_parts(body: bytes, parts: int, seconds: float) -> Iterator[bytes]:
    size = -(-len(body) // parts)
    for start in range(0, len(body), size):
        yield body[start : start + size]
        time.sleep(seconds)


def more_than(notes: int, server: Running) -> bool:
    return len(server.notes("finally")) > notes


def answer_to(client: httpx2.Client, path: str, **request: object) -> str:
    response = client.post(path, **request)  # type: ignore[arg-type]
    assert response.status_code == 200
    return response.text


@pytest.mark.parametrize("name", CASES)
def test_source_reads_the_body_of_its_request(name: str, tmp_path: Path) -> None:
    with started(CASES[name], tmp_path) as server, asking(server) as client:
        for size in (5, 1_000_000):
            text = "x" * size
            expected = f"data: {size}\r\n\r\n"
            for path in ("json", "body", "stream", "after-a-wait", "api/json", "api/stream"):
                assert answer_to(client, f"/{path}", json={"text": text}) == expected, path
            assert answer_to(client, "/form", data={"text": text}) == expected
            assert answer_to(client, "/form", files={"text": text.encode()}) == expected
            assert answer_to(client, "/api/parsed/by-fastapi", json={"text": text}) == expected
        body = json.dumps({"text": "y" * 1000}).encode()
        for path in ("json", "stream", "after-a-wait"):
            slowly: Iterator[bytes] = in_parts(body, 5, 0.1)
            headers = {"content-length": str(len(body))} if path == "stream" else {}
            answer = answer_to(client, f"/{path}", content=slowly, headers=headers)
            assert answer == "data: 1000\r\n\r\n", path
        assert not any("Traceback" in line for line in server.lines), server.lines


@pytest.mark.parametrize("name", TELLS_OF_LEAVING)
def test_source_that_asks_whether_its_client_is_there_goes_on_until_it_leaves(
    name: str, tmp_path: Path
) -> None:
    asks: list[dict[str, Any]] = [
        {"method": "GET", "url": "/poll"},
        {"method": "POST", "url": "/poll-after-the-body", "json": {"text": ""}},
    ]
    with started(CASES[name], tmp_path) as server:
        for ask in asks * 3:
            before = len(server.notes("finally"))
            # One client for each, that closes its connection: it resets no stream of HTTP/2.
            with asking(server) as client, client.stream(**ask) as response:
                events = (line for line in response.iter_lines() if line.startswith("data:"))
                for event in range(1, 31):
                    assert next(events) == f"data: {event}"
                assert len(server.notes("finally")) == before
            assert serving.until(partial(more_than, before, server), seconds=60)


@pytest.mark.parametrize("name", [name for name in CASES if "uvicorn" in name])
def test_client_that_leaves_before_the_first_event_is_noticed_when_its_body_has_been_read(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where that can't be seen, `receive` is left to the source for so long that this test would fail."""
    monkeypatch.setenv("BODY_SECONDS", "1000")
    with started(CASES[name], tmp_path) as server:
        for path in ("/api/parsed/and-silent", "/read-and-silent") * 2:
            before, read = len(server.notes("finally")), len(server.notes("read"))
            ask: dict[str, Any] = {
                "content": in_parts(json.dumps({"text": "x" * 100_000}).encode(), 3, 0.1),
                "headers": {"content-type": "application/json"},
            }
            with (
                asking(server) as client,
                client.stream("POST", path, **ask) as response,
            ):
                assert response.status_code == 200
                if path == "/read-and-silent":
                    assert serving.until(lambda read=read: len(server.notes("read")) > read)
                assert len(server.notes("finally")) == before
            assert serving.until(partial(more_than, before, server))


@pytest.mark.parametrize("name", CASES)
def test_server_goes_down_though_a_client_has_left_a_source_that_is_blocked_for_ever(
    name: str, tmp_path: Path
) -> None:
    with started(CASES[name], tmp_path) as server:
        with asking(server) as client, client.stream("GET", "/block") as response:
            assert next(response.iter_lines()) == "data: a"
        assert serving.until(lambda: server.notes("left"))

        os.kill(server.pid, signal.SIGTERM)
        server.wait(serving.READY_SECONDS)

        # A worker that is killed because it doesn't end says nothing. granian doesn't wait for what has
        # no connection any more.
        if name != "granian":
            assert [one["reason"] for one in server.notes("closed")] == ["client"]
