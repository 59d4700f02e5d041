"""Serves an application of this folder on a free port, and makes each warning of ours an error.

The server waits for its connections as long as it takes: if it goes, that's because its streams ended.
"""

from __future__ import annotations

import importlib.util
import logging
import sys
import warnings
from pathlib import Path
from types import FrameType
from typing import TextIO

import uvicorn

# This finds the package without importing it.
_spec = importlib.util.find_spec("sse_starlette")
assert _spec is not None
assert _spec.origin is not None
OURS = str(Path(_spec.origin).parent)


def is_ours(frame: FrameType | None) -> bool:
    return frame is not None and frame.f_code.co_filename.startswith(OURS)


def refuse_ours(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """Raise what our package warns of, and what those that it calls warn it of."""
    caller: FrameType | None = sys._getframe(1)
    while caller is not None and caller.f_globals.get("__name__") == "warnings":
        caller = caller.f_back
    # Ours may name the file of its caller (stacklevel). What warns our package names our file, but so
    # may somebody who only was called, through others, by the source that our package drives.
    before = None if caller is None else caller.f_back
    if is_ours(caller) or (filename.startswith(OURS) and is_ours(before)):
        # Also in the log, in case somebody catches it.
        print(f"a warning of ours: {filename}:{lineno}: {category.__name__}: {message}", flush=True)
        raise message if isinstance(message, Warning) else category(message)


if __name__ == "__main__":
    warnings.simplefilter("always")
    warnings.showwarning = refuse_ours
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(name)s: %(message)s")
    uvicorn.run(sys.argv[1], factory=True, host="127.0.0.1", port=0, use_colors=False)
