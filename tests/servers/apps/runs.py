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
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from sse_starlette import EventSourceResponse, Hub, Run
from sse_starlette.eventlogs.redis import RedisLog
from sse_starlette.eventlogs.sqlite import SQLiteLog

PAGE = """<!doctype html><title>A run</title><script>
globalThis.got = [];
globalThis.source = new EventSource(`/runs/${location.hash.slice(1)}`);
source.onmessage = ({ data }) => got.push(data);
for (const name of ["reset", "end", "stopped", "lost"]) source.addEventListener(name, () => got.push(name));
</script>"""


def hub_on(log: str) -> Hub:
    if log == "memory":
        return Hub()
    if log.startswith("sqlite:"):
        return Hub(SQLiteLog(log, synchronous="normal"))
    return Hub(RedisLog(log, timeout=2, probe=2))


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
        note("asked", request.path_params["key"])
        if run is None:
            return Response(status_code=204)
        return EventSourceResponse(run.subscribe(request))

    async def events(request: Request) -> Response:
        run = await hub.find_run(request.path_params["key"])
        return JSONResponse(run and [one.data for one in await run.events()])

    async def status(request: Request) -> Response:
        run = await hub.find_run(request.path_params["key"])
        return JSONResponse(run and await run.status())

    async def stop(request: Request) -> Response:
        run = await hub.find_run(request.path_params["key"])
        return JSONResponse(run and await run.stop())

    async def page(_: Request) -> Response:
        return HTMLResponse(PAGE)

    return Starlette(
        routes=[
            Route("/page", page),
            Route("/runs/{key}", start, methods=["POST"]),
            Route("/runs/{key}", read),
            Route("/runs/{key}/start", start_only, methods=["POST"]),
            Route("/runs/{key}/stop", stop, methods=["POST"]),
            Route("/runs/{key}/events", events),
            Route("/runs/{key}/status", status),
        ],
        lifespan=hub.lifespan,
    )


if __name__ == "__main__":
    log, journal, lease = sys.argv[1:]
    uvicorn.run(
        app_on(hub_on(log), Path(journal), float(lease)),
        host="127.0.0.1",
        port=0,
        access_log=False,
        use_colors=False,
        timeout_graceful_shutdown=1,
    )
