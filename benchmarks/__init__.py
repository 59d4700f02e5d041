"""Measures this package beside its rivals: `python3 tasks.py bench`."""
