"""A chat: many browsers, one channel.

Start it with `python examples/chat/app.py` and open http://localhost:8000/ in several windows, twelve if
you like: those of one browser share one connection. Who
comes gets the last fifty messages and then each new one; who was cut off gets what was said
meanwhile, and nothing twice. There's no database and no session: that's all in the channel.

This machine alone can reach it; with `EXAMPLE_HOST=0.0.0.0` in the environment, a phone can too.
"""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from sse_starlette import EventSourceResponse, Hub

HERE = Path(__file__).parent

hub = Hub()
messages = hub.channel("messages", history=500)
people = hub.channel("people", history=1)  # only the newest list counts

connections: Counter[str] = Counter()
"""How many each name has: one for each browser."""
told: list[str] = []
"""Who is here, as everybody has been told."""


async def listen(request: Request) -> EventSourceResponse:
    """Both channels on one stream, from where the browser left off."""
    name = request.query_params.get("name", "")[:30].strip() or "Somebody"

    async def leave() -> None:
        connections[name] -= 1
        await tell_who_is_here()

    connections[name] += 1
    await tell_who_is_here()
    return EventSourceResponse(
        hub.subscribe([messages, people], request, replay=50),
        on_close=lambda _: leave(),
    )


async def tell_who_is_here() -> None:
    global told  # noqa: PLW0603  (the example has one chat)
    here = sorted(name for name, count in connections.items() if count > 0)
    if here != told:
        told = here
        await people.publish({"event": "people", "data": here})


async def say(request: Request) -> Response:
    """Publish a message. The browser may send it twice; the key makes it one."""
    message = await request.json()
    name, text = str(message["name"])[:30].strip(), str(message["text"])[:2000].strip()
    if not name or not text:
        return JSONResponse({"error": "a message needs a name and a text"}, status_code=422)
    event_id = await messages.publish(
        {"event": "message", "data": {"name": name, "text": text, "at": message.get("at")}},
        key=str(message["key"]),
    )
    return JSONResponse({"id": event_id})


async def page(_: Request) -> FileResponse:
    return FileResponse(HERE / "page.html")


app = Starlette(
    routes=[
        Route("/", page),
        Route("/listen", listen),
        Route("/say", say, methods=["POST"]),
        Mount("/shared", StaticFiles(directory=HERE.parent / "shared")),
        Mount("/sse", StaticFiles(packages=[("sse_starlette", "browser")])),
    ]
)

if __name__ == "__main__":
    uvicorn.run(app, host=os.environ.get("EXAMPLE_HOST", "127.0.0.1"), port=8000, log_level="info")
