"""Server-sent events for Starlette, FastAPI and any ASGI server."""

from ._shutdown import drain
from ._stream.threads import sync_source_limiter
from ._version import __version__
from .channels.channel import Channel, last_event_id
from .channels.subscription import Gap, Subscription
from .endpoint import EventSourceEndpoint
from .errors import (
    ChannelClosed,
    HistoryGap,
    LogRefused,
    LogUnavailable,
    PublishQueueFull,
    RunNotFound,
    SSEError,
    SubscriberTooSlow,
)
from .event import JSONServerSentEvent, ServerSentEvent
from .eventlogs.publisher import Publisher
from .hub import Hub
from .policy import StreamPolicy, StreamPolicyMiddleware
from .runs import Run, RunEnd, RunStatus
from .sse import EventSourceResponse, SendTimeoutError

__all__ = [
    "Channel",
    "ChannelClosed",
    "EventSourceEndpoint",
    "EventSourceResponse",
    "Gap",
    "HistoryGap",
    "Hub",
    "JSONServerSentEvent",
    "LogRefused",
    "LogUnavailable",
    "PublishQueueFull",
    "Publisher",
    "Run",
    "RunEnd",
    "RunNotFound",
    "RunStatus",
    "SSEError",
    "SendTimeoutError",
    "ServerSentEvent",
    "StreamPolicy",
    "StreamPolicyMiddleware",
    "SubscriberTooSlow",
    "Subscription",
    "__version__",
    "drain",
    "last_event_id",
    "sync_source_limiter",
]
