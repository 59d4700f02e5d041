"""
Compares what the package offers with what an older version did: names, signatures, import paths.

    python -m tests.differential.api REVISION

Prints a line for each difference, `-` for what is gone and `+` for what is new; ends with 1 if there are any.
"""

from __future__ import annotations

import argparse
import importlib
import inspect
import pkgutil
import subprocess
import sys
import tempfile
from pathlib import Path
from types import ModuleType

from .comparing import PACKAGE, ROOT
from .unpacking import unpack


def is_public(name: str) -> bool:
    """Whether a dotted name has no part that begins with an underscore."""
    return not any(part.startswith("_") for part in name.split("."))


def modules(package: ModuleType) -> list[ModuleType]:
    """Return the package and its public modules."""
    found = pkgutil.walk_packages(package.__path__, f"{package.__name__}.")
    names = [each.name for each in found if is_public(each.name)]
    return [package, *map(importlib.import_module, names)]


def shown(name: str, value: object) -> list[str]:
    """Describe a public object: its signature, and those of its public attributes."""
    if inspect.isclass(value):
        lines = [f"class {name}({', '.join(base.__name__ for base in value.__bases__)})"]
        for attribute in sorted(dir(value)):
            own = any(attribute in vars(base) for base in value.__mro__ if _is_ours(base))
            if own and (is_public(attribute) or attribute == "__init__"):
                static = inspect.getattr_static(value, attribute)
                lines += [
                    f"{name}.{attribute}{_signature(static, getattr(value, attribute, None))}"
                ]
        return lines
    return [f"{name}{_signature(value, value)}"]


def _is_ours(kind: type) -> bool:
    return kind.__module__.partition(".")[0] == PACKAGE


def _signature(static: object, value: object) -> str:
    if callable(value) and not isinstance(static, property):
        try:
            return str(inspect.signature(value))
        except (TypeError, ValueError):
            return "(...)"
    return f": {type(static).__name__}"


def lines_of(package: ModuleType) -> list[str]:
    """Describe everything public: the root by name, other modules by what they have of their own."""
    found: list[str] = []
    for module in modules(package):
        names = getattr(module, "__all__", None) or [
            name
            for name, value in vars(module).items()
            if is_public(name) and getattr(value, "__module__", None) == module.__name__
        ]
        for name in sorted(names):
            found += shown(f"{module.__name__}:{name}", getattr(module, name))
    return found


def describe(folder: Path) -> list[str]:
    """Describe the package in a folder, in a process of its own."""
    program = "from tests.differential.api import *; import sse_starlette as s; print(*lines_of(s), sep='\\n')"
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env={"PYTHONPATH": str(folder), "PATH": ""},
        check=True,
        capture_output=True,
        text=True,
    )
    return done.stdout.splitlines()


def main() -> int:
    """Read the command line, compare, tell; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.differential.api")
    parser.add_argument("revision")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="api-") as name:
        folder = Path(name)
        unpack(options.revision, folder, PACKAGE)
        before, now = describe(folder), describe(ROOT / "src")
    different = [f"- {line}" for line in before if line not in now]
    different += [f"+ {line}" for line in now if line not in before]
    print(*different, sep="\n")
    return 1 if different else 0


if __name__ == "__main__":
    sys.exit(main())
