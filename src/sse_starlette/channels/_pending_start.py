"""The start of a subscription whose positions aren't all known yet: the log may have to be asked.

It needs no task for that. A channel that has learned something calls the subscription, which resolves again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from ._start import asked_by

if TYPE_CHECKING:
    from ._options import SubscribeOptions
    from ._positions import Positions
    from ._preface import Preface


class PendingStart:
    """The channels in which it isn't known yet where a subscription begins."""

    __slots__ = ("_asked", "_places", "came_with")

    def __init__(self, came_with: str | None, options: SubscribeOptions, channels: int) -> None:
        self.came_with = came_with
        """The id that the client has brought; it's its id until all positions are known."""
        self._asked = asked_by(
            came_with, options.after, options.seconds_ago(), options.replay, whole=options.whole
        )
        self._places = list(range(channels))

    @classmethod
    def anew(cls, positions: Positions, options: SubscribeOptions) -> Self | None:
        """Return the start of a client that needs all of a channel; None: the channel has no other history."""
        epoch = positions.channels[0].epoch
        if epoch in ("", positions.rings[0].epoch):
            return None
        return cls(positions.last_event_id, options, 1)

    def resolve(self, subscription: object, positions: Positions, preface: Preface) -> bool:
        """Take the positions that are known by now, and say whether all are."""
        left: list[int] = []
        channels = positions.channels
        epochs = [channel.epoch for channel in channels]
        known = set(epochs)
        for place in self._places:
            channel = channels[place]
            # Which epochs of the client's id are other channels', if those are all known.
            others = None if "" in known - {epochs[place]} else known - {channel.epoch}
            start = channel.begin(subscription, self._asked, others)
            if start is None:
                left.append(place)
                continue
            positions.rings[place], positions.offsets[place], reason, anew = start
            if reason is not None:
                preface.add_gap(place, reason)
            if anew:
                preface.new_to += (place,)
        self._places = left
        if not left:
            positions.complete()
        return not left

    def is_in_vain(self, positions: Positions) -> bool:
        """Whether nobody will ever say where one of them begins."""
        replicators = [positions.channels[place].replicator for place in self._places]
        return not all(replicator is not None and replicator.running for replicator in replicators)
