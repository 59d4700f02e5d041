"""The adapters are tried on the loops of the unit suite."""

from tests.unit.conftest import *  # noqa: F403
