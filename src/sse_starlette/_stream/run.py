"""One run of a response: a feed, the one writer that empties it, and whatever may end it.

Invariants a change must keep:
- At most one `send` is under way; one task of the stream's own sends, and nothing else does.
- The body is completed in every ending, unless the transport has failed or the client has gone.
- However the stream ends, the feed is stopped and `Feed.run` has returned before `run` does, and the
  callbacks have run, once each.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from functools import partial
from inspect import isawaitable
from typing import TYPE_CHECKING, Literal, TypeAlias

import anyio
import anyio.lowlevel

from .._shutdown import stream_begins, stream_ended
from ..errors import SendTimeoutError
from .receive import until_body_is_read, until_disconnect

if TYPE_CHECKING:
    from starlette.types import Message, Receive, Send

    from .._runtime.loop import Alarm, Loop
    from .feed import Feed

logger = logging.getLogger("sse_starlette.sse")

CloseReason: TypeAlias = Literal[
    "end", "client", "error", "timeout", "shutdown", "cancelled", "lagging"
]
"""
Why a stream ended:

- `"end"`: the source had no more events.
- `"client"`: the client went away.
- `"error"`: the source, a callback that makes events, or the server's `send` raised.
- `"timeout"`: one send took longer than `send_timeout`.
- `"shutdown"`: the server is going down.
- `"cancelled"`: the server or a surrounding cancel scope cancelled the response.
- `"lagging"`: the client read more slowly than its channel was published to.
"""

_LAST_CHUNK_SECONDS = 1.0
"""How long a response that is to end waits for a client that doesn't take what is being sent."""
_CANCELLED_SECONDS = 0.3
"""The same for a response that was cancelled: whoever cancels waits for it."""


class Stream:
    """Sends what a feed has to one client, from the first header to the last chunk."""

    # There may be ten thousand of them, and a dict for so many attributes takes more than a kilobyte.
    __slots__ = (
        "__weakref__",
        "_alarm",
        "_begun",
        "_being",
        "_beside",
        "_beside_begun",
        "_beside_runs",
        "_body_is_due",
        "_called",
        "_cleanup_timeout",
        "_completed",
        "_drain_alarm",
        "_draining",
        "_error_frame",
        "_failure",
        "_farewell_frame",
        "_feed_begun",
        "_feed_done",
        "_feed_error_seen",
        "_feed_running",
        "_feed_stopped",
        "_finished",
        "_first_event_timeout",
        "_gone",
        "_grace",
        "_handling",
        "_last_frame",
        "_listens",
        "_on_draining",
        "_over",
        "_ping_due",
        "_ping_frame",
        "_ping_interval",
        "_producing",
        "_receive",
        "_send",
        "_send_timeout",
        "_sending",
        "_sending_since",
        "_sent_at",
        "_standing_by",
        "_start",
        "_start_alone",
        "_started",
        "_tasks",
        "_timed_out",
        "_timeout_alarm",
        "_timeout_set",
        "_to_begin",
        "_wake",
        "_watching",
        "_writing",
        "disconnected",
        "feed",
        "loop",
        "reason",
    )

    def __init__(
        self,
        feed: Feed,
        loop: Loop,
        receive: Receive,
        send: Send,
        start: Message,
        *,
        start_alone: bool = True,
        ping_interval: float,
        ping_frame: Callable[[], bytes],
        error_frame: Callable[[Exception], Awaitable[bytes]] | None,
        send_timeout: float | None,
        first_event_timeout: float | None,
        beside: Callable[[], Awaitable[object]] | None,
        on_draining: Callable[[], None],
        grace: float,
        farewell_frame: Callable[[], bytes],
        cleanup_timeout: float | None,
        body_is_due: bool,
    ) -> None:
        """
        Put a stream together; nothing happens before `run`.

        Args:
            feed: what to send. The stream opens, runs and stops it.
            loop: the loop that `run` will run on.
            receive: ASGI's receive.
            send: ASGI's send.
            start: the `http.response.start` message.
            start_alone: whether `start` leaves by itself; if not, an empty chunk is sent after it.
            ping_interval: seconds of silence after which a ping is sent; 0: never.
            ping_frame: makes a ping.
            error_frame: makes the last frame out of an exception, which is thereby dealt with; None:
                the exception leaves `run` once the body is complete.
            send_timeout: seconds that one send may take; None: any time.
            first_event_timeout: seconds to wait for the first frame before `start` is sent; None: none.
            beside: runs as long as the stream does, at the most.
            on_draining: called when the stream is asked to end by itself.
            grace: seconds it then has for that, unless the request names others.
            farewell_frame: makes the last frame of a stream that was ended so; it may be empty.
            cleanup_timeout: seconds that `error_frame` has, and `beside` once it's cancelled; None: any
                time. The feed's time is the feed's affair.
            body_is_due: whether the feed or `beside` may want to read the request's body.
        """
        self.feed = feed
        self.reason: CloseReason | None = None
        """Why the stream ends; None as long as it doesn't."""
        self.disconnected: Message | None = None
        """The server's message that the client has gone."""

        self.loop = loop
        """The loop the stream runs on."""
        self._receive = receive
        self._send = send
        self._start = start
        self._start_alone = start_alone
        self._ping_interval = ping_interval
        self._ping_frame = ping_frame
        self._error_frame = error_frame
        self._send_timeout = send_timeout
        self._first_event_timeout = first_event_timeout
        self._beside = beside
        self._on_draining = on_draining
        self._grace = grace
        self._farewell_frame = farewell_frame
        self._cleanup_timeout = cleanup_timeout
        self._body_is_due = body_is_due

        self._wake = loop.standby()
        self._standing_by = False
        self._called = False
        self._tasks = loop.tasks()
        # The task that called `run` waits for the client to leave; a task of its own writes. Not the
        # other way round: each wake-up would go through all that an application is wrapped in.
        self._watching = loop.cut()
        self._listens = False
        self._gone = False
        self._finished = loop.wake_up()
        self._being = loop.cut()
        self._writing = loop.cut()
        self._producing = loop.cut()
        self._alarm: Alarm | None = None
        self._failure: Exception | None = None
        self._handling = False
        self._last_frame = b""
        self._to_begin = 0
        self._beside_runs = False
        self._beside_begun = False
        self._feed_error_seen = False
        self._feed_running = False
        self._feed_begun = False
        self._feed_done = False
        self._feed_stopped = False
        self._started = False
        self._completed = False
        self._sending = False
        self._sent_at = 0.0
        self._ping_due = False
        self._drain_alarm: Alarm | None = None
        self._timeout_alarm: Alarm | None = None
        self._sending_since = 0.0
        self._timed_out = False
        self._timeout_set = False
        self._draining = False
        self._begun = False
        self._over = False

    @property
    def started(self) -> bool:
        """Whether the headers have been sent."""
        return self._started

    def drain(self, delay: float, grace: float | None, *, automatic: bool) -> None:
        """
        Let the stream end by itself.

        Args:
            delay: seconds before it's asked to.
            grace: seconds it has from then on; None: what it was made with.
            automatic: whether a request that came before this one counts for more.
        """
        if self._over:
            return  # It ended while the request was on its way.
        if self.reason is not None:
            self._ring_in(_LAST_CHUNK_SECONDS)
            return
        if automatic and self._drain_alarm is not None:
            return
        if grace is not None:
            self._grace = grace
        if delay <= 0:
            self._begin_draining()
        else:
            self._ring_in(delay + self._grace if self._draining else delay)

    def end(self, reason: CloseReason, failure: Exception | None = None) -> None:
        """Let the stream end. The first reason stays."""
        if self.reason is not None:
            return
        self.reason = reason
        self._failure = failure
        self._stop_sources()
        self._wake.set()

    def _begin_draining(self) -> None:
        if not self._draining:
            self._draining = True
            self._on_draining()
        if self._grace > 0:
            self._ring_in(self._grace)
        else:
            self._finish_draining()

    def _finish_draining(self) -> None:
        self.end("shutdown")
        self._ring_in(_LAST_CHUNK_SECONDS)

    def _ring_in(self, seconds: float) -> None:
        if self._drain_alarm is None:
            self._drain_alarm = self.loop.alarm(self._on_drain_alarm, self._tasks)
        self._drain_alarm.set(self.loop.time() + seconds)

    def _on_drain_alarm(self) -> None:
        if self.reason is None:
            if self._draining:
                self._finish_draining()
            else:
                self._begin_draining()
        elif not self._over:
            # The server waits. What is being sent has its second, whenever it began.
            left = self._sending_since + _LAST_CHUNK_SECONDS - self.loop.time()
            if self._sending and left <= 0:
                self._writing.cancel()
            elif self._sending:
                self._ring_in(left)
            else:
                # Its client may have left long ago, while the source was at a step that never ends.
                self.feed.let_go()
                self._ring_in(_LAST_CHUNK_SECONDS)

    async def run(self, *, head: bool = False) -> None:
        """
        Send the response; with `head` only its headers, and the feed is closed without being started.

        If it is cancelled, the body is completed and the feed closed before the cancellation goes on.

        Raises:
            SendTimeoutError: a send took longer than `send_timeout`.
            Exception: what the feed, `send` or `beside` raised, as it was raised.
        """
        self.feed.open(self._go_on)
        self._listens = head
        async with self._tasks:
            self._tasks.start_soon(partial(self._write_and_close, head=head))
            try:
                with self._watching:
                    # A source may want to read the request, and comes first.
                    while not self._listens and not self._over:
                        await self._finished
                    # It may be over before it could be told, with an eager task factory.
                    if not self._over:
                        await self._watch_for_disconnect()
                while not self._over:
                    await self._finished
            except GeneratorExit:
                raise  # The loop was closed in mid-stream: nobody would run what is awaited here.
            except anyio.get_cancelled_exc_class():
                self._being.cancel()
                with anyio.CancelScope(shield=True):
                    await self._see_to_the_end(head=head)
                # What a scope of anyio has cancelled has to end with the exception that it knows.
                await anyio.lowlevel.checkpoint_if_cancelled()
                raise
        if self._failure is not None:
            raise self._failure

    async def _see_to_the_end(self, *, head: bool) -> None:
        if not self._begun:
            # Its task begins in the next turn, unless it was cancelled before that, as by the end of
            # `asyncio.run`. Then the rest is done here.
            await _let_tasks_begin()
        if not self._begun:
            self.end("cancelled")
            await self._write_and_close(head=head)
        self._being.cancel()
        while not self._over:
            await self._finished

    async def _write_and_close(self, *, head: bool) -> None:
        self._begun = True
        with self._being:
            try:
                stream_begins(self)
                await self._write(head=head)
            except GeneratorExit:
                self._feed_stopped = True
                raise
            except anyio.get_cancelled_exc_class():
                self.end("cancelled")
                with anyio.CancelScope(shield=True):
                    try:
                        await self._stop_feed(unless_in_thread=True)
                        await self._error_is_handled()
                    finally:
                        with anyio.move_on_after(_CANCELLED_SECONDS):
                            await self._complete_quietly()
                    await self._leave_thread(_CANCELLED_SECONDS)
                raise
            finally:
                try:
                    if not self._feed_stopped:
                        with anyio.CancelScope(shield=True):
                            await self._stop_feed()
                finally:
                    # No shield holds off asyncio's own cancellation, which may come here and above.
                    self._over = True
                    stream_ended(self)
                    for alarm in (self._alarm, self._drain_alarm, self._timeout_alarm):
                        if alarm is not None:
                            alarm.stop()
                    self._alarm = None  # On trio it may ring after it has been stopped.
                    if self.feed.error is not None and not self._feed_error_seen:
                        self._log_unseen(self.feed.error)
                    self._finished.set()
                    self._watching.cancel()
                    self._tasks.cancel()

    async def _write(self, *, head: bool) -> None:
        try:
            with self._writing:
                if not head and self.reason is None:
                    await self._open()
                    await self._write_frames()
                if self.reason is None:
                    self.reason = "shutdown" if self._draining else self.feed.close_reason or "end"
                await self._stop_feed(unless_in_thread=True)
                if self.reason == "shutdown":
                    with anyio.move_on_after(_LAST_CHUNK_SECONDS):
                        await self._complete()
                    await self._leave_thread(_LAST_CHUNK_SECONDS)
                else:
                    await self._complete()
            if self._timed_out:
                raise SendTimeoutError(self._send_timeout)
        except SendTimeoutError as exc:
            self._fail("timeout", exc)
        except OSError:
            # ASGI's HTTP specification, "Disconnected Client": a server may say so in `send`.
            self.disconnected = {"type": "http.disconnect"}
            self._fail("client")
        except Exception as exc:
            self._fail("error", exc)

    def _fail(self, reason: CloseReason, failure: Exception | None = None) -> None:
        """Let the stream end because a send has failed, even if it was about to end well."""
        self._completed = True
        if self.reason == "end":
            self.reason = None
        self.end(reason, failure)
        if self._failure is None and self.disconnected is None:
            self._failure = failure

    def _log_unseen(self, error: Exception) -> None:
        # A source is cancelled from within too when its whole loop is: that's nobody's mistake.
        if self.reason != "cancelled":
            logger.error(
                "the source had failed when its stream ended (%s)", self.reason, exc_info=error
            )

    async def _open(self) -> None:
        """Send the headers: at once, or when the first frame is there, or when that takes too long."""
        # With the response, and not when the server has taken its headers: that may take long.
        self._start_sources()
        if self._first_event_timeout is None:
            await self._send_start()
        else:
            first = b""
            with anyio.move_on_after(self._first_event_timeout):
                while self.reason is None:
                    first = self.feed.take()
                    if first or self.feed.ended:
                        break
                    await self._wake
            if self.reason is not None or (not first and self.feed.error is not None):
                return
            await self._send_start()
            if first:
                await self._send_frames(first)
                self.feed.sent()
        if self._ping_interval:
            self._alarm = self.loop.alarm(self._on_alarm, self._tasks)
            self._alarm.set(self._sent_at + self._ping_interval)

    async def _write_frames(self) -> None:
        while self.reason is None:
            await self._send_what_is_due()
            if self.reason is not None:
                return
            if not self.feed.ended:
                self._standing_by = True
                await self._wake
                self._standing_by = False
            elif self.feed.error is not None:
                self._feed_error_seen = True
                self.end("error", self.feed.error)
            else:
                return

    async def _send_what_is_due(self) -> None:
        """Send frames and pings as long as there are any; done by the writer, or in its name."""
        feed, send = self.feed, self._send
        while self.reason is None:
            self._called = False
            if frames := feed.take():
                # What _send_frames does; without its calls, for this is done for each event.
                self._sending = True
                if self._send_timeout is not None:
                    self._bound_send(self._send_timeout)
                await send({"type": "http.response.body", "body": frames, "more_body": True})
                self._sending = self._ping_due = False
                self._sent_at = self.loop.time()
                feed.sent()
                if feed.drained and not self._called:
                    return
            elif self._ping_due and not feed.unfinished:
                try:
                    ping = self._ping_frame() + feed.ping()
                except Exception as exc:
                    self.end("error", exc)
                else:
                    await self._send_frames(ping)
            else:
                return

    def _go_on(self) -> None:
        """Send what is due, in the name of the writer if it only stands by; else wake it."""
        self._called = True
        if self._standing_by:
            # Not also for what happens in that send.
            self._standing_by = False
            if self._wake.act(self._send_what_is_due):
                self._standing_by = True
                if self.reason is None and not self.feed.ended:
                    return
        self._wake.set()

    async def _complete(self) -> None:
        """Send what belongs at the end of the body, once."""
        if self._completed or self.disconnected is not None:
            return
        if not self._started:
            if self.reason in ("error", "cancelled"):
                return  # Nothing has been said yet, so the server or a handler may still say it better.
            await self._send_start()
        if frames := self.feed.take():
            await self._send_frames(frames)
        if self._failure is not None and self._error_frame is not None:
            self._handle_error(self._failure, self._error_frame)
        await self._error_is_handled()
        if frame := self._last_frame:
            self._last_frame = b""
            await self._send_frames(self.feed.finish_event() + frame)
        # A server may lose its patience, and cancel, before the grace is over.
        if self.reason == "shutdown" or (self.reason == "cancelled" and self._draining):
            await self._say_farewell()
        self._completed = True
        await self._send_message({"type": "http.response.body", "body": b"", "more_body": False})

    async def _complete_quietly(self) -> None:
        try:
            await self._complete()
        except Exception:
            logger.debug("the body of a cancelled response could not be completed", exc_info=True)

    def _handle_error(
        self, failure: Exception, error_frame: Callable[[Exception], Awaitable[bytes]]
    ) -> None:
        """Have the last frame made, in a task of its own: no other ending is to cut that short."""
        self._error_frame = None
        self._handling = True
        self._tasks.start_soon(self._make_last_frame, failure, error_frame)

    async def _make_last_frame(
        self, failure: Exception, error_frame: Callable[[Exception], Awaitable[bytes]]
    ) -> None:
        try:
            with anyio.move_on_after(self._cleanup_timeout, shield=True) as time:
                self._last_frame = await error_frame(failure)
        except Exception as exc:
            if exc is not failure:
                logger.exception("on_error raised")
        else:
            self._failure = None
            if time.cancelled_caught:
                logger.warning(
                    "on_error was cut short after %s s (cleanup_timeout); it was to handle %r",
                    self._cleanup_timeout,
                    failure,
                )
        finally:
            self._handling = False
            self._wake.set()

    async def _error_is_handled(self) -> None:
        while self._handling:
            await self._wake

    async def _say_farewell(self) -> None:
        try:
            frame = self._farewell_frame()
        except Exception:
            logger.exception("the farewell event could not be made")
            return
        if frame:
            await self._send_frames(self.feed.finish_event() + frame)

    async def _send_start(self) -> None:
        self._started = True
        start, self._start = self._start, {}
        await self._send_message(start)
        if not self._start_alone:
            await self._send_message({"type": "http.response.body", "body": b"", "more_body": True})
        self._sent_at = self.loop.time()

    async def _send_frames(self, frames: bytes) -> None:
        await self._send_message({"type": "http.response.body", "body": frames, "more_body": True})
        self._ping_due = False
        self._sent_at = self.loop.time()

    async def _send_message(self, message: Message) -> None:
        if self._gone:
            return
        self._sending = True
        self._sending_since = self.loop.time()
        if self._send_timeout is not None:
            self._bound_send(self._send_timeout)
        await self._send(message)
        self._sending = False

    def _bound_send(self, timeout: float) -> None:
        """Have the send that begins now cut off when it takes too long."""
        # One alarm for as many sends as there are: it looks since when the last one has been waiting.
        self._sending_since = self.loop.time()
        if self._timeout_alarm is None:
            self._timeout_alarm = self.loop.alarm(self._on_timeout, self._tasks)
        if not self._timeout_set:
            self._timeout_set = True
            self._timeout_alarm.set(self._sending_since + timeout)

    def _on_timeout(self) -> None:
        self._timeout_set = False
        if self._sending and self._send_timeout is not None and self._timeout_alarm is not None:
            until = self._sending_since + self._send_timeout
            if until <= self.loop.time():
                self._timed_out = True
                self._writing.cancel()
            else:
                self._timeout_set = True
                self._timeout_alarm.set(until)

    def _on_alarm(self) -> None:
        now, interval = self.loop.time(), self._ping_interval
        # While something is being sent, the client takes nothing; a ping would only wait in the same line.
        if not self._sending and self._sent_at + interval <= now:
            self._ping_due = True
            self._go_on()
        if self._alarm is not None:
            silent_since = self._sent_at
            self._alarm.set((silent_since if silent_since + interval > now else now) + interval)

    async def _watch_for_disconnect(self) -> None:
        try:
            if self._body_is_due:
                await until_body_is_read(self._receive, self._has_begun)
            message = await until_disconnect(self._receive)
        except Exception as exc:
            self.end("error", exc)
        else:
            self._gone = True
            if self.reason is None:
                self.disconnected = message
            self.end("client")
            if self._sending:
                self._writing.cancel()

    def _has_begun(self) -> bool:
        return self.feed.has_begun

    # What feeds the stream: the feed, and what runs beside it.

    def _start_sources(self) -> None:
        """Start what may want to read the request; it's watched when each has come to where it waits."""
        self._beside_runs = self._beside is not None
        self._to_begin = self.feed.has_work + self._beside_runs
        if not self._to_begin:
            self._begin_listening()
        self._start_feed()
        if self._beside is not None:
            self._tasks.start_soon(self._run_beside, self._beside)

    def _begin_listening(self) -> None:
        self._listens = True
        self._finished.set()

    def _note_first_wait(self) -> None:
        self._to_begin -= 1
        if self._to_begin == 0:
            self._begin_listening()

    def _stop_sources(self) -> None:
        # First who fills the source: what is handed over then still has somebody who takes it.
        if self._beside_runs:
            self._producing.cancel()
        else:
            self.feed.stop()

    async def _run_beside(self, beside: Callable[[], Awaitable[object]]) -> None:
        self._beside_begun = True
        try:
            with self._producing:
                await self.loop.run_noting_first_wait(_awaited(beside), self._note_first_wait)
        except Exception as exc:
            self._beside_runs = False
            if self.reason is None and not self.feed.ended:
                self.end("error", exc)
            elif not isinstance(exc, (anyio.BrokenResourceError, anyio.ClosedResourceError)):
                # Those two only say that the source has been closed, which is no news.
                logger.exception("%r raised when its stream had ended", beside)
        finally:
            self._beside_runs = False
            if self.reason is not None:
                self.feed.stop()
            self._wake.set()

    def _start_feed(self) -> None:
        if not self._feed_running and self.feed.has_work:
            self._feed_running = True
            self._tasks.start_soon(self._run_feed)

    async def _run_feed(self) -> None:
        self._feed_begun = True
        try:
            await self.loop.run_noting_first_wait(self.feed.run(), self._note_first_wait)
        finally:
            self._feed_done = True
            self._wake.set()

    async def _stop_beside(self) -> None:
        """Cancel what runs beside the feed, and let it have its cleanup."""
        self._producing.cancel()
        if not self._beside_begun:
            await _let_tasks_begin()
        if self._beside_begun:
            with anyio.move_on_after(self._cleanup_timeout):
                while self._beside_runs:
                    await self._wake
        self._beside_runs = False

    async def _stop_feed(self, *, unless_in_thread: bool = False) -> None:
        """Stop what feeds the stream; with `unless_in_thread`, don't wait for what can't be interrupted."""
        if not self._feed_stopped:
            if self._beside_runs and self.reason not in ("end", "lagging"):
                await self._stop_beside()
            self.feed.stop()
            self._start_feed()
            if self._feed_running and not self._feed_begun:
                # Its task begins in the next turn, unless it was cancelled before that, as by the
                # end of `asyncio.run`. Then the feed is closed here.
                await _let_tasks_begin()
                if not self._feed_begun:
                    await self._run_feed()
            while self._feed_running and not self._feed_done:
                if unless_in_thread and self.feed.thread is not None:
                    return
                await self._wake
            self._feed_stopped = True

    async def _leave_thread(self, seconds: float) -> None:
        """Wait for a step in a thread so long, and no longer."""
        with anyio.move_on_after(seconds):
            await self._stop_feed()
        if not self._feed_stopped:
            self.feed.let_go()


async def _awaited(call: Callable[[], Awaitable[object]]) -> None:
    outcome: object = call()
    if not isawaitable(outcome):
        raise TypeError(
            f"data_sender_callable {call!r} has returned {type(outcome).__name__}: it runs beside the stream, "
            "so it must be an async function."
        )
    await outcome


async def _let_tasks_begin() -> None:
    await anyio.lowlevel.checkpoint()
    await anyio.lowlevel.checkpoint()
