"""What makes the events of a stream, the feed and a task at its side: started with it, stopped by what ends it.

What a change here must keep: however a stream ends, the feed is stopped and `Feed.run` has returned, unless
its step in a thread can't be interrupted; and who fills a source is stopped before the source.
"""

from __future__ import annotations

import logging
from inspect import isawaitable
from typing import TYPE_CHECKING

import anyio
import anyio.lowlevel

from .lifecycle import DONE, NONE, RUNNING, SETTLED, STARTED, CloseReason

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from .._runtime.loop import CancelScope, Waker
    from .context import StreamContext

logger = logging.getLogger("sse_starlette.sse")


class Producers:
    """The feed of one stream, and the side task that its caller may have given."""

    __slots__ = (
        "_cleanup_timeout",
        "_error_seen",
        "_feed",
        "_feed_task",
        "_life",
        "_loop",
        "_side",
        "_side_scope",
        "_side_task",
        "_tasks",
        "_to_begin",
        "_wake",
        "_watcher",
    )

    def __init__(self, context: StreamContext, *, wake: Waker, watcher: Waker) -> None:
        """
        Take over the feed; nothing of it runs before `start`.

        Args:
            context: of the stream; its feed has been opened.
            wake: wakes whoever waits for a producer to end.
            watcher: is set when all have come to where they first wait.
        """
        self._feed = context.feed
        self._life = context.life
        self._loop = context.loop
        self._tasks = context.tasks
        self._wake = wake
        self._watcher = watcher
        self._cleanup_timeout = context.options.cleanup_timeout
        self._to_begin = -1
        self._feed_task = NONE
        self._error_seen = False
        self._side = context.options.data_sender_callable
        self._side_task = NONE
        self._side_scope: CancelScope | None = None

    @property
    def have_begun(self) -> bool:
        """Whether each has been started and has come to where it first waits."""
        return self._to_begin == 0

    def start(self) -> None:
        """Start what may want to read the request."""
        self._to_begin = self._feed.has_work + (self._side is not None)
        if not self._to_begin:
            self._watcher.set()
        if self._side is not None:
            self._side_scope = self._loop.cancel_scope()
            self._side_task = STARTED
        self._start_feed()
        if self._side is not None and self._side_scope is not None:
            self._tasks.start_soon(self._run_side, self._side, self._side_scope)

    def end(self, reason: CloseReason, failure: Exception | None = None) -> None:
        """Let the stream end. The first reason stays."""
        if self._life.end(reason, failure):
            self.cancel()

    def end_by_error(self) -> None:
        """Let the stream end with the error that the feed has ended with."""
        self._error_seen = True
        self.end("error", self._feed.error)

    def log_unseen_error(self) -> None:
        """Tell the log of an error of the feed that the stream has not ended by."""
        error = self._feed.error
        if error is not None and not self._error_seen and self._life.logs_source_error:
            logger.error(
                "the source had failed when its stream ended (%s)",
                self._life.reason,
                exc_info=error,
                extra={"sse_event": "source_failed", "sse_reason": self._life.reason},
            )

    def cancel(self) -> None:
        """Have them come to their end, which `stop` waits for."""
        # First who fills the source: what is handed over then still has somebody who takes it.
        if self._side_scope is not None and self._side_runs:
            self._side_scope.cancel()
        else:
            self._feed.stop()
        self._wake.set()

    async def stop(self, *, unless_in_thread: bool = False) -> None:
        """Stop them and wait for it; with `unless_in_thread` not for what can't be interrupted."""
        if self._feed_task is SETTLED:
            return
        if self._side_scope is not None and self._side_runs and self._life.stops_side_task:
            await self._stop_side(self._side_scope)
        self._feed.stop()
        self._start_feed()
        if self._feed_task is STARTED:
            # Its task begins in the next turn, unless it was cancelled before that, as by the
            # end of `asyncio.run`. Then the feed is closed here.
            await let_tasks_begin()
            if self._feed_task is STARTED:
                await self._run_feed()
        while self._feed_task is RUNNING:
            if unless_in_thread and self._feed.thread is not None:
                return
            await self._wake
        self._feed_task = SETTLED

    async def stop_within(self, seconds: float) -> None:
        """Wait for a step in a thread so long, and no longer."""
        with anyio.move_on_after(seconds):
            await self.stop()
        if self._feed_task is not SETTLED:
            self._feed.release()

    async def settle(self) -> None:
        """Stop them, if that hasn't been done, whatever cancels the calling task."""
        if self._feed_task is not SETTLED:
            with anyio.CancelScope(shield=True):
                await self.stop()

    def abandon(self) -> None:
        """Don't wait for them any more: the loop was closed, and nothing runs there."""
        self._feed_task = SETTLED

    def _start_feed(self) -> None:
        if self._feed_task is NONE and self._feed.has_work:
            self._feed_task = STARTED
            self._tasks.start_soon(self._run_feed)

    async def _run_feed(self) -> None:
        self._feed_task = RUNNING
        try:
            await self._feed.run_noting_first_wait(self._loop, self._note_first_wait)
        finally:
            self._feed_task = max(self._feed_task, DONE)
            self._wake.set()

    def _note_first_wait(self) -> None:
        self._to_begin -= 1
        if self._to_begin == 0:
            self._watcher.set()

    @property
    def _side_runs(self) -> bool:
        return NONE < self._side_task < DONE

    async def _run_side(self, side: Callable[[], Awaitable[object]], scope: CancelScope) -> None:
        self._side_task = max(self._side_task, RUNNING)
        try:
            with scope:
                await self._loop.run_noting_first_wait(_awaited(side), self._note_first_wait)
        except Exception as exc:
            self._side_task = DONE
            if self._life.reason is None and not self._feed.ended:
                self.end("error", exc)
            elif not isinstance(exc, (anyio.BrokenResourceError, anyio.ClosedResourceError)):
                # Those two only say that the source has been closed, which is no news.
                logger.exception(
                    "%r raised when its stream had ended",
                    side,
                    extra={"sse_event": "side_task_failed", "sse_reason": self._life.reason},
                )
        finally:
            self._side_task = DONE
            if self._life.reason is not None:
                self._feed.stop()
            self._wake.set()

    async def _stop_side(self, scope: CancelScope) -> None:
        """Cancel the side task, and let it have its cleanup."""
        scope.cancel()
        if self._side_task is STARTED:
            await let_tasks_begin()
        with anyio.move_on_after(self._cleanup_timeout):
            while self._side_task is RUNNING:
                await self._wake
        self._side_task = DONE


async def _awaited(call: Callable[[], Awaitable[object]]) -> None:
    outcome: object = call()
    if not isawaitable(outcome):
        raise TypeError(
            f"data_sender_callable {call!r} has returned {type(outcome).__name__}: it runs beside the stream, "
            "so it must be an async function."
        )
    await outcome


async def let_tasks_begin() -> None:
    """Let the loop begin the tasks that it was asked for, but for those that were cancelled before."""
    await anyio.lowlevel.checkpoint()
    await anyio.lowlevel.checkpoint()
