"""The leases of an event log in Redis."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Any

from ..base import DEFAULT_EXPIRE
from ..leases import Lease, LeaseLostError, Leases
from ._lease_scripts import LOOK, PARTS, RENEW_LEASE, TAKE
from ._scripts import milliseconds

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from ..base import Limits
    from ._commands import Commands
    from ._protocol import Names

_LOOKS_AT_ONCE = 300


class RedisLeases(Leases):
    """What `RedisLog` does with leases."""

    _names: Names

    @abstractmethod
    def _opened(self) -> Commands:
        """The commands of the log, which is open."""

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
        arguments: list[Any] = [holder, replaces, "" if renewals is None else renewals, note]
        found: Lease = await self._opened().run(
            TAKE,
            self._names.keys(channel),
            *arguments,
            "1" if anew else "0",
            _lasts(limits),
            parts=PARTS,
            parse=lease_in,
            channel=channel,
        )
        return found

    async def renew_lease(self, channel: str, holder: str, *, limits: Limits) -> Lease:
        found: Lease = await self._opened().run(
            RENEW_LEASE,
            self._names.keys(channel),
            holder,
            _lasts(limits),
            parts=PARTS,
            parse=lease_in,
            channel=channel,
        )
        if found.holder != holder:
            raise LeaseLostError
        return found

    async def find_leases(
        self, channels: Sequence[str], *, visited: Collection[str] = ()
    ) -> dict[str, Lease]:
        found: dict[str, Lease] = {}
        for start in range(0, len(channels), _LOOKS_AT_ONCE):
            some = channels[start : start + _LOOKS_AT_ONCE]
            asked = {
                name: (self._names.keys(name), ("1" if name in visited else "0",)) for name in some
            }
            found |= await self._opened().run_each(LOOK, asked, parts=PARTS, parse=lease_in)
        return {name: lease for name, lease in found.items() if lease.token}


def lease_in(parts: list[Any]) -> Lease:
    """What the scripts have answered."""
    token, holder, renewals, visits, age, note, closed_by = parts
    return Lease(
        int(token),
        holder.decode(),
        int(renewals),
        int(visits),
        int(age) / 1000,
        note,
        closed_by.decode("utf-8", "replace"),
    )


def _lasts(limits: Limits) -> int:
    return milliseconds(DEFAULT_EXPIRE if limits.expire is None else limits.expire) + 1_000
