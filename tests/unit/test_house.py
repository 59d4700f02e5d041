"""The rules of the house that a program can check."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path
from types import ModuleType

import pytest

import sse_starlette

SOURCES = Path(sse_starlette.__file__).parent

# From the ground up: a module may import from its own room and from those above its line only.
FLOORS = (
    {"_arguments", "_version", "observe"},
    {"_runtime", "_wire"},
    {"errors", "event"},
    {"_shutdown"},
    {"_stream"},
    {"eventlogs", "policy"},
    {"channels"},
    {"runs"},
    {"sse"},
    {"endpoint", "status"},
    {"hub"},
    {"tickets"},
    {"metrics"},
    {"adapters"},
    {"__init__"},
    {"fastapi"},
    {"testing"},
    {"_cli"},
    {"__main__"},
)
LEVELS = {room: level for level, rooms in enumerate(FLOORS) for room in rooms}


def room_of(module: str) -> str:
    return module.split(".", maxsplit=1)[0]


def module_of(path: Path) -> str:
    parts = path.relative_to(SOURCES).with_suffix("").parts
    return ".".join(parts[:-1] if len(parts) > 1 and parts[-1] == "__init__" else parts)


MODULES = {module_of(path): path for path in sorted(SOURCES.rglob("*.py"))}


def modules_imported_by(path: Path) -> set[str]:
    """Our own modules that a file imports, for the type checker or not, at its top or later."""
    package = ["sse_starlette", *path.relative_to(SOURCES).parent.parts]
    found = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) + 1 - node.level] if node.level else []
            source = ".".join([*base, *([node.module] if node.module else [])])
            # `from . import sse` imports a module, `from .sse import AppStatus` a name.
            names = {f"{source}.{alias.name}" for alias in node.names}
            found |= {n for n in names if n.removeprefix("sse_starlette.") in MODULES} or {source}
    ours = {name for name in found if name.split(".")[0] == "sse_starlette"}
    return {
        name.removeprefix("sse_starlette.").replace("sse_starlette", "__init__") for name in ours
    }


def test_every_room_has_its_floor() -> None:
    assert {room_of(module) for module in MODULES} == set(LEVELS)


@pytest.mark.parametrize("module", MODULES)
def test_imports_point_down_only(module: str) -> None:
    room = room_of(module)

    rooms = {room_of(imported) for imported in modules_imported_by(MODULES[module])} - {room}

    assert {other for other in rooms if LEVELS[other] >= LEVELS[room]} == set()


def test_no_modules_import_each_other_in_a_circle() -> None:
    graph = {module: modules_imported_by(path) - {module} for module, path in MODULES.items()}

    order = list(TopologicalSorter(graph).static_order())

    assert set(order) == set(MODULES)


def test_no_module_is_a_drawer_for_odds_and_ends() -> None:
    stems = {path.stem for path in SOURCES.rglob("*.py")}

    assert stems.isdisjoint({"common", "helpers", "utils"})


# --- Nothing grows beyond what can be read at a sitting --------------------------------

MOST_LINES_OF_A_FILE = 450
MOST_LINES_OF_A_CLASS = 300


def test_no_file_is_longer_than_a_reader_is_patient() -> None:
    lines = {name: len(path.read_text("utf-8").splitlines()) for name, path in MODULES.items()}

    assert [name for name, count in lines.items() if count > MOST_LINES_OF_A_FILE] == []


def test_no_class_is_longer_than_a_reader_is_patient() -> None:
    longer = [
        node.name
        for path in MODULES.values()
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.ClassDef)
        and (node.end_lineno or 0) - node.lineno + 1 > MOST_LINES_OF_A_CLASS
    ]

    assert longer == []


MOST_ATTRIBUTES = 20
MOST_BOOLEANS = 5
MORE_ATTRIBUTES = {
    "EventSourceResponse": "ten of its own, and each option, for it may be read and assigned",
}


def attributes(class_: ast.ClassDef) -> dict[str, bool]:
    """What a class sets on its objects, and whether that's a boolean."""
    found: dict[str, bool] = {}
    for node in ast.walk(class_):
        if isinstance(node, ast.Assign):
            targets, kind = node.targets, None
        elif isinstance(node, ast.AnnAssign):
            targets, kind = [node.target], ast.unparse(node.annotation)
        else:
            continue
        boolean = kind == "bool" or (
            isinstance(node.value, ast.Constant) and isinstance(node.value.value, bool)
        )
        for target in targets:
            of_object = isinstance(target, ast.Attribute) and ast.unparse(target.value) == "self"
            if of_object or (node in class_.body and kind is not None):
                name = ast.unparse(target).removeprefix("self.")
                found[name] = found.get(name, False) or boolean
    return found


def test_no_object_has_more_in_it_than_a_reader_can_keep_in_mind() -> None:
    classes = {
        node.name: attributes(node)
        for path in MODULES.values()
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.ClassDef)
    }

    assert {name for name, each in classes.items() if len(each) > MOST_ATTRIBUTES} == set(
        MORE_ATTRIBUTES
    )
    assert [name for name, each in classes.items() if sum(each.values()) > MOST_BOOLEANS] == []


# --- What others see -------------------------------------------------------------------


def test_all_is_sorted_and_names_what_is_public() -> None:
    public = {
        name
        for name, value in vars(sse_starlette).items()
        if not name.startswith("_") and not isinstance(value, ModuleType) and name != "annotations"
    }

    assert sse_starlette.__all__ == sorted(public | {"__version__"})


def run_python(program: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "error", "-c", program]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_import_is_silent_and_does_not_load_a_server() -> None:
    done = run_python(
        "import sys, sse_starlette\n"
        "print(sorted({'uvicorn', 'hypercorn', 'granian', 'redis', 'trio'} & set(sys.modules)))"
    )

    assert (done.stdout.strip(), done.stderr) == ("[]", "")


# Remembers every attribute of the modules it watches, and of their classes, and compares after the
# import. A submodule that was loaded meanwhile is no change.
CHANGES_MADE_BY_IMPORT = """
import asyncio, logging, signal, sys, types
import anyio, anyio.abc, anyio.from_thread, anyio.lowlevel, anyio.to_thread
import starlette.applications, starlette.background, starlette.concurrency, starlette.datastructures
import starlette.requests, starlette.responses, starlette.routing, starlette.types
import uvicorn, uvicorn.main, uvicorn.server

WATCHED = {"anyio", "asyncio", "logging", "signal", "starlette", "uvicorn"}
names = [name for name in sys.modules if name.split(".")[0] in WATCHED]
# anyio fills in its own attributes when they are first asked for.
for name in dir(anyio):
    getattr(anyio, name)

def snapshot():
    seen = {}
    for name in names:
        for attribute, value in vars(sys.modules[name]).items():
            if not isinstance(value, types.ModuleType):
                seen[name, attribute] = value
            if isinstance(value, type) and value.__module__ == name:
                seen |= {(name, attribute, key): each for key, each in vars(value).items()}
    seen |= {number: signal.getsignal(number) for number in signal.valid_signals()}
    return seen

before = snapshot()
import sse_starlette
after = snapshot()
print([key for key in before | after if before.get(key) is not after.get(key)])
"""


def test_import_changes_no_other_module() -> None:
    done = run_python(CHANGES_MADE_BY_IMPORT)

    assert (done.stdout.strip(), done.stderr) == ("[]", "")


# --- Time decides no test -------------------------------------------------------------

TESTS = Path(__file__).parents[1]
NAMES_OF_TIME = re.compile(
    r"seconds|took|elapsed|late\b|late_|delay|gaps?$|median|duration|\bcame\b"
)


def upper_bounds_of_time(tree: ast.AST) -> list[int]:
    """The lines of asserts that hold only if something takes less than a number of seconds."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Assert):
            for compared in ast.walk(node.test):
                if isinstance(compared, ast.Compare):
                    sides = [compared.left, *compared.comparators]
                    for op, small, large in zip(compared.ops, sides, sides[1:], strict=False):
                        if isinstance(op, ast.Gt | ast.GtE):
                            small, large = large, small  # noqa: PLW2901
                        text = ast.unparse(small)
                        is_number = isinstance(large, ast.Constant) and isinstance(
                            large.value, int | float
                        )
                        is_time = NAMES_OF_TIME.search(text) or ("['at']" in text and " - " in text)
                        if (
                            is_number
                            and is_time
                            and isinstance(op, ast.Lt | ast.LtE | ast.Gt | ast.GtE)
                        ):
                            found.append(node.lineno)
    return found


@pytest.mark.parametrize(
    ("statement", "is_refused"),
    [
        ("assert seconds < 2", True),
        ("assert 2 <= outcome.seconds <= 4", True),
        ("assert 3 > took", True),
        ("assert max(late) < 1, late", True),
        ("assert median(late) < 0.2", True),
        ("assert ended['at'] - start < 1", True),
        ("assert all(0.5 < gap < 3 for gap in gaps)", True),
        ("assert ended['at'] < closed['at']", False),
        ("assert seconds > 2", False),
        ("assert time.monotonic() < deadline", False),
        ("assert len(found) < 3", False),
    ],
)
def test_upper_bound_of_time_is_told_from_the_order_of_events(
    statement: str, is_refused: bool
) -> None:
    assert bool(upper_bounds_of_time(ast.parse(statement))) == is_refused


def test_no_test_passes_only_where_the_machine_is_quick() -> None:
    """What is waited for has a guard that is generous: of a minute, for the day something is broken."""
    refused = {
        str(path.relative_to(TESTS)): lines
        for path in sorted(TESTS.rglob("*.py"))
        if (lines := upper_bounds_of_time(ast.parse(path.read_text("utf-8"))))
    }

    assert refused == {}
