"""
Tests streams of an ASGI app in memory: this package's, Starlette's, FastAPI's, or any other.

Needs the extra `testing`. Nothing of it is imported by the rest of the package.
"""

try:
    import httpx2 as _httpx2  # noqa: F401  (whether it's there, before a part asks for it)
except ImportError as _missing:
    raise ImportError(
        "sse_starlette.testing needs the extra `testing`. From a checkout: pip install '.[testing]'"
    ) from _missing

from ._clock import Clock
from ._connect import INJECTION, connect
from ._failures import CHECKS, StreamFailure
from ._parser import Comment, Cursor, Event, EventStreamParser, Parsed
from ._stream import PROXY_HEADERS, Stream
from ._transport import StreamingASGITransport

__all__ = [
    "CHECKS",
    "INJECTION",
    "PROXY_HEADERS",
    "Clock",
    "Comment",
    "Cursor",
    "Event",
    "EventStreamParser",
    "Parsed",
    "Stream",
    "StreamFailure",
    "StreamingASGITransport",
    "connect",
]
