"""Finds what an app has left behind: tasks that still run, async generators that are still open.

Both are told from other people's by the context they were born in: `origin` says on behalf of which
request it is. Looks only, ends nothing. The one hook it puts, that of async generators, belongs to
the calling thread and is taken back when the last watch ends.
"""

from __future__ import annotations

import asyncio
import gc
import sys
import threading
import weakref
from contextvars import Context, ContextVar
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Iterator

origin: ContextVar[Watch | None] = ContextVar("sse_starlette_testing_origin", default=None)
"""On behalf of which request the calling task runs."""


class Watch:
    """What one request has set going. It begins where `begin` is called, in the app's own task."""

    def __init__(self) -> None:
        self._generators: list[weakref.ref[AsyncGenerator[Any, Any]]] = []

    def begin(self) -> None:
        """From now on whatever the calling task starts counts as the request's."""
        origin.set(self)
        _hook.put()

    def end(self) -> None:
        """Take note of no further generators."""
        _hook.take_back()

    def note(self, generator: AsyncGenerator[Any, Any]) -> None:
        """Take note of a generator that is about to run."""
        self._generators.append(weakref.ref(generator))

    def tasks(self) -> list[str]:
        """Return the tasks that still run: what they are called, and what they execute."""
        return [name for name, context in _tasks() if context.get(origin) is self]

    def generators(self) -> list[str]:
        """Return the generators that have neither come to their end nor been closed."""
        alive = [generator for each in self._generators if (generator := each()) is not None]
        return [repr(one) for one in alive if getattr(one, "ag_frame", None) is not None]


def on_asyncio() -> bool:
    """Whether asyncio runs the calling task."""
    try:
        return asyncio.current_task() is not None
    except RuntimeError:
        return False


def _tasks() -> Iterator[tuple[str, Context]]:
    if on_asyncio():
        for task in asyncio.all_tasks():
            # Task.get_context is there from Python 3.12 on.
            contexts = [one for one in gc.get_referents(task) if isinstance(one, Context)]
            coroutine = getattr(task.get_coro(), "__qualname__", "?")
            yield from ((f"{task.get_name()} ({coroutine})", context) for context in contexts)
    else:
        import trio.lowlevel  # noqa: PLC0415  (whoever runs on asyncio needn't have it)

        waiting = [*filter(None, [trio.lowlevel.current_root_task()])]
        while waiting:
            one = waiting.pop()
            yield one.name, one.context
            for nursery in one.child_nurseries:
                waiting += nursery.child_tasks


class _Hook(threading.local):
    """Stands before the hook that Python calls when an async generator is iterated first."""

    def __init__(self) -> None:
        self._watches = 0
        self._before: Callable[[AsyncGenerator[Any, Any]], None] | None = None

    def put(self) -> None:
        self._watches += 1
        first = sys.get_asyncgen_hooks().firstiter
        # A loop puts its own hook each time it begins to run, also between two watches of ours.
        if first != self._note:
            self._before = first
            sys.set_asyncgen_hooks(firstiter=self._note)

    def take_back(self) -> None:
        self._watches -= 1
        if self._watches == 0 and sys.get_asyncgen_hooks().firstiter == self._note:
            sys.set_asyncgen_hooks(firstiter=self._before)
            self._before = None

    def _note(self, generator: AsyncGenerator[Any, Any]) -> None:
        watch = origin.get()
        if watch is not None:
            watch.note(generator)
        if self._before is not None:
            self._before(generator)


_hook = _Hook()
