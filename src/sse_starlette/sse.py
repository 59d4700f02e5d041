"""EventSourceResponse: what a route returns to stream events.

Holds what the caller asked for, checks it, and runs one `Stream` with it; how a stream goes on and
ends is `_stream`'s, how events become bytes `event.py`'s.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

from starlette.exceptions import HTTPException
from starlette.responses import StreamingResponse

from ._arguments import check_callable, check_status, check_type
from ._runtime.loop import current_loop
from ._shutdown import AppStatus
from ._stream.callbacks import run_callbacks
from ._stream.content import BodyIterator, ReplacedBody, as_body_iterator, check_source, claim
from ._stream.feed import feed_of
from ._stream.headers import event_stream_headers, is_event_stream, start_message
from ._stream.lifecycle import CloseReason
from ._stream.options import CLEANUP_SECONDS, SEPARATOR, Option, StreamOptions
from ._stream.receive import may_have_body
from ._stream.run import Stream
from ._stream.source import SourceFeed
from ._stream.websocket import denying_websocket
from ._wire.doubts import warn_of_doubts
from .errors import SendTimeoutError
from .event import ServerSentEvent, ensure_bytes
from .observe import (
    is_observed,
    record_stream,
    stream_begins,
    stream_over,
)
from .policy import admit, check_policy, policy_for

if TYPE_CHECKING:
    import anyio
    from starlette.background import BackgroundTask
    from starlette.types import Message, Receive, Scope, Send

    from ._runtime.loop import Loop
    from ._stream.feed import Feed
    from .event import Serializer
    from .policy import StreamPolicy

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

logger: logging.Logger = logging.getLogger("sse_starlette.sse")

Content: TypeAlias = Any
"""What a source may yield: an event, a dict of an event's fields, bytes as they are, or data."""
SyncContentStream: TypeAlias = Iterable[Content]
"""A source without await; its steps run in a worker thread."""
AsyncContentStream: TypeAlias = AsyncIterable[Content]
"""A source that waits: an async generator, a receive stream, a `Subscription`."""
ContentStream: TypeAlias = AsyncContentStream | SyncContentStream
"""A source of events."""


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
    DEFAULT_SEPARATOR: str = SEPARATOR
    """What ends a line: CR LF."""
    DEFAULT_CLEANUP_TIMEOUT: float = CLEANUP_SECONDS
    """Seconds that a source has to clean up: 30."""

    sep: Option[str] = Option()
    ping_interval: Option[float] = Option()
    ping_message_factory: Option[Callable[[], Content] | None] = Option()
    data_sender_callable: Option[Callable[[], Awaitable[object]] | None] = Option()
    send_timeout: Option[float | None] = Option()
    client_close_handler_callable: Option[Callable[[Message], Awaitable[object]] | None] = Option()
    shutdown_event: Option[anyio.Event | None] = Option()
    shutdown_grace_period: Option[float] = Option()
    cleanup_timeout: Option[float | None] = Option()
    first_event_timeout: Option[float | None] = Option()
    on_error: Option[Callable[[Exception], Content | Awaitable[Content] | None] | None] = Option()
    on_close: Option[Callable[[CloseReason], Awaitable[object] | object] | None] = Option()
    join_events: Option[bool] = Option()
    farewell: Option[Content | Callable[[], Content] | None] = Option()
    shutdown_retry_ms: Option[tuple[int, int] | None] = Option()
    serializer: Option[Serializer | None] = Option()
    listener: Option[str | None] = Option()

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
        policy: StreamPolicy | None = None,
        listener: str | None = None,
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
            policy: how many streams may be open, for how long, and who may listen; see `StreamPolicy`. None: that
                of the application, see `StreamPolicyMiddleware`, or none.
            listener: names who listens, a user for example: what a policy counts by, and what
                `Hub.revoke` ends. None or empty: whom the policy names, or nobody in particular.

        Raises:
            TypeError, ValueError: an argument is not what it should be.
        """
        check_source(content)
        check_status(status_code)
        if media_type is not None:
            check_type("media_type", media_type, str, '"text/event-stream"')
        if background is not None:
            check_callable("background", background, waits=True)
        self._options = StreamOptions(
            sep=self.DEFAULT_SEPARATOR if sep is None else sep,
            ping_interval=self.DEFAULT_PING_INTERVAL if ping is None else ping,
            ping_message_factory=ping_message_factory,
            data_sender_callable=data_sender_callable,
            send_timeout=send_timeout,
            client_close_handler_callable=client_close_handler_callable,
            shutdown_event=shutdown_event,
            shutdown_grace_period=shutdown_grace_period,
            cleanup_timeout=cleanup_timeout,
            first_event_timeout=first_event_timeout,
            on_error=on_error,
            on_close=on_close,
            join_events=join_events,
            farewell=farewell,
            shutdown_retry_ms=shutdown_retry_ms,
            serializer=serializer,
            listener=listener,
        ).checked()
        if policy is not None:
            check_policy(policy)
        self.policy = policy

        self._given: AsyncIterator[Any] = as_body_iterator(content)
        self.body_iterator: AsyncIterable[Any] = self._given
        self.status_code = status_code
        if media_type is not None:
            self.media_type = media_type
        self.background = background
        self._init_event_stream_headers(headers)
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
                extra={"sse_event": "doubtful_option", "sse_option": "media_type"},
            )
        elif usual is not None and len(_USUAL_HEADERS) < _MOST_USUAL_HEADERS:
            _USUAL_HEADERS[usual] = tuple(self.raw_headers)

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
        record = record_stream(scope) if is_observed() else None
        feed = self._feed(loop)
        if feed.has_work:  # What a channel has is encoded where it's published.
            warn_of_doubts()
        over = feed.is_over()
        head = over or scope.get("method", "").upper() == "HEAD"
        options = self._options
        start = start_message(self.status_code, self.raw_headers, over=over)
        policy = policy_for(scope, self.policy)
        admission = None if policy is None else admit(policy, scope, options, counts=not head)
        if admission is not None:
            options, start = admission.options, admission.start_message(start)
        if record is not None:
            stream_begins(record, feed, options.who)
        stream = Stream(feed, loop, receive, send, start, options, record)
        del start, policy  # A frame keeps what it names, for as long as the stream is open.
        if admission is not None and admission.ending is not None:
            stream.life.end(*admission.ending)
        try:
            await stream.run(head=head, body_is_due=may_have_body(scope))
        except HTTPException as exc:
            if stream.started:
                logger.error(  # noqa: TRY400  (the exception itself goes on to the server)
                    "the source has raised %r after the response had started with status %s, so the client "
                    "can't get it as a response. Raise it before the response is made, or give "
                    "EventSourceResponse a first_event_timeout=…, which waits for the first event; "
                    "on_error=… makes an event of what is raised later",
                    exc,
                    self.status_code,
                    extra={"sse_event": "exception_too_late"},
                )
            raise
        finally:
            self.active = False
            if admission is not None:
                admission.release()
            if record is not None:
                stream_over(record, stream.life.reason or "error")
            await run_callbacks(
                stream.life,
                close_handler=options.client_close_handler_callable,
                on_close=options.on_close,
                background=self.background,
                cleanup_timeout=options.cleanup_timeout,
            )

    def _feed(self, loop: Loop) -> Feed:
        body: object = self.body_iterator
        claim(body)
        if body is not self._given:
            body = ReplacedBody(body, self._given)
        elif isinstance(body, BodyIterator) and not body.begun:
            body = body.content
        options = self._options
        if (feed := feed_of(body)) is not None:
            feed.joins = options.join_events
            feed.cleanup_timeout = options.cleanup_timeout
            return feed
        return SourceFeed(
            body,
            self._source_encoder(),
            loop,
            sep=options.sep,
            cleanup_timeout=options.cleanup_timeout,
            joins=options.join_events,
        )

    def _source_encoder(self) -> Callable[[object], bytes]:
        """Return what makes bytes of what the source yields."""
        return self._options.encoder()
