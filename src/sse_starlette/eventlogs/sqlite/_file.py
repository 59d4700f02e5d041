"""The file: which one has the path, a connection to it, a transaction on that."""

from __future__ import annotations

import os
import random
import sqlite3
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias, TypeVar
from urllib.parse import unquote

from ._faults import FormatError, explained, is_busy
from ._forks import gate
from ._tables import FORMAT, HAS_SCHEMA, SCHEMA, TRIGGERS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ...errors import LogUnavailable


T = TypeVar("T")
Job: TypeAlias = "Callable[[sqlite3.Connection], T]"

_BUSY_SECONDS = 0.02
"""How long SQLite itself waits for another process."""
LONGEST_PAUSE = 0.02
"""Seconds between two attempts to write, at the most."""


class DatabaseFile:
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

    def use(self, job: Job[T]) -> T:
        """Do `job` with the connection, in the gate."""
        with gate:
            connection = self.connect()
            try:
                return job(connection)
            except sqlite3.Error as error:
                if not is_busy(error):
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
            if not connection.execute(HAS_SCHEMA).fetchone()[0]:
                with transaction(connection, "IMMEDIATE"):
                    for statement in (*SCHEMA.split(";"), *TRIGGERS):
                        connection.execute(statement)
            (version,) = connection.execute("SELECT max(version) FROM sse_format").fetchone()
            if version != FORMAT:
                raise FormatError(f"it was written in format {version}")
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
        told = explained(error, self.where, channel)
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


class BusyWait:
    """Attempts to write, until no other process does, which leaves room for others between them."""

    def __init__(
        self,
        file: DatabaseFile,
        timeout: float,
        now: Callable[[], float],
        channel: str | None = None,
    ) -> None:
        self._file = file
        self._now = now
        self._channel = channel
        self._deadline = now() + timeout
        self._pause = 0.001

    def pause_after(self, error: Exception) -> float:
        """Return the seconds until the next attempt; raise what callers are told if there's none."""
        if not is_busy(error) or self._now() > self._deadline:
            raise self._file.explained(error, self._channel) from error
        pause, self._pause = self._pause, min(2 * self._pause, LONGEST_PAUSE)
        # Many processes wait for the same one.
        return pause * random.uniform(0.5, 1)  # noqa: S311  (no secret)


@contextmanager
def transaction(connection: sqlite3.Connection, kind: str) -> Iterator[None]:
    """Do all of the block or nothing of it; `kind` is that of BEGIN."""
    connection.execute(f"BEGIN {kind}")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        # Some errors end it by themselves.
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def path_of(path: str | os.PathLike[str]) -> Path:
    """Where the file of this path or URL is; ValueError if that can't be understood."""
    text = os.fspath(path)
    if text.startswith("sqlite:"):
        slashes, _, rest = text.partition("sqlite:///")
        if slashes:
            raise ValueError(
                "the URL of a log in a file is sqlite:///name, or sqlite:////folder/name from the "
                f"root on, not {text!r}"
            )
        if "?" in rest:
            raise ValueError(
                f"the URL of a log in a file has no options, got: {text!r}. Give them to SQLiteLog, and write a ? "
                "that belongs to the name as %3F"
            )
        text = unquote(rest)
    if "\0" in text:
        raise ValueError(f"no file has a NUL in its name, got: {os.fspath(path)!r}")
    if not text or text == ":memory:":
        raise ValueError(f"a log in SQLite needs a file, got: {os.fspath(path)!r}")
    # Where it is doesn't change with the working directory.
    return Path(text).absolute()
