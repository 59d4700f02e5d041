"""What happens on a real server when the client goes."""

from __future__ import annotations

from contextlib import closing

import pytest
from tests.servers.conftest import Serve
from tests.servers.reading import connect, reset, sse

SERVERS = pytest.mark.parametrize(
    ("http", "loop"), [("h11", "asyncio"), ("httptools", "uvloop")], ids=["h11", "httptools"]
)


@SERVERS
@pytest.mark.parametrize("how", [lambda c: c.close(), reset], ids=["close", "reset"])
def test_sleeping_generator_is_cleaned_up_when_its_client_has_gone(
    serve: Serve, http: str, loop: str, how: object
) -> None:
    """It sleeps for 1000 seconds, and no ping is due: only the server can tell us."""
    server = serve("streams:app", "--http", http, "--loop", loop)

    connection = connect(f"{server.url}/asleep", sniff=b"data: ")
    assert callable(how)
    how(connection)
    server.journal("cleanup completed")
    (end,) = server.journal("asleep ended")

    assert end["reason"] == "client"
    server.stop()
    assert server.complaints() == []


def test_cleanup_that_waits_is_completed(serve: Serve) -> None:
    server = serve()

    with sse(f"{server.url}/asleep?cleanup=0.5") as source:
        next(iter(source))
    (started,) = server.journal("cleanup started")
    (completed,) = server.journal("cleanup completed")
    server.journal("asleep ended")

    # A sleep may be longer than it should be, never shorter.
    assert completed["at"] - started["at"] > 0.45
    server.stop()
    assert server.complaints() == []


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
    server.stop()
    assert server.complaints() == []


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
