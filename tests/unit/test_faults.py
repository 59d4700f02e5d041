"""What is noted of a fault, and how often it's said."""

from __future__ import annotations

import pytest
from tests.unit.following import FakeClock

from sse_starlette.errors import LogRefused, LogUnavailable
from sse_starlette.eventlogs._faults import Faults

REFUSED = LogRefused("fake://", "NOPERM", "Give the user its rights.")
OF_ONE = LogRefused("fake://", "WRONGTYPE", "Remove the key.", "prices")
AWAY = LogUnavailable("fake://", "cut off")


def test_what_is_refused_is_said_once_a_minute_whoever_meets_it(
    clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    faults = Faults()

    for tried in ("append", "read", "append"):
        faults.note(tried, REFUSED, "prices")
    assert len(caplog.records) == 1
    assert "Give the user its rights." in caplog.records[0].getMessage()
    clock.now += 61
    faults.remind()
    assert len(caplog.records) == 2


def test_what_passes_is_noted_and_left_to_who_listens(caplog: pytest.LogCaptureFixture) -> None:
    faults = Faults()

    faults.note("append", AWAY)

    assert "cut off" in faults.reason
    assert caplog.records == []


def test_the_whole_log_comes_before_a_channel_and_what_works_again_is_forgotten() -> None:
    faults = Faults()
    faults.mended("read")
    assert faults.reason == ""

    faults.note("append", OF_ONE, "prices")
    faults.note("read", REFUSED, "prices")

    assert "NOPERM" in faults.reason
    faults.mended("read", "prices")
    assert "'prices': WRONGTYPE" in faults.reason
    faults.mended("append", "prices")
    assert faults.reason == ""


def test_an_unexpected_error_is_logged_with_its_traceback(
    caplog: pytest.LogCaptureFixture,
) -> None:
    faults = Faults()

    faults.note("read", ZeroDivisionError("made up"), "prices")
    faults.note("sweep", ZeroDivisionError("made up"))

    assert [record.getMessage() for record in caplog.records] == [
        "channel 'prices' can't be read from its log",
        "what keeps the channels in step with their log has failed",
    ]
    assert all(record.exc_info for record in caplog.records)
    faults.clear()
    assert faults.reason == ""
