"""Keeping a connection alive: when nobody does, and when somebody does it by the clock alone."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

import anyio
from starlette.responses import StreamingResponse

from sse_starlette import EventSourceResponse

if TYPE_CHECKING:
    from anyio.abc import ObjectSendStream
    from starlette.types import ASGIApp

    from sse_starlette.testing import Clock

EVERY = 15.0


async def _numbers(clock: Clock) -> AsyncIterator[dict[str, int]]:
    for number in range(8):
        yield {"data": number}
        await clock.sleep(10)
    await anyio.sleep_forever()


def correct(clock: Clock) -> ASGIApp:
    return EventSourceResponse(_numbers(clock))


def without_pings(clock: Clock) -> ASGIApp:
    return EventSourceResponse(_numbers(clock), ping=0)


def with_pings_under_data(clock: Clock) -> ASGIApp:
    """Pings every 15 seconds, whatever else is sent."""

    async def body() -> AsyncIterator[str]:
        frames, received = anyio.create_memory_object_stream[str](100)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_send_numbers, clock, frames.clone())
            tasks.start_soon(_send_pings, clock, frames)
            async with received:
                async for frame in received:
                    yield frame

    return StreamingResponse(body(), media_type="text/event-stream")


async def _send_numbers(clock: Clock, frames: ObjectSendStream[str]) -> None:
    async with frames:
        async for event in _numbers(clock):
            await frames.send(f"data: {event['data']}\n\n")


async def _send_pings(clock: Clock, frames: ObjectSendStream[str]) -> None:
    async with frames:
        while True:
            await clock.sleep(EVERY)
            await frames.send(": ping\n\n")
