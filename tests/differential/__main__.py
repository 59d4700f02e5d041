"""
Runs random programs on an older version of the package and on this one, and shows where they differ.

    python -m tests.differential REVISION --programs 100000

What is compared: each ASGI message and each callback, in order and with its time on a manual clock, what
a source sees, what is raised, the level of what is logged, the statistics of a channel. Ends with 1 if
a program took another course.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import tempfile
from collections import Counter
from functools import partial
from pathlib import Path

from .comparing import compare, show
from .unpacking import unpack

SHOWN = 5
AT_ONCE = 500


def main() -> int:
    """Read the command line, run, tell; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.differential", description=__doc__)
    parser.add_argument(
        "revision", help='what git calls the older version; ".": the checkout itself'
    )
    parser.add_argument("--programs", type=int, default=10_000)
    parser.add_argument("--first", type=int, default=0, help="the number of the first program")
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    parser.add_argument("--seen", action="store_true", help="tell how many programs came to what")
    options = parser.parse_args()
    end = options.first + options.programs
    with tempfile.TemporaryDirectory(prefix="differential-") as name:
        folder = Path(name)
        unpack(options.revision, folder, "before")
        parts = [range(n, min(end, n + AT_ONCE)) for n in range(options.first, end, AT_ONCE)]
        ran, different, seen = 0, [], Counter[str]()
        context = multiprocessing.get_context("spawn")
        with context.Pool(options.processes) as pool:
            for number, found, what in pool.imap_unordered(partial(compare, folder), parts):
                ran += number
                different += found
                seen += what
        if options.seen:
            for step, number in seen.most_common():
                print(f"{number:8}  {step}")
        print(f"{ran} programs, {len(different)} took another course: {sorted(different)[:50]}")
        for seed in sorted(different)[:SHOWN]:
            show(folder, seed)
    return 1 if different else 0


if __name__ == "__main__":
    sys.exit(main())
