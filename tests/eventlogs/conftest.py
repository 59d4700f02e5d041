"""The logs are tried on the loops of the unit suite, with a real Redis and real files."""

from __future__ import annotations

from tests.unit.conftest import (
    anyio_backend,
    pytest_collection_finish,
    pytest_sessionfinish,
    start_leaves_alone,
)

__all__ = [
    "anyio_backend",
    "pytest_collection_finish",
    "pytest_sessionfinish",
    "start_leaves_alone",
]
