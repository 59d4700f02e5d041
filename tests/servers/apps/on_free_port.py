"""Runs a program as `__main__`, with uvicorn on any free port instead of the one it names."""

from __future__ import annotations

import runpy
import sys
from typing import Any

import uvicorn

run = uvicorn.run


def run_on_free_port(app: Any, **options: Any) -> None:
    run(app, **{**options, "port": 0})


if __name__ == "__main__":
    uvicorn.run = run_on_free_port
    runpy.run_path(sys.argv[1], run_name="__main__")
