"""How many frames of a source may wait, by what it has done up to now."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sse_starlette._stream.batching import (
    HELD_SECONDS,
    LATE_SECONDS,
    RATIO,
    SETBACK,
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
        # After a slow stretch it takes so many more than for a new source, after two no more than that.
        (((1000, SLOW),), SETBACK + 107, AT_ONCE, 0),
        (((1000, SLOW),), SETBACK + 108, AT_ONCE, 1),
        (((1, SLOW), (500, QUICK), (1, SLOW)), SETBACK + 107, AT_ONCE, 0),
        (((1, SLOW), (500, QUICK), (1, SLOW)), SETBACK + 108, AT_ONCE, 1),
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


@pytest.mark.parametrize(
    ("stretches", "turn", "events", "seconds", "allowed"),
    [
        # A few quick events do, and what is quick may all be joined, for a millisecond.
        ((), 2 * LATE_SECONDS, 1, AT_ONCE, 1),
        (((3, QUICK),), 2 * LATE_SECONDS, 10, AT_ONCE, 10),
        (((3, QUICK),), 2 * LATE_SECONDS, 10, 0.002, 5),
        (((3, QUICK),), LATE_SECONDS, 10, AT_ONCE, 0),
        # Who computes is not held back any sooner for it.
        (((3, SLOW),), 2 * LATE_SECONDS, SETBACK, AT_ONCE, 0),
    ],
)
def test_so_many_frames_may_wait_when_the_loop_is_late(
    stretches: tuple[tuple[int, float], ...],
    turn: float,
    events: int,
    seconds: float,
    allowed: int,
) -> None:
    batching = Batching(on=True)
    for of_events, of_seconds in stretches:
        batching.waits(of_events, of_seconds)

    batching.had_a_turn(turn)

    assert batching.allow(events, seconds) == allowed


def test_that_the_loop_was_late_is_forgotten_when_the_source_waits() -> None:
    batching = Batching(on=True)
    batching.had_a_turn(2 * LATE_SECONDS)
    batching.allow(50, AT_ONCE)

    batching.waits(0, QUICK)

    assert batching.limit == 0
    assert batching.allow(50, AT_ONCE) == 0


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
        quick = quick + of_events if of_seconds == QUICK else -SETBACK

    allowed = batching.allow(events, seconds)

    assert 0 <= allowed <= max(0, quick + events - WARM_UP) // RATIO
    assert allowed * seconds <= HELD_SECONDS * events * (1 + 1e-9)
