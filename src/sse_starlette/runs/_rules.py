"""Whether a run is alive, has ended, may be started again: rules of values, without a loop or a clock.

What a change here must keep: a lease that stands still is believed to be dead only by who has watched it without
a break. Who could not look, or was stopped itself, begins to watch anew.
"""

from __future__ import annotations

from enum import Enum, auto
from typing import TYPE_CHECKING, NamedTuple

from ._options import RunStatus

if TYPE_CHECKING:
    from collections.abc import Collection

    from ..eventlogs.leases import Lease

LOOK_SECONDS = 0.5
"""Seconds between two looks at the leases of others."""
_BREAK_SECONDS = 3 * LOOK_SECONDS
"""Seconds between two looks from which on nobody was watching."""
RENEWALS_IN_A_LEASE = 5
"""How often a lease is renewed in the time after which it's taken for dead."""
_CLOSING = "run-end:"


class Verdict(Enum):
    """What is known of a run after a look."""

    WATCHING = auto()
    """Nothing yet: it has been watched for too short a time."""
    ALIVE = auto()
    """Its lease has been renewed since the look before."""
    LOST = auto()
    """Its lease has stood still for too long."""
    ENDED = auto()
    """It has ended."""


class Sighting(NamedTuple):
    """A lease that stands still, as far as it has been watched."""

    token: int
    """0: there is no lease any more."""
    renewals: int
    since: float
    """When it was first seen so."""
    looked: float
    """When it was looked at last."""


def judge(
    before: Sighting | None, lease: Lease | None, now: float, patience: float
) -> tuple[Sighting, Verdict]:
    """
    Say what is known of a run.

    Args:
        before: what was seen at the look before; None: there was none, or it failed.
        lease: what is seen now; None: the event log has forgotten the run.
        now: the time, on the clock of who watches.
        patience: seconds for which a lease may stand still.
    """
    token, renewals = (0, 0) if lease is None else (lease.token, lease.renewals)
    sighting = Sighting(token, renewals, now, now)
    if lease is not None and lease.closed_by:
        return sighting, Verdict.ENDED
    if before is None or now - before.looked > _BREAK_SECONDS:
        return sighting, Verdict.WATCHING
    if (before.token, before.renewals) != (token, renewals):
        return sighting, Verdict.WATCHING if lease is None else Verdict.ALIVE
    sighting = before._replace(looked=now)
    return sighting, Verdict.LOST if now - before.since >= patience else Verdict.WATCHING


def closing_key(status: RunStatus, holder: str) -> str:
    """The key of the entry that closes the channel of a run."""
    return f"{_CLOSING}{status}:{holder}"


def status_of(lease: Lease) -> RunStatus:
    """How a run stands by what the event log says; one that is `RUNNING` may be lost by now."""
    if not lease.closed_by:
        return RunStatus.RUNNING
    if lease.closed_by.startswith(_CLOSING):
        found = lease.closed_by.removeprefix(_CLOSING).partition(":")[0]
        if found in (status.value for status in RunStatus):
            return RunStatus(found)
    return RunStatus.LOST  # Somebody else has closed the channel.


def may_start(lease: Lease | None, restart: Collection[RunStatus | str]) -> bool:
    """Whether a call starts a run, rather than join the one that there is."""
    if lease is None:
        return True
    status = status_of(lease)
    return status is not RunStatus.RUNNING and status in restart
