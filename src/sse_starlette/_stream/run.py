"""One run of a response: puts its parts together, watches for what ends it, and sees them all to their end.

Invariants a change must keep:
- At most one `send` is under way; one task of the stream's own sends, and nothing else does.
- The body is completed in every ending, unless the transport has failed or the client has gone.
- However the stream ends, the feed is stopped and `Feed.run` has returned before `run` does.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import anyio
import anyio.lowlevel

from .._shutdown.streams import stream_begins, stream_ended
from ..errors import SendTimeoutError
from .context import StreamContext
from .drain import Drain
from .lifecycle import OVER
from .producers import Producers, let_tasks_begin
from .receive import until_body_is_read, until_disconnect
from .tenure import Tenure
from .writer import Writer

if TYPE_CHECKING:
    from starlette.types import Message, Receive, Send

    from .._runtime.loop import Loop
    from ..observe import StreamRecord
    from .feed import Feed
    from .lifecycle import CloseReason
    from .options import StreamOptions


class Stream:
    """Sends what a feed has to one client, from the first header to the last chunk."""

    # There may be ten thousand of them, and a dict for the attributes of each part takes its place.
    __slots__ = (
        "__weakref__",
        "_begun",
        "_being",
        "_context",
        "_drain",
        "_feed",
        "_finished",
        "_options",
        "_producers",
        "_receive",
        "_tasks",
        "_tenure",
        "_watching",
        "_writer",
        "life",
        "listener",
        "loop",
    )

    def __init__(
        self,
        feed: Feed,
        loop: Loop,
        receive: Receive,
        send: Send,
        start: Message,
        options: StreamOptions,
        record: StreamRecord | None = None,
    ) -> None:
        """
        Put a stream together; nothing happens before `run`.

        Args:
            feed: what to send. The stream opens, runs and stops it.
            loop: the loop that `run` will run on.
            receive: ASGI's receive.
            send: ASGI's send.
            start: the `http.response.start` message.
            options: what its caller asked for.
            record: where what is sent is counted; None: nowhere.
        """
        self.listener: str | None = options.who
        """Who listens."""
        self._context = context = StreamContext(feed, options, loop)
        self.life = context.life
        """What has become of it."""
        self.loop = loop
        """The loop the stream runs on."""
        self._feed = feed
        self._receive = receive
        self._options = options
        self._tasks = context.tasks
        # The task that called `run` waits for the client to leave; a task of its own writes. Not the
        # other way round: each wake-up would go through all that an application is wrapped in.
        self._watching = loop.cancel_scope()
        self._being = loop.cancel_scope()
        self._begun = False
        self._finished = loop.waker()
        wake = loop.eager_runner()
        self._producers = Producers(context, wake=wake, watcher=self._finished)
        self._writer = Writer(
            context, self._producers, send=send, start=start, wake=wake, record=record
        )
        self._drain: Drain | None = None
        self._tenure: Tenure | None = None

    @property
    def started(self) -> bool:
        """Whether the headers have been sent."""
        return self._writer.started

    def drain(self, delay: float, grace: float | None, *, automatic: bool) -> None:
        """
        Let the stream end by itself.

        Args:
            delay: seconds before it's asked to.
            grace: seconds it has from then on; None: what it was made with.
            automatic: whether a request that came before this one counts for more.
        """
        if self.life.phase is not OVER:  # It may have ended while the request was on its way.
            self._the_drain().request(delay, grace, automatic=automatic)

    def end(self, reason: CloseReason, failure: Exception | None = None) -> None:
        """End the stream now, and let its client know why. On its own loop only."""
        if self.life.phase is not OVER:
            self._the_drain().end(reason, failure)

    def _the_drain(self) -> Drain:
        if self._drain is None:
            self._drain = Drain(self._context, self._producers, self._writer)
        return self._drain

    async def run(self, *, head: bool = False, body_is_due: bool = False) -> None:
        """
        Send the response.

        Args:
            head: send its headers alone, and close the feed without starting it.
            body_is_due: the feed or `data_sender_callable` may want to read the request's body.

        If it is cancelled, the body is completed and the feed closed before the cancellation goes on.

        Raises:
            SendTimeoutError: a send took longer than `send_timeout`.
            Exception: what the feed, `send` or the side task raised, as it was raised.
        """
        self._feed.open(self._writer.go_on)
        async with self._tasks:
            self._tasks.start_soon(partial(self._write_and_close, head=head))
            try:
                with self._watching:
                    # A source may want to read the request, and comes first.
                    while not head and not self._producers.have_begun and self.life.phase < OVER:
                        await self._finished
                    # It may be over before it could be told, with an eager task factory.
                    if self.life.phase < OVER:
                        await self._watch_for_disconnect(body_is_due=body_is_due)
                while self.life.phase < OVER:
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
        if self.life.failure is not None:
            raise self.life.failure

    async def _see_to_the_end(self, *, head: bool) -> None:
        if not self._begun:
            # Its task begins in the next turn, unless it was cancelled before that, as by the end of
            # `asyncio.run`. Then the rest is done here.
            await let_tasks_begin()
        if not self._begun:
            self._producers.end("cancelled")
            await self._write_and_close(head=head)
        self._being.cancel()
        while self.life.phase < OVER:
            await self._finished

    async def _write_and_close(self, *, head: bool) -> None:
        self._begun = True
        with self._being:
            try:
                stream_begins(self)
                if self._options.grant.is_limited:
                    self._tenure = Tenure(self._context, self.end)
                await self._write(head=head)
            except GeneratorExit:
                self._producers.abandon()
                raise
            except anyio.get_cancelled_exc_class():
                self._producers.end("cancelled")
                with anyio.CancelScope(shield=True):
                    try:
                        await self._producers.stop(unless_in_thread=True)
                        await self._writer.until_error_is_handled()
                    finally:
                        with anyio.move_on_after(self._options.patience.cancelled):
                            await self._writer.complete_quietly()
                    await self._producers.stop_within(self._options.patience.cancelled)
                raise
            finally:
                try:
                    await self._producers.settle()
                finally:
                    # No shield holds off asyncio's own cancellation, which may come here and above.
                    self.life.phase = OVER
                    stream_ended(self)
                    self._writer.close()
                    if self._drain is not None:
                        self._drain.close()
                    if self._tenure is not None:
                        self._tenure.close()
                    self._producers.log_unseen_error()
                    self._finished.set()
                    self._watching.cancel()
                    self._tasks.cancel()

    async def _write(self, *, head: bool) -> None:
        try:
            with self._writer.scope:
                if not head and self.life.reason is None:
                    await self._writer.open()
                    await self._writer.write_frames()
                self.life.source_ended(self._feed.close_reason)
                await self._producers.stop(unless_in_thread=True)
                if self.life.reason == "shutdown":
                    with anyio.move_on_after(self._options.patience.asked):
                        await self._writer.complete()
                    await self._producers.stop_within(self._options.patience.asked)
                else:
                    await self._writer.complete()
            self._writer.check_timeout()
        except SendTimeoutError as exc:
            ends = self.life.send_failed("timeout", exc)
        except OSError:
            # ASGI's HTTP specification, "Disconnected Client": a server may say so in `send`.
            ends = self.life.send_refused()
        except Exception as exc:
            ends = self.life.send_failed("error", exc)
        else:
            return
        if ends:
            self._producers.cancel()

    async def _watch_for_disconnect(self, *, body_is_due: bool) -> None:
        try:
            if body_is_due:
                await until_body_is_read(self._receive, self._feed_has_begun)
            message = await until_disconnect(self._receive)
        except Exception as exc:
            self._producers.end("error", exc)
        else:
            if self.life.client_left(message):
                self._producers.cancel()
            if self._writer.sending:
                self._writer.scope.cancel()

    def _feed_has_begun(self) -> bool:
        return self._feed.has_begun
