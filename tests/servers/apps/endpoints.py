"""A stream as the endpoint of a route: a channel with a check."""

from __future__ import annotations

from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from sse_starlette import Hub

hub = Hub()
prices = hub.channel("prices")


async def may_listen(request: Request) -> dict[str, Any]:
    if (user := request.headers.get("user")) is None:
        raise HTTPException(401, "who are you?")
    return {"filter": lambda event: event.event == user}


async def publish(request: Request) -> JSONResponse:
    ids = [await prices.publish({"event": to, "data": to}) for to in request.query_params["to"]]
    return JSONResponse({"ids": ids, "subscribers": prices.stats().subscribers})


app = Starlette(
    routes=[
        Route("/prices", hub.endpoint("prices", check=may_listen)),
        Route("/publish", publish, methods=["POST"]),
    ]
)
