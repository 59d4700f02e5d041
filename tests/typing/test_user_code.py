"""
What applications write has types: two strict checkers agree on which lines are right.

A line that must not pass says so by an `ignore` for each of them; one that isn't needed is an error, too.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).parent
PROGRAMS = sorted(str(path) for path in FOLDER.glob("*.py") if path != Path(__file__))


def output_of(*command: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", *command],
        cwd=FOLDER,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert not done.stderr, done.stderr
    return done.stdout


def test_mypy_in_strict_mode_finds_the_lines_that_are_wrong_and_no_others() -> None:
    found = output_of("mypy", "--strict", "--config-file=", "--no-color-output", *PROGRAMS)

    assert found == f"Success: no issues found in {len(PROGRAMS)} source files\n"


def test_pyright_in_strict_mode_finds_the_same() -> None:
    found = json.loads(
        output_of("pyright", "-p", ".", "--outputjson", "--pythonpath", sys.executable)
    )

    told = [(one["range"]["start"]["line"] + 1, one["message"]) for one in found["generalDiagnostics"]]  # fmt: skip
    assert told == []
    assert found["summary"]["filesAnalyzed"] == len(PROGRAMS)
