"""What is left in the process when the last stream has ended: no hook, no stream, no server, no task."""

from __future__ import annotations

import asyncio
import gc
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager

import anyio
import trio
import uvicorn
from starlette.types import Message
from tests.unit.driving import http_scope

from sse_starlette import EventSourceResponse
from sse_starlette._shutdown import AppStatus
from sse_starlette._shutdown import streams as _shutdown

SIGNALS = (signal.SIGTERM, signal.SIGINT)


def hooked_places() -> list[object]:
    """Everything outside of the package that a stream may change."""
    return [uvicorn.Server.__dict__["shutdown"], *map(signal.getsignal, SIGNALS)]


@contextmanager
def nothing_is_left() -> Iterator[None]:
    """Whatever is done in the block: no hook, no stream and no server is remembered after it."""
    before = hooked_places()

    yield

    assert hooked_places() == before
    assert _shutdown.State.streams == {}
    assert dict(_shutdown.State.going_down) == {}
    assert not AppStatus.should_exit
    assert AppStatus.enable_automatic_graceful_drain


def count_tasks() -> int:
    """Count the tasks of the running loop."""
    try:
        return len(asyncio.all_tasks())
    except RuntimeError:
        return trio.lowlevel.current_statistics().tasks_living


async def sleeping() -> AsyncIterator[dict[str, str]]:
    yield {"data": "hello"}
    await anyio.sleep_forever()


async def connect_and_leave() -> None:
    """Be a client that leaves when it has heard the first event."""
    heard = anyio.Event()

    async def receive() -> Message:
        await heard.wait()
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        if b"hello" in message.get("body", b""):
            heard.set()

    await EventSourceResponse(sleeping())(http_scope(), receive, send)


async def streams_leave_nothing(rounds: int, at_a_time: int) -> None:
    """Have clients come and go, so many at a time; nothing of it is left."""
    await connect_and_leave()
    tasks = count_tasks()
    hooks = hooked_places()

    for _ in range(rounds):
        async with anyio.create_task_group() as clients:
            for _ in range(at_a_time):
                clients.start_soon(connect_and_leave)
    gc.collect()

    assert count_tasks() == tasks
    assert hooked_places() == hooks
    assert _shutdown.State.streams == {}
