"""The producer of a run: drives its source, appends what that makes, renews the lease, and ends it for certain.

What a change here must keep:

- Everything is appended in the name of the lease's holder, in order, and an append whose outcome is unknown is repeated as
  it was before anything newer is tried. So no event is lost or doubled, and who has lost the lease adds nothing.
- A run ends once, whoever comes first: its source, a limit, a stop, the lifespan, whoever took the lease. The
  entry that says how it has ended closes the channel.
- The source is driven from its first step to its close in one task, which is the lifespan's.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import AsyncIterable
from enum import Enum, auto
from inspect import isawaitable
from typing import TYPE_CHECKING, Any

import anyio

from .._stream.content import is_iterable, is_one_event
from .._stream.source import SourceFeed
from ..errors import LogUnavailable
from ..event import split_frames
from ..eventlogs.base import NewEntry
from ..eventlogs.leases import LeaseLostError
from ._options import RunEnd, RunStatus, last_frame
from ._rules import RENEWALS_IN_A_LEASE, closing_key

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from .._runtime.loop import Loop
    from ..channels._state import ChannelState
    from ..eventlogs.leases import Lease, Leases
    from ._options import RunNote, RunOptions

logger = logging.getLogger("sse_starlette.runs")

_AHEAD_EVENTS = 1_024
"""Events that may wait to be appended before the source has to wait, too."""
_BATCH_EVENTS = 256
_BATCH_BYTES = 1024 * 1024
_KEY_SECONDS = 3_600.0
_FIRST_PAUSE_SECONDS = 0.05
_LONGEST_PAUSE_SECONDS = 0.5
_CLEANUP_SECONDS = 10.0
"""Seconds that a source has for its cleanup."""


class _Phase(Enum):
    """How far a producer is."""

    AT_WORK = auto()
    ENDING = auto()
    """It's settled how the run ends; what is left is to append it."""
    OVER = auto()
    """Nothing will be appended any more."""


def first_batch(waiting: Iterable[NewEntry], events: int, size: int) -> list[NewEntry]:
    """The first of them, at the most so many events and bytes; but one at the least."""
    batch: list[NewEntry] = []
    for entry in waiting:
        size -= len(entry.body)
        if batch and (len(batch) == events or size < 0):
            break
        batch.append(entry)
    return batch


def _failure_in(exc: BaseException, *, thrown_away: bool) -> Exception | None:
    """
    What a source has failed with: `sys.exit()` and the panic of an extension end it, and nothing else here.

    None: it isn't the source's: a cancellation, Ctrl+C, an error of ours, or the end of a loop, which
    closes the coroutines that are `thrown_away`.
    """
    if isinstance(exc, (Exception, KeyboardInterrupt, anyio.get_cancelled_exc_class())):
        return None
    if thrown_away and isinstance(exc, GeneratorExit):
        return None
    error = RuntimeError(f"the source of the run has raised {exc!r}")
    error.__cause__ = exc
    return error


def _log_failure(run: str, error: Exception, *, of_cleanup: bool) -> None:
    if of_cleanup:
        logger.error(
            "error in the cleanup of run %r",
            run,
            exc_info=error,
            extra={"sse_event": "cleanup_failed", "sse_run": run},
        )
    else:
        logger.error(
            "run %r has failed",
            run,
            exc_info=error,
            extra={"sse_event": "run_failed", "sse_run": run},
        )


class Producer:
    """Who makes the events of one run; on the loop of the hub's lifespan."""

    def __init__(
        self,
        channel: ChannelState,
        lease: Lease,
        leases: Leases,
        source: Callable[[], Any],
        options: RunOptions,
        note: RunNote,
    ) -> None:
        """
        Do nothing yet.

        Args:
            channel: the channel of the run.
            lease: the lease that was taken for it.
            leases: where it was taken.
            source: returns what makes the events.
            options: those of the run.
            note: what goes with the lease.
        """
        self.options = options
        self._channel = channel
        self._lease = lease
        self._leases = leases
        self._source = source
        self._note = note
        self._phase = _Phase.AT_WORK
        self._feed: SourceFeed | None = None
        self._opening = anyio.CancelScope()
        """Around what is waited for before there's a source."""
        self._waiting: deque[NewEntry] = deque()
        self._turn = 0
        self._events = 0
        self._bytes = 0
        self._owes_sent = False
        """Whether the source waits until what it has made is appended."""
        self._news = anyio.Event()
        self._driven = anyio.Event()
        self._visits = 0
        self.over: anyio.Event = anyio.Event()
        """Set when nothing will be appended any more."""
        self.closed: anyio.Event = anyio.Event()
        """Set when its source is closed, too."""

    @property
    def at_work(self) -> bool:
        """Whether it isn't settled yet how the run ends."""
        return self._phase is _Phase.AT_WORK

    async def run(self, loop: Loop) -> None:
        """Make the events of the run; return when it has ended and its source is closed."""
        try:
            # A lifespan that is cancelled ends its runs, too, before its tasks are over.
            with anyio.CancelScope(shield=True):
                await self._run(loop)
        finally:
            self._finish()
            self.closed.set()

    async def _run(self, loop: Loop) -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._append)
            tasks.start_soon(self._renew)
            if self.options.on_abandon == "cancel":
                tasks.start_soon(self._notice_readers)
            tasks.start_soon(self._drive, loop)
            await self._driven.wait()
            await self.over.wait()
            tasks.cancel_scope.cancel()

    def end(self, end: RunEnd) -> None:
        """Have the run end so, unless it has ended; what was made until now comes before."""
        if self._phase is not _Phase.AT_WORK:
            return
        self._phase = _Phase.ENDING
        if frame := last_frame(self.options, end, self._channel.encode):
            self._queue(frame)
        self._queue(b"", closing_key(end.status, self._lease.holder))
        self._stop_source()

    def give_up(self) -> None:
        """Append nothing any more: somebody else has the lease."""
        if self._phase is not _Phase.OVER:
            self._finish()
            self._stop_source()

    def release(self) -> None:
        """Don't wait for what can't be interrupted: a step in a thread."""
        if self._feed is not None:
            self._feed.release()

    def _stop_source(self) -> None:
        self._opening.cancel()
        if self._feed is not None:
            self._feed.stop()
            self._feed.sent()

    # The source.

    async def _drive(self, loop: Loop) -> None:
        # In a task of its own, which is over when the source is: it may have been cancelled.
        task = loop.current_task()
        try:
            await self._run_source(loop)
        except BaseException as exc:
            error = _failure_in(exc, thrown_away=task is None or loop.current_task() is not task)
            if error is None:
                raise
            self._fail(error)
        finally:
            self._driven.set()

    async def _run_source(self, loop: Loop) -> None:
        try:
            content = await self._open()
        except Exception as exc:
            self._fail(exc)
            return
        if content is None:
            return
        self._feed = feed = SourceFeed(
            content,
            self._channel.encode,
            loop,
            sep="\r\n",
            cleanup_timeout=_CLEANUP_SECONDS,
            joins=False,
        )
        feed.open(self._take)
        if not self.at_work:
            feed.stop()
        await feed.run()
        self._take()
        if feed.error is not None:
            self._fail(feed.error)
        self.end(RunEnd(RunStatus.DONE, "end"))

    async def _open(self) -> object | None:
        """Return what makes the events; None: the run has ended before there was any."""
        made: object = self._source()
        if isawaitable(made):
            with self._opening:
                made = await made
            if self._opening.cancelled_caught:
                return None
        if is_one_event(made) or not (isinstance(made, AsyncIterable) or is_iterable(made)):
            raise TypeError(
                f"{self._source!r} has returned {type(made).__name__}: the source of a run is a function that "
                "returns an async or sync iterable of events, such as a generator function."
            )
        return made

    def _fail(self, error: Exception) -> None:
        _log_failure(self._channel.name, error, of_cleanup=not self.at_work)
        self.end(RunEnd(RunStatus.FAILED, "error", error))

    def _take(self) -> None:
        """Take what the source has made; it may be called in its task."""
        feed = self._feed
        assert feed is not None  # noqa: S101  (it's what calls this)
        while frames := feed.take():
            for frame in split_frames(frames):
                if not self.at_work:
                    return
                self._events += 1
                self._bytes += len(frame)
                if self._events > self._note.max_events or self._bytes > self._note.max_bytes:
                    logger.warning(
                        "run %r is ended: it has more than the %s events or %s bytes that it may have "
                        "(max_events, max_bytes)",
                        self._channel.name,
                        self._note.max_events,
                        self._note.max_bytes,
                        extra={"sse_event": "run_too_large", "sse_run": self._channel.name},
                    )
                    self.end(RunEnd(RunStatus.FAILED, "limit"))
                    return
                self._queue(frame)
            if len(self._waiting) >= _AHEAD_EVENTS:
                self._owes_sent = True
                return
            feed.sent()

    def _queue(self, frame: bytes, key: str | None = None) -> None:
        """Append it, at once where that needs no waiting."""
        self._turn += 1
        holder = self._lease.holder
        key = key or f"{holder}.{self._turn}"
        entry = NewEntry(frame, key, _KEY_SECONDS, holder, self._turn)
        try:
            if not self._leases.append_now(self._channel.name, entry, holder=holder):
                self._waiting.append(entry)
                self._news.set()
            elif not frame:
                self._finish()
        except LeaseLostError:
            self.give_up()

    def _finish(self) -> None:
        self._phase = _Phase.OVER
        self._news.set()
        self.over.set()

    # The event log.

    async def _append(self) -> None:
        """Append what waits, in order, until the run is over."""
        pause = _FIRST_PAUSE_SECONDS
        told = False
        while self._phase is not _Phase.OVER:
            if not self._waiting:
                if self._owes_sent and self._feed is not None:
                    self._owes_sent = False
                    self._feed.sent()
                    continue
                self._news = anyio.Event()
                await self._news.wait()
                continue
            batch = first_batch(self._waiting, _BATCH_EVENTS, _BATCH_BYTES)
            try:
                await self._append_batch(batch)
            except LeaseLostError:
                self.give_up()
            except Exception as exc:
                # What it was is said once; whether it was added is found out by trying it again.
                if not told:
                    told = True
                    if isinstance(exc, LogUnavailable):
                        logger.warning(
                            "run %r waits for its event log: %s",
                            self._channel.name,
                            exc,
                            extra={"sse_event": "run_waits", "sse_run": self._channel.name},
                        )
                    else:
                        logger.exception(
                            "run %r can't be appended to",
                            self._channel.name,
                            extra={"sse_event": "run_not_appended", "sse_run": self._channel.name},
                        )
                await anyio.sleep(pause)
                pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)
            else:
                pause, told = _FIRST_PAUSE_SECONDS, False
                for _ in batch:
                    self._waiting.popleft()
                if not batch[-1].body:
                    self._finish()

    async def _append_batch(self, batch: list[NewEntry]) -> None:
        outcomes = await self._leases.append_leased(
            self._channel.name, batch, holder=self._lease.holder, limits=self._note.limits
        )
        for outcome in outcomes:
            if isinstance(outcome, LogUnavailable):
                raise outcome
            if isinstance(outcome, Exception):
                raise LeaseLostError from outcome  # Somebody has closed the channel.

    async def _renew(self) -> None:
        """Renew the lease until it's lost, or the run is over."""
        interval = self._note.lease / RENEWALS_IN_A_LEASE
        while True:
            await anyio.sleep(interval)
            try:
                # One that is slow may be lost; the next one isn't to wait for it.
                with anyio.move_on_after(2 * interval):
                    lease = await self._leases.renew_lease(
                        self._channel.name, self._lease.holder, limits=self._note.limits
                    )
                    self._visits = lease.visits
            except LeaseLostError:
                self.give_up()
                return
            except LogUnavailable:
                continue  # There is a next time.
            except Exception:
                logger.exception(
                    "the lease of run %r can't be renewed",
                    self._channel.name,
                    extra={"sse_event": "lease_not_renewed", "sse_run": self._channel.name},
                )

    async def _notice_readers(self) -> None:
        """End the run when nobody has read it for so long."""
        patience = self.options.abandon_after
        visits, since = 0, anyio.current_time()
        while True:
            await anyio.sleep(min(patience / 4, 1.0))
            now = anyio.current_time()
            if self._channel.has_subscribers or self._visits != visits:
                visits, since = self._visits, now
            elif now - since >= patience:
                self.end(RunEnd(RunStatus.STOPPED, "abandoned"))
                return
