"""When the frames of a source may wait, by what it has done up to now."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sse_starlette._stream.batching import (
    LATE_SECONDS,
    SLOW_SECONDS,
    WARM_UP,
    WARM_UP_WHEN_LATE,
    Batching,
)

QUICK = SLOW_SECONDS
SLOW = 2 * SLOW_SECONDS
IN_TIME = LATE_SECONDS
LATE = 2 * LATE_SECONDS

Did = tuple[int, float] | float
"""A stretch of so many events in so many seconds; or a turn of the loop that took so many."""


def told(batching: Batching, *did: Did) -> Batching:
    for each in did:
        if isinstance(each, tuple):
            batching.waits(*each)
        else:
            batching.had_a_turn(each)
    return batching


@pytest.mark.parametrize(
    ("did", "joins"),
    [
        ((), False),
        (((99, QUICK),), False),
        (((100, QUICK),), True),
        (((50, QUICK), (0, QUICK), (50, QUICK)), True),
        # A slow stretch ends it, until a hundred more than at the beginning have come.
        (((100, SLOW),), False),
        (((1_000, QUICK), (0, SLOW)), False),
        (((1_000, QUICK), (1, SLOW), (199, QUICK)), False),
        (((1_000, QUICK), (1, SLOW), (200, QUICK)), True),
        (((1, SLOW), (1, SLOW), (200, QUICK)), True),
        # On a loop that is late a few do, before it is known to be late or after.
        ((LATE,), False),
        (((3, QUICK), LATE), False),
        (((4, QUICK), LATE), True),
        ((LATE, (4, QUICK)), True),
        # Who has computed is not held back any sooner than who begins on a loop that is in time.
        (((1_000, QUICK), LATE, (1, SLOW), (103, QUICK)), False),
        (((1_000, QUICK), LATE, (1, SLOW), (104, QUICK)), True),
        # What counts is the last turn.
        ((LATE, (4, QUICK), IN_TIME), False),
        ((LATE, (99, QUICK), IN_TIME), False),
        ((LATE, (100, QUICK), IN_TIME), True),
        (((4, QUICK), IN_TIME, LATE), True),
    ],
)
def test_frames_may_wait(did: tuple[Did, ...], joins: bool) -> None:
    assert told(Batching(on=True), *did).joins is joins


@pytest.mark.parametrize("did", [(), ((1_000, QUICK),), ((1_000, QUICK), LATE), (LATE,)])
def test_no_frame_waits_where_that_is_off_or_turned_off(did: tuple[Did, ...]) -> None:
    assert not told(Batching(on=False), *did).joins
    batching = told(Batching(on=True), *did)

    batching.turn_off()

    assert not batching.joins
    assert not batching.joins_first
    assert not told(batching, (1_000, QUICK), LATE).joins
    assert not batching.joins_first


@given(
    st.lists(
        st.tuples(st.integers(0, 500), st.sampled_from([QUICK, SLOW]))
        | st.sampled_from([IN_TIME, LATE])
    )
)
def test_frames_wait_only_for_a_source_that_has_been_quick_since_it_was_slow(
    did: list[Did],
) -> None:
    batching = Batching(on=True)
    quick, late = 0, False
    for each in did:
        told(batching, each)
        if isinstance(each, tuple):
            quick = quick + each[0] if each[1] == QUICK else -WARM_UP
        else:
            late = each == LATE

        assert batching.joins is (quick >= (WARM_UP_WHEN_LATE if late else WARM_UP))
        assert batching.joins_first is (batching.joins and late)
