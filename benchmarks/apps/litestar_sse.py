"""Litestar's server-sent events."""

from __future__ import annotations

from litestar import Litestar, get
from litestar.response import ServerSentEvent
from workload import Controlled, Workload, fields_of

work = Workload(fields_of)


async def stream(n: int) -> ServerSentEvent:
    """Stream as many events as asked for."""
    return ServerSentEvent(work.stream(n))


async def paced(n: int, ms: float) -> ServerSentEvent:
    """Stream events at a pace."""
    return ServerSentEvent(work.paced(n, ms))


async def idle() -> ServerSentEvent:
    """Stream nothing."""
    return ServerSentEvent(work.idle())


async def one() -> ServerSentEvent:
    """Stream one event."""
    return ServerSentEvent(work.one())


async def queue() -> ServerSentEvent:
    """Stream what is published."""
    return ServerSentEvent(work.queue())


handlers = {"/stream": stream, "/paced": paced, "/idle": idle, "/one": one, "/queue": queue}
app = Controlled(Litestar([get(path)(handler) for path, handler in handlers.items()]), work)
