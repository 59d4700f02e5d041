"""The leases of runs that are in this process alone, and how long their events are kept.

Nobody else can take them, so what is left is to know them, to refuse a token that counts no more, and to forget.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import anyio
import anyio.lowlevel

from ..channels._memory import MemoryChannel
from ..channels.channel import Channel, state_of
from ..errors import ChannelClosed
from ..eventlogs.base import Position
from ..eventlogs.leases import Lease, LeaseLostError, Leases
from ._options import RunNote

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from ..eventlogs.base import Limits, NewEntry


_SWEEP_SECONDS = 5.0


class _Held:
    """A lease, and the channel, which is held so that the hub doesn't forget it."""

    def __init__(self, channel: Channel, lease: Lease) -> None:
        state = state_of(channel)
        assert isinstance(state, MemoryChannel)  # noqa: S101  (the hub has no event log)
        self.channel = channel
        self.state: MemoryChannel = state
        self.lease = lease
        self.ttl: float = RunNote.decode(lease.note).ttl
        self.forgotten_at: float | None = None
        """When it's forgotten; None: it hasn't ended."""


class MemoryLeases(Leases):
    """The leases of one hub without an event log; on the loop of its lifespan."""

    def __init__(self, channel_of: Callable[[str, RunNote], Channel]) -> None:
        """
        Know of no run.

        Args:
            channel_of: returns the channel of this name.
        """
        self._channel_of = channel_of
        self._held: dict[str, _Held] = {}

    async def take_lease(
        self,
        channel: str,
        *,
        holder: str,
        replaces: int,
        renewals: int | None,  # noqa: ARG002  (nobody else renews it)
        note: bytes,
        anew: bool,
        limits: Limits,  # noqa: ARG002  (those of the channel count)
    ) -> Lease:
        await anyio.lowlevel.checkpoint()
        held = self._find(channel)
        if (0 if held is None else held.lease.token) == replaces:
            lease = Lease(replaces + 1, holder, 0, 0, 0.0, note, "")
            if held is not None and not anew:
                held.lease = lease._replace(closed_by=held.lease.closed_by)
                return held.lease
            held = _Held(self._channel_of(channel, RunNote.decode(note)), lease)
            # One that was forgotten may still be read.
            if anew or held.state.closed or held.state.head:
                held.state.begin_anew()
            self._held[channel] = held
        assert held is not None  # noqa: S101  (else it would have been taken)
        return held.lease

    async def renew_lease(self, channel: str, holder: str, *, limits: Limits) -> Lease:  # noqa: ARG002
        await anyio.lowlevel.checkpoint()
        held = self._with(channel, holder)
        held.lease = held.lease._replace(renewals=held.lease.renewals + 1)
        return held.lease

    async def find_leases(
        self,
        channels: Sequence[str],
        *,
        visited: Collection[str] = (),  # noqa: ARG002  (who reads is in this process)
    ) -> dict[str, Lease]:
        await anyio.lowlevel.checkpoint()
        found = {name: self._find(name) for name in channels}
        return {name: held.lease for name, held in found.items() if held is not None}

    async def append_leased(
        self,
        channel: str,
        entries: Sequence[NewEntry],
        *,
        holder: str,
        limits: Limits,  # noqa: ARG002
    ) -> Sequence[Position | Exception]:
        await anyio.lowlevel.checkpoint()
        added: list[Position | Exception] = []
        for entry in entries:
            self.append_now(channel, entry, holder=holder)
            state = self._held[channel].state
            added.append(Position(state.epoch, state.head))
        return added

    def append_now(self, channel: str, entry: NewEntry, *, holder: str) -> bool:
        held = self._with(channel, holder)
        if entry.body:
            try:
                held.state.append(entry.body)
            except ChannelClosed:
                raise LeaseLostError from None
        elif not held.lease.closed_by:
            held.lease = held.lease._replace(closed_by=entry.key)
            held.forgotten_at = time.monotonic() + held.ttl
            held.state.close()
        return True

    async def sweep_now_and_then(self) -> None:
        """Forget the runs whose time is over, until cancelled."""
        while True:
            await anyio.sleep(_SWEEP_SECONDS)
            for name in list(self._held):
                self._find(name)

    def _find(self, channel: str) -> _Held | None:
        held = self._held.get(channel)
        if held is None or held.forgotten_at is None or time.monotonic() < held.forgotten_at:
            return held
        del self._held[channel]
        return None

    def _with(self, channel: str, holder: str) -> _Held:
        held = self._held.get(channel)
        if held is None or held.lease.holder != holder:
            raise LeaseLostError
        return held
