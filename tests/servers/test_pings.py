"""Pings as they go over the wire, and what silence costs."""

from __future__ import annotations

import time
from contextlib import closing

import pytest
from tests.servers.conftest import Serve
from tests.servers.reading import connect, lines_there, lines_until


@pytest.mark.slow
def test_ping_comes_in_silence_by_default_never_between_events_and_not_when_it_is_off(
    serve: Serve,
) -> None:
    """After how many seconds it comes is for the clock of the unit tests to say."""
    server = serve()

    with (
        closing(connect(f"{server.url}/silent?ping=0")) as off,
        closing(connect(f"{server.url}/chatter")) as busy,
        closing(connect(f"{server.url}/silent")) as silent,
    ):
        pings = lines_until(silent, 2, beginning=": ping - ")
        from_busy = lines_there(busy)
        from_off = lines_there(off)

    assert len(pings) == 2
    assert set(from_busy) == {"data: x"}
    assert from_off == []


def test_streams_without_pings_wake_nobody(serve: Serve) -> None:
    server = serve()

    connections = [connect(f"{server.url}/silent?ping=0") for _ in range(200)]
    try:
        before = server.wake_ups()
        # Nothing will happen, and that is what is measured: here time is the fact.
        time.sleep(4)
        woken = server.wake_ups() - before
    finally:
        for connection in connections:
            connection.close()

    # uvicorn itself looks at its clock ten times a second; one look of each stream would be more.
    assert woken < len(connections), f"woken {woken} times in 4 s of silence"
