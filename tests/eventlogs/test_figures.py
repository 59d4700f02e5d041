"""What event logs tell of their channels to those who look on, and that looking on changes nothing."""

from __future__ import annotations

import pytest
from tests.eventlogs.stores import ON_EACH_LOG
from tests.servers.redis_servers import RedisServer

from sse_starlette.eventlogs._schemes import backend_for
from sse_starlette.eventlogs.base import ChannelFigures
from sse_starlette.eventlogs.redis import RedisLog
from sse_starlette.testing.eventlogs import append, opened
from sse_starlette.testing.eventlogs._keeping import WEIRD_NAMES

pytestmark = [
    pytest.mark.anyio,
    ON_EACH_LOG,
]


async def test_figures_say_where_channels_are_and_what_is_kept(url: str) -> None:
    log = backend_for(url)
    async with opened(log):
        for body in (b"1", b"23", b"456"):
            last = await append(log, "b", body)
        closed = await append(log, "c", b"")
        first = await append(log, "a")

        assert await log.figures() == [
            ChannelFigures("a", first.epoch, 1, closed=False, kept=1, kept_bytes=1),
            ChannelFigures("b", last.epoch, 3, closed=False, kept=3, kept_bytes=6),
            ChannelFigures("c", closed.epoch, 1, closed=True, kept=1, kept_bytes=0),
        ]


async def test_looking_on_makes_no_channel(url: str) -> None:
    log = backend_for(url)
    async with opened(log):
        await append(log, "a")

        assert [each.channel for each in await log.figures(["b", "a", "a"])] == ["a"]
        assert [each.channel for each in await log.figures()] == ["a"]
        assert await log.figures([]) == []


async def test_channels_of_any_name_are_found(url: str) -> None:
    log = backend_for(url)
    async with opened(log):
        for name in WEIRD_NAMES:
            # What remembers a key may look like a channel.
            await append(log, name, key="}:m")

        assert [each.channel for each in await log.figures()] == sorted(WEIRD_NAMES)
        assert [each.channel for each in await log.figures(WEIRD_NAMES)] == sorted(WEIRD_NAMES)


async def test_channels_of_another_prefix_are_not_told(url: str, server: RedisServer) -> None:
    log, other, every = (RedisLog(server.url, prefix=prefix) for prefix in ("a", "ab", "a*"))
    if url != server.url:
        return  # A file has one set of channels.
    async with opened(log, other, every):
        await append(log, "of a")
        await append(other, "of ab")

        assert [each.channel for each in await log.figures()] == ["of a"]
        assert await every.figures() == []
