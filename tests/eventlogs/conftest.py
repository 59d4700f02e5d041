"""The logs are tried on the loops of the unit suite, with a real Redis and real files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.eventlogs.stores import FakeClock
from tests.servers.redis_servers import RedisServer
from tests.unit.conftest import (
    anyio_backend,
    pytest_collection_finish,
    pytest_sessionfinish,
    start_leaves_alone,
)

from sse_starlette.eventlogs.sqlite import _clock

__all__ = [
    "anyio_backend",
    "pytest_collection_finish",
    "pytest_sessionfinish",
    "start_leaves_alone",
]


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A Redis that tests share; what they need to be empty, they empty."""
    with RedisServer(tmp_path_factory.mktemp("redis")) as running:
        yield running


@pytest.fixture
def empty_server(server: RedisServer) -> RedisServer:
    """The one that all share; a test leaves it as it was."""
    server.say("FLUSHALL")
    return server


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[RedisServer]:
    """A Redis that a test may break."""
    with RedisServer(tmp_path) as running:
        yield running


@pytest.fixture(params=["redis", "sqlite"])
def url(request: pytest.FixtureRequest, server: RedisServer, tmp_path: Path) -> str:
    """An empty event log; or `memory`, where a test is about channels as well."""
    if request.param == "memory":
        return "memory"
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/events.db"
    server.say("FLUSHALL")
    return server.url


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where a log is to make its file."""
    return tmp_path / "events.db"


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> FakeClock:
    """The time of logs in files: passed, or set, by the test."""
    clock = FakeClock()
    monkeypatch.setattr(_clock, "time", clock)
    return clock
