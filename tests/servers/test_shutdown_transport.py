"""HTTP/2 over TLS, and a reverse proxy over two servers of which one stops."""

from __future__ import annotations

import os
import signal
import socket
import ssl
from collections.abc import Callable
from contextlib import ExitStack, closing
from pathlib import Path

import h2.connection
import h2.errors
import h2.events
import pytest
from playwright.sync_api import Page
from tests.servers.going_down import (
    HYPERCORN,
    TLS,
    UVICORN,
    Clients,
    ServerCase,
    hypercorn,
    started,
    uvicorn,
)
from tests.servers.proxy import nginx
from tests.servers.serving import until

OPEN = """number => {
    window.got = [];
    window.sources = [];
    for (let each = 0; each < number; each++) {
        const source = new EventSource("/idle");
        for (const type of ["message", "farewell"])
            source.addEventListener(type, () => got.push(type));
        sources.push(source);
    }
}"""


def seen(page: Page, kind: str) -> int:
    """How many events of a kind the page has got."""
    count: int = page.evaluate("kind => got.filter(each => each === kind).length", kind)
    return count


def over_tls(kind: str) -> ServerCase:
    """Hypercorn with HTTP/2 over TLS."""
    return hypercorn("", "-k", kind, *TLS, tls=True)


def test_chromium_has_a_hundred_streams_on_one_http2_connection_and_all_get_the_farewell(
    tmp_path: Path, page: Page
) -> None:
    with started(over_tls("asyncio"), tmp_path) as server:
        page.goto(f"{server.url}/blank")
        page.evaluate(OPEN, 100)
        page.wait_for_function("got.length === 100")
        connections = {tuple(note["client"]) for note in server.notes("began")}
        os.kill(server.pid, signal.SIGTERM)
        gone = until(lambda: not server.processes())
        page.wait_for_function("got.length === 200")
        farewells = seen(page, "farewell")
        page.evaluate("sources.forEach(source => source.close())")
        server.stop()

    assert len(connections) == 1
    assert gone
    assert farewells == 100
    assert len(server.notes("finally")) == 100
    assert server.unusual(HYPERCORN) == []


class Http2:
    """A client with one HTTP/2 connection, which does what it's told and no more."""

    def __init__(self, port: int) -> None:
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        context.set_alpn_protocols(["h2"])
        plain = socket.create_connection(("127.0.0.1", port), timeout=90)
        self._socket = context.wrap_socket(plain)
        self._state = h2.connection.H2Connection()
        self._state.initiate_connection()
        self.headers: dict[int, dict[str, str]] = {}
        self.bodies: dict[int, bytes] = {}

    def open(self, path: str) -> int:
        """Ask for `path`; return the number of the stream that brings it."""
        number = self._state.get_next_available_stream_id()
        request = {":method": "GET", ":scheme": "https", ":authority": "localhost", ":path": path}
        self._state.send_headers(number, list(request.items()), end_stream=True)
        self.headers[number], self.bodies[number] = {}, b""
        return number

    def reset(self, number: int) -> None:
        """Leave one stream, as a browser does whose page closes an `EventSource`."""
        self._state.reset_stream(number, h2.errors.ErrorCodes.CANCEL)
        self._socket.sendall(self._state.data_to_send())

    def read_until(self, fact: Callable[[], object]) -> None:
        while not fact():
            self._socket.sendall(self._state.data_to_send())
            received = self._socket.recv(65_536)
            assert received, f"the server closed the connection after {self.bodies}"
            for event in self._state.receive_data(received):
                if isinstance(event, h2.events.ResponseReceived):
                    self.headers[event.stream_id].update(
                        (name.decode(), value.decode()) for name, value in event.headers
                    )
                elif isinstance(event, h2.events.DataReceived):
                    self.bodies[event.stream_id] += event.data

    def close(self) -> None:
        self._socket.close()


@pytest.mark.parametrize("kind", ["asyncio", "trio"])
def test_http2_stream_that_the_client_resets_ends_its_generator_and_no_other(
    tmp_path: Path, kind: str
) -> None:
    with started(over_tls(kind), tmp_path) as server, closing(Http2(server.port)) as client:
        leaves, stays = client.open("/idle"), client.open("/idle")
        client.read_until(lambda: all(b"hello" in body for body in client.bodies.values()))
        client.reset(leaves)
        noticed = until(lambda: server.notes("closed"))
        finished, closed = server.notes("finally"), server.notes("closed")
        os.kill(server.pid, signal.SIGTERM)
        client.read_until(lambda: b"event: farewell" in client.bodies[stays])
        connections = {tuple(note["client"]) for note in server.notes("began")}

    assert noticed
    assert len(finished) == 1
    assert [note["reason"] for note in closed] == ["client"]
    assert len(connections) == 1
    # RFC 9113, 8.2.2: no header that is about the connection.
    assert "connection" not in client.headers[stays]
    assert client.headers[stays][":status"] == "200"
    assert client.headers[stays]["cache-control"] == "no-store"
    assert client.headers[stays]["content-type"] == "text/event-stream; charset=utf-8"


def test_clients_of_a_server_that_stops_come_back_to_the_other_one_behind_nginx(
    tmp_path: Path, page: Page
) -> None:
    streams = 4  # A browser has up to six connections to a host on HTTP/1.1.
    with ExitStack() as running:
        for name in ("one", "other", "curl"):
            (tmp_path / name).mkdir()
        servers = [
            running.enter_context(started(uvicorn(""), tmp_path / name))
            for name in ("one", "other")
        ]
        url = running.enter_context(nginx(tmp_path / "nginx", [each.port for each in servers]))
        clients = running.enter_context(Clients(f"{url}/idle", tmp_path / "curl", 2))

        page.goto(f"{url}/blank")
        page.evaluate(OPEN, streams)
        page.wait_for_function("count => got.length === count", arg=streams)
        one, other = servers
        on_one, on_other = len(one.notes("began")), len(other.notes("began"))
        os.kill(one.pid, signal.SIGTERM)
        gone = until(lambda: not one.processes())
        came_back = until(lambda: len(other.notes("began")) == on_other + on_one - 1)
        farewells, messages = seen(page, "farewell"), seen(page, "message")
        lives = {note["pid"] for note in other.notes("finally")} == set()
        errors = (tmp_path / "nginx" / "error.log").read_text("utf-8")
        os.kill(other.pid, signal.SIGTERM)
        exit_codes = clients.exit_codes()
        page.evaluate("sources.forEach(source => source.close())")
        one.stop()

    assert on_one > 1
    assert on_other > 1
    assert gone
    assert came_back
    assert farewells == on_one - 1
    assert messages == streams + on_one - 1
    assert lives
    assert exit_codes == [0, 0]
    # It says so if it has tried the one that has gone, but never that an answer was cut.
    assert "prematurely closed" not in errors
    assert one.unusual(UVICORN) == []
