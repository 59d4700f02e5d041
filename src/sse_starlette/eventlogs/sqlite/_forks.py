"""Keeps SQLite out of forks: no process is forked while it's at work, nor with an open file of a log.

SQLite notes in the memory of a process which locks of a file it has, those of all connections together. A
child has the notes and not the locks: where its parent was writing it finds the file locked for ever, and
where both only have it open each may take the other's part of it away. Closing an inherited file takes
the parent's locks along. So the files of logs are closed before a fork, in the parent, which opens them
again when it needs them.

Importing this registers nothing with Python; the first file does.
"""

from __future__ import annotations

import os
import threading
import weakref
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from types import TracebackType

_LONGEST_WAIT_SECONDS = 10.0
"""How long a fork waits for what SQLite is at."""


class File(Protocol):
    """What is closed before a fork."""

    def close_at_once(self) -> None:
        """Close what is open; it's opened again when it's needed."""


class Gate:
    """A `with` block that uses files of logs, side by side with others, and not while the process is forked."""

    def __init__(self, longest_wait: float = _LONGEST_WAIT_SECONDS) -> None:
        self._longest_wait = longest_wait
        # Not a WeakSet: one that another thread was changing at the fork may not be gone through.
        self._files: dict[weakref.ref[File], None] = {}
        self._registered = False
        self._begin()

    def _begin(self) -> None:
        self._changed = threading.Condition()
        self._inside = 0
        self._mine = threading.local()
        self._forks = 0

    def add(self, file: File) -> None:
        """Have `file` closed before each fork, as long as somebody else holds on to it."""
        if not self._registered:
            self._registered = True
            if hasattr(os, "register_at_fork"):  # Not on Windows, which doesn't fork.
                os.register_at_fork(
                    before=self.before_fork,
                    after_in_parent=self.after_fork_in_parent,
                    after_in_child=self._begin,
                )
        self._files[weakref.ref(file, self._forget)] = None

    def _forget(self, file: weakref.ref[File]) -> None:
        self._files.pop(file, None)

    def __enter__(self) -> None:
        depth = getattr(self._mine, "depth", 0)
        with self._changed:
            # What else this thread does before a fork need not wait for it.
            while self._forks and not depth and not getattr(self._mine, "forks", 0):
                self._changed.wait()
            self._inside += 1
        self._mine.depth = depth + 1

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._mine.depth -= 1
        with self._changed:
            self._inside -= 1
            self._changed.notify_all()

    def before_fork(self) -> None:
        """Wait until nobody is inside, let nobody in, and close what is open."""
        # Who forks while it's inside itself, in a handler of a signal, can't wait for its own leaving.
        own = getattr(self._mine, "depth", 0)
        with self._changed:
            self._forks += 1
            self._mine.forks = getattr(self._mine, "forks", 0) + 1
            empty = self._changed.wait_for(lambda: self._inside <= own, self._longest_wait)
        if empty and not own:
            for file in filter(None, [reference() for reference in list(self._files)]):
                file.close_at_once()

    def after_fork_in_parent(self) -> None:
        """Let in those who wait."""
        with self._changed:
            self._forks -= 1
            self._mine.forks -= 1
            self._changed.notify_all()


gate = Gate()
