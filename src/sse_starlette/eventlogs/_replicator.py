"""Keeps the channels of a hub in step with their log, and brings to the log what is published.

It lives in the hub's lifespan, on one loop; what any thread may call says so. What a change here must
keep:

- No task is started in the context of whoever asks. A request leaves none behind.
- What keeps something going survives whatever it calls: it's said, and tried again.
"""

from __future__ import annotations

import time
from concurrent.futures import Future
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING

import anyio

from .._runtime.fork import tell_child
from .._runtime.lock import Lock
from .._runtime.loop import current_loop
from ..errors import ChannelClosed, LogUnavailable
from ._faults import Faults
from ._publish_queue import Job, PublishQueues
from ._side_tasks import SideTasks, give_up_after, outcome, settle
from ._tracks import Tracks

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from .._runtime.loop import Loop
    from ._options import LogOptions
    from ._replica import Replica
    from ._side_tasks import TaskFunction
    from .base import Backend, Page


class Replicator:
    """What a hub has of its log: what keeps its channels in step, and the way for what is published."""

    def __init__(self, backend: Backend, options: LogOptions) -> None:
        """Do nothing yet; `backend` is the log."""
        self._backend = backend
        self.options = options
        self._entered_before_fork = False
        self._reset()
        tell_child(self)

    def _reset(self) -> None:
        self._loop: Loop | None = None
        self._run: object = None
        """Stands for the lifespan that is under way."""
        # Held for moments, and never across an await.
        self._lock = Lock()
        self._entered = False
        self._faults = Faults()
        self._side_tasks = SideTasks(self._faults)
        self.tracks: Tracks = Tracks(
            self._backend, self._faults, self._side_tasks.start, self.options
        )
        self._queues = PublishQueues(self._backend, self._faults, self._run_soon, self.options)

    # Any thread may call these.

    @property
    def running(self) -> bool:
        """Whether the hub's lifespan is under way."""
        return self._loop is not None

    def must_run(self) -> Loop:
        """Return the loop of the lifespan; raise RuntimeError outside of one."""
        if self._loop is None:
            if self._entered_before_fork:
                raise RuntimeError(
                    "the hub's lifespan was entered before this process was forked, and goes on in its "
                    "parent alone: enter it here too, `async with hub.lifespan():`, or fork first."
                )
            raise RuntimeError(
                "the hub isn't connected to its log: give its lifespan to the application, "
                "Starlette(lifespan=hub.lifespan), or use it within `async with hub.lifespan():`."
            )
        return self._loop

    def after_fork(self) -> None:
        """Begin anew in the child of a fork, as if the lifespan had never been entered."""
        self._entered_before_fork = self._loop is not None
        self._reset()
        self._backend.after_fork()

    @property
    def backend(self) -> Backend:
        """The log."""
        return self._backend

    @property
    def reason(self) -> str:
        """What is wrong with the log, as far as is known; empty: nothing."""
        if self._loop is None:
            return "the hub's lifespan isn't under way"
        return self._faults.reason

    def ensure_following(self, channel: Replica) -> None:
        """See soon what `channel` needs of the log; from now on it's kept in step."""
        self._call(partial(self._ensure_following, channel))

    async def publish(
        self, channel: Replica, body: bytes, key: str | None, wait: float | None
    ) -> str:
        """Append `body` and return its id; see `Channel.publish`."""
        loop = self.must_run()
        job = self._job(channel, body, key, wait)
        if current_loop().key is loop.key:
            return await self._queues.publish(job)
        try:
            return await outcome(self._queues.put(job))
        except BaseException:
            job.given_up = True
            raise

    def publish_in_line(
        self, channel: Replica, body: bytes, key: str | None = None, wait: float | None = None
    ) -> Future[str]:
        """Append `body` after all that is being appended to `channel`; an empty one closes it."""
        self.must_run()
        return self._queues.put(self._job(channel, body, key, wait))

    def _job(self, channel: Replica, body: bytes, key: str | None, wait: float | None) -> Job:
        if wait is None:
            wait = self.options.publish_wait
        return Job(channel, body, key, wait, time.monotonic() + wait)

    async def close(self, channel: Replica, wait: float | None) -> None:
        """Append the entry that closes `channel`, in line, and wait for it."""
        try:
            await outcome(self.publish_in_line(channel, b"", None, wait))
        except ChannelClosed:
            pass

    async def look_up(self, channel: Replica, *, after: int, until: int | None, limit: int) -> Page:
        """Read from the log on behalf of who isn't subscribed; see `Backend.read`."""
        loop = self.must_run()
        read = partial(
            self._backend.read,
            channel.name,
            after=after,
            until=until,
            limit=limit,
            limits=channel.limits,
        )
        if current_loop().key is loop.key:
            return await read()
        future: Future[Page] = Future()
        self._call(partial(self._side_tasks.start, partial(settle, future, read)))
        return await outcome(future)

    async def ready(self, timeout: float) -> bool:  # noqa: ASYNC109  (a question that has an answer in any case)
        """Whether the log is being listened to, and answers within `timeout` seconds."""
        loop = self._loop
        if loop is None:
            return False
        ready: bool | None = None
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(give_up_after, tasks.cancel_scope, timeout)
            if current_loop().key is loop.key:
                ready = await self.tracks.answers()
            else:
                future: Future[bool] = Future()
                self._call(
                    partial(self._side_tasks.start, partial(settle, future, self.tracks.answers))
                )
                ready = await outcome(future)
            tasks.cancel_scope.cancel()
        if ready is None:
            self._faults.note(
                "check", LogUnavailable(repr(self._backend), f"no answer within {timeout:g} s")
            )
        return bool(ready)

    # What follows happens on the loop of the lifespan.

    @asynccontextmanager
    async def run(self, sweep: Callable[[], None]) -> AsyncIterator[None]:
        """
        Be connected for the time of the block.

        Args:
            sweep: called about once a second.
        """
        with self._lock:
            # Set before the first await: two threads, or two tasks, may come at the same moment.
            if self._entered:
                raise RuntimeError(
                    "the hub's lifespan is under way: it can be entered again after it"
                )
            self._entered = True
        failure: Exception | None = None
        mine = self._queues
        try:
            async with self._backend.open(), anyio.create_task_group() as tasks:
                self._loop = current_loop()
                self._run = run = object()
                self._entered_before_fork = False
                self._queues.begin()
                for keeper in (self._listen, self._check_now_and_then):
                    tasks.start_soon(keeper)
                tasks.start_soon(self._sweep_now_and_then, sweep)
                tasks.start_soon(self._side_tasks.run, tasks)
                try:
                    yield
                    with anyio.move_on_after(self.options.last_appends):
                        await self._queues.empty()
                except Exception as exc:
                    failure = exc  # Not one of a group, as it would be if it left the task group.
                finally:
                    # A run that was copied by a fork ends when it's thrown away; another one may be
                    # under way.
                    if self._run is run:
                        self._end()
                    tasks.cancel_scope.cancel()
        finally:
            if self._queues is mine:
                self._entered = False
        if failure is not None:
            raise failure

    def _call(self, call: Callable[[], object]) -> None:
        loop = self._loop
        if loop is not None:
            if loop.is_current():
                call()
            else:
                loop.call_soon_threadsafe(call)

    def _ensure_following(self, channel: Replica) -> None:
        if self._loop is None:
            channel.look()  # The lifespan has ended meanwhile, and nobody else will say so.
        else:
            self.tracks.ensure_following(channel)

    def _run_soon(self, function: TaskFunction) -> None:
        """Do what `SideTasks.start` does, from any thread; RuntimeError if the loop has been closed."""
        self._call(partial(self._side_tasks.start, function))

    def _end(self) -> None:
        self._loop = None
        self._side_tasks.clear()
        self._faults.clear()
        self._queues.end()
        self.tracks.end()

    async def _listen(self) -> None:
        while True:
            try:
                await self._backend.listen(self.tracks)
            except Exception as exc:
                self.tracks.lost(exc)
            await anyio.sleep(self.options.listen_again)

    async def _check_now_and_then(self) -> None:
        while True:
            await anyio.sleep(self.options.check_every)
            try:
                await self.tracks.check_positions()
            except Exception as exc:
                self._faults.note("check", exc)

    async def _sweep_now_and_then(self, sweep: Callable[[], None]) -> None:
        while True:
            await anyio.sleep(self.options.sweep_every)
            try:
                sweep()
                self.tracks.sweep()
            except Exception as exc:
                self._faults.note("sweep", exc)
            else:
                self._faults.mended("sweep")
