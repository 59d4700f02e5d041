"""A stream whose client may vanish: `vanishing.py MILLISECONDS COMMAND…` runs a server on a socket that notices.

`{fd}` in the command is the descriptor of a socket that listens, whose connections inherit TCP_USER_TIMEOUT; of 0
milliseconds there's no such socket, and `{port}` is a free one.
"""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import AsyncIterator

import anyio
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from sse_starlette import EventSourceResponse


async def silent() -> AsyncIterator[str]:
    yield "here"
    await anyio.sleep_forever()


async def stream(_: Request) -> Response:
    # As small as pings are, they never fill the kernel's buffer.
    return EventSourceResponse(
        silent(), ping=0.2, on_close=lambda reason: print(f"closed: {reason}", flush=True)
    )


app = Starlette(routes=[Route("/", stream)])


def main() -> None:
    milliseconds = int(sys.argv[1])
    listening = socket.create_server(("127.0.0.1", 0))
    port = listening.getsockname()[1]
    if milliseconds:
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, milliseconds)
        listening.set_inheritable(True)
    else:
        listening.close()
    command = [each.format(fd=listening.fileno(), port=port) for each in sys.argv[2:]]
    print(f"port {port}", flush=True)
    os.execv(sys.executable, [sys.executable, *command])


if __name__ == "__main__":
    main()
