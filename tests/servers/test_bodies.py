"""Sources that read the body of their request, or ask whether the client is there, on each server."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import httpx2
import pytest
from tests.servers import serving
from tests.servers.going_down import Running, make_certificate

ASGI = "bodies:app"


@dataclass(frozen=True)
class ServerCase:
    name: str
    command: tuple[str, ...]
    http2: bool = False
    tells_of_leaving: bool = True
    """What it says when a source asks is true; docs/servers.md says where it isn't."""

    def __str__(self) -> str:
        return self.name


TLS = ("--certfile", "{folder}/cert.pem", "--keyfile", "{folder}/key.pem")
UVICORN = ("-m", "uvicorn", "--port", "0", ASGI)
GUNICORN = ("-m", "gunicorn", "--bind", "127.0.0.1:0")
HYPERCORN = ("-m", "hypercorn", "--bind", "127.0.0.1:{port}")
CASES = (
    ServerCase("uvicorn-h11", (*UVICORN, "--http", "h11")),
    ServerCase("uvicorn-httptools", (*UVICORN, "--http", "httptools")),
    ServerCase("hypercorn-asyncio", (*HYPERCORN, ASGI)),
    ServerCase("hypercorn-trio", (*HYPERCORN, "-k", "trio", ASGI), tells_of_leaving=False),
    ServerCase("hypercorn-http2", (*HYPERCORN, *TLS, ASGI), http2=True),
    ServerCase("granian", ("-m", "granian", "--interface", "asgi", "--port", "{port}", ASGI)),
    ServerCase("daphne", ("-m", "daphne", "-p", "0", ASGI)),
    ServerCase("gunicorn-asgi", (*GUNICORN, "-k", "asgi", ASGI), tells_of_leaving=False),
    ServerCase("gunicorn-uvicorn", (*GUNICORN, "-k", "uvicorn.workers.UvicornWorker", ASGI)),
)


@contextmanager
def started(case: ServerCase, folder: Path) -> Iterator[Running]:
    if case.http2:
        make_certificate(folder)
    names = {"folder": str(folder), "port": str(serving.free_port())}
    command = [sys.executable, *(part.format(**names) for part in case.command)]
    with Running(command, folder) as server:
        yield server


def asking(server: Running, case: ServerCase) -> httpx2.Client:
    return httpx2.Client(
        base_url=server.url, http2=case.http2, verify=False, trust_env=False, timeout=60
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


@pytest.mark.parametrize("case", CASES, ids=str)
def test_source_reads_the_body_of_its_request(case: ServerCase, tmp_path: Path) -> None:
    with started(case, tmp_path) as server, asking(server, case) as client:
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


@pytest.mark.parametrize("case", [case for case in CASES if case.tells_of_leaving], ids=str)
def test_source_that_asks_whether_its_client_is_there_goes_on_until_it_leaves(
    case: ServerCase, tmp_path: Path
) -> None:
    asks: list[dict[str, Any]] = [
        {"method": "GET", "url": "/poll"},
        {"method": "POST", "url": "/poll-after-the-body", "json": {"text": ""}},
    ]
    with started(case, tmp_path) as server:
        for ask in asks * 3:
            before = len(server.notes("finally"))
            # One client for each, that closes its connection: it resets no stream of HTTP/2.
            with asking(server, case) as client, client.stream(**ask) as response:
                events = (line for line in response.iter_lines() if line.startswith("data:"))
                for event in range(1, 31):
                    assert next(events) == f"data: {event}"
                assert len(server.notes("finally")) == before
            assert serving.until(partial(more_than, before, server), seconds=60)


@pytest.mark.parametrize("case", [case for case in CASES if "uvicorn" in case.name], ids=str)
def test_client_that_leaves_before_the_first_event_is_noticed_when_its_body_has_been_read(
    case: ServerCase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where that can't be seen, `receive` is left to the source for so long that this test would fail."""
    monkeypatch.setenv("BODY_SECONDS", "1000")
    with started(case, tmp_path) as server:
        for path in ("/api/parsed/and-silent", "/read-and-silent") * 2:
            before, read = len(server.notes("finally")), len(server.notes("read"))
            ask: dict[str, Any] = {
                "content": in_parts(json.dumps({"text": "x" * 100_000}).encode(), 3, 0.1),
                "headers": {"content-type": "application/json"},
            }
            with (
                asking(server, case) as client,
                client.stream("POST", path, **ask) as response,
            ):
                assert response.status_code == 200
                if path == "/read-and-silent":
                    assert serving.until(lambda read=read: len(server.notes("read")) > read)
                assert len(server.notes("finally")) == before
            assert serving.until(partial(more_than, before, server))


@pytest.mark.parametrize("case", CASES, ids=str)
def test_server_goes_down_though_a_client_has_left_a_source_that_is_blocked_for_ever(
    case: ServerCase, tmp_path: Path
) -> None:
    with started(case, tmp_path) as server:
        with asking(server, case) as client, client.stream("GET", "/block") as response:
            assert next(response.iter_lines()) == "data: a"
        assert serving.until(lambda: server.notes("left"))

        os.kill(server.pid, signal.SIGTERM)
        server.wait(serving.READY_SECONDS)

        # A worker that is killed because it doesn't end says nothing. granian doesn't wait for what has
        # no connection any more.
        if case.name != "granian":
            assert [one["reason"] for one in server.notes("closed")] == ["client"]
