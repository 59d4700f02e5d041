"""The last event of a stream that has failed, where it can't be made."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

import anyio
import pytest
from tests.unit.driving import SEAT_BELT_SECONDS, HandFeed

from sse_starlette._runtime.loop import current_loop
from sse_starlette._stream.context import StreamContext
from sse_starlette._stream.error_event import ErrorEvent
from sse_starlette._stream.options import StreamOptions

pytestmark = pytest.mark.anyio


class CancelledAtOnce:
    """Tasks that are cancelled before their first step, as at the end of `asyncio.run`."""

    def __init__(self) -> None:
        self.asked = 0

    def start_soon(self, run: Callable[..., Coroutine[Any, Any, Any]], /, *args: Any) -> None:
        self.asked += 1


async def test_nobody_waits_for_the_event_when_its_task_never_begins() -> None:
    options = StreamOptions(on_error=lambda _: "sorry")
    context = StreamContext(HandFeed(), options, current_loop())
    context.life.end("error", ValueError("a mistake"))
    tasks: Any = CancelledAtOnce()
    wake = current_loop().waker()
    event = ErrorEvent(context)

    event.start(tasks, wake)
    with anyio.fail_after(SEAT_BELT_SECONDS):
        await event.wait(wake)
        await event.wait(wake)

    assert (tasks.asked, event.take()) == (1, b"")
    assert isinstance(context.life.failure, ValueError)
