"""Server-sent events for Starlette, FastAPI and any ASGI server."""

from ._shutdown import drain
from ._version import __version__
from .errors import SSEError
from .event import JSONServerSentEvent, ServerSentEvent
from .sse import EventSourceResponse, SendTimeoutError

__all__ = [
    "EventSourceResponse",
    "JSONServerSentEvent",
    "SSEError",
    "SendTimeoutError",
    "ServerSentEvent",
    "__version__",
    "drain",
]
