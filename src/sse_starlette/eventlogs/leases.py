"""The contract of leases: who alone may append to a channel, across all processes.

An event log that has them besides (`Backend`) can keep runs. What a change here must keep:

- A lease is taken in one step with the look whether that may be done, so two never have it.
- Each time that it's taken it has another holder. An append names its holder, and is refused in the very step that
  would have stored it if there's another one by then: who has lost a lease writes nothing more, whatever it
  believes, and however long it was stopped.
- No clock decides. Who has a lease renews it, which is counted; who wants to take it over has seen the count
  stand still. `age` is a hint, for who may look closer.
- Whatever is asked may be asked twice.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from .base import Limits, NewEntry, Position


__all__ = ["Lease", "LeaseLostError", "Leases"]


class LeaseLostError(Exception):
    """There's another holder by now, or the event log knows of no lease: nothing was appended."""


class Lease(NamedTuple):
    """Who may append to a channel, and how that stands."""

    token: int
    """Grows each time that it's taken; from 1."""
    holder: str
    """A name that is new each time that it's taken."""
    renewals: int
    """How often it was renewed since."""
    visits: int
    """How often somebody has looked who counts as a visitor."""
    age: float
    """Seconds since it was taken or renewed, on the clock of the event log."""
    note: bytes
    """What was left with it when it was taken."""
    closed_by: str
    """The key of the entry that closed the channel; empty: it's open."""


class Leases(ABC):
    """
    The leases of an event log, one for a channel; kept and forgotten with the channel's history.

    Whatever waits may be cancelled, and raises what `Backend` does.
    """

    @abstractmethod
    async def take_lease(
        self,
        channel: str,
        *,
        holder: str,
        replaces: int,
        renewals: int | None,
        note: bytes,
        anew: bool,
        limits: Limits,
    ) -> Lease:
        """
        Take the lease if it's still as it was seen; return how it stands then.

        It was taken if the one that is returned has this `holder`; then, too, if it had it before.

        Args:
            channel: the name of the channel.
            holder: a name that nobody else has, and that is new for each lease.
            replaces: the token of the lease that was seen; 0: there was none.
            renewals: how often that had been renewed; None: that doesn't matter.
            note: left with it.
            anew: forget the history of the channel, and begin another one that isn't closed.
            limits: as for `Backend.append`.
        """

    @abstractmethod
    async def renew_lease(self, channel: str, holder: str, *, limits: Limits) -> Lease:
        """
        Count a renewal, and keep the channel from being forgotten.

        Raises:
            LeaseLostError: there's another holder.
        """

    @abstractmethod
    async def find_leases(
        self, channels: Sequence[str], *, visited: Collection[str] = ()
    ) -> dict[str, Lease]:
        """
        Return the leases of those channels that have one.

        Args:
            channels: their names.
            visited: those of them that somebody is listening to, which is counted.
        """

    @abstractmethod
    async def append_leased(
        self, channel: str, entries: Sequence[NewEntry], *, holder: str, limits: Limits
    ) -> Sequence[Position | Exception]:
        """
        Do what `Backend.append_many` does, if `holder` has the lease; it's the writer of the entries, too.

        Raises:
            LeaseLostError: there's another holder.
        """

    def append_now(self, channel: str, entry: NewEntry, *, holder: str) -> bool:  # noqa: ARG002
        """
        Do what `append_leased` does with one entry, without waiting; False: that has to be waited for.

        Raises:
            LeaseLostError: there's another holder, or the channel is closed.
        """
        return False
