"""What an event log that keeps leases keeps: one holder, no word of who has lost it, and how it's forgotten."""

from __future__ import annotations

import secrets
from typing import Any

import anyio
import pytest

from ...errors import ChannelClosed
from ...eventlogs.base import Backend, NewEntry
from ...eventlogs.leases import Lease, LeaseLostError, Leases
from ._driving import KEEP_ALL, MakeLog, append, listening, offsets, opened, read


def leases_of(log: Backend) -> Leases:
    """Return a log as what it's taken for here."""
    assert isinstance(log, Leases), f"{type(log).__name__} keeps no leases"
    return log


async def take(
    log: Backend, channel: str, replaces: int = 0, *, holder: str | None = None, **options: Any
) -> Lease:
    """Take the lease of a channel, as somebody new."""
    given = {"renewals": None, "note": b"", "anew": False, "limits": KEEP_ALL, **options}
    holder = secrets.token_hex(4) if holder is None else holder
    return await leases_of(log).take_lease(channel, holder=holder, replaces=replaces, **given)


async def find(log: Backend, channel: str, *, visit: bool = False) -> Lease | None:
    """Look at the lease of a channel."""
    found = await leases_of(log).find_leases([channel], visited=[channel] if visit else [])
    return found.get(channel)


def entry(holder: str, turn: int, body: bytes = b"data: x\r\n\r\n", key: str = "") -> NewEntry:
    """An entry of whoever has a lease."""
    return NewEntry(body, key or f"{holder}.{turn}", 120.0, holder, turn)


@pytest.mark.anyio
class LeaseContract:
    """Taking, renewing and losing a lease."""

    async def test_lease_that_nobody_has_is_taken_by_one_of_many(self, make_log: MakeLog) -> None:
        logs = [make_log() for _ in range(3)]
        holders = [f"holder {number}" for number in range(12)]
        answers: dict[str, Lease] = {}

        async def try_as(holder: str, log: Backend) -> None:
            answers[holder] = await take(log, "a", holder=holder)

        async with opened(*logs):
            async with anyio.create_task_group() as tasks:
                for number, holder in enumerate(holders):
                    tasks.start_soon(try_as, holder, logs[number % 3])
            found = await find(logs[0], "a")

        assert found is not None
        assert {lease.holder for lease in answers.values()} == {found.holder}
        assert found.holder in holders
        assert (found.token, found.closed_by) == (1, "")

    async def test_what_is_left_with_a_lease_is_found(self, make_log: MakeLog) -> None:
        log, other = make_log(), make_log()
        note = bytes(range(256))
        async with opened(log, other):
            taken = await take(log, "a", note=note)
            again = await take(log, "a", holder=taken.holder, note=b"other")
            found = await leases_of(other).find_leases(["b", "a"])

        assert list(found) == ["a"]
        assert taken._replace(age=0) == again._replace(age=0) == found["a"]._replace(age=0)
        assert found["a"].note == note
        assert 0 <= found["a"].age < 60

    async def test_lease_is_taken_only_as_it_was_seen(self, make_log: MakeLog) -> None:
        log = make_log()
        async with opened(log):
            first = await take(log, "a")
            await leases_of(log).renew_lease("a", first.holder, limits=KEEP_ALL)
            others = [
                await take(log, "a"),
                await take(log, "a", 2),
                await take(log, "a", 1, renewals=0),
                await take(log, "b", 7),
            ]
            second = await take(log, "a", 1, renewals=1)
            third = await take(log, "a", 2)

        assert [lease.holder for lease in others] == [first.holder] * 3 + [""]
        assert (second.token, second.renewals) == (2, 0)
        assert third.token == 3
        assert len({first.holder, second.holder, third.holder}) == 3

    async def test_renewals_and_visits_are_counted(self, make_log: MakeLog) -> None:
        log = make_log()
        async with opened(log):
            taken = await take(log, "a")
            renewed = [
                await leases_of(log).renew_lease("a", taken.holder, limits=KEEP_ALL)
                for _ in range(2)
            ]
            await find(log, "a", visit=True)
            await find(log, "b", visit=True)
            found = await find(log, "a")

        assert [lease.renewals for lease in renewed] == [1, 2]
        assert found is not None
        assert (found.renewals, found.visits) == (2, 1)

    async def test_who_has_lost_a_lease_adds_nothing(self, make_log: MakeLog) -> None:
        log, other = make_log(), make_log()
        async with opened(log, other):
            mine = await take(log, "a")
            added = await leases_of(log).append_leased(
                "a",
                [entry(mine.holder, 1), entry(mine.holder, 2)],
                holder=mine.holder,
                limits=KEEP_ALL,
            )
            again = await leases_of(log).append_leased(
                "a",
                [entry(mine.holder, 2), entry(mine.holder, 3)],
                holder=mine.holder,
                limits=KEEP_ALL,
            )
            theirs = await take(other, "a", 1)
            with pytest.raises(LeaseLostError):
                await leases_of(log).append_leased(
                    "a", [entry(mine.holder, 4)], holder=mine.holder, limits=KEEP_ALL
                )
            with pytest.raises(LeaseLostError):
                await leases_of(log).renew_lease("a", mine.holder, limits=KEEP_ALL)
            with pytest.raises(LeaseLostError):
                await leases_of(log).append_leased(
                    "b", [entry(mine.holder, 1)], holder=mine.holder, limits=KEEP_ALL
                )
            await leases_of(other).append_leased(
                "a", [entry(theirs.holder, 1)], holder=theirs.holder, limits=KEEP_ALL
            )
            page = await read(log, "a")

        assert [position.offset for position in added if isinstance(position, tuple)] == [1, 2]
        assert [position.offset for position in again if isinstance(position, tuple)] == [2, 3]
        assert offsets(page) == [1, 2, 3, 4]

    async def test_entry_that_closes_the_channel_is_named(self, make_log: MakeLog) -> None:
        log = make_log()
        async with opened(log):
            mine = await take(log, "a")
            last = entry(mine.holder, 2, b"", "the end")
            await leases_of(log).append_leased(
                "a", [entry(mine.holder, 1), last], holder=mine.holder, limits=KEEP_ALL
            )
            (late,) = await leases_of(log).append_leased(
                "a", [entry(mine.holder, 3)], holder=mine.holder, limits=KEEP_ALL
            )
            found = await find(log, "a")

        assert found is not None
        assert found.closed_by == "the end"
        assert isinstance(late, ChannelClosed)

    async def test_lease_taken_anew_begins_another_history(self, make_log: MakeLog) -> None:
        log = make_log()
        async with opened(log):
            mine = await take(log, "a")
            await leases_of(log).append_leased(
                "a",
                [entry(mine.holder, 1), entry(mine.holder, 2, b"")],
                holder=mine.holder,
                limits=KEEP_ALL,
            )
            before = await read(log, "a")
            second = await take(log, "a", 1, anew=True)
            async with listening(log, "a") as listener:
                await leases_of(log).append_leased(
                    "a", [entry(second.holder, 1)], holder=second.holder, limits=KEEP_ALL
                )
                await listener.until(lambda: listener.entries or listener.notifications)
            after = await read(log, "a")

        assert (before.head, before.closed) == (2, True)
        assert (after.head, after.closed) == (1, False)
        assert before.epoch != after.epoch
        assert (second.token, second.closed_by) == (2, "")

    async def test_leases_are_of_one_channel_each(self, make_log: MakeLog) -> None:
        log = make_log()
        names = ["", "a:b", "{a}", "naïve/\N{SNOWMAN}", "half of a pair \ud83d"]
        async with opened(log):
            await append(log, "no lease")
            for name in names:
                await take(log, name, holder=f"holder of {name!a}")
            found = await leases_of(log).find_leases([*names, "no lease"], visited=names[:2])

        assert {name: lease.holder for name, lease in found.items()} == {
            name: f"holder of {name!a}" for name in names
        }
