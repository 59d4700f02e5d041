"""EventSourceResponse: what a route returns to stream events.

Holds what the caller asked for, checks it, and runs one `Stream` with it; how a stream goes on and
ends is `_stream`'s, how events become bytes `event.py`'s.
"""

from __future__ import annotations

import logging
import random
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable, Mapping
from datetime import UTC, datetime
from functools import partial
from inspect import isawaitable
from typing import TYPE_CHECKING, Any, TypeAlias

import starlette
from starlette.exceptions import HTTPException
from starlette.responses import StreamingResponse

from ._arguments import check_callable, check_milliseconds, check_seconds, check_status, check_type
from ._runtime.loop import current_loop
from ._shutdown import AppStatus
from ._stream.callbacks import run_callbacks
from ._stream.content import BodyIterator, ReplacedBody, as_body_iterator, check_source, claim
from ._stream.feed import Feed
from ._stream.headers import event_stream_headers, is_event_stream, sent_headers
from ._stream.lifecycle import CloseReason
from ._stream.options import StreamOptions
from ._stream.receive import may_have_body
from ._stream.run import Stream
from ._stream.source import SourceFeed
from ._stream.websocket import denying_websocket
from ._wire.boundary import completed
from ._wire.doubts import HOUR, doubt_milliseconds, doubt_seconds, warn_of_doubts
from ._wire.values import check_serializer
from .errors import SendTimeoutError
from .event import ServerSentEvent, check_separator, encoder, ensure_bytes

if TYPE_CHECKING:
    import anyio
    from starlette.background import BackgroundTask
    from starlette.types import Message, Receive, Scope, Send

    from ._runtime.loop import Loop
    from .event import Serializer

__all__ = [
    "AppStatus",
    "AsyncContentStream",
    "CloseReason",
    "Content",
    "ContentStream",
    "EventSourceResponse",
    "SendTimeoutError",
    "ServerSentEvent",
    "SyncContentStream",
    "ensure_bytes",
]

# Until then GZipMiddleware withheld the headers of an event stream until something followed them.
_START_LEAVES_ALONE = tuple(map(int, starlette.__version__.split(".")[:2])) >= (1, 8)

logger: logging.Logger = logging.getLogger("sse_starlette.sse")

Content: TypeAlias = Any
"""What a source may yield: an event, a dict of an event's fields, bytes as they are, or data."""
SyncContentStream: TypeAlias = Iterable[Content]
AsyncContentStream: TypeAlias = AsyncIterable[Content]
ContentStream: TypeAlias = AsyncContentStream | SyncContentStream


_USUAL_HEADERS: dict[tuple[str | None, str], tuple[tuple[bytes, bytes], ...]] = {}
"""The headers of responses that were given none, by media type and charset: the same for nearly all."""
_MOST_USUAL_HEADERS = 16


class EventSourceResponse(StreamingResponse):
    """
    Streams events to a browser's `EventSource`, or to any client that reads an event stream.

    ```python
    async def numbers():
        for number in range(3):
            yield {"event": "number", "data": number}


    async def endpoint(request):
        return EventSourceResponse(numbers())
    ```

    An event leaves as soon as it has been yielded. While the connection is silent, a comment is sent
    every 15 seconds, so that proxies keep it open. When the client leaves, the source is cancelled at
    the place where it waits; what it then does in `finally` may wait in its turn, for up to
    `cleanup_timeout`. The source is driven from its first step to its close in one task.

    When the source has been closed, these run once each, in this order: `client_close_handler_callable`
    (only if the client left), `on_close` (whatever ended the stream), `background` (not after an error,
    a timeout or a cancellation). What they raise is logged.
    """

    media_type: str | None = "text/event-stream"  # FastAPI reads it from the class, for OpenAPI.

    DEFAULT_PING_INTERVAL: float = 15
    """Seconds of silence before a ping."""
    DEFAULT_SEPARATOR: str = "\r\n"
    """What ends a line."""
    DEFAULT_CLEANUP_TIMEOUT: float = 30.0
    """Seconds that a source has to clean up."""

    def __init__(
        self,
        content: ContentStream,
        status_code: int = 200,
        headers: Mapping[str, str] | None = None,
        media_type: str | None = "text/event-stream",
        background: BackgroundTask | None = None,
        ping: float | None = None,
        sep: str | None = None,
        ping_message_factory: Callable[[], Content] | None = None,
        data_sender_callable: Callable[[], Awaitable[object]] | None = None,
        send_timeout: float | None = None,
        client_close_handler_callable: Callable[[Message], Awaitable[object]] | None = None,
        shutdown_event: anyio.Event | None = None,
        shutdown_grace_period: float = 0,
        cleanup_timeout: float | None = DEFAULT_CLEANUP_TIMEOUT,
        *,
        first_event_timeout: float | None = None,
        on_error: Callable[[Exception], Content | Awaitable[Content] | None] | None = None,
        on_close: Callable[[CloseReason], Awaitable[object] | object] | None = None,
        join_events: bool = True,
        farewell: Content | Callable[[], Content] | None = None,
        shutdown_retry_ms: tuple[int, int] | None = None,
        serializer: Serializer | None = None,
    ) -> None:
        r"""
        Prepare the response. `content` isn't touched before the response is sent.

        Args:
            content: the source of the events: an async iterable (a generator, an anyio receive
                stream), a sync iterable, whose steps run in a worker thread, or the `Subscription` of
                a channel. The response owns it and closes it. It may yield `ServerSentEvent`s; dicts of an event's fields (`data`,
                `event`, `id`, `retry`, `comment`); bytes, which are sent as they are; anything else
                is sent as the data of an event.
            status_code: the status. A browser's `EventSource` takes nothing but 200.
            headers: further headers. `Cache-Control` is `no-store` unless you give one, and
                `X-Accel-Buffering` is `no`, which turns off nginx's buffering. What can't be true of a
                stream is left out: `Content-Length`, a compressed `Content-Encoding`, and what speaks
                of a connection (`Transfer-Encoding`, `Upgrade`, ...). `Connection` can be seen in
                `response.headers`, but isn't sent: it belongs to the server.
            media_type: the content type; `charset=utf-8` is added to it. Clients take no other than
                `text/event-stream` for an event stream, so another one is warned of in the log.
            background: runs when the stream has ended, the client has left, or the server goes down;
                not after an error, a timeout or a cancellation.
            ping: seconds of silence before a ping is sent, and between two; None: 15; 0: no pings.
            sep: what ends each line: `"\r\n"` (None), `"\n"` or `"\r"`.
            ping_message_factory: makes the pings; it returns what a source may yield. None: a comment
                with the time, which clients don't see.
            data_sender_callable: called beside the stream, to feed a source that waits for others;
                cancelled with it. What it raises ends the stream like an error of the source.
            send_timeout: seconds that one send may take, because the client doesn't read; then the
                source is closed and `SendTimeoutError` raised. None: any time.
            client_close_handler_callable: called with the server's message when the client has left.
            shutdown_event: set when the server goes down or `drain` is called, so that the source can
                end by itself.
            shutdown_grace_period: seconds that the source has for that before it's cancelled. Choose
                less than the server waits for its connections. 0: it's cancelled at once.
            cleanup_timeout: seconds that the source's cleanup may take before it's cut short, with a
                warning in the log; None: any time.
            first_event_timeout: wait this many seconds for the source's first event before the
                response starts. If the source raises instead (an `HTTPException`, say), no stream
                begins and the exception is handled like that of any endpoint. None: the response
                starts at once; `math.inf`: however long it takes, which sends no ping meanwhile.
            on_error: called with what the source raised after the response has started; what it
                returns (None: nothing) is sent as the last event, and the exception goes no further:
                to log it is up to you. Without it the exception goes to the server, after the body has
                been completed.
            on_close: called when the stream has ended, with the reason; see `CloseReason`.
            join_events: whether events that are ready at the same time may leave in one ASGI message.
                False: one message for each, which is slower. It makes no difference to clients.
            farewell: the last event of a stream that ends because the server goes down; what a source
                may yield, or a function that returns it. None, also from that function: none.
            serializer: makes JSON (str or bytes) of data that is neither text nor a number, instead of
                this package: `orjson.dumps`, `msgspec.json.encode`, or a function that knows your
                types. What it raises is an error of the source. Events of a channel were encoded when
                they were published; see `Hub`. None: see `ServerSentEvent`.
            shutdown_retry_ms: the least and the most of the milliseconds that clients are to wait
                before they reconnect after a shutdown; each stream draws its own, so that not all
                clients come back at once. None: they wait as long as ever.

        Raises:
            TypeError, ValueError: an argument is not what it should be.
        """
        check_source(content)
        check_status(status_code)
        check_type("join_events", join_events, bool, "True")
        if media_type is not None:
            check_type("media_type", media_type, str, '"text/event-stream"')
        _check_seconds("shutdown_grace_period", shutdown_grace_period)
        if cleanup_timeout is not None:
            _check_seconds("cleanup_timeout", cleanup_timeout)
        if send_timeout is not None:
            _check_seconds("send_timeout", send_timeout)
        if first_event_timeout is not None:
            advice = f" seconds (None starts the response at once), got: {first_event_timeout}"
            _check_seconds("first_event_timeout", first_event_timeout, advice)
        if shutdown_retry_ms is not None:
            check_milliseconds("shutdown_retry_ms", shutdown_retry_ms)
            doubt_milliseconds("shutdown_retry_ms", *shutdown_retry_ms)
        for name, callback, takes in (
            ("background", background, ""),
            ("data_sender_callable", data_sender_callable, ""),
            (
                "client_close_handler_callable",
                client_close_handler_callable,
                "the server's message",
            ),
            ("on_error", on_error, "the exception"),
            ("on_close", on_close, "the reason"),
        ):
            if callback is not None:
                check_callable(name, callback, takes, waits=True)
        if ping_message_factory is not None:
            check_callable("ping_message_factory", ping_message_factory, waits=False)
        if shutdown_event is not None and (
            isinstance(shutdown_event, type) or not callable(getattr(shutdown_event, "set", None))
        ):
            raise TypeError(
                f"shutdown_event is {type(shutdown_event).__name__}: give an anyio.Event(), which is "
                "set when the server goes down."
            )
        if serializer is not None:
            check_serializer(serializer)

        self._given: AsyncIterator[Any] = as_body_iterator(content)
        self.body_iterator: AsyncIterable[Any] = self._given
        self.status_code = status_code
        if media_type is not None:
            self.media_type = media_type
        self.background = background
        self._init_event_stream_headers(headers)

        self.sep = self.DEFAULT_SEPARATOR if sep is None else sep
        self.ping_interval = self.DEFAULT_PING_INTERVAL if ping is None else ping
        self.ping_message_factory = ping_message_factory
        self.data_sender_callable = data_sender_callable
        self.send_timeout = send_timeout
        self.client_close_handler_callable = client_close_handler_callable
        self.shutdown_event = shutdown_event
        self.shutdown_grace_period = shutdown_grace_period
        self.cleanup_timeout = cleanup_timeout
        self.first_event_timeout = first_event_timeout
        self.on_error = on_error
        self.on_close = on_close
        self.join_events = join_events
        self.serializer = serializer
        self.farewell = farewell
        if callable(farewell):
            check_callable("farewell", farewell, waits=False)
        elif farewell is not None:
            self._encoder()(farewell)  # What can't be sent is refused here.
        self.shutdown_retry_ms = shutdown_retry_ms
        self.active: bool = True
        """False once the stream has ended."""

    def _init_event_stream_headers(self, headers: Mapping[str, str] | None) -> None:
        usual = None
        if headers is None and type(self).init_headers is StreamingResponse.init_headers:
            usual = (self.media_type, self.charset)
            if usual in _USUAL_HEADERS:
                self.raw_headers: list[tuple[bytes, bytes]] = list(_USUAL_HEADERS[usual])
                return
        ours = event_stream_headers(headers)
        self.init_headers(ours)
        content_type = ours.get("content-type", self.media_type)
        if not is_event_stream(content_type):
            logger.warning(
                "the content type of an EventSourceResponse is %r: clients take no other than "
                "text/event-stream for an event stream, so leave media_type out",
                content_type,
            )
        elif usual is not None and len(_USUAL_HEADERS) < _MOST_USUAL_HEADERS:
            _USUAL_HEADERS[usual] = tuple(self.raw_headers)

    @property
    def sep(self) -> str:
        """What ends each line."""
        return self._sep

    @sep.setter
    def sep(self, value: str) -> None:
        check_separator(value)
        self._sep = value

    @property
    def ping_interval(self) -> float:
        """Seconds of silence before a ping; 0: no pings."""
        return self._ping_interval

    @ping_interval.setter
    def ping_interval(self, value: float) -> None:
        if not isinstance(value, (int, float)) or isinstance(value, bool):
            raise TypeError("ping interval must be int or float")
        if not value >= 0:
            raise ValueError("ping interval must be >= 0 (0 disables ping)")
        if value > HOUR:
            doubt_seconds(
                "ping", value, "0 for no pings; proxies close a connection that is silent"
            )
        self._ping_interval = value

    def enable_compression(self, force: bool = False) -> None:  # noqa: FBT001, FBT002  (as in earlier versions)
        """
        Not available: an event stream is sent as it is.

        Raises:
            NotImplementedError: always.
        """
        raise NotImplementedError("Compression is not supported for SSE streams.")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """
        Send the stream.

        Raises:
            SendTimeoutError: a send took longer than `send_timeout`.
            Exception: what the source raised, as it raised it, if there is no `on_error`; the body
                has been completed by then. Before the first event see `first_event_timeout`.
        """
        if scope["type"] == "websocket":
            send = denying_websocket(send)
        elif scope["type"] != "http":
            # A server that begins the lifespan of a bare response would use its source up.
            raise RuntimeError(
                f"EventSourceResponse answers requests, and not ASGI's {scope['type']!r}"
            )
        loop = current_loop()
        warn_of_doubts()
        feed = self._feed(loop)
        over = feed.is_over()
        options = StreamOptions(
            start_alone=_START_LEAVES_ALONE,
            ping_interval=self.ping_interval,
            ping_frame=self._ping_frame,
            error_frame=self.on_error and partial(self._error_frame, self.on_error),
            send_timeout=self.send_timeout,
            first_event_timeout=self.first_event_timeout,
            side_task=self.data_sender_callable,
            on_draining=self._on_draining,
            grace=self.shutdown_grace_period,
            farewell_frame=self._farewell_frame,
            cleanup_timeout=self.cleanup_timeout,
            body_is_due=may_have_body(scope),
        )
        stream = Stream(feed, loop, receive, send, self._start_message(over=over), options)
        try:
            await stream.run(head=over or scope.get("method", "").upper() == "HEAD")
        except HTTPException as exc:
            if stream.started:
                logger.error(  # noqa: TRY400  (the exception itself goes on to the server)
                    "the source has raised %r after the response had started with status %s, so the client "
                    "can't get it as a response. Raise it before the response is made, or give "
                    "EventSourceResponse a first_event_timeout=…, which waits for the first event; "
                    "on_error=… makes an event of what is raised later",
                    exc,
                    self.status_code,
                )
            raise
        finally:
            self.active = False
            await run_callbacks(
                stream.life,
                close_handler=self.client_close_handler_callable,
                on_close=self.on_close,
                background=self.background,
                cleanup_timeout=self.cleanup_timeout,
            )

    def _feed(self, loop: Loop) -> Feed:
        body: object = self.body_iterator
        claim(body)
        if body is not self._given:
            body = ReplacedBody(body, self._given)
        elif isinstance(body, BodyIterator) and not body.begun:
            body = body.content
        if isinstance(body, Feed):
            body.joins = self.join_events
            body.cleanup_timeout = self.cleanup_timeout
            return body
        return SourceFeed(
            body,
            self._encoder(),
            loop,
            sep=self.sep,
            cleanup_timeout=self.cleanup_timeout,
            joins=self.join_events,
        )

    def _encoder(self) -> Callable[[object], bytes]:
        return encoder(self.sep, self.serializer)

    def _start_message(self, *, over: bool) -> Message:
        return {
            "type": "http.response.start",
            # 204 tells an EventSource not to come back (WHATWG HTML 9.2.2). The other headers stay:
            # without those of CORS it would take it for a failure of the network, and try again.
            "status": 204 if over else self.status_code,
            "headers": sent_headers(self.raw_headers, without_body=over),
        }

    def _ping_frame(self) -> bytes:
        if self.ping_message_factory is not None:
            return completed(self._encoder()(self.ping_message_factory()), self.sep)
        return f": ping - {datetime.now(UTC)}{self.sep}{self.sep}".encode()

    async def _error_frame(
        self, on_error: Callable[[Exception], Content], failure: Exception
    ) -> bytes:
        event = on_error(failure)
        if isawaitable(event):
            event = await event
        return b"" if event is None else completed(self._encoder()(event), self.sep)

    def _on_draining(self) -> None:
        if self.shutdown_event is not None:
            self.shutdown_event.set()

    def _farewell_frame(self) -> bytes:
        encode = self._encoder()
        frame = b""
        if self.shutdown_retry_ms is not None:
            # Not a secret: it only has to differ from client to client.
            frame = encode({"retry": random.randint(*self.shutdown_retry_ms)})  # noqa: S311
        if self.farewell is not None:
            event = self.farewell() if callable(self.farewell) else self.farewell
            if event is not None:
                frame += completed(encode(event), self.sep)
        return frame


def _check_seconds(name: str, value: float, advice: str = "") -> None:
    check_seconds(name, value, advice)
    if value > HOUR:
        doubt_seconds(name, value)
