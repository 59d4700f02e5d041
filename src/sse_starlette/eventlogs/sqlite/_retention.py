"""What of a channel is kept, and for how long: its limits, what is trimmed, what has expired.

An entry is kept until every follower has had the time to read it, whatever the limits say.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

from ..base import DEFAULT_BYTES, DEFAULT_EVENTS, DEFAULT_EXPIRE, Limits
from ._clock import MOST_AHEAD_SECONDS
from ._tables import forget

if TYPE_CHECKING:
    import sqlite3

    from ._clock import Now

_FOLLOWERS_SECONDS = 1.0
"""How long an entry is there to be heard, at the least."""
_KEYS_KEPT_SECONDS = 120.0
_LONGEST_KEY_SECONDS = 4_000.0
"""How long a key is remembered at the most."""
_LARGEST = 2**62
"""More than any number of events or bytes, and less than SQLite can count."""
_TOUCH_AT = 0.9
"""The part of a channel's remaining time below which a look prolongs it: most looks only read."""


class EffectiveLimits(NamedTuple):
    """The limits of a channel: those that somebody has given, and the defaults."""

    events: int
    bytes: int
    seconds: float | None
    expire: float


def limits_of(connection: sqlite3.Connection, name: bytes) -> Limits:
    """What somebody has said of this channel."""
    row = connection.execute(
        "SELECT events, seconds, expire, bytes FROM sse_limits WHERE name = ?", (name,)
    ).fetchone()
    return Limits(*row) if row else Limits()


def merged_limits(given: Limits, kept: Limits) -> Limits:
    """What is kept once these have been given."""
    return Limits(
        kept.events if given.events is None else min(given.events, _LARGEST),
        kept.seconds if given.seconds is None else given.seconds,
        kept.expire if given.expire is None else given.expire,
        kept.bytes if given.bytes is None else min(given.bytes, _LARGEST),
    )


def with_defaults(limits: Limits) -> EffectiveLimits:
    """Put the defaults where nobody has said anything."""
    return EffectiveLimits(
        DEFAULT_EVENTS if limits.events is None else limits.events,
        DEFAULT_BYTES if limits.bytes is None else limits.bytes,
        limits.seconds,
        DEFAULT_EXPIRE if limits.expire is None else limits.expire,
    )


def effective_limits(connection: sqlite3.Connection, name: bytes, given: Limits) -> EffectiveLimits:
    """The limits that count, with those noted that are given here; while writing."""
    kept = limits_of(connection, name)
    limits = merged_limits(given, kept)
    if limits != kept:
        connection.execute(
            "INSERT OR REPLACE INTO sse_limits (name, events, seconds, expire, bytes)"
            " VALUES (?, ?, ?, ?, ?)",
            (name, *limits),
        )
    return with_defaults(limits)


def trim(
    connection: sqlite3.Connection, channel: int, head: int, limits: EffectiveLimits, now: Now
) -> None:
    """Delete the oldest entries, up to the first one that is to stay."""
    too_old = -math.inf if limits.seconds is None else now.sure - limits.seconds
    # What was made later than now is of another clock: its age isn't known, and it stays for its number
    # or goes with what comes after it.
    ahead = math.inf if limits.seconds is None else now.wall + MOST_AHEAD_SECONDS
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


def sweep(connection: sqlite3.Connection, now: Now, most: int) -> None:
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
    forget(connection, "expires <= ? LIMIT 2", now.sure)


def must_touch(expires: float, now: float, expire: float) -> bool:
    """Whether a look is to prolong what expires at this time."""
    # What expires later than it can is of another clock.
    return not _TOUCH_AT * expire <= expires - now <= expire + MOST_AHEAD_SECONDS


def touch(connection: sqlite3.Connection, channels: list[int], expires: float) -> None:
    """Have these channels expire at this time."""
    connection.executemany(
        "UPDATE sse_channels SET expires = ? WHERE id = ?",
        [(expires, channel) for channel in channels],
    )
