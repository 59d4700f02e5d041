"""What an app may leave behind for a while, and what not."""

from __future__ import annotations

import gc

import anyio
import anyio.lowlevel
import pytest
from starlette.types import Receive, Scope, Send
from tests.kit.apps import numbers, sending
from tests.kit.seeded.writing import END, START

from sse_starlette.testing import connect

pytestmark = pytest.mark.anyio


async def test_generator_that_only_a_cycle_holds_is_closed() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        source = numbers(2, ends=True)
        cycle: list[object] = [source]
        cycle.append(cycle)
        await anext(source)
        await sending(START, END)(scope, receive, send)
        await source.aclose()  # type: ignore[attr-defined]

    gc.disable()
    try:
        async with connect(app):
            pass
    finally:
        gc.enable()


async def test_task_on_its_way_out_is_waited_for() -> None:
    async def linger() -> None:
        for _ in range(200):
            await anyio.lowlevel.checkpoint()

    async with anyio.create_task_group() as tasks:

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            tasks.start_soon(linger)
            await sending(START, END)(scope, receive, send)

        async with connect(app):
            pass
