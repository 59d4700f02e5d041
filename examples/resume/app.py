"""Pull the cable, and see that nothing is missed.

Start it with `python examples/resume/app.py` and open http://localhost:8000/. The server counts, five
numbers a second, whoever listens. The page can have its connection cut in the middle of an event, for
some seconds: `EventSource` comes back by itself, and the channel sends what it has missed. It keeps
the newest forty numbers; who is away for longer than that is told so.

This machine alone can reach it; with `EXAMPLE_HOST=0.0.0.0` in the environment, a phone can too.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import Message, Receive, Scope, Send

from sse_starlette import EventSourceResponse, Hub, last_event_id

KEPT = 40
RETRY_MS = 400

hub = Hub()
numbers = hub.channel("numbers", history=KEPT)


async def count() -> None:
    number = 0
    while True:
        number += 1
        await numbers.publish({"data": number})
        await anyio.sleep(0.2)


@asynccontextmanager
async def lifespan(_: Starlette) -> AsyncIterator[None]:
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(count)
        yield
        tasks.cancel_scope.cancel()


async def listen(request: Request) -> Response | OverCable:
    """The numbers, from where the browser left off."""
    cable = cable_of(request)
    if cable.is_pulled():
        cable.refused += 1
        # What an EventSource doesn't take amiss: a stream that ends at once. It tries again.
        return EventSourceResponse([{"retry": RETRY_MS}])
    cable.came_with = last_event_id(request)
    return OverCable(
        EventSourceResponse(numbers.subscribe(request, snapshot=lambda: [{"retry": RETRY_MS}])),
        cable,
    )


# --- The cable ------------------------------------------------------------------------


class Cable:
    """What connects one page to the server."""

    def __init__(self) -> None:
        self.pulled_until = 0.0
        self.came_with: str | None = None
        """The `Last-Event-ID` of the newest connection."""
        self.refused = 0

    def is_pulled(self) -> bool:
        return anyio.current_time() < self.pulled_until


class OverCable:
    """A response that breaks off in the middle of the first event after the cable was pulled."""

    def __init__(self, response: EventSourceResponse, cable: Cable) -> None:
        self.response = response
        self.cable = cable

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with anyio.CancelScope() as connection:

            async def send_while_plugged(message: Message) -> None:
                body = message.get("body", b"")
                if connection.cancel_called or not body or not self.cable.is_pulled():
                    await send(message)
                else:
                    await send({**message, "body": body[: len(body) // 2]})
                    connection.cancel()

            await self.response(scope, receive, send_while_plugged)


cables: dict[str, Cable] = {}


def cable_of(request: Request) -> Cable:
    while len(cables) > 1_000:
        del cables[next(iter(cables))]
    return cables.setdefault(request.query_params.get("client", ""), Cable())


async def pull(request: Request) -> Response:
    seconds = min(60.0, max(0.0, float(request.query_params["for"])))
    cable_of(request).pulled_until = anyio.current_time() + seconds
    return Response()


async def look(request: Request) -> JSONResponse:
    cable = cable_of(request)
    return JSONResponse({"came_with": cable.came_with, "refused": cable.refused})


async def page(_: Request) -> FileResponse:
    return FileResponse(Path(__file__).with_name("page.html"))


app = Starlette(
    routes=[
        Route("/", page),
        Route("/listen", listen),
        Route("/pull", pull, methods=["POST"]),
        Route("/cable", look),
        Mount("/shared", StaticFiles(directory=Path(__file__).parents[1] / "shared")),
    ],
    lifespan=lifespan,
)

if __name__ == "__main__":
    uvicorn.run(app, host=os.environ.get("EXAMPLE_HOST", "127.0.0.1"), port=8000, log_level="info")
