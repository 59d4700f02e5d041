"""The floor and the ceiling: ASGI without a library. No pings, no encoding, nothing is cleaned up.

The floor awaits one `send` per event. The ceiling joins what it may into 64 KiB; for those who
subscribe its publisher writes to every client itself, without back-pressure.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import parse_qs

from workload import Controlled, Receive, Scope, Send, Workload, frame_of

JOINS = os.environ.get("BENCH_BARE") == "ceiling"
JOINED_BYTES = 65_536
START = {
    "type": "http.response.start",
    "status": 200,
    "headers": [(b"content-type", b"text/event-stream"), (b"cache-control", b"no-store")],
}

work = Workload(frame_of, encoded=True)
writers: set[Send] = set()


def body(frame: bytes) -> dict[str, Any]:
    """Put a frame into a message."""
    return {"type": "http.response.body", "body": frame, "more_body": True}


async def joined(source: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Join the frames of a source that never waits."""
    ready: list[bytes] = []
    size = 0
    async for frame in source:
        ready.append(frame)
        size += len(frame)
        if size >= JOINED_BYTES:
            yield b"".join(ready)
            ready, size = [], 0
    if ready:
        yield b"".join(ready)


async def pinged(seconds: float) -> AsyncIterator[bytes]:
    """Nothing but pings."""
    while True:
        await asyncio.sleep(seconds)
        yield f": ping - {time.time()}\r\n\r\n".encode()


def source_of(path: str, query: dict[str, str]) -> AsyncIterator[bytes]:
    """Find what a path stands for."""
    if path == "/stream":
        stream = work.stream(int(query["n"]))
        return joined(stream) if JOINS else stream
    if path == "/paced":
        return work.paced(int(query["n"]), float(query["ms"]))
    if path == "/idle":
        return pinged(float(query["ping"])) if "ping" in query else work.idle()
    named = {
        "/one": work.one,
        "/left": work.left,
        "/tokens": work.tokens,
        "/queue": work.queue,
        "/replay": work.replay,
    }
    return named[path]()


async def subscribe(receive: Receive, send: Send) -> None:
    """Be written to by the publisher, until the client leaves."""
    writers.add(send)
    try:
        while (await receive())["type"] != "http.disconnect":
            pass
    finally:
        writers.discard(send)


async def write_to_all(data: str) -> None:
    """Write an event to every client."""
    message = body(frame_of(data))
    for write in list(writers):
        await write(message)


async def stream(scope: Scope, receive: Receive, send: Send) -> None:
    """Send what the path stands for."""
    if scope["type"] != "http":
        return
    await send(START)
    query = {name: values[0] for name, values in parse_qs(scope["query_string"].decode()).items()}
    path = scope["path"]
    if JOINS and path == "/queue":
        await subscribe(receive, send)
        return
    if JOINS and path == "/replay":
        await send(body(b"".join(map(frame_of, work.kept))))
        await subscribe(receive, send)
        return
    if path in ("/idle", "/left", "/tokens", "/queue", "/replay"):
        task = asyncio.current_task()
        watcher = asyncio.ensure_future(receive_end(receive, task))
    else:
        watcher = None
    source = source_of(path, query)
    try:
        async for frame in source:
            await send(body(frame))
        await send({"type": "http.response.body", "body": b"", "more_body": False})
    except asyncio.CancelledError:
        pass
    finally:
        if watcher is not None:
            watcher.cancel()


async def receive_end(receive: Receive, task: asyncio.Task[Any] | None) -> None:
    """Cancel a stream when its client has left."""
    while (await receive())["type"] != "http.disconnect":
        pass
    if task is not None:
        task.cancel()


app = Controlled(stream, work, write_to_all if JOINS else None)
if JOINS:
    app.publishers["queue"] = write_to_all
