"""Learns what others have appended: a thread that looks for it and a task that passes it on.

The thread has a connection of its own, for one isn't told of its own changes.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from collections import deque
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

from .._stored_text import to_bytes, to_text
from ..base import checked_epoch
from ._faults import is_busy
from ._file import LONGEST_PAUSE, transaction
from ._forks import gate
from ._tables import entry_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from ..._runtime.loop import Loop
    from ..base import Entry, Listener
    from ._file import DatabaseFile

_FIRST_DELAY = 0.05
_LONGEST_DELAY = 2.0
_NUMBERS_AT_ONCE = 500

# CROSS JOIN keeps this order: from the few entries that are new to those who watch, not the reverse.
_NEW_ENTRIES = """
SELECT c.name, CAST(c.epoch AS BLOB), e."offset", e.key, e.body
FROM sse_entries AS e CROSS JOIN sse_channels AS c ON c.id = e.channel
CROSS JOIN temp.watched AS w ON w.name = c.name
WHERE e.number > ? AND e.number <= ? ORDER BY e.number
"""


class Follower:
    """Looks for what is new, in a thread, and passes it on to the task that listens."""

    def __init__(
        self,
        file: DatabaseFile,
        watched: dict[str, int],
        loop: Loop,
        *,
        poll: float,
        timeout: float,
    ) -> None:
        self._file = file
        self._watched = watched
        self._loop = loop
        self._poll = poll
        self._timeout = timeout
        self.lost = False
        """Whether the listener has just been told so."""
        # Set on the loop, looked at in the thread.
        self._notified = threading.Event()
        self._stopped = threading.Event()
        self._changes: deque[tuple[str, int | None]] = deque()
        # Filled in the thread, emptied on the loop. The thread waits until it has been taken.
        self._calls: deque[Callable[[Listener], None]] = deque()
        self._taken = threading.Event()
        self._wake_up = loop.waker()
        # The thread's own.
        self._connection: sqlite3.Connection | None = None
        self._turns: dict[str, int] = {}
        self._version = 0
        self._read_until = 0

    # --- On the loop ------------------------------------------------------------------

    def change(self, channel: str, turn: int | None) -> None:
        """Have `channel` be watched, and its joining be told of by this number; None: not watched."""
        self._changes.append((channel, turn))
        self._notified.set()

    def notify(self) -> None:
        """Look now: there's something new. Any thread may call this."""
        self._notified.set()

    def stop(self) -> None:
        """Have the thread end soon."""
        self._stopped.set()
        self._notified.set()
        self._taken.set()

    async def news(self) -> list[Callable[[Listener], None]]:
        """Wait for what the listener is to be told; asking again says that it has been."""
        self._taken.set()
        while not self._calls:
            await self._wake_up
        return [self._calls.popleft() for _ in range(len(self._calls))]

    def _tell_subscribed(self, channel: str, turn: int, listener: Listener) -> None:
        # It may have gone and come back since; then this isn't what it waits for.
        if self._watched.get(channel) == turn:
            listener.subscribed(channel)

    def _tell_received(
        self, channel: str, received: tuple[str, Entry] | None, listener: Listener
    ) -> None:
        if channel in self._watched:
            if received is not None:
                listener.received(channel, *received)
            else:
                listener.notified(channel)

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
                    self._notified.wait(self._poll)
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
                    self._read_until = self._newest()
            except sqlite3.OperationalError as error:
                if not is_busy(error) or time.monotonic() > deadline:
                    raise
                self._stopped.wait(LONGEST_PAUSE)
            else:
                break
        self._turns.clear()
        # In this order: what changes in between is in both, and recognized by its number.
        self._changes.clear()
        self._changes.extend(self._watched.copy().items())

    def _look(self) -> None:
        self._notified.clear()
        self._must_be_the_one(self._file.identity)
        # What is told is waited for, and nobody waits in the gate.
        if self._changes:
            with gate:
                subscribed = self._follow_changes() if self._reconnect() else []
            self._tell(subscribed)
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
            if not is_busy(error):
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
        names = ([to_bytes(channel)] for channel in channels)
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
        with transaction(connection, "DEFERRED"):
            names = ([to_bytes(channel)] for channel in gone)
            connection.executemany("DELETE FROM temp.watched WHERE name = ?", names)
            self._watch(come)
        return [partial(self._tell_subscribed, channel, turn) for channel, turn in come.items()]

    def _read_some(self) -> tuple[bool, list[Callable[[Listener], None]]]:
        """Read what is new, or as much of it as goes together; say whether there may be more."""
        connection = self._connection
        assert connection is not None  # noqa: S101  (it's connected)
        # Asked before reading: what is written meanwhile changes it again.
        (version,) = connection.execute("PRAGMA data_version").fetchone()
        if version == self._version:
            return False, []
        newest = self._newest()
        until = min(self._read_until + _NUMBERS_AT_ONCE, newest)
        rows = connection.execute(_NEW_ENTRIES, (self._read_until, until)).fetchall()
        self._read_until = until
        if until == newest:
            self._version = version
        return until < newest, [
            self._call_of(to_text(name), epoch, offset, key, body)
            for name, epoch, offset, key, body in rows
        ]

    def _call_of(
        self, channel: str, epoch: bytes, offset: int, key: bytes, body: bytes
    ) -> Callable[[Listener], None]:
        received: tuple[str, Entry] | None = None
        # What can't be understood is told when it's read; others are not concerned.
        with suppress(TypeError, ValueError):
            received = checked_epoch(epoch), entry_of(offset, key, body)
        return partial(self._tell_received, channel, received)

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
        self._loop.call_soon_threadsafe(self._wake_up.set)
        if not self._stopped.is_set():
            self._taken.wait()
