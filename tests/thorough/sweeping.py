"""Where a response and a subscription wait: read from their source, and seen while they run."""

from __future__ import annotations

import ast
import asyncio
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

import sse_starlette

SOURCES = Path(sse_starlette.__file__).parent
SWEPT = (
    *sorted((SOURCES / "_stream").glob("*.py")),
    SOURCES / "sse.py",
    *(SOURCES / "channels" / f"{name}.py" for name in ("_feed", "_opening", "subscription")),
)
"""The modules of a response and of a subscription."""


class Place(NamedTuple):
    """One `await` (or `async for`, `async with`) of the package."""

    file: str
    function: str
    text: str


@cache
def places_in(path: Path) -> list[tuple[int, int, Place]]:
    """All places of a file, each with its first and last line."""
    source = path.read_text("utf-8")
    found: list[tuple[int, int, Place]] = []

    def visit(node: ast.AST, function: str) -> None:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            function = f"{function}.{node.name}" if function else node.name
        last = None
        if isinstance(node, ast.Await):
            last = node.end_lineno
        elif isinstance(node, (ast.AsyncWith, ast.AsyncFor)):
            last = node.body[0].lineno - 1
        if last is not None and isinstance(node, (ast.expr, ast.stmt)):
            text = " ".join(ast.get_source_segment(source, node, padded=False).split())  # type: ignore[union-attr]
            head = text if isinstance(node, ast.Await) else text.partition(":")[0]
            found.append((node.lineno, last, Place(path.name, function, head)))
        for child in ast.iter_child_nodes(node):
            visit(child, function)

    visit(ast.parse(source), "")
    return found


def all_places() -> set[Place]:
    """Every place in the swept modules."""
    return {place for path in SWEPT for _, _, place in places_in(path)}


def place_at(frame: FrameType) -> Place | None:
    """The place where a suspended frame of the package waits."""
    path = Path(frame.f_code.co_filename)
    if path not in SWEPT:
        return None
    around = [
        (last - first, place)
        for first, last, place in places_in(path)
        if first <= frame.f_lineno <= last
    ]
    return min(around)[1] if around else None


def waiting_now(*also: Any) -> set[Place]:
    """The places at which the tasks of the running loop wait now."""
    found = set()
    for task in asyncio.all_tasks():
        for frame in frames_of(task.get_coro(), set()):
            if (place := place_at(frame)) is not None:
                found.add(place)
    return found


def frames_of(awaited: Any, seen: set[int]) -> Iterator[FrameType]:
    """The frames of a suspended coroutine and of what it waits for."""
    if awaited is None or id(awaited) in seen:
        return
    seen.add(id(awaited))
    frame = next(
        (f for name in ("cr_frame", "gi_frame", "ag_frame") if (f := getattr(awaited, name, None))),
        None,
    )
    if frame is None:
        return
    yield frame
    inner = next(
        (
            one
            for name in ("cr_await", "gi_yieldfrom", "ag_await")
            if (one := getattr(awaited, name, None)) is not None
        ),
        None,
    )
    yield from frames_of(inner, seen)
    # What drives a coroutine by hand, step by step, has it among its variables.
    for value in list(frame.f_locals.values()):
        if hasattr(value, "cr_frame"):
            yield from frames_of(value, seen)
