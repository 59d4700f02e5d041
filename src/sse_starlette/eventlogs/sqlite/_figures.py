"""The figures of the channels in a file, for those who look on: nothing is made, renewed or deleted."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .._stored_text import to_bytes, to_text
from ..base import ChannelFigures, checked_epoch

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Sequence

    from ._clock import Clock


def read_figures(
    channels: Sequence[str] | None, clock: Clock, connection: sqlite3.Connection
) -> list[ChannelFigures]:
    """Do what `Backend.figures` does."""
    wanted = None if channels is None else {to_bytes(name) for name in channels}
    rows = connection.execute(
        "SELECT CAST(c.name AS BLOB), CAST(c.epoch AS BLOB), c.head, c.closed,"
        " (SELECT count(*) FROM sse_entries WHERE channel = c.id), coalesce(s.bytes, 0)"
        " FROM sse_channels AS c LEFT JOIN sse_sizes AS s ON s.channel = c.id WHERE c.expires > ?",
        (clock.now().sure,),
    )
    return sorted(
        ChannelFigures(to_text(name), checked_epoch(epoch), head, bool(closed), kept, size)
        for name, epoch, head, closed, kept, size in rows
        if wanted is None or name in wanted
    )
