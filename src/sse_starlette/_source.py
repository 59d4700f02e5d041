"""Drives one iterable into a feed: first step to close in one task, cancelled once, closed for certain.

Two wishes meet here. An event must be with the server before the source computes the next one, even
if it does so without ever waiting; and events that are ready together must leave together, for that
is where the speed is. So a source earns the right to have frames held back by being quick, a few at
first, and loses it by being slow (`SourceFeed._judge`).
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import math
import sys
import threading
import types
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Mapping
from typing import TYPE_CHECKING, Any, cast

import anyio
import anyio.lowlevel
import anyio.to_thread

from ._feed import JOINED_BYTES, Feed

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Generator, Iterator

    from ._loop import Loop

logger = logging.getLogger("sse_starlette.sse")

_HELD_SECONDS = 0.001
"""About how long a frame may wait for further ones that the source is busy making."""
_SLOW_SECONDS = 0.01
"""A source that keeps the loop for longer than this computes: for now none of its frames waits."""
_TRUSTED_AFTER = 100
"""Quick events that a source has to deliver before a frame of its own may wait at all."""
_SHARE = 8
"""Further quick events for each frame that may wait."""
_MOST_CAUTION = 4096
"""Each slow stretch makes us four times as cautious as the one before, up to this."""
_FORGIVEN_AFTER = 8192
"""Quick events after which a slow stretch counts as the machine's, not the source's."""

_SYNC_STEPS = 40
"""Worker threads of one event loop that may be inside sync iterables at once, whoever else needs threads."""

_sync_steps = anyio.lowlevel.RunVar[anyio.CapacityLimiter]("sse_starlette_sync_steps")


class SourceFeed(Feed):
    """The frames of one async or sync iterable, which this feed owns from now on."""

    def __init__(
        self,
        content: object,
        encode: Callable[[object], bytes],
        loop: Loop,
        *,
        cleanup_timeout: float | None,
        joins: bool,
    ) -> None:
        """
        Take over `content`; it isn't touched before `run`.

        Args:
            content: an async iterable, or an iterable whose steps run in a worker thread.
            encode: makes a frame of what `content` yields; what it raises ends the feed.
            loop: the loop that `run` will run on.
            cleanup_timeout: seconds that the source has for its cleanup; None: no bound.
            joins: whether frames may be held back for each other at all.
        """
        self._content = content
        self._encode = encode
        self._loop = loop
        self._frames: list[bytes] = []
        self._size = 0
        self._wake: Callable[[], None] = _wake_nobody
        self._writer_told = False
        self._room = loop.wake_up()

        self._cleanup_timeout = cleanup_timeout
        self._stopping = False
        # Cancelled by `stop` and by nothing else: a server that cancels the response reaches the
        # source through `stop` too.
        self._cancelling = anyio.CancelScope(shield=True)
        # Stands between the source and `_cancelling`; a shield from the moment the cancellation has
        # reached the source, so that its cleanup may wait.
        self._cleanup = anyio.CancelScope()
        self._cleaning = False
        self._cut_short = False

        self.joins = joins
        self._may_hold = 0
        self._quick = 0
        self._caution = _TRUSTED_AFTER
        self._running_since = 0.0
        self._hold_until = 0.0
        self._held_since_then = 0

    def open(self, wake: Callable[[], None]) -> None:
        self._wake = wake

    def stop(self) -> None:
        self._stopping = True
        self._may_hold = -1
        self._cancelling.cancel()

    def take(self) -> bytes:
        frames = self._frames
        if not frames:
            return b""
        self._writer_told = False
        self._size = 0
        joined = frames[0] if len(frames) == 1 else b"".join(frames)
        frames.clear()
        if not joined:
            # Frames without a byte: nobody will say that they have been sent.
            self._room.set()
        return joined

    def sent(self) -> None:
        if not self._frames:
            self._room.set()

    async def run(self) -> None:
        try:
            with self._cancelling, self._cleanup:
                await self._watch(self._drive())
            if self._cut_short:
                logger.warning(
                    "cleanup of %r was cut short after %s s (cleanup_timeout)",
                    self._content,
                    self._cleanup_timeout,
                )
        finally:
            self.ended = True
            self._wake()

    async def _drive(self) -> None:
        cancelled = anyio.get_cancelled_exc_class()
        iterator: AsyncIterator[object] | None = None
        try:
            if not self._stopping:
                iterator = _iterate(self._content, self._loop)
                await self._pump(iterator, cancelled)
        except BaseException as exc:  # What is not ours is raised again.
            # A cancellation that was asked for ends here: nobody outside waits for it, and one that
            # went through other hands may not look like anyio's any more.
            error = _error_in(exc, cancelled)
            if self._stopping:
                self._log(error)
            elif error is not None:
                self.error = error
            else:
                self.error = RuntimeError(
                    f"the source {self._content!r} was cancelled from within: something it awaited was cancelled"
                )
                self.error.__cause__ = exc
        finally:
            self._begin_cleanup()
            await self._close(iterator, cancelled)

    async def _pump(self, iterator: AsyncIterator[object], cancelled: type[BaseException]) -> None:
        encode = self._encode
        frames = self._frames
        now = self._loop.time
        step: Awaitable[object] = iterator.__anext__()
        while True:
            try:
                value = await step
            except StopAsyncIteration:
                return
            frame = encode(value)
            frames.append(frame)
            self._size += len(frame)
            if not self._writer_told:
                self._writer_told = True
                self._wake()
            if (
                len(frames) > self._may_hold
                or self._size >= JOINED_BYTES
                or now() > self._hold_until
            ):
                if self._stopping:
                    return
                try:
                    while frames:
                        await self._room.wait()
                except cancelled as exc:
                    # A timeout or cancel scope that the source holds open around its `yield` has run
                    # out. It's the source's, so there it goes; the writer, in a task of its own, is
                    # not hit, and the frames stay where they are.
                    throw = getattr(iterator, "athrow", None)
                    if self._stopping or throw is None:
                        raise
                    step = throw(exc)
                    continue
            step = iterator.__anext__()

    @types.coroutine
    def _watch(self, source: Coroutine[Any, Any, None]) -> Generator[Any, Any, None]:
        """Run `source` as it is, and take note of each wait and of the cancellation's arrival."""
        cancelled = anyio.get_cancelled_exc_class()
        resume: Callable[[Any], Any] = source.send
        outcome: Any = None
        # Whether the source has had a cancellation since `stop`, and from within a scope of its own
        # that was cancelled in the same turn of the loop. Inside of that a shield would be wrong: the
        # scope would take the cancellation for its own and swallow it. trio's nurseries cancel their
        # scope on the way out, so the same is true of them.
        reached = within = False
        while True:
            self._running_since = self._loop.time()
            self._hold_until = self._running_since + _HELD_SECONDS
            self._held_since_then = len(self._frames)
            try:
                wait = resume(outcome)
            except StopIteration:
                return
            self._judge()
            if reached and _leaves_nursery():
                self._cleanup.shield = False
            elif self._cleaning:
                self._cleanup.shield = True
            elif reached:
                within = within and self._is_within_cancelled_scope()
                if not within:
                    # `asyncio.timeout` has made a TimeoutError of it: ours is still to come.
                    reached = not _is_taken_back()
                    if reached:
                        self._begin_cleanup()
            try:
                outcome = yield wait
            except BaseException as exc:  # It's for the source: thrown there.
                # asyncio throws a cancellation in ...
                arrived: object = exc
                resume, outcome = source.throw, exc
            else:
                # ... trio sends it in, as the outcome of the wait.
                arrived = getattr(outcome, "error", None)
                resume = source.send
            if arrived is not None and isinstance(arrived, cancelled):
                if self._cleaning:
                    self._cut_short |= self._cleanup.cancel_called
                elif self._stopping:
                    reached, within = True, self._is_within_cancelled_scope()

    def _judge(self) -> None:
        """Decide, whenever the source's task starts to wait, how many frames may be held from now on."""
        ran = self._loop.time() - self._running_since
        pushed = len(self._frames) - self._held_since_then
        if self._stopping or not self.joins:
            return
        if ran > _SLOW_SECONDS:
            self._quick = -self._caution
            self._caution = min(4 * self._caution, _MOST_CAUTION)
            self._may_hold = 0
        elif pushed > 0:
            self._quick += pushed
            if self._quick > _FORGIVEN_AFTER:
                self._caution = _TRUSTED_AFTER
            affordable = int(_HELD_SECONDS * pushed / ran) if ran > 0 else pushed
            self._may_hold = max(0, min((self._quick - _TRUSTED_AFTER) // _SHARE, affordable))

    def _begin_cleanup(self) -> None:
        self._cleanup.shield = True
        if not self._cleaning:
            self._cleaning = True
            if self._cleanup_timeout is not None:
                self._cleanup.deadline = anyio.current_time() + self._cleanup_timeout

    def _is_within_cancelled_scope(self) -> bool:
        """Whether the source stands in a cancelled scope of its own; ours are further out."""
        self._cleanup.shield = True
        try:
            return anyio.current_effective_deadline() == -math.inf
        finally:
            self._cleanup.shield = False

    def _log(self, error: Exception | None) -> None:
        if error is not None:
            logger.error("error in the cleanup of %r", self._content, exc_info=error)

    async def _close(self, iterator: object | None, cancelled: type[BaseException]) -> None:
        content = self._content
        if iterator is None and not isinstance(content, AsyncIterable):
            iterator = _InThread(cast("Iterable[object]", content), self._loop)
        for resource in (iterator, content if content is not iterator else None):
            close = getattr(resource, "aclose", None)
            if close is not None:
                try:
                    await close()
                except BaseException as exc:  # What is not ours is raised again.
                    self._log(_error_in(exc, cancelled))


def _wake_nobody() -> None:
    """Stand in for the writer until there is one."""


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


def _leaves_nursery() -> bool:
    """Whether the calling task is on its way out of a nursery of trio, or has to be."""
    trio = sys.modules.get("trio")
    try:
        nurseries = trio.lowlevel.current_task().child_nurseries if trio is not None else []
    except RuntimeError:
        return False  # It's not trio that runs.
    return any(nursery.cancel_scope.cancel_called for nursery in nurseries)


def _is_taken_back() -> bool:
    """Whether the calling task, which has been cancelled, isn't any more; trio knows no such thing."""
    try:
        task = asyncio.current_task()
    except RuntimeError:
        return False
    return task is not None and not task.cancelling()


def _iterate(content: object, loop: Loop) -> AsyncIterator[object]:
    if isinstance(content, AsyncIterable):
        return cast("AsyncIterator[object]", content.__aiter__())
    if isinstance(content, (list, tuple)):
        return _each(content)
    if isinstance(content, Iterable) and not isinstance(
        content, (str, bytes, bytearray, memoryview, Mapping)
    ):
        return _InThread(content, loop)
    raise TypeError(
        f"EventSourceResponse needs an async or sync iterable of events, got {type(content).__name__}"
        + _advice(content)
    )


def _advice(content: object) -> str:
    if callable(content):
        return ": call the generator function and pass what it returns"
    if hasattr(content, "__await__"):
        return ": an `async def` without `yield` is no generator; await it, or let it yield"
    if isinstance(content, Iterable):
        return ": to send it as one event, put it into a list"
    return ""


async def _each(items: Iterable[object]) -> AsyncIterator[object]:
    # What is in memory already can't block, so it needs no worker thread.
    for item in items:
        yield item


class _InThread(AsyncIterator[object]):
    """Iterates a sync iterable, each step in a worker thread that other threads' users don't miss."""

    _END = object()

    def __init__(self, iterable: Iterable[object], loop: Loop) -> None:
        self._iterable = iterable
        self._iterator: Iterator[object] | None = None
        self._loop = loop
        # One for all steps and the close, so that a context variable can be set in one step and reset
        # in another.
        self._context = contextvars.copy_context()
        self._closed = anyio.Event()
        self._mutex = threading.Lock()
        self._stepping = False
        self._closing = False

    async def __anext__(self) -> object:
        try:
            limiter = _sync_steps.get()
        except LookupError:
            limiter = anyio.CapacityLimiter(_SYNC_STEPS)
            _sync_steps.set(limiter)
        value = await anyio.to_thread.run_sync(
            self._context.run, self._step, abandon_on_cancel=True, limiter=limiter
        )
        if value is self._END:
            raise StopAsyncIteration
        return value

    async def aclose(self) -> None:
        # A thread can't be interrupted: a step that is under way is waited for, and the worker closes
        # the iterator when it comes back, be it after we've stopped waiting (cleanup_timeout).
        with self._mutex:
            self._closing = True
            stepping = self._stepping
        if stepping:
            await self._closed.wait()
        elif any(hasattr(owned, "close") for owned in self._owned()):
            await anyio.to_thread.run_sync(self._context.run, self._close)

    def _step(self) -> object:
        with self._mutex:
            if self._closing:
                return self._END
            self._stepping = True
        try:
            if self._iterator is None:
                self._iterator = iter(self._iterable)
            return next(self._iterator, self._END)
        finally:
            with self._mutex:
                self._stepping = False
                closing = self._closing
            if closing:
                self._close()

    def _owned(self) -> tuple[object, ...]:
        if self._iterator is None or self._iterator is self._iterable:
            return (self._iterable,)
        return (self._iterator, self._iterable)

    def _close(self) -> None:
        try:
            for owned in self._owned():
                close = getattr(owned, "close", None)
                if close is not None:
                    try:
                        close()
                    except Exception:
                        logger.exception("error in the cleanup of %r", self._iterable)
        finally:
            try:
                self._loop.knock(self._closed.set)
            except RuntimeError:
                pass  # The loop is gone, and with it whoever waited.
