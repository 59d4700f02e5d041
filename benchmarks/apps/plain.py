"""Starlette's `StreamingResponse` with frames that are bytes already."""

from __future__ import annotations

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.routing import Route
from workload import Controlled, Workload, frame_of

work = Workload(frame_of, encoded=True)


async def stream(request: Request) -> StreamingResponse:
    """Stream as many events as asked for."""
    return respond(work.stream(int(request.query_params["n"])))


async def paced(request: Request) -> StreamingResponse:
    """Stream events at a pace."""
    query = request.query_params
    return respond(work.paced(int(query["n"]), float(query["ms"])))


async def named(request: Request) -> StreamingResponse:
    """Stream a source that has no parameters."""
    return respond(getattr(work, request.url.path[1:])())


def respond(source: object) -> StreamingResponse:
    """Put a source into a response."""
    return StreamingResponse(source, media_type="text/event-stream")  # type: ignore[arg-type]


app = Controlled(
    Starlette(
        routes=[
            Route("/stream", stream),
            Route("/paced", paced),
            *[
                Route(f"/{name}", named)
                for name in ("idle", "one", "left", "tokens", "queue", "replay")
            ],
        ]
    ),
    work,
)
