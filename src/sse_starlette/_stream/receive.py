"""Reads ASGI's `receive` for the message that the client has left.

`receive` has one reader at a time: each message goes to whoever asks first, and a source may be the one
that asks, by `request.json()`, `request.stream()` or `request.is_disconnected()`. Nobody can tell
from outside whether it will, so what a change here must keep:

- A response begins to watch when its source has come to where it first waits, and stands behind it in
  the line of those who wait for a message.
- Where the request may have a body that nobody has read yet, `receive` is left to the source until it
  has made its first event, for some seconds at the most. Where the server shows that the body has been
  read, nobody waits for that.
- What was taken that may have been the source's is said in the log.
- A `receive` that returns at once, again and again, is asked more and more rarely.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

import anyio.lowlevel
from anyio import sleep

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.types import Message, Receive, Scope

logger = logging.getLogger("sse_starlette.sse")

_BODY_SECONDS = 3.0
"""How long `receive` is left to a source that has made no event and may want to read the request's body."""
_FIRST_LOOK_SECONDS = 0.05
_PATIENCE = 3
"""Messages that may come at once before a pause is made."""
_FIRST_PAUSE_SECONDS = 0.001
_LONGEST_PAUSE_SECONDS = 1.0

_CONFIRMATIONS = 2
"""How often granian must say at once, and without a pause, that the client has left."""

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


async def until_body_is_read(receive: Receive, has_begun: Callable[[], bool]) -> None:
    """
    Leave `receive` to a source that may want to read the request's body.

    Args:
        receive: what it's read with.
        has_begun: whether the source has made an event; most have read what they want by then.
    """
    pause, left = _FIRST_LOOK_SECONDS, _BODY_SECONDS
    while left > 0 and not _shows_that_body_is_read(receive):
        await sleep(min(pause, left))
        if has_begun():
            return
        left -= pause
        pause *= 2


def _shows_that_body_is_read(receive: Receive) -> bool:
    """
    Whether this server has nothing to say any more but that the client has left.

    ASGI has no word for that, so the one server that most run on is looked at: uvicorn keeps what has come
    of the body, whether there's more, and whether it's to be told of. Where that can't be seen, because
    a middleware has a `receive` of its own for example, the answer is no.
    """
    request: Any = getattr(receive, "__self__", None)
    if type(request).__module__.partition(".")[0] != "uvicorn":
        return False
    try:
        return bool(request.disconnected) or not (
            request.more_body or request.body or request.message_event.is_set()
        )
    except AttributeError:
        return False


async def until_disconnect(receive: Receive) -> Message:
    """Return the message that the client has left."""
    at_once, pause, told = 0, _FIRST_PAUSE_SECONDS, False
    message = await receive()
    while True:
        if message["type"] in _DISCONNECTS:
            if _gives_false_disconnects(receive):
                message = await _confirmed(receive)
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
                extra={"sse_event": "request_body_lost", "sse_bytes": len(body)},
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
        message = await receive()


def _gives_false_disconnects(receive: Receive) -> bool:
    """
    Whether this server's word that the client has left has to be confirmed.

    granian answers a `receive` that waits with `http.disconnect` when another one is cancelled, which is
    what `Request.is_disconnected` does. If the client has really left, it says so again, at once.
    """
    return type(getattr(receive, "__self__", None)).__module__.partition(".")[0] == "granian"


async def _confirmed(receive: Receive) -> Message:
    """
    Return what comes after granian's word that the client has left: that again, if it's true.

    Once it may say so at once without it being true, if a `receive` was cancelled while nobody waited.
    And on a busy machine it may answer the one that is cancelled instead of the one that waits, as long
    as that is new; so a source that asks again and again should seldom find a new one.
    """
    at_once, pause = 0, _FIRST_PAUSE_SECONDS
    while at_once < _CONFIRMATIONS:
        message, waited = await _noting_a_wait(receive)
        if message["type"] not in _DISCONNECTS:
            return message
        at_once = 0 if waited else at_once + 1
        if waited:
            await sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)
    return message


async def _noting_a_wait(receive: Receive) -> tuple[Message, bool]:
    """Receive a message, and tell whether it had to be waited for; on asyncio, as granian is."""
    turned: list[str] = []
    turn = asyncio.get_running_loop().call_soon(turned.append, "a turn")
    try:
        return await receive(), bool(turned)
    finally:
        turn.cancel()
