"""Where commands write: results to standard output, everything else to standard error."""

from __future__ import annotations

import sys
import time
from io import TextIOWrapper
from typing import TextIO


class Terminal:
    """Two streams, and a line that says what is being waited for."""

    def __init__(
        self, out: TextIO | None = None, err: TextIO | None = None, *, every_seconds: float = 10
    ) -> None:
        if out is None and isinstance(sys.stdout, TextIOWrapper):
            # An event may have what the encoding of this terminal hasn't; standard error is like this anyway.
            sys.stdout.reconfigure(errors="backslashreplace")
        self._out = out or sys.stdout
        self._err = err or sys.stderr
        self._rewrites = self._err.isatty()
        self._progress = ""
        self._every_seconds = every_seconds
        self._told_at = time.monotonic()

    def result(self, line: str) -> None:
        """Print a line of what was asked for; it's there at once, also in a pipe."""
        self.clear()
        self._out.write(f"{line}\n")
        self._out.flush()

    def say(self, line: str) -> None:
        """Tell the person at the terminal something besides."""
        self.clear()
        self._err.write(f"{line}\n")
        self._err.flush()

    def progress(self, line: str) -> None:
        """Show what is waited for: in place on a terminal; elsewhere a line now and then."""
        if self._rewrites:
            self._err.write(f"\r\x1b[K{line}")
            self._progress = line
            self._err.flush()
        elif time.monotonic() - self._told_at >= self._every_seconds:
            self._told_at = time.monotonic()
            self.say(line)

    def clear(self) -> None:
        """Take the line of `progress` away."""
        if self._progress:
            self._err.write("\r\x1b[K")
            self._err.flush()
            self._progress = ""
