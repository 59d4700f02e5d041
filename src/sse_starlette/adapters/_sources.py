"""A run's source whose items are turned into events, whichever kind of iterable it returns. Knows no protocol."""

from __future__ import annotations

from contextlib import aclosing
from inspect import isawaitable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable

    from ..event import ServerSentEvent

__all__ = ["mapped"]


def mapped(
    source: Callable[[], Any], to_event: Callable[[Any], ServerSentEvent]
) -> Callable[[], Awaitable[Any]]:
    """Return a source like this one, whose items go through `to_event`; a sync one stays sync, and has its thread."""

    async def start() -> Any:
        made = source()
        if isawaitable(made):
            made = await made
        return _each(made, to_event) if hasattr(made, "__aiter__") else map(to_event, made)

    return start


async def _each(
    items: AsyncIterable[Any], to_event: Callable[[Any], ServerSentEvent]
) -> AsyncIterator[ServerSentEvent]:
    iterator: Any = aiter(items)
    if not hasattr(iterator, "aclose"):
        async for item in iterator:
            yield to_event(item)
        return
    async with aclosing(iterator):
        async for item in iterator:
            yield to_event(item)
