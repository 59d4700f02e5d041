"""Streams as a browser's `EventSource` reads them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from playwright.sync_api import Page
from tests.servers.conftest import Serve
from tests.servers.reading import ASSORTED, VARIANTS, hear
from tests.servers.serving import Server, until

LISTEN = """([url, types]) => {
    window.got = [];
    window.source = new EventSource(url);
    for (const type of ["message", ...types]) {
        source.addEventListener(type, (event) => got.push({
            type: event.type, data: event.data, id: event.lastEventId
        }));
    }
}"""


def read(page: Page, server: Server, path: str, count: int, *types: str) -> list[dict[str, Any]]:
    """Let a page listen until it has so many events."""
    page.goto(f"{server.url}/blank")
    page.evaluate(LISTEN, [path, list(types)])
    page.wait_for_function("count => got.length >= count", arg=count)
    got: list[dict[str, Any]] = page.evaluate("() => { source.close(); return got; }")
    return got


@VARIANTS
def test_chromium_reads_events_of_every_kind(serve: Serve, page: Page, variant: str) -> None:
    got = read(page, serve(), f"/assorted?{variant}", 7, "größe", "json", "empty")

    assert [(each["type"], each["data"], each["id"]) for each in got] == ASSORTED


def test_chromium_gets_events_as_they_are_made(serve: Serve, page: Page, tmp_path: Path) -> None:
    heard = tmp_path / "heard"
    server = serve()

    page.goto(f"{server.url}/blank")
    page.evaluate(LISTEN, [f"/paced?heard={heard}", []])
    for number in range(1, 5):
        page.wait_for_function("count => got.length >= count", arg=number)
        hear(heard, number)
    numbers = page.evaluate(
        "() => { source.close(); return got.map(one => JSON.parse(one.data).number); }"
    )

    assert numbers[:4] == list(range(4))


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
