"""The task that an app runs in, as a server starts it, and those who wait for what it does."""

from __future__ import annotations

import asyncio
import contextvars
from typing import TYPE_CHECKING, Any

import anyio

from ._left_behind import on_asyncio

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine


class Changes:
    """Tells everyone who waits that something has happened."""

    def __init__(self) -> None:
        self._next = anyio.Event()

    def tell(self) -> None:
        """Let all who wait look again."""
        self._next.set()
        self._next = anyio.Event()

    async def until(self, fact: Callable[[], object]) -> None:
        """Wait until `fact` holds."""
        while not fact():
            if anyio.current_effective_deadline() <= anyio.current_time():
                # On asyncio a cancellation never reaches a task that is woken at each turn of the
                # loop, as by an app that sends and sends.
                await anyio.sleep_forever()
            await self._next.wait()


def spawn(run: Callable[[], Coroutine[Any, Any, None]]) -> object:
    """
    Start a task that is nobody's child; who calls this keeps what it returns and sees to its end.

    Not a task group: fixtures may be set up in one task and torn down in another.
    """
    if on_asyncio():
        return asyncio.create_task(run())
    import trio.lowlevel  # noqa: PLC0415  (whoever runs on asyncio needn't have it)

    return trio.lowlevel.spawn_system_task(run, context=contextvars.copy_context())
