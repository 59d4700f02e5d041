"""The leases of an event log in a file: what is done in the transaction."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from .._stored_text import to_bytes, to_text
from ..leases import Lease, LeaseLostError
from ._file import transaction
from ._retention import effective_limits, touch
from ._tables import find_channel, forget, make_channel

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Collection, Sequence

    from ..base import Limits
    from ._clock import Clock, Now
    from ._tables import ChannelRow


class LeaseAsked(NamedTuple):
    """What is asked of `take_lease`; see there."""

    channel: str
    holder: str
    replaces: int
    renewals: int | None
    note: bytes
    anew: bool
    limits: Limits


def take_lease(asked: LeaseAsked, clock: Clock, connection: sqlite3.Connection) -> Lease:
    """Do what `Leases.take_lease` does."""
    now = clock.now()
    with transaction(connection, "IMMEDIATE"):
        channel = find_channel(connection, asked.channel, now)
        found = _lease_of(connection, channel, now)
        token = 0 if found is None else found.token
        renewed = found is not None and asked.renewals not in (None, found.renewals)
        if found is not None and (token != asked.replaces or renewed):
            return found
        if found is None and asked.replaces:
            return Lease(0, "", 0, 0, 0.0, b"", "")
        name = to_bytes(asked.channel)
        expires = now.wall + effective_limits(connection, name, asked.limits).expire
        if asked.anew and channel is not None:
            forget(connection, "id = ?", channel.id)
            channel = None
        if channel is None:
            channel = make_channel(connection, asked.channel, expires)
        connection.execute(
            "INSERT OR REPLACE INTO sse_leases VALUES (?, ?, ?, 0, 0, ?, ?)",
            (channel.id, token + 1, asked.holder, now.wall, asked.note),
        )
        touch(connection, [channel.id], expires)
        taken = _lease_of(connection, channel, now)
        assert taken is not None  # noqa: S101  (it has been stored)
        return taken


def renew_lease(
    name: str, holder: str, limits: Limits, clock: Clock, connection: sqlite3.Connection
) -> Lease:
    """Do what `Leases.renew_lease` does."""
    now = clock.now()
    with transaction(connection, "IMMEDIATE"):
        channel = find_channel(connection, name, now)
        found = _lease_of(connection, channel, now)
        if channel is None or found is None or found.holder != holder:
            raise LeaseLostError
        connection.execute(
            "UPDATE sse_leases SET renewals = renewals + 1, renewed = ? WHERE channel = ?",
            (now.wall, channel.id),
        )
        lasts = effective_limits(connection, to_bytes(name), limits).expire
        touch(connection, [channel.id], now.wall + lasts)
        return found._replace(renewals=found.renewals + 1, age=0.0)


def find_leases(
    names: Sequence[str], visited: Collection[str], clock: Clock, connection: sqlite3.Connection
) -> dict[str, Lease]:
    """Do what `Leases.find_leases` does; most looks only read, and don't wait for those who write."""
    now = clock.now()
    leases: dict[str, Lease] = {}
    with transaction(connection, "IMMEDIATE" if visited else "DEFERRED"):
        for name in names:
            try:
                channel = find_channel(connection, name, now)
            except (TypeError, ValueError):
                continue  # It's told when somebody looks for this one.
            lease = _lease_of(connection, channel, now)
            if channel is None or lease is None:
                continue
            if name in visited:
                connection.execute(
                    "UPDATE sse_leases SET visits = visits + 1 WHERE channel = ?", (channel.id,)
                )
            leases[name] = lease
    return leases


def has_lease(connection: sqlite3.Connection, channel: str, holder: str, now: Now) -> bool:
    """Whether this holder has the lease; in a transaction."""
    lease = _lease_of(connection, find_channel(connection, channel, now), now)
    return lease is not None and lease.holder == holder


def _lease_of(connection: sqlite3.Connection, channel: ChannelRow | None, now: Now) -> Lease | None:
    if channel is None:
        return None
    row = connection.execute(
        "SELECT token, holder, renewals, visits, renewed, note FROM sse_leases WHERE channel = ?",
        (channel.id,),
    ).fetchone()
    if row is None:
        return None
    token, holder, renewals, visits, renewed, note = row
    closed_by = ""
    if channel.closed:
        last = connection.execute(
            'SELECT key FROM sse_entries WHERE channel = ? AND "offset" = ?',
            (channel.id, channel.head),
        ).fetchone()
        closed_by = "?" if last is None else to_text(last[0])
    return Lease(token, holder, renewals, visits, max(0.0, now.wall - renewed), note, closed_by)
