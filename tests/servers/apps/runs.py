"""One of many processes that make and read runs: `runs.py LOG JOURNAL LEASE`; LOG is `memory`, or a URL.

A run makes numbered tokens. What its source does is noted in the JOURNAL, a file that all processes share.
"""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import anyio
from one_of_many import (  # type: ignore[import-not-found,unused-ignore]  # found beside this file
    hub_on,
    serve,
)
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from sse_starlette import EventSourceResponse, Hub, Run


def app_on(hub: Hub, journal: Path, lease: float) -> Starlette:
    def note(what: str, key: str) -> None:
        with journal.open("a", encoding="utf-8") as file:
            file.write(f"{what} {key} {os.getpid()}\n")

    async def tokens(key: str, count: int, pause: float) -> AsyncIterator[str]:
        note("began", key)
        try:
            for number in range(count):
                yield f"{key} {number}"
                await anyio.sleep(pause)
        finally:
            note("closed", key)

    async def started(request: Request) -> Run:
        key, query = request.path_params["key"], request.query_params
        source = partial(tokens, key, int(query["count"]), float(query["pause"]))
        restart = query.getlist("restart")
        return await hub.run(
            key, source, lease=lease, restart=restart, end_event={"event": "end", "data": "-"}
        )

    async def start(request: Request) -> Response:
        return EventSourceResponse((await started(request)).subscribe(request))

    async def start_only(request: Request) -> Response:
        return JSONResponse((await started(request)).started)

    async def read(request: Request) -> Response:
        run = await hub.find_run(request.path_params["key"])
        if run is None:
            return Response(status_code=204)
        return EventSourceResponse(run.subscribe(request))

    async def events(request: Request) -> Response:
        run = await hub.find_run(request.path_params["key"])
        return JSONResponse(run and [one.data for one in await run.events()])

    return Starlette(
        routes=[
            Route("/runs/{key}", start, methods=["POST"]),
            Route("/runs/{key}", read),
            Route("/runs/{key}/start", start_only, methods=["POST"]),
            Route("/runs/{key}/events", events),
        ],
        lifespan=hub.lifespan,
    )


if __name__ == "__main__":
    log, journal, lease = sys.argv[1:]
    hub = Hub() if log == "memory" else hub_on(log)
    serve(app_on(hub, Path(journal), float(lease)))
