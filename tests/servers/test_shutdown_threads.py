"""Servers that run in threads of one process, as in a notebook: each has its own end."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.routing import Route
from tests.servers.serving import until
from tests.unit.driving import SEAT_BELT_SECONDS
from tests.unit.nothing_left import nothing_is_left, sleeping

from sse_starlette import EventSourceResponse, drain
from sse_starlette._shutdown import AppStatus


@pytest.fixture(autouse=True)
def _nothing_is_left() -> Iterator[None]:
    with nothing_is_left():
        yield


async def stream_route(request: Request) -> EventSourceResponse:
    return EventSourceResponse(sleeping(), farewell={"event": "farewell", "data": "bye"})


class InThread:
    """A uvicorn server that runs in a thread, as in a notebook, with one client."""

    def __init__(self) -> None:
        app = Starlette(routes=[Route("/", stream_route)])
        # With a loop that isn't closed, a client that hangs would hang the suite.
        options: dict[str, Any] = {
            "log_config": None,
            "lifespan": "off",
            "timeout_graceful_shutdown": 2,
        }
        self.server = uvicorn.Server(uvicorn.Config(app, port=0, **options))
        self.thread = threading.Thread(target=self.server.run)
        self.thread.start()
        assert until(lambda: self.server.started)
        port = self.server.servers[0].sockets[0].getsockname()[1]
        self.client = socket.create_connection(("127.0.0.1", port), timeout=SEAT_BELT_SECONDS)
        self.client.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        self.received = b""
        while b"hello" not in self.received:
            self.received += self.client.recv(4096)

    @property
    def lives(self) -> bool:
        """Nothing has come since, and the connection is open."""
        self.client.setblocking(False)
        try:
            self.received += self.client.recv(4096)
        except BlockingIOError:
            return True
        finally:
            self.client.settimeout(SEAT_BELT_SECONDS)
        return False

    def stop(self) -> bytes:
        """Stop the server; return what the client got after its first event."""
        self.server.should_exit = True
        rest = b""
        while received := self.client.recv(4096):
            rest += received
        self.client.close()
        self.thread.join(SEAT_BELT_SECONDS)
        assert not self.thread.is_alive()
        return rest


def said_farewell(rest: bytes) -> bool:
    """The farewell, and the last chunk after it."""
    return b"event: farewell" in rest and rest.endswith(b"\r\n0\r\n\r\n")


def test_second_uvicorn_in_a_process_is_not_concerned_by_the_end_of_the_first() -> None:
    first = InThread()
    farewell = first.stop()
    second = InThread()
    lives = second.lives, AppStatus.should_exit
    farewell_of_second = second.stop()

    assert said_farewell(farewell)
    assert lives == (True, False)
    assert said_farewell(farewell_of_second)


def test_each_of_four_uvicorns_in_four_threads_drains_its_own_streams() -> None:
    servers = [InThread() for _ in range(4)]

    for stopped, server in enumerate(servers):
        assert [other.lives for other in servers[stopped:]] == [True] * (4 - stopped)
        assert said_farewell(server.stop())


def test_process_drain_ends_the_streams_of_every_loop() -> None:
    servers = [InThread() for _ in range(2)]

    drain()

    for server in servers:
        assert said_farewell(server.client.recv(4096)) or not server.lives
        server.stop()
