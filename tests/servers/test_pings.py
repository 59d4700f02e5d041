"""Pings as they go over the wire, and what silence costs."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from tests.servers.conftest import Serve
from tests.servers.reading import connect, lines_within


@pytest.mark.slow
def test_default_ping_comes_every_15_seconds_of_silence_and_never_between_events(
    serve: Serve,
) -> None:
    server = serve()

    with ThreadPoolExecutor() as threads:
        started = time.monotonic()
        silent, busy, off = threads.map(
            lambda path: lines_within(f"{server.url}{path}", 31.5),
            ["/silent", "/chatter", "/silent?ping=0"],
        )

    pings = [line.came - started for line in silent if line.text.startswith(": ping - ")]
    first, second = pings
    assert 14.5 < first < 15.5
    assert 14.5 < second - first < 15.5
    assert not [line for line in silent if line.text.startswith(("data", "id", "event"))]
    assert len([line for line in busy if line.text == "data: x"]) > 100
    assert not [line for line in busy if line.text.startswith(":")]
    assert off == []


def test_streams_without_pings_use_no_cpu(serve: Serve) -> None:
    server = serve()

    connections = [connect(f"{server.url}/silent?ping=0") for _ in range(200)]
    try:
        before = server.cpu_seconds()
        # Nothing will happen, and that is what is measured: here time is the fact.
        time.sleep(4)
        used = server.cpu_seconds() - before
    finally:
        for connection in connections:
            connection.close()

    # uvicorn itself looks at its clock ten times a second.
    assert used < 0.2, f"{used:.2f} s of CPU in 4 s of silence"
