"""What a caller asked for, as a stream needs it: bytes, seconds and functions, checked and never changed."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable


class StreamOptions(NamedTuple):
    """How one stream is sent and ended. A tuple, because a frozen dataclass takes four times as long to make."""

    ping_interval: float
    """Seconds of silence after which a ping is sent; 0: never."""
    ping_frame: Callable[[], bytes]
    """Makes a ping."""
    error_frame: Callable[[Exception], Awaitable[bytes]] | None
    """
    Makes the last frame out of an exception, which is thereby dealt with.

    None: the exception leaves `Stream.run` once the body is complete.
    """
    send_timeout: float | None
    """Seconds that one send may take; None: any time."""
    first_event_timeout: float | None
    """Seconds to wait for the first frame before the headers are sent; None: none."""
    side_task: Callable[[], Awaitable[object]] | None
    """Runs as long as the stream does, at the most."""
    on_draining: Callable[[], None]
    """Called when the stream is asked to end by itself."""
    grace: float
    """Seconds it then has for that, unless the request names others."""
    farewell_frame: Callable[[], bytes]
    """Makes the last frame of a stream that was ended so; it may be empty."""
    cleanup_timeout: float | None
    """
    Seconds that `error_frame` has, and `side_task` once it's cancelled; None: any time.

    The feed's time is the feed's affair.
    """
    body_is_due: bool
    """Whether the feed or `side_task` may want to read the request's body."""
    start_alone: bool = True
    """Whether the headers leave by themselves; if not, an empty chunk is sent after them."""
    last_chunk_timeout: float = 1.0
    """Seconds that a stream which is to end waits for a client that doesn't take what is being sent."""
    cancelled_timeout: float = 0.3
    """The same for a stream that was cancelled: whoever cancels waits for it."""
