"""An older version of the package, out of git."""

from __future__ import annotations

import io
import shutil
import subprocess
import tarfile
from pathlib import Path

from .comparing import PACKAGE, ROOT


def unpack(revision: str, folder: Path, name: str) -> None:
    """Put the package as it was at a revision into a folder, under a name; "." is the checkout."""
    target = folder / name
    if revision == ".":
        shutil.copytree(ROOT / "src" / PACKAGE, target)
        return
    command = ["git", "archive", revision, f"src/{PACKAGE}"]
    archive = subprocess.run(command, cwd=ROOT, check=True, capture_output=True).stdout
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        tar.extractall(folder, filter="data")
    shutil.move(folder / "src" / PACKAGE, target)
