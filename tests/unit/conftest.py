"""On which event loops the unit suite runs, and what is the same for all of its tests."""

from __future__ import annotations

import gc
from collections.abc import AsyncIterator, Iterator
from functools import partial
from typing import Any

import pytest
from tests.unit.driving import LOOPS, on
from tests.unit.following import FakeClock, ManualLoop, on_loop, stop_the_clock
from tests.unit.logs import FakeLog, FakeStore
from tests.unit.replicating import Process, one

from sse_starlette import hub, sse
from sse_starlette._stream.options import StreamOptions
from sse_starlette.eventlogs._options import LogOptions


@pytest.fixture(autouse=True)
def start_leaves_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out the empty chunk that older starlettes need: it has tests of its own."""
    monkeypatch.setattr(sse, "StreamOptions", partial(StreamOptions, start_alone=True))


@pytest.fixture(params=[on(loop) for loop in LOOPS])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    """Runs every test marked `pytest.mark.anyio` once on each of the loops."""
    backend: tuple[str, dict[str, Any]] = request.param
    return backend


@pytest.fixture
def store() -> FakeStore:
    """What all that follow one log have in common."""
    return FakeStore()


@pytest.fixture
def log(store: FakeStore) -> FakeLog:
    """One process's way to it."""
    return FakeLog(store)


@pytest.fixture
async def process(log: FakeLog) -> AsyncIterator[Process]:
    """One that is connected to it."""
    async with one(log) as hub:
        yield Process(hub, log)


@pytest.fixture
def without_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Try again at once."""
    at_once = partial(LogOptions, read_pauses=(0.0, 0.0), listen_again=0.0)
    monkeypatch.setattr(hub, "LogOptions", at_once)


def pytest_collection_finish() -> None:
    """
    Keep the garbage collector from what is loaded by now: it stays to the end anyway.

    Tests that collect look through some hundred thousand objects less each time.
    """
    gc.collect()
    gc.freeze()


def pytest_sessionfinish() -> None:
    """Let the collector see all of it again; `gc.get_referrers` finds nothing that is frozen."""
    gc.unfreeze()


@pytest.fixture
def loop() -> Iterator[ManualLoop]:
    with on_loop(ManualLoop()) as loop:
        yield loop


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> FakeClock:
    return stop_the_clock(monkeypatch)
