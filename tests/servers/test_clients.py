"""Streams as httpx2, Node's `eventsource` package and a browser's `EventSource` read them."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

import pytest
from playwright.sync_api import Page
from tests.servers.conftest import Serve
from tests.servers.reading import ASSORTED, hear, sse
from tests.servers.serving import Program, node_script, until

Read = Callable[..., list[tuple[str, str, str]]]
"""Reads so many events of a path: type, data and last event id of each; it `hear`s each in a file."""

TYPES = ["größe", "json", "empty"]
LISTEN = """([url, types]) => {
    window.got = [];
    window.source = new EventSource(url);
    for (const type of ["message", ...types]) {
        source.addEventListener(type, (event) => got.push([event.type, event.data, event.lastEventId]));
    }
}"""


def read_by_httpx2(_: object, url: str, count: int, heard: Path) -> list[tuple[str, str, str]]:
    got = []
    with sse(url) as source:
        for event in islice(source, count):
            got.append((event.event, event.data, event.id))
            hear(heard, len(got))
    return got


def read_by_node(_: object, url: str, count: int, heard: Path) -> list[tuple[str, str, str]]:
    with node_script("read.mjs", url, str(count), *TYPES) as node:
        return events_printed(node)


def events_printed(running: Program) -> list[tuple[str, str, str]]:
    running.wait_for_line('"kind":"done"')
    told: list[dict[str, Any]] = [json.loads(line) for line in running.lines]
    return [(each["type"], each["data"], each["id"]) for each in told if each["kind"] == "event"]


def read_by_chromium(page: Page, url: str, count: int, heard: Path) -> list[tuple[str, str, str]]:
    page.goto(urljoin(url, "/blank"))
    page.evaluate(LISTEN, [url, TYPES])
    for number in range(1, count + 1):
        page.wait_for_function("count => got.length >= count", arg=number)
        hear(heard, number)
    got: list[list[str]] = page.evaluate("() => { source.close(); return got; }")
    return [(kind, data, event_id) for kind, data, event_id in got[:count]]


@pytest.fixture(params=[read_by_httpx2, read_by_node, read_by_chromium])
def read(request: pytest.FixtureRequest, shared: Serve, tmp_path: Path) -> Read:
    heard = tmp_path / "heard"
    page = request.getfixturevalue("page") if request.param is read_by_chromium else None

    def read_path(path: str, count: int) -> list[tuple[str, str, str]]:
        found: list[tuple[str, str, str]] = request.param(
            page, f"{shared().url}{path}&heard={heard}", count, heard
        )
        return found

    return read_path


@pytest.mark.parametrize(
    "variant",
    ["", "sep=%0A", "sep=%0D", "cut"],
    ids=["as it comes", "LF", "CR", "cut into bytes as a proxy may do"],
)
def test_client_reads_events_of_every_kind(read: Read, variant: str) -> None:
    assert read(f"/assorted?{variant}", len(ASSORTED)) == ASSORTED


def test_client_gets_events_as_they_are_made(read: Read) -> None:
    numbers = [json.loads(data)["number"] for _, data, _ in read("/paced?count=4", 4)]

    assert numbers == list(range(4))


def test_node_comes_back_with_the_last_id_after_the_time_we_gave(serve: Serve) -> None:
    """Its own time would be 3 seconds for each: those that got other times come in their order."""
    server = serve()

    with (
        node_script("read.mjs", f"{server.url}/resuming?retry=6000", "5") as slow,
        node_script("read.mjs", f"{server.url}/resuming?retry=300", "5") as quick,
    ):
        for each in (slow, quick):
            assert [data for _, data, _ in events_printed(each)] == list("01234")
    came = server.journal("came", count=4)

    back = [(each["last_event_id"], each["retry"]) for each in came[2:]]
    assert back == [("2", 300), ("2", 6000)]


def test_chromium_comes_back_with_the_last_id_after_the_time_we_gave(
    serve: Serve, page: Page
) -> None:
    """Its own time would be 3 seconds for each: those that got other times come in their order."""
    server = serve()

    page.goto(f"{server.url}/blank")
    page.evaluate(
        "window.sources = [6000, 300].map(retry => new EventSource(`/resuming?retry=${retry}`))"
    )

    def back() -> list[tuple[str, int]]:
        came = server.journal("came", seconds=0)
        return [(each["last_event_id"], each["retry"]) for each in came if each["last_event_id"]]

    assert until(lambda: ("2", 6000) in back())
    page.evaluate("sources.forEach(source => source.close())")
    assert back()[0] == ("2", 300)


def test_page_that_is_closed_ends_its_stream(serve: Serve, page: Page) -> None:
    server = serve()

    page.goto(f"{server.url}/blank")
    page.evaluate(LISTEN, ["/asleep", []])
    page.wait_for_function("got.length >= 1")
    page.close()
    (end,) = server.journal("asleep ended")

    assert end["reason"] == "client"
