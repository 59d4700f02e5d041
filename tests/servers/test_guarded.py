"""Tickets and revocations between two real processes that share a real event log."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx2
import pytest
from tests.servers.redis_servers import RedisServer
from tests.servers.serving import APPS, READY_SECONDS, Server, get

AT_ONCE = 20


@pytest.fixture(params=["redis", "sqlite"])
def log(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """An empty event log."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/events.db"
        return
    with RedisServer(tmp_path / "redis") as running:
        yield running.url


@pytest.fixture
def two(log: str) -> Iterator[list[Server]]:
    """Two processes on it."""
    with ExitStack() as running:
        command: list[str | Path] = [sys.executable, APPS / "guarded.py", log]
        yield [running.enter_context(Server(command)) for _ in range(2)]


class Stream:
    """What a client has got of a response."""

    def __init__(self, response: httpx2.Response) -> None:
        self.body = b""
        self._chunks = response.iter_raw()

    def until(self, wanted: bytes) -> None:
        while wanted not in self.body:
            self.body += next(self._chunks)

    def rest(self) -> bytes:
        """Read to the end, which has to come."""
        self.body += b"".join(self._chunks)
        return self.body


@contextmanager
def listening(issuer: Server, server: Server, listener: str) -> Iterator[Stream]:
    """Get a ticket from one process, and listen to another."""
    ticket = get(f"{issuer.url}/ticket", listener=listener).text
    with (
        httpx2.Client(timeout=READY_SECONDS, trust_env=False) as client,
        client.stream("GET", f"{server.url}/events", params={"ticket": ticket}) as response,
    ):
        assert response.status_code == 200
        yield Stream(response)


def test_a_revocation_ends_the_streams_of_its_listener_in_all_processes(two: list[Server]) -> None:
    one, other = two
    with (
        listening(one, other, "ann") as ann_there,
        listening(other, one, "ann") as ann_here,
        listening(one, other, "bob") as bob_there,
        listening(other, one, "bob") as bob_here,
    ):
        get(f"{one.url}/publish", data="before")
        for stream in (ann_here, ann_there, bob_here, bob_there):
            stream.until(b"data: before\r\n\r\n")

        assert get(f"{one.url}/revoke", listener="ann").status_code == 204

        for stream in (ann_here, ann_there):
            assert stream.rest().endswith(b"event: revoked\r\ndata: revoked\r\n\r\n")
        get(f"{other.url}/publish", data="after")
        for stream in (bob_here, bob_there):
            stream.until(b"data: after\r\n\r\n")
            assert b"revoked" not in stream.body
    for server in two:
        server.stop()
        assert server.complaints() == []


def test_a_ticket_is_good_once_however_many_bring_it_to_however_many_processes(
    two: list[Server],
) -> None:
    ticket = get(f"{two[0].url}/ticket", listener="ann").text

    def bring(number: int) -> int:
        with httpx2.stream(
            "GET",
            f"{two[number % 2].url}/events",
            params={"ticket": ticket},
            timeout=READY_SECONDS,
            trust_env=False,
        ) as response:
            return response.status_code

    with ThreadPoolExecutor(AT_ONCE) as clients:
        answers = Counter(clients.map(bring, range(AT_ONCE)))

    assert answers == {200: 1, 401: AT_ONCE - 1}
