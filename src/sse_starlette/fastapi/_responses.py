"""The response class of FastAPI's endpoints: with options of its own, and FastAPI's rules for what is yielded."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from inspect import isasyncgenfunction, isgeneratorfunction
from typing import TYPE_CHECKING, Any, ClassVar, Self, TypedDict, Unpack, cast

from fastapi.routing import APIRoute

from .. import sse
from ..sse import CloseReason, Content, ContentStream
from ._items import StreamType

if TYPE_CHECKING:
    import anyio
    from starlette.background import BackgroundTask
    from starlette.types import Message, Receive, Scope, Send

    from ..event import Serializer
    from ..policy import StreamPolicy

__all__ = ["EventSourceResponse", "ResponseOptions"]

FIRST_EVENT_TIMEOUT_SECONDS = 3.0
"""Less than the five seconds for which httpx waits for headers."""


class ResponseOptions(TypedDict, total=False):
    """The options of a response; see `sse_starlette.EventSourceResponse`."""

    ping: float | None
    sep: str | None
    ping_message_factory: Callable[[], Content] | None
    data_sender_callable: Callable[[], Awaitable[object]] | None
    send_timeout: float | None
    client_close_handler_callable: Callable[[Message], Awaitable[object]] | None
    shutdown_event: anyio.Event | None
    shutdown_grace_period: float
    cleanup_timeout: float | None
    first_event_timeout: float | None
    on_error: Callable[[Exception], Content | Awaitable[Content] | None] | None
    on_close: Callable[[CloseReason], Awaitable[object] | object] | None
    join_events: bool
    farewell: Content | Callable[[], Content] | None
    shutdown_retry_ms: tuple[int, int] | None
    serializer: Serializer | None
    policy: StreamPolicy | None
    listener: str | None


class EventSourceResponse(sse.EventSourceResponse):
    """
    Streams what a FastAPI endpoint yields, or what it returns for that.

    ```python
    @app.get("/items", response_class=EventSourceResponse)
    async def items() -> AsyncIterable[Item]:
        yield Item(name="Plumbus")


    @app.get("/prices", response_class=EventSourceResponse.with_options(ping=5, send_timeout=30))
    async def prices(
        subscription: Annotated[Subscription[Price], Subscribe(channel)],
    ) -> Subscription[Price]:
        return subscription
    ```

    It needs the route class of this package: make the application with `sse_starlette.fastapi.FastAPI` and routers
    with `sse_starlette.fastapi.APIRouter`, or give those of FastAPI `route_class=EventSourceRoute`.

    What is yielded is data, by FastAPI's rules: validated and serialised as the return annotation says, and JSON, a
    string too. Bytes are sent as they are, and events are events. An exception before the first event is answered as
    that of any endpoint, if it comes within three seconds (`first_event_timeout`). Everything else is as with
    `sse_starlette.EventSourceResponse`, whose arguments it takes.
    """

    default_options: ClassVar[ResponseOptions] = {
        "first_event_timeout": FIRST_EVENT_TIMEOUT_SECONDS
    }
    """The options of responses that are given no others; see `with_options`."""

    def __init__(
        self,
        content: ContentStream,
        status_code: int = 200,
        headers: Mapping[str, str] | None = None,
        media_type: str | None = "text/event-stream",
        background: BackgroundTask | None = None,
        **options: Unpack[ResponseOptions],
    ) -> None:
        """
        Prepare the response; the arguments are those of `sse_starlette.EventSourceResponse`.

        Raises:
            TypeError, ValueError: an argument is not what it should be.
        """
        given: ResponseOptions = {**self.default_options, **options}
        super().__init__(content, status_code, headers, media_type, background, **given)
        self.stream_type: StreamType | None = None

    @classmethod
    def with_options(cls, **options: Unpack[ResponseOptions]) -> type[Self]:
        """
        Return a response class with these options, for the `response_class` of an endpoint.

        Raises:
            TypeError, ValueError: an option is not what it should be.
        """
        chosen: ResponseOptions = {**cls.default_options, **options}
        body = {"default_options": chosen, "__module__": cls.__module__, "__doc__": cls.__doc__}
        kind = cast("type[Self]", type(cls.__name__, (cls,), body))
        kind(())  # What is wrong with the options is said here.
        return kind

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self.stream_type is None:
            refuse_plain_route(scope.get("route"))
        await super().__call__(scope, receive, send)

    def _source_encoder(self) -> Callable[[object], bytes]:
        stream_type = self.stream_type or _UNTYPED
        return stream_type.encoder(self.sep, super()._source_encoder())


_UNTYPED = StreamType()


def yields(endpoint: Any) -> bool:
    """Whether `endpoint` is a generator function, or an object that is called like one."""
    called = getattr(type(endpoint), "__call__", None)  # noqa: B004  (what its call does)
    return any(isasyncgenfunction(one) or isgeneratorfunction(one) for one in (endpoint, called))


def refuse_plain_route(route: object) -> None:
    """
    Refuse to stream what FastAPI's own route class has called: it knows nothing of types, and closes no generator.

    Raises:
        RuntimeError: the endpoint yields, and its route isn't one of ours.
    """
    if isinstance(route, APIRoute) and yields(route.endpoint) and not hasattr(route, "stream_type"):
        raise RuntimeError(
            f"{route.path!r} yields events and is a route of FastAPI's own class, which can't stream them with "
            "sse_starlette. Make its application or router with `from sse_starlette.fastapi import FastAPI, "
            "APIRouter`, or give it our route class: APIRouter(route_class=EventSourceRoute), "
            "app.router.route_class = EventSourceRoute."
        )
