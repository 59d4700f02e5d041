"""What happens to streams and event logs, told to whoever observes it: the one seam for metrics and traces.

Knows no product. While nobody observes, a stream costs one look whether anybody does, and an event costs nothing.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.types import Scope

    class _Feed(Protocol):
        @property
        def events(self) -> int: ...


__all__ = ["Observer", "StreamRecord", "observe"]

_logger = logging.getLogger("sse_starlette.metrics")
# Changed and read in one step each, without a lock: the child of a fork would find it held.
_observers: dict[object, Observer] = {}


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
        events: what was taken from its source to be sent; 0 for a subscription, whose events the channel counts.
    """

    __slots__ = (
        "__weakref__",
        "_events",
        "_feed",
        "began",
        "endpoint",
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
        self._events = 0
        # While it's open: there they are counted by the way.
        self._feed: _Feed | None = None

    @property
    def events(self) -> int:
        """What was taken from its source to be sent."""
        feed = self._feed
        return self._events if feed is None else feed.events

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
    if not isinstance(observer, Observer):
        raise TypeError(
            f"observe needs an instance of a class that derives from Observer, got: {type(observer).__name__}"
        )
    key = object()
    _observers[key] = observer

    def end() -> None:
        _observers.pop(key, None)

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


def stream_begins(record: StreamRecord, feed: _Feed, listener: str | None) -> None:
    """Say that a response is about to be sent."""
    record._feed, record.listener = feed, listener  # noqa: SLF001  (records are this module's)
    _tell_of("stream_began", record)


def stream_completes(record: StreamRecord, reason: str | None) -> None:
    """Say that the last of the body of a response is about to be sent."""
    record.reason = reason
    _tell_of("stream_completes", record)


def stream_over(record: StreamRecord, reason: str) -> None:
    """Say that a response is over."""
    record.reason = reason
    record.seconds = time.monotonic() - record.began
    record._events, record._feed = record.events, None  # noqa: SLF001  (as above)
    _tell_of("stream_ended", record)


def _tell_of(what: str, record: StreamRecord) -> None:
    # What `tell` does; without its stars, for streams come and go by the thousand.
    for observer in tuple(_observers.values()):
        try:
            getattr(observer, what)(record)
        except Exception as exc:
            _log(what, observer, exc)


def tell(what: str, *args: Any, **more: Any) -> None:
    """Call a method of all observers."""
    for observer in tuple(_observers.values()):
        try:
            getattr(observer, what)(*args, **more)
        except Exception as exc:
            _log(what, observer, exc)


def _log(what: str, observer: Observer, error: Exception) -> None:
    _logger.error(
        "%s of %r raised",
        what,
        observer,
        exc_info=error,
        extra={"sse_event": "observer_failed", "sse_observer": type(observer).__name__},
    )
