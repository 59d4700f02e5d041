"""Notifications for one person or for all, on every page a browser has open.

Start it with `python examples/notifications/app.py` and open http://localhost:8000/?user=Ada in two tabs and
http://localhost:8000/?user=Bo in a third. What is meant for Ada is seen by Ada, in each of her tabs and on one connection; who
was away gets what came meanwhile. A real application knows the user from a login, and not from the URL.

This machine alone can reach it; with `EXAMPLE_HOST=0.0.0.0` in the environment, a phone can too.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from sse_starlette import EventSourceResponse, Hub

HERE = Path(__file__).parent
USERS = ("Ada", "Bo", "Cleo")

hub = Hub(linger=3_600)
everybody = hub.channel("everybody", history=50)
everybody.publish_nowait(
    {
        "event": "notification",
        "data": {
            "from": "Cleo",
            "to": "everybody",
            "text": "Lunch is at one",
            "at": time.time() * 1000,
        },
    }
)


def user_of(request: Request) -> str:
    """Who asks: the place for your session or token."""
    user = request.query_params.get("user", USERS[0])
    return user if user in USERS else USERS[0]


async def listen(request: Request) -> EventSourceResponse:
    own = hub.channel(f"user:{user_of(request)}", history=50)
    return EventSourceResponse(hub.subscribe([everybody, own], request, replay=10))


async def notify(request: Request) -> Response:
    message = await request.json()
    to, text = str(message["to"]), str(message["text"])[:200].strip()
    if not text or to not in (*USERS, "everybody"):
        return JSONResponse({"error": "a notification needs a text and a user"}, status_code=422)
    channel = everybody if to == "everybody" else hub.channel(f"user:{to}", history=50)
    data = {"from": user_of(request), "to": to, "text": text, "at": time.time() * 1000}
    return JSONResponse({"id": await channel.publish({"event": "notification", "data": data})})


async def page(_: Request) -> FileResponse:
    return FileResponse(HERE / "page.html")


app = Starlette(
    routes=[
        Route("/", page),
        Route("/listen", listen),
        Route("/notify", notify, methods=["POST"]),
        Mount("/shared", StaticFiles(directory=HERE.parent / "shared")),
        Mount("/sse", StaticFiles(packages=[("sse_starlette", "browser")])),
    ]
)

if __name__ == "__main__":
    uvicorn.run(app, host=os.environ.get("EXAMPLE_HOST", "127.0.0.1"), port=8000, log_level="info")
