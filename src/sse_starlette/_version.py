"""The version, in its one place: the build reads it from this file."""

__version__ = "4.0.0"
