"""
Finds what the pages print, and runs it as a reader does.

A Python block is a test, an application or a program, and is run as such, in a file of its own, in a
folder where nothing else is: what a block needs has to be printed on its page. One that needs more, a worker
of Celery say, has a test of its own, which a comment before it names: `<!-- run by tests/docs/test_this.py -->`.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.servers.serving import Program

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
SEAT_BELT_SECONDS = 120
"""Nothing that is printed takes as long, however busy the machine is."""
_BLOCK = re.compile(r"(^<!-- run by .*-->\n)?^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    page: Path
    line: int
    language: str
    text: str
    has_test_of_its_own: bool

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"

    @property
    def is_test(self) -> bool:
        """A reader puts it in a test file."""
        return re.search(r"^(async )?def test_", self.text, re.MULTILINE) is not None

    @property
    def is_application(self) -> bool:
        """A reader has it served."""
        return re.search(r"^app\b.* = ", self.text, re.MULTILINE) is not None

    def save(self, folder: Path) -> Path:
        """Write it into a file that is named after its line in the page."""
        file = folder / f"{'test_' if self.is_test else ''}{self.page.stem.lower()}_{self.line}.py"
        # Blank lines before it, so that a traceback names the line of the page.
        file.write_text("\n" * (self.line - 1) + self.text, "utf-8")
        return file


def blocks(language: str) -> list[Block]:
    """All blocks of one language, in the order of the pages."""
    found = []
    for page in PAGES:
        text = page.read_text("utf-8")
        for match in _BLOCK.finditer(text):
            line = text.count("\n", 0, match.start(3)) + 1
            found.append(Block(page, line, match[2], match[3], match[1] is not None))
    return [block for block in found if block.language == language]


def run_python(folder: Path, *arguments: str | Path) -> list[str]:
    """Run a program in a folder to its end, which has to be a good one; what it printed."""
    with Program([sys.executable, *arguments], cwd=folder) as running:
        code = running.wait(SEAT_BELT_SECONDS)
    assert code == 0, "\n".join(running.lines)
    return running.lines


def files_in(folder: Path) -> Iterator[str]:
    """What lies in a folder, but for Python's own."""
    return (path.name for path in folder.iterdir() if path.name != "__pycache__")
