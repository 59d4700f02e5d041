"""Reads ASGI's `receive` for the message that the client has left.

`receive` has one reader at a time: each message goes to whoever asks first, and a source may be the one
that asks, by `request.json()`, `request.stream()` or `request.is_disconnected()`. Nobody can tell
from outside whether it will, so what a change here must keep:

- A response begins to watch when its source has come to where it first waits, and stands behind it in
  the line of those who wait for a message.
- Where the request may have a body that nobody has read yet, the source has a second for itself first.
- What was taken that may have been the source's is said in the log.
- A `receive` that returns at once, again and again, is asked more and more rarely.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import anyio.lowlevel
from anyio import sleep

if TYPE_CHECKING:
    from starlette.types import Message, Receive, Scope

logger = logging.getLogger("sse_starlette.sse")

_BODY_SECONDS = 1.0
"""How long `receive` is left to a source that may want to read the request's body."""
_PATIENCE = 3
"""Messages that may come at once before a pause is made."""
_FIRST_PAUSE_SECONDS = 0.001
_LONGEST_PAUSE_SECONDS = 1.0

_METHODS_WITH_BODY = frozenset({"POST", "PUT", "PATCH", "QUERY"})
_DISCONNECTS = frozenset({"http.disconnect", "websocket.disconnect"})


def may_have_body(scope: Scope) -> bool:
    """
    Whether the request in `scope` may have a body, as far as its headers tell.

    RFC 9112, 6.3: on HTTP/1.1 a request has one if it has `Content-Length` or `Transfer-Encoding`. From
    HTTP/2 on it needs neither (RFC 9113, 8.1), so the method decides where there's no length.
    """
    if scope["type"] != "http":
        return False
    for name, value in scope.get("headers", ()):
        if name == b"content-length":
            return bool(value.strip(b"0 "))
        if name == b"transfer-encoding":
            return True
    later = scope.get("http_version", "1.1") >= "2"
    return later and scope.get("method", "").upper() in _METHODS_WITH_BODY


async def until_disconnect(receive: Receive, *, body_is_due: bool) -> Message:
    """
    Return the message that the client has left.

    Args:
        receive: ASGI's receive.
        body_is_due: whether somebody else may still want to read the request's body.
    """
    if body_is_due:
        await sleep(_BODY_SECONDS)
    at_once, pause, told = 0, _FIRST_PAUSE_SECONDS, False
    while True:
        message = await receive()
        if message["type"] in _DISCONNECTS:
            return message
        body = message.get("body")
        if body and not told:
            told = True
            logger.warning(
                "%d bytes of the request's body came when nobody was reading it, and are lost. If the "
                "source needs the body, read it in the endpoint, before the response is returned, or in "
                "the source before its first `yield`.",
                len(body),
            )
        if body and message.get("more_body"):
            # A large upload that nobody wants: the client may not listen before it's through.
            at_once, pause = 0, _FIRST_PAUSE_SECONDS
        at_once += 1
        if at_once <= _PATIENCE:
            await anyio.lowlevel.checkpoint()
        else:
            await sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)
