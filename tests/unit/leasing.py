"""A log in memory that keeps leases, for several hubs in one process; it fails when the test says so."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import anyio
import anyio.lowlevel
from tests.unit.jumping import comes
from tests.unit.logs import FakeLog, FakeStore

from sse_starlette.eventlogs.base import Limits, NewEntry, Position
from sse_starlette.eventlogs.leases import Lease, LeaseLostError, Leases


class LeasingFakeLog(Leases, FakeLog):
    """One process's way to the store, and to its leases."""

    def __init__(self, store: FakeStore | None = None) -> None:
        super().__init__(store)
        self.held: dict[str, tuple[Lease, float]] = self.store.leases
        self.refuses: Exception | None = None
        """What is raised by whatever is done with leases, or by this alone:"""
        self.refused = ""

    def _lease(self, channel: str) -> Lease | None:
        if channel not in self.held:
            return None
        lease, since = self.held[channel]
        closed_by = ""
        shelf = self.store.shelves.get(channel)
        if shelf is not None and shelf.closed:
            closed_by = shelf.entries[-1].key
        return lease._replace(age=anyio.current_time() - since, closed_by=closed_by)

    def lease(self, channel: str) -> Lease:
        """The lease that somebody has taken for this channel."""
        found = self._lease(channel)
        assert found is not None
        return found

    async def asked_again(self, what: str, times: int = 1) -> None:
        """Let time pass until somebody has called this method so often."""
        before = self.store.calls[what]
        await comes(lambda: self.store.calls[what] >= before + times)

    async def _asked(self, what: str) -> None:
        await anyio.lowlevel.checkpoint()
        self._reach(what)
        if self.refuses is not None and self.refused in ("", what):
            raise self.refuses

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
        await self._asked("take_lease")
        lease = self._lease(channel)
        token = 0 if lease is None else lease.token
        if token == replaces and (lease is None or renewals in (None, lease.renewals)):
            if anew:
                self.store.flush(channel)
            self.held[channel] = (
                Lease(token + 1, holder, 0, 0, 0.0, note, ""),
                anyio.current_time(),
            )
        return self._lease(channel) or Lease(0, "", 0, 0, 0.0, b"", "")

    async def renew_lease(self, channel: str, holder: str, *, limits: Limits) -> Lease:
        await self._asked("renew_lease")
        lease = self._lease(channel)
        if lease is None or lease.holder != holder:
            raise LeaseLostError
        renewed = lease._replace(renewals=lease.renewals + 1)
        self.held[channel] = renewed, anyio.current_time()
        return renewed

    async def find_leases(
        self, channels: Sequence[str], *, visited: Collection[str] = ()
    ) -> dict[str, Lease]:
        await self._asked("find_leases")
        found = {name: lease for name in channels if (lease := self._lease(name)) is not None}
        for name in set(visited) & set(found):
            lease, since = self.held[name]
            self.held[name] = lease._replace(visits=lease.visits + 1), since
        return found

    async def append_leased(
        self, channel: str, entries: Sequence[NewEntry], *, holder: str, limits: Limits
    ) -> Sequence[Position | Exception]:
        await self._asked("append_leased")
        lease = self._lease(channel)
        if lease is None or lease.holder != holder:
            raise LeaseLostError
        return await self.append_many(channel, entries, limits=limits)
