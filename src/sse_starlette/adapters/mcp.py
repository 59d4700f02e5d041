"""The Model Context Protocol's SDK on a hub: notifications for all processes, and streams that resume.

Owns how the SDK's events and messages are kept in channels. Knows nothing of the protocol itself: what a client
hears, and when, is the SDK's business.

`HubSubscriptionBus` is for the protocol since 2026-07-28 (`subscriptions/listen`), `HubEventStore` for the ones
before (a GET with `Last-Event-ID`).
"""

from __future__ import annotations

import logging
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import quote, unquote
from uuid import uuid4
from weakref import WeakValueDictionary

import anyio

from ..errors import HistoryGap, LogUnavailable
from ..event import ServerSentEvent

try:
    from mcp.server.streamable_http import MCP_SESSION_ID_HEADER, EventMessage, EventStore
    from mcp.server.subscriptions import (
        PromptsListChanged,
        ResourcesListChanged,
        ResourceUpdated,
        ToolsListChanged,
    )
    from mcp_types import jsonrpc_message_adapter
except ImportError as _missing:
    raise ImportError(
        "sse_starlette.adapters.mcp needs version 2 of the MCP SDK, the extra `mcp`. From a checkout: "
        "pip install '.[mcp]'"
    ) from _missing

if TYPE_CHECKING:
    from collections.abc import Callable

    from mcp.server.streamable_http import EventCallback
    from mcp.server.subscriptions import ServerEvent
    from mcp_types import JSONRPCMessage
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from ..channels.subscription import Subscription
    from ..hub import Hub

__all__ = ["HubEventStore", "HubSubscriptionBus"]

_logger = logging.getLogger(__name__)

_LISTS_CHANGED = (ToolsListChanged(), PromptsListChanged(), ResourcesListChanged())
_BY_NAME: dict[object, ServerEvent] = {type(event).__name__: event for event in _LISTS_CHANGED}


class HubSubscriptionBus:
    """
    A `SubscriptionBus` whose events reach the listeners of all processes that share the hub's event log.

    ```python
    hub = Hub("redis://…")
    bus = HubSubscriptionBus(hub)
    mcp = MCPServer("shop", subscriptions=bus)
    ```

    It works while it's entered, `async with bus:`, within the hub's lifespan and in the same event loop as the
    server. If events were missed, as when Redis has lost its data, listeners are told that all lists have changed.
    """

    def __init__(self, hub: Hub, *, channel: str = "mcp.subscriptions") -> None:
        """
        Make a bus.

        Args:
            hub: in memory, or on an event log that other processes have, too.
            channel: the name of its channel; servers that share it get each other's events.
        """
        # A bus that lags goes on with what comes next, and has its listeners told.
        self._channel = hub.channel(channel, slow="reset")
        self._listeners: dict[object, Callable[[ServerEvent], None]] = {}
        self._tasks: anyio.abc.TaskGroup | None = None

    async def publish(self, event: ServerEvent) -> None:
        """
        Bring `event` to the listeners of all processes; those of this one get it by the same way.

        Raises:
            LogUnavailable: the event log was out of reach for the hub's `publish_wait`.
        """
        uri = event.uri if isinstance(event, ResourceUpdated) else ""
        await self._channel.publish(ServerSentEvent(uri, event=type(event).__name__))

    def subscribe(self, listener: Callable[[ServerEvent], None]) -> Callable[[], None]:
        """
        Have `listener` called with each event from now on; what is returned ends that.

        Raises:
            RuntimeError: the bus hasn't been entered, so nothing would ever be heard.
        """
        if self._tasks is None:
            raise RuntimeError(
                "the HubSubscriptionBus isn't listening: enter it in the application's lifespan, "
                "`async with hub.lifespan(app), bus: yield`"
            )
        token = object()
        self._listeners[token] = listener

        def unsubscribe() -> None:
            self._listeners.pop(token, None)

        return unsubscribe

    async def __aenter__(self) -> Self:
        if self._tasks is not None:
            raise RuntimeError("the HubSubscriptionBus is listening already: enter it once")
        try:
            after = await self._channel.position()
        except LogUnavailable:
            after = None  # It begins when the event log is there.
        subscription = self._channel.subscribe(after=after)
        tasks = anyio.create_task_group()
        await tasks.__aenter__()
        tasks.start_soon(self._listen, subscription)
        self._tasks = tasks
        return self

    async def __aexit__(self, *exc: object) -> None:
        tasks, self._tasks = self._tasks, None
        if tasks is not None:
            tasks.cancel_scope.cancel()
            await tasks.__aexit__(*exc)  # type: ignore[arg-type]

    async def _listen(self, subscription: Subscription) -> None:
        async with subscription:
            async for event in subscription:
                for told in _server_events(event):
                    for listener in list(self._listeners.values()):
                        try:
                            listener(told)
                        except Exception:
                            _logger.exception(
                                "a listener of the MCP SDK has raised; the others go on",
                                extra={"sse_event": "mcp_listener_failed"},
                            )
        _logger.warning(
            "channel %r has been closed: the MCP server hears of no further changes",
            self._channel.name,
            extra={"sse_event": "mcp_channel_closed", "sse_channel": self._channel.name},
        )


def _server_events(event: ServerSentEvent) -> tuple[ServerEvent, ...]:
    """Return what an event of the channel says: on a gap, that anything may have changed."""
    if event.event == "reset":
        return _LISTS_CHANGED
    if event.event == ResourceUpdated.__name__:
        return (ResourceUpdated(uri=str(event.data)),)
    told = _BY_NAME.get(event.event)
    if told is None:
        _logger.warning(
            "an event named %r is none of the MCP SDK's; HubSubscriptionBus needs a channel of its own",
            event.event,
            extra={"sse_event": "mcp_event_unknown", "sse_channel": event.channel},
        )
        return ()
    return (told,)


class _Session:
    """One session of the SDK, known by its context: the SDK's ids of streams are those of requests, and begin at 0."""

    __slots__ = ("__weakref__", "key")

    def __init__(self) -> None:
        self.key = uuid4().hex


_current: ContextVar[_Session | None] = ContextVar("sse_starlette.adapters.mcp", default=None)


class HubEventStore(EventStore):
    """
    An `EventStore` of the SDK on a hub: a client that comes back gets the messages that it missed.

    ```python
    store = HubEventStore(hub)
    app = store.sessions(mcp.streamable_http_app(event_store=store))
    ```

    The SDK names streams by the ids of requests, which are the same in each session. What belongs to which session
    is known by `sessions`, so that nobody is sent what another client was meant to get.
    """

    def __init__(
        self, hub: Hub, *, prefix: str = "mcp", history: int = 1_000, linger: float = 3600.0
    ) -> None:
        """
        Make a store.

        Args:
            hub: where the messages are kept. Sessions of the SDK live in one process, so a hub in memory will
                do; on an event log messages take no memory here.
            prefix: what the names of its channels begin with.
            history: messages that are kept of each request.
            linger: seconds that they are kept in memory after the last one.
        """
        self._hub = hub
        self._prefix = prefix
        self._options: dict[str, Any] = {"history": history, "linger": linger}
        # A session is held by the context of its tasks.
        self._sessions: WeakValueDictionary[str, _Session] = WeakValueDictionary()

    def sessions(self, app: ASGIApp) -> ASGIApp:
        """Return the SDK's application so wrapped that the store knows which session a message belongs to."""
        header = MCP_SESSION_ID_HEADER.lower().encode()

        async def wrapped(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] != "http":
                await app(scope, receive, send)
                return
            session_id = dict(scope["headers"]).get(header, b"").decode("latin-1")
            session = self._sessions.get(session_id) or _Session()

            async def noting(message: Message) -> None:
                if message["type"] == "http.response.start" and not session_id:
                    for name, value in message.get("headers", ()):
                        if name.lower() == header:
                            self._sessions[value.decode("latin-1")] = session
                await send(message)

            token = _current.set(session)
            try:
                await app(scope, receive, noting)
            finally:
                _current.reset(token)

        return wrapped

    async def store_event(self, stream_id: str, message: JSONRPCMessage | None) -> str:
        """
        Keep a message and return its id; without a message, return where its stream is.

        If the event log is out of reach for the hub's `publish_wait`, that's logged: the client gets the message if
        it's there, and can't resume after it.
        """
        channel = self._hub.channel(self._channel_name(stream_id), **self._options)
        try:
            if message is None:
                cursor = await channel.position()
            else:
                data = message.model_dump_json(by_alias=True, exclude_unset=True)
                cursor = await channel.publish(ServerSentEvent(data))
        except LogUnavailable:
            _logger.exception(
                "an MCP message could not be kept, so no client can resume after it",
                extra={"sse_event": "mcp_message_not_kept", "sse_channel": channel.name},
            )
            cursor = "0.0"
        return f"{cursor}~{quote(stream_id, safe='')}"

    async def replay_events_after(
        self, last_event_id: str, send_callback: EventCallback
    ) -> str | None:
        """
        Send what this session's stream got after an id.

        Returns:
            The stream's id. None if what came after isn't kept, or the id isn't one of this session's.
        """
        cursor, _, quoted = last_event_id.partition("~")
        stream_id = unquote(quoted)
        channel = self._hub.channel(self._channel_name(stream_id), **self._options)
        try:
            missed = await channel.history(after=cursor)
        except (HistoryGap, LogUnavailable, ValueError) as exc:
            _logger.warning(
                "an MCP client can't get what it has missed: %s",
                exc,
                extra={"sse_event": "mcp_gap", "sse_channel": channel.name},
            )
            return None
        for event in missed:
            message = jsonrpc_message_adapter.validate_json(str(event.data), by_name=False)
            await send_callback(EventMessage(message, f"{event.id}~{quoted}"))
        return stream_id

    def _channel_name(self, stream_id: str) -> str:
        session = _current.get()
        if session is None:
            raise RuntimeError(
                "HubEventStore doesn't know the session of a message: serve "
                "`store.sessions(mcp.streamable_http_app(event_store=store))`"
            )
        return f"{self._prefix}.{session.key}.{stream_id}"
