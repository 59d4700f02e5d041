"""Drives one iterable into a feed: first step to close in one task, cancelled once, closed for certain."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterable, AsyncIterator, Iterable
from inspect import isawaitable
from typing import TYPE_CHECKING, cast

import anyio

from .._wire.doubts import doubt
from .batching import HELD_SECONDS
from .content import iterate
from .feed import Feed
from .outbox import Outbox
from .pace import Pace
from .relay import Relay
from .threads import ThreadedIterator

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from .._runtime.loop import Loop

logger = logging.getLogger("sse_starlette.sse")

_SENDS_IN_A_TURN = 4
"""Sends after which the loop gets its turn: a server may see only then that the client has gone, and asyncio
complains in the log of the fifth write after that."""

_BYTES = (bytes, bytearray, memoryview)
_DOUBLED, _BEHIND_DOUBLED = b"data: data:", b"data: data;"
"""How the frames of a source begin that yields the lines of another stream as text."""


class SourceFeed(Feed):
    """The frames of one async or sync iterable, which this feed owns from now on."""

    # `take` takes all, and whoever makes a frame then tells the writer.
    drained: bool = True
    has_begun: bool = False

    def __init__(
        self,
        content: object,
        encode: Callable[[object], bytes],
        loop: Loop,
        *,
        sep: str,
        cleanup_timeout: float | None,
        joins: bool,
    ) -> None:
        """
        Take over `content`; it isn't touched before `run`.

        Args:
            content: an async iterable, or an iterable whose steps run in a worker thread.
            encode: makes a frame of what `content` yields; what it raises ends the feed.
            loop: the loop that `run` will run on.
            sep: what ends a line that a source has left open.
            cleanup_timeout: seconds that the source has for its cleanup; None: no bound.
            joins: whether frames may be held back for each other at all.
        """
        self._content = content
        self._encode = encode
        self._loop = loop
        self._outbox = Outbox(loop.waker())
        self._pace = Pace(loop, self._outbox, joins=joins)
        self._sep = sep
        # None: it has yielded no bytes so far.
        self._relay: Relay | None = None
        self._in_threads: ThreadedIterator | None = None
        self._cleanup_timeout = cleanup_timeout
        self._stopping = False
        self._runner = loop.source_runner(cleanup_timeout)

    def open(self, wake: Callable[[], None]) -> None:
        self._outbox.wake = wake

    def stop(self) -> None:
        self._stopping = True
        self._pace.batching.turn_off()
        self._runner.cancel()

    def take(self) -> bytes:
        outbox = self._outbox
        if not outbox.frames:
            return b""
        self._pace.count(len(outbox.frames))
        frames = outbox.take()
        if frames.startswith(_DOUBLED):
            doubt("frame")
        return frames

    def sent(self) -> None:
        self._outbox.sent()

    @property
    def events(self) -> int:  # type: ignore[override]
        return self._pace.batching.sent

    @property
    def unfinished(self) -> bool:
        return self._relay is not None and self._relay.unfinished

    @property
    def thread(self) -> str | None:
        return None if self._in_threads is None else self._in_threads.stepping_in

    def release(self) -> None:
        threads = self._in_threads
        if threads is not None and threads.stepping_in is not None and not threads.is_released:
            _warn_of_stuck(self._content, self.thread)
            threads.release()

    def finish_event(self) -> bytes:
        return b"" if self._relay is None else self._relay.finish()

    async def run(self) -> None:
        await self._runner.run(self._drive, self._pace)

    def run_noting_first_wait(self, loop: Loop, note: Callable[[], None]) -> Awaitable[None]:  # noqa: ARG002
        self._pace.on_first_wait = note
        # As few coroutines as can be, here and below: each is passed on the way to each event.
        return self._runner.run(self._drive, self._pace)

    async def _drive(self) -> None:
        cancelled = anyio.get_cancelled_exc_class()
        encode, outbox, pace, relay = self._encode, self._outbox, self._pace, self._relay
        frames, batching, now = outbox.frames, pace.batching, pace.time
        offer, clock = self.offer, self._loop.time
        caller = self._loop.current_task()
        size = sends = 0
        turn = 0.0
        iterator: AsyncIterator[object] | None = None
        thrown_away = False
        try:
            if self._stopping:
                return
            iterator = iterate(self._content, self._loop)
            if isinstance(iterator, ThreadedIterator):
                self._in_threads = iterator
            step_on = iterator.__anext__
            step: Awaitable[object] = step_on()
            while True:
                try:
                    value = await step
                except StopAsyncIteration:
                    if relay is not None and relay.unfinished:
                        relay.tell()
                    return
                frame = encode(value)
                if type(value) is not dict and isinstance(value, _BYTES):
                    if relay is None:
                        self._relay = relay = Relay(self._content, self._sep)
                    relay.follow(frame)
                elif relay is not None:
                    frame = relay.finish() + frame
                taken: bool | bytes | None = False
                if pace.just_woke and not batching.joins_first:
                    # The first since the source has waited: nothing else is ready that it could be joined with.
                    pace.just_woke = False
                    self.has_begun = True
                    # As `startswith` has it, in a third of the time; what most frames begin with is behind it.
                    if _BEHIND_DOUBLED > frame >= _DOUBLED:
                        doubt("frame")
                    taken = frame and offer(frame, clock(), caller)
                    if taken or taken is None:
                        batching.sent += 1
                    if taken and not self._stopping:
                        step = step_on()
                        continue
                if taken is None:
                    outbox.sending = True
                elif not taken:
                    size = size + len(frame) if frames else len(frame)
                    frames.append(frame)
                    pace.notes_waits = True
                    if (
                        batching.joins
                        and size < pace.room
                        and now() <= pace.runs_since + HELD_SECONDS
                    ):
                        step = step_on()
                        continue
                    if turn != pace.runs_since:
                        turn, sends = pace.runs_since, 0
                    sends += 1
                    pace.room -= size
                    outbox.tell_writer()
                if self._stopping:
                    return
                if (
                    frames
                    or outbox.sending
                    or sends >= _SENDS_IN_A_TURN
                    or pace.room <= 0
                    or now() > turn + HELD_SECONDS
                ):
                    try:
                        await pace.pause()
                    except cancelled as exc:
                        # A timeout or cancel scope that the source holds open around its `yield` has
                        # run out. It's the source's, so there it goes; the writer, in a task of its
                        # own, is not hit, and the frames stay where they are.
                        throw = getattr(iterator, "athrow", None)
                        if self._stopping or throw is None:
                            raise
                        step = throw(exc)
                        continue
                step = step_on()
        except GeneratorExit:
            thrown_away = True
            raise
        except BaseException as exc:  # What is not ours is raised again.
            self._note_error(exc, cancelled)
        finally:
            try:
                if not thrown_away:
                    self._runner.clean_up()
                    await _close(self._content, iterator, self._loop, cancelled)
                    if self._runner.cut_short:
                        _warn_of_cut(self._content, self._cleanup_timeout, self.thread)
            finally:
                self.ended = True
                outbox.close()
                pace.note_first_wait()  # Behind it: nobody needs to watch a stream that is over.

    def _note_error(self, exc: BaseException, cancelled: type[BaseException]) -> None:
        """Keep what has ended the source; raise what is not ours."""
        # A cancellation that was asked for ends here: nobody outside waits for it, and one that
        # went through other hands may not look like anyio's any more.
        error = _error_in(exc, cancelled)
        if self._stopping:
            _log(self._content, error)
        elif error is not None:
            self.error = error
        else:
            self.error = RuntimeError(
                f"the source {self._content!r} was cancelled from within: something it awaited was cancelled"
            )
            self.error.__cause__ = exc


def _warn_of_stuck(content: object, thread: str | None) -> None:
    logger.warning(
        "%r is still at a step in thread %r, which can't be interrupted; it's closed when it comes back",
        content,
        thread,
        extra={"sse_event": "source_stuck", "sse_thread": thread},
    )


def _warn_of_cut(content: object, seconds: float | None, thread: str | None) -> None:
    logger.warning(
        "cleanup of %r was cut short after %s s (cleanup_timeout)%s",
        content,
        seconds,
        "" if thread is None else f"; a step of it goes on in thread {thread!r}",
        extra={"sse_event": "cleanup_cut_short", "sse_thread": thread},
    )


async def _close(
    content: object,
    iterator: AsyncIterator[object] | None,
    loop: Loop,
    cancelled: type[BaseException],
) -> None:
    """Close `content`, and what iterates over it; None: it has not been begun."""
    if iterator is None and not isinstance(content, AsyncIterable):
        iterator = ThreadedIterator(cast("Iterable[object]", content), loop)
    for resource in (iterator, content if content is not iterator else None):
        close = getattr(resource, "aclose", None)
        if close is None and not isinstance(iterator, ThreadedIterator):
            # Streams of HTTP clients have `close` alone, async or not.
            close = getattr(resource, "close", None)
        if close is not None:
            try:
                outcome = close()
                if isawaitable(outcome):
                    await outcome
            except BaseException as exc:  # What is not ours is raised again.
                _log(content, _error_in(exc, cancelled))


def _log(content: object, error: Exception | None) -> None:
    if error is not None:
        logger.error(
            "error in the cleanup of %r",
            content,
            exc_info=error,
            extra={"sse_event": "cleanup_failed"},
        )


def _error_in(exc: BaseException, cancelled: type[BaseException]) -> Exception | None:
    """What's left of `exc` without the cancellation and, from a task group, the `GeneratorExit`."""
    left: BaseException | None = exc
    if isinstance(exc, cancelled):
        left = None
    elif isinstance(exc, BaseExceptionGroup) and not isinstance(exc, ExceptionGroup):
        left = exc.split((cancelled, GeneratorExit))[1]
    if left is None or isinstance(left, Exception):
        return left
    raise left
