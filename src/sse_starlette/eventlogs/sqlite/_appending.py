"""How entries are added: what is done in the transaction, and a way to do it without an event loop."""

from __future__ import annotations

import sqlite3
import threading
import time
from functools import partial
from typing import TYPE_CHECKING

from ...errors import ChannelClosed
from .._stored_text import to_bytes
from ..base import Position, checked_epoch
from ..leases import LeaseLostError
from ._clock import Clock
from ._faults import FAILURES
from ._file import BusyWait, transaction
from ._leases import has_lease
from ._retention import effective_limits, sweep, trim
from ._tables import find_channel, make_channel

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..base import Limits, NewEntry
    from ._clock import Now
    from ._file import DatabaseFile
    from ._tables import ChannelRow

_TRIM_EVERY = 32


class PendingAppend:
    """Entries that wait to be added, and what became of them."""

    def __init__(
        self,
        channel: str,
        entries: Sequence[NewEntry],
        limits: Limits,
        holder: str | None = None,
    ) -> None:
        self.holder = holder
        """Who must have the lease of the channel; None: nobody."""
        self.channel = channel
        self.entries = entries
        self.limits = limits
        self.outcome: list[Position | Exception] | Exception | None = None
        self.given_up = False
        """Whether whoever asked for it has gone."""


def append_one(
    connection: sqlite3.Connection, request: PendingAppend, now: Now, file: DatabaseFile
) -> list[Position | Exception] | Exception:
    """Add what is of one channel, or none of it: others must not suffer from what is wrong there."""
    connection.execute("SAVEPOINT sse_one")
    outcome: list[Position | Exception] | Exception
    try:
        if request.holder is not None and not has_lease(
            connection, request.channel, request.holder, now
        ):
            outcome = LeaseLostError()
        else:
            outcome = _append_entries(connection, request, now)
    except (TypeError, ValueError, sqlite3.IntegrityError, sqlite3.DataError) as error:
        connection.execute("ROLLBACK TO sse_one")
        outcome = file.explained(error, request.channel)
    # Any other error takes back the whole transaction.
    connection.execute("RELEASE sse_one")
    return outcome


def _append_entries(
    connection: sqlite3.Connection, request: PendingAppend, now: Now
) -> list[Position | Exception]:
    name = to_bytes(request.channel)
    limits = effective_limits(connection, name, request.limits)
    expires = now.wall + limits.expire
    outcomes: list[Position | Exception] = []
    channel: ChannelRow | None = None
    trims = False
    for entry in request.entries:
        key = to_bytes(entry.key)
        before = connection.execute(
            'SELECT CAST(epoch AS BLOB), "offset" FROM sse_keys WHERE name = ? AND key = ? AND expires > ?',
            (name, key, now.sure),
        ).fetchone()
        if before is not None:
            outcomes.append(Position(checked_epoch(before[0]), before[1]))
            continue
        if channel is None:
            channel = find_channel(connection, request.channel, now)
            channel = channel or make_channel(connection, request.channel, expires)
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
        trim(connection, channel.id, channel.head, limits, now)
    return outcomes


class BlockingSQLiteAppender:
    """A connection of its own, which one thread uses at a time."""

    def __init__(self, file: DatabaseFile, timeout: float) -> None:
        self._file = file
        self._timeout = timeout
        self._clock = Clock()
        self._lock = threading.Lock()

    def append(self, channel: str, entry: NewEntry, limits: Limits) -> Position:
        request = PendingAppend(channel, [entry], limits)
        waiting = BusyWait(self._file, self._timeout, time.monotonic, channel)
        while True:
            try:
                with self._lock:
                    outcomes = self._file.use(partial(self._write, request))
                break
            except FAILURES as error:
                pause = waiting.pause_after(error)
            time.sleep(pause)
        outcome = outcomes if isinstance(outcomes, Exception) else outcomes[0]
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    def close(self) -> None:
        with self._lock:
            self._file.close()

    def _write(
        self, request: PendingAppend, connection: sqlite3.Connection
    ) -> list[Position | Exception] | Exception:
        with transaction(connection, "IMMEDIATE"):
            now = self._clock.now()
            outcomes = append_one(connection, request, now, self._file)
            sweep(connection, now, most=4)
            return outcomes
