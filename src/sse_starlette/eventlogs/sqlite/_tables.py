"""What is stored, and how: the tables of a log, the statements that make them, a channel's row.

Owns the format of the file. Knows neither who reads and appends nor how the file is reached: it is handed a
connection in a transaction.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from ..._wire.cursor import new_epoch
from .._stored_text import to_bytes, to_text
from ..base import Entry, checked_epoch

if TYPE_CHECKING:
    import sqlite3

    from ._clock import Now


# Names and keys are BLOBs: they may be text that UTF-8 can't carry. A channel whose history is renewed
# gets a new id, so an id stands for one name and one epoch for ever. The columns that are looked at
# alone come before the body, which may be long.
SCHEMA = """
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
CREATE TABLE IF NOT EXISTS sse_leases (
    channel INTEGER PRIMARY KEY,
    token INTEGER NOT NULL,
    holder TEXT NOT NULL,
    renewals INTEGER NOT NULL,
    visits INTEGER NOT NULL,
    renewed REAL NOT NULL,
    note BLOB NOT NULL
);
CREATE TABLE IF NOT EXISTS sse_sizes (channel INTEGER PRIMARY KEY, bytes INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS sse_format (version INTEGER NOT NULL);
INSERT INTO sse_format SELECT 1 WHERE NOT EXISTS (SELECT 1 FROM sse_format);
INSERT OR REPLACE INTO sse_sizes
    SELECT channel, sum(length(body)) FROM sse_entries GROUP BY channel
"""
# Triggers, so that what an older version of this package adds and deletes is counted, too.
TRIGGERS = (
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
FORMAT = 1
"""Version of what is stored; a file of a newer one is refused."""

# Everything of it is there, or it's made: another program may have dropped a table.
HAS_SCHEMA = """
SELECT count(*) = 12 FROM sqlite_master WHERE name IN ('sse_channels', 'sse_channels_by_expiry',
    'sse_entries', 'sse_entries_by_offset', 'sse_keys', 'sse_keys_by_expiry', 'sse_leases', 'sse_limits', 'sse_sizes',
    'sse_format', 'sse_entries_added', 'sse_entries_deleted')
"""


def entry_of(offset: int, key: object, body: object) -> Entry:
    """An entry from its columns; TypeError if they are of another type."""
    if not isinstance(key, bytes) or not isinstance(body, bytes):
        raise TypeError("the key or the body of an entry is of another type")
    return Entry(offset, to_text(key), body)


class ChannelRow(NamedTuple):
    """A row of the table of channels."""

    id: int
    epoch: str
    head: int
    closed: int
    expires: float


def find_channel(connection: sqlite3.Connection, channel: str, now: Now) -> ChannelRow | None:
    """The channel of this name; None if there's none, or it has expired."""
    row = connection.execute(
        "SELECT id, CAST(epoch AS BLOB), head, closed, expires FROM sse_channels WHERE name = ?",
        (to_bytes(channel),),
    ).fetchone()
    if row is None:
        return None
    channel_id, epoch, head, closed, expires = row
    if not isinstance(head, int) or head < 0 or not isinstance(expires, (int, float)):
        raise TypeError("its head or its expiry is of another type")
    found = ChannelRow(channel_id, checked_epoch(epoch or b""), head, closed, expires)
    return None if found.expires <= now.sure else found


def make_channel(connection: sqlite3.Connection, channel: str, expires: float) -> ChannelRow:
    """Begin a history, in place of one that has expired."""
    forget(connection, "name = ?", to_bytes(channel))
    made = ChannelRow(0, new_epoch(channel), 0, 0, expires)
    cursor = connection.execute(
        "INSERT INTO sse_channels (name, epoch, head, closed, expires) VALUES (?, ?, ?, ?, ?)",
        (to_bytes(channel), *made[1:]),
    )
    assert cursor.lastrowid is not None  # noqa: S101  (it's an INSERT)
    return made._replace(id=cursor.lastrowid)


def forget(connection: sqlite3.Connection, which: str, *values: object) -> None:
    """Delete the channels that this condition is true of, with their entries."""
    for (channel,) in connection.execute(
        f"SELECT id FROM sse_channels WHERE {which}",  # noqa: S608  (written in this package)
        values,
    ).fetchall():
        connection.execute("DELETE FROM sse_entries WHERE channel = ?", (channel,))
        connection.execute("DELETE FROM sse_leases WHERE channel = ?", (channel,))
        connection.execute("DELETE FROM sse_channels WHERE id = ?", (channel,))
