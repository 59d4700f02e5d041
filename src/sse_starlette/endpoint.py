"""An event stream as the endpoint of a route, without a function route around it.

Owns what a function route does for a response: it makes the request, asks the application, and answers what isn't
allowed. What is streamed, and how, is the response's business.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Awaitable, Callable, Iterable, Mapping
from inspect import isawaitable, iscoroutine
from types import AsyncGeneratorType
from typing import TYPE_CHECKING, Any, TypeAlias

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from ._arguments import can_be_called_with, check_callable
from ._stream.feed import FedContent
from .channels._options import SubscribeOptions
from .channels._registry import checked_channels
from .sse import EventSourceResponse

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

    from .channels.channel import Channel
    from .channels.subscription import Subscription

__all__ = ["EventSourceEndpoint"]

Source: TypeAlias = Callable[[Request], Any]
"""Returns what an `EventSourceResponse` takes, or a response, or an awaitable of one of them."""
Check: TypeAlias = Callable[
    [Request], Mapping[str, Any] | Awaitable[Mapping[str, Any] | None] | None
]
"""Raises `HTTPException`, or returns further options by name, or None."""

_NOT_AWAITABLE = (AsyncGeneratorType, FedContent, Response)
"""What most sources return, which is no awaitable."""
_SUBSCRIBE = frozenset(field.name for field in dataclasses.fields(SubscribeOptions))


class EventSourceEndpoint:
    """
    An ASGI application that answers each request with an event stream.

    ```python
    async def room(request):
        user = await authenticate(request)  # may raise HTTPException
        return rooms.subscribe(request, filter=user.may_see)


    async def tokens(request):
        async for token in model.generate(request.query_params["prompt"]):
            yield token


    routes = [
        Route("/room", EventSourceEndpoint(room, ping=30)),
        Route("/tokens", EventSourceEndpoint(tokens)),
    ]
    ```

    A function that returns an `EventSourceResponse` does the same. Starlette keeps that function's request and
    what is around it, some 5 KiB, for as long as the stream is open, and passes each event through one layer more.
    """

    def __init__(
        self, source: Source, *, methods: Iterable[str] = ("GET",), **options: Any
    ) -> None:
        """
        Answer with what `source` gives.

        Args:
            source: called with each request, on the event loop, so it must not block. Returns what an
                `EventSourceResponse` takes: an async generator, the subscription to a channel, and so on;
                or is async, and looks up and checks first what has to be. It may raise Starlette's
                `HTTPException`, or return another response instead.
            methods: the methods that are answered, with GET also HEAD. Others get status 405.
            options: those of `EventSourceResponse`, for each response.

        Raises:
            TypeError: `source` can't be called with a request, `methods` are no names, or there's no such
                option.
            ValueError: an option is out of its range.
        """
        if not callable(source) or not can_be_called_with(source, 1, 1):
            advice = " itself, without calling it" if iscoroutine(source) else ""
            if iscoroutine(source):
                source.close()  # Else Python also says that it was never awaited.
            raise TypeError(
                f"source is {source!r}, and is called with the request: give a function of one argument{advice}."
            )
        if isinstance(methods, str):
            raise TypeError(f"methods is the text {methods!r}: give a list of names, ['GET'].")
        allowed = {method.upper() for method in methods}
        if "GET" in allowed:
            allowed.add("HEAD")
        # What is wrong with them is said here, and not when the first client comes.
        EventSourceResponse((), **options)
        self._source = source
        self._methods = allowed
        self._options = options

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """
        Answer a request.

        Raises:
            HTTPException: the source has raised it; what is around this makes a response of it.
            Exception: what the source has raised; or as for `EventSourceResponse`.
        """
        # By a call that is over when the stream begins: what it needs isn't kept for as long as that.
        response = await self._response_to(scope, receive)
        await response(scope, receive, send)

    async def _response_to(self, scope: Scope, receive: Receive) -> Response:
        try:
            if scope["type"] == "http" and scope["method"] not in self._methods:
                raise HTTPException(405, headers={"Allow": ", ".join(sorted(self._methods))})
            found: Any = self._source(Request(scope, receive))
            # An abstract class is asked what can be awaited, which takes its time.
            if not isinstance(found, _NOT_AWAITABLE) and isawaitable(found):
                found = await found
        except HTTPException as exc:
            if "starlette.exception_handlers" in scope:
                raise
            return PlainTextResponse(exc.detail, exc.status_code, exc.headers)
        if isinstance(found, Response):
            return found
        return EventSourceResponse(found, **self._options)


def channel_endpoint(
    subscribe: Callable[..., Subscription],
    channels: tuple[Channel[Any] | str, ...],
    check: Check | None,
    methods: Iterable[str],
    options: Mapping[str, Any],
) -> EventSourceEndpoint:
    """Return the endpoint of `Hub.endpoint`; `subscribe` is that of the hub."""
    checked_channels(channels)
    if check is not None:
        check_callable("check", check, "the request", waits=True)
    SubscribeOptions(**{name: options[name] for name in _SUBSCRIBE & options.keys()})

    def respond(request: Request, options: Mapping[str, Any]) -> EventSourceResponse:
        asked = {name: options[name] for name in options if name in _SUBSCRIBE}
        others = {name: options[name] for name in options if name not in _SUBSCRIBE}
        return EventSourceResponse(subscribe(channels, request, **asked), **others)

    def open_to_all(request: Request) -> EventSourceResponse:
        return respond(request, options)

    async def checked(request: Request) -> EventSourceResponse:
        assert check is not None  # noqa: S101  (else it isn't called)
        granted: object = check(request)
        if isawaitable(granted):
            granted = await granted
        if granted is not None and not isinstance(granted, Mapping):
            # Whoever returns False doesn't mean that the client may listen.
            raise TypeError(
                f"check {check!r} has returned {type(granted).__name__}: raise HTTPException(403) for those who "
                'may not listen; for others return a dict of options, such as {"filter": …}, or None.'
            )
        return respond(request, {**options, **(granted or {})})

    others = {name: options[name] for name in options if name not in _SUBSCRIBE}
    return EventSourceEndpoint(open_to_all if check is None else checked, methods=methods, **others)
