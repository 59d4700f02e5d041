"""Streams on uvicorn, on each of its protocols and loops."""

from __future__ import annotations

import itertools
import subprocess
from contextlib import closing
from pathlib import Path

import httpx2
import pytest
from tests.servers.conftest import Serve
from tests.servers.reading import (
    ASSORTED,
    VARIANTS,
    arrivals,
    connect,
    lines_there,
    sse,
)
from tests.servers.serving import Server, curl, program

LOOPS = pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
MIDDLEWARES = ["nothing", "base_http", "gzip", "cors", "session"]


@LOOPS
@pytest.mark.parametrize("http", ["h11", "httptools"])
def test_httpx_reads_events_as_they_are_made(
    serve: Serve, tmp_path: Path, http: str, loop: str
) -> None:
    server = serve("streams:app", "--http", http, "--loop", loop)

    heard = tmp_path / "heard"
    with sse(f"{server.url}/paced?heard={heard}") as source:
        events = arrivals(source, heard)
        version = source.response.http_version
        content_type = source.response.headers["content-type"]

    assert version == "HTTP/1.1"
    assert content_type == "text/event-stream; charset=utf-8"
    assert [(event.number, event.id) for event in events] == [(n, str(n)) for n in range(4)]
    server.stop()
    assert server.complaints() == []


@VARIANTS
def test_httpx_reads_events_of_every_kind(serve: Serve, variant: str) -> None:
    with sse(f"{serve().url}/assorted?{variant}") as source:
        events = list(itertools.islice(source, len(ASSORTED)))

    assert [(event.event, event.data, event.id) for event in events] == ASSORTED


@pytest.mark.parametrize("application", MIDDLEWARES)
def test_headers_come_at_once_however_long_the_first_event_takes(
    serve: Serve, application: str
) -> None:
    server = serve(f"behind:{application}")

    # Nothing follows them, no event and no ping.
    with closing(connect(f"{server.url}/silent?ping=0")) as connection:
        assert lines_there(connection) == []


@LOOPS
@pytest.mark.parametrize(
    ("application", "quick", "awaits"),
    [
        *itertools.product(["nothing", "base_http", "gzip"], [1, 20], [0]),
        ("nothing", 3, 0),
        ("nothing", 99, 0),
        ("nothing", 20, 1),
    ],
)
def test_event_is_with_the_client_before_the_next_is_computed(
    serve: Serve, tmp_path: Path, loop: str, application: str, quick: int, awaits: int
) -> None:
    """Even if the generator computes until then without letting go of the event loop."""
    server = serve(f"behind:{application}", "--loop", loop)

    assert held_in_computing(server, tmp_path, quick, awaits) == [(0, True)] * 4


@LOOPS
@pytest.mark.parametrize("quick", [101, 1_000])
def test_what_a_quick_generator_made_in_the_last_millisecond_is_held_once_when_it_computes(
    serve: Serve, tmp_path: Path, loop: str, quick: int
) -> None:
    server = serve("streams:app", "--loop", loop)

    (first, together), *others = held_in_computing(server, tmp_path, quick)

    assert first <= quick - 100
    assert together
    assert others == [(0, True)] * 3


@pytest.mark.slow
@LOOPS
def test_beside_busy_streams_four_events_are_with_the_client_and_of_more_a_millisecond_is_held_once(
    serve: Serve, tmp_path: Path, loop: str
) -> None:
    # Each of them keeps the loop for a millisecond: a turn is many times as long as makes the loop late.
    server = serve("streams:app", "--loop", loop)
    crowd = [program("curl"), "-sNZ", "--parallel-immediate", "--parallel-max", "60"]
    greedy = [*crowd, "--noproxy", "*", f"{server.url}/greedy?[1-60]"]

    with subprocess.Popen(greedy, stdout=subprocess.DEVNULL) as readers:
        server.journal("greedy started", count=60)
        found = {
            quick: held_in_computing(server, tmp_path, quick) for quick in (1, 3, 20, 99, 101, 1000)
        }
        readers.terminate()

    for quick, ((first, together), *others) in found.items():
        assert first <= max(0, quick - 4)
        assert together
        assert others == [(0, True)] * 3


def held_in_computing(
    server: Server, folder: Path, quick: int, awaits: int = 0
) -> list[tuple[int, bool]]:
    """How many events were held each time that the generator computed, and whether a millisecond had made them."""
    heard = folder / f"heard-{quick}"
    path = f"/computing?quick={quick}&heard={heard}" + "&awaits=1" * awaits
    with sse(f"{server.url}{path}") as source:
        events = arrivals(source, heard)
    assert [event.number for event in events] == list(range(quick + 3))
    notes = server.journal("computed")[-4:]
    return [(note["held"], note["together"]) for note in notes]


def test_event_of_a_sync_generator_is_with_the_client_before_the_next_is_computed(
    serve: Serve, tmp_path: Path
) -> None:
    server = serve()

    heard = tmp_path / "heard"
    with sse(f"{server.url}/computing-in-thread?heard={heard}") as source:
        events = arrivals(source, heard)

    assert [event.number for event in events] == list(range(4))


@LOOPS
def test_generator_that_never_waits_lets_another_stream_flow(serve: Serve, loop: str) -> None:
    server = serve("streams:app", "--loop", loop)
    greedy = [program("curl"), "-sN", "--noproxy", "*", f"{server.url}/greedy"]

    # curl reads as fast as it can, so that the generator always finds room for the next event.
    with subprocess.Popen(greedy, stdout=subprocess.DEVNULL) as reader:
        server.journal("greedy started")
        with sse(f"{server.url}/paced?count=10") as source:
            events = arrivals(source)
        closed_before = server.journal("greedy closed", seconds=0)
        reader.terminate()

    assert [event.number for event in events] == list(range(10))
    assert closed_before == []
    (closed,) = server.journal("greedy closed")
    assert closed["count"] > 10_000


@pytest.mark.parametrize("told", ["", "?told"], ids=["nobody is told", "on_error"])
def test_body_is_complete_after_an_error_in_mid_stream(serve: Serve, told: str) -> None:
    """curl would end with 18 if the last chunk were missing."""
    server = serve()

    done = curl(f"{server.url}/failing{told}")

    assert done.returncode == 0
    text = done.stdout.decode()
    assert text.count("data: {") == 3
    assert text.endswith("event: failed\r\ndata: sorry\r\n\r\n") == bool(told)
    server.stop()
    said = "\n".join(server.lines)
    assert "without completing response" not in said
    # Whoever handles the error decides what to log; if nobody does, the server says it.
    assert ("RuntimeError: the disk is full" in said) == (not told)
    assert "ExceptionGroup" not in said


def said_by_us(response: httpx2.Response) -> dict[str, str]:
    """The headers without those that uvicorn adds for each message."""
    added = ("date", "server", "transfer-encoding")
    return {name: value for name, value in response.headers.items() if name not in added}


@pytest.mark.parametrize("http", ["h11", "httptools"])
def test_head_has_the_headers_of_get_and_leaves_the_source_alone(serve: Serve, http: str) -> None:
    server = serve("streams:app", "--http", http)
    url = f"{server.url}/asleep"

    head = httpx2.head(url, trust_env=False, timeout=90)
    # curl reads on until the connection is closed or the answer is known to be complete.
    done = curl("--head", "--max-time", "90", url)
    unstarted = server.journal("asleep started", seconds=0)
    with httpx2.stream("GET", url, trust_env=False, timeout=90) as get:
        assert head.status_code == get.status_code == 200
        assert said_by_us(head) == said_by_us(get)
    assert head.content == b""
    assert done.returncode == 0
    assert unstarted == []
    ends = server.journal("asleep ended", count=3)
    assert sorted(end["reason"] for end in ends) == ["client", "end", "end"]
    server.stop()
    assert server.complaints() == []


@pytest.mark.parametrize("application", MIDDLEWARES)
def test_stream_flows_and_ends_behind_middleware(
    serve: Serve, tmp_path: Path, application: str
) -> None:
    server = serve(f"behind:{application}")

    heard = tmp_path / "heard"
    origin = {"Origin": "http://elsewhere.example"}
    with sse(f"{server.url}/paced?heard={heard}", headers=origin) as source:
        events = arrivals(source, heard)
        headers = source.response.headers
    with sse(f"{server.url}/asleep") as source:
        next(iter(source))
    server.journal("cleanup completed")
    (end,) = server.journal("asleep ended")

    assert [event.number for event in events] == list(range(4))
    assert end["reason"] == "client"
    assert ("access-control-allow-origin" in headers) == (application == "cors")
    assert ("set-cookie" in headers) == (application == "session")
    assert "content-encoding" not in headers
    server.stop()
    assert server.complaints() == []
