"""An MCP server with tools that use each of the streams there are."""

from __future__ import annotations

from itertools import count
from typing import Any

import anyio
from mcp.server.mcpserver import Context, MCPServer
from mcp.server.streamable_http import EventCallback, EventMessage, EventStore
from starlette.applications import Starlette

server = MCPServer("a dependent", log_level="WARNING")
released = anyio.Event()


class Events(EventStore):
    """Keeps all events for ever. Of several streams it replays one, as the transport wants it."""

    def __init__(self) -> None:
        self._events: list[tuple[str, str, Any]] = []
        self._ids = count(1)

    async def store_event(self, stream_id: str, message: Any) -> str:
        event_id = str(next(self._ids))
        self._events.append((event_id, stream_id, message))
        return event_id

    async def replay_events_after(
        self, last_event_id: str, send_callback: EventCallback
    ) -> str | None:
        streams = {event_id: stream_id for event_id, stream_id, _ in self._events}
        wanted = streams.get(last_event_id)
        for event_id, stream_id, message in self._events:
            after = int(event_id) > int(last_event_id)
            if after and stream_id == wanted and message is not None:
                await send_callback(EventMessage(message, event_id))
        return wanted


@server.tool()
async def add(a: int, b: int, ctx: Context) -> int:
    for step in range(1, 4):
        await ctx.report_progress(step, 3, f"step {step}")
    return a + b


@server.tool()
async def announce(ctx: Context) -> str:
    """What no request asked for travels on the stream of the session."""
    await ctx.session.send_tool_list_changed()
    return "announced"


@server.tool()
async def hang_up(ctx: Context) -> str:
    """End the stream of this request in the middle; the client comes back for the rest."""
    await ctx.report_progress(1, 2)
    await ctx.close_sse_stream()
    await ctx.report_progress(2, 2)
    return "all of it"


@server.tool()
async def hang_up_the_session(ctx: Context) -> str:
    """End the stream of the session; the client comes back to it."""
    await ctx.close_standalone_sse_stream()
    return "gone"


@server.tool()
async def wait_for_release(ctx: Context) -> str:
    await ctx.report_progress(1, 2)
    await released.wait()
    await ctx.report_progress(2, 2)
    return "released"


@server.tool()
async def release() -> str:
    released.set()
    return "done"


def streamable() -> Starlette:
    return server.streamable_http_app()


def resumable() -> Starlette:
    return server.streamable_http_app(event_store=Events(), retry_interval=10)


def legacy() -> Starlette:
    return server.sse_app()
