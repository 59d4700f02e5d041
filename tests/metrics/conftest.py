"""The products that collect figures are tried on the loops of the unit suite, each as its users install it."""

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
