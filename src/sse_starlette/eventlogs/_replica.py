"""What is kept in step with an event log: a channel, as far as the log's side knows it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from ._publish_queue import PublishedTo

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .base import Beginning, Entry


class Replica(PublishedTo, Protocol):
    """A channel's copy in this process."""

    @property
    def epoch(self) -> str:
        """The history that the channel knows; empty: none yet."""

    @property
    def head(self) -> int:
        """The offset of the newest entry that it knows."""

    @property
    def refreshes_requested(self) -> int:
        """How often somebody has wanted a look into the log."""

    @property
    def refreshes_completed(self) -> int:
        """How many of these have had it."""

    def doubtful(self) -> tuple[int, dict[object, str]] | None:
        """Return the head that the channel began with, and what may have been added before, with its keys."""

    def cleared(self, appends: Mapping[object, str], entries: list[Entry]) -> None:
        """Take note of which of these are among the entries before that head."""

    def refreshed(self, requested: int) -> None:
        """Let those go on who had requested it by then."""

    def reset(self, epoch: str, head: int, *, closed: bool) -> None:
        """Go on with another history."""

    def emit(self, entries: list[Entry]) -> None:
        """Take the entries that come after the head."""

    def skip(self, to: int) -> None:
        """Go on after `to`; what comes before it can't be had."""

    def wanted(self) -> tuple[int, int] | None:
        """Return the stretch before what the channel has that somebody waits for: after, until."""

    def sought(self) -> float | None:
        """Return a time, on the monotonic clock, at which somebody wants to begin."""

    def sought_is(self, when: float, found: Beginning) -> None:
        """Take where that is."""

    def fill(self, entries: list[Entry], after: int, until: int) -> None:
        """Take what the log has between these two."""

    def look(self) -> None:
        """Have all subscriptions look."""

    def release_if_idle(self) -> bool:
        """Forget everything if nobody listens any more; say so."""

    def release(self) -> None:
        """Forget everything; those who listen end."""
