"""Runs programs on both versions, side by side in one process; the pool of `__main__` imports it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from .programs import Program, draw
from .worlds import Trace, load, manual_time, trace_of

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = "sse_starlette"


@contextmanager
def both(folder: Path) -> Iterator[Callable[[Program], list[Trace]]]:
    """By the manual clock, runs a program on each of the two."""
    with manual_time():
        packages = [load(folder / "before", "before"), load(ROOT / "src" / PACKAGE, PACKAGE)]
        yield lambda program: [trace_of(package, program) for package in packages]


def compare(folder: Path, seeds: range) -> tuple[int, list[int], Counter[str]]:
    """Run the programs of these numbers on both; return how many, those that differ, and what came up."""
    with both(folder) as traces_of:
        different = []
        seen: Counter[str] = Counter()
        for seed in seeds:
            traces = traces_of(draw(seed))
            if traces[0] != traces[1]:
                different.append(seed)
            steps = [what[1:4] for what in traces[1]]
            seen.update({" ".join(s[1:]) for s in steps if all(isinstance(w, str) for w in s)})
        return len(seeds), different, seen


def show(folder: Path, seed: int) -> None:
    """Print a program, and where its two courses part."""
    program = draw(seed)
    with both(folder) as traces_of:
        traces = traces_of(program)
    print(f"\n== program {seed}\n{program}")
    same = 0
    while traces[0][same : same + 1] == traces[1][same : same + 1] != []:
        same += 1
    for line in traces[0][max(0, same - 8) : same]:
        print("   ", str(line)[:200])
    for sign, trace in zip("-+", traces, strict=True):
        for line in trace[same : same + 8]:
            print(f"  {sign}", str(line)[:200])
