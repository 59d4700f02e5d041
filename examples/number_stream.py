"""The numbers 1 to 5, one every 0.9 seconds.

Start it with `python number_stream.py`. The stream at `/` is for `curl -N http://localhost:8000/`;
http://localhost:8000/page shows what a terminal can't: how a browser comes back when the stream has
ended, and the pings that keep a silent stream open.

This machine alone can reach it; with `EXAMPLE_HOST=0.0.0.0` in the environment, a phone can too.
"""

# The first part is to be read without any knowledge of types.
# mypy: disable-error-code="no-untyped-def, no-untyped-call"
# ruff: noqa: ANN001, ANN201, ANN202, ARG001, C408

import asyncio
import os
from pathlib import Path

import uvicorn
from starlette.applications import Starlette
from starlette.responses import FileResponse
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from sse_starlette.sse import EventSourceResponse


async def numbers(minimum, maximum):
    for i in range(minimum, maximum + 1):
        await asyncio.sleep(0.9)
        yield dict(data=i)


async def sse(request):
    generator = numbers(1, 5)
    return EventSourceResponse(generator)


# --- The page -------------------------------------------------------------------------

HERE = Path(__file__).parent


async def page(request):
    return FileResponse(HERE / "number_stream" / "page.html")


async def five_more(request):
    # The browser sends the id of the last event it got, so we go on from there.
    cursor = request.headers.get("last-event-id", "")
    last = int(cursor) if cursor.isdecimal() and len(cursor) < 10 else 0

    async def events():
        yield dict(event="welcome", data={"last_event_id": cursor}, retry=1000)
        if last == 0:
            # Ends at once, for the page to show soon how the browser comes back.
            yield dict(data=1, id=1)
            return
        async for event in numbers(last + 1, last + 5):
            yield dict(event, id=event["data"])

    return EventSourceResponse(events())


async def silence(request):
    async def nothing():
        await asyncio.Event().wait()
        yield

    return EventSourceResponse(nothing(), ping=3)


routes = [
    Route("/", endpoint=sse),
    Route("/page", endpoint=page),
    Route("/page/numbers", endpoint=five_more),
    Route("/page/silence", endpoint=silence),
    Mount("/shared", StaticFiles(directory=HERE / "shared")),
]

app = Starlette(debug=True, routes=routes)

if __name__ == "__main__":
    uvicorn.run(app, host=os.environ.get("EXAMPLE_HOST", "127.0.0.1"), port=8000, log_level="info")
