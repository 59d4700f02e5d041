"""Streams on uvicorn, on each of its protocols and loops: how they flow, and how they end when clients go."""

from __future__ import annotations

import itertools
import socket
import subprocess
import time
from contextlib import closing
from pathlib import Path

import httpx2
import pytest
from tests.servers import serving
from tests.servers.conftest import Serve
from tests.servers.reading import arrivals, connect, lines_there, lines_until, reset, sse
from tests.servers.serving import Server, curl, program

LOOPS = pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
SERVERS = pytest.mark.parametrize(
    ("http", "loop"), [("h11", "asyncio"), ("httptools", "uvloop")], ids=["h11", "httptools"]
)
MIDDLEWARES = ["nothing", "base_http", "gzip", "cors", "session"]


@LOOPS
@pytest.mark.parametrize("http", ["h11", "httptools"])
def test_httpx_reads_events_as_they_are_made(
    shared: Serve, tmp_path: Path, http: str, loop: str
) -> None:
    server = shared("streams:app", "--http", http, "--loop", loop)

    heard = tmp_path / "heard"
    with sse(f"{server.url}/paced?heard={heard}") as source:
        events = arrivals(source, heard)
        version = source.response.http_version
        content_type = source.response.headers["content-type"]

    assert version == "HTTP/1.1"
    assert content_type == "text/event-stream; charset=utf-8"
    assert [(event.number, event.id) for event in events] == [(n, str(n)) for n in range(4)]


@pytest.mark.parametrize("application", MIDDLEWARES)
def test_headers_come_at_once_however_long_the_first_event_takes(
    shared: Serve, application: str
) -> None:
    server = shared(f"behind:{application}")

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
    shared: Serve, tmp_path: Path, loop: str, application: str, quick: int, awaits: int
) -> None:
    """Even if the generator computes until then without letting go of the event loop."""
    server = shared(f"behind:{application}", "--loop", loop)

    assert held_in_computing(server, tmp_path, quick, awaits) == [(0, True)] * 4


@LOOPS
@pytest.mark.parametrize("quick", [101, 1_000])
def test_what_a_quick_generator_made_in_the_last_millisecond_is_held_once_when_it_computes(
    shared: Serve, tmp_path: Path, loop: str, quick: int
) -> None:
    server = shared("streams:app", "--loop", loop)

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
    crowd = [program("curl"), "-sNZ", "--parallel-immediate", "--parallel-max", "30"]
    greedy = [*crowd, "--noproxy", "*", f"{server.url}/greedy?[1-30]"]

    with subprocess.Popen(greedy, stdout=subprocess.DEVNULL) as readers:
        server.journal("greedy started", count=30)
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
    shared: Serve, tmp_path: Path
) -> None:
    heard = tmp_path / "heard"
    with sse(f"{shared().url}/computing-in-thread?heard={heard}") as source:
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
def test_body_is_complete_after_an_error_in_mid_stream(told: str) -> None:
    """curl would end with 18 if the last chunk were missing."""
    with serving.serve("streams:app") as server:
        done = curl(f"{server.url}/failing{told}")

    assert done.returncode == 0
    text = done.stdout.decode()
    assert text.count("data: {") == 3
    assert text.endswith("event: failed\r\ndata: sorry\r\n\r\n") == bool(told)
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


# --- Clients that go ------------------------------------------------------------------


@SERVERS
def test_sleeping_generator_is_cleaned_up_when_its_client_has_gone_or_crashed(
    serve: Serve, http: str, loop: str
) -> None:
    """It sleeps for 1000 seconds, and no ping is due: only the server can tell us."""
    server = serve("streams:app", "--http", http, "--loop", loop)

    for count, leave in enumerate((socket.socket.close, reset), 1):
        leave(connect(f"{server.url}/asleep", sniff=b"data: "))
        server.journal("cleanup completed", count=count)
        assert server.journal("asleep ended", count=count)[-1]["reason"] == "client"


def test_cleanup_that_waits_is_completed(serve: Serve) -> None:
    server = serve()

    with sse(f"{server.url}/asleep?cleanup=0.5") as source:
        next(iter(source))
    (started,) = server.journal("cleanup started")
    (completed,) = server.journal("cleanup completed")
    server.journal("asleep ended")

    # A sleep may be longer than it should be, never shorter.
    assert completed["at"] - started["at"] > 0.45


@SERVERS
def test_two_hundred_clients_that_leave_under_load_leave_no_trace_in_the_log(
    serve: Serve, http: str, loop: str
) -> None:
    server = serve("streams:app", "--http", http, "--loop", loop)
    # Each reads nothing but the beginning: some leave while a send is blocked, some while the
    # generator sleeps, some by a reset.
    urls = [
        f"{server.url}/chatter?size=100&seconds=0.005",
        f"{server.url}/chatter?size=200000&seconds=0",
        f"{server.url}/asleep",
        f"{server.url}/greedy",
    ]

    for _ in range(5):
        connections = [connect(urls[number % len(urls)], sniff=b"data") for number in range(40)]
        for number, connection in enumerate(connections):
            if number % 3:
                connection.close()
            else:
                reset(connection)
    chatters = server.journal("chatter ended", count=100, seconds=90)
    sleepers = server.journal("asleep ended", count=50, seconds=90)
    greedy = server.journal("greedy closed", count=50, seconds=90)

    assert len(chatters) == 100
    assert len(sleepers) == 50
    assert len(greedy) == 50
    assert {end["reason"] for end in [*chatters, *sleepers]} == {"client"}


def test_one_client_that_leaves_does_not_disturb_the_others(serve: Serve) -> None:
    server = serve()

    with closing(connect(f"{server.url}/chatter?seconds=0.05", sniff=b"data")) as stays:
        with closing(connect(f"{server.url}/chatter?seconds=0.05", sniff=b"data")):
            pass
        ended = server.journal("chatter ended")
        received = b""
        while received.count(b"data: x") < 5:
            received += stays.recv(4096)

    assert len(ended) == 1


# --- Pings, and what silence costs ----------------------------------------------------


@pytest.mark.slow
def test_ping_comes_in_silence_by_default_never_between_events_and_not_when_it_is_off(
    serve: Serve,
) -> None:
    """After how many seconds it comes is for the clock of the unit tests to say."""
    server = serve()

    with (
        closing(connect(f"{server.url}/silent?ping=0")) as off,
        closing(connect(f"{server.url}/chatter")) as busy,
        closing(connect(f"{server.url}/silent")) as silent,
    ):
        pings = lines_until(silent, 2, beginning=": ping - ")
        from_busy = lines_there(busy)
        from_off = lines_there(off)

    assert len(pings) == 2
    assert set(from_busy) == {"data: x"}
    assert from_off == []


def test_streams_without_pings_wake_nobody(serve: Serve) -> None:
    server = serve()

    connections = [connect(f"{server.url}/silent?ping=0") for _ in range(200)]
    try:
        before = server.wake_ups()
        # Nothing will happen, and that is what is measured: here time is the fact.
        time.sleep(4)
        woken = server.wake_ups() - before
    finally:
        for connection in connections:
            connection.close()

    # uvicorn itself looks at its clock ten times a second; one look of each stream would be more.
    assert woken < len(connections), f"woken {woken} times in 4 s of silence"
