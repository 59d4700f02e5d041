"""aiohttp-sse, on aiohttp's own server: `python aiohttp_sse_app.py PORT`."""

from __future__ import annotations

import gc
import resource
import sys

import uvloop
from aiohttp import web
from aiohttp_sse import sse_response
from workload import Workload, fields_of

work = Workload(fields_of)


async def stream(request: web.Request) -> web.StreamResponse:
    """Stream as many events as asked for."""
    async with sse_response(request) as response:
        async for fields in work.stream(int(request.query["n"])):
            await response.send(**fields)
    return response


async def idle(request: web.Request) -> web.StreamResponse:
    """Stream pings, every 15 seconds unless another interval is asked for."""
    seconds = float(request.query.get("ping", "15"))
    async with sse_response(request, ping_interval=seconds) as response:
        async for fields in work.idle():
            await response.send(**fields)
    return response


async def one(request: web.Request) -> web.StreamResponse:
    """Stream one event."""
    async with sse_response(request) as response:
        async for fields in work.one():
            await response.send(**fields)
    return response


async def collect(_: web.Request) -> web.StreamResponse:
    """Tidy up, before memory is measured."""
    return web.json_response(gc.collect())


def main() -> None:
    """Serve."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    uvloop.install()
    app = web.Application()
    handlers = {"/stream": stream, "/idle": idle, "/one": one, "/control/collect": collect}
    app.add_routes([web.get(path, handler) for path, handler in handlers.items()])
    web.run_app(
        app, host="127.0.0.1", port=int(sys.argv[1]), access_log=None, print=None, backlog=4096
    )


if __name__ == "__main__":
    main()
