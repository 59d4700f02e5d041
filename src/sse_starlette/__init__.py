"""Server-sent events for Starlette, FastAPI and any ASGI server."""

from ._shutdown import drain
from ._threads import sync_source_limiter
from ._version import __version__
from .channel import Channel, last_event_id
from .errors import (
    ChannelClosed,
    HistoryGap,
    LogRefused,
    LogUnavailable,
    PublishQueueFull,
    SSEError,
    SubscriberTooSlow,
)
from .event import JSONServerSentEvent, ServerSentEvent
from .hub import Hub
from .publisher import Publisher
from .sse import EventSourceResponse, SendTimeoutError
from .subscription import Gap, Subscription

__all__ = [
    "Channel",
    "ChannelClosed",
    "EventSourceResponse",
    "Gap",
    "HistoryGap",
    "Hub",
    "JSONServerSentEvent",
    "LogRefused",
    "LogUnavailable",
    "PublishQueueFull",
    "Publisher",
    "SSEError",
    "SendTimeoutError",
    "ServerSentEvent",
    "SubscriberTooSlow",
    "Subscription",
    "__version__",
    "drain",
    "last_event_id",
    "sync_source_limiter",
]
