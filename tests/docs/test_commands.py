"""The commands that are printed exist, and none brings the package of the same name from elsewhere."""

from __future__ import annotations

import functools
import re
import shlex
import subprocess
import sys
import tomllib

import pytest
import tasks
from tests.docs.pages import PAGES, ROOT, Block, blocks

from sse_starlette._cli._arguments import _parser

SOURCES = sorted((ROOT / "src").rglob("*.py"))
EVERYTHING = [*PAGES, *SOURCES, *sorted((ROOT / "examples").rglob("*.py"))]
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"][
    "optional-dependencies"
]


def test_no_page_message_or_example_installs_the_package_by_its_name() -> None:
    by_name = re.compile(r"pip install[^\n`]*\bsse[-_]starlette\b")

    assert [str(path) for path in EVERYTHING if by_name.search(path.read_text("utf-8"))] == []


def test_every_extra_that_is_told_of_exists() -> None:
    told = {
        extra
        for path in EVERYTHING
        for extra in re.findall(r"pip install '\.\[(\w+)\]'", path.read_text("utf-8"))
    }

    assert {"redis", "testing"} <= told <= set(EXTRAS)


@functools.cache
def of_noxfile() -> list[str]:
    """The tasks that noxfile.py has."""
    command = [sys.executable, "-m", "nox", "--list"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return re.findall(r"^[*-] (\w+)", listed.stdout, re.MULTILINE)


@pytest.mark.parametrize("block", blocks("console"), ids=str)
def test_printed_command_names_what_there_is(block: Block) -> None:
    named = set(re.findall(r"^python3 tasks\.py (\w+)", block.text, re.MULTILINE))
    assert named <= {*re.findall(r"^(\w+)  ", tasks.TASKS, re.MULTILINE), *of_noxfile()}

    for command_line in re.findall(
        r"python -m sse_starlette (.+?)(?: *#.*)?$", block.text, re.MULTILINE
    ):
        _parser().parse_args(shlex.split(command_line))

    for script in re.findall(r"^python3? ([\w/]+\.py)", block.text, re.MULTILINE):
        assert (ROOT / script).is_file()
