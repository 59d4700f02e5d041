"""One request for a stream, and when each piece of its answer came. Judges nothing."""

from __future__ import annotations

import importlib.util
import time
import zlib
from contextlib import aclosing
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING

import anyio
import httpx2

from ..testing import EventStreamParser, StreamFailure
from ._shown import printable

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..testing import Parsed

CONNECT_SECONDS = 10.0


@dataclass(frozen=True)
class Target:
    """What is asked for."""

    url: str
    method: str = "GET"
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes | None = None
    insecure: bool = False
    """Whether any certificate will do."""
    most_event_bytes: int = 64 * 1024 * 1024
    """Of one event, or of a line."""


class Ended(Enum):
    """How an exchange stands."""

    OPEN = "open"
    """It was left while the other side kept it open."""
    COMPLETE = "complete"
    """The body came to its end."""
    CUT = "cut"
    """The connection was closed, or broke, in the middle."""
    REFUSED = "refused"
    """There was no answer at all."""


@dataclass
class Exchange:
    """One request, and all that is known of its answer; times in seconds since it was sent."""

    status: int | None = None
    http_version: str = ""
    headers: httpx2.Headers = field(default_factory=httpx2.Headers)
    headers_at: float | None = None
    pieces: list[tuple[float, bytes]] = field(default_factory=list)
    """What came of the body, as it came; compressed, if the answer is."""
    items: list[tuple[float, Parsed]] = field(default_factory=list)
    """What a client makes of it."""
    faults: list[str] = field(default_factory=list)
    ended: Ended = Ended.OPEN
    ended_at: float = 0.0
    error: str = ""
    began: float = 0.0
    """When it was sent, by the clock on the wall."""

    @property
    def first_at(self) -> float | None:
        """When the first bytes of the body came."""
        return self.pieces[0][0] if self.pieces else None

    @property
    def encoding(self) -> str:
        """How the body is compressed; empty: it isn't."""
        coding = self.headers.get("content-encoding", "").strip().lower()
        return "" if coding == "identity" else coding


def new_client(
    target: Target, transport: httpx2.AsyncBaseTransport | None = None
) -> httpx2.AsyncClient:
    """Return a client that speaks HTTP/2 if it can, and waits for bytes as long as it's told elsewhere."""
    return httpx2.AsyncClient(
        transport=transport,
        verify=not target.insecure,
        http2=importlib.util.find_spec("h2") is not None,
        timeout=httpx2.Timeout(CONNECT_SECONDS, read=None, pool=None),
        limits=httpx2.Limits(max_keepalive_connections=0),
    )


async def watch(
    client: httpx2.AsyncClient,
    target: Target,
    *,
    until: float,
    headers: dict[str, str] | None = None,
    method: str | None = None,
    into: Exchange | None = None,
    enough: Callable[[Exchange], bool] | None = None,
) -> Exchange:
    """
    Ask, and note what comes, until `until` seconds have passed, the answer ends or it is `enough`.

    Args:
        client: who asks.
        target: what is asked for.
        until: seconds.
        headers: further headers of the request.
        method: in place of the target's.
        into: where it is noted, for those who look on.
        enough: is asked after each piece.
    """
    exchange = into or Exchange()
    exchange.began, start = time.time(), time.monotonic()
    sent = [
        (name.encode(), value.encode("utf-8", "surrogateescape"))
        for name, value in (*target.headers, *(headers or {}).items())
    ]
    with anyio.move_on_after(until):
        try:
            await _read(client, target, exchange, start, sent, method or target.method, enough)
        except httpx2.RequestError as exc:
            exchange.ended = Ended.REFUSED if exchange.status is None else Ended.CUT
            exchange.error = printable(str(exc)) or type(exc).__name__
        except StreamFailure as exc:
            exchange.faults.append(exc.details)
    exchange.ended_at = time.monotonic() - start
    return exchange


async def _read(
    client: httpx2.AsyncClient,
    target: Target,
    exchange: Exchange,
    start: float,
    sent: list[tuple[bytes, bytes]],
    method: str,
    enough: Callable[[Exchange], bool] | None,
) -> None:
    parser = EventStreamParser(max_event_bytes=target.most_event_bytes)
    body = None if method == "HEAD" else target.body
    async with client.stream(method, target.url, headers=sent, content=body) as response:
        exchange.status = response.status_code
        exchange.http_version = response.http_version
        exchange.headers = response.headers
        exchange.headers_at = time.monotonic() - start
        decode = decoder(exchange.encoding)
        async with aclosing(response.aiter_raw()) as pieces:
            async for piece in pieces:
                at = time.monotonic() - start
                exchange.pieces.append((at, piece))
                if decode is not None:
                    exchange.items += [(at, item) for item in parser.feed(decode(piece))]
                    exchange.faults[:] = [details for _, details in parser.faults]
                if enough is not None and enough(exchange):
                    return
        exchange.ended = Ended.COMPLETE


def decoder(encoding: str) -> Callable[[bytes], bytes] | None:
    """Return what undoes a content coding piece by piece; None where the standard library can't."""
    if not encoding:
        return bytes
    if encoding in {"gzip", "x-gzip", "deflate"}:
        undo = zlib.decompressobj(wbits=zlib.MAX_WBITS | 32)  # whichever of the two it is

        def decompress(piece: bytes) -> bytes:
            try:
                return undo.decompress(piece)
            except zlib.error:
                return b""

        return decompress
    return None
