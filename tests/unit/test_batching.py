"""How many frames of a source may wait, by what it has done up to now."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sse_starlette._stream.batching import (
    DECAY,
    HELD_SECONDS,
    LONGEST_BACKOFF,
    RATIO,
    SLOW_SECONDS,
    WARM_UP,
    Batching,
)

QUICK = SLOW_SECONDS
SLOW = 2 * SLOW_SECONDS
AT_ONCE = 0.0


@pytest.mark.parametrize(
    ("stretches", "events", "seconds", "allowed"),
    [
        ((), 1, AT_ONCE, 0),
        ((), 107, AT_ONCE, 0),
        ((), 108, AT_ONCE, 1),
        ((), 900, AT_ONCE, 100),
        (((100, QUICK),), 7, AT_ONCE, 0),
        (((100, QUICK),), 8, AT_ONCE, 1),
        (((50, QUICK), (50, QUICK)), 8, AT_ONCE, 1),
        # No longer than a millisecond, at the pace of this stretch.
        (((1000, QUICK),), 10, AT_ONCE, 10),
        (((1000, QUICK),), 10, 0.001, 10),
        (((1000, QUICK),), 10, 0.002, 5),
        (((1000, QUICK),), 10, 0.011, 0),
        # After a slow stretch it takes a hundred events until it's where a new source is.
        (((1000, SLOW),), 207, AT_ONCE, 0),
        (((1000, SLOW),), 208, AT_ONCE, 1),
        # After a further one four times as many.
        (((1, SLOW), (1, SLOW)), 507, AT_ONCE, 0),
        (((1, SLOW), (1, SLOW)), 508, AT_ONCE, 1),
        (((1, SLOW), (500, QUICK), (1, SLOW)), 508, AT_ONCE, 1),
        (((1, SLOW),) * 9, LONGEST_BACKOFF + 107, AT_ONCE, 0),
        (((1, SLOW),) * 9, LONGEST_BACKOFF + 108, AT_ONCE, 1),
        # So many quick ones, and it was the machine.
        (((1, SLOW), (100 + DECAY, QUICK), (1, SLOW)), 508, AT_ONCE, 1),
        (((1, SLOW), (100 + DECAY + 1, QUICK), (1, SLOW)), 208, AT_ONCE, 1),
    ],
)
def test_so_many_frames_may_wait(
    stretches: tuple[tuple[int, float], ...], events: int, seconds: float, allowed: int
) -> None:
    batching = Batching(on=True)
    for of_events, of_seconds in stretches:
        batching.waits(of_events, of_seconds)

    assert batching.allow(events, seconds) == allowed
    assert batching.limit == allowed


def test_nothing_waits_after_a_slow_stretch_until_it_is_asked_for_again() -> None:
    batching = Batching(on=True)
    batching.allow(1000, AT_ONCE)

    batching.waits(1000, SLOW)

    assert batching.limit == 0


def test_what_was_allowed_lasts_through_a_quick_stretch() -> None:
    batching = Batching(on=True)
    batching.allow(108, AT_ONCE)

    batching.waits(108, QUICK)

    assert batching.limit == 1


@pytest.mark.parametrize("seconds", [QUICK, SLOW])
def test_once_it_is_off_not_even_one_frame_waits(seconds: float) -> None:
    batching = Batching(on=True)
    batching.allow(1000, AT_ONCE)

    batching.turn_off()
    batching.waits(1000, seconds)

    assert not batching.on
    assert batching.limit == -1


@given(
    st.lists(st.tuples(st.integers(1, 20_000), st.sampled_from([QUICK, SLOW]))),
    st.integers(1, 20_000),
    st.just(0.0) | st.floats(1e-9, 0.1),
)
def test_what_may_wait_is_bounded_by_what_was_quick_and_by_a_millisecond(
    stretches: list[tuple[int, float]], events: int, seconds: float
) -> None:
    batching = Batching(on=True)
    quick = 0
    for of_events, of_seconds in stretches:
        batching.waits(of_events, of_seconds)
        quick = quick + of_events if of_seconds == QUICK else 0

    allowed = batching.allow(events, seconds)

    assert 0 <= allowed <= max(0, quick + events - WARM_UP) // RATIO
    assert allowed * seconds <= HELD_SECONDS * events * (1 + 1e-9)
