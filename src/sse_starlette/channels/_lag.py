"""What a subscription gets whose next event the channel doesn't have any more. A rule of values, nothing else."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ._latest import Latest
    from ._options import Slow
    from ._ring import Ring
    from ._start import GapReason


class Lag(NamedTuple):
    """What becomes of such a subscription."""

    reason: GapReason
    ring: Ring
    """The history that it goes on in."""
    offset: int
    """Where it goes on."""
    latest: Sequence[tuple[int, bytes]] = ()
    """What it gets of what it has missed, with the offsets."""
    dropped: int = 0
    """How many events it never gets because it was slow."""
    ends: bool = False
    """Whether its stream ends instead."""


def on_lag(
    held: Ring, now: Ring, after: int, *, slow: Slow, latest: Latest | None, stays: bool
) -> Lag | None:
    """
    Say what becomes of it.

    Args:
        held: the history that the subscription has.
        now: the one that the channel has.
        after: the offset of the newest event that the client has.
        slow: what is to become of clients that are too slow; see there.
        latest: the newest event of each key, for `"latest"`.
        stays: whether it isn't the client that was slow: it goes on, whatever `slow` says.

    Returns:
        None: its stream ends, since the lifespan of the hub has; it can be resumed in the next one.
    """
    if not now.epoch or (held is not now and held.epoch == now.epoch):
        return None
    if held is not now or after < now.hole:
        # What came after the break, as long as it's here.
        offset = now.origin if now.holds(now.origin) else now.head
        return Lag("trimmed" if held is now else "epoch", now, offset)
    if slow == "disconnect" and not stays:
        return Lag("lagging", now, after, ends=True)
    missed = latest.after(after) if latest is not None else ()
    return Lag("lagging", now, now.head, missed, dropped=now.head - after - len(missed))
