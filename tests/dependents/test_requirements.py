"""The packages that depend on us, as they are: who they want and what they get."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import distribution
from pathlib import Path

import sse_starlette

ROOT = Path(__file__).resolve().parents[2]


def test_the_tested_package_is_this_one() -> None:
    assert ROOT in Path(sse_starlette.__file__).parents
    assert distribution("sse-starlette").version == sse_starlette.__version__


def test_all_requirements_of_the_dependents_are_met() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pip", "check"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert (done.returncode, done.stderr) == (0, "")


THEIR_RESPONSES = """
import sys
import a2a.server.routes, langserve.server, mcp.server.sse, mcp.server.streamable_http
from sse_starlette import EventSourceResponse

THEIRS = {"a2a", "langserve", "mcp"}
found = {
    name.split(".")[0]: vars(module)["EventSourceResponse"] is EventSourceResponse
    for name, module in list(sys.modules.items())
    if name.split(".")[0] in THEIRS and "EventSourceResponse" in vars(module)
}
print(sorted(found.items()))
"""


def test_the_response_of_each_dependent_is_ours() -> None:
    """a2a and langserve put `Any` in the place of what they can't import."""
    done = subprocess.run(
        [sys.executable, "-c", THEIR_RESPONSES],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    found = "[('a2a', True), ('langserve', True), ('mcp', True)]"
    assert (done.stdout.strip(), done.returncode) == (found, 0), done.stderr
