"""What SQLite says when something is wrong, what it means, and who can mend it."""

from __future__ import annotations

import sqlite3

from ...errors import LogRefused, LogUnavailable


class FormatError(Exception):
    """The file was written by another version of this package."""


FAILURES = (sqlite3.Error, OSError, TypeError, ValueError, FormatError)

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


def explained(error: Exception, where: str, channel: str | None) -> LogUnavailable:
    """What callers are told of an error of SQLite or the system."""
    reason = str(error) or type(error).__name__
    if isinstance(error, FormatError):
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


def is_busy(error: Exception) -> bool:
    """Whether it's only that another process writes."""
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_OK)
    return code & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
