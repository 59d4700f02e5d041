"""Every public name is in the pages of docs/reference, and every page of docs in zensical.toml."""

from __future__ import annotations

import importlib
import pkgutil
import re
import tomllib
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from types import FunctionType
from typing import Any

import pytest

import sse_starlette

ROOT = Path(__file__).parents[2]
PAGES = sorted((ROOT / "docs" / "reference").glob("*.md"))
DIRECTIVE = re.compile(r"^::: ([\w.]+)$((?:\n {4}.*)*)", re.MULTILINE)
FOR_OTHER_ROOMS = {
    "sse_starlette.event": {
        "SEPARATORS",
        "FieldText",
        "check_field",
        "check_separator",
        "encode",
        "encoder",
        "own_event",
        "parse_frame",
        "split_frames",
    },
}
"""What modules give to other parts of the package, and not to users."""


# The MCP SDK needs a newer httpx2 than the oldest starlette does (`tasks.py lowest`).
NOT_INSTALLABLE = () if find_spec("mcp") else ("sse_starlette.adapters.mcp",)


def public_names() -> list[str]:
    """The names that modules without an underscore export, by their full paths."""
    modules = ["sse_starlette"]
    modules += [
        module.name
        for module in pkgutil.walk_packages(sse_starlette.__path__, "sse_starlette.")
        if "._" not in module.name and module.name not in NOT_INSTALLABLE
    ]
    return [
        f"{module}.{name}"
        for module in modules
        for name in getattr(importlib.import_module(module), "__all__", [])
        if not name.startswith("__") and name not in FOR_OTHER_ROOMS.get(module, ())
    ]


def found_at(path: str) -> Any:
    """The object of a path, or the module."""
    module, _, name = path.rpartition(".")
    found = getattr(importlib.import_module(module), name, None)
    return importlib.import_module(path) if found is None else found


def told_of() -> set[str]:
    """What the pages have a directive for: a name, or a module with what it exports or what is listed."""
    told = set()
    for page in PAGES:
        for path, options in DIRECTIVE.findall(page.read_text("utf-8")):
            if path in NOT_INSTALLABLE:
                continue
            listed = re.search(r"members: \[(.+)\]", options)
            exported = getattr(found_at(path), "__all__", ())
            members = listed[1].split(", ") if listed else exported
            told |= {path, *(f"{path}.{name}" for name in members)}
    return told


def test_every_public_name_is_in_the_reference() -> None:
    """Add a line `::: sse_starlette.YourName` to the page in docs/reference where a reader looks for it."""
    told = told_of()
    same = {id(found_at(path)) for path in told}

    # A name may be public in two modules; it's told of once.
    lacking = [n for n in public_names() if n not in told and id(found_at(n)) not in same]

    assert lacking == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_reference_tells_of_nothing_that_is_not_there(page: Path) -> None:
    for path, _ in DIRECTIVE.findall(page.read_text("utf-8")):
        assert path in NOT_INSTALLABLE or found_at(path) is not None


def test_every_public_name_has_a_docstring() -> None:
    named = {name: found_at(name) for name in public_names()}

    assert [
        n
        for n, found in named.items()
        if isinstance(found, (type, FunctionType)) and not found.__doc__
    ] == []


def test_every_page_has_a_place_in_the_navigation() -> None:
    """Add your page to `nav` in zensical.toml, under the kind that it is."""
    nav = tomllib.loads((ROOT / "zensical.toml").read_text("utf-8"))["project"]["nav"]

    def pages_in(part: Any) -> Iterator[str]:
        if isinstance(part, str):
            yield part
        for each in part.values() if isinstance(part, dict) else part:
            if not isinstance(part, str):
                yield from pages_in(each)

    placed = list(pages_in(nav))
    assert sorted(placed) == sorted(
        str(page.relative_to(ROOT / "docs")) for page in (ROOT / "docs").rglob("*.md")
    )
