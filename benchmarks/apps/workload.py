"""What every Python server of the benchmarks is asked to do, and how it is told.

The same sources, events and publishers for all, so that only the library differs. `Controlled` puts
the orders of the runner in front of an ASGI application: they never pass through what is measured.
"""

from __future__ import annotations

import asyncio
import gc
import json
import time
import tracemalloc
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from inspect import isawaitable
from typing import Any
from urllib.parse import parse_qs

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]
Fields = dict[str, Any]

KEPT = 100
"""How many events a client that comes back is given."""


def fields_of(data: str) -> Fields:
    """The small event of all scenarios; a new dict, as an application would make it."""
    return {"event": "tick", "data": data}


def frame_of(data: str) -> bytes:
    """The same event as bytes, for those who don't encode."""
    return f"event: tick\r\ndata: {data}\r\n\r\n".encode()


def same(fields: Fields) -> Fields:
    """Yield fields as they are."""
    return fields


def stamped(text: str = "AAPL 187.44 +0.12") -> str:
    """The time, for the load client, and some text."""
    return f"@{time.monotonic_ns()} {text}"


class Workload:
    """The sources of one application, and those who wait for what is published."""

    def __init__(self, make: Callable[[str], Any], *, encoded: bool = False) -> None:
        """Take what makes an event out of its data; `encoded`: once, where it is published."""
        self.make = make
        self.encoded = encoded
        self.queues: set[asyncio.Queue[Any]] = set()
        self.closed_ns: list[int] = []
        self.kept: list[str] = []
        self.waiting: list[asyncio.Future[None]] = []

    async def stream(self, events: int) -> AsyncIterator[Any]:
        """As many events as fast as they are taken; never waits."""
        make = self.make
        for _ in range(events):
            yield make("hello world number")

    async def paced(self, events: int, milliseconds: float) -> AsyncIterator[Any]:
        """One event every so often, each with the time at which it was due."""
        loop = asyncio.get_running_loop()
        offset = time.monotonic_ns() - loop.time() * 1e9
        due = loop.time()
        for _ in range(events):
            due += milliseconds / 1000
            wait = due - loop.time()
            if wait > 0:
                await asyncio.sleep(wait)
            yield self.make(f"@{int(due * 1e9 + offset)} token")

    async def tokens(self) -> AsyncIterator[Any]:
        """One event for each `release`."""
        loop = asyncio.get_running_loop()
        while True:
            released = loop.create_future()
            self.waiting.append(released)
            try:
                await released
            finally:
                # Here, too, if the client has left.
                if released in self.waiting:
                    self.waiting.remove(released)
            yield self.make("hello world number")

    def release(self) -> None:
        """Let everybody who waits in `tokens` have the next one."""
        waiting, self.waiting = self.waiting, []
        for released in waiting:
            released.set_result(None)

    async def idle(self) -> AsyncIterator[Any]:
        """No event, ever."""
        await asyncio.get_running_loop().create_future()
        yield self.make("")

    async def one(self) -> AsyncIterator[Any]:
        """One event."""
        yield self.make("hello world number")

    async def left(self) -> AsyncIterator[Any]:
        """One event, then the time at which the source is told that its client has gone."""
        try:
            yield self.make("hello world number")
            await asyncio.get_running_loop().create_future()
        finally:
            self.closed_ns.append(time.monotonic_ns())

    async def queue(self) -> AsyncIterator[Any]:
        """What is published, through a queue of one's own."""
        queue: asyncio.Queue[Any] = asyncio.Queue()
        self.queues.add(queue)
        try:
            while True:
                item = await queue.get()
                yield item if self.encoded else self.make(item)
        finally:
            self.queues.discard(queue)

    async def replay(self) -> AsyncIterator[Any]:
        """What was kept, then what is published."""
        for data in self.kept[-KEPT:]:
            yield self.make(data)
        async for item in self.queue():
            yield item

    def publish(self, data: str) -> None:
        """Put an event into every queue."""
        item = self.make(data) if self.encoded else data
        for queue in self.queues:
            queue.put_nowait(item)


async def publish_for(
    publish: Callable[[str], Any], *, seconds: float, rate: float, size: int
) -> int:
    """
    Publish for so many seconds; return how many events that were.

    Args:
        publish: publishes one event; may be asynchronous.
        seconds: how long.
        rate: events a second; 0: as many as possible, with a turn of the loop after each.
        size: bytes of text in each event; 0: a few.
    """
    text = "x" * size or "AAPL 187.44 +0.12"
    published = 0
    loop = asyncio.get_running_loop()
    began = loop.time()
    while (passed := loop.time() - began) < seconds:
        due = int(passed * rate) + 1 if rate else published + 1
        while published < due:
            result = publish(stamped(text))
            if isawaitable(result):
                await result
            published += 1
        wait = began + published / rate - loop.time() if rate else 0.0
        # A timer of less than a millisecond is none on uvloop: what is due by then goes out together.
        await asyncio.sleep(0 if not rate else max(0.001 if rate > 500 else 0.0, wait))
    return published


OWNERS = {
    "server": ("/uvicorn/", "/asyncio/", "/uvloop/", "/httptools/"),
    "starlette": ("/starlette/", "/anyio/"),
    "ours": ("/sse_starlette/",),
    "application": ("/benchmarks/apps/",),
}


def traced_by_owner() -> dict[str, int]:
    """Return the bytes that Python holds, by whose code has allocated them."""
    gc.collect()
    held: dict[str, int] = {}
    for one in tracemalloc.take_snapshot().statistics("filename"):
        name = one.traceback[0].filename
        found = [owner for owner, parts in OWNERS.items() if any(part in name for part in parts)]
        owner = found[0] if found else "other"
        held[owner] = held.get(owner, 0) + one.size
    return held


class Controlled:
    """An application with the orders of the runner in front of it."""

    def __init__(self, app: App, workload: Workload, channels: Any = None) -> None:
        """Take the application; `channels` has a `publish(data)` of another kind."""
        self.app = app
        self.workload = workload
        self.publishers: dict[str, Callable[[str], Any]] = {"queue": workload.publish}
        if channels is not None:
            self.publishers["channel"] = channels

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Obey, or pass on."""
        if scope["type"] != "http" or not scope["path"].startswith("/control/"):
            await self.app(scope, receive, send)
            return
        query = {
            name: values[0] for name, values in parse_qs(scope["query_string"].decode()).items()
        }
        answer = json.dumps(
            await self.obey(scope["path"].removeprefix("/control/"), query)
        ).encode()
        headers = [(b"content-length", str(len(answer)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": answer, "more_body": False})

    async def obey(self, order: str, query: dict[str, str]) -> Any:
        """Do what the runner wants."""
        if order == "publish":
            return await publish_for(
                self.publishers[query["to"]],
                seconds=float(query["seconds"]),
                rate=float(query["rate"]),
                size=int(query.get("size", "0")),
            )
        if order == "keep":
            for _ in range(KEPT):
                data = stamped()
                self.workload.kept.append(data)
                for publish in self.publishers.values():
                    publish(data)
            return None
        if order == "closed":
            return self.workload.closed_ns
        if order == "collect":
            return gc.collect()
        if order == "traced":
            return traced_by_owner()
        raise ValueError(order)
