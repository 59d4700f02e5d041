"""The figures of the channels in Redis, for those who look on: nothing is made, renewed or deleted."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from redis.client import NEVER_DECODE

from ..base import ChannelFigures, checked_epoch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ._clients import Client
    from ._protocol import Names

_AT_ONCE = 300
_RAW: dict[str, Any] = {NEVER_DECODE: True}
_BYTES = re.compile(rb"~?(\d+) ")


async def read_figures(
    client: Client, names: Names, channels: Sequence[str] | None
) -> list[ChannelFigures]:
    """Do what `Backend.figures` does."""
    if channels is None:
        found = [names.channel_of(key) async for key in client.scan_iter(names.pattern(), 1_000)]
        channels = [name for name in found if name is not None]
    channels = sorted(set(channels))
    figures: list[ChannelFigures] = []
    for start in range(0, len(channels), _AT_ONCE):
        some = channels[start : start + _AT_ONCE]
        pipeline = client.pipeline(transaction=False)
        for channel in some:
            stream, meta = names.keys(channel)
            pipeline.execute_command("HMGET", meta, "e", "n", "c", "d", **_RAW)
            pipeline.execute_command("XLEN", stream)
        answers = await pipeline.execute()
        for channel, fields, kept in zip(some, answers[::2], answers[1::2], strict=True):
            epoch, head, closed, state = fields
            if epoch is not None:
                size = _BYTES.match(state or b"")
                figures.append(
                    ChannelFigures(
                        channel,
                        checked_epoch(epoch),
                        int(head or 0),
                        closed is not None,
                        kept,
                        int(size[1]) if size else 0,
                    )
                )
    return figures
