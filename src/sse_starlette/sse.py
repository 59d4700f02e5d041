"""EventSourceResponse: what a route returns to stream events.

Holds what the caller asked for, checks it, and runs one `Stream` with it; how a stream goes on and
ends is _stream.py's, how events become bytes event.py's.
"""

from __future__ import annotations

import logging
import math
import random
from collections.abc import AsyncIterable, Awaitable, Callable, Iterable, Mapping
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from functools import partial
from inspect import isawaitable
from typing import TYPE_CHECKING, Any, TypeAlias

import anyio
import starlette
from starlette.datastructures import MutableHeaders
from starlette.responses import StreamingResponse

from ._feed import Feed
from ._loop import current_loop
from ._shutdown import AppStatus
from ._source import SourceFeed
from ._stream import CloseReason, Stream
from .errors import SendTimeoutError
from .event import ServerSentEvent, check_separator, encoder, ensure_bytes

if TYPE_CHECKING:
    from starlette.background import BackgroundTask
    from starlette.types import Message, Receive, Scope, Send

    from ._loop import Loop

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

_logger = logging.getLogger("sse_starlette.sse")

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

    Whatever ends the stream, these run once each, in this order, when the source has been closed:
    `client_close_handler_callable` (only if the client left), `on_close`, `background`. What they
    raise is logged.
    """

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
            headers: further headers. `Cache-Control` is `no-store` unless you give one. `Connection`
                (`keep-alive`, and none at all on HTTP/2) and `X-Accel-Buffering` (`no`, which turns
                off nginx's buffering) are the response's own.
            media_type: the content type; `charset=utf-8` is added to it.
            background: runs when the stream has ended, whatever ended it.
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
                may yield, or a function that returns it. None: none.
            shutdown_retry_ms: the least and the most of the milliseconds that clients are to wait
                before they reconnect after a shutdown; each stream draws its own, so that not all
                clients come back at once. None: they wait as long as ever.

        Raises:
            TypeError, ValueError: an argument is not what it should be.
        """
        if shutdown_grace_period < 0:
            raise ValueError("shutdown_grace_period must be >= 0")
        if cleanup_timeout is not None and cleanup_timeout < 0:
            raise ValueError("cleanup_timeout must be >= 0")
        if first_event_timeout is not None and not first_event_timeout >= 0:
            raise ValueError(
                f"first_event_timeout must be >= 0 seconds (None starts the response at once), "
                f"got: {first_event_timeout}"
            )

        if shutdown_retry_ms is not None:
            least, most = shutdown_retry_ms
            if not 0 <= least <= most:
                raise ValueError(
                    "shutdown_retry_ms must be the least and the most of the milliseconds, "
                    f"got: {shutdown_retry_ms}"
                )

        self.body_iterator = content  # type: ignore[assignment]  # a sync iterable is iterated by us
        self.status_code = status_code
        self.media_type: str | None = self.media_type if media_type is None else media_type
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
        self.farewell = farewell
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
        ours = MutableHeaders(headers)
        ours.setdefault("Cache-Control", "no-store")
        ours["Connection"] = "keep-alive"
        ours["X-Accel-Buffering"] = "no"
        self.init_headers(ours)
        if usual is not None and len(_USUAL_HEADERS) < _MOST_USUAL_HEADERS:
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
            send = _denying_websocket(send)
        loop = current_loop()
        feed = self._feed(loop)
        over = feed.is_over()
        stream = Stream(
            feed,
            loop,
            receive,
            send,
            self._start_message(scope, over=over),
            start_alone=_START_LEAVES_ALONE,
            ping_interval=self.ping_interval,
            ping_frame=self._ping_frame,
            error_frame=self.on_error and partial(self._error_frame, self.on_error),
            send_timeout=self.send_timeout,
            first_event_timeout=self.first_event_timeout,
            beside=self.data_sender_callable,
            on_draining=self._on_draining,
            grace=self.shutdown_grace_period,
            farewell_frame=self._farewell_frame,
        )
        try:
            await stream.run(head=over or scope.get("method") == "HEAD")
        finally:
            self.active = False
            await self._after(stream)

    def _feed(self, loop: Loop) -> Feed:
        content: object = self.body_iterator
        if isinstance(content, Feed):
            content.joins = self.join_events
            return content
        return SourceFeed(
            content,
            encoder(self.sep),
            loop,
            cleanup_timeout=self.cleanup_timeout,
            joins=self.join_events,
        )

    def _start_message(self, scope: Scope, *, over: bool) -> Message:
        without: set[bytes] = set()
        status = self.status_code
        if over:
            # What tells an EventSource not to come back (WHATWG HTML 9.2.2). The other headers stay:
            # without those of CORS it would take it for a failure of the network, and try again.
            status = 204
            without.add(b"content-type")
        # RFC 9113, 8.2.2: a message with connection-specific fields is malformed from HTTP/2 on.
        if scope.get("http_version", "1.1") >= "2":
            without.add(b"connection")
        headers = self.raw_headers
        if without:
            headers = [(name, value) for name, value in headers if name not in without]
        return {"type": "http.response.start", "status": status, "headers": headers}

    def _ping_frame(self) -> bytes:
        if self.ping_message_factory is not None:
            return encoder(self.sep)(self.ping_message_factory())
        return f": ping - {datetime.now(UTC)}{self.sep}{self.sep}".encode()

    async def _error_frame(
        self, on_error: Callable[[Exception], Content], failure: Exception
    ) -> bytes:
        event = on_error(failure)
        if isawaitable(event):
            event = await event
        return b"" if event is None else encoder(self.sep)(event)

    def _on_draining(self) -> None:
        if self.shutdown_event is not None:
            self.shutdown_event.set()

    def _farewell_frame(self) -> bytes:
        encode = encoder(self.sep)
        frame = b""
        if self.shutdown_retry_ms is not None:
            # Not a secret: it only has to differ from client to client.
            frame = encode({"retry": random.randint(*self.shutdown_retry_ms)})  # noqa: S311
        if self.farewell is not None:
            frame += encode(self.farewell() if callable(self.farewell) else self.farewell)
        return frame

    async def _after(self, stream: Stream) -> None:
        """Tell everyone who asked that the stream has ended."""
        reason = stream.reason or "error"
        calls: list[Callable[[], object]] = []
        if stream.disconnected is not None and self.client_close_handler_callable is not None:
            calls.append(partial(self.client_close_handler_callable, stream.disconnected))
        if self.on_close is not None:
            calls.append(partial(self.on_close, reason))
        if self.background is not None:
            calls.append(self.background)
        async with AsyncExitStack() as stack:  # Also runs those that come after a cancelled one.
            for call in reversed(calls):
                stack.push_async_exit(partial(self._call_back, reason, call))

    async def _call_back(
        self,
        reason: CloseReason,
        call: Callable[[], object],
        interrupted: type[BaseException] | None,
        *_: object,
    ) -> None:
        # A response that was cancelled, be it since it ended, has to leave soon; until then its
        # callbacks may wait.
        cancelled = (
            reason == "cancelled"
            or interrupted is not None
            or anyio.current_effective_deadline() == -math.inf
        )
        with anyio.move_on_after(
            self.cleanup_timeout if cancelled else None, shield=cancelled
        ) as within:
            try:
                result = call()
                if isawaitable(result):
                    await result
            except Exception:
                _logger.exception("%r raised after the stream had ended", call)
        if within.cancelled_caught:
            _logger.warning(
                "%r was cut short after %s s (cleanup_timeout)", call, self.cleanup_timeout
            )


def _denying_websocket(send: Send) -> Send:
    """Send what is the answer to an attempt to open a websocket (ASGI, "Websocket Denial Response")."""

    async def deny(message: Message) -> None:
        await send({**message, "type": f"websocket.{message['type']}"})

    return deny
