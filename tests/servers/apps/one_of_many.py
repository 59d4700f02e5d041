"""One of many processes whose channels are on one log: `one_of_many.py LOG PORT HISTORY`.

Serves channels and publishes nothing. What any of the processes serves, any other can go on with.
"""

from __future__ import annotations

import sys

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from sse_starlette import EventSourceResponse, Hub
from sse_starlette.eventlogs.redis import RedisLog
from sse_starlette.eventlogs.sqlite import SQLiteLog


def hub_on(log: str) -> Hub:
    """A hub that is less patient than usual with a Redis that says nothing, and spares the disk."""
    if log.startswith("sqlite:"):
        return Hub(SQLiteLog(log, synchronous="normal"))
    return Hub(RedisLog(log, timeout=2, probe=2))


def app_on(hub: Hub, history: int) -> Starlette:
    async def stream(request: Request) -> Response:
        names = request.path_params["names"].split(",")
        channels = [hub.channel(name, history=history) for name in names]
        return EventSourceResponse(hub.subscribe(channels, request))

    async def ready(_: Request) -> Response:
        return Response(status_code=204 if await hub.ready() else 503)

    return Starlette(
        routes=[Route("/ready", ready), Route("/stream/{names}", stream)],
        lifespan=hub.lifespan,
    )


def serve(app: Starlette, port: int = 0) -> None:
    uvicorn.run(
        app,
        host="127.0.0.1",
        port=port,
        access_log=False,
        use_colors=False,
        timeout_graceful_shutdown=2,
    )


if __name__ == "__main__":
    log, port, history = sys.argv[1:]
    serve(app_on(hub_on(log), int(history)), int(port))
