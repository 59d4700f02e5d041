"""Streams through nginx as it comes: buffering, and 20 seconds of patience with a silent server."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from tests.servers.conftest import Serve
from tests.servers.reading import (
    arrivals,
    connect,
    lines_until,
    sse,
)
from tests.servers.serving import Server, curl

Nginx = Callable[[Server, str], str]


@pytest.mark.parametrize("http", ["h11", "httptools"])
@pytest.mark.parametrize("http_version", ["1.0", "1.1"])
def test_frames_come_through_nginx_one_by_one(
    serve: Serve, nginx: Nginx, tmp_path: Path, http_version: str, http: str
) -> None:
    """nginx asks with 1.0 by default; h11 then answers without chunks, which nginx would collect."""
    url = nginx(serve("streams:app", "--http", http), http_version)

    heard = tmp_path / "heard"
    with sse(f"{url}/paced?heard={heard}") as source:
        events = arrivals(source, heard)

    assert [event.number for event in events] == list(range(4))


def test_body_that_came_through_nginx_is_complete(serve: Serve, nginx: Nginx) -> None:
    url = nginx(serve(), "1.1")

    done = curl(f"{url}/failing")

    assert done.returncode == 0
    assert done.stdout.count(b"data: {") == 3


def test_client_that_leaves_nginx_ends_the_stream(serve: Serve, nginx: Nginx) -> None:
    server = serve()
    url = nginx(server, "1.1")

    with sse(f"{url}/asleep") as source:
        next(iter(source))
    (end,) = server.journal("asleep ended")

    assert end["reason"] == "client"


@pytest.mark.slow
def test_idle_stream_lives_behind_nginx_by_its_pings(serve: Serve, nginx: Nginx) -> None:
    """nginx gives up after 20 seconds without a byte."""
    url = nginx(serve(), "1.1")

    with closing(connect(f"{url}/silent")) as connection:
        lines = lines_until(connection, 3, beginning=": ping - ")

    assert len(lines) == 3
