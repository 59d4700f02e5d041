"""Reads streams as clients do, and notes when each thing came."""

from __future__ import annotations

import json
import re
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx2


@dataclass(frozen=True)
class Arrival:
    """An event of `streams.made`."""

    number: int
    id: str


@contextmanager
def sse(url: str, **options: Any) -> Iterator[httpx2.EventSource]:
    """Open a stream with httpx2; 90 seconds without a byte are an error."""
    with (
        # To load the certificates takes longer than all else that a client does to begin.
        httpx2.Client(trust_env=False, verify=False, timeout=90, **options) as client,
        client.sse(url) as source,
    ):
        yield source


def arrivals(source: httpx2.EventSource, heard: Path | None = None) -> list[Arrival]:
    """Read all events until the stream ends; `hear` each in that file."""
    found: list[Arrival] = []
    for event in source:
        found.append(Arrival(json.loads(event.data)["number"], event.id))
        if heard is not None:
            hear(heard, len(found))
    return found


def hear(file: Path, count: int) -> None:
    """Tell a stream of apps/streams.py that so many of its events are here: it makes the next one."""
    file.write_text("." * count, "utf-8")


def lines_until(connection: socket.socket, count: int, *, beginning: str = "") -> list[str]:
    """Read a raw stream until so many of its lines begin like that; all lines that are not empty."""
    received = b""
    while sum(line.startswith(beginning) for line in _lines_in(received)) < count:
        more = connection.recv(65_536)
        assert more, f"the stream ended after {received!r}"
        received += more
    return _lines_in(received)


def lines_there(connection: socket.socket) -> list[str]:
    """What has come of a raw stream by now."""
    received = b""
    connection.setblocking(False)
    while True:
        try:
            more = connection.recv(65_536)
        except BlockingIOError:
            return _lines_in(received)
        assert more, f"the stream ended after {received!r}"
        received += more


def _lines_in(received: bytes) -> list[str]:
    """The complete lines of a body, without the sizes of its chunks (RFC 9112, 7.1)."""
    lines = received.decode().split("\r\n")[:-1]
    return [line for line in lines if line and not re.fullmatch("[0-9a-f]+", line)]


def connect(url: str, *, sniff: bytes = b"") -> socket.socket:
    """Send a GET on a bare socket, and wait for the headers of the answer and what `sniff` says."""
    parts = urlsplit(url)
    assert parts.hostname is not None
    connection = socket.create_connection((parts.hostname, parts.port or 80), timeout=90)
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
