"""Streams as Node's `eventsource` package reads them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

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


def test_node_gets_events_as_they_are_made(serve: Serve, tmp_path: Path) -> None:
    server = serve()
    heard = tmp_path / "heard"

    with node_script("read.mjs", f"{server.url}/paced?heard={heard}", "4") as node:
        told = printed(node)

    events = [each for each in told if each["kind"] == "event"]
    assert [json.loads(each["data"])["number"] for each in events] == list(range(4))


def test_node_comes_back_with_the_last_id_after_the_time_we_gave(serve: Serve) -> None:
    """Its own time would be 3 seconds for each: those that got other times come in their order."""
    server = serve()

    with (
        node_script("read.mjs", f"{server.url}/resuming?retry=6000", "5") as slow,
        node_script("read.mjs", f"{server.url}/resuming?retry=300", "5") as quick,
    ):
        told = printed(slow), printed(quick)
    came = server.journal("came", count=4)

    for each in told:
        assert [one["data"] for one in each if one["kind"] == "event"] == list("01234")
    assert [(each["last_event_id"], each["retry"]) for each in came[2:]] == [
        ("2", 300),
        ("2", 6000),
    ]
