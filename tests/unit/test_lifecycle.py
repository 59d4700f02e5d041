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

STEPS: dict[str, Callable[[Lifecycle], object]] = {
    "drains": lambda life: life.drain(),
    "source ends": lambda life: life.source_ended(None),
    "client lags": lambda life: life.source_ended("lagging"),
    "source fails": lambda life: life.end("error", MISTAKE),
    "grace is over": lambda life: life.end("shutdown"),
    "cancelled": lambda life: life.end("cancelled"),
    "client leaves": lambda life: life.client_left(LEFT),
    "send is late": lambda life: life.send_failed("timeout", LATE),
    "send raises": lambda life: life.send_failed("error", MISTAKE),
    "send refused": lambda life: life.send_refused(),
}
PHASES = {"complete": Phase.COMPLETE, "over": Phase.OVER}


def life_of(steps: str) -> Lifecycle:
    """Live through steps that are told in words."""
    life = Lifecycle()
    for step in filter(None, steps.split(", ")):
        if step in PHASES:
            life.phase = PHASES[step]
        else:
            STEPS[step](life)
    return life


@pytest.mark.parametrize(
    ("steps", "reason", "failure"),
    [
        ("", None, None),
        ("drains", None, None),
        ("source ends", "end", None),
        ("client lags", "lagging", None),
        ("source fails", "error", MISTAKE),
        ("cancelled", "cancelled", None),
        ("client leaves", "client", None),
        ("grace is over", "shutdown", None),
        ("send is late", "timeout", LATE),
        ("send raises", "error", MISTAKE),
        ("send refused", "client", None),
        # A source that has been asked to end does what the server wants.
        ("drains, source ends", "shutdown", None),
        ("drains, client lags", "shutdown", None),
        ("drains, source fails", "error", MISTAKE),
        ("drains, client leaves", "client", None),
        ("drains, cancelled", "cancelled", None),
        # The first one stays.
        ("source fails, client leaves", "error", MISTAKE),
        ("client leaves, source fails", "client", None),
        ("client leaves, cancelled", "client", None),
        ("cancelled, client leaves", "cancelled", None),
        ("grace is over, source ends", "shutdown", None),
        ("grace is over, cancelled", "shutdown", None),
        ("source ends, client leaves", "end", None),
        ("source ends, cancelled", "end", None),
        # But what is about to end well hasn't, if its end can't be sent.
        ("source ends, send raises", "error", MISTAKE),
        ("source ends, send is late", "timeout", LATE),
        ("source ends, send refused", "client", None),
        ("client lags, send is late", "lagging", LATE),
        ("grace is over, send raises", "shutdown", MISTAKE),
        # An exception is raised unless another one is, or the client has gone.
        ("source fails, send is late", "error", MISTAKE),
        ("client leaves, send raises", "client", None),
        ("cancelled, send raises", "cancelled", MISTAKE),
    ],
)
def test_ending_that_counts(steps: str, reason: str | None, failure: Exception | None) -> None:
    life = life_of(steps)

    assert life.reason == reason
    assert life.failure is failure


@pytest.mark.parametrize(
    ("steps", "phase"),
    [
        ("", Phase.STREAMING),
        ("drains", Phase.DRAINING),
        ("source ends", Phase.ENDING),
        ("source ends, drains", Phase.ENDING),
        ("client leaves", Phase.ENDING),
        ("send raises", Phase.COMPLETE),
        ("source ends, send refused", Phase.COMPLETE),
        ("source ends, complete", Phase.COMPLETE),
        ("source ends, complete, client leaves", Phase.COMPLETE),
        # Thrown away with its loop.
        ("over", Phase.OVER),
        ("over, source fails", Phase.OVER),
        ("over, drains", Phase.OVER),
    ],
)
def test_phase_that_it_has_come_to(steps: str, phase: Phase) -> None:
    assert life_of(steps).phase is phase


@pytest.mark.parametrize(
    ("steps", "disconnected", "gone"),
    [
        ("source ends", False, False),
        ("client leaves", True, True),
        # It leaves when it has what it wanted, or because it can't read any more.
        ("source ends, client leaves", False, True),
        ("source fails, client leaves", False, True),
        ("send refused", True, False),
        ("source ends, send refused", True, False),
        ("cancelled, send refused", True, False),
    ],
)
def test_client_that_has_left(steps: str, disconnected: bool, gone: bool) -> None:
    life = life_of(steps)

    assert (life.disconnected is not None) is disconnected
    assert life.client_gone is gone


@pytest.mark.parametrize(
    ("steps", "unstarted", "started", "farewell"),
    [
        ("source ends", True, True, False),
        ("client lags", True, True, False),
        ("source fails", False, True, False),
        ("cancelled", False, True, False),
        ("grace is over", True, True, True),
        ("drains, source ends", True, True, True),
        ("drains, client lags", True, True, True),
        # A server that has lost its patience.
        ("drains, cancelled", False, True, True),
        ("drains, source fails", False, True, False),
        ("client leaves", False, False, False),
        ("drains, client leaves", False, False, False),
        ("send raises", False, False, False),
        ("send is late", False, False, False),
        ("send refused", False, False, False),
        ("source ends, complete", False, False, False),
    ],
)
def test_what_is_still_sent(steps: str, unstarted: bool, started: bool, farewell: bool) -> None:
    life = life_of(steps)

    assert life.completes_body(started=False) is unstarted
    assert life.completes_body(started=True) is started
    assert life.says_farewell is farewell


@pytest.mark.parametrize(
    ("steps", "background", "side_task_first", "unseen_error_logged"),
    [
        ("source ends", True, False, True),
        ("client lags", True, False, True),
        ("client leaves", True, True, True),
        ("grace is over", True, True, True),
        ("drains, source ends", True, True, True),
        ("source fails", False, True, True),
        ("send is late", False, True, True),
        ("cancelled", False, True, False),
        ("over", False, True, True),
    ],
)
def test_what_is_done_at_the_end(
    steps: str, background: bool, side_task_first: bool, unseen_error_logged: bool
) -> None:
    life = life_of(steps)

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


@given(st.lists(st.sampled_from([*STEPS])))
def test_it_never_goes_back_and_its_first_bad_ending_stays(steps: list[str]) -> None:
    life = Lifecycle()
    before: tuple[Phase, str | None] = (life.phase, None)
    for step in steps:
        STEPS[step](life)
        phase, reason = before
        assert life.phase >= phase
        assert (life.reason is None) == (life.phase < Phase.ENDING)
        assert reason in (None, "end", life.reason)
        if life.says_farewell:
            assert life.reason in ("shutdown", "cancelled")
        before = (life.phase, life.reason)
