"""The products that collect figures are tried on the loops of the unit suite, each as its users install it."""

from tests.unit.conftest import *  # noqa: F403
