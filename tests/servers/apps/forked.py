"""An application whose hub is made before its workers are forked (`gunicorn --preload`)."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from starlette.applications import Starlette
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from sse_starlette import EventSourceResponse, Hub

if TYPE_CHECKING:
    from starlette.requests import Request

hub = Hub()
news = hub.channel("news")
news.publish_nowait("before the fork")


async def stream(request: Request) -> Response:
    return EventSourceResponse(
        news.subscribe(request, replay=1), headers={"x-worker": str(os.getpid())}
    )


async def publish(request: Request) -> Response:
    event_id = await news.publish(request.query_params["text"])
    return JSONResponse({"worker": os.getpid(), "id": event_id})


app = Starlette(
    routes=[Route("/stream", stream), Route("/publish", publish, methods=["POST"])],
    lifespan=hub.lifespan,
)
