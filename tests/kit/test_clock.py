"""A clock that the test moves."""

from __future__ import annotations

import anyio
import anyio.lowlevel
import pytest
from tests.kit.apps import HASTE, numbers

from sse_starlette import EventSourceResponse
from sse_starlette.testing import Clock, StreamFailure, connect

pytestmark = pytest.mark.anyio


async def test_missing_event_tells_where_the_clock_stands() -> None:
    clock = Clock()

    async with connect(EventSourceResponse(numbers(0)), clock=clock) as stream:
        await clock.advance(7)
        with pytest.raises(StreamFailure, match="the clock stands at 7 s"):
            await stream.next(within=HASTE)


async def test_clock_wakes_sleepers_in_their_order_and_at_their_time() -> None:
    clock = Clock()
    woken: list[float] = []

    async def sleep(seconds: float) -> None:
        await clock.sleep(seconds)
        woken.append(clock.time())

    async with anyio.create_task_group() as tasks:
        for seconds in (3, 1, 2, 50):
            tasks.start_soon(sleep, seconds)
        await clock.advance(10)
        tasks.cancel_scope.cancel()
    await clock.advance(100)

    assert woken == [1, 2, 3]
    assert clock.time() == 110


async def test_clock_does_not_go_back() -> None:
    with pytest.raises(ValueError, match="seconds must be >= 0, got: -1"):
        await Clock().advance(-1)


async def test_clock_does_not_wait_for_a_task_that_never_waits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("sse_starlette.testing._clock._BUSY_SECONDS", HASTE)
    clock = Clock()

    async def spin() -> None:
        while True:
            await anyio.lowlevel.checkpoint()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(spin)
        await clock.advance(1)
        tasks.cancel_scope.cancel()

    assert clock.time() == 1
