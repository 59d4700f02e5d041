"""Streams through nginx as it comes: buffering, and 20 seconds of patience with a silent server."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
from tests.servers.conftest import Serve
from tests.servers.reading import (
    arrivals,
    assert_each_came_before_the_next_was_made,
    lines_within,
    sse,
)
from tests.servers.serving import Server, curl

Nginx = Callable[[Server, str], str]


@pytest.mark.parametrize("http", ["h11", "httptools"])
@pytest.mark.parametrize("http_version", ["1.0", "1.1"])
def test_frames_come_through_nginx_one_by_one(
    serve: Serve, nginx: Nginx, http_version: str, http: str
) -> None:
    """nginx asks with 1.0 by default; h11 then answers without chunks, which nginx would collect."""
    url = nginx(serve("streams:app", "--http", http), http_version)

    with sse(f"{url}/paced") as source:
        events = arrivals(source)

    assert len(events) == 4
    assert_each_came_before_the_next_was_made(events)


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
        left = time.monotonic()
    (cleanup,) = server.journal("cleanup completed")

    assert cleanup["at"] - left < 1


@pytest.mark.slow
def test_idle_stream_lives_through_65_seconds_behind_nginx(serve: Serve, nginx: Nginx) -> None:
    """nginx gives up after 20 seconds without a byte."""
    url = nginx(serve(), "1.1")

    lines = lines_within(f"{url}/silent", 65)

    pings = [line for line in lines if line.text.startswith(": ping - ")]
    assert len(pings) == 4
