"""The rules of runs: is one alive, has it ended, may it be started again; and what goes with its lease."""

from __future__ import annotations

from typing import Any

import pytest

from sse_starlette.eventlogs.base import NewEntry
from sse_starlette.eventlogs.leases import Lease
from sse_starlette.runs import RunEnd, RunStatus
from sse_starlette.runs._options import RunNote, RunOptions, default_last_event, note_of
from sse_starlette.runs._producer import first_batch
from sse_starlette.runs._rules import (
    LOOK_SECONDS,
    Sighting,
    Verdict,
    closing_key,
    judge,
    may_start,
    status_of,
)

NOW = 1_000.0
BEFORE = NOW - LOOK_SECONDS
ENDS = [status for status in RunStatus if status is not RunStatus.RUNNING]


def lease(token: int = 1, renewals: int = 0, closed_by: str = "") -> Lease:
    return Lease(token, "holder", renewals, 0, 0.0, b"", closed_by)


def closed(status: RunStatus) -> Lease:
    return lease(closed_by=closing_key(status, "holder"))


def seen(token: int = 1, renewals: int = 0, since: float = BEFORE, looked: float = BEFORE) -> Any:
    return Sighting(token, renewals, since, looked)


@pytest.mark.parametrize(
    ("before", "now", "verdict"),
    [
        pytest.param(None, lease(), Verdict.WATCHING, id="seen for the first time"),
        pytest.param(None, closed(RunStatus.DONE), Verdict.ENDED, id="ended"),
        pytest.param(seen(), lease(renewals=1), Verdict.ALIVE, id="renewed"),
        pytest.param(seen(), lease(token=2), Verdict.ALIVE, id="taken by another"),
        pytest.param(seen(), lease(), Verdict.WATCHING, id="stands still, not for long"),
        pytest.param(seen(since=NOW - 3), lease(), Verdict.LOST, id="stands still for too long"),
        pytest.param(
            seen(since=NOW - 9, looked=NOW - 4), lease(), Verdict.WATCHING, id="nobody looked"
        ),
        pytest.param(seen(), None, Verdict.WATCHING, id="forgotten just now"),
        pytest.param(seen(0, since=NOW - 3), None, Verdict.LOST, id="forgotten for long"),
    ],
)
def test_a_lease_that_stands_still_is_dead_for_who_has_watched_it(
    before: Sighting | None, now: Lease | None, verdict: Verdict
) -> None:
    sighting, found = judge(before, now, NOW, patience=3.0)

    assert found is verdict
    assert sighting.looked == NOW
    went_on = before is not None and before[:2] == sighting[:2] and before.looked == BEFORE
    assert sighting.since == (before.since if went_on and before is not None else NOW)


@pytest.mark.parametrize("status", ENDS)
def test_the_entry_that_closes_a_run_says_how_it_has_ended(status: RunStatus) -> None:
    assert status_of(closed(status)) is status


@pytest.mark.parametrize(
    ("closed_by", "status"),
    [("", "running"), ("somebody.7", "lost"), ("run-end:in a later version:x", "lost")],
)
def test_a_run_that_somebody_else_has_closed_is_lost(closed_by: str, status: str) -> None:
    assert status_of(lease(closed_by=closed_by)) == status


@pytest.mark.parametrize(
    ("found", "restart", "starts"),
    [
        (None, [], True),
        (lease(), ["lost", "failed", "stopped", "done"], False),
        (closed(RunStatus.LOST), [], False),
        (closed(RunStatus.LOST), ["lost"], True),
        (closed(RunStatus.LOST), {RunStatus.LOST}, True),
        (closed(RunStatus.DONE), ["lost", "failed"], False),
    ],
)
def test_a_run_is_started_again_only_if_its_end_is_named(
    found: Lease | None, restart: list[str], starts: bool
) -> None:
    assert may_start(found, restart) is starts


WRONG: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"ttl": 0}, ValueError, "ttl must be > 0"),
    ({"ttl": "1 h"}, TypeError, "ttl must be a number of seconds"),
    ({"on_abandon": "stop"}, ValueError, r"on_abandon must be one of \('keep', 'cancel'\)"),
    ({"abandon_after": 0}, ValueError, "abandon_after must be > 0"),
    ({"restart": "lost"}, TypeError, r'restart .*restart=\["lost"\]'),
    ({"restart": True}, TypeError, r'restart .*restart=\["lost"\]'),
    ({"restart": ["running"]}, ValueError, "restart must be some of"),
    ({"last_event": 3}, TypeError, "last_event must be a function of one RunEnd"),
    ({"last_event": print, "end_event": "x"}, ValueError, ".*give one"),
    ({"max_events": 0}, ValueError, "max_events must be at least 1"),
    ({"max_bytes": 1.5}, TypeError, "max_bytes must be at least 1"),
    ({"lease": 0}, ValueError, "lease must be > 0"),
    ({"shutdown_grace": -1}, ValueError, "shutdown_grace must be >= 0"),
    ({"tll": 3}, TypeError, "run has no option 'tll': there are abandon_after"),
]


@pytest.mark.parametrize(("options", "error", "text"), WRONG)
def test_a_wrong_option_is_said(options: dict[str, Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=f"^{text}"):
        RunOptions.of(options)  # type: ignore[arg-type]


def test_what_goes_with_a_lease_comes_back_as_it_was() -> None:
    note = note_of(RunOptions(on_abandon="cancel", lease=1.5), lambda event: f"{event}".encode())

    assert RunNote.decode(note.encode()) == note
    assert note.last_frames[RunStatus.LOST] == b"{'event': 'lost', 'data': {'reason': 'silence'}}"
    assert (
        note.last_frames[RunStatus.STOPPED] == b"{'event': 'stopped', 'data': {'reason': 'stop'}}"
    )


def test_a_last_event_that_can_not_be_sent_is_said_at_the_start() -> None:
    def encode(event: object) -> bytes:
        raise TypeError(f"{event}")

    with pytest.raises(TypeError, match="the end"):
        note_of(RunOptions(end_event="the end"), encode)
    assert note_of(RunOptions(last_event=lambda _: None), encode).lost == b""


@pytest.mark.parametrize(
    ("end", "event"),
    [
        (RunEnd(RunStatus.DONE, "end"), None),
        (RunEnd(RunStatus.LOST, "silence"), {"event": "lost", "data": {"reason": "silence"}}),
        (
            RunEnd(RunStatus.FAILED, "error", ValueError("the password")),
            {"event": "error", "data": {"reason": "error"}},
        ),
    ],
)
def test_nothing_of_an_exception_is_in_an_event(end: RunEnd, event: object) -> None:
    assert default_last_event(end) == event


@pytest.mark.parametrize(
    ("sizes", "count"),
    [
        pytest.param([], 0, id="nothing waits"),
        pytest.param([1, 1], 2, id="all that waits"),
        pytest.param([1, 1, 1, 1], 3, id="so many events"),
        pytest.param([6, 4, 1], 2, id="so many bytes"),
        pytest.param([6, 5], 1, id="no byte more"),
        pytest.param([11, 1], 1, id="one event, however large"),
    ],
)
def test_a_batch_has_so_many_events_and_bytes_at_the_most(sizes: list[int], count: int) -> None:
    waiting = [NewEntry(b"x" * size, "", 0) for size in sizes]

    assert first_batch(waiting, 3, 10) == waiting[:count]
