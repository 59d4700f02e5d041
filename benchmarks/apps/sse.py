"""`sse_starlette`, this one or the 3.7.0 of the other environment: word for word the same code.

What only this one has, channels, is served where there is one.
"""

from __future__ import annotations

import os
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.routing import Route
from workload import Controlled, Workload, fields_of

import sse_starlette
from sse_starlette import EventSourceResponse

work = Workload(fields_of)


async def stream(request: Request) -> EventSourceResponse:
    """Stream as many events as asked for."""
    return EventSourceResponse(work.stream(int(request.query_params["n"])))


async def paced(request: Request) -> EventSourceResponse:
    """Stream events at a pace."""
    query = request.query_params
    return EventSourceResponse(work.paced(int(query["n"]), float(query["ms"])))


async def idle(request: Request) -> EventSourceResponse:
    """Stream pings, every 15 seconds unless another interval is asked for."""
    ping = request.query_params.get("ping")
    return EventSourceResponse(work.idle(), ping=None if ping is None else int(ping))


async def named(request: Request) -> EventSourceResponse:
    """Stream a source that has no parameters."""
    return EventSourceResponse(getattr(work, request.url.path[1:])())


def source_named(name: str) -> Any:
    """Return a function of the request that streams a source that has no parameters."""
    return lambda _: getattr(work, name)()


routes = [
    Route("/stream", stream),
    Route("/paced", paced),
    Route("/idle", idle),
    *[Route(f"/{name}", named) for name in ("one", "left", "tokens", "queue", "replay")],
]
publish_to_channel: Any = None

if hasattr(sse_starlette, "Hub"):
    prices = sse_starlette.Hub().channel("prices")
    if "BENCH_HISTORY" in os.environ:
        prices = sse_starlette.Hub().channel("more", history=int(os.environ["BENCH_HISTORY"]))

    async def subscribe(request: Request) -> EventSourceResponse:
        """Subscribe to the channel, from where the client left off."""
        query = request.query_params
        since = query.get("since")
        return EventSourceResponse(
            prices.subscribe(f"{prices.epoch}.{since}" if since is not None else request),
            ping=int(query["ping"]) if "ping" in query else None,
        )

    def publish_to_channel(data: str) -> None:
        """Publish on the channel."""
        prices.publish_nowait(fields_of(data))

    routes.append(Route("/channel", subscribe))
    # Where as many routes are looked at before `/endpoint/one` as without an endpoint before `/one`, and elsewhere.
    routes[3:3] = [Route("/endpoint/one", sse_starlette.EventSourceEndpoint(source_named("one")))]
    routes += [
        Route("/endpoint/channel", sse_starlette.EventSourceEndpoint(prices.subscribe)),
        *[
            Route(f"/endpoint/{name}", sse_starlette.EventSourceEndpoint(source_named(name)))
            for name in ("idle", "tokens")
        ],
    ]

app = Controlled(Starlette(routes=routes), work, publish_to_channel)
