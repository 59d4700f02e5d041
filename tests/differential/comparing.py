"""Runs programs on both versions, side by side in one process; the pool of `__main__` imports it."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from .programs import draw
from .worlds import load, manual_time, trace_of

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = "sse_starlette"


def compare(folder: Path, seeds: range) -> tuple[int, list[int], Counter[str]]:
    """Run the programs of these numbers on both; return how many, those that differ, and what came up."""
    with manual_time():
        before = load(folder / "before", "before")
        now = load(ROOT / "src" / PACKAGE, PACKAGE)
        different = []
        seen: Counter[str] = Counter()
        for seed in seeds:
            program = draw(seed)
            traces = [trace_of(package, program) for package in (before, now)]
            if traces[0] != traces[1]:
                different.append(seed)
            seen.update(
                {
                    " ".join(what[2:4])
                    for what in traces[1]
                    if all(isinstance(w, str) for w in what[1:4])
                }
            )
        return len(seeds), different, seen


def show(folder: Path, seed: int) -> None:
    """Print a program, and where its two courses part."""
    with manual_time():
        before = load(folder / "before", "before")
        now = load(ROOT / "src" / PACKAGE, PACKAGE)
        program = draw(seed)
        traces = [trace_of(package, program) for package in (before, now)]
    print(f"\n== program {seed}\n{program}")
    same = 0
    while traces[0][same : same + 1] == traces[1][same : same + 1] != []:
        same += 1
    for line in traces[0][max(0, same - 8) : same]:
        print("   ", str(line)[:200])
    for sign, trace in zip("-+", traces, strict=True):
        for line in trace[same : same + 8]:
            print(f"  {sign}", str(line)[:200])
