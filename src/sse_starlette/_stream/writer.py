"""The one writer of a stream: what is sent when, from the headers to the last chunk.

What a change here must keep: at most one `send` is under way, and nothing else of a stream sends.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import anyio

from ..observe import stream_completes
from .error_event import ErrorEvent
from .feed import offer_nobody
from .lifecycle import COMPLETE
from .send_timeout import SendTimeout

if TYPE_CHECKING:
    from starlette.types import Message, Send

    from .._runtime.loop import EagerRunner, Timer
    from ..observe import StreamRecord
    from .context import StreamContext
    from .producers import Producers

logger = logging.getLogger("sse_starlette.sse")


_BODY: dict[str, Any] = {"type": "http.response.body", "body": b"", "more_body": True}
_SENT: Message = {}
"""Stands in for the headers once they have been sent."""


class Writer:
    """Sends what the feed of one stream has, pings while it has nothing, and what belongs at the end."""

    __slots__ = (
        "_called",
        "_error_event",
        "_feed",
        "_life",
        "_loop",
        "_options",
        "_ping_alarm",
        "_ping_due",
        "_producers",
        "_record",
        "_send",
        "_sent_at",
        "_standing_by",
        "_start",
        "_tasks",
        "_timeout",
        "_wake",
        "scope",
        "sending",
        "sending_since",
    )

    def __init__(
        self,
        context: StreamContext,
        producers: Producers,
        *,
        send: Send,
        start: Message,
        wake: EagerRunner,
        record: StreamRecord | None,
    ) -> None:
        """
        Put the writer together; nothing is sent before `open`.

        Args:
            context: of the stream.
            producers: what is started before anything is sent, and ended by what fails here.
            send: ASGI's send.
            start: the `http.response.start` message.
            wake: where the writer's task waits.
            record: where what is sent is counted; None: nowhere.
        """
        self._feed = context.feed
        self._life = context.life
        self._options = context.options
        self._loop = context.loop
        self._tasks = context.tasks
        self._producers = producers
        self._send = send
        self._start = start
        self._wake = wake
        self._record = record
        self._standing_by = False
        self._called = False

        self.scope = self._loop.cancel_scope()
        """What is cancelled to call a send off."""
        self.sending = False
        self.sending_since = 0.0
        self._sent_at = 0.0
        self._ping_due = False
        self._ping_alarm: Timer | None = None
        seconds = self._options.send_timeout
        self._timeout = (
            None
            if seconds is None
            else SendTimeout(context, seconds, self.scope, self._since_of_what_is_sent)
        )
        self._error_event = None if self._options.on_error is None else ErrorEvent(context)

    @property
    def started(self) -> bool:
        """Whether the headers have been sent."""
        return self._start is _SENT

    async def open(self) -> None:
        """Send the headers: at once, or when the first frame is there, or when that takes too long."""
        self._feed.offer = self.offer
        # With the response, and not when the server has taken its headers: that may take long.
        self._producers.start()
        if self._options.first_event_timeout is None:
            await self._send_start()
        else:
            first = b""
            with anyio.move_on_after(self._options.first_event_timeout):
                while self._life.reason is None:
                    first = self._feed.take()
                    if first or self._feed.ended:
                        break
                    await self._wake
            if self._life.reason is not None or (not first and self._feed.error is not None):
                return
            await self._send_start()
            if first:
                await self._send_frames(first)
                self._feed.sent()
        if self._options.ping_interval:
            self._ping_alarm = self._loop.timer(self._on_ping_alarm, self._tasks)
            self._ping_alarm.set(self._sent_at + self._options.ping_interval)

    async def write_frames(self) -> None:
        """Send frames and pings until the feed has ended, or the stream is to end."""
        life, feed = self._life, self._feed
        while life.reason is None:
            await self._send_what_is_due()
            if life.reason is not None:
                return
            if not feed.ended:
                self._standing_by = True
                await self._wake
                self._standing_by = False
                if self.sending:  # What was offered had to wait.
                    self._note_sent()
                    feed.sent()
            elif feed.error is not None:
                self._producers.end_by_error()
            else:
                return

    async def _send_what_is_due(self, _: None = None) -> None:
        """Send frames and pings as long as there are any; done by the writer, or in its name."""
        life, feed, send = self._life, self._feed, self._send
        while life.reason is None:
            self._called = False
            if frames := feed.take():
                # What _send_frames does; without its calls, for this is done for each event.
                self.sending = True
                if self._timeout is not None:
                    self.sending_since = self._timeout.begin()
                if self._record is not None:
                    self._count(frames)
                await send({"type": "http.response.body", "body": frames, "more_body": True})
                self._note_sent()
                feed.sent()
                if feed.drained and not self._called:
                    return
            elif self._ping_due and not feed.unfinished:
                try:
                    ping = self._options.ping_frame() + feed.ping()
                except Exception as exc:
                    self._producers.end("error", exc)
                else:
                    await self._send_frames(ping)
            else:
                return

    def offer(self, frame: bytes, now: float, caller: object) -> bool | None:
        """Send a frame that comes alone, in the name of the writer if it only stands by; see `Feed.offer`."""
        if not self._standing_by or self._life.reason is not None:
            return False
        self._standing_by = False
        # Of its own: what is around `send` may change it. A copy takes half as long as a dict that is built.
        message = _BODY.copy()
        message["body"] = frame
        if self._wake.run_eagerly(caller, self._send, message):
            self._sent_at = now
            self._ping_due = False
            self._standing_by = True
            if self._record is not None:
                # Not by a `send` that counts: its call would cost each event three times as much.
                self._record.sends += 1
                self._record.sent_bytes += len(frame)
            return True
        self.sending = self._wake.busy
        if self.sending and self._timeout is not None:
            self.sending_since = self._timeout.begin()
        self._wake.set()
        if not self.sending:
            return False
        self._count(frame)
        return None

    def go_on(self) -> None:
        """Send what is due, in the name of the writer if it only stands by; else wake it."""
        self._called = True
        if self._standing_by and not self._feed.ended and self._loop.is_current():
            # Not also for what happens in that send.
            self._standing_by = False
            if self._wake.run_eagerly(self._loop.current_task(), self._send_what_is_due, None):
                self._standing_by = True
                if self._life.reason is None and not self._feed.ended:
                    return
        self._wake.set()

    async def complete(self) -> None:
        """Send what belongs at the end of the body, once."""
        if not self._life.completes_body(started=self.started):
            return
        if not self.started:
            await self._send_start()
        if self._life.sends_what_is_ready and (frames := self._feed.take()):
            await self._send_frames(frames)
        if self._error_event is not None:
            self._error_event.start(self._tasks, self._wake)
            await self._error_event.wait(self._wake)
            if frame := self._error_event.take():
                await self._send_frames(self._feed.finish_event() + frame)
        if self._life.says_farewell:
            await self._say_farewell()
        self._life.phase = COMPLETE
        if self._record is not None:
            stream_completes(self._record, self._life.reason)
        await self._send_message({"type": "http.response.body", "body": b"", "more_body": False})

    async def complete_quietly(self) -> None:
        """Do so in a response that was cancelled, where the cancellation is what counts."""
        try:
            await self.complete()
        except Exception:
            logger.debug(
                "the body of a cancelled response could not be completed",
                exc_info=True,
                extra={"sse_event": "body_incomplete"},
            )

    async def until_error_is_handled(self) -> None:
        """Wait for the last event of a stream that has failed, if it is being made."""
        if self._error_event is not None:
            await self._error_event.wait(self._wake)

    async def _say_farewell(self) -> None:
        try:
            frame = self._options.last_frame(self._life.reason)
        except Exception:
            logger.exception(
                "the farewell event could not be made",
                extra={"sse_event": "farewell_failed", "sse_reason": self._life.reason},
            )
            return
        if frame:
            await self._send_frames(self._feed.finish_event() + frame)

    async def _send_start(self) -> None:
        start, self._start = self._start, _SENT
        await self._send_message(start)
        if not self._options.start_alone:
            await self._send_message({"type": "http.response.body", "body": b"", "more_body": True})
        self._sent_at = self._loop.time()

    async def _send_frames(self, frames: bytes) -> None:
        if not self._life.client_gone:
            self._count(frames)
        await self._send_message({"type": "http.response.body", "body": frames, "more_body": True})
        self._note_sent()

    def _count(self, frames: bytes) -> None:
        if self._record is not None:
            self._record.sends += 1
            self._record.sent_bytes += len(frames)

    def _note_sent(self) -> None:
        self.sending = self._ping_due = False
        self._sent_at = self._loop.time()

    async def _send_message(self, message: Message) -> None:
        if self._life.client_gone:
            return
        self.sending = True
        self.sending_since = self._loop.time() if self._timeout is None else self._timeout.begin()
        await self._send(message)
        self.sending = False

    def _since_of_what_is_sent(self) -> float | None:
        return self.sending_since if self.sending else None

    def check_timeout(self) -> None:
        """
        Tell behind `scope` whether it was cancelled because a send took too long.

        Raises:
            SendTimeoutError: it was.
        """
        if self._timeout is not None:
            self._timeout.check()

    def _on_ping_alarm(self) -> None:
        now, interval = self._loop.time(), self._options.ping_interval
        # While something is being sent, the client takes nothing; a ping would only wait in the same line.
        if not self.sending and self._sent_at + interval <= now:
            self._ping_due = True
            self.go_on()
        if self._ping_alarm is not None:
            since = self._sent_at if self._sent_at + interval > now else now
            self._ping_alarm.set(since + interval)

    def close(self) -> None:
        """Stop the timers. Nothing is sent from now on."""
        self._feed.offer = offer_nobody
        if self._timeout is not None:
            self._timeout.close()
        if self._ping_alarm is not None:
            self._ping_alarm.stop()
            self._ping_alarm = None  # On trio it may ring after it has been stopped.
