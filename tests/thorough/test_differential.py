"""Two versions of the package take the same course, or it's seen where they part."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.differential.comparing import ROOT
from tests.differential.programs import draw

PROGRAMS = range(150)


def in_a_process(program: str) -> str:
    """The clocks of the whole process are replaced while programs run."""
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def differences(folder: Path) -> str:
    program = (
        "from pathlib import Path; from tests.differential.comparing import compare;"
        f"print(len(compare(Path({str(folder)!r}), {PROGRAMS!r})[1]))"
    )
    return in_a_process(program).strip()


def copy_of_the_package(folder: Path) -> Path:
    source = ROOT / "src" / "sse_starlette"
    for path in source.rglob("*.py"):
        copied = folder / "before" / path.relative_to(source)
        copied.parent.mkdir(parents=True, exist_ok=True)
        copied.write_text(path.read_text("utf-8"), "utf-8")
    return folder / "before"


def test_the_same_version_takes_the_same_course_twice(tmp_path: Path) -> None:
    copy_of_the_package(tmp_path)

    assert differences(tmp_path) == "0"


def test_a_version_that_sends_one_ping_less_is_found(tmp_path: Path) -> None:
    writer = copy_of_the_package(tmp_path) / "_stream" / "writer.py"
    text = writer.read_text("utf-8")
    changed = text.replace("self._sent_at + self._options.ping_interval", "self._sent_at + 10**6")
    assert changed != text
    writer.write_text(changed, "utf-8")

    assert int(differences(tmp_path)) > 0


def test_a_program_is_the_same_whenever_it_is_drawn() -> None:
    assert draw(7) == draw(7)
    assert len({repr(draw(seed)) for seed in PROGRAMS}) == len(PROGRAMS)
