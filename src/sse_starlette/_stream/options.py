"""What the caller of a response asked for: checked in the call that says it, and frozen.

A new option has its field and its check here, its parameter and its attribute in `sse`. The frames that are
not the source's are made here, too: pings, the event of an error, the farewell.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from functools import partial
from inspect import isawaitable
from itertools import compress
from operator import is_, is_not
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar, cast

import starlette

from .._arguments import (
    check_callable,
    check_listener,
    check_milliseconds,
    check_seconds,
    check_type,
)
from .._wire.boundary import completed
from .._wire.doubts import HOUR, doubt_milliseconds, doubt_seconds
from .._wire.values import check_serializer
from ..event import check_separator, encoder

if TYPE_CHECKING:
    from typing import Self

    import anyio
    from starlette.types import Message

    from ..event import Serializer
    from .lifecycle import CloseReason

__all__ = ["CLEANUP_SECONDS", "SEPARATOR", "Grant", "Option", "Patience", "StreamOptions"]

_logger = logging.getLogger("sse_starlette.sse")
T = TypeVar("T")


SEPARATOR = "\r\n"
CLEANUP_SECONDS = 30.0


class Grant(NamedTuple):
    """What a policy has for one stream."""

    max_age: float | None = None
    """Seconds that the stream lasts; None: any time."""
    revalidate: Callable[[], Awaitable[object]] | None = None
    """Whether the stream may go on; None: it may."""
    revalidate_interval: float = 15.0
    """Seconds between two such questions."""
    last_words: Callable[[CloseReason], bytes] | None = None
    """Makes the last frame of a stream that was refused."""

    @property
    def is_limited(self) -> bool:
        """Whether something ends the stream before its time."""
        return self.max_age is not None or self.revalidate is not None


class Patience(NamedTuple):
    """The seconds that a stream which is to end waits for a client that doesn't take what is being sent."""

    asked: float = 1.0
    """If it was asked to end."""
    cancelled: float = 0.3
    """If it was cancelled: whoever cancels waits for it."""


class StreamOptions(NamedTuple):
    """
    How one stream is sent and ended; what callers may ask for is explained in `EventSourceResponse`.

    A tuple, because a frozen dataclass takes four times as long to make.
    """

    sep: str = SEPARATOR
    ping_interval: float = 15
    ping_message_factory: Callable[[], Any] | None = None
    data_sender_callable: Callable[[], Awaitable[object]] | None = None
    send_timeout: float | None = None
    client_close_handler_callable: Callable[[Message], Awaitable[object]] | None = None
    shutdown_event: anyio.Event | None = None
    shutdown_grace_period: float = 0
    cleanup_timeout: float | None = CLEANUP_SECONDS
    first_event_timeout: float | None = None
    on_error: Callable[[Exception], Any] | None = None
    on_close: Callable[[CloseReason], object] | None = None
    join_events: bool = True
    farewell: Any = None
    shutdown_retry_ms: tuple[int, int] | None = None
    serializer: Serializer | None = None
    listener: str | None = None

    start_alone: bool = tuple(map(int, starlette.__version__.split(".")[:2])) >= (1, 8)
    """
    Whether the headers leave by themselves; if not, an empty chunk is sent after them.

    Until then GZipMiddleware withheld the headers of an event stream until something followed them.
    """
    patience: Patience = Patience()
    grant: Grant = Grant()

    def checked(self) -> StreamOptions:
        """
        Return these options, if each is what it should be.

        Raises:
            TypeError, ValueError: one isn't.
        """
        for name in compress(_CHECKS, map(is_not, self, _DEFAULTS)):  # Mostly none.
            _CHECKS[name](name, getattr(self, name))
        _check_farewell(self)
        # One for all that were given none: there may be ten thousand of them.
        return _USUAL if all(map(is_, self, _USUAL)) else self

    def with_one(self, name: str, value: Any) -> Self:
        """
        Return these options with another value for one of them.

        Raises:
            TypeError, ValueError: it isn't what it should be.
        """
        if value is not self._field_defaults[name]:
            _CHECKS[name](name, value)
        changed = self._replace(**{name: value})
        _check_farewell(changed)
        return changed

    @property
    def who(self) -> str | None:
        """
        The name of who listens; None: nobody in particular.

        An empty name is none: that of Starlette's user who isn't signed in.
        """
        return self.listener or None

    def encoder(self) -> Callable[[object], bytes]:
        """Return what makes frames of what a source yields."""
        return encoder(self.sep, self.serializer)

    def ping_frame(self) -> bytes:
        """Make a ping."""
        if self.ping_message_factory is not None:
            return completed(self.encoder()(self.ping_message_factory()), self.sep)
        return f": ping - {datetime.now(UTC)}{self.sep}{self.sep}".encode()

    async def error_frame(self, failure: Exception) -> bytes:
        """Make the last frame out of an exception, which is thereby dealt with; only with `on_error`."""
        event = None if self.on_error is None else self.on_error(failure)
        if isawaitable(event):
            event = await event
        return b"" if event is None else completed(self.encoder()(event), self.sep)

    def tell_source(self) -> None:
        """Tell the source that it should end by itself."""
        if self.shutdown_event is not None:
            try:
                self.shutdown_event.set()
            except Exception:
                # It ends all the same, and so do the streams that are told after it.
                _logger.exception(
                    "set() of shutdown_event raised: the source isn't told that its stream ends",
                    extra={"sse_event": "callback_failed", "sse_callback": "shutdown_event"},
                )

    def last_frame(self, reason: CloseReason | None) -> bytes:
        """Make the last frame of a stream that ends for a reason that is to be said; it may be empty."""
        if reason in ("shutdown", "cancelled"):
            return self.farewell_frame()
        if reason == "revoked":
            return self.encoder()({"event": "revoked", "data": "revoked"})
        last_words = self.grant.last_words
        return b"" if last_words is None or reason is None else last_words(reason)

    def farewell_frame(self) -> bytes:
        """Make the last frame at a shutdown; it may be empty."""
        encode = self.encoder()
        frame = b""
        if self.shutdown_retry_ms is not None:
            # Not a secret: it only has to differ from client to client.
            frame = encode({"retry": random.randint(*self.shutdown_retry_ms)})  # noqa: S311
        event = self.farewell() if callable(self.farewell) else self.farewell
        return frame if event is None else frame + completed(encode(event), self.sep)


class Option(Generic[T]):
    """An option as an attribute of its response: checked when it's assigned, as when it's passed."""

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, response: Any, owner: type) -> T:
        of = self if response is None else getattr(response._options, self._name)  # noqa: SLF001  (a part of it)
        return cast("T", of)

    def __set__(self, response: Any, value: T) -> None:
        response._options = response._options.with_one(self._name, value)  # noqa: SLF001  (as above)


def _check_sep(_: str, value: str) -> None:
    check_separator(value)


def _check_ping(_: str, value: float) -> None:
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        raise TypeError("ping interval must be int or float")
    if not value >= 0:
        raise ValueError("ping interval must be >= 0 (0 disables ping)")
    if value > HOUR:
        doubt_seconds("ping", value, "0 for no pings; proxies close a connection that is silent")


def _check_seconds(name: str, value: float, advice: str = "") -> None:
    check_seconds(name, value, advice)
    if value > HOUR:
        doubt_seconds(name, value)


def _check_seconds_or_none(name: str, value: float | None) -> None:
    if value is not None:
        _check_seconds(name, value)


def _check_first_event_timeout(name: str, value: float) -> None:
    _check_seconds(name, value, f" seconds (None starts the response at once), got: {value}")


def _check_retry(name: str, value: tuple[int, int]) -> None:
    check_milliseconds(name, value)
    doubt_milliseconds(name, *value)


def _check_shutdown_event(name: str, value: object) -> None:
    if isinstance(value, type) or not callable(getattr(value, "set", None)):
        raise TypeError(
            f"{name} is {type(value).__name__}: give an anyio.Event(), which is set when the server goes down."
        )


def _check_flag(name: str, value: object) -> None:
    check_type(name, value, bool, "True")


def _check_farewell(options: StreamOptions) -> None:
    if callable(options.farewell):
        check_callable("farewell", options.farewell, waits=False)
    elif options.farewell is not None:
        options.encoder()(options.farewell)  # What can't be sent is refused here.


def _check_serializer(_: str, value: object) -> None:
    check_serializer(value)


_CHECKS: dict[str, Callable[[str, Any], object]] = {
    "sep": _check_sep,
    "ping_interval": _check_ping,
    "ping_message_factory": partial(check_callable, waits=False),
    "data_sender_callable": partial(check_callable, waits=True),
    "send_timeout": _check_seconds,
    "client_close_handler_callable": partial(
        check_callable, takes="the server's message", waits=True
    ),
    "shutdown_event": _check_shutdown_event,
    "shutdown_grace_period": _check_seconds,
    "cleanup_timeout": _check_seconds_or_none,
    "first_event_timeout": _check_first_event_timeout,
    "on_error": partial(check_callable, takes="the exception", waits=True),
    "on_close": partial(check_callable, takes="the reason", waits=True),
    "join_events": _check_flag,
    "farewell": lambda *_: None,  # It depends on others: `_check_farewell`.
    "shutdown_retry_ms": _check_retry,
    "serializer": _check_serializer,
    "listener": check_listener,
}
"""What is called with the name and the value of an option, unless it's the default."""
_USUAL = StreamOptions()
_DEFAULTS = [StreamOptions._field_defaults[name] for name in _CHECKS]
