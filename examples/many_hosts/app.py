"""What each of the processes serves: the numbers of a channel that they all share. `run.py` starts them."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import uvicorn
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from sse_starlette import EventSourceResponse, Hub, ServerSentEvent, Subscription

KEPT = 1_000
RETRY_MS = 300


def make_app(name: str, log: str) -> Starlette:
    hub = Hub(log)

    async def page(_: Request) -> FileResponse:
        return FileResponse(Path(__file__).with_name("page.html"))

    async def listen(request: Request) -> EventSourceResponse:
        """The numbers, from where the browser left off, whichever process it was connected to."""
        return EventSourceResponse(
            introduced(hub.channel("numbers", history=KEPT).subscribe(request))
        )

    async def introduced(
        numbers: Subscription,
    ) -> AsyncIterator[ServerSentEvent]:
        """First who we are, on each connection. A page that needn't know subscribes, and that's all."""
        yield ServerSentEvent({"name": name, "pid": os.getpid()}, event="host", retry=RETRY_MS)
        async with numbers:
            async for number in numbers:
                yield number

    async def die(_: Request) -> Response:
        return Response(status_code=202, background=BackgroundTask(crash))

    async def crash() -> None:
        # For the answer to be on its way.
        await anyio.sleep(0.05)
        os.kill(os.getpid(), signal.SIGKILL)

    return Starlette(
        routes=[
            Route("/", page),
            Route("/listen", listen),
            Route(f"/hosts/{name}/die", die, methods=["POST"]),
            Mount("/shared", StaticFiles(directory=Path(__file__).parents[1] / "shared")),
        ],
        lifespan=hub.lifespan,
    )


if __name__ == "__main__":
    name, log, socket = sys.argv[1:]
    uvicorn.run(make_app(name, log), uds=socket, log_level="warning", timeout_graceful_shutdown=1)
