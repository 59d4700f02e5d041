"""Runs these tests on whichever sse-starlette is installed: on 3.7.0, what differs has to fail."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from sse_starlette.sse import AppStatus, EventSourceResponse


@pytest.fixture
def anyio_backend() -> str:
    # sse-starlette 3 was written for asyncio.
    return "asyncio"


@pytest.fixture(autouse=True)
def nothing_is_left_set() -> Iterator[None]:
    interval = EventSourceResponse.DEFAULT_PING_INTERVAL
    yield
    EventSourceResponse.DEFAULT_PING_INTERVAL = interval
    AppStatus.should_exit = False
    AppStatus.enable_automatic_graceful_drain_mode()
