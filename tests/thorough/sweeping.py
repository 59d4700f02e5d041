"""Where a response and a subscription wait: read from their source, and seen while they run."""

from __future__ import annotations

import ast
import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from functools import cache
from pathlib import Path
from types import AsyncGeneratorType, CoroutineType, FrameType, GeneratorType
from typing import Any, NamedTuple

import anyio
import sniffio
import trio

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


@cache
def place_at(file: str, line: int) -> Place | None:
    """The place where a frame of the package waits that is suspended at this line."""
    path = Path(file)
    if path not in SWEPT:
        return None
    around = [
        (last - first, place) for first, last, place in places_in(path) if first <= line <= last
    ]
    return min(around)[1] if around else None


class Served:
    """A response that is being served on the running loop, and the ways to have it cancelled."""

    def __init__(self) -> None:
        self.scope = anyio.CancelScope()
        self.done = False
        self.outcome: BaseException | None = None
        self.problems: list[dict[str, Any]] = []
        """What asyncio's loop complains of."""
        self.cancel: Callable[[], object] = self.scope.cancel
        """As a server does that has a task of its own for each response."""
        self.cancel_all: Callable[[], object] = self.scope.cancel
        self.tasks_left: Callable[[], list[Any]] = list
        """Tasks that there are beside the one that asks."""

    async def run(self, serve: Callable[[], Awaitable[None]]) -> None:
        try:
            with self.scope:
                await serve()
        except BaseException as exc:
            self.outcome = exc
            if not isinstance(exc, Exception):
                raise
        finally:
            self.done = True


@asynccontextmanager
async def served(serve: Callable[[], Awaitable[None]]) -> AsyncIterator[Served]:
    """Serve a response meanwhile, in a task of the loop's own kind."""
    serving = Served()
    if sniffio.current_async_library() == "trio":
        before = len(trio_tasks())
        serving.tasks_left = lambda: trio_tasks()[before:]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(serving.run, serve)
            yield serving
        return
    task = asyncio.create_task(serving.run(serve))
    asyncio.get_running_loop().set_exception_handler(
        lambda _, context: serving.problems.append(context)
    )

    def others() -> list[asyncio.Task[Any]]:
        return [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]

    def cancel_all() -> None:
        for each in others():
            each.cancel()

    # A task that is cancelled before its first step never runs.
    task.add_done_callback(lambda _: setattr(serving, "done", True))
    serving.cancel, serving.cancel_all, serving.tasks_left = task.cancel, cancel_all, others
    yield serving


def trio_tasks() -> list[trio.lowlevel.Task]:
    """All tasks of the running loop, trio's own as well."""
    root = trio.lowlevel.current_root_task()
    found = [] if root is None else [root]
    for task in found:
        found += [child for nursery in task.child_nurseries for child in nursery.child_tasks]
    return found


def waiting_now() -> set[Place]:
    """The places at which the tasks of the running loop wait now."""
    coroutines = (
        [task.coro for task in trio_tasks()]
        if sniffio.current_async_library() == "trio"
        else [task.get_coro() for task in asyncio.all_tasks()]
    )
    found = set()
    for coroutine in coroutines:
        for frame in frames_of(coroutine, set()):
            if (place := place_at(frame.f_code.co_filename, frame.f_lineno)) is not None:
                found.add(place)
    return found


FRAME_AND_AWAITED = {
    CoroutineType: ("cr_frame", "cr_await"),
    GeneratorType: ("gi_frame", "gi_yieldfrom"),
    AsyncGeneratorType: ("ag_frame", "ag_await"),
}
"""What each kind of thing that can be suspended calls its frame, and what it waits for."""


def frames_of(awaited: Any, seen: set[int]) -> Iterator[FrameType]:
    """The frames of a suspended coroutine and of what it waits for."""
    while (names := FRAME_AND_AWAITED.get(type(awaited))) and id(awaited) not in seen:
        seen.add(id(awaited))
        frame = getattr(awaited, names[0])
        if frame is None:
            return
        yield frame
        # What drives a coroutine by hand, step by step, has it among its variables.
        for value in frame.f_locals.values():
            if type(value) is CoroutineType:
                yield from frames_of(value, seen)
        awaited = getattr(awaited, names[1])
