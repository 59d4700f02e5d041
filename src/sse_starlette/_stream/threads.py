"""Runs the steps of sync iterables in worker threads, and counts the threads that run.

A thread can't be interrupted. What a change here must keep:

- A thread counts until its step has come to an end, whoever still waits for it: a limit that is given
  back earlier bounds nothing.
- They are daemon threads: one that waits for ever doesn't keep the process from ending.
- Whoever closes an iterable closes it when no step is under way; if that takes too long, its worker
  does so when it comes back.
- The threads of a loop end with the last iterable that is iterated there.
"""

from __future__ import annotations

import contextvars
import logging
import threading
import weakref
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from functools import partial
from inspect import isawaitable
from itertools import count
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

import anyio
import anyio.lowlevel

if TYPE_CHECKING:
    from .._runtime.loop import Loop, Waker

logger = logging.getLogger("sse_starlette.sse")

_SYNC_STEPS = 40

_numbers = count(1)


def sync_source_limiter() -> anyio.CapacityLimiter:
    """
    Return what bounds the worker threads of this event loop that run steps of sync sources.

    There are 40 of them unless its `total_tokens` is set to another number, in the lifespan of the
    application for example. They are beside those of `anyio.to_thread`, which sync endpoints use. A
    thread counts until its step is over, also if the client has left meanwhile. A source for which
    there's none waits, with its stream open.

    Raises:
        RuntimeError: no event loop is running.
    """
    return _pool().limiter


class ThreadedIterator(AsyncIterator[object]):
    """Iterates a sync iterable; each step runs in a worker thread."""

    _END = object()

    def __init__(self, iterable: Iterable[object], loop: Loop) -> None:
        self._iterable = iterable
        self._iterator: Iterator[object] | None = None
        self._loop = loop
        self._pool: _Pool | None = None
        # One for all steps and the close, so that a context variable can be set in one step and reset
        # in another.
        self._context = contextvars.copy_context()
        self._closed = anyio.Event()
        self._mutex = threading.Lock()
        self._thread: str | None = None
        self._closing = False
        self._late: list[Any] = []

    @property
    def stepping_in(self) -> str | None:
        """The name of the thread that a step is under way in; None: no step is."""
        return self._thread

    async def __anext__(self) -> object:
        pool = self._pool
        if pool is None:
            pool = self._pool = _pool()
            pool.users += 1
        value = await pool.run(self._loop, self._in_context(self._step), self._iterable)
        if value is self._END:
            raise StopAsyncIteration
        return value

    async def aclose(self) -> None:
        """Close the iterable, and the iterator that it gave, once no step is under way."""
        with self._mutex:
            self._closing = True
            stepping = self._thread is not None
        pool, self._pool = self._pool, None
        try:
            if stepping:
                await self._closed.wait()
            elif any(hasattr(owned, "close") for owned in self._owned()):
                await (pool or _pool()).run(self._loop, self._in_context(self._close), None)
            while self._late:
                await self._late.pop()
        finally:
            if pool is not None:
                pool.leave()

    @property
    def is_released(self) -> bool:
        """Whether `aclose` returns although a step is under way."""
        return self._closed.is_set()

    def release(self) -> None:
        """Let `aclose` return although a step is under way."""
        self._closed.set()

    def _in_context(self, call: Callable[[], object]) -> Callable[[], object]:
        return lambda: self._context.run(call)

    # In a thread.

    def _step(self) -> object:
        with self._mutex:
            if self._closing:
                return self._END
            self._thread = threading.current_thread().name
        try:
            if self._iterator is None:
                self._iterator = iter(self._iterable)
            return next(self._iterator, self._END)
        finally:
            with self._mutex:
                self._thread = None
                closing = self._closing
            if closing:
                try:
                    self._close()
                finally:
                    self._tell_closed()

    def _owned(self) -> tuple[object, ...]:
        if self._iterator is None or self._iterator is self._iterable:
            return (self._iterable,)
        return (self._iterator, self._iterable)

    def _close(self) -> None:
        for owned in self._owned():
            close = getattr(owned, "close", None)
            if close is not None:
                try:
                    outcome = close()
                except Exception:
                    logger.exception(
                        "error in the cleanup of %r",
                        self._iterable,
                        extra={"sse_event": "cleanup_failed"},
                    )
                else:
                    if isawaitable(outcome):
                        self._late.append(outcome)

    def _tell_closed(self) -> None:
        try:
            self._loop.call_soon_threadsafe(self._closed.set)
        except RuntimeError:
            pass  # The loop is gone, and with it whoever waited.


class _Job:
    """A call, and what became of it."""

    __slots__ = ("call", "error", "finished", "result", "wake")

    def __init__(self, call: Callable[[], object], wake: Waker) -> None:
        self.call = call
        self.wake = wake
        self.finished = False
        self.result: object = None
        self.error: BaseException | None = None


class _Worker(threading.Thread):
    """Does one job after the other."""

    def __init__(self, pool: _Pool, loop: Loop) -> None:
        super().__init__(name=f"sse-starlette sync source {next(_numbers)}", daemon=True)
        self.jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._loop = loop
        self._pool = weakref.ref(pool)

    def run(self) -> None:
        while (job := self.jobs.get()) is not None:
            try:
                job.result = job.call()
            except BaseException as exc:  # It's for whoever waits for the job.
                job.error = exc
            try:
                self._loop.call_soon_threadsafe(partial(self._tell_done, job))
            except RuntimeError:
                return  # The loop is gone, and with it whoever waited.
            del job

    def _tell_done(self, job: _Job) -> None:
        pool = self._pool()
        if pool is not None:
            pool.done(self, job)


class _Pool:
    """The workers of one loop; used on that loop only."""

    def __init__(self) -> None:
        self.limiter = anyio.CapacityLimiter(_SYNC_STEPS)
        self.users = 0
        self._idle: list[_Worker] = []
        self._told = False

    async def run(
        self, loop: Loop, call: Callable[[], object], on_behalf_of: object | None
    ) -> object:
        """
        Call `call` in a thread and return what it returns.

        If this is cancelled, the call goes on, and counts until it has returned.

        Args:
            loop: this loop.
            call: what to call.
            on_behalf_of: whose step it is; None: it's no step, and doesn't count.
        """
        job = _Job(call, loop.waker())
        if on_behalf_of is not None:
            try:
                self.limiter.acquire_on_behalf_of_nowait(job)
            except anyio.WouldBlock:
                self._tell(on_behalf_of)
                await self.limiter.acquire_on_behalf_of(job)
        if self._idle:
            worker = self._idle.pop()
        else:
            worker = _Worker(self, loop)
            try:
                worker.start()
            except BaseException:
                self._release(job)
                raise
        worker.jobs.put(job)
        while not job.finished:
            await job.wake
        if job.error is not None:
            try:
                raise job.error
            finally:
                job.error = None  # It knows this frame by its traceback.
        return job.result

    def done(self, worker: _Worker, job: _Job) -> None:
        self._release(job)
        job.finished = True
        job.wake.set()
        if self.users:
            self._idle.append(worker)
        else:
            worker.jobs.put(None)

    def leave(self) -> None:
        """Have one user less; without any, no thread is kept."""
        self.users -= 1
        if not self.users:
            while self._idle:
                self._idle.pop().jobs.put(None)

    def _release(self, job: _Job) -> None:
        try:
            self.limiter.release_on_behalf_of(job)
        except RuntimeError:
            pass  # It didn't count.

    def _tell(self, whose: object) -> None:
        if not self._told:
            self._told = True
            logger.warning(
                "all %s threads for sync sources are busy, so %r waits for one; its stream stays open. "
                "Sources that wait for long should be async. To allow more threads, set "
                "sse_starlette.sync_source_limiter().total_tokens when the application starts.",
                self.limiter.total_tokens,
                whose,
                extra={"sse_event": "threads_busy", "sse_threads": self.limiter.total_tokens},
            )

    def __del__(self) -> None:
        for worker in self._idle:
            worker.jobs.put(None)


_pools = anyio.lowlevel.RunVar[_Pool]("sse_starlette_sync_sources")


def _pool() -> _Pool:
    try:
        return _pools.get()
    except LookupError:
        pool = _Pool()
        _pools.set(pool)
        return pool
