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
        server = getattr(getsignal(signal.SIGTERM), "__self__", None)
        uvicorn = sys.modules.get("uvicorn")
        return uvicorn is not None and isinstance(server, uvicorn.Server) and server.should_exit


HOOKS = (ShutdownHook("uvicorn.server", "Server", "shutdown", _around_shutdown),)
