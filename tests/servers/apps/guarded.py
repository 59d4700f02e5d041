"""One of several processes that let in who has a ticket, and end the streams of whom they are told: `guarded.py LOG`."""

from __future__ import annotations

import sys

from one_of_many import (  # type: ignore[import-not-found,unused-ignore]  # found beside this file
    serve,
)
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from sse_starlette import EventSourceResponse, Hub
from sse_starlette.tickets import Tickets

hub = Hub(sys.argv[1])
news = hub.channel("news")
tickets = Tickets("a secret that both processes have", hub=hub)


async def ticket(request: Request) -> Response:
    return PlainTextResponse(tickets.issue(request.query_params["listener"], path="/events"))


async def events(request: Request) -> Response:
    listener = await tickets.redeem(request)
    return EventSourceResponse(news.subscribe(request), listener=listener)


async def publish(request: Request) -> Response:
    return PlainTextResponse(await news.publish(request.query_params["data"]))


async def revoke(request: Request) -> Response:
    await hub.revoke(request.query_params["listener"])
    return Response(status_code=204)


if __name__ == "__main__":
    routes = [
        Route("/ticket", ticket),
        Route("/events", events),
        Route("/publish", publish),
        Route("/revoke", revoke),
    ]
    serve(Starlette(routes=routes, lifespan=hub.lifespan))
