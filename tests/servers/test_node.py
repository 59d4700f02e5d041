"""Streams as Node's `eventsource` package reads them."""

from __future__ import annotations

import json
from typing import Any

import pytest
from tests.servers.conftest import Serve
from tests.servers.reading import ASSORTED, VARIANTS
from tests.servers.serving import Program, node_script


def printed(running: Program) -> list[dict[str, Any]]:
    running.wait_for_line('"kind":"done"')
    return [json.loads(line) for line in running.lines]


@VARIANTS
def test_node_reads_events_of_every_kind(serve: Serve, variant: str) -> None:
    url = f"{serve().url}/assorted?{variant}"

    with node_script("read.mjs", url, "7", "größe", "json", "empty") as node:
        told = printed(node)

    got = [(each["type"], each["data"], each["id"]) for each in told if each["kind"] == "event"]
    assert got == ASSORTED


def test_node_gets_events_as_they_are_made(serve: Serve) -> None:
    server = serve()

    with node_script("read.mjs", f"{server.url}/paced?count=4", "4") as node:
        told = printed(node)

    events = [each for each in told if each["kind"] == "event"]
    made = [json.loads(each["data"])["made_at"] for each in events]
    late = [each["at"] - next_made for each, next_made in zip(events, made[1:], strict=False)]
    assert max(late) < 0, late


@pytest.mark.parametrize(("retry", "at_least", "at_most"), [(500, 0.3, 2.5), (4500, 4, 9)])
def test_node_comes_back_with_the_last_id_after_the_time_we_gave(
    serve: Serve, retry: int, at_least: float, at_most: float
) -> None:
    """Its own time would be 3 seconds."""
    server = serve()

    with node_script("read.mjs", f"{server.url}/resuming?retry={retry}", "5") as node:
        told = printed(node)
    came = server.journal("came", count=2)
    went = server.journal("went", count=1)

    assert [each["data"] for each in told if each["kind"] == "event"] == list("01234")
    assert [each["last_event_id"] for each in came] == [None, "2"]
    assert at_least < came[1]["at"] - went[0]["at"] < at_most
