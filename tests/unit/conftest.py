"""On which event loops the unit suite runs, and what is the same for all of its tests."""

from __future__ import annotations

import gc
from typing import Any

import pytest
from tests.unit.driving import LOOPS, on

from sse_starlette import sse

START_LEAVES_ALONE = sse._START_LEAVES_ALONE
"""How it is with the starlette that is installed."""


@pytest.fixture(autouse=True)
def start_leaves_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out the empty chunk that older starlettes need: it has tests of its own."""
    monkeypatch.setattr(sse, "_START_LEAVES_ALONE", True)


@pytest.fixture(params=[on(loop) for loop in LOOPS])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    """Runs every test marked `pytest.mark.anyio` once on each of the loops."""
    backend: tuple[str, dict[str, Any]] = request.param
    return backend


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
