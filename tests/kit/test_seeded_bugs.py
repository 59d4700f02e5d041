"""Twelve bugs, each caught by its name, and their correct twins, of which nothing is said."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import pytest
from starlette.types import ASGIApp
from tests.kit.apps import HASTE, leave
from tests.kit.seeded import ending, pinging, resuming, writing

from sse_starlette.testing import INJECTION, Clock, StreamFailure, StreamingASGITransport, connect
from sse_starlette.testing._clock import settled

pytestmark = pytest.mark.anyio


async def come_back(subscription: resuming.Subscription, _: float) -> None:
    app, log = resuming.app_of(subscription)
    async with connect(app, "/events") as stream:
        for _ in range(3):
            await stream.next()
        await settled()
        log.publish()
        await stream.next()
        await stream.reconnect()
        await settled()
        log.publish()
        await stream.next()
        await settled()

        stream.assert_contiguous()


async def let_minutes_pass(app_of: Callable[[Clock], ASGIApp], _: float) -> None:
    clock = Clock()
    async with connect(app_of(clock), clock=clock) as stream:
        await clock.advance(200)

        stream.assert_pings(every=pinging.EVERY)
        assert len(stream.events) == 8


async def read_to_the_end(app: ASGIApp, _: float) -> None:
    async with connect(app, params={"text": INJECTION}) as stream:
        async for _event in stream:
            pass


async def stop_reading(app: ASGIApp, patience: float) -> None:
    async with StreamingASGITransport(app) as transport, connect(transport) as stream:
        await stream.next()
        stream.stall()
        await stream.until_blocked()
        transport.patience = patience

        await stream.until_ended()


# What is done to both, with the patience that a test has with it; the buggy one, and its twin.
SEEDED: dict[str, tuple[Callable[[Any, float], Awaitable[None]], Any, Any]] = {
    "gap": (come_back, resuming.with_a_gap, resuming.correct),
    "duplicate": (come_back, resuming.with_a_duplicate, resuming.correct),
    "wrong cursor": (come_back, resuming.with_a_wrong_cursor, resuming.correct),
    "missing ping": (let_minutes_pass, pinging.without_pings, pinging.correct),
    "ping under data": (let_minutes_pass, pinging.with_pings_under_data, pinging.correct),
    "missing header": (read_to_the_end, writing.without_its_header, writing.finished),
    "injected field": (read_to_the_end, writing.with_text_as_it_comes, writing.with_text_as_data),
    "unfinished body": (read_to_the_end, writing.unfinished, writing.finished),
    "two writers": (read_to_the_end, writing.with_two_writers, writing.with_one_writer),
    "leaked task": (
        partial(leave, lifespan=True),
        ending.polling(stops=False),
        ending.polling(stops=True),
    ),
    "source not closed": (
        leave,
        ending.with_registry(closes=False),
        ending.with_registry(closes=True),
    ),
    "stalled writer": (
        stop_reading,
        ending.without_end(gives_up_after=None),
        ending.without_end(gives_up_after=4 * HASTE),
    ),
}


@pytest.mark.parametrize("bug", SEEDED)
async def test_seeded_bug_is_caught_by_its_name(bug: str) -> None:
    drive, buggy, _ = SEEDED[bug]

    with pytest.raises(StreamFailure) as caught:
        await drive(buggy, HASTE)

    assert caught.value.bug == bug
    assert str(caught.value).startswith(f"{bug}: ")
    assert "what arrived" in caught.value.arrived


@pytest.mark.parametrize("bug", SEEDED)
async def test_nothing_is_reported_on_the_correct_twin(bug: str) -> None:
    drive, _, correct = SEEDED[bug]

    await drive(correct, 5)
