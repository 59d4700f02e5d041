"""The adapters are tried on the loops of the unit suite."""

from __future__ import annotations

from tests.unit.conftest import (
    anyio_backend,
    log,
    pytest_collection_finish,
    pytest_sessionfinish,
    start_leaves_alone,
    store,
)

__all__ = [
    "anyio_backend",
    "log",
    "pytest_collection_finish",
    "pytest_sessionfinish",
    "start_leaves_alone",
    "store",
]
