"""Streams through nginx as it comes: buffering, and 20 seconds of patience with a silent server."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest
from playwright.sync_api import Page
from tests.servers import serving
from tests.servers.conftest import Nginx, Serve
from tests.servers.reading import arrivals, connect, lines_until, sse
from tests.servers.serving import curl


@pytest.mark.parametrize("http", ["h11", "httptools"])
@pytest.mark.parametrize("http_version", ["1.0", "1.1"])
def test_frames_come_through_nginx_one_by_one(
    shared: Serve, nginx: Nginx, tmp_path: Path, http_version: str, http: str
) -> None:
    """nginx asks with 1.0 by default; h11 then answers without chunks, which nginx would collect."""
    url = nginx(shared("streams:app", "--http", http), http_version)

    heard = tmp_path / "heard"
    with sse(f"{url}/paced?heard={heard}") as source:
        events = arrivals(source, heard)

    assert [event.number for event in events] == list(range(4))


def test_body_that_came_through_nginx_is_complete(nginx: Nginx) -> None:
    with serving.serve("streams:app") as server:
        done = curl(f"{nginx(server)}/failing")

    assert done.returncode == 0
    assert done.stdout.count(b"data: {") == 3


def test_client_that_leaves_nginx_ends_the_stream(serve: Serve, nginx: Nginx) -> None:
    server = serve()
    url = nginx(server)

    with sse(f"{url}/asleep") as source:
        next(iter(source))
    (end,) = server.journal("asleep ended")

    assert end["reason"] == "client"


@pytest.mark.slow
def test_idle_stream_lives_behind_nginx_by_its_pings(shared: Serve, nginx: Nginx) -> None:
    """nginx gives up after 20 seconds without a byte."""
    url = nginx(shared())

    with closing(connect(f"{url}/silent")) as connection:
        lines = lines_until(connection, 3, beginning=": ping - ")

    assert len(lines) == 3


@pytest.mark.parametrize("http", ["h11", "httptools"])
def test_browser_brings_the_longest_id_back_through_nginx(
    serve: Serve, nginx: Nginx, page: Page, http: str
) -> None:
    server = serve("longest_id:app", "--http", http)
    url = nginx(server)

    page.goto(f"{url}/blank")
    page.evaluate("globalThis.source = new EventSource('/once')")
    came, again = server.journal("came", count=2)

    assert not came["same"]
    assert again["same"]
    assert again["positions"] == 200
    assert 3_900 < again["length"] < 4_096
