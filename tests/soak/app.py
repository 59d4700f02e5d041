"""What is soaked: a channel and a source behind a policy, and figures of the process that serves them."""

from __future__ import annotations

import asyncio
import ctypes
import gc
import os
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from sse_starlette import EventSourceResponse, Hub, StreamPolicy, drain

TOTAL = int(os.environ.get("SOAK_TOTAL", "100000"))
EVERY_SECONDS = float(os.environ.get("SOAK_EVERY", "1"))
BURST = 300
"""Events that are published at once now and then: more than the channel keeps."""

hub = Hub()
channel = hub.channel("soak", history=200)
counts = {"begun": 0, "cleaned": 0, "closed": 0}


async def still_there(request: object) -> bool:
    return True


policy = StreamPolicy(
    total=TOTAL,
    listener=lambda request: request.query_params.get("who"),
    max_age=120,
    send_timeout=5,
    revalidate=still_there,
)


def closed(reason: object) -> None:
    counts["closed"] += 1


async def numbers() -> AsyncIterator[dict[str, Any]]:
    counts["begun"] += 1
    try:
        for number in range(1_000_000):
            yield {"id": number, "data": "x" * 100}
            await asyncio.sleep(1)
    finally:
        counts["cleaned"] += 1


async def from_channel(request: Request) -> Response:
    return EventSourceResponse(channel.subscribe(request), policy=policy, ping=5, on_close=closed)


async def from_source(request: Request) -> Response:
    return EventSourceResponse(numbers(), policy=policy, ping=5, on_close=closed)


async def end_all(request: Request) -> Response:
    drain(spread=1)
    return Response("draining\n")


def memory_kib() -> int:
    status = Path("/proc/self/status").read_text("ascii")
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmRSS")))


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


async def figures(request: Request) -> Response:
    if "collect" in request.query_params:
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)
    return JSONResponse(
        {
            "memory_kib": memory_kib(),
            "tasks": len(asyncio.all_tasks()),
            "descriptors": descriptors(),
            "threads": threading.active_count(),
            "streams": policy.open,
            "refused": policy.refused,
            "subscribers": channel.stats().subscribers,
            "lagging": channel.stats().disconnected,
            "published": channel.head,
            **counts,
        }
    )


async def publish() -> None:
    for number in range(1_000_000):
        await channel.publish({"data": f"{number} " + "x" * 200})
        if number % 20 == 19:
            for _ in range(BURST):
                channel.publish_nowait({"data": "x" * 2_000})
        await asyncio.sleep(EVERY_SECONDS)


@asynccontextmanager
async def lifespan(app: object) -> AsyncIterator[None]:
    publishing = asyncio.create_task(publish())
    yield
    publishing.cancel()


app = Starlette(
    routes=[
        Route("/channel", from_channel),
        Route("/source", from_source),
        Route("/drain", end_all, methods=["POST"]),
        Route("/figures", figures),
    ],
    lifespan=lifespan,
)
