"""The callbacks at the end of a stream: once each, in an order that is promised, whatever one of them does."""

from __future__ import annotations

import logging
import math
from contextlib import AsyncExitStack
from functools import partial
from inspect import isawaitable
from typing import TYPE_CHECKING

import anyio

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.types import Message

    from .lifecycle import CloseReason, Lifecycle

logger = logging.getLogger("sse_starlette.sse")


async def run_callbacks(
    life: Lifecycle,
    *,
    close_handler: Callable[[Message], object] | None,
    on_close: Callable[[CloseReason], object] | None,
    background: Callable[[], object] | None,
    cleanup_timeout: float | None,
) -> None:
    """
    Tell everyone who asked that a stream has ended. What they raise is logged.

    Args:
        life: of the stream.
        close_handler: called if the client has left, with the server's message.
        on_close: called with the reason.
        background: called unless the stream has failed.
        cleanup_timeout: seconds that each has in a response that was cancelled; None: any time.
    """
    if close_handler is None and on_close is None and background is None:
        return  # As for nearly all.
    reason = life.reason or "error"
    calls: list[tuple[str, Callable[[], object]]] = []
    if life.disconnected is not None and close_handler is not None:
        calls.append(("client_close_handler_callable", partial(close_handler, life.disconnected)))
    if on_close is not None:
        calls.append(("on_close", partial(on_close, reason)))
    if background is not None and life.runs_background:
        calls.append(("background", background))
    async with AsyncExitStack() as stack:  # Also runs those that come after a cancelled one.
        for name, call in reversed(calls):
            stack.push_async_exit(partial(_call, reason, cleanup_timeout, name, call))


async def _call(
    reason: CloseReason,
    cleanup_timeout: float | None,
    name: str,
    call: Callable[[], object],
    interrupted: type[BaseException] | None,
    *_: object,
) -> None:
    # A response that was cancelled, be it since it ended, has to leave soon; until then its
    # callbacks may wait.
    cancelled = (
        reason == "cancelled"
        or interrupted is not None
        or anyio.current_effective_deadline() == -math.inf
    )
    with anyio.move_on_after(cleanup_timeout if cancelled else None, shield=cancelled) as within:
        try:
            result = call()
            if isawaitable(result):
                await result
        except Exception:
            logger.exception(
                "%s raised after the stream had ended (%s)",
                name,
                reason,
                extra={"sse_event": "callback_failed", "sse_callback": name, "sse_reason": reason},
            )
    if within.cancelled_caught:
        logger.warning(
            "%s was cut short after %s s (cleanup_timeout)",
            name,
            cleanup_timeout,
            extra={"sse_event": "callback_cut_short", "sse_callback": name, "sse_reason": reason},
        )
