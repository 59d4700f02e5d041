"""Prices for pages that show them: one channel, and a way to publish."""

from __future__ import annotations

import dataclasses

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from sse_starlette import EventSourceResponse, Hub

hub = Hub()
prices = hub.channel("prices")


async def stream(request: Request) -> EventSourceResponse:
    return EventSourceResponse(prices.subscribe(request))


async def publish(request: Request) -> Response:
    await prices.publish({"event": "tick", "data": dict(request.query_params)})
    return Response()


async def stats(_: Request) -> Response:
    return JSONResponse(dataclasses.asdict(prices.stats()))


app = Starlette(
    routes=[
        Route("/prices", stream),
        Route("/publish", publish),
        Route("/stats", stats),
    ]
)
