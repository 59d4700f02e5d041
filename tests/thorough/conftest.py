"""What tries more than the unit suite has time for runs on every loop, always."""

from __future__ import annotations

from typing import Any

import pytest
from tests.unit.conftest import start_leaves_alone
from tests.unit.driving import LOOPS

__all__ = ["anyio_backend", "start_leaves_alone"]


@pytest.fixture(params=LOOPS.values(), ids=list(LOOPS))
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    backend: tuple[str, dict[str, Any]] = request.param
    return backend
