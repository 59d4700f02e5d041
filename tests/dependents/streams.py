"""Reads streams byte by byte, and ends their server as whoever runs it does."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx2
from tests.dependents.conftest import Dependent


def stop(server: Dependent) -> None:
    """Send SIGTERM and wait until the process has gone; fails if it stays or complains."""
    server.stop(seconds=90)

    assert server.exit_code != -signal.SIGKILL, "it did not go by itself"
    assert server.complaints() == [], "\n".join(server.lines)


class Reading:
    """A body that is read little by little."""

    def __init__(self, response: httpx2.Response) -> None:
        assert response.headers["transfer-encoding"] == "chunked"
        self.headers = response.headers
        self._chunks = response.iter_bytes()
        self._read = b""

    def until(self, part: str) -> str:
        """Read up to a chunk that completes `part`; return everything so far."""
        while part.encode() not in self._read:
            self._read += next(self._chunks)
        return self._read.decode()

    def to_the_end(self) -> str:
        """Return the whole body; raises if it was cut off (RFC 9112, 8)."""
        self._read += b"".join(self._chunks)
        return self._read.decode()


@contextmanager
def reading(method: str, url: str, **options: Any) -> Iterator[Reading]:
    """Ask for a stream; 90 seconds without a byte are an error."""
    with httpx2.stream(method, url, trust_env=False, timeout=90, **options) as response:
        assert response.status_code == 200, response.read()
        yield Reading(response)
