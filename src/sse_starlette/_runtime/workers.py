"""
How many workers a server has, as far as one of them can tell: no server says that to its applications.

Where it can't be told, nothing is missing but a warning, so what is looked at here may go at any time.
"""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path
from typing import Any

_logger = logging.getLogger("sse_starlette.hub")

_VARIABLES = {
    "gunicorn": ("WEB_CONCURRENCY", "GUNICORN_CMD_ARGS"),
    "granian": ("GRANIAN_WORKERS",),
}
"""The servers whose workers have the command line of their parent, and what else tells these what to do, before it."""

_warned: set[str] = set()


def warn_of_other_workers(what: str, otherwise: str) -> None:
    """
    Warn, once for this process, of what its memory alone holds, if there are others that it's meant for.

    Args:
        what: what it holds, and what follows from that; a clause.
        otherwise: what to do instead.
    """
    if what not in _warned:
        _warned.add(what)
        if (count := count_workers()) > 1:
            _logger.warning(
                "this process is one of %d workers, and %s. %s",
                count,
                what,
                otherwise,
                extra={"sse_event": "one_of_many_workers"},
            )


def given_to_worker(name: str, *servers: str) -> Any:
    """Return what a server of one of these packages has given this worker of its under a name; None: nothing."""
    processes = sys.modules.get("multiprocessing.process")
    if processes is None:
        return None
    worker = processes.current_process()
    package = getattr(getattr(worker, "_target", None), "__module__", "").partition(".")[0]
    return worker._kwargs.get(name) if package in servers else None  # noqa: SLF001  (there's no other way to it)


def count_workers() -> int:
    """Return how many workers this process is one of; 1: there's no other, or nobody knows."""
    config = given_to_worker("config", "uvicorn", "hypercorn") or _config_of_gunicorn()
    count = getattr(config, "workers", None) or _count_in_command()
    return count if isinstance(count, int) and count > 0 else 1


def _config_of_gunicorn() -> Any:
    """Return what gunicorn was told, which a worker sees at those that were forked before it."""
    arbiter = getattr(sys.modules.get("gunicorn.arbiter"), "Arbiter", None)
    for worker in getattr(arbiter, "WORKERS", {}).values():
        return getattr(worker, "cfg", None)
    return None


def _count_in_command() -> int | None:
    program = Path(sys.argv[0]) if sys.argv else Path()
    name = program.parent.name if program.name == "__main__.py" else program.name
    if name not in _VARIABLES:
        return None
    import argparse  # noqa: PLC0415  (whoever isn't started like that needn't have it)

    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("-w", "--workers", type=int)
    words: list[str] = []
    for variable in _VARIABLES[name]:
        # A number alone is that of the workers.
        value = os.environ.get(variable, "")
        words += ["--workers", value] if value.isdigit() else value.split()
    try:
        found: int | None = parser.parse_known_args([*words, *sys.argv[1:]])[0].workers
    except argparse.ArgumentError:
        return None
    return found
