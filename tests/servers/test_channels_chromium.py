"""Channels as a browser's `EventSource` reads them, over a cable that breaks."""

from __future__ import annotations

import random
import time
from itertools import pairwise
from typing import Any

import pytest
from playwright.sync_api import Page
from tests.servers.cable import cable
from tests.servers.conftest import Serve
from tests.servers.crowd import ask
from tests.servers.serving import until

RETRY_MS = 100

FOLLOW = """(origins, path, count) => {
    globalThis.clients = [];
    for (let number = 0; number < count; number++) {
        const url = `${origins[number % origins.length]}${path}&client=${number}`;
        const source = new EventSource(url);
        // Runs of numbers without a hole: [first, last].
        const client = { source, runs: [], resets: [], faults: [] };
        clients.push(client);
        source.onmessage = ({ data, lastEventId }) => {
            const { number } = JSON.parse(data);
            const run = client.runs.at(-1);
            if (lastEventId.split(".")[1] !== String(number)) client.faults.push(lastEventId);
            if (run && run[1] + 1 === number) run[1] = number;
            else client.runs.push([number, number]);
        };
        source.addEventListener("reset", ({ data }) => client.resets.push(JSON.parse(data)));
    }
}"""

SPREAD = f"(given) => ({FOLLOW})(...given)"

IN_WORKER = """([follow, origins, path, count]) => {
    const program = `(${follow})(${JSON.stringify(origins)}, "${path}", ${count});
        onconnect = ({ ports: [port] }) => {
            port.onmessage = () => port.postMessage(
                clients.map(({ runs, resets, faults }) => ({ runs, resets, faults })));
        };`;
    const { port } = new SharedWorker(URL.createObjectURL(new Blob([program])));
    window.look = () => new Promise((resolve) => {
        port.onmessage = ({ data }) => resolve(data);
        port.postMessage("look");
    });
}"""
"""The same in a shared worker, where playwright doesn't report every event to the test's process."""


def distances(places: list[int]) -> list[int]:
    return [after - before for before, after in pairwise(places)]


@pytest.mark.slow
def test_fifty_event_sources_cut_twenty_times_each_lose_nothing(serve: Serve, page: Page) -> None:
    server = serve("channels:app", "--http", "httptools", "--loop", "uvloop", "--no-access-log")
    ask(server, "/news/make", history=8_000)
    places = random.Random(20)
    # In the first 350,000 bytes of some 490,000, and not before the first cursor.
    breaks = {
        number: distances([0, *sorted(places.sample(range(500, 350_000), 20))])
        for number in range(50)
    }
    page.goto(f"{server.url}/blank")

    with cable(server.port, origins=10, breaks=breaks) as connection:
        path = f"/news/stream?retry={RETRY_MS}"
        page.evaluate(IN_WORKER, [FOLLOW, connection.origins, path, 50])
        assert until(lambda: ask(server, "/news/stats")["subscribers"] == 50)
        ask(server, "/news/publish", last=8_000, within=8)
        clients: list[dict[str, Any]] = []
        deadline = time.monotonic() + 240
        while not clients or any(
            not client["runs"] or client["runs"][-1][1] < 8_000 for client in clients
        ):
            assert time.monotonic() < deadline, clients
            page.wait_for_timeout(500)
            clients = page.evaluate("look()")
        page.close()

    assert connection.broken == 50 * 20
    assert [client["faults"] for client in clients if client["faults"]] == []
    for client in clients:
        # Each hole between two runs is one that was announced, and there's no other.
        announced = [int(reset["cursor"].partition(".")[2]) for reset in client["resets"]]
        begins = [run[0] for run in client["runs"]]
        assert begins == [1, *(cursor + 1 for cursor in announced)]
        assert client["runs"][-1][1] == 8_000
        assert all(after[0] > before[1] for before, after in pairwise(client["runs"]))
    assert sum(len(client["resets"]) for client in clients) <= 50 * 20 * 0.1


def test_event_source_that_had_nothing_yet_gets_exactly_the_three_it_missed(
    serve: Serve, page: Page
) -> None:
    server = serve("channels:app")
    cursor = ask(server, "/news/make")["cursor"]
    page.goto(f"{server.url}/blank")

    with cable(server.port) as connection:
        page.evaluate(SPREAD, [connection.origins, f"/news/stream?retry={RETRY_MS}", 1])
        assert until(lambda: cursor.encode() in connection.passed_on)
        connection.pull()
        server.journal("went", count=1)
        ask(server, "/news/publish", last=3)
        connection.plug()
        page.wait_for_function("clients[0].runs.at(-1)?.[1] >= 3")
        # Whatever else it gets would come before this one.
        ask(server, "/news/publish", first=4, last=4)
        page.wait_for_function("clients[0].runs.at(-1)?.[1] >= 4")
        runs, resets = page.evaluate("[clients[0].runs, clients[0].resets]")
        page.close()

    assert runs == [[1, 4]]
    assert resets == []
    assert [came["last_event_id"] for came in server.journal("came", count=2)] == [None, cursor]


def test_closed_channel_stops_event_source_for_good(serve: Serve, page: Page) -> None:
    server = serve("channels:app")
    ask(server, "/news/make")
    page.goto(f"{server.url}/blank")

    page.evaluate(SPREAD, [[server.url], f"/news/stream?retry={RETRY_MS}", 1])
    server.journal("came", count=1)
    ask(server, "/news/publish", last=2)
    ask(server, "/news/close")
    page.wait_for_function("clients[0].source.readyState === EventSource.CLOSED")
    # Twenty times the time after which it would come back.
    page.wait_for_timeout(20 * RETRY_MS)
    runs = page.evaluate("clients[0].runs")
    came = server.journal("came", count=3, seconds=0)

    assert runs == [[1, 2]]
    assert len(came) == 2
    assert any("204" in line for line in server.lines)
