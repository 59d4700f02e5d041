"""Where a subscription begins in a channel, and which gap is to be told. Rules of values, nothing else.

What has to be asked of somebody, the log above all, is decided by the channel, which asks again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple, TypeAlias

from .._wire.cursor import may_name, parse_cursor
from ..errors import HistoryGap

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from ._ring import Ring

GapReason: TypeAlias = Literal["unknown", "epoch", "future", "trimmed", "lagging"]
"""
Why a client can't be given all that it missed:

- `"unknown"`: its id is none of ours.
- `"epoch"`: its id is from a history that has been lost, or from another channel.
- `"future"`: its id is newer than the newest event.
- `"trimmed"`: what follows its id is no longer kept.
- `"lagging"`: it is connected, and read too slowly.
"""


@dataclass(frozen=True, slots=True)
class Asked:
    """
    Where a client wants to begin.

    Attributes:
        positions: what its id, or the one it's to begin after, says of each history; empty: it has
            none; None: it has one that is none of ours.
        offset: the offset to begin after, if it has no id.
        seconds_ago: the age of the oldest event wanted, if it has no id.
        replay: how many of the newest events it gets where it begins anew.
        whole: whether it gets all that is kept where it can't have what it missed.
    """

    positions: Mapping[str, int] | None
    offset: int | None = None
    seconds_ago: float | None = None
    replay: int = 0
    whole: bool = False


class Place(NamedTuple):
    """A position in a channel."""

    offset: int
    reason: GapReason | None = None
    """Why it isn't the one that was asked for."""
    anew: bool = False
    """Whether the client has nothing of the channel yet."""


def place(
    ring: Ring, channel: str, asked: Asked, others: Collection[str] | None, now: float
) -> Place | None:
    """
    Say where a subscription begins in the history that `ring` has; None: that isn't known yet.

    Args:
        ring: what is known of the channel.
        channel: its name.
        asked: where the client wants to begin.
        others: the epochs that the other channels of the subscription have; None: not all are known.
        now: the time, on the clock of the ring.
    """
    found = _place(ring, channel, asked, others, now)
    if asked.whole and found is not None and found.reason is not None:
        return found._replace(offset=ring.reach)
    return found


def _place(
    ring: Ring, channel: str, asked: Asked, others: Collection[str] | None, now: float
) -> Place | None:
    positions = asked.positions
    if positions is None:
        return Place(ring.head, "unknown")
    if ring.epoch in positions:
        return _after(ring, positions[ring.epoch])
    if positions:
        if others is None:
            return None  # The id may be of the others alone.
        # A client that has added this channel to others begins anew in it. The id must be of those.
        if not any(epoch in others for epoch in positions) or may_name(positions, channel, others):
            return Place(ring.head, "epoch")
    elif asked.offset is not None:
        found = _after(ring, asked.offset)
        # Whoever wants all from the beginning gets all that there is, once it has been told.
        return found._replace(offset=ring.reach) if found.reason == "trimmed" else found
    elif asked.seconds_ago is not None:
        when = now - asked.seconds_ago
        return Place(ring.before(when), "trimmed" if ring.forgotten >= when else None)
    return Place(max(ring.head - asked.replay, ring.reach), anew=True)


def _after(ring: Ring, offset: int) -> Place:
    if offset > ring.head:
        return Place(ring.head, "future")
    if offset < ring.reach:
        return Place(ring.head, "trimmed")
    return Place(offset)


def asked_by(
    came_with: str | None,
    after: str | int | None,
    seconds_ago: float | None,
    replay: int,
    *,
    whole: bool = False,
) -> Asked:
    """
    Say where a client wants to begin.

    Args:
        came_with: the id that it has brought, which counts for more than all the others.
        after: what it's to begin after if it has none: an id, an offset, or `"start"`.
        seconds_ago: the age of the oldest event that it's to begin with.
        replay: how many of the newest events it gets first if it begins anew.
        whole: whether it gets all that is kept where it can't have what it missed.
    """
    if came_with:
        return Asked(parse_cursor(came_with), replay=replay, whole=whole)
    if after == "start":
        return Asked({}, offset=0, whole=whole)
    if isinstance(after, str):
        return Asked(parse_cursor(after), replay=replay, whole=whole)
    return Asked({}, offset=after, seconds_ago=seconds_ago, replay=replay, whole=whole)


def offset_after(after: str | int, channel: str, epoch: str, head: int) -> int:
    """
    Say after which offset events are wanted from a history.

    Args:
        after: an id, an offset, or `"start"`.
        channel: the name of the channel, for the error.
        epoch: the name of its history.
        head: the offset of its newest event.

    Raises:
        HistoryGap: the history has no such place.
    """
    offset: int | None
    if after == "start":
        return 0
    if isinstance(after, str):
        positions = parse_cursor(after)
        if positions is None:
            raise HistoryGap(channel, after, "unknown")
        offset = positions.get(epoch)
        if offset is None:
            raise HistoryGap(channel, after, "epoch")
    else:
        offset = after
    if offset > head:
        raise HistoryGap(channel, after, "future")
    return offset
