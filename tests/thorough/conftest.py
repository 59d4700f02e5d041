"""The loops of the unit suite, for tests that try more than it has time for."""

from __future__ import annotations

from tests.unit.conftest import anyio_backend, start_leaves_alone

__all__ = ["anyio_backend", "start_leaves_alone"]
