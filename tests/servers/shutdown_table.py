"""
Measures how servers go down, and writes the table of docs/shutdown.md.

    python -m tests.servers.shutdown_table

runs test_shutdown_servers.py, test after test, and puts what it measured between the marks in the page.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from tests.servers.going_down import CASES, ENDINGS, Ending, ServerCase
from tests.servers.serving import ROOT

PAGE = ROOT / "docs" / "shutdown.md"
BEGIN = "<!-- table: python -m tests.servers.shutdown_table -->"
END = "<!-- end of the table -->"
MEASURED = "SHUTDOWN_MEASURED"
"""Names the file that the tests write what they measure to, if it's set."""

HEAD = ("Server", "Started with", "SIGTERM", "SIGINT", "Reload", "Worker replaced")
NONE = "–"  # noqa: RUF001  (a dash, as in any table)

Measured = Mapping[tuple[str, Ending], float | None]


def cell(case: ServerCase, ending: Ending, measured: Measured) -> str:
    """What the table says of one way to end one server."""
    if ending not in case.endings:
        return NONE
    if ending in case.not_handled:
        return "not handled (1)"
    seconds = measured[str(case), ending]
    marks = [
        mark
        for mark, applies in (
            ("at SIGHUP", ending == "recycling" and case.recycled_by == "SIGHUP"),
            ("(2)", case.cuts_the_last),
            ("(3)", ending not in case.lifespan_stops_at),
        )
        if applies
    ]
    return " ".join([f"{seconds:.2f} s", *marks])


def table(measured: Measured) -> list[str]:
    """The lines of the table."""
    rows = [HEAD, tuple("---" for _ in HEAD)]
    rows += [
        (case.server, case.start, *(cell(case, ending, measured) for ending in ENDINGS))
        for case in CASES
    ]
    return ["| " + " | ".join(row) + " |" for row in rows]


def lines_in_page() -> list[str]:
    """The table as the page has it."""
    return PAGE.read_text("utf-8").partition(BEGIN)[2].partition(END)[0].strip().splitlines()


def main() -> int:
    with tempfile.TemporaryDirectory() as folder:
        results = Path(folder) / "measured"
        tests = ROOT / "tests" / "servers" / "test_shutdown_servers.py"
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", tests],
            cwd=ROOT,
            env={**os.environ, MEASURED: str(results)},
            check=False,
        )
        if done.returncode:
            print("not every test has passed: the page stays as it is", file=sys.stderr)
            return done.returncode
        told = [json.loads(line) for line in results.read_text("utf-8").splitlines()]
    measured = {(each["case"], each["ending"]): each["seconds"] for each in told}
    before, _, rest = PAGE.read_text("utf-8").partition(BEGIN)
    after = rest.partition(END)[2]
    lines = "\n".join(table(measured))
    PAGE.write_text(f"{before}{BEGIN}\n\n{lines}\n\n{END}{after}", "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
