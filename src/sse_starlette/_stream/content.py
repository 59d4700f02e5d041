"""What a response may stream: one function decides. And how it's iterated.

A mistake is told from a source by its type: to decide, nothing of what was given is iterated, called or
waited for.
"""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Iterable, Mapping
from inspect import isawaitable, iscoroutine, iscoroutinefunction
from numbers import Number
from types import AsyncGeneratorType, GeneratorType
from typing import TYPE_CHECKING, Any, cast
from weakref import WeakSet

from starlette.requests import HTTPConnection
from starlette.responses import Response

from .._runtime.loop import current_loop
from ..event import own_event
from .feed import Feed
from .threads import ThreadedIterator

if TYPE_CHECKING:
    from .._runtime.loop import Loop

__all__ = [
    "BodyIterator",
    "ReplacedBody",
    "as_body_iterator",
    "check_source",
    "claim",
    "is_iterable",
    "is_one_event",
    "iterate",
]

_TEXT = (str, bytes, bytearray, memoryview)

_claimed: WeakSet[Any] = WeakSet()
"""The generators that a response has begun to stream."""


def check_source(content: object) -> None:
    """
    Make sure that `content` may be the source of a stream.

    It may be an async iterable or a sync one; a number passes, too, for those who construct a response
    to look at its settings.

    Raises:
        TypeError: it's something else; the error names the line to write instead. A coroutine is
            closed, so that nothing else is said of it.
        ValueError: it's a generator that has been used up, or is in use.
    """
    if isinstance(content, AsyncGeneratorType):
        _check_unused(content, closed=content.ag_frame is None, running=content.ag_running)
        return
    if isinstance(content, GeneratorType) and not isawaitable(content):
        _check_unused(content, closed=content.gi_frame is None, running=content.gi_running)
        return
    instead = _instead_of(content)
    if instead is not None:
        if iscoroutine(content):
            content.close()
        raise _refusal(content, f": {instead}")


def _refusal(content: Any, instead: str) -> TypeError:
    found = f"the class {content.__name__}" if isinstance(content, type) else type(content).__name__
    return TypeError(
        f"EventSourceResponse needs an async or sync iterable of events, got {found}{instead}"
    )


def claim(body: object) -> None:
    """
    Have a generator streamed by one response alone.

    Two would share its events out between their clients, or the second would have none.

    Raises:
        ValueError: another response has it, or it has been used up.
    """
    source: Any = body.content if isinstance(body, BodyIterator) else body
    if isinstance(source, (AsyncGeneratorType, GeneratorType)):
        check_source(source)
        if source in _claimed:
            _check_unused(source, closed=False, running=True)
        _claimed.add(source)


def iterate(content: object, loop: Loop) -> AsyncIterator[object]:
    """
    Return the iterator of a source; a sync one is iterated in worker threads.

    Raises:
        TypeError, ValueError: it's no source; see `check_source`.
    """
    if type(content) is AsyncGeneratorType:
        return content  # As most are; what follows asks two abstract classes.
    if isinstance(content, AsyncIterable):
        iterator = content.__aiter__()
        if not hasattr(iterator, "__anext__"):
            found = type(iterator).__name__
            if iscoroutine(iterator):
                iterator.close()
            raise TypeError(
                f"{type(content).__name__}.__aiter__ has returned {found}, which is no async iterator: "
                "write it as a plain `def` that returns one, or let it `yield` its events."
            )
        return cast("AsyncIterator[object]", iterator)
    if isinstance(content, (list, tuple)):
        return _each(content)
    check_source(content)
    if not is_iterable(content):
        raise _refusal(content, "")
    return ThreadedIterator(cast("Iterable[object]", content), loop)


async def _each(items: Iterable[object]) -> AsyncIterator[object]:
    # What is in memory already can't block, so it needs no worker thread.
    for item in items:
        yield item


def is_iterable(content: object) -> bool:
    """Whether `content` can be iterated in a thread, by `__iter__` or by `__getitem__` alone."""
    if isinstance(content, Iterable):
        return True
    if isinstance(content, type) or hasattr(type(content), "keys"):
        return False
    try:
        iter(content)  # type: ignore[call-overload]  # Without `__iter__` this runs nothing of the object's.
    except TypeError:
        return False
    return True


def is_one_event(content: object) -> bool:
    """Whether `content` is an event, or the data of one, although it may be iterable."""
    kind = type(content)
    return (
        isinstance(content, (*_TEXT, Mapping))
        or own_event(content) is not None
        or hasattr(kind, "__pydantic_serializer__")
        or hasattr(kind, "model_dump")
    )


def _check_unused(content: Any, *, closed: bool, running: bool) -> None:
    if closed or running:
        raise ValueError(
            f"the generator {content.__name__!r} {'has been used up or closed' if closed else 'is in use'}: "
            f"each response needs one of its own, EventSourceResponse({content.__name__}(...))."
        )


def _instead_of(content: Any) -> str | None:
    """Return what to write instead of `content`; None: it may be a source."""
    kind = type(content)
    if isinstance(content, type):
        return f"make an object of it, EventSourceResponse({content.__name__}(...))."
    if isinstance(content, (AsyncIterable, Feed)):
        return None
    if content is None:
        return "the function that is to return the source has no `return`, or no `yield`."
    if isinstance(content, _TEXT) or own_event(content) is not None:
        return "to send it as one event, put it into a list, EventSourceResponse([event])."
    if isawaitable(content):
        if not iscoroutine(content):
            return "await it, and give what it returns, EventSourceResponse(await it)."
        name = content.__name__
        return (
            f"await it, EventSourceResponse(await {name}(...)), or let {name} `yield` its events: an "
            "`async def` without `yield` is no generator."
        )
    if isinstance(content, Response):
        return "return it by itself, or give EventSourceResponse its body_iterator."
    if isinstance(content, HTTPConnection):
        return "a request is no source of events; give it to the function that makes them."
    if isinstance(content, Mapping):
        return 'to send it as one event, put it into a list: EventSourceResponse([{"data": ...}]).'
    if hasattr(kind, "__pydantic_serializer__") or hasattr(kind, "model_dump"):
        return "to send it as one event, put it into a list, EventSourceResponse([model])."
    if is_iterable(content):
        return None
    if isinstance(content, Number):
        return None
    if hasattr(kind, "subscribe"):
        variable = kind.__name__.lower()
        channel = f'{variable}.channel("name")' if hasattr(kind, "channel") else variable
        return f"subscribe to it, EventSourceResponse({channel}.subscribe(request))."
    return _instead_of_object(content)


def _instead_of_object(content: Any) -> str:
    for next_, iter_ in (("__anext__", "__aiter__"), ("__next__", "__iter__")):
        if hasattr(type(content), next_):
            return f"it has {next_} alone; give it `def {iter_}(self): return self`."
    if hasattr(content, "get") and hasattr(content, "put"):
        if iscoroutinefunction(content.get):
            return "yield what you get: `async def events(): while True: yield await queue.get()`."
        return "iterate it until a value that ends it: EventSourceResponse(iter(queue.get, None))."
    if hasattr(content, "send") or hasattr(content, "send_nowait"):
        return "give the receiving end of the stream, and keep this one to send."
    if hasattr(content, "aiter_bytes"):
        return "relay its body, EventSourceResponse(response.aiter_bytes())."
    if hasattr(content, "__aenter__"):
        return "enter it within a generator: `async with it as source: async for one in source: yield one`."
    if callable(content):
        function = getattr(content, "func", content)  # of a partial
        name = getattr(function, "__name__", "")
        call = f"{name if name.isidentifier() else 'it'}(...)"
        return f"call the generator function and pass what it returns, EventSourceResponse({call})."
    return "to send it as one event, put it into a list, EventSourceResponse([it])."


def as_body_iterator(content: object) -> AsyncIterator[Any]:
    """Return `content` as Starlette's `body_iterator` is: itself if it's an async iterator."""
    if type(content) is AsyncGeneratorType or isinstance(content, AsyncIterator):
        return content
    return BodyIterator(content)


class BodyIterator(AsyncIterator[object]):
    """The content of a response that is no async iterator by itself, as one."""

    __slots__ = ("_iterator", "content")

    def __init__(self, content: object) -> None:
        self.content = content
        self._iterator: AsyncIterator[object] | None = None

    def __repr__(self) -> str:
        return f"<body_iterator of {self.content!r}>"

    @property
    def begun(self) -> bool:
        """Whether somebody has asked it for an event."""
        return self._iterator is not None

    async def __anext__(self) -> object:
        if self._iterator is None:
            self._iterator = iterate(self.content, current_loop())
        return await self._iterator.__anext__()

    async def aclose(self) -> None:
        """Close the content, whether it has been begun or not."""
        if self._iterator is None and not isinstance(self.content, AsyncIterable):
            if not is_iterable(self.content):
                return
            self._iterator = iterate(self.content, current_loop())
        try:
            if self._iterator is not None:
                await _close(self._iterator)
        finally:
            if isinstance(self.content, AsyncIterable):
                await _close(self.content)


class ReplacedBody(AsyncIterable[object]):
    """What somebody has put in place of a response's `body_iterator`; both are closed with it."""

    __slots__ = ("_body", "_replaced")

    def __init__(self, body: object, replaced: object) -> None:
        self._body = body
        self._replaced = replaced

    def __repr__(self) -> str:
        return repr(self._body)

    def __aiter__(self) -> AsyncIterator[object]:
        return iterate(self._body, current_loop())

    async def aclose(self) -> None:
        """Close what was put in, then what was there before."""
        try:
            if isinstance(self._body, AsyncIterable):
                await _close(self._body)
        finally:
            await _close(self._replaced)


async def _close(resource: Any) -> None:
    """Close it by the name that it has for that, if any."""
    closing = getattr(resource, "aclose", None) or getattr(resource, "close", None)
    if closing is not None:
        outcome = closing()
        if isawaitable(outcome):
            await outcome
