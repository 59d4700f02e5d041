"""The event that a stream ends with when it has failed: made in a task of its own, which no other ending cuts short."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import anyio

from .lifecycle import DONE, NONE, RUNNING, STARTED
from .producers import let_tasks_begin

if TYPE_CHECKING:
    from .._runtime.loop import TaskGroup, Waker
    from .context import StreamContext

logger = logging.getLogger("sse_starlette.sse")


class ErrorEvent:
    """The last event of a stream whose caller deals with exceptions (`on_error`)."""

    __slots__ = ("_frame", "_life", "_options", "_task")

    def __init__(self, context: StreamContext) -> None:
        """Be ready for a failure of this stream."""
        self._options = context.options
        self._life = context.life
        self._task = NONE
        self._frame = b""

    def start(self, tasks: TaskGroup, wake: Waker) -> None:
        """Have the event made, if the stream has failed and it wasn't made before; then `wake` is set."""
        if self._task is NONE and self._life.failure is not None:
            self._task = STARTED
            tasks.start_soon(self._run, self._life.failure, wake)

    async def wait(self, wake: Waker) -> None:
        """Wait until the event has been made, if it is being made."""
        if self._task is STARTED:
            # Its task begins in the next turn, unless it was cancelled before that, as by the end of
            # `asyncio.run`: then nobody makes an event.
            await let_tasks_begin()
            if self._task is STARTED:
                self._task = DONE
        while self._task is RUNNING:
            await wake

    def take(self) -> bytes:
        """Return the event's frame, once; empty if there's none."""
        frame, self._frame = self._frame, b""
        return frame

    async def _run(self, failure: Exception, wake: Waker) -> None:
        self._task = RUNNING
        timeout = self._options.cleanup_timeout
        try:
            with anyio.move_on_after(timeout, shield=True) as time:
                self._frame = await self._options.error_frame(failure)
        except Exception as exc:
            if exc is not failure:
                logger.exception(
                    "on_error raised",
                    extra={"sse_event": "callback_failed", "sse_callback": "on_error"},
                )
        else:
            self._life.failure = None
            if time.cancelled_caught:
                logger.warning(
                    "on_error was cut short after %s s (cleanup_timeout); it was to handle %r",
                    timeout,
                    failure,
                    extra={"sse_event": "callback_cut_short", "sse_callback": "on_error"},
                )
        finally:
            self._task = DONE
            wake.set()
