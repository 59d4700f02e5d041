"""Reads streams as clients do, and notes when each thing came."""

from __future__ import annotations

import json
import socket
import struct
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import httpx2
import pytest


@dataclass(frozen=True)
class Arrival:
    """An event of `streams.made`, and when it came, on the clock it was made by."""

    number: int
    made: float
    came: float
    id: str


@contextmanager
def sse(url: str, **options: Any) -> Iterator[httpx2.EventSource]:
    """Open a stream with httpx2; 20 seconds without a byte are an error."""
    with (
        httpx2.Client(trust_env=False, timeout=20, **options) as client,
        client.sse(url) as source,
    ):
        yield source


def arrivals(source: httpx2.EventSource, count: int | None = None) -> list[Arrival]:
    """Read `count` events, or all until the stream ends."""
    found: list[Arrival] = []
    for event in source:
        came = time.monotonic()
        fields = json.loads(event.data)
        found.append(Arrival(fields["number"], fields["made"], came, event.id))
        if len(found) == count:
            break
    return found


def assert_each_came_before_the_next_was_made(events: list[Arrival], *, bursts_of: int = 1) -> None:
    """Whatever a burst holds was there before the first event of the next burst was made."""
    assert [event.number for event in events] == list(range(len(events)))
    late = [
        (event.number, event.came - events[following].made)
        for event in events
        if (following := (event.number // bursts_of + 1) * bursts_of) < len(events)
        and event.came >= events[following].made
    ]
    assert not late, f"events (number, seconds) that came after the next was made: {late}"


@dataclass(frozen=True)
class Line:
    """A line of a raw stream that is not empty, and when it came."""

    text: str
    came: float


def lines_within(url: str, seconds: float) -> list[Line]:
    """Read a raw stream, comments included, for so long from its headers on."""
    found: list[Line] = []
    pending = b""
    # From the bare socket: a deadline then needs neither a thread nor a timeout that every byte
    # renews.
    with closing(connect(url)) as connection:
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            connection.settimeout(left)
            try:
                received = connection.recv(65536)
            except TimeoutError:
                break
            came = time.monotonic()
            assert received, f"{url} ended after {came - deadline + seconds:.1f} s"
            *complete, pending = (pending + received).split(b"\n")
            found += [Line(line.decode().strip(), came) for line in complete if line.strip()]
    return found


def connect(url: str, *, sniff: bytes = b"") -> socket.socket:
    """Send a GET on a bare socket, and wait for the headers of the answer and what `sniff` says."""
    parts = urlsplit(url)
    assert parts.hostname is not None
    connection = socket.create_connection((parts.hostname, parts.port or 80), timeout=20)
    target = f"{parts.path}?{parts.query}" if parts.query else parts.path
    connection.sendall(f"GET {target} HTTP/1.1\r\nHost: {parts.netloc}\r\n\r\n".encode())
    received = b""
    while b"\r\n\r\n" not in received or sniff not in received:
        more = connection.recv(1 if not sniff else 4096)
        assert more, f"the server closed the connection after {received!r}"
        received += more
    assert b" 200 OK\r\n" in received, received
    return connection


def reset(connection: socket.socket) -> None:
    """Leave as a client does that crashes: with a TCP reset instead of a farewell."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


ASSORTED = [
    ("message", "plain", ""),
    ("message", "one\ntwo\nthree\nfour\n\n six \n", ""),
    ("größe", "Grüße, 世界 🎈 a\u2028b\u0085c\u000bd\ufeffe", ""),
    ("json", '{"nested":[1,"ü"]}', "7"),
    ("message", "after a comment", "7"),
    ("empty", "", "7"),
    ("message", "last", "änd"),
]
"""What a client makes of the stream `/assorted`: type, data and last event id of each event."""

VARIANTS = pytest.mark.parametrize(
    "variant",
    [
        pytest.param("", id="as it comes"),
        pytest.param("sep=%0A", id="LF"),
        pytest.param("sep=%0D", id="CR"),
        pytest.param("cut", id="cut into bytes"),
    ],
)
"""`/assorted` with each separator, and as a proxy may cut it."""
