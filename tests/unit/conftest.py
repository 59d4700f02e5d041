"""On which event loops the unit suite runs."""

from __future__ import annotations

from typing import Any

import pytest

from sse_starlette import sse

START_LEAVES_ALONE = sse._START_LEAVES_ALONE
"""How it is with the starlette that is installed."""


@pytest.fixture(autouse=True)
def start_leaves_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out the empty chunk that older starlettes need: it has tests of its own."""
    monkeypatch.setattr(sse, "_START_LEAVES_ALONE", True)


@pytest.fixture(
    params=[
        pytest.param(("asyncio", {"use_uvloop": False}), id="asyncio"),
        pytest.param(("asyncio", {"use_uvloop": True}), id="uvloop"),
        pytest.param(("trio", {}), id="trio"),
    ]
)
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    """Runs every test marked `pytest.mark.anyio` once on each of the loops."""
    backend: tuple[str, dict[str, Any]] = request.param
    return backend
