"""
The tasks of this project, and what each runs in. `python3 tasks.py NAME` sets up `.venv` and runs one.

Tasks with `python=False` run in `.venv`, which tasks.py has set up: it has what the `dev` group of pyproject.toml
names. The others have environments of their own in `.nox`, installed under the constraints files.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import nox
import nox.command

ROOT = Path(__file__).parent
PROJECT = nox.project.load_toml(ROOT / "pyproject.toml")
PACKAGE = "sse_starlette"

# Those of the classifiers in pyproject.toml; the one that this runs on is that of `test`.
FURTHER_PYTHONS = [v for v in ("3.11", "3.12", "3.13") if v != "{}.{}".format(*sys.version_info)]

QUICK_SUITES = ("tests/unit", "tests/kit", "tests/eventlogs", "tests/metrics")
# Counted together with these, where everything can be installed: not beside the oldest starlette.
OPTIONAL_SUITES = ("tests/adapters",)
# One more than the two cores that there are: of the seconds of these tests more than a third are spent waiting.
WORKERS = ("-n", "3")
SLOW_SUITES = ("tests/thorough", "tests/docs", "tests/typing", "tests/servers", "tests/compat")

nox.needs_version = ">=2026.1"
nox.options.default_venv_backend = "venv"
nox.options.reuse_venv = "yes"
nox.options.tags = ["test", "check"]
# A Python that isn't here is told of, and no error: see `pythons`.
nox.options.error_on_missing_interpreters = False

if "PYENV_VERSION" not in os.environ and shutil.which("pyenv"):
    # Of the versions that pyenv has, those that aren't chosen are on PATH and don't start.
    told = subprocess.run(
        ["pyenv", "versions", "--bare"], capture_output=True, text=True, check=False
    )
    os.environ["PYENV_VERSION"] = ":".join(told.stdout.split())


# --- Environments ---------------------------------------------------------------------


def pins(name: str) -> dict[str, str]:
    """Read a constraints file: name to line."""
    lines = (line.strip() for line in (ROOT / name).read_text("utf-8").splitlines())
    return {line.split("==")[0].lower(): line for line in lines if line and line[0] != "#"}


def install(session: nox.Session, *groups: str, constraints: str, checkout: bool = True) -> None:
    """Install dependency groups, and this checkout, under a constraints file."""
    chosen = pins(constraints)
    if constraints == "constraints-lowest.txt":
        chosen = {**pins("constraints.txt"), **chosen}
    pinned = Path(session.create_tmp()) / constraints
    pinned.write_text("".join(f"{line}\n" for line in chosen.values()), "utf-8")
    under = ("--disable-pip-version-check", "-c", str(pinned))
    this: tuple[str, ...] = ()
    if checkout:
        session.install(*under, *nox.project.dependency_groups(PROJECT, "build"))
        # Together with what depends on this package, which would else bring the released one with it. Not
        # isolated: the build tools then come from the constraints too.
        this = ("--no-build-isolation", "-e", str(ROOT))
    session.install(*under, *this, *nox.project.dependency_groups(PROJECT, *groups))


def build(session: nox.Session, *targets: str) -> Path:
    """Build the distributions with hatchling, which the environment has; return the wheel."""
    folder = Path(session.create_tmp()) / "dist"
    shutil.rmtree(folder, ignore_errors=True)
    session.run("python", "-m", "hatchling", "build", *targets, "-d", str(folder))
    (wheel,) = folder.glob("*.whl")
    return wheel


def install_wheel(session: nox.Session) -> None:
    """Put the wheel of this checkout in the place of the checkout: what is tested is what people install."""
    wheel = build(session, "-t", "wheel")
    session.install("--no-deps", "--force-reinstall", "--disable-pip-version-check", str(wheel))


# --- Tests ----------------------------------------------------------------------------


def pytest(session: nox.Session, *arguments: str, **variables: str) -> None:
    """Run pytest under further environment variables; what stands after `--` takes the arguments' place."""
    session.run("python", "-m", "pytest", *(session.posargs or arguments), env=variables)


def all_loops(session: nox.Session) -> None:
    """Run the quick suites on asyncio, trio and uvloop."""
    pytest(session, *QUICK_SUITES, "-m", "", *WORKERS)


def debug_mode(session: nox.Session) -> None:
    """Run the unit suite in asyncio's debug mode."""
    pytest(session, "tests/unit", *WORKERS, PYTHONASYNCIODEBUG="1")


def eager_tasks(session: nox.Session) -> None:
    """Run the unit suite with the eager task factory, where asyncio has it."""
    since = "import sys; print(sys.version_info >= (3, 12))"
    if "True" not in str(session.run("python", "-c", since, silent=True)):
        return
    # What goes wrong there hangs, and most of the suite with it: so it's given up soon.
    soon = ("--max-worker-restart=2", "-o", "faulthandler_timeout=60")
    pytest(session, "tests/unit", *WORKERS, "--eager-tasks", *soon)


@nox.session(python=False, name="pytest")
def one_run(session: nox.Session) -> None:
    """One run of pytest with your arguments: `tasks.py test -- tests/unit -k ping`."""
    pytest(session)


@nox.session(python=False, tags=["test"])
def quick(session: nox.Session) -> None:
    """The quick suites on asyncio and trio; together they have to cover all of the package."""
    # The gate is in pyproject.toml. Before Python 3.12 a coroutine isn't traced any further once something
    # has been thrown into it, as asyncio does at each cancellation; so what counts is what either loop has reached.
    suites = (*QUICK_SUITES, *OPTIONAL_SUITES)
    pytest(session, *suites, "--cov", "-m", "not uvloop", *WORKERS)


@nox.session(python=False, tags=["test"])
def uvloop(session: nox.Session) -> None:
    """The quick suites on uvloop."""
    pytest(session, *QUICK_SUITES, *OPTIONAL_SUITES, "-m", "uvloop", *WORKERS)


@nox.session(python=False, tags=["test"])
def debug(session: nox.Session) -> None:
    """The unit suite in asyncio's debug mode."""
    debug_mode(session)


@nox.session(python=False, tags=["test"])
def eager(session: nox.Session) -> None:
    """The unit suite with the eager task factory, on Python 3.12 and later."""
    eager_tasks(session)


@nox.session(python=False, tags=["test"])
def slow(session: nox.Session) -> None:
    """The suites with real servers, pages, browsers, and many random schedules."""
    # Four keep two cores busy all the time, six are no quicker; the slow ones shouldn't queue behind each other.
    pytest(session, *SLOW_SUITES, "-n", "4", "--dist", "worksteal")


@nox.session(python=FURTHER_PYTHONS)
def pythons(session: nox.Session) -> None:
    """The quick suites on the built wheel, on each further Python that is found: 3.11, 3.12, 3.13."""
    install(session, "build", "unit", "metrics", constraints="constraints.txt")
    install_wheel(session)
    failed = []
    for way in (all_loops, debug_mode, eager_tasks):
        try:
            way(session)
        except nox.command.CommandFailed as error:
            failed.append(str(error))
    if failed:
        session.error("\n".join(failed))


@nox.session
def lowest(session: nox.Session) -> None:
    """The quick suites on the built wheel, with the oldest supported starlette and anyio."""
    install(session, "build", "unit", "metrics", constraints="constraints-lowest.txt")
    install_wheel(session)
    session.run("python", "-m", "pip", "list", "--disable-pip-version-check")
    all_loops(session)


@nox.session
def dependents(session: nox.Session) -> None:
    """The packages that are built on this one, with their own clients."""
    install(session, "build", "dependents", constraints="constraints-dependents.txt")
    # They wait for servers to start; the servers of a file are shared by its tests.
    pytest(session, "tests/dependents", "-n", "3", "--dist", "loadfile")


@nox.session
def incumbent(session: nox.Session) -> None:
    """Programs of sse-starlette 3.7.0's users on that release; `test` runs them on this package."""
    install(session, "incumbent", constraints="constraints-incumbent.txt", checkout=False)
    pytest(session, "tests/compat")


@nox.session
def fuzz(session: nox.Session) -> None:
    """A million hostile texts through each public door; `fuzz guided` has Atheris look for more."""
    install(session, "build", "unit", "metrics", "fuzz", constraints="constraints.txt")
    module, arguments = "tests.fuzzing", session.posargs
    if arguments[:1] == ["guided"]:
        module, arguments = "tests.fuzzing.guided", arguments[1:]
    session.run("python", "-m", module, *arguments)


# --- Checks ---------------------------------------------------------------------------


@nox.session(python=False, tags=["check"])
def lint(session: nox.Session) -> None:
    """The linter."""
    session.run("ruff", "check", ".")


@nox.session(python=False, tags=["check"])
def formatted(session: nox.Session) -> None:
    """Whether the code is formatted."""
    session.run("ruff", "format", "--check", ".")


@nox.session(python=False, tags=["check"])
def types(session: nox.Session) -> None:
    """The types of all code, and that every public name has a complete type."""
    session.run("mypy")
    session.run("python", "-m", "pyright", "--verifytypes", PACKAGE, "--ignoreexternal")


@nox.session(python=False, tags=["check"])
def docs(session: nox.Session) -> None:
    """Build the site strictly: a link that leads nowhere is an error. `zensical serve` shows it."""
    # Its cache doesn't know the docstrings, so it begins anew.
    session.run("zensical", "build", "--clean", "--strict")


@nox.session(tags=["check"])
def wheel(session: nox.Session) -> None:
    """Build the distributions, install the wheel alone, and look at what came out."""
    requirements = nox.project.dependency_groups(PROJECT, "build")
    session.install("--disable-pip-version-check", "-c", "constraints.txt", *requirements)
    built = build(session)
    version = built.name.split("-")[1]

    names = zipfile.ZipFile(built).namelist()
    licence = f"{PACKAGE}-{version}.dist-info/licenses/LICENSE"
    wanted = (f"{PACKAGE}/py.typed", f"{PACKAGE}/browser/eventsource.js", licence)
    lacking = [n for n in wanted if n not in names]
    foreign = [n for n in names if not n.startswith((f"{PACKAGE}/", f"{PACKAGE}-"))]
    if lacking or foreign:
        session.error(f"{built.name} lacks {lacking}, and has {foreign} that don't belong")

    alone = Path(session.create_tmp()) / "alone"
    session.run("python", "-m", "venv", "--clear", str(alone))
    python = str(alone / "bin" / "python")
    pip = (python, "-m", "pip", "install", "-q", "--disable-pip-version-check")
    session.run(*pip, "-c", "constraints.txt", str(built), external=True)
    program = (
        f"import {PACKAGE} as package; from importlib.metadata import version;"
        " print(package.__version__, version('sse-starlette'), package.__file__)"
    )
    # Isolated from the checkout, where the sources could be found instead.
    said = str(session.run(python, "-W", "error", "-I", "-c", program, silent=True, external=True))
    written = (ROOT / "src" / PACKAGE / "_version.py").read_text("utf-8")
    if said.split()[:2] != [version, version] or f'__version__ = "{version}"' not in written:
        session.error(f"the installed wheel says {said!r}, and is named {built.name}")


# --- Changes --------------------------------------------------------------------------


@nox.session(python=False, name="format")
def format_code(session: nox.Session) -> None:
    """Put the code into shape."""
    session.run("ruff", "format", ".")


@nox.session(python=False)
def screenshots(session: nox.Session) -> None:
    """Take the pictures of the examples that docs/assets keeps; look at each before you commit it."""
    session.run("python", "-m", "tests.servers.screenshots")
