"""The way of what is published to the event log: one queue for each channel, in order.

What a change here must keep:

- At most one attempt is under way for a channel, and what waits behind it goes with the next one, in
  one batch. An attempt whose outcome is unknown is repeated before anything newer is tried.
- An event is refused by the limit, by the log, or because its time is over while the log fails; never
  because others come before it.
- Any thread may put something into a queue; all else happens on the loop of the lifespan.
"""

from __future__ import annotations

import copy
import secrets
import time
from collections import deque
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from itertools import count
from typing import TYPE_CHECKING, Protocol

import anyio

from .._runtime.lock import InterruptedHolderError, Lock
from ..errors import ChannelClosed, LogRefused, LogUnavailable, PublishQueueFull, SSEError
from .base import NewEntry

if TYPE_CHECKING:
    from collections.abc import Callable

    from ._faults import Faults
    from ._options import LogOptions
    from ._side_tasks import TaskFunction
    from .base import Backend, Limits, Position

_BATCH_EVENTS = 256
_BATCH_BYTES = 1024 * 1024
_KEYS_KEPT_SECONDS = 120.0
"""How long an idempotency key is remembered."""
_LAST_ATTEMPT_SECONDS = 60.0
"""How long the last attempt to append something may be under way in the log."""
_LONGEST_KEY_SECONDS = 3_600.0


class PublishedTo(Protocol):
    """What is published to: a channel."""

    name: str
    limits: Limits

    def appends(self, append: object) -> None:
        """Take note that this process is about to add something; `append` stands for it."""

    def appended(
        self, append: object, position: Position | None, *, doubt: str | None = None
    ) -> None:
        """Take note of where that is; None: it failed, and may have been added with the key `doubt`."""


@dataclass(eq=False, slots=True)
class Job:
    """What is to be appended."""

    channel: PublishedTo
    body: bytes
    key: str | None
    wait: float
    """Seconds for which it's tried again."""
    until: float
    """Until when: on the monotonic clock of the process, from the call on."""
    entry: NewEntry | None = None
    id: str | None = None
    """What it was added as."""
    error: BaseException | None = None
    """Why it wasn't."""
    outcome: Future[str] | None = None
    """Tells whoever waits for either; None: nobody does but who makes the attempt."""
    started: bool = False
    """Whether there has been an attempt: from then on it can't be called back."""
    given_up: bool = False
    """Whether whoever wanted it has gone."""

    def start(self) -> bool:
        """Note that it's being tried; False if nobody wants it any more."""
        if self.given_up:
            return False
        if not self.started:
            self.started = self.outcome is None or self.outcome.set_running_or_notify_cancel()
        return self.started

    def fail(self, error: BaseException) -> None:
        """Say that it has come to nothing."""
        self.channel.appended(self, None, doubt=self.doubt(error))
        if self.start():
            self.error = _own(error)
            if self.outcome is not None and not self.outcome.done():
                self.outcome.set_exception(self.error)

    def doubt(self, error: BaseException) -> str | None:
        """The key of what may have been added although this was raised."""
        if self.entry is None or isinstance(error, (ChannelClosed, LogRefused)):
            return None
        return self.entry.key

    def succeed(self, position: Position) -> None:
        """Say where it has been added."""
        self.channel.appended(self, position)
        self.id = f"{position.epoch}.{position.offset}"
        if self.outcome is not None and not self.outcome.done():
            self.outcome.set_result(self.id)


def _own(error: BaseException) -> BaseException:
    """An exception of one's own: one that is raised in many places collects their tracebacks."""
    if not isinstance(error, SSEError):
        return error
    own = copy.copy(error).with_traceback(None)
    own.__cause__ = error.__cause__
    return own


class Writer:
    """Who appends: numbers what has no key of its own."""

    def __init__(self) -> None:
        self._name = secrets.token_urlsafe(9)
        self._turns = count(1)

    def entry(self, body: bytes, key: str | None, wait: float) -> NewEntry:
        """Make what is appended of an event that is tried for `wait` seconds."""
        kept = min(wait, _LONGEST_KEY_SECONDS) + _LAST_ATTEMPT_SECONDS
        if key is not None:
            return NewEntry(body, key, max(kept, _KEYS_KEPT_SECONDS))
        turn = next(self._turns)
        return NewEntry(body, f"{self._name}.{turn}", kept, self._name, turn)


class _Queue:
    """What waits for one channel."""

    __slots__ = ("batch", "error", "fails_since", "jobs", "resumes", "size", "wake")

    def __init__(self) -> None:
        self.jobs: deque[Job] = deque()
        self.batch: list[Job] = []
        """What is being tried."""
        self.error: LogUnavailable | None = None
        """What the last attempt has failed with."""
        self.fails_since = 0.0
        """When it began to."""
        self.resumes = 0.0
        """When the next attempt is due."""
        self.wake: anyio.Event | None = None
        """Ends the pause before the next attempt; None: there is none."""

    def over(self, job: Job) -> float:
        """When the time of `job` is over: to wait for one's turn while nothing fails is no attempt."""
        return max(job.until, self.fails_since + job.wait)


class PublishQueues:
    """The queues of all channels of a hub."""

    def __init__(
        self,
        backend: Backend,
        faults: Faults,
        send_on: Callable[[TaskFunction], None],
        options: LogOptions,
    ) -> None:
        """
        Hold nothing yet.

        Args:
            backend: the event log.
            faults: where it's noted what the log refuses.
            send_on: runs something in a task of the lifespan, and may be called from any thread.
            options: how much may wait, and how long between two attempts.
        """
        self._backend = backend
        self._faults = faults
        self._send_on = send_on
        self._options = options
        # Held for moments, and never across an await.
        self._lock = Lock()
        self._queues: dict[str, _Queue] = {}
        """Those that something waits in, or is tried for."""
        self._waiting = 0
        self._writer = Writer()
        self._running = False
        self._emptied = anyio.Event()

    def begin(self) -> None:
        """Take jobs from now on."""
        self._writer = Writer()
        self._running = True

    async def publish(self, job: Job) -> str:
        """Append it and return its id; on the loop of the lifespan."""
        channel = job.channel
        name = channel.name
        with self._lock:
            queue = self._queues.get(name)
            if queue is None:
                self._count(job)
                queue = self._queues[name] = _Queue()
                mine = True
            else:
                job.outcome = Future()
                self._add(queue, job)
                mine = False
        if mine:
            # Nothing comes before it, so that no other task is needed for the first attempt.
            settled = 1
            try:
                if await self._attempt(queue, [job]):
                    settled = 0
                    job.outcome = Future()
                    queue.jobs.appendleft(job)
            except BaseException as error:
                job.given_up = True
                channel.appended(job, None, doubt=job.doubt(error))
                raise
            finally:
                self._hand_on(name, queue, settled)
        if job.outcome is not None:
            return await self._outcome(queue, job, job.outcome)
        if job.id is None:
            assert job.error is not None  # noqa: S101  (it's one or the other)
            raise job.error
        return job.id

    def put(self, job: Job) -> Future[str]:
        """Append it after what waits already; any thread may call this, and a signal handler."""
        outcome = job.outcome = Future()
        try:
            self._put(job)
        except InterruptedHolderError:
            self._lock.after(partial(self._put_late, job))
        return outcome

    def _put(self, job: Job) -> None:
        with self._lock:
            name = job.channel.name
            queue = self._queues.get(name)
            if queue is None:
                queue = _Queue()
                # It begins when the lock is free. If the loop has been closed, nothing has been changed.
                self._send_on(partial(self._work, name, queue))
                self._count(job)
                self._queues[name] = queue
                queue.jobs.append(job)
            else:
                self._add(queue, job)

    def _put_late(self, job: Job) -> None:
        try:
            self._put(job)
        except Exception as error:
            job.fail(error)

    async def empty(self) -> None:
        """Wait until nothing waits any more."""
        while self._queues:
            self._emptied = anyio.Event()
            await self._emptied.wait()

    def end(self) -> None:
        """Take no more jobs; those that wait fail."""
        with self._lock:
            self._running = False
            queues, self._queues = self._queues, {}
            self._waiting = 0
        for queue in queues.values():
            for job in (*queue.batch, *queue.jobs):
                job.fail(queue.error or _ended())

    # What follows is called with the lock.

    def _count(self, job: Job) -> None:
        if not self._running:
            raise _ended()
        if self._waiting >= self._options.queue_limit:
            raise PublishQueueFull(job.channel.name, self._options.queue_limit)
        # Numbered in the order in which they are appended.
        job.entry = self._writer.entry(job.body, job.key, job.wait)
        self._waiting += 1

    def _settle(self, jobs: int) -> None:
        # When the lifespan has ended, none is counted any more.
        self._waiting = max(0, self._waiting - jobs)

    def _add(self, queue: _Queue, job: Job) -> None:
        self._count(job)
        queue.jobs.append(job)
        if queue.error is not None and job.until < queue.resumes:
            queue.resumes = job.until
            self._send_on(partial(_wake, queue))

    # What follows happens on the loop of the lifespan.

    def _hand_on(self, name: str, queue: _Queue, settled: int) -> None:
        """Let others go on with the queue; so many jobs wait no longer."""
        with self._lock:
            self._settle(settled)
            if self._queues.get(name) is not queue:
                for job in queue.jobs:
                    job.fail(queue.error or _ended())
            elif queue.jobs:
                self._send_on(partial(self._work, name, queue))
            else:
                self._forget(name)

    def _forget(self, name: str) -> None:
        del self._queues[name]
        if not self._queues:
            self._emptied.set()

    async def _work(self, name: str, queue: _Queue) -> None:
        """Append what is in the queue until it's empty."""
        first, longest = self._options.publish_pauses
        pause = first
        while True:
            if queue.error is not None:
                await self._pause(queue, pause)
                pause = min(2 * pause, longest)
            with self._lock:
                if self._queues.get(name) is not queue:
                    return  # The lifespan has ended.
                batch = queue.batch = self._take(queue)
                if not batch:
                    self._forget(name)
                    return
            # If it's cancelled the lifespan ends, and `end` deals with the batch.
            left = await self._attempt(queue, batch)
            queue.batch = []
            with self._lock:
                self._settle(len(batch) - len(left))
                queue.jobs.extendleft(reversed(left))
                over = self._over(queue)
            if queue.error is None:
                pause = first
            for job in over:
                job.fail(queue.error or _ended())

    async def _pause(self, queue: _Queue, seconds: float) -> None:
        wake = anyio.Event()
        with self._lock:
            queue.wake = wake
            soonest = min((queue.over(job) for job in queue.jobs), default=0.0)
            queue.resumes = min(time.monotonic() + seconds, soonest)
        while (left := queue.resumes - time.monotonic()) > 0:
            with anyio.move_on_after(left):
                await wake.wait()
                wake = queue.wake = anyio.Event()

    def _take(self, queue: _Queue) -> list[Job]:
        """Take as much from the queue as goes together; called with the lock."""
        batch: list[Job] = []
        size = 0
        while queue.jobs and len(batch) < _BATCH_EVENTS:
            job = queue.jobs[0]
            size += len(job.body)
            if batch and (size > _BATCH_BYTES or job.channel is not batch[0].channel):
                break
            queue.jobs.popleft()
            if job.start():
                batch.append(job)
            else:
                job.channel.appended(job, None)
                self._waiting -= 1
        return batch

    def _over(self, queue: _Queue) -> list[Job]:
        """Take out those whose time is over while the log fails; called with the lock."""
        if queue.error is None:
            return []
        now = time.monotonic()
        over = [job for job in queue.jobs if queue.over(job) <= now or job.given_up]
        if over:
            gone = set(map(id, over))
            queue.jobs = deque(job for job in queue.jobs if id(job) not in gone)
            self._waiting -= len(over)
        return over

    async def _attempt(self, queue: _Queue, batch: list[Job]) -> list[Job]:
        """Append these; return those that are to be tried again."""
        channel = batch[0].channel
        name = channel.name
        for job in batch:
            # Noted before it's sent: what is heard of it may come before the answer.
            channel.appends(job)
        try:
            outcomes = await self._backend.append_many(
                name, [job.entry for job in batch if job.entry], limits=channel.limits
            )
        except Exception as error:
            outcomes = [error] * len(batch)
        failed_before = queue.error is not None
        queue.error = None
        now = time.monotonic()
        left: list[Job] = []
        for job, outcome in zip(batch, outcomes, strict=True):
            if isinstance(outcome, tuple):
                job.succeed(outcome)
                continue
            if isinstance(outcome, LogUnavailable) and not isinstance(outcome, LogRefused):
                queue.error = outcome
                if not failed_before:
                    queue.fails_since, failed_before = now, True
                if self._running and not job.given_up and queue.over(job) > now:
                    left.append(job)
                    channel.appended(job, None, doubt=job.doubt(outcome))
                    continue
            elif not isinstance(outcome, ChannelClosed):
                self._faults.note("append", outcome, name)
            job.fail(outcome)
        if queue.error is None and any(job.id for job in batch):
            self._faults.mended("append", name)
        return left

    async def _outcome(self, queue: _Queue, job: Job, outcome: Future[str]) -> str:
        done = anyio.Event()
        outcome.add_done_callback(lambda _: done.set())
        try:
            if queue.error is not None:
                with anyio.move_on_after(job.until - time.monotonic()):
                    await done.wait()
            if not done.is_set() and not job.started and queue.error is not None:
                # The log fails, and somebody else's attempt is under way: this one was never sent.
                job.given_up = True
                raise _own(queue.error)
            await done.wait()
        except BaseException:
            job.given_up = True
            outcome.cancel()
            raise
        return outcome.result()


async def _wake(queue: _Queue) -> None:
    assert queue.wake is not None  # noqa: S101  (there has been a pause: it's to be shorter)
    queue.wake.set()


def _ended() -> RuntimeError:
    return RuntimeError("the hub's lifespan has ended: nobody knows if the event was added")
