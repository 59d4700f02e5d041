"""What the kit says when a stream is wrong: the names of the bugs, and the failure that carries one.

A finding is a fact about bytes or tasks that no correct server produces. Whatever a test merely
expected and did not get has a name too, but nothing to do with `CHECKS`.
"""

from __future__ import annotations

from typing import Final

CHECKS: Final = frozenset(
    {
        "broken protocol",
        "endless event",
        "forbidden header",
        "injected field",
        "leaked task",
        "malformed field",
        "missing header",
        "source not closed",
        "two writers",
        "unfinished body",
        "unfinished event",
        "wrong status",
    }
)
"""The bugs that every stream is looked through for without being asked; see `connect`'s `unchecked`."""


class StreamFailure(AssertionError):  # noqa: N818  (a test has failed)
    """
    A stream is not what it should be; the text says how, and shows what arrived.

    Attributes:
        bug: the name of what is wrong: one of `CHECKS`; `"gap"`, `"duplicate"`, `"wrong cursor"`,
            `"unordered ids"`, `"missing ping"`, `"ping under data"`, `"stalled writer"` where a test
            asked for it; `"no event"`, `"unexpected event"`, `"stream ended"`, `"stream goes on"` or
            `"not blocked"` where a stream did not do what the test waited for.
        details: the sentence after the name.
        arrived: what had arrived by then, as text; empty where nothing is known of it.
    """

    def __init__(self, bug: str, details: str, arrived: str = "") -> None:
        super().__init__(bug, details, arrived)
        self.bug = bug
        self.details = details
        self.arrived = arrived

    def __str__(self) -> str:
        return f"{self.bug}: {self.details}" + (f"\n\n{self.arrived}" if self.arrived else "")
