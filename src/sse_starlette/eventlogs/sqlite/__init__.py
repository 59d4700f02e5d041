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

import math
import os
import random
import sqlite3
import threading
import time
from collections import deque
from contextlib import asynccontextmanager, contextmanager, suppress
from functools import partial
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple, TypeAlias, TypeVar
from urllib.parse import unquote

import anyio
import anyio.to_thread

from sse_starlette._runtime.fork import leave_to_parent
from sse_starlette._runtime.loop import current_loop
from sse_starlette._wire.cursor import new_epoch
from sse_starlette.errors import ChannelClosed, LogRefused, LogUnavailable

from ..base import (
    DEFAULT_BYTES,
    DEFAULT_EVENTS,
    DEFAULT_EXPIRE,
    Backend,
    Beginning,
    Entry,
    Limits,
    NewEntry,
    Page,
    Position,
    checked_epoch,
    last_stretch,
)
from ._forks import gate

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence

    from sse_starlette._runtime.loop import Loop

    from ..base import BlockingAppender, Listener

__all__ = ["SQLiteLog"]

T = TypeVar("T")
_Job: TypeAlias = "Callable[[sqlite3.Connection], T]"

_BUSY_SECONDS = 0.02
"""How long SQLite itself waits for another process."""
_LONGEST_PAUSE = 0.02
_FIRST_DELAY = 0.05
_LONGEST_DELAY = 2.0
_FOLLOWERS_SECONDS = 1.0
"""How long an entry is there to be heard, at the least."""
_TRIM_EVERY = 32
_HEADS_AT_ONCE = 500
_NUMBERS_AT_ONCE = 500
_MOST_TOGETHER = 256
_KEYS_KEPT_SECONDS = 120.0
_MOST_AHEAD_SECONDS = 60.0
"""By how much the clock of another process may be ahead; what was made later is of no known age."""
_LONGEST_KEY_SECONDS = 4_000.0
"""How long a key is remembered at the most."""
_BELIEVED_AFTER_SECONDS = 4_000.0
"""How long a clock must have been ahead of what it was set from until things expire by it."""
_LARGEST = 2**62
"""More than any number of events or bytes, and less than SQLite can count."""
_TOUCH_AT = 0.9
"""The part of a channel's remaining time below which a look prolongs it: most looks only read."""

# Names and keys are BLOBs: they may be text that UTF-8 can't carry. A channel whose history is renewed
# gets a new id, so an id stands for one name and one epoch for ever. The columns that are looked at
# alone come before the body, which may be long.
_SCHEMA = """
CREATE TABLE IF NOT EXISTS sse_channels (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    name BLOB NOT NULL UNIQUE,
    epoch TEXT NOT NULL,
    head INTEGER NOT NULL,
    closed INTEGER NOT NULL,
    expires REAL NOT NULL
);
CREATE INDEX IF NOT EXISTS sse_channels_by_expiry ON sse_channels (expires);
CREATE TABLE IF NOT EXISTS sse_entries (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    channel INTEGER NOT NULL,
    "offset" INTEGER NOT NULL,
    made REAL NOT NULL,
    key BLOB NOT NULL,
    body BLOB NOT NULL
);
CREATE UNIQUE INDEX IF NOT EXISTS sse_entries_by_offset ON sse_entries (channel, "offset");
CREATE TABLE IF NOT EXISTS sse_keys (
    name BLOB NOT NULL,
    key BLOB NOT NULL,
    epoch TEXT NOT NULL,
    "offset" INTEGER NOT NULL,
    expires REAL NOT NULL,
    UNIQUE (name, key)
);
CREATE INDEX IF NOT EXISTS sse_keys_by_expiry ON sse_keys (expires);
CREATE TABLE IF NOT EXISTS sse_limits (
    name BLOB NOT NULL UNIQUE,
    events INTEGER,
    bytes INTEGER,
    seconds REAL,
    expire REAL
);
CREATE TABLE IF NOT EXISTS sse_sizes (channel INTEGER PRIMARY KEY, bytes INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS sse_format (version INTEGER NOT NULL);
INSERT INTO sse_format SELECT 1 WHERE NOT EXISTS (SELECT 1 FROM sse_format);
INSERT OR REPLACE INTO sse_sizes
    SELECT channel, sum(length(body)) FROM sse_entries GROUP BY channel
"""
# Triggers, so that what an older version of this package adds and deletes is counted, too.
_TRIGGERS = (
    """
CREATE TRIGGER IF NOT EXISTS sse_entries_added AFTER INSERT ON sse_entries BEGIN
    INSERT INTO sse_sizes VALUES (new.channel, length(new.body))
        ON CONFLICT (channel) DO UPDATE SET bytes = bytes + length(new.body);
END
""",
    """
CREATE TRIGGER IF NOT EXISTS sse_entries_deleted AFTER DELETE ON sse_entries BEGIN
    UPDATE sse_sizes SET bytes = bytes - length(old.body) WHERE channel = old.channel;
END
""",
)
_FORMAT = 1
"""Version of what is stored; a file of a newer one is refused."""

# Everything of it is there, or it's made: another program may have dropped a table.
_HAS_SCHEMA = """
SELECT count(*) = 11 FROM sqlite_master WHERE name IN ('sse_channels', 'sse_channels_by_expiry',
    'sse_entries', 'sse_entries_by_offset', 'sse_keys', 'sse_keys_by_expiry', 'sse_limits', 'sse_sizes',
    'sse_format', 'sse_entries_added', 'sse_entries_deleted')
"""

# CROSS JOIN keeps this order: from the few entries that are new to those who watch, not the reverse.
_NEW_ENTRIES = """
SELECT c.name, CAST(c.epoch AS BLOB), e."offset", e.key, e.body
FROM sse_entries AS e CROSS JOIN sse_channels AS c ON c.id = e.channel
CROSS JOIN temp.watched AS w ON w.name = c.name
WHERE e.number > ? AND e.number <= ? ORDER BY e.number
"""


def _bytes(text: str) -> bytes:
    # Any text may be a name, half of a surrogate pair too.
    return text.encode("utf-8", "surrogatepass")


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "surrogatepass")


class _Now(NamedTuple):
    """What time it is."""

    wall: float
    """As the clock of the host says."""
    sure: float
    """What has expired by then, has expired whether the clock was set or not."""


class _Clock:
    """
    The clock of the host, which somebody may set.

    One that is set ahead would have everything expire at once, though it may be set back in a moment, and
    a history is gone for good. So a leap isn't believed before it has lasted.
    """

    def __init__(self) -> None:
        self._ahead = time.time() - time.monotonic()
        """By how much it's ahead of the one that nobody sets."""
        self._doubted_since: float | None = None

    def now(self) -> _Now:
        """Look at it."""
        wall, steady = time.time(), time.monotonic()
        ahead = wall - steady
        if ahead <= self._ahead + _MOST_AHEAD_SECONDS:
            self._ahead, self._doubted_since = ahead, None
        elif self._doubted_since is None:
            self._doubted_since = steady
        elif steady - self._doubted_since > _BELIEVED_AFTER_SECONDS:
            self._ahead, self._doubted_since = ahead, None
        return _Now(wall, min(wall, steady + self._ahead))


def _entry(offset: int, key: object, body: object) -> Entry:
    if not isinstance(key, bytes) or not isinstance(body, bytes):
        raise TypeError("the key or the body of an entry is of another type")
    return Entry(offset, _text(key), body)


class _Channel(NamedTuple):
    """A row of the table of channels."""

    id: int
    epoch: str
    head: int
    closed: int
    expires: float


class _Append:
    """Entries that wait to be added, and what became of them."""

    def __init__(self, channel: str, entries: Sequence[NewEntry], limits: Limits) -> None:
        self.channel = channel
        self.entries = entries
        self.limits = limits
        self.outcome: list[Position | Exception] | Exception | None = None
        self.given_up = False
        """Whether whoever asked for it has gone."""


class SQLiteLog(Backend):
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
        self._path = _path_of(path)
        self._timeout = timeout
        self._poll = poll
        self._synchronous = synchronous
        self._file: _File | None = None
        self._clock = _Clock()
        self._lock = anyio.Lock()
        self._thread = anyio.CapacityLimiter(1)
        self._waiting: deque[_Append] = deque()
        self._watched: dict[str, int] = {}
        self._counter = count()
        self._follower: _Follower | None = None

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        self._file = _File(self._path, self._synchronous)
        self._clock = _Clock()
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

    async def append(
        self, channel: str, body: bytes, *, key: str, key_seconds: float, limits: Limits
    ) -> Position:
        entry = NewEntry(body, key, key_seconds)
        (outcome,) = await self.append_many(channel, [entry], limits=limits)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    async def append_many(
        self, channel: str, entries: Sequence[NewEntry], *, limits: Limits
    ) -> Sequence[Position | Exception]:
        """
        Add entries; see `Backend.append_many`.

        What is appended at the same time is written together. If the call is cancelled, it returns
        when SQLite does, for a write that has begun can't be called back.
        """
        request = _Append(channel, entries, limits)
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
        self, channel: str, *, after: int, upto: int | None, most: int, limits: Limits
    ) -> Page:
        return await self._use(
            partial(_read, channel, after, upto, most, limits, self._clock), channel
        )

    async def seek(self, channel: str, *, age: float, limits: Limits) -> Beginning:
        return await self._use(partial(_seek, channel, age, limits, self._clock), channel)

    async def heads(self, channels: Sequence[str], *, expire: float | None) -> dict[str, Position]:
        found: dict[str, Position] = {}
        for start in range(0, len(channels), _HEADS_AT_ONCE):
            some = channels[start : start + _HEADS_AT_ONCE]
            found |= await self._use(partial(_heads, some, expire, self._clock))
        return found

    async def renew(self, channel: str, epoch: str) -> None:
        await self._use(partial(_renew, channel, epoch), channel)

    async def listen(self, listener: Listener) -> None:
        self._require_open()
        follower = _Follower(
            _File(self._path, self._synchronous),
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
        await self._use(_check)

    def blocking(self) -> BlockingAppender:
        """Return a way to append without an event loop."""
        return _BlockingAppender(_File(self._path, self._synchronous), self._timeout)

    def after_fork(self) -> None:
        # A connection that is closed here takes the locks of the file along.
        leave_to_parent(self._file, self._follower)
        self._file = self._follower = None
        self._waiting = deque()
        self._watched = {}

    # --- Using the file ---------------------------------------------------------------

    def _require_open(self) -> _File:
        if self._file is None:
            raise RuntimeError("the log isn't open: enter `async with log.open():` first")
        return self._file

    async def _use(self, job: _Job[T], channel: str | None = None) -> T:
        return await self._patiently(partial(self._in_thread, job), channel)

    async def _write(self, request: _Append) -> None:
        async with self._lock:
            # Whoever was here before may have taken it along.
            if request.outcome is None:
                await self._run(self._append_all)

    async def _in_thread(self, job: _Job[T]) -> T:
        async with self._lock:
            return await self._run(job)

    async def _run(self, job: _Job[T]) -> T:
        use: Callable[[_Job[T]], T] = self._require_open().use
        return await anyio.to_thread.run_sync(use, job, limiter=self._thread)

    async def _patiently(
        self, attempt: Callable[[], Awaitable[T]], channel: str | None = None
    ) -> T:
        """Try until no other process writes, which leaves room for others between the attempts."""
        file = self._require_open()
        pause = 0.001
        deadline = anyio.current_time() + self._timeout
        while True:
            try:
                return await attempt()
            except _FAILURES as error:
                if not _is_busy(error) or anyio.current_time() > deadline:
                    raise file.explained(error, channel) from error
            # Many processes wait for the same one.
            await anyio.sleep(pause * random.uniform(0.5, 1))  # noqa: S311  (no secret)
            pause = min(2 * pause, _LONGEST_PAUSE)

    # --- Appending, in a thread -------------------------------------------------------

    def _append_all(self, connection: sqlite3.Connection) -> None:
        """Add what waits, in one transaction; all of it or none."""
        taken: list[_Append] = []
        outcomes: list[list[Position | Exception] | Exception] = []
        try:
            # What waits is taken once it's our turn to write: by then there may be more of it.
            with _transaction(connection, "IMMEDIATE"):
                now = self._clock.now()
                count = 0
                while self._waiting and count < _MOST_TOGETHER:
                    request = self._waiting.popleft()
                    if not request.given_up:
                        taken.append(request)
                        outcomes.append(_append_one(connection, request, now, self._require_open()))
                        count += len(request.entries)
                _sweep(connection, now, most=2 * count + 2)
        except BaseException:
            self._waiting.extendleft(reversed(taken))
            raise
        for request, outcome in zip(taken, outcomes, strict=True):
            request.outcome = outcome
        if self._follower is not None:
            self._follower.stir()


def _append_one(
    connection: sqlite3.Connection, request: _Append, now: _Now, file: _File
) -> list[Position | Exception] | Exception:
    """Add what is of one channel, or none of it: others must not suffer from what is wrong there."""
    connection.execute("SAVEPOINT sse_one")
    outcome: list[Position | Exception] | Exception
    try:
        outcome = _append(connection, request, now)
    except (TypeError, ValueError, sqlite3.IntegrityError, sqlite3.DataError) as error:
        connection.execute("ROLLBACK TO sse_one")
        outcome = file.explained(error, request.channel)
    # Any other error takes back the whole transaction.
    connection.execute("RELEASE sse_one")
    return outcome


class _BlockingAppender:
    """A connection of its own, which one thread uses at a time."""

    def __init__(self, file: _File, timeout: float) -> None:
        self._file = file
        self._timeout = timeout
        self._clock = _Clock()
        self._lock = threading.Lock()

    def append(self, channel: str, entry: NewEntry, limits: Limits) -> Position:
        request = _Append(channel, [entry], limits)
        deadline = time.monotonic() + self._timeout
        pause = 0.001
        while True:
            try:
                with self._lock:
                    outcomes = self._file.use(partial(self._write, request))
                break
            except _FAILURES as error:
                if not _is_busy(error) or time.monotonic() > deadline:
                    raise self._file.explained(error, channel) from error
            time.sleep(pause * random.uniform(0.5, 1))  # noqa: S311  (no secret)
            pause = min(2 * pause, _LONGEST_PAUSE)
        outcome = outcomes if isinstance(outcomes, Exception) else outcomes[0]
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    def close(self) -> None:
        with self._lock:
            self._file.close()

    def _write(
        self, request: _Append, connection: sqlite3.Connection
    ) -> list[Position | Exception] | Exception:
        with _transaction(connection, "IMMEDIATE"):
            now = self._clock.now()
            outcomes = _append_one(connection, request, now, self._file)
            _sweep(connection, now, most=4)
            return outcomes


# --- The file -------------------------------------------------------------------------


class _File:
    """A connection to the file that has the path now. Used by one thread at a time."""

    def __init__(self, path: Path, synchronous: str) -> None:
        self.where = f"sqlite:///{path}"
        self._path = path
        self._paths_beside = [Path(f"{path}{end}") for end in ("-wal", "-shm")]
        self._synchronous = synchronous
        self._connection: sqlite3.Connection | None = None
        self.identity: tuple[int, int] | None = None
        """What tells it from another file at the same path."""
        self._beside: list[int] | None = None
        """The same of the files beside it, while it's open. If they go, what is in the file is torn."""
        gate.add(self)

    def use(self, job: _Job[T]) -> T:
        with gate:
            connection = self.connect()
            try:
                return job(connection)
            except sqlite3.Error as error:
                if not _is_busy(error):
                    self.close_at_once()
                raise

    def connect(self) -> sqlite3.Connection:
        """The connection; another one if the file is no longer the one that was opened. In the gate."""
        if self._connection is not None:
            if self.is_the_one():
                return self._connection
            self.close_at_once()
        connection = sqlite3.connect(
            self._path, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False
        )
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute(f"PRAGMA synchronous = {self._synchronous}")
            if not connection.execute(_HAS_SCHEMA).fetchone()[0]:
                with _transaction(connection, "IMMEDIATE"):
                    for statement in (*_SCHEMA.split(";"), *_TRIGGERS):
                        connection.execute(statement)
            (version,) = connection.execute("SELECT max(version) FROM sse_format").fetchone()
            if version != _FORMAT:
                raise _FormatError(f"it was written in format {version}")
            self.identity = self._find()
            self._beside = self._find_beside()
        except BaseException:
            connection.close()
            raise
        self._connection = connection
        return connection

    def is_the_one(self) -> bool:
        """Whether the path still leads to what was opened."""
        try:
            return self._find() == self.identity and self._beside in (None, self._find_beside())
        except OSError:
            return False

    def explained(self, error: Exception, channel: str | None = None) -> LogUnavailable:
        """What callers are told of an error of SQLite or the system."""
        told = _explained(error, self.where, channel)
        told.__cause__ = error
        return told

    def close(self) -> None:
        """Close what is open; may be called twice."""
        with gate:
            self.close_at_once()

    def close_at_once(self) -> None:
        """Do so in the gate, or before a fork."""
        connection, self._connection = self._connection, None
        self._beside = None
        if connection is not None:
            connection.close()

    def _find_beside(self) -> list[int]:
        return [each.stat().st_ino if each.exists() else 0 for each in self._paths_beside]

    def _find(self) -> tuple[int, int]:
        found = self._path.stat()
        return found.st_dev, found.st_ino


@contextmanager
def _transaction(connection: sqlite3.Connection, kind: str) -> Iterator[None]:
    connection.execute(f"BEGIN {kind}")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        # Some errors end it by themselves.
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


class _FormatError(Exception):
    """The file was written by another version of this package."""


_FAILURES = (sqlite3.Error, OSError, TypeError, ValueError, _FormatError)

_REMEDIES = {
    sqlite3.SQLITE_CANTOPEN: "Make its folder, and give this process the right to write there.",
    sqlite3.SQLITE_READONLY: "Give this process the right to write to the file and its folder, on a "
    "file system that isn't mounted read-only.",
    sqlite3.SQLITE_PERM: "Give this process the right to write to the file and its folder.",
    sqlite3.SQLITE_AUTH: "Give this process the right to write to the file and its folder.",
    sqlite3.SQLITE_FULL: "Make room on the disk.",
    sqlite3.SQLITE_NOTADB: "The file isn't a database: name another one, or remove it.",
    sqlite3.SQLITE_CORRUPT: "The file is damaged: restore it, or remove it with -wal and -shm beside it; "
    "clients are told of the gap then.",
    sqlite3.SQLITE_ERROR: "The tables that begin with sse_ are not those of this package: rename them, or "
    "name another file.",
}


def _explained(error: Exception, where: str, channel: str | None) -> LogUnavailable:
    reason = str(error) or type(error).__name__
    if isinstance(error, _FormatError):
        return LogRefused(
            where, reason, "Update this package, in every process that uses the file."
        )
    code = getattr(error, "sqlite_errorcode", None)
    if code is not None and (remedy := _REMEDIES.get(code & 0xFF)):
        return LogRefused(where, reason, remedy)
    if isinstance(error, (TypeError, ValueError, sqlite3.IntegrityError, sqlite3.DataError)):
        remedy = "Delete its row of sse_channels: its clients are told of the gap then."
        return LogRefused(where, f"what is stored can't be understood ({reason})", remedy, channel)
    return LogUnavailable(where, reason)


def _is_busy(error: Exception) -> bool:
    """Whether it's only that another process writes."""
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_OK)
    return code & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


def _path_of(path: str | os.PathLike[str]) -> Path:
    text = os.fspath(path)
    if text.startswith("sqlite:"):
        slashes, _, rest = text.partition("sqlite:///")
        if slashes:
            raise ValueError(
                "the URL of a log in a file is sqlite:///name, or sqlite:////folder/name from the "
                f"root on, not {text!r}"
            )
        text = unquote(rest)
    if not text or text == ":memory:":
        raise ValueError(f"a log in SQLite needs a file, got: {os.fspath(path)!r}")
    # Where it is doesn't change with the working directory.
    return Path(text).absolute()


# --- What is done in a transaction ----------------------------------------------------


def _find(connection: sqlite3.Connection, channel: str, now: _Now) -> _Channel | None:
    row = connection.execute(
        "SELECT id, CAST(epoch AS BLOB), head, closed, expires FROM sse_channels WHERE name = ?",
        (_bytes(channel),),
    ).fetchone()
    if row is None:
        return None
    channel_id, epoch, head, closed, expires = row
    if not isinstance(head, int) or head < 0 or not isinstance(expires, (int, float)):
        raise TypeError("its head or its expiry is of another type")
    found = _Channel(channel_id, checked_epoch(epoch or b""), head, closed, expires)
    return None if found.expires <= now.sure else found


def _make(connection: sqlite3.Connection, channel: str, expires: float) -> _Channel:
    """Begin a history, in place of one that has expired."""
    _forget(connection, "name = ?", _bytes(channel))
    made = _Channel(0, new_epoch(channel), 0, 0, expires)
    cursor = connection.execute(
        "INSERT INTO sse_channels (name, epoch, head, closed, expires) VALUES (?, ?, ?, ?, ?)",
        (_bytes(channel), *made[1:]),
    )
    assert cursor.lastrowid is not None  # noqa: S101  (it's an INSERT)
    return made._replace(id=cursor.lastrowid)


def _forget(connection: sqlite3.Connection, which: str, *values: object) -> None:
    for (channel,) in connection.execute(
        f"SELECT id FROM sse_channels WHERE {which}",  # noqa: S608  (written in this file)
        values,
    ).fetchall():
        connection.execute("DELETE FROM sse_entries WHERE channel = ?", (channel,))
        connection.execute("DELETE FROM sse_channels WHERE id = ?", (channel,))


def _append(
    connection: sqlite3.Connection, request: _Append, now: _Now
) -> list[Position | Exception]:
    name = _bytes(request.channel)
    limits = _effective(connection, name, request.limits)
    expires = now.wall + limits.expire
    outcomes: list[Position | Exception] = []
    channel: _Channel | None = None
    trims = False
    for entry in request.entries:
        key = _bytes(entry.key)
        before = connection.execute(
            'SELECT CAST(epoch AS BLOB), "offset" FROM sse_keys WHERE name = ? AND key = ? AND expires > ?',
            (name, key, now.sure),
        ).fetchone()
        if before is not None:
            outcomes.append(Position(checked_epoch(before[0]), before[1]))
            continue
        if channel is None:
            channel = _find(connection, request.channel, now)
            channel = channel or _make(connection, request.channel, expires)
        if channel.closed:
            outcomes.append(ChannelClosed(request.channel))
            continue
        offset = channel.head + 1
        connection.execute(
            'INSERT INTO sse_entries (channel, "offset", made, key, body) VALUES (?, ?, ?, ?, ?)',
            (channel.id, offset, now.wall, key, entry.body),
        )
        connection.execute(
            "UPDATE sse_channels SET head = ?, closed = ?, expires = ? WHERE id = ?",
            (offset, not entry.body, expires, channel.id),
        )
        connection.execute(
            'INSERT OR REPLACE INTO sse_keys (name, key, epoch, "offset", expires)'
            " VALUES (?, ?, ?, ?, ?)",
            (name, key, channel.epoch, offset, now.wall + entry.key_seconds),
        )
        channel = channel._replace(head=offset, closed=int(not entry.body))
        outcomes.append(Position(channel.epoch, offset))
        trims = trims or offset % _TRIM_EVERY == 0
    if trims and channel is not None:
        _trim(connection, channel.id, channel.head, limits, now)
    return outcomes


class _Effective(NamedTuple):
    """The limits of a channel: those that somebody has given, and the defaults."""

    events: int
    bytes: int
    seconds: float | None
    expire: float


def _limits_of(connection: sqlite3.Connection, name: bytes) -> Limits:
    row = connection.execute(
        "SELECT events, seconds, expire, bytes FROM sse_limits WHERE name = ?", (name,)
    ).fetchone()
    return Limits(*row) if row else Limits()


def _merged(given: Limits, kept: Limits) -> Limits:
    return Limits(
        kept.events if given.events is None else min(given.events, _LARGEST),
        kept.seconds if given.seconds is None else given.seconds,
        kept.expire if given.expire is None else given.expire,
        kept.bytes if given.bytes is None else min(given.bytes, _LARGEST),
    )


def _with_defaults(limits: Limits) -> _Effective:
    return _Effective(
        DEFAULT_EVENTS if limits.events is None else limits.events,
        DEFAULT_BYTES if limits.bytes is None else limits.bytes,
        limits.seconds,
        DEFAULT_EXPIRE if limits.expire is None else limits.expire,
    )


def _effective(connection: sqlite3.Connection, name: bytes, given: Limits) -> _Effective:
    """The limits that count, with those noted that are given here; while writing."""
    kept = _limits_of(connection, name)
    limits = _merged(given, kept)
    if limits != kept:
        connection.execute(
            "INSERT OR REPLACE INTO sse_limits (name, events, seconds, expire, bytes)"
            " VALUES (?, ?, ?, ?, ?)",
            (name, *limits),
        )
    return _with_defaults(limits)


def _trim(
    connection: sqlite3.Connection, channel: int, head: int, limits: _Effective, now: _Now
) -> None:
    """Delete the oldest entries, up to the first one that is to stay."""
    too_old = -math.inf if limits.seconds is None else now.sure - limits.seconds
    # What was made later than now is of another clock: its age isn't known, and it stays for its number
    # or goes with what comes after it.
    ahead = math.inf if limits.seconds is None else now.wall + _MOST_AHEAD_SECONDS
    (first_recent,) = connection.execute(
        'SELECT min("offset") FROM sse_entries WHERE channel = ? AND made > ? AND made <= ?',
        (channel, now.wall - _FOLLOWERS_SECONDS, now.wall + _FOLLOWERS_SECONDS),
    ).fetchone()
    (first_kept,) = connection.execute(
        'SELECT min("offset") FROM sse_entries'
        ' WHERE channel = ? AND "offset" > ? AND made > ? AND made <= ?',
        (channel, head - limits.events, too_old, ahead),
    ).fetchone()
    stays = first_kept or max(1, head - limits.events + 1)
    stays = min(head, _first_within(connection, channel, stays, head, limits.bytes))
    # What was just added is recent.
    stays = min(stays, first_recent)
    connection.execute(
        'DELETE FROM sse_entries WHERE channel = ? AND "offset" < ?', (channel, stays)
    )


def _first_within(
    connection: sqlite3.Connection, channel: int, first: int, head: int, size: int
) -> int:
    """The first from which on the bodies take no more than `size` bytes."""
    row = connection.execute("SELECT bytes FROM sse_sizes WHERE channel = ?", (channel,)).fetchone()
    total = row[0] if row else 0
    if total <= size:
        return first
    # From the oldest on: it's these that go.
    for offset, length in connection.execute(
        'SELECT "offset", length(body) FROM sse_entries WHERE channel = ? ORDER BY "offset"',
        (channel,),
    ):
        if offset >= first and total <= size:
            return int(offset)
        total -= length
    return head


def _sweep(connection: sqlite3.Connection, now: _Now, most: int) -> None:
    """Delete some of what has expired: more than what is added meanwhile."""
    connection.execute(
        "DELETE FROM sse_keys WHERE rowid IN"
        " (SELECT rowid FROM sse_keys WHERE expires <= ? LIMIT ?)",
        (now.sure, most),
    )
    # Those of another clock: they'd be remembered for as long as it was ahead.
    connection.execute(
        "UPDATE sse_keys SET expires = ? WHERE rowid IN"
        " (SELECT rowid FROM sse_keys WHERE expires > ? LIMIT ?)",
        (now.wall + _KEYS_KEPT_SECONDS, now.wall + _LONGEST_KEY_SECONDS, most),
    )
    connection.execute(
        "DELETE FROM sse_limits WHERE name IN"
        " (SELECT name FROM sse_channels WHERE expires <= ? LIMIT 2)",
        (now.sure,),
    )
    _forget(connection, "expires <= ? LIMIT 2", now.sure)


def _nothing(_: sqlite3.Connection) -> None:
    """Only have the file be opened, if it's another one by now."""


def _check(connection: sqlite3.Connection) -> None:
    """Write something, as an append does: a full disk is known only then."""
    with _transaction(connection, "IMMEDIATE"):
        cursor = connection.execute(
            "INSERT INTO sse_channels (name, epoch, head, closed, expires)"
            " SELECT randomblob(16), '', 0, 0, 0"
        )
        for table in ("sse_entries", "sse_keys", "sse_limits"):
            connection.execute(f"SELECT * FROM {table} LIMIT 1").fetchone()  # noqa: S608
        connection.execute("DELETE FROM sse_channels WHERE id = ?", (cursor.lastrowid,))


def _read(
    channel: str,
    after: int,
    upto: int | None,
    most: int,
    given: Limits,
    clock: _Clock,
    connection: sqlite3.Connection,
) -> Page:
    def page(found: _Channel, limits: _Effective, now: _Now) -> Page:
        return _page(connection, found, after, upto, most, limits, now)

    return _look(connection, clock, channel, given, page)


def _seek(
    channel: str, age: float, given: Limits, clock: _Clock, connection: sqlite3.Connection
) -> Beginning:
    def beginning(found: _Channel, limits: _Effective, now: _Now) -> Beginning:
        return _beginning(connection, found, age, limits, now)

    return _look(connection, clock, channel, given, beginning)


def _look(
    connection: sqlite3.Connection,
    clock: _Clock,
    channel: str,
    given: Limits,
    job: Callable[[_Channel, _Effective, _Now], T],
) -> T:
    """Do `job` with the channel, which is made if there's none, and count as having looked."""
    now = clock.now()
    name = _bytes(channel)
    # Most looks find a channel that needs nothing, and don't have to wait for those who write.
    with _transaction(connection, "DEFERRED"):
        found = _find(connection, channel, now)
        kept = _limits_of(connection, name)
        limits = _with_defaults(kept)
        if (
            found is not None
            and _merged(given, kept) == kept
            and not _must_touch(found.expires, now.wall, limits.expire)
        ):
            return job(found, limits, now)
    with _transaction(connection, "IMMEDIATE"):
        found = _find(connection, channel, now)
        limits = _effective(connection, name, given)
        if found is None:
            found = _make(connection, channel, now.wall + limits.expire)
        _touch(connection, [found.id], now.wall + limits.expire)
        return job(found, limits, now)


def _beginning(
    connection: sqlite3.Connection,
    channel: _Channel,
    age: float,
    limits: _Effective,
    now: _Now,
) -> Beginning:
    next_one = (
        'SELECT "offset", made FROM sse_entries WHERE channel = ? AND "offset" >= ?'
        ' ORDER BY "offset" LIMIT 1'
    )
    # From `high` on they are young enough, and before `low` they are not.
    high = channel.head + 1
    oldest = connection.execute(next_one, (channel.id, 1)).fetchone()
    if oldest is None:
        # What isn't kept any more at all has gone for its age, or somebody else has taken it.
        complete = channel.head == 0 or (limits.seconds is not None and age <= limits.seconds)
        return Beginning(channel.epoch, channel.head, complete)
    low = first = oldest[0]
    while low < high:
        middle = (low + high) // 2
        row = connection.execute(next_one, (channel.id, middle)).fetchone()
        if row is None or now.sure - row[1] <= age:
            high = middle
        else:
            low = row[0] + 1
    return Beginning(channel.epoch, low - 1, low > first or first == 1)


def _page(
    connection: sqlite3.Connection,
    channel: _Channel,
    after: int,
    upto: int | None,
    most: int,
    limits: _Effective,
    now: _Now,
) -> Page:
    rows = connection.execute(
        'SELECT "offset", key, body FROM sse_entries'
        ' WHERE channel = ? AND "offset" > ? AND "offset" <= ? AND made > ?'
        ' ORDER BY "offset" LIMIT ?',
        (
            channel.id,
            after,
            channel.head if upto is None else upto,
            -math.inf if limits.seconds is None else now.sure - limits.seconds,
            most,
        ),
    )
    entries = last_stretch([_entry(*row) for row in rows])
    return Page(channel.epoch, channel.head, bool(channel.closed), entries)


def _heads(
    channels: Sequence[str],
    expire: float | None,
    clock: _Clock,
    connection: sqlite3.Connection,
) -> dict[str, Position]:
    now = clock.now()
    rows: dict[str, _Channel] = {}
    touched: list[tuple[float, int]] = []
    with _transaction(connection, "DEFERRED"):
        for channel in channels:
            try:
                row = _find(connection, channel, now)
            except (TypeError, ValueError):
                continue  # It's told when somebody looks for this one.
            if row is not None:
                rows[channel] = row
                given = Limits(expire=expire)
                lasts = _with_defaults(
                    _merged(given, _limits_of(connection, _bytes(channel)))
                ).expire
                if _must_touch(row.expires, now.wall, lasts):
                    touched.append((now.wall + lasts, row.id))
    if touched:
        with _transaction(connection, "IMMEDIATE"):
            for expires, channel_id in touched:
                _touch(connection, [channel_id], expires)
    return {channel: Position(row.epoch, row.head) for channel, row in rows.items()}


def _must_touch(expires: float, now: float, expire: float) -> bool:
    # What expires later than it can is of another clock.
    return not _TOUCH_AT * expire <= expires - now <= expire + _MOST_AHEAD_SECONDS


def _touch(connection: sqlite3.Connection, channels: list[int], expires: float) -> None:
    connection.executemany(
        "UPDATE sse_channels SET expires = ? WHERE id = ?",
        [(expires, channel) for channel in channels],
    )


def _renew(channel: str, epoch: str, connection: sqlite3.Connection) -> None:
    # What was appended keeps its key: whoever repeats it is given the position that it had.
    with _transaction(connection, "IMMEDIATE"):
        _forget(connection, "name = ? AND epoch = ?", _bytes(channel), epoch)


# --- Following ------------------------------------------------------------------------


class _Follower:
    """Looks for what is new, in a thread, and passes it on to the task that listens."""

    def __init__(
        self, file: _File, watched: dict[str, int], loop: Loop, *, poll: float, timeout: float
    ) -> None:
        self._file = file
        self._watched = watched
        self._loop = loop
        self._poll = poll
        self._timeout = timeout
        self.lost = False
        """Whether the listener has just been told so."""
        # Set on the loop, looked at in the thread.
        self._stirred = threading.Event()
        self._stopped = threading.Event()
        self._changes: deque[tuple[str, int | None]] = deque()
        # Filled in the thread, emptied on the loop. The thread waits until it has been taken.
        self._calls: deque[Callable[[Listener], None]] = deque()
        self._taken = threading.Event()
        self._wake_up = loop.wake_up()
        # The thread's own.
        self._connection: sqlite3.Connection | None = None
        self._turns: dict[str, int] = {}
        self._version = 0
        self._read_upto = 0

    # --- On the loop ------------------------------------------------------------------

    def change(self, channel: str, turn: int | None) -> None:
        """Have `channel` be watched, and its joining be told of by this number; None: not watched."""
        self._changes.append((channel, turn))
        self._stirred.set()

    def stir(self) -> None:
        """Look now: there's something new. Any thread may call this."""
        self._stirred.set()

    def stop(self) -> None:
        """Have the thread end soon."""
        self._stopped.set()
        self._stirred.set()
        self._taken.set()

    async def news(self) -> list[Callable[[Listener], None]]:
        """Wait for what the listener is to be told; asking again says that it has been."""
        self._taken.set()
        while not self._calls:
            await self._wake_up
        return [self._calls.popleft() for _ in range(len(self._calls))]

    def _join(self, channel: str, turn: int, listener: Listener) -> None:
        # It may have gone and come back since; then this isn't what it waits for.
        if self._watched.get(channel) == turn:
            listener.joined(channel)

    def _hear(self, channel: str, heard: tuple[str, Entry] | None, listener: Listener) -> None:
        if channel in self._watched:
            if heard is not None:
                listener.heard(channel, *heard)
            else:
                listener.stirred(channel)

    # --- In the thread ----------------------------------------------------------------

    def run(self) -> None:
        """Follow the file, and those that take its place, until stopped."""
        delay = _FIRST_DELAY
        told = False
        while not self._stopped.is_set():
            try:
                self._begin()
                delay, told = _FIRST_DELAY, False
                while not self._stopped.is_set():
                    self._look()
                    self._stirred.wait(self._poll)
            except Exception as error:
                if not told:
                    told = True
                    self._tell([partial(self._lose, error)])
                self._stopped.wait(delay)
                delay = min(2 * delay, _LONGEST_DELAY)
            finally:
                self._file.close()

    def _lose(self, error: Exception, listener: Listener) -> None:
        self.lost = True
        listener.lost(self._file.explained(error))

    def _begin(self) -> None:
        """Open the file and watch in it all that is to be watched now."""
        deadline = time.monotonic() + self._timeout
        while True:
            try:
                with gate:
                    self._connection = None
                    self._connect()
                    self._read_upto = self._newest()
            except sqlite3.OperationalError as error:
                if not _is_busy(error) or time.monotonic() > deadline:
                    raise
                self._stopped.wait(_LONGEST_PAUSE)
            else:
                break
        self._turns.clear()
        # In this order: what changes in between is in both, and recognized by its number.
        self._changes.clear()
        self._changes.extend(self._watched.copy().items())

    def _look(self) -> None:
        self._stirred.clear()
        self._must_be_the_one(self._file.identity)
        # What is told is waited for, and nobody waits in the gate.
        if self._changes:
            with gate:
                joined = self._follow_changes() if self._reconnect() else []
            self._tell(joined)
        more = True
        while more and not self._stopped.is_set():
            with gate:
                more, news = self._read_some() if self._reconnect() else (False, [])
            self._tell(news)

    def _connect(self) -> None:
        """Open the file, if it isn't open."""
        connection = self._file.connect()
        if connection is not self._connection:
            connection.execute("PRAGMA temp_store = MEMORY")
            connection.execute("CREATE TEMP TABLE watched (name BLOB PRIMARY KEY) WITHOUT ROWID")
            self._connection = connection
            self._version = -1

    def _reconnect(self) -> bool:
        """Open the file again if it was closed for a fork, and go on; False: not yet."""
        before, identity = self._connection, self._file.identity
        try:
            self._connect()
        except sqlite3.Error as error:
            if not _is_busy(error):
                raise
            return False
        if self._connection is not before:
            self._must_be_the_one(identity)
            self._watch(self._turns)
        return True

    def _must_be_the_one(self, identity: object) -> None:
        if self._file.identity != identity or not self._file.is_the_one():
            raise FileNotFoundError("the file, or -wal or -shm beside it, was deleted or replaced")

    def _watch(self, channels: Iterable[str]) -> None:
        assert self._connection is not None  # noqa: S101  (it's connected)
        names = ([_bytes(channel)] for channel in channels)
        self._connection.executemany("INSERT OR IGNORE INTO temp.watched VALUES (?)", names)

    def _follow_changes(self) -> list[Callable[[Listener], None]]:
        connection = self._connection
        assert connection is not None  # noqa: S101  (it's connected)
        changes = dict(self._changes.popleft() for _ in range(len(self._changes)))
        gone = [channel for channel, turn in changes.items() if turn is None]
        come = {
            channel: turn
            for channel, turn in changes.items()
            if turn is not None and turn != self._turns.get(channel)
        }
        for channel in gone:
            self._turns.pop(channel, None)
        self._turns |= come
        with _transaction(connection, "DEFERRED"):
            names = ([_bytes(channel)] for channel in gone)
            connection.executemany("DELETE FROM temp.watched WHERE name = ?", names)
            self._watch(come)
        return [partial(self._join, channel, turn) for channel, turn in come.items()]

    def _read_some(self) -> tuple[bool, list[Callable[[Listener], None]]]:
        """Read what is new, or as much of it as goes together; say whether there may be more."""
        connection = self._connection
        assert connection is not None  # noqa: S101  (it's connected)
        # Asked before reading: what is written meanwhile changes it again.
        (version,) = connection.execute("PRAGMA data_version").fetchone()
        if version == self._version:
            return False, []
        newest = self._newest()
        upto = min(self._read_upto + _NUMBERS_AT_ONCE, newest)
        rows = connection.execute(_NEW_ENTRIES, (self._read_upto, upto)).fetchall()
        self._read_upto = upto
        if upto == newest:
            self._version = version
        return upto < newest, [
            self._call_of(_text(name), epoch, offset, key, body)
            for name, epoch, offset, key, body in rows
        ]

    def _call_of(
        self, channel: str, epoch: bytes, offset: int, key: bytes, body: bytes
    ) -> Callable[[Listener], None]:
        heard: tuple[str, Entry] | None = None
        # What can't be understood is told when it's read; others are not concerned.
        with suppress(TypeError, ValueError):
            heard = checked_epoch(epoch), _entry(offset, key, body)
        return partial(self._hear, channel, heard)

    def _newest(self) -> int:
        assert self._connection is not None  # noqa: S101  (it's connected)
        (number,) = self._connection.execute("SELECT max(number) FROM sse_entries").fetchone()
        return number or 0

    def _tell(self, calls: list[Callable[[Listener], None]]) -> None:
        """Hand over what the listener is to be told, and wait until it has been."""
        if not calls:
            return
        self._taken.clear()
        self._calls.extend(calls)
        self._loop.knock(self._wake_up.set)
        if not self._stopped.is_set():
            self._taken.wait()
