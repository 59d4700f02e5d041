"""Every Python block that is printed in README and docs runs as it stands."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Any

import anyio
import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks() -> list[Any]:
    found = []
    for page in PAGES:
        text = page.read_text("utf-8")
        for match in BLOCK.finditer(text):
            line = text.count("\n", 0, match.start(1)) + 1
            name = f"{page.relative_to(ROOT)}:{line}"
            # Blank lines before it, so that a traceback names the line of the page.
            code = compile("\n" * (line - 1) + match[1], str(page), "exec")
            found.append(pytest.param(code, id=name))
    return found


@pytest.mark.parametrize("code", blocks())
def test_printed_block_runs(code: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it defines as `main` or as a test is called, too; where it runs it may write files."""
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, Any] = {"__name__": "printed"}
    exec(code, namespace)

    for name, value in list(namespace.items()):
        if inspect.isfunction(value) and (name == "main" or name.startswith("test_")):
            with_deadline(value)


def with_deadline(function: Any) -> None:
    async def run() -> None:
        with anyio.fail_after(20):
            await function()

    if inspect.iscoroutinefunction(function):
        anyio.run(run)
    else:
        function()


def test_there_are_blocks_to_run() -> None:
    assert len(blocks()) >= 5
