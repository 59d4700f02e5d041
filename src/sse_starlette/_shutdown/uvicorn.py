"""uvicorn: `Server.shutdown`, looked up when it's called.

Whoever runs the server and why ever it stops: a signal, `should_exit`, `--limit-max-requests`. Gunicorn's
uvicorn worker passes there too.
"""

from __future__ import annotations

import signal
import sys
from functools import wraps
from typing import TYPE_CHECKING, Any

from .hooks import MethodHook
from .signals import getsignal
from .streams import State, drain_loop_of_server

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable


class GoingDown:
    """Witness of a server that goes down."""


def _around_shutdown(
    original: Callable[..., Awaitable[None]],
) -> Callable[..., Awaitable[None]]:
    @wraps(original)
    async def shutdown(*args: Any, **kwargs: Any) -> None:
        going_down = GoingDown()
        drain_loop_of_server(going_down)
        try:
            await original(*args, **kwargs)
        finally:
            # The next server on this loop has nothing to do with it.
            with State.lock:
                State.going_down.pop(going_down, None)

    return shutdown


class ShutdownHook(MethodHook):
    """On a server that handles the signals; such a one can also be asked."""

    def is_going_down(self) -> bool:
        server = _server_of(getsignal(signal.SIGTERM))
        return server is not None and server.should_exit

    def passes_after(self, handler: object, /) -> bool:
        # At Ctrl+C a child of `--reload` gets SIGINT and SIGTERM at once. One that comes within the
        # handler of the other looks like a second Ctrl+C, and the lifespan is left out: four times
        # as often with a function of ours before it (9 of 720; without it 5 of 1,620).
        server = _server_of(handler)
        if server is None:
            return False
        in_place = getattr(server.shutdown, "__func__", None)
        return in_place is sys.modules["uvicorn.server"].Server.shutdown


def _server_of(handler: object) -> Any:
    """Return the server of uvicorn whose method handles a signal; None: another does."""
    kind = getattr(sys.modules.get("uvicorn.server"), "Server", None)
    server = getattr(handler, "__self__", None)
    return server if kind is not None and isinstance(server, kind) else None


HOOKS = (ShutdownHook("uvicorn.server", "Server", "shutdown", _around_shutdown),)
