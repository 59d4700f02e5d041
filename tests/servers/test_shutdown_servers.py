"""Each server, each way to start it, each way to end it: what becomes of twenty open streams."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest
from tests.servers import serving
from tests.servers.going_down import (
    CASES,
    STREAMS,
    Clients,
    Ending,
    ServerCase,
    bring_down,
    started,
)
from tests.servers.shutdown_table import MEASURED

HANDLED = [(case, each) for case in CASES for each in case.endings if each not in case.not_handled]
TRIES = 6
# One way for each server, and each of its workers: the streams end alike in the others.
ONE_OF_EACH = [
    next(case for case in CASES if case.server == server and said in str(case))
    for server, said in [
        ("uvicorn", "h11-loop-asyncio"),
        ("hypercorn", "asyncio-workers-0"),
        ("granian", "workers-1"),
        ("gunicorn", "Uvicorn"),
        ("daphne", ""),
    ]
]
NOT_HANDLED = [(case, each) for case in CASES for each in case.not_handled]


def write_down(case: ServerCase, ending: Ending, result: float | None) -> None:
    if path := os.environ.get(MEASURED):
        line = json.dumps({"case": str(case), "ending": ending, "seconds": result}) + "\n"
        # One write: several processes may run tests.
        with Path(path).open("ab", buffering=0) as table:
            table.write(line.encode())


@pytest.mark.parametrize(("case", "ending"), HANDLED, ids=str)
def test_server_goes_down_and_every_stream_ends_properly(
    case: ServerCase, ending: Ending, tmp_path: Path
) -> None:
    # A fault of the server's own tells nothing of the streams. On a busy machine some come again.
    for attempt in range(TRIES):
        folder = tmp_path / str(attempt)
        folder.mkdir()
        outcome = bring_down(case, ending, folder)
        if not outcome.is_own_fault(case):
            break

    assert outcome.streams == STREAMS
    assert outcome.exit_codes.count(0) >= STREAMS - case.cuts_the_last, outcome
    assert [b"event: farewell" in each for each in outcome.bodies] == [True] * STREAMS
    assert outcome.count("finally") == STREAMS
    assert outcome.count("closed", reason="shutdown") == STREAMS
    workers = outcome.count("lifespan started")
    assert outcome.count("lifespan stopped") == workers * (ending in case.lifespan_stops_at)
    assert outcome.unusual == []
    write_down(case, ending, outcome.seconds)


@pytest.mark.parametrize(("case", "ending"), NOT_HANDLED, ids=str)
def test_signal_that_the_server_does_not_handle_ends_everything_at_once(
    case: ServerCase, ending: Ending, tmp_path: Path
) -> None:
    """Not what we want, but what the documentation says; if it isn't true any more, all the better."""
    outcome = bring_down(case, ending, tmp_path)

    assert outcome.exit_codes == [18] * STREAMS
    assert outcome.count("finally") == 0
    write_down(case, ending, None)


@pytest.mark.parametrize("case", ONE_OF_EACH, ids=str)
def test_server_goes_down_although_a_sync_source_waits_for_ever(
    case: ServerCase, tmp_path: Path
) -> None:
    with (
        started(case, tmp_path) as server,
        Clients(f"{server.url}/blocked", tmp_path, 3) as clients,
    ):
        os.kill(server.pid, signal.SIGTERM)

        assert clients.exit_codes() == [0] * 3
        server.wait(serving.READY_SECONDS)
        server.stop()  # Waits until all that it has said has been read.
        assert all(b"event: farewell" in body for body in clients.bodies)
        told = [line for line in server.lines if "still at a step in thread" in line]
        # These end as soon as the bodies are complete, and there may be nobody left to say it.
        waits_for_applications = case.server not in {"daphne", "granian"}
        assert len(told) == 3 if waits_for_applications else len(told) <= 3, server.lines
        assert all("sse-starlette sync source" in line for line in told)
