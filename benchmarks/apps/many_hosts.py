"""One of many processes with the same channel: `python many_hosts.py PORT LOG`; no log: in memory."""

from __future__ import annotations

import sys

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.routing import Route
from workload import Controlled, Workload, fields_of

from sse_starlette import EventSourceResponse, Hub


def main() -> None:
    """Serve until asked to end."""
    port, log = sys.argv[1:]
    hub = Hub(log or None)
    prices = hub.channel("prices")

    async def subscribe(request: Request) -> EventSourceResponse:
        return EventSourceResponse(prices.subscribe(request))

    async def publish(data: str) -> None:
        await prices.publish(fields_of(data))

    app = Starlette(routes=[Route("/channel", subscribe)], lifespan=hub.lifespan)
    uvicorn.run(
        Controlled(app, Workload(fields_of), publish),
        host="127.0.0.1",
        port=int(port),
        loop="uvloop",
        http="httptools",
        access_log=False,
        log_level="warning",
        backlog=4096,
        timeout_graceful_shutdown=1,
    )


if __name__ == "__main__":
    main()
