"""The testing kit is tried on the loops of the unit suite, and as quickly."""

from tests.unit.conftest import *  # noqa: F403
