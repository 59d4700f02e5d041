"""What streams make of the time they get: grace, spread, and coming back afterwards."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
import time
from pathlib import Path

import pytest
from tests.servers.going_down import APP, STREAMS, UVICORN, Clients, Running, started, uvicorn
from tests.servers.serving import get, until

SPREAD_SECONDS = 5


def terminate(server: Running) -> None:
    """Send SIGTERM, and wait until the server has gone."""
    os.kill(server.pid, signal.SIGTERM)
    assert until(lambda: not server.processes())


def stop_while_open(
    folder: Path, path: str, *options: str, app: str = APP
) -> tuple[Running, list[str], float]:
    """Have streams open when uvicorn stops; their bodies, which are complete, and when it was told to."""
    folder.mkdir(exist_ok=True)
    with (
        started(uvicorn("", *options, app=app), folder) as server,
        Clients(f"{server.url}/{path}", folder) as clients,
    ):
        start = time.monotonic()
        terminate(server)
        assert clients.exit_codes() == [0] * STREAMS
    server.stop()
    assert len(server.notes("finally")) == STREAMS
    assert server.unusual(UVICORN) == []
    return server, [body.decode() for body in clients.bodies], start


def test_generator_that_needs_two_of_its_five_seconds_of_grace_is_not_cancelled(
    tmp_path: Path,
) -> None:
    server, bodies, _ = stop_while_open(tmp_path, "finishing")

    expected = [f"event: left\r\ndata: {left}" for left in range(10)]
    for body in bodies:
        events = body.split("\r\n\r\n")
        assert events[1:12] == [*expected, "event: farewell\r\ndata: back soon"]
    assert server.notes("cancelled") == []


def test_generator_that_does_not_end_is_cancelled_after_its_grace_and_before_the_server_does_it(
    tmp_path: Path,
) -> None:
    options = ("--timeout-graceful-shutdown", "60")
    server, bodies, start = stop_while_open(tmp_path, "stubborn", *options)

    # Where it stood at its `yield` it was closed; the others were cancelled where they waited.
    ended = [note["at"] - start for note in server.notes("finally")]
    assert min(ended) > 0.95  # Not before its grace is over.
    assert server.notes("cancelled")
    assert all("event: farewell" in body for body in bodies)


def test_client_behind_base_http_middleware_sees_the_end_and_can_come_back(
    tmp_path: Path,
) -> None:
    app = "going_down:behind_middleware"
    server, bodies, _ = stop_while_open(tmp_path / "first", "idle", app=app)
    stop_while_open(tmp_path / "again", "idle", "--port", str(server.port), app=app)

    assert all("event: farewell" in body for body in bodies)


async def read_to_the_end(port: int, opened: asyncio.Semaphore) -> tuple[float, bytes]:
    """Read a stream; return when it ended, and all of it."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET /spread HTTP/1.1\r\nHost: localhost\r\n\r\n")
    received = b""
    while b"hello" not in received:
        received += await reader.read(65_536)
    opened.release()
    while not received.endswith(b"\r\n0\r\n\r\n"):
        more = await reader.read(65_536)
        assert more, "the connection was closed before the last chunk"
        received += more
    ended = time.monotonic()
    writer.close()
    return ended, received


def test_five_hundred_streams_end_evenly_over_the_spread_and_are_told_to_come_back_at_random(
    tmp_path: Path,
) -> None:
    async def main(server: Running) -> list[tuple[float, bytes]]:
        opened = asyncio.Semaphore(0)
        readers = [asyncio.create_task(read_to_the_end(server.port, opened)) for _ in range(500)]
        async with asyncio.timeout(180):
            for _ in readers:
                await opened.acquire()
            await asyncio.to_thread(get, f"{server.url}/drain", spread=str(SPREAD_SECONDS))
            return await asyncio.gather(*readers)

    with started(uvicorn("", "--no-access-log"), tmp_path) as server:
        read = asyncio.run(main(server))
        (drained,) = server.notes("drain")
        server.stop()

    ends = [ended - drained["at"] for ended, _ in read]
    # A busy machine makes ends late, several at a time, but none before its turn.
    after_its_turn = [
        end - (place + 0.5) * SPREAD_SECONDS / 500 for place, end in enumerate(sorted(ends))
    ]
    assert sum(b"event: farewell" in received for _, received in read) == 500
    assert min(after_its_turn) > -0.05
    retries = {int(re.findall(rb"retry: (\d+)", received)[-1]) for _, received in read}
    assert len(retries) > 450
    assert max(retries) - min(retries) > 500_000
    assert server.unusual(UVICORN) == []


@pytest.mark.parametrize("http", ["h11", "httptools"])
def test_client_that_does_not_read_keeps_its_generator_a_second_and_uvicorn_until_its_own_timeout(
    tmp_path: Path, http: str
) -> None:
    """Uvicorn waits until the client has taken what was written for it, for ever if it may."""
    options = ("--http", http, "--timeout-graceful-shutdown", "6")
    with (
        started(uvicorn("", *options), tmp_path) as server,
        socket.create_connection(("127.0.0.1", server.port)) as stuck,
    ):
        stuck.sendall(b"GET /flood HTTP/1.1\r\nHost: localhost\r\n\r\n")
        sent = [-1, 0]
        while sent[-1] == 0 or len(sent) < 6 or len(set(sent[-5:])) > 1:
            time.sleep(0.2)
            sent.append(len(server.notes("sent")))

        start = time.monotonic()
        terminate(server)
        (ended,) = server.notes("finally")
        (closed,) = server.notes("closed")

    # Its source is closed at once, the stream when the client has had its second.
    assert ended["at"] < closed["at"]
    assert closed["reason"] == "shutdown"
    assert closed["at"] - start > 0.9
    assert len(server.notes("lifespan stopped")) == 1
