"""The products that collect figures are tried on the loops of the unit suite, each as its users install it."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from tests.unit.conftest import *  # noqa: F403

from sse_starlette import Hub


@pytest.fixture
def hub() -> Hub:
    return Hub()


async def two_events() -> AsyncIterator[str]:
    yield "one"
    yield "two"
