"""Tells those who hold what can't be shared by two processes when theirs is the child of a fork.

Names of histories, locks that another thread held, event loops and connections are the parent's. Whoever
has such a thing registers, and is called in the child before anything else runs there. Importing this
registers nothing with Python; the first owner does.
"""

from __future__ import annotations

import logging
import os
import weakref
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

_logger = logging.getLogger("sse_starlette.hub")


class Owner(Protocol):
    """Who has something that is one process's own."""

    def after_fork(self) -> None:
        """Begin anew: this is the child. Other threads are gone, in the middle of whatever they did."""


# Neither is a WeakSet: one that another thread was changing at the fork may not be gone through.
_owners: dict[weakref.ref[Owner], None] = {}
_calls: list[Callable[[], None]] = []
_left: list[object] = []
_registered = False


def tell_child(owner: Owner) -> None:
    """Have `owner.after_fork` called in each child, as long as somebody else holds on to `owner`."""
    _register()
    _owners[weakref.ref(owner, _forget)] = None


def call_in_child(call: Callable[[], None]) -> None:
    """Have `call` called in each child. Called twice with the same one, it's called once."""
    if call not in _calls:
        _register()
        _calls.append(call)


def leave_to_parent(*things: object) -> None:
    """
    Keep `things` for as long as this process lives, and don't touch them.

    Closing the parent's connections here may close them there: event loops and SQLite share what the
    kernel knows of them.
    """
    _left.extend(things)


def _register() -> None:
    global _registered  # noqa: PLW0603  (it can be done once in a process, and not be undone)
    if not _registered:
        _registered = True
        if hasattr(os, "register_at_fork"):  # Not on Windows, which doesn't fork.
            os.register_at_fork(after_in_child=_after_fork)


def _forget(owner: weakref.ref[Owner]) -> None:
    _owners.pop(owner, None)


def _after_fork() -> None:
    owners = [owner for reference in list(_owners) if (owner := reference()) is not None]
    for call in (*_calls, *(owner.after_fork for owner in owners)):
        try:
            call()
        except Exception:
            # The others are to begin anew all the same.
            _logger.exception(
                "%r failed in the child of a fork", call, extra={"sse_event": "fork_call_failed"}
            )
