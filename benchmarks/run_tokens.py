"""
What a token of a run costs, beside a plain `StreamingResponse` of the same tokens.

    python -m benchmarks.run_tokens

Processor time of one uvicorn process, in which each answer is made and read by one client. What Redis itself
needs is not in it.
"""

from __future__ import annotations

import asyncio
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from functools import partial
from itertools import count
from pathlib import Path

import httpx2
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from tests.servers.redis_servers import RedisServer
from tests.servers.serving import Server

from sse_starlette import EventSourceResponse, Hub

ANSWERS, TOKENS, PAUSE, ROUNDS = 20, 200, 0.02, 5


async def tokens() -> AsyncIterator[dict[str, str]]:
    """An answer: a word every 20 ms."""
    for number in range(TOKENS):
        yield {"event": "token", "data": f"word{number}"}
        await asyncio.sleep(PAUSE)


async def frames() -> AsyncIterator[bytes]:
    """The same as bytes, as an application makes them that needs nothing else."""
    async for token in tokens():
        yield f"event: {token['event']}\r\ndata: {token['data']}\r\n\r\n".encode()


def app_on(log: str) -> Starlette:
    """An application with the three ways to answer; LOG is `memory`, or a URL."""
    hub = Hub() if log == "memory" else Hub(log)
    keys = map(str, count())

    async def answer(request: Request) -> Response:
        way = request.path_params["way"]
        if way == "plain":
            return StreamingResponse(frames(), media_type="text/event-stream")
        if way == "response":
            return EventSourceResponse(tokens())
        run = await hub.run(next(keys), partial(tokens), ttl=1)
        return EventSourceResponse(run.subscribe())

    async def cpu(_: Request) -> Response:
        return JSONResponse(time.process_time())

    return Starlette(routes=[Route("/cpu", cpu), Route("/{way}", answer)], lifespan=hub.lifespan)


async def microseconds(url: str, way: str) -> float:
    """Processor time of a token."""
    limits = httpx2.Limits(max_connections=None)
    async with httpx2.AsyncClient(base_url=url, timeout=60, limits=limits) as http:

        async def read() -> None:
            answer = await http.get(f"/{way}")
            assert answer.content.count(b"data: word") == TOKENS

        before = (await http.get("/cpu")).json()
        await asyncio.gather(*(read() for _ in range(ANSWERS)))
        after = (await http.get("/cpu")).json()
    return float(after - before) / (ANSWERS * TOKENS) * 1e6


def main() -> None:
    """Measure all ways by turns, and print the medians."""
    with (
        tempfile.TemporaryDirectory() as folder,
        RedisServer(Path(folder)) as redis,
        Server([sys.executable, "-m", "benchmarks.run_tokens", "memory"]) as memory,
        Server([sys.executable, "-m", "benchmarks.run_tokens", redis.url]) as shared,
    ):
        ways = {
            "StreamingResponse": (memory.url, "plain"),
            "EventSourceResponse": (memory.url, "response"),
            "a run, in memory": (memory.url, "run"),
            "a run, on Redis": (shared.url, "run"),
        }
        found: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(ROUNDS):
            for name, (url, way) in ways.items():
                found[name].append(asyncio.run(microseconds(url, way)))
    plain = found["StreamingResponse"]
    for name, took in found.items():
        ratios = [one / base for one, base in zip(took, plain, strict=True)]
        print(
            f"{name}: {statistics.median(took):.0f} µs a token, {statistics.median(ratios):.2f} times"
            f" ({min(ratios):.2f} to {max(ratios):.2f})"
        )


if __name__ == "__main__":
    if sys.argv[1:]:
        uvicorn.run(app_on(sys.argv[1]), port=0, access_log=False, use_colors=False)
    else:
        main()
