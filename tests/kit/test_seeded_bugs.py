"""Twelve bugs, each caught by its name, and their correct twins, of which nothing is said."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial

import pytest
from starlette.types import ASGIApp
from tests.kit.apps import HASTE, both, leave
from tests.kit.seeded import ending, pinging, resuming, writing

from sse_starlette.testing import (
    INJECTION,
    Clock,
    StreamFailure,
    StreamingASGITransport,
    connect,
)
from sse_starlette.testing._clock import settled

Drive = Callable[[], Awaitable[None]]


async def come_back(subscription: resuming.Subscription) -> None:
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


async def let_minutes_pass(app_of: Callable[[Clock], ASGIApp]) -> None:
    clock = Clock()
    async with connect(app_of(clock), clock=clock) as stream:
        await clock.advance(200)

        stream.assert_pings(every=pinging.EVERY)
        assert len(stream.events) == 8


async def read_to_the_end(app: ASGIApp) -> None:
    async with connect(app, params={"text": INJECTION}) as stream:
        async for _ in stream:
            pass


async def stop_reading(app: ASGIApp, *, patience: float = 5) -> None:
    async with StreamingASGITransport(app) as transport, connect(transport) as stream:
        await stream.next()
        stream.stall()
        await stream.until_blocked()
        transport.patience = patience

        await stream.until_ended()


SEEDED: dict[str, tuple[Drive, Drive]] = {
    "gap": (
        partial(come_back, resuming.with_a_gap),
        partial(come_back, resuming.correct),
    ),
    "duplicate": (
        partial(come_back, resuming.with_a_duplicate),
        partial(come_back, resuming.correct),
    ),
    "wrong cursor": (
        partial(come_back, resuming.with_a_wrong_cursor),
        partial(come_back, resuming.correct),
    ),
    "missing ping": (
        partial(let_minutes_pass, pinging.without_pings),
        partial(let_minutes_pass, pinging.correct),
    ),
    "ping under data": (
        partial(let_minutes_pass, pinging.with_pings_under_data),
        partial(let_minutes_pass, pinging.correct),
    ),
    "missing header": (
        partial(read_to_the_end, writing.without_its_header),
        partial(read_to_the_end, writing.finished),
    ),
    "injected field": (
        partial(read_to_the_end, writing.with_text_as_it_comes),
        partial(read_to_the_end, writing.with_text_as_data),
    ),
    "unfinished body": (
        partial(read_to_the_end, writing.unfinished),
        partial(read_to_the_end, writing.finished),
    ),
    "two writers": (
        partial(read_to_the_end, writing.with_two_writers),
        partial(read_to_the_end, writing.with_one_writer),
    ),
    "leaked task": (
        partial(leave, ending.polling(stops=False), lifespan=True, patience=HASTE),
        partial(leave, ending.polling(stops=True), lifespan=True),
    ),
    "source not closed": (
        partial(leave, ending.with_registry(closes=False), patience=HASTE),
        partial(leave, ending.with_registry(closes=True)),
    ),
    "stalled writer": (
        partial(stop_reading, ending.without_end(gives_up_after=None), patience=HASTE),
        partial(stop_reading, ending.without_end(gives_up_after=4 * HASTE)),
    ),
}


@both
@pytest.mark.parametrize("bug", SEEDED)
async def test_seeded_bug_is_caught_by_its_name(bug: str) -> None:
    buggy, _ = SEEDED[bug]

    with pytest.raises(StreamFailure) as caught:
        await buggy()

    assert caught.value.bug == bug
    assert str(caught.value).startswith(f"{bug}: ")
    assert "what arrived" in caught.value.arrived


@both
@pytest.mark.parametrize("bug", SEEDED)
async def test_nothing_is_reported_on_the_correct_twin(bug: str) -> None:
    _, correct = SEEDED[bug]

    await correct()
