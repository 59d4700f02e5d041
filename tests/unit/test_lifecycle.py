"""Which ending of a response counts, and what is still sent and called after it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sse_starlette._stream.lifecycle import Lifecycle, Phase

MISTAKE = ValueError("a mistake")
LATE = TimeoutError("too late")
LEFT = {"type": "http.disconnect"}

Step = Callable[[Lifecycle], object]


def drains(life: Lifecycle) -> object:
    return life.drain()


def source_ends(life: Lifecycle) -> None:
    life.source_ended(None)


def client_lags(life: Lifecycle) -> None:
    life.source_ended("lagging")


def source_fails(life: Lifecycle) -> object:
    return life.end("error", MISTAKE)


def time_to_drain_is_over(life: Lifecycle) -> object:
    return life.end("shutdown")


def is_cancelled(life: Lifecycle) -> object:
    return life.end("cancelled")


def client_leaves(life: Lifecycle) -> object:
    return life.client_left(LEFT)


def send_takes_too_long(life: Lifecycle) -> object:
    return life.send_failed("timeout", LATE)


def send_raises(life: Lifecycle) -> object:
    return life.send_failed("error", MISTAKE)


def send_is_refused(life: Lifecycle) -> object:
    return life.send_refused()


def body_is_complete(life: Lifecycle) -> None:
    life.phase = Phase.COMPLETE


def all_is_over(life: Lifecycle) -> None:
    life.phase = Phase.OVER


def life_of(*steps: Step) -> Lifecycle:
    life = Lifecycle()
    for step in steps:
        step(life)
    return life


@pytest.mark.parametrize(
    ("steps", "reason", "failure"),
    [
        ((), None, None),
        ((drains,), None, None),
        ((source_ends,), "end", None),
        ((client_lags,), "lagging", None),
        ((source_fails,), "error", MISTAKE),
        ((is_cancelled,), "cancelled", None),
        ((client_leaves,), "client", None),
        ((time_to_drain_is_over,), "shutdown", None),
        ((send_takes_too_long,), "timeout", LATE),
        ((send_raises,), "error", MISTAKE),
        ((send_is_refused,), "client", None),
        # A source that has been asked to end does what the server wants.
        ((drains, source_ends), "shutdown", None),
        ((drains, client_lags), "shutdown", None),
        ((drains, source_fails), "error", MISTAKE),
        ((drains, client_leaves), "client", None),
        ((drains, is_cancelled), "cancelled", None),
        # The first one stays.
        ((source_fails, client_leaves), "error", MISTAKE),
        ((client_leaves, source_fails), "client", None),
        ((client_leaves, is_cancelled), "client", None),
        ((is_cancelled, client_leaves), "cancelled", None),
        ((time_to_drain_is_over, source_ends), "shutdown", None),
        ((time_to_drain_is_over, is_cancelled), "shutdown", None),
        ((source_ends, client_leaves), "end", None),
        ((source_ends, is_cancelled), "end", None),
        # But what is about to end well hasn't, if its end can't be sent.
        ((source_ends, send_raises), "error", MISTAKE),
        ((source_ends, send_takes_too_long), "timeout", LATE),
        ((source_ends, send_is_refused), "client", None),
        ((client_lags, send_takes_too_long), "lagging", LATE),
        ((time_to_drain_is_over, send_raises), "shutdown", MISTAKE),
        # An exception is raised unless another one is, or the client has gone.
        ((source_fails, send_takes_too_long), "error", MISTAKE),
        ((client_leaves, send_raises), "client", None),
        ((is_cancelled, send_raises), "cancelled", MISTAKE),
    ],
)
def test_ending_that_counts(
    steps: tuple[Step, ...], reason: str | None, failure: Exception | None
) -> None:
    life = life_of(*steps)

    assert life.reason == reason
    assert life.failure is failure


@pytest.mark.parametrize(
    ("steps", "phase"),
    [
        ((), Phase.STREAMING),
        ((drains,), Phase.DRAINING),
        ((source_ends,), Phase.ENDING),
        ((source_ends, drains), Phase.ENDING),
        ((client_leaves,), Phase.ENDING),
        ((send_raises,), Phase.COMPLETE),
        ((source_ends, send_is_refused), Phase.COMPLETE),
        ((source_ends, body_is_complete), Phase.COMPLETE),
        ((source_ends, body_is_complete, client_leaves), Phase.COMPLETE),
        # Thrown away with its loop.
        ((all_is_over,), Phase.OVER),
        ((all_is_over, source_fails), Phase.OVER),
        ((all_is_over, drains), Phase.OVER),
    ],
)
def test_phase_that_it_has_come_to(steps: tuple[Step, ...], phase: Phase) -> None:
    assert life_of(*steps).phase is phase


@pytest.mark.parametrize(
    ("steps", "disconnected", "gone"),
    [
        ((source_ends,), False, False),
        ((client_leaves,), True, True),
        # It leaves when it has what it wanted, or because it can't read any more.
        ((source_ends, client_leaves), False, True),
        ((source_fails, client_leaves), False, True),
        ((send_is_refused,), True, False),
        ((source_ends, send_is_refused), True, False),
        ((is_cancelled, send_is_refused), True, False),
    ],
)
def test_client_that_has_left(steps: tuple[Step, ...], disconnected: bool, gone: bool) -> None:
    life = life_of(*steps)

    assert (life.disconnected is not None) is disconnected
    assert life.client_gone is gone


@pytest.mark.parametrize(
    ("steps", "unstarted", "started", "farewell"),
    [
        ((source_ends,), True, True, False),
        ((client_lags,), True, True, False),
        ((source_fails,), False, True, False),
        ((is_cancelled,), False, True, False),
        ((time_to_drain_is_over,), True, True, True),
        ((drains, source_ends), True, True, True),
        ((drains, client_lags), True, True, True),
        # A server that has lost its patience.
        ((drains, is_cancelled), False, True, True),
        ((drains, source_fails), False, True, False),
        ((client_leaves,), False, False, False),
        ((drains, client_leaves), False, False, False),
        ((send_raises,), False, False, False),
        ((send_takes_too_long,), False, False, False),
        ((send_is_refused,), False, False, False),
        ((source_ends, body_is_complete), False, False, False),
    ],
)
def test_what_is_still_sent(
    steps: tuple[Step, ...], unstarted: bool, started: bool, farewell: bool
) -> None:
    life = life_of(*steps)

    assert life.completes_body(started=False) is unstarted
    assert life.completes_body(started=True) is started
    assert life.says_farewell is farewell


@pytest.mark.parametrize(
    ("steps", "background", "side_task_first", "unseen_error_logged"),
    [
        ((source_ends,), True, False, True),
        ((client_lags,), True, False, True),
        ((client_leaves,), True, True, True),
        ((time_to_drain_is_over,), True, True, True),
        ((drains, source_ends), True, True, True),
        ((source_fails,), False, True, True),
        ((send_takes_too_long,), False, True, True),
        ((is_cancelled,), False, True, False),
        ((all_is_over,), False, True, True),
    ],
)
def test_what_is_done_at_the_end(
    steps: tuple[Step, ...], background: bool, side_task_first: bool, unseen_error_logged: bool
) -> None:
    life = life_of(*steps)

    assert life.runs_background is background
    assert life.stops_side_task is side_task_first
    assert life.logs_source_error is unseen_error_logged


def test_it_says_whether_an_ending_counts() -> None:
    life = Lifecycle()

    assert (life.drain(), life.drain()) == (True, False)
    assert (life.end("shutdown"), life.end("error", MISTAKE)) == (True, False)
    assert not life.client_left(LEFT)
    assert not life.send_failed("timeout", LATE)
    assert not life.send_refused()


STEPS: list[Step] = [
    drains,
    source_ends,
    client_lags,
    source_fails,
    time_to_drain_is_over,
    is_cancelled,
    client_leaves,
    send_takes_too_long,
    send_raises,
    send_is_refused,
]


@given(st.lists(st.sampled_from(STEPS)))
def test_it_never_goes_back_and_its_first_bad_ending_stays(steps: list[Step]) -> None:
    life = Lifecycle()
    before: tuple[Phase, str | None] = (life.phase, None)
    for step in steps:
        step(life)
        phase, reason = before
        assert life.phase >= phase
        assert (life.reason is None) == (life.phase < Phase.ENDING)
        assert reason in (None, "end", life.reason)
        if life.says_farewell:
            assert life.reason in ("shutdown", "cancelled")
        before = (life.phase, life.reason)
