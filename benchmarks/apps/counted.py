"""What `bench --instructions` counts: `python counted.py CONTENDER PORT`, run by valgrind with `count.c` preloaded.

Everything is counted twice, for two lengths: their difference is what one more costs, without what is
done once. First with uvicorn's own protocol objects over transports that only keep what is written; then
by a server on the port, driven by the runner with `/control/begin`, `release` and `end`.
"""

from __future__ import annotations

import asyncio
import ctypes
import gc
import importlib
import json
import os
import sys
import traceback
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import uvicorn
import uvloop
from inprocess import TEXT, VALUE
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState
from workload import Receive, Scope, Send, frame_of

TOKEN_STREAMS = 50
SUBSCRIBERS = 100
MILLISECOND = 1_000_000

counter = ctypes.CDLL(None)
advance = counter.advance
advance.argtypes = [ctypes.c_int64]

Run = Callable[[int], Awaitable[int]]
"""Does something so many times; returns how many events have to be among what was written."""

written: list[bytes] = []
"""What the server has written to all transports."""


class Transport(asyncio.Transport):
    """Keeps what is written."""

    def __init__(self) -> None:
        """Be connected to nobody."""
        super().__init__({"peername": ("127.0.0.1", 1), "sockname": ("127.0.0.1", 80)})
        self.write = written.append  # type: ignore[method-assign,assignment]
        self.closing = False

    def is_closing(self) -> bool:
        """Whether it's closed."""
        return self.closing

    def close(self) -> None:
        """Close it."""
        self.closing = True

    def pause_reading(self) -> None:
        """Nothing comes anyway."""

    def resume_reading(self) -> None:
        """Nothing comes anyway."""


class Server:
    """The part of uvicorn that has nothing to do with sockets."""

    def __init__(self, app: Any) -> None:
        """Take an application."""
        self.config = uvicorn.Config(
            app, http="httptools", lifespan="off", access_log=False, log_level="warning"
        )
        self.config.load()
        self.state = ServerState()

    def open(self, path: str) -> HttpToolsProtocol:
        """Let a client connect and ask for a path."""
        protocol = HttpToolsProtocol(self.config, self.state, {}, asyncio.get_running_loop())
        protocol.connection_made(Transport())
        protocol.data_received(f"GET {path} HTTP/1.1\r\nHost: b\r\n\r\n".encode())
        return protocol


async def pass_time(milliseconds: int) -> None:
    """Let everybody finish, the clock go on, and the loop take notice: its time is that of its turn."""
    for _ in range(3):
        await asyncio.sleep(0)
    advance(milliseconds * MILLISECOND)
    await asyncio.sleep(0)


async def until(written_at_least: int) -> None:
    """Let the loop turn until so much has been written."""
    while len(written) < written_at_least:
        await asyncio.sleep(0)


async def count(name: str, lengths: tuple[int, int], run: Run) -> None:
    """Count both lengths, when everything is warm."""
    for length in (lengths[0], *lengths):
        written.clear()
        gc.collect()
        gc.freeze()
        counter.begin_counting()
        wanted = await run(length)
        counter.end_counting(f"{name} {length}".encode())
        came = b"".join(written).count(b"data:")
        if came != wanted:
            raise AssertionError(f"{name}: {came} events were written, not {wanted}")


# --- What is counted ------------------------------------------------------------------


def encoders(who: str) -> dict[str, Callable[[], bytes]]:
    """Encoders by name; of those who have none, the least that would do."""
    if who == "ours":
        from inprocess import sse_encoders

        return sse_encoders()
    return {
        "dict": partial(frame_of, "hello world number"),
        "text": lambda: b"data: %b\r\n\r\n" % "\r\ndata: ".join(TEXT.splitlines()).encode(),
        "json": lambda: b"data: %b\r\n\r\n" % json.dumps(VALUE, separators=(",", ":")).encode(),
    }


async def count_encoding(who: str) -> None:
    """Count what a value costs that is encoded."""
    for name, encode in encoders(who).items():

        async def run(times: int, encode: Callable[[], bytes] = encode) -> int:
            for _ in range(times):
                encode()
            return 0

        await count(f"encode {name}", (200, 1_200), run)


async def count_tokens(server: Server, work: Any, name: str, path: str) -> None:
    """Count what an event costs that comes alone."""
    opened = [server.open(path) for _ in range(TOKEN_STREAMS)]
    while len(work.waiting) < TOKEN_STREAMS:
        await asyncio.sleep(0)

    async def run(times: int) -> int:
        for turn in range(times):
            await pass_time(20)
            work.release()
            await until((turn + 1) * TOKEN_STREAMS)
        return times * TOKEN_STREAMS

    await count(name, (5, 20), run)
    await leave(server, opened)


async def count_deliveries(
    server: Server, name: str, path: str, publish: Callable[[str], Any]
) -> None:
    """Count what it costs to deliver to one of many what is published once."""
    opened = [server.open(path) for _ in range(SUBSCRIBERS)]
    for _ in range(20):
        await asyncio.sleep(0)

    async def run(times: int) -> int:
        for turn in range(times):
            await pass_time(50)
            if (publishing := publish("AAPL 187.44 +0.12")) is not None:
                await publishing
            await until((turn + 1) * SUBSCRIBERS)
        return times * SUBSCRIBERS

    await count(name, (5, 20), run)
    await leave(server, opened)


async def count_flood(server: Server, name: str) -> None:
    """Count what an event costs of a source that never waits."""

    async def run(events: int) -> int:
        protocol = server.open(f"/stream?n={events}")
        while not written or not written[-1].endswith(b"0\r\n\r\n"):
            await asyncio.sleep(0)
        await leave(server, [protocol])
        return events

    await count(name, (1_000, 4_000), run)


async def count_streams(server: Server, name: str, path: str) -> None:
    """Count what a stream costs that has one event, where another one is open, as on servers that have clients."""
    other = server.open("/idle")

    async def run(times: int) -> int:
        for _ in range(times):
            before = len(written)
            protocol = server.open(path)
            while len(written) == before or not written[-1].endswith(b"0\r\n\r\n"):
                await asyncio.sleep(0)
            await leave(server, [protocol], left=1)
        return times

    await count(name, (10, 40), run)
    await leave(server, [other])


async def leave(server: Server, opened: list[HttpToolsProtocol], left: int = 0) -> None:
    """Let clients leave, and wait for the end of their responses, but for so many that stay."""
    for protocol in opened:
        protocol.connection_lost(None)
    while len(server.state.tasks) > left:
        await asyncio.sleep(0)


# --- The whole server -----------------------------------------------------------------


class Ordered:
    """An application with the orders of the runner in front of it."""

    def __init__(self, app: Any, work: Any) -> None:
        """Take the application and its sources."""
        self.app = app
        self.work = work

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Obey, or pass on."""
        if scope["type"] != "http" or not scope["path"].startswith("/control/"):
            await self.app(scope, receive, send)
            return
        order, _, argument = scope["path"].removeprefix("/control/").partition("/")
        if order == "begin":
            gc.collect()
            gc.freeze()
            counter.begin_counting()
        elif order == "end":
            counter.end_counting(argument.replace("-", " ").encode())
        elif order == "release":
            for _ in range(int(argument)):
                await pass_time(20)
                self.work.release()
                while len(self.work.waiting) < TOKEN_STREAMS:
                    await asyncio.sleep(0)
        headers = [(b"content-length", b"0")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def count_everything(who: str, port: int) -> None:
    """Count one thing after the other, then serve until killed."""
    module = importlib.import_module({"ours": "sse"}.get(who, who))
    work = module.work
    server = Server(module.app.app)
    if who != "plain":
        await count_encoding(who)
    await count_tokens(server, work, "token", "/tokens")
    await count_streams(server, "stream", "/one")
    await count_flood(server, "flood")
    await count_deliveries(server, "queue", "/queue", work.publish)
    if who == "ours":
        publish = module.publish_to_channel
        await count_deliveries(server, "channel", "/channel", publish)
        await count_deliveries(server, "channel, endpoint", "/endpoint/channel", publish)
        await count_tokens(server, work, "token, endpoint", "/endpoint/tokens")
        await count_streams(server, "stream, endpoint", "/endpoint/one")
        from sse_starlette.metrics._tally import Tally
        from sse_starlette.observe import observe

        # What Prometheus and OpenTelemetry have at the streams; the rest is done when they ask.
        end = observe(Tally())
        await count_tokens(server, work, "token, observed", "/tokens")
        await count_streams(server, "stream, observed", "/one")
        await count_flood(server, "flood, observed")
        await count_deliveries(server, "channel, observed", "/channel", publish)
        end()
    if who == "bare":
        setattr(module, "JOINS", True)  # noqa: B010
        await count_deliveries(server, "channel", "/queue", module.write_to_all)
    config = uvicorn.Config(
        Ordered(module.app.app, work),
        port=port,
        http="httptools",
        lifespan="off",
        access_log=False,
        log_level="warning",
    )
    await uvicorn.Server(config).serve()


async def main() -> None:
    """Do what the command line says; with an error, end at once: timers come to nothing here."""
    try:
        await count_everything(sys.argv[1], int(sys.argv[2]))
    except Exception:
        traceback.print_exc()
        os._exit(1)


if __name__ == "__main__":
    uvloop.run(main())
