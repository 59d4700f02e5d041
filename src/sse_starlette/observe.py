"""What happens to streams and event logs, told to whoever observes it: the one seam for metrics and traces.

Knows no product. While nobody observes, a stream costs one look whether anybody does, and an event costs nothing.
"""

from __future__ import annotations

import logging
import time
from threading import Lock
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from starlette.types import Message, Scope, Send

__all__ = ["Observer", "StreamRecord", "observe"]

_logger = logging.getLogger("sse_starlette.metrics")
_lock = Lock()
_observers: tuple[Observer, ...] = ()


class StreamRecord:
    """
    One stream, as it's observed; its figures grow while it's open.

    Attributes:
        endpoint: the name of the function that has returned the response, as far as the framework tells;
            empty if it doesn't. There are as few of them as there are routes.
        listener: who listens; see `EventSourceResponse`.
        began: when it began, on the clock of `time.monotonic`.
        seconds: how long it lasted; None while it's open.
        reason: why it ends, or has ended; see `CloseReason`. None before that.
        sends: ASGI messages with a part of the body, pings among them.
        sent_bytes: what these held.
        events: what its source has yielded; 0 for a subscription, whose events the channel counts.
    """

    __slots__ = (
        "__weakref__",
        "began",
        "endpoint",
        "events",
        "listener",
        "reason",
        "seconds",
        "sends",
        "sent_bytes",
    )

    def __init__(self, endpoint: str = "") -> None:
        self.endpoint: str = endpoint
        self.listener: str | None = None
        self.began: float = time.monotonic()
        self.seconds: float | None = None
        self.reason: str | None = None
        self.sends: int = 0
        self.sent_bytes: int = 0
        self.events: int = 0

    def __repr__(self) -> str:
        return f"<StreamRecord {self.endpoint!r} {self.reason or 'open'}>"


class Observer:
    """
    Is told what happens; override what you want to know.

    Each method is called where it happens, on any loop or thread, so it has to be quick and must not wait.
    What it raises is logged.
    """

    def stream_began(self, stream: StreamRecord) -> None:
        """Note that a response is about to be sent."""

    def stream_completes(self, stream: StreamRecord) -> None:
        """
        Note that the last of its body is about to be sent, which not every stream comes to.

        Instrumentations of ASGI end the span of a request with it.
        """

    def stream_ended(self, stream: StreamRecord) -> None:
        """Note that it's over: called in the context of its request, before `on_close`."""

    def subscriber_lagged(self, channel: str, dropped: int, *, ended: bool) -> None:
        """
        Note that a client has read more slowly than its channel was published to.

        Args:
            channel: the name of the channel.
            dropped: events that it never gets.
            ended: whether its stream ends for that.
        """

    def gap_told(self, channel: str, reason: str) -> None:
        """Note that a client is told of a gap; see `GapReason`."""

    def log_lost(self, log: str, reason: str) -> None:
        """Note that an event log is out of reach, or refuses what it's asked."""

    def log_found(self, log: str) -> None:
        """Note that it's in reach again."""


def observe(observer: Observer) -> Callable[[], None]:
    """
    Tell `observer` from now on what happens to the streams, channels and event logs of this process.

    Streams that are open already are not told of.

    Returns:
        A function that ends it. May be called twice.

    Raises:
        TypeError: it's no `Observer`.
    """
    global _observers  # noqa: PLW0603  (a process has one set of observers, as it has one of streams)
    if not isinstance(observer, Observer):
        raise TypeError(
            f"observe needs an instance of a class that derives from Observer, got: {type(observer).__name__}"
        )
    with _lock:
        _observers = (*_observers, observer)

    def end() -> None:
        global _observers  # noqa: PLW0603  (as above)
        with _lock:
            _observers = tuple(one for one in _observers if one is not observer)

    return end


def is_observed() -> bool:
    """Whether anybody is to be told."""
    return bool(_observers)


def record_stream(scope: Scope) -> StreamRecord:
    """Make the record of a stream; nobody is told yet."""
    endpoint = scope.get("endpoint")
    return StreamRecord(
        "" if endpoint is None else getattr(endpoint, "__qualname__", type(endpoint).__qualname__)
    )


def observed(
    record: StreamRecord, send: Send, listener: str | None, reason: Callable[[], str | None]
) -> Send:
    """
    Say that a response is about to be sent; return `send`, counting what it's given.

    Args:
        record: of the response.
        send: ASGI's send.
        listener: who listens.
        reason: asked why the stream ends, when the last of its body is sent.
    """
    record.listener = listener
    tell("stream_began", record)

    # No coroutine of its own: it would be run through with each event.
    def counted(message: Message) -> Awaitable[None]:
        if body := message.get("body"):
            record.sends += 1
            record.sent_bytes += len(body)
        if message.get("more_body") is False:
            record.reason = reason()
            tell("stream_completes", record)
        return send(message)

    return counted


def counting_encoder(
    record: StreamRecord, encode: Callable[[object], bytes]
) -> Callable[[object], bytes]:
    """Return `encode`, counting what it's given."""

    def counted(event: object) -> bytes:
        record.events += 1
        return encode(event)

    return counted


def stream_over(record: StreamRecord, reason: str) -> None:
    """Say that a response is over."""
    record.reason = reason
    record.seconds = time.monotonic() - record.began
    tell("stream_ended", record)


def tell(what: str, *args: Any, **more: Any) -> None:
    """Call a method of all observers."""
    for observer in _observers:
        try:
            getattr(observer, what)(*args, **more)
        except Exception:
            _logger.exception(
                "%s of %r raised",
                what,
                observer,
                extra={"sse_event": "observer_failed", "sse_observer": type(observer).__name__},
            )
