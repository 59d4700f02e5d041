"""What the adapters of runs have in common: their sources, options and words for an end. Knows no protocol."""

from __future__ import annotations

from contextlib import aclosing
from inspect import isawaitable
from typing import TYPE_CHECKING, Any

from ..runs import RunStatus

if TYPE_CHECKING:
    from collections.abc import (
        AsyncIterable,
        AsyncIterator,
        Awaitable,
        Callable,
        Collection,
        Mapping,
    )

    from ..event import ServerSentEvent
    from ..runs import RunEnd

__all__ = ["check_run_options", "mapped", "told_of_end"]


def check_run_options(adapter: object, own: Collection[str], given: Mapping[str, Any]) -> None:
    """Make sure that no option was given that the adapter gives itself."""
    if found := sorted(given.keys() & own):
        raise TypeError(
            f"{type(adapter).__name__} gives some options of a run itself: leave out {found}"
        )


def told_of_end(what: str, end: RunEnd) -> str:
    """Say in a sentence that `what` is incomplete, and nothing of the exception."""
    happened = "was interrupted" if end.status is RunStatus.LOST else "could not be completed"
    return f"{what} {happened}."


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
