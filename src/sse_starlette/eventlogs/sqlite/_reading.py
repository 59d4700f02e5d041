"""What a log in a file is asked, but for appending: what is done in the transaction."""

from __future__ import annotations

import math
from contextlib import contextmanager
from typing import TYPE_CHECKING

from .._stored_text import to_bytes
from ..base import Beginning, Limits, Page, Position, last_stretch
from ._file import transaction
from ._retention import (
    effective_limits,
    limits_of,
    merged_limits,
    must_touch,
    touch,
    with_defaults,
)
from ._tables import entry_of, find_channel, forget, make_channel

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterator, Sequence

    from ._clock import Clock, Now
    from ._retention import EffectiveLimits
    from ._tables import ChannelRow


def check(connection: sqlite3.Connection) -> None:
    """Write something, as an append does: a full disk is known only then."""
    with transaction(connection, "IMMEDIATE"):
        cursor = connection.execute(
            "INSERT INTO sse_channels (name, epoch, head, closed, expires)"
            " SELECT randomblob(16), '', 0, 0, 0"
        )
        for table in ("sse_entries", "sse_keys", "sse_limits"):
            connection.execute(f"SELECT * FROM {table} LIMIT 1").fetchone()  # noqa: S608
        connection.execute("DELETE FROM sse_channels WHERE id = ?", (cursor.lastrowid,))


@contextmanager
def _look(
    connection: sqlite3.Connection, clock: Clock, channel: str, given: Limits
) -> Iterator[tuple[ChannelRow, EffectiveLimits, Now]]:
    """A transaction with the channel, which is made if there's none; it counts as having looked."""
    now = clock.now()
    name = to_bytes(channel)
    # Most looks find a channel that needs nothing, and don't have to wait for those who write.
    with transaction(connection, "DEFERRED"):
        found = find_channel(connection, channel, now)
        kept = limits_of(connection, name)
        limits = with_defaults(kept)
        if (
            found is not None
            and merged_limits(given, kept) == kept
            and not must_touch(found.expires, now.wall, limits.expire)
        ):
            yield found, limits, now
            return
    with transaction(connection, "IMMEDIATE"):
        found = find_channel(connection, channel, now)
        limits = effective_limits(connection, name, given)
        if found is None:
            found = make_channel(connection, channel, now.wall + limits.expire)
        touch(connection, [found.id], now.wall + limits.expire)
        yield found, limits, now


def read_page(
    channel: str,
    after: int,
    until: int | None,
    limit: int,
    given: Limits,
    clock: Clock,
    connection: sqlite3.Connection,
) -> Page:
    """Do what `Backend.read` does."""
    with _look(connection, clock, channel, given) as (found, limits, now):
        rows = connection.execute(
            'SELECT "offset", key, body FROM sse_entries'
            ' WHERE channel = ? AND "offset" > ? AND "offset" <= ? AND made > ?'
            ' ORDER BY "offset" LIMIT ?',
            (
                found.id,
                after,
                found.head if until is None else until,
                -math.inf if limits.seconds is None else now.sure - limits.seconds,
                limit,
            ),
        )
        entries = last_stretch([entry_of(*row) for row in rows])
        return Page(found.epoch, found.head, bool(found.closed), entries)


def find_beginning(
    channel: str, age: float, given: Limits, clock: Clock, connection: sqlite3.Connection
) -> Beginning:
    """Do what `Backend.seek` does."""
    with _look(connection, clock, channel, given) as (found, limits, now):
        return _beginning(connection, found, age, limits, now)


def _beginning(
    connection: sqlite3.Connection,
    channel: ChannelRow,
    age: float,
    limits: EffectiveLimits,
    now: Now,
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


def find_heads(
    channels: Sequence[str],
    expire: float | None,
    clock: Clock,
    connection: sqlite3.Connection,
) -> dict[str, Position]:
    """Do what `Backend.heads` does."""
    now = clock.now()
    rows: dict[str, ChannelRow] = {}
    touched: list[tuple[float, int]] = []
    with transaction(connection, "DEFERRED"):
        for channel in channels:
            try:
                row = find_channel(connection, channel, now)
            except (TypeError, ValueError):
                continue  # It's told when somebody looks for this one.
            if row is not None:
                rows[channel] = row
                given = Limits(expire=expire)
                lasts = with_defaults(
                    merged_limits(given, limits_of(connection, to_bytes(channel)))
                ).expire
                if must_touch(row.expires, now.wall, lasts):
                    touched.append((now.wall + lasts, row.id))
    if touched:
        with transaction(connection, "IMMEDIATE"):
            for expires, channel_id in touched:
                touch(connection, [channel_id], expires)
    return {channel: Position(row.epoch, row.head) for channel, row in rows.items()}


def renew(channel: str, epoch: str, connection: sqlite3.Connection) -> None:
    """Do what `Backend.renew` does."""
    # What was appended keeps its key: whoever repeats it is given the position that it had.
    with transaction(connection, "IMMEDIATE"):
        forget(connection, "name = ? AND epoch = ?", to_bytes(channel), epoch)
