"""What the testing kit reads is what a browser and Node read from the same app over a socket."""

from __future__ import annotations

import json

import anyio
import pytest
from playwright.sync_api import Page
from tests.servers import serving
from tests.servers.apps.generated import COUNT, TYPES, app
from tests.servers.conftest import Serve
from tests.servers.serving import Server, node_script

from sse_starlette.testing import CHECKS, StreamingASGITransport, connect

Fired = list[str]
"""Type, data and last event id of an event."""

READ_ALL = """async ([count, types]) => {
    const read = (number) => new Promise((resolve) => {
        const got = [];
        const source = new EventSource(`/${number}`);
        for (const type of types) {
            source.addEventListener(
                type, (event) => got.push([event.type, event.data, event.lastEventId])
            );
        }
        // The end of a stream is an error: the browser would come back.
        source.onerror = () => { source.close(); resolve(got); };
    });
    const all = [];
    // A browser has six connections to a server at the most.
    for (let first = 0; first < count; first += 6) {
        const numbers = Array.from({ length: Math.min(6, count - first) }, (_, i) => first + i);
        all.push(...await Promise.all(numbers.map(read)));
    }
    return all;
}"""


# Before playwright starts: then this thread has an event loop of its own.
@pytest.fixture(scope="module")
def read_by_the_kit() -> list[list[Fired]]:
    async def read() -> list[list[Fired]]:
        found = []
        async with StreamingASGITransport(app) as transport:
            for number in range(COUNT):
                async with connect(transport, f"/{number}", unchecked=CHECKS) as stream:
                    found.append([[one.event, one.data, one.id] async for one in stream])
        return found

    return anyio.run(read)


@pytest.fixture
def server(serve: Serve) -> Server:
    return serve("generated:app")


def test_kit_reads_what_chromium_reads(
    read_by_the_kit: list[list[Fired]], server: Server, page: Page
) -> None:
    page.goto(f"{server.url}/blank")

    found = page.evaluate(READ_ALL, [COUNT, TYPES])

    assert found == read_by_the_kit


def test_kit_reads_what_node_reads(read_by_the_kit: list[list[Fired]], server: Server) -> None:
    with node_script("read_all.mjs", server.url, str(COUNT), *TYPES) as node:
        node.wait_for_line('^"done"$', seconds=serving.READY_SECONDS)
        found = [json.loads(line) for line in node.lines]

    assert found == [*read_by_the_kit, "done"]


def test_generated_streams_are_worth_reading(read_by_the_kit: list[list[Fired]]) -> None:
    events = [event for stream in read_by_the_kit for event in stream]

    assert len(read_by_the_kit) == COUNT
    assert len(events) > 3 * COUNT
    assert {kind for kind, _, _ in events} == set(TYPES)
