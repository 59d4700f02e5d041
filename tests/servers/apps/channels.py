"""Channels that the tests subscribe to on real servers; what is published, and how fast, the test says.

Every event carries its number. A channel is new, so that its first event
is number 1 and has the offset 1: an event whose number differs from its offset is a fault of ours.
"""

from __future__ import annotations

import asyncio
import dataclasses
import random
import time
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from streams import (  # type: ignore[import-not-found,unused-ignore]  # found beside this file
    blank,
    journal,
    read_journal,
)

from sse_starlette import Channel, EventSourceResponse, Hub, last_event_id

hub = Hub()
channels: dict[str, Channel] = {}
publishing: set[asyncio.Task[None]] = set()


def channel_of(request: Request) -> Channel:
    return channels[request.path_params["name"]]


async def make(request: Request) -> Response:
    """Make a channel; the query has its options."""
    name = request.path_params["name"]
    options: dict[str, Any] = dict(request.query_params)
    if "history" in options:
        options["history"] = int(options["history"])
    channels[name] = hub.channel(name, **options)
    return JSONResponse({"cursor": channels[name].last_event_id})


async def stream(request: Request) -> EventSourceResponse:
    """The channel, to whoever asks; with `retry` in the query new clients are told how long to wait."""
    channel = channel_of(request)
    retry = request.query_params.get("retry")
    journal.note("came", last_event_id=last_event_id(request))

    def note_the_end(reason: str) -> None:
        journal.note("went", reason=reason)

    return EventSourceResponse(
        channel.subscribe(
            request, snapshot=None if retry is None else lambda: [{"retry": int(retry)}]
        ),
        headers={"Access-Control-Allow-Origin": "*"},
        ping=0,
        on_close=note_the_end,
    )


def event(number: int, size: int = 0) -> dict[str, Any]:
    fields = {"publisher": "app", "number": number}
    return {"data": {**fields, "more": "x" * size} if size else fields}


async def publish_all(channel: Channel, first: int, last: int, seconds: float, size: int) -> None:
    """Publish in bursts of 1 to 20, the last of them after so many seconds."""
    bursts = random.Random(first)
    began = time.monotonic()
    left = 0
    for number in range(first, last + 1):
        await channel.publish(event(number, size))
        if left == 0:
            left = bursts.randint(1, 20)
            due = began + seconds * (number + 1 - first) / (last + 1 - first)
            await asyncio.sleep(max(0, due - time.monotonic()))
        left -= 1


async def publish(request: Request) -> Response:
    """Publish the numbers from `first` to `last` `within` so many seconds, each of `size` bytes and a little."""
    query = request.query_params
    first, last = int(query.get("first", 1)), int(query["last"])
    work = publish_all(
        channel_of(request), first, last, float(query.get("within", 0)), int(query.get("size", 0))
    )
    if "within" in query:
        task = asyncio.create_task(work)
        publishing.add(task)
        task.add_done_callback(publishing.discard)
    else:
        await work
    return Response()


def publish_in_thread(request: Request) -> Response:
    """A sync endpoint, which Starlette calls in a worker thread."""
    number = int(request.query_params["number"])
    if "threadsafe" in request.query_params:
        event_id = channel_of(request).publish_threadsafe(event(number)).result(timeout=60)
    else:
        event_id = channel_of(request).publish_nowait(event(number))
    return JSONResponse({"id": event_id})


async def close(request: Request) -> Response:
    channel_of(request).close()
    return Response()


async def only_for_ada(request: Request) -> Response:
    """What `EventSource` can't ask for: a POST with a header; the answer tells what came."""
    if request.headers.get("Authorization") != "Bearer Ada":
        return Response("not for you", status_code=403)
    asked = {"method": request.method, "body": (await request.body()).decode()}
    return EventSourceResponse([{"data": asked, "id": "1"}, {"event": "done", "data": ""}])


async def stats(request: Request) -> Response:
    return JSONResponse(dataclasses.asdict(channel_of(request).stats()))


app = Starlette(
    routes=[
        Route("/journal", read_journal),
        Route("/blank", blank),
        Route("/only-for-ada", only_for_ada, methods=["POST"]),
        Mount("/browser", StaticFiles(packages=[("sse_starlette", "browser")])),
        Route("/{name}/make", make),
        Route("/{name}/stream", stream),
        Route("/{name}/publish", publish),
        Route("/{name}/publish-in-thread", publish_in_thread),
        Route("/{name}/close", close),
        Route("/{name}/stats", stats),
    ]
)
