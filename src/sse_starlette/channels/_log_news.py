"""Tells a client, by comments, that the event log is out of reach, and that it's back."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ..eventlogs._replicator import Replicator
    from ._state import ChannelState


class LogNews:
    """What one client has been told of the logs of its channels."""

    __slots__ = ("_replicators", "_told")

    def __init__(self, channels: Iterable[ChannelState]) -> None:
        found = [one for channel in channels if (one := channel.replicator) is not None]
        self._replicators: tuple[Replicator, ...] = tuple(dict.fromkeys(found)) if found else ()
        self._told = False

    def must_run(self) -> None:
        """Make sure that the lifespans are under way that the channels need."""
        for replicator in self._replicators:
            replicator.must_run()

    def out_of_reach(self) -> bytes:
        """Return a comment if a log is out of reach."""
        for replicator in self._replicators:
            if (since := replicator.tracks.figures.away_since) is not None:
                return f": the log is out of reach since {since}\r\n\r\n".encode()
        return b""

    def change(self) -> bytes:
        """Say so when a log is out of reach, and when it's back, once each."""
        out_of_reach = self.out_of_reach()
        if bool(out_of_reach) == self._told:
            return b""
        self._told = bool(out_of_reach)
        return out_of_reach or b": the log is in reach again\r\n\r\n"
