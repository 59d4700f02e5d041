"""FastAPI's own server-sent events."""

from __future__ import annotations

from collections.abc import AsyncIterable

from fastapi import FastAPI
from fastapi.sse import EventSourceResponse, ServerSentEvent
from workload import Controlled, Workload


def event_of(data: str) -> ServerSentEvent:
    """Make the small event, its data as it stands."""
    return ServerSentEvent(raw_data=data, event="tick")


work = Workload(event_of)
api = FastAPI()


@api.get("/stream", response_class=EventSourceResponse)
async def stream(n: int) -> AsyncIterable[ServerSentEvent]:
    """Stream as many events as asked for."""
    async for event in work.stream(n):
        yield event


@api.get("/paced", response_class=EventSourceResponse)
async def paced(n: int, ms: float) -> AsyncIterable[ServerSentEvent]:
    """Stream events at a pace."""
    async for event in work.paced(n, ms):
        yield event


@api.get("/idle", response_class=EventSourceResponse)
async def idle() -> AsyncIterable[ServerSentEvent]:
    """Stream nothing but pings, every 15 seconds."""
    async for event in work.idle():
        yield event


@api.get("/one", response_class=EventSourceResponse)
async def one() -> AsyncIterable[ServerSentEvent]:
    """Stream one event."""
    async for event in work.one():
        yield event


@api.get("/queue", response_class=EventSourceResponse)
async def queue() -> AsyncIterable[ServerSentEvent]:
    """Stream what is published."""
    async for event in work.queue():
        yield event


app = Controlled(api, work)
