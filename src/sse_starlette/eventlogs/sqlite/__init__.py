"""A log in a file, for the processes of one host; nothing but the standard library and anyio.

SQLite has nobody that tells others of a change, so one thread looks every few milliseconds whether
there was one, which costs a few microseconds, and reads what is new. What a change here must keep:

- No call of SQLite on the event loop: each may wait for the disk.
- A connection is used by one thread at a time: that of the log by whoever holds its lock, that of the
  follower by its thread alone. The follower has one of its own because a connection isn't told of its
  own changes.
- Nothing waits for another process inside SQLite for longer than a moment: waiting is done on the
  loop, where it can be cancelled.
- The process may be forked at any time, so all that uses a connection is done in the gate.
- An entry is kept until every follower has had the time to read it, whatever the limits say.
"""

from __future__ import annotations

import time
from collections import deque
from contextlib import asynccontextmanager, suppress
from functools import partial
from itertools import count
from typing import TYPE_CHECKING, Literal, TypeVar

import anyio
import anyio.to_thread

from ..._runtime.fork import leave_to_parent
from ..._runtime.loop import current_loop
from ...errors import LogUnavailable
from ..base import BatchingBackend, Beginning, NewEntry, Page, Position
from ..leases import Lease, Leases
from ._appending import BlockingSQLiteAppender, PendingAppend, append_one
from ._clock import Clock
from ._faults import FAILURES
from ._figures import read_figures
from ._file import BusyWait, DatabaseFile, path_of, transaction
from ._follower import Follower
from ._leases import LeaseAsked, find_leases, renew_lease, take_lease
from ._reading import check, find_beginning, find_heads, read_page, renew
from ._retention import sweep

if TYPE_CHECKING:
    import os
    import sqlite3
    from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence

    from ..base import BlockingAppender, ChannelFigures, Limits, Listener
    from ._file import Job

__all__ = ["SQLiteLog"]

T = TypeVar("T")

_HEADS_AT_ONCE = 500
_MOST_TOGETHER = 256


class SQLiteLog(Leases, BatchingBackend):
    """
    A log in an SQLite file, for processes on one host; on asyncio and trio.

    ```python
    SQLiteLog("sqlite:///events.db")  # in the working directory
    SQLiteLog("sqlite:////var/lib/app/events.db")
    SQLiteLog(Path("events.db"))
    ```

    The file must be on a disk of this host: network file systems don't lock well enough. It may have
    tables of the application's own beside those that begin with `sse_`. Whoever deletes it deletes the
    files beside it, `-wal` and `-shm`, as well; the log then begins anew.
    """

    keeps_times = True

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        timeout: float = 5.0,
        poll: float = 0.015,
        synchronous: Literal["full", "normal"] = "full",
    ) -> None:
        """
        Name the file; it isn't opened before `open`.

        Args:
            path: the file, or its URL; made if there's none. Its folder must exist.
            timeout: seconds to wait for other processes that write.
            poll: seconds between two looks for what other processes have appended: how late that is
                heard. 0.015 costs about 1 % of a processor. What this process appends is heard at
                once.
            synchronous: `"full"`: an event that was published survives a power cut; `"normal"`: the
                newest ones may not, which spares a wait for the disk. Those that come after them then
                have the same ids, and a client that had the lost ones isn't told. Neither loses
                anything when only the processes die.

        Raises:
            ValueError: the URL can't be understood, or an argument is out of range.
        """
        for name, seconds in (("timeout", timeout), ("poll", poll)):
            if not seconds > 0:
                raise ValueError(f"{name} must be > 0 seconds, got: {seconds}")
        if synchronous not in ("full", "normal"):
            raise ValueError(f'synchronous must be "full" or "normal", got: {synchronous!r}')
        self._path = path_of(path)
        self._timeout = timeout
        self._poll = poll
        self._synchronous = synchronous
        self._file: DatabaseFile | None = None
        self._clock = Clock()
        self._lock = anyio.Lock()
        self._thread = anyio.CapacityLimiter(1)
        self._waiting: deque[PendingAppend] = deque()
        self._watched: dict[str, int] = {}
        self._counter = count()
        self._follower: Follower | None = None

    def __repr__(self) -> str:
        return f"<SQLiteLog {self._path}>"

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        self._file = DatabaseFile(self._path, self._synchronous)
        self._clock = Clock()
        self._lock = anyio.Lock()
        self._thread = anyio.CapacityLimiter(1)
        file = self._file
        try:
            yield
        finally:
            if self._file is file:
                self._file = None
            with anyio.CancelScope(shield=True):
                # Whoever was cancelled may still be at it.
                async with self._lock:
                    await anyio.to_thread.run_sync(file.close, limiter=self._thread)

    async def append_many(
        self, channel: str, entries: Sequence[NewEntry], *, limits: Limits
    ) -> Sequence[Position | Exception]:
        """
        Add entries; see `Backend.append_many`.

        What is appended at the same time is written together. If the call is cancelled, it returns
        when SQLite does, for a write that has begun can't be called back.
        """
        return await self._append(PendingAppend(channel, entries, limits))

    async def append_leased(
        self, channel: str, entries: Sequence[NewEntry], *, holder: str, limits: Limits
    ) -> Sequence[Position | Exception]:
        return await self._append(PendingAppend(channel, entries, limits, holder))

    async def _append(self, request: PendingAppend) -> Sequence[Position | Exception]:
        self._waiting.append(request)
        try:
            while request.outcome is None:
                await self._patiently(partial(self._write, request))
        except Exception as error:
            # Whatever it is, the others would each wait for it anew.
            request.outcome = error
            while self._waiting:
                self._waiting.popleft().outcome = error
        finally:
            request.given_up = True
        if isinstance(request.outcome, list):
            return request.outcome
        assert request.outcome is not None  # noqa: S101  (whoever takes it says what became of it)
        raise request.outcome

    async def read(
        self, channel: str, *, after: int, until: int | None, limit: int, limits: Limits
    ) -> Page:
        return await self._use(
            partial(read_page, channel, after, until, limit, limits, self._clock), channel
        )

    async def seek(self, channel: str, *, age: float, limits: Limits) -> Beginning:
        asked = time.monotonic()

        def find(connection: sqlite3.Connection) -> Beginning:
            # The wait for the thread makes what is wanted older, or else its first events would be missed.
            waited = time.monotonic() - asked
            return find_beginning(channel, age + waited, limits, self._clock, connection)

        return await self._use(find, channel)

    async def heads(self, channels: Sequence[str], *, expire: float | None) -> dict[str, Position]:
        found: dict[str, Position] = {}
        for start in range(0, len(channels), _HEADS_AT_ONCE):
            some = channels[start : start + _HEADS_AT_ONCE]
            found |= await self._use(partial(find_heads, some, expire, self._clock))
        return found

    async def figures(self, channels: Sequence[str] | None = None) -> list[ChannelFigures]:
        return await self._use(partial(read_figures, channels, self._clock))

    async def renew(self, channel: str, epoch: str) -> None:
        await self._use(partial(renew, channel, epoch), channel)

    async def take_lease(
        self,
        channel: str,
        *,
        holder: str,
        replaces: int,
        renewals: int | None,
        note: bytes,
        anew: bool,
        limits: Limits,
    ) -> Lease:
        asked = LeaseAsked(channel, holder, replaces, renewals, note, anew, limits)
        return await self._use(partial(take_lease, asked, self._clock), channel)

    async def renew_lease(self, channel: str, holder: str, *, limits: Limits) -> Lease:
        return await self._use(partial(renew_lease, channel, holder, limits, self._clock), channel)

    async def find_leases(
        self, channels: Sequence[str], *, visited: Collection[str] = ()
    ) -> dict[str, Lease]:
        return await self._use(partial(find_leases, channels, visited, self._clock))

    async def listen(self, listener: Listener) -> None:
        self._require_open()
        follower = Follower(
            DatabaseFile(self._path, self._synchronous),
            self._watched,
            current_loop(),
            poll=self._poll,
            timeout=self._timeout,
        )
        # A thread for as long as it takes: not one of those that the application shares.
        limiter = anyio.CapacityLimiter(1)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(partial(anyio.to_thread.run_sync, follower.run, limiter=limiter))
            self._follower = follower
            try:
                while True:
                    for call in await follower.news():
                        call(listener)
                    if follower.lost:
                        follower.lost = False
                        # What is open of a file that has gone keeps others from opening the next one.
                        with suppress(LogUnavailable):
                            await self._use(_nothing)
            finally:
                self._follower = None
                follower.stop()

    def watch(self, channel: str) -> None:
        if channel not in self._watched:
            self._watched[channel] = turn = next(self._counter)
            if self._follower is not None:
                self._follower.change(channel, turn)

    def unwatch(self, channel: str) -> None:
        if self._watched.pop(channel, None) is not None and self._follower is not None:
            self._follower.change(channel, None)

    async def check(self) -> None:
        await self._use(check)

    def blocking(self) -> BlockingAppender:
        """Return a way to append without an event loop."""
        return BlockingSQLiteAppender(DatabaseFile(self._path, self._synchronous), self._timeout)

    def after_fork(self) -> None:
        # A connection that is closed here takes the locks of the file along.
        leave_to_parent(self._file, self._follower)
        self._file = self._follower = None
        self._waiting = deque()
        self._watched = {}

    # --- Using the file ---------------------------------------------------------------

    def _require_open(self) -> DatabaseFile:
        if self._file is None:
            raise RuntimeError("the log isn't open: enter `async with log.open():` first")
        return self._file

    async def _use(self, job: Job[T], channel: str | None = None) -> T:
        return await self._patiently(partial(self._in_thread, job), channel)

    async def _write(self, request: PendingAppend) -> None:
        async with self._lock:
            # Whoever was here before may have taken it along.
            if request.outcome is None:
                await self._run(self._append_all)

    async def _in_thread(self, job: Job[T]) -> T:
        async with self._lock:
            return await self._run(job)

    async def _run(self, job: Job[T]) -> T:
        use: Callable[[Job[T]], T] = self._require_open().use
        return await anyio.to_thread.run_sync(use, job, limiter=self._thread)

    async def _patiently(
        self, attempt: Callable[[], Awaitable[T]], channel: str | None = None
    ) -> T:
        """Try until no other process writes, which leaves room for others between the attempts."""
        waiting = BusyWait(self._require_open(), self._timeout, anyio.current_time, channel)
        while True:
            try:
                return await attempt()
            except FAILURES as error:
                pause = waiting.pause_after(error)
            await anyio.sleep(pause)

    # --- Appending, in a thread -------------------------------------------------------

    def _append_all(self, connection: sqlite3.Connection) -> None:
        """Add what waits, in one transaction; all of it or none."""
        taken: list[PendingAppend] = []
        outcomes: list[list[Position | Exception] | Exception] = []
        try:
            # What waits is taken once it's our turn to write: by then there may be more of it.
            with transaction(connection, "IMMEDIATE"):
                now = self._clock.now()
                count = 0
                while self._waiting and count < _MOST_TOGETHER:
                    request = self._waiting.popleft()
                    if not request.given_up:
                        taken.append(request)
                        outcomes.append(append_one(connection, request, now, self._require_open()))
                        count += len(request.entries)
                sweep(connection, now, most=2 * count + 2)
        except BaseException:
            self._waiting.extendleft(reversed(taken))
            raise
        for request, outcome in zip(taken, outcomes, strict=True):
            request.outcome = outcome
        if self._follower is not None:
            self._follower.notify()


def _nothing(_: sqlite3.Connection) -> None:
    """Only have the file be opened, if it's another one by now."""
