"""Streams as a browser's `EventSource` reads them."""

from __future__ import annotations

import json
from typing import Any

import pytest
from playwright.sync_api import Page
from tests.servers.conftest import Serve
from tests.servers.reading import ASSORTED, VARIANTS
from tests.servers.serving import Server

LISTEN = """([url, types]) => {
    window.got = [];
    window.source = new EventSource(url);
    for (const type of ["message", ...types]) {
        source.addEventListener(type, (event) => got.push({
            type: event.type, data: event.data, id: event.lastEventId, at: Date.now() / 1000,
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


def test_chromium_gets_events_as_they_are_made(serve: Serve, page: Page) -> None:
    got = read(page, serve(), "/paced?count=4", 4)

    made = [json.loads(each["data"])["made_at"] for each in got]
    late = [each["at"] - next_made for each, next_made in zip(got, made[1:], strict=False)]
    assert max(late) < 0, late


@pytest.mark.parametrize(("retry", "at_least", "at_most"), [(500, 0.3, 2.5), (4500, 4, 9)])
def test_chromium_comes_back_with_the_last_id_after_the_time_we_gave(
    serve: Serve, page: Page, retry: int, at_least: float, at_most: float
) -> None:
    """Its own time would be 3 seconds."""
    server = serve()

    got = read(page, server, f"/resuming?retry={retry}", 5)
    came = server.journal("came", count=2)
    went = server.journal("went", count=1)

    assert [each["data"] for each in got][:5] == list("01234")
    assert [each["last_event_id"] for each in came][:2] == [None, "2"]
    assert at_least < came[1]["at"] - went[0]["at"] < at_most


def test_page_that_is_closed_ends_its_stream(serve: Serve, page: Page) -> None:
    server = serve()

    page.goto(f"{server.url}/blank")
    page.evaluate(LISTEN, ["/asleep", []])
    page.wait_for_function("got.length >= 1")
    page.close()
    (end,) = server.journal("asleep ended")

    assert end["reason"] == "client"
