"""What is asked of the leases of runs, for as long as publishing is tried again; and how the run of another ends.

It knows neither producers nor who reads.
"""

from __future__ import annotations

import secrets
import time
from functools import partial
from typing import TYPE_CHECKING, TypeVar

import anyio

from ..errors import LogRefused, LogUnavailable
from ..eventlogs.base import NewEntry
from ..eventlogs.leases import LeaseLostError
from ._rules import closing_key

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from ..eventlogs.leases import Lease, Leases
    from ._options import RunNote, RunStatus

T = TypeVar("T")

_PAUSE_SECONDS = 0.05
_KEY_SECONDS = 3_600.0


class RunLedger:
    """The leases of one hub's runs; on the loop of its lifespan."""

    def __init__(self, leases: Leases, wait: float) -> None:
        """
        Ask nothing yet.

        Args:
            leases: where they are.
            wait: seconds for which it's tried again while they are out of reach.
        """
        self.leases = leases
        self.wait = wait

    async def look(self, name: str) -> Lease | None:
        """The lease of the run whose channel has this name; None: there's no run."""
        found = await self._patiently(partial(self.leases.find_leases, [name]))
        return found.get(name)

    async def take(
        self, name: str, seen: Lease | None, note: RunNote, *, anew: bool, renewed: bool = False
    ) -> Lease | None:
        """
        Take the lease as it was seen; None: somebody else was faster.

        Args:
            name: the name of the channel.
            seen: how it was seen.
            note: what goes with it.
            anew: whether a new history begins.
            renewed: whether it may have been renewed since.
        """
        holder = secrets.token_urlsafe(9)
        lease = await self._patiently(
            partial(
                self.leases.take_lease,
                name,
                holder=holder,
                replaces=0 if seen is None else seen.token,
                renewals=None if seen is None or renewed else seen.renewals,
                note=note.encode(),
                anew=anew,
                limits=note.limits,
            )
        )
        return lease if lease.holder == holder else None

    async def end_for_another(
        self, name: str, seen: Lease | None, note: RunNote, status: RunStatus, *, renewed: bool
    ) -> bool:
        """Take the lease from whoever has it, and end the run; False: somebody else was faster."""
        taken = await self.take(name, seen, note, anew=False, renewed=renewed)
        if taken is None:
            return False
        holder = taken.holder
        entries = [NewEntry(b"", closing_key(status, holder), _KEY_SECONDS, holder, 2)]
        if frame := note.last_frames.get(status):
            entries.insert(0, NewEntry(frame, f"{holder}.1", _KEY_SECONDS, holder, 1))
        append = partial(
            self.leases.append_leased, name, entries, holder=holder, limits=note.limits
        )
        try:
            await self._patiently(append)
        except LeaseLostError:
            return False
        return True

    async def _patiently(self, call: Callable[[], Awaitable[T]]) -> T:
        until = time.monotonic() + self.wait
        while True:
            try:
                return await call()
            except LogRefused:
                raise
            except LogUnavailable:
                if time.monotonic() >= until:
                    raise
            await anyio.sleep(_PAUSE_SECONDS)
