"""What an earlier 4.0 wrote is gone on with, and what a later one wrote is refused."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from tests.eventlogs.stores import ON_ASYNCIO, another_process, execute
from tests.servers.redis_servers import RedisServer
from tests.unit.driving import SEAT_BELT_SECONDS

from sse_starlette.errors import LogRefused
from sse_starlette.eventlogs.base import Backend, Limits, Position
from sse_starlette.eventlogs.redis import RedisLog
from sse_starlette.eventlogs.sqlite import SQLiteLog
from sse_starlette.testing.eventlogs import append, opened, read

pytestmark = pytest.mark.anyio

EPOCH = "0a1b2c3d4e5f"

# As the first layout of the file was: no limits, sizes, format or triggers.
EARLIER_TABLES = """
CREATE TABLE sse_channels (
    id INTEGER PRIMARY KEY AUTOINCREMENT, name BLOB NOT NULL UNIQUE, epoch TEXT NOT NULL,
    head INTEGER NOT NULL, closed INTEGER NOT NULL, expires REAL NOT NULL
);
CREATE INDEX sse_channels_by_expiry ON sse_channels (expires);
CREATE TABLE sse_entries (
    number INTEGER PRIMARY KEY AUTOINCREMENT, channel INTEGER NOT NULL, "offset" INTEGER NOT NULL,
    made REAL NOT NULL, key BLOB NOT NULL, body BLOB NOT NULL
);
CREATE UNIQUE INDEX sse_entries_by_offset ON sse_entries (channel, "offset");
CREATE TABLE sse_keys (
    name BLOB NOT NULL, key BLOB NOT NULL, epoch TEXT NOT NULL, "offset" INTEGER NOT NULL,
    expires REAL NOT NULL, UNIQUE (name, key)
);
CREATE INDEX sse_keys_by_expiry ON sse_keys (expires);
"""


def append_as_earlier_in_redis(server: RedisServer, offset: int) -> None:
    """Write what the first layout had of one event, and publish it as it did."""
    made, key, body = f"{time.time() * 1000:.0f}", f"k{offset}", f"data: {offset}"
    base, position = "{sse:c}", f"{EPOCH} {offset}"
    server.say("HSET", f"{base}:m", "e", EPOCH)
    server.say("XADD", f"{base}:s", f"{offset}-{made}", "k", key, "b", body)
    server.say("HSET", f"{base}:m", "n", str(offset))
    server.say("PEXPIRE", f"{base}:s", "86400000")
    server.say("PEXPIRE", f"{base}:m", "86400000")
    server.say("SET", f"{base}:k:{key}", position, "PX", "120000")
    server.say("PUBLISH", f"{base}:p0", f"{position} {len(key)} {key}{body}")


async def goes_on_with(log: Backend, append_as_earlier: Callable[[int], object]) -> None:
    async with opened(log):
        repeated = await append(log, "c", key="k2")
        own = await append(log, "c", b"data: 3")
        append_as_earlier(4)
        last = await append(log, "c", b"data: 5")
        page = await read(log, "c")

    assert repeated == Position(EPOCH, 2)
    assert (own, last) == (Position(EPOCH, 3), Position(EPOCH, 5))
    assert [entry.body for entry in page.entries] == [b"data: %d" % n for n in range(1, 6)]


@ON_ASYNCIO
async def test_what_an_earlier_version_wrote_to_redis_is_gone_on_with(
    empty_server: RedisServer,
) -> None:
    log = RedisLog(empty_server.url)
    for offset in (1, 2):
        append_as_earlier_in_redis(empty_server, offset)

    await goes_on_with(log, partial(append_as_earlier_in_redis, empty_server))
    assert empty_server.say("HMGET", "{sse:c}:m", "e", "n") == [EPOCH, "5"]


@ON_ASYNCIO
async def test_limits_that_a_preview_kept_with_a_channel_of_redis_still_count(
    empty_server: RedisServer,
) -> None:
    log = RedisLog(empty_server.url)
    fields = ("e", EPOCH, "n", "0", "t", "0", "l", "0", "h", "5", "b", "900000", "x", "3600000")
    empty_server.say("HSET", "{sse:c}:m", *fields)

    async with opened(log):
        heads = await log.heads(["c"], expire=None)
        lives = empty_server.say("PTTL", "{sse:c}:m")
        for _ in range(70):
            await append(log, "c", b"x", limits=Limits())
        again = await log.heads(["c"], expire=None)
        still_lives = empty_server.say("PTTL", "{sse:c}:m")

    assert (heads, again) == ({"c": Position(EPOCH, 0)}, {"c": Position(EPOCH, 70)})
    for life in (lives, still_lives):
        assert 3_000_000 < life <= 3_601_000
    assert empty_server.say("XLEN", "{sse:c}:s") == 5


def append_as_earlier_in_sqlite(path: Path, offset: int) -> None:
    """Write what the first layout had of one event."""
    now = time.time()
    name, key = b"c", b"k%d" % offset
    with another_process(path, SEAT_BELT_SECONDS) as connection:
        connection.execute(
            "INSERT INTO sse_channels (name, epoch, head, closed, expires) VALUES (?, ?, 0, 0, ?)"
            " ON CONFLICT DO NOTHING",
            (name, EPOCH, now + 86_400),
        )
        connection.execute(
            'INSERT INTO sse_entries (channel, "offset", made, key, body) VALUES (1, ?, ?, ?, ?)',
            (offset, now, key, b"data: %d" % offset),
        )
        connection.execute("UPDATE sse_channels SET head = ?, closed = 0 WHERE id = 1", (offset,))
        connection.execute(
            "INSERT OR REPLACE INTO sse_keys VALUES (?, ?, ?, ?, ?)",
            (name, key, EPOCH, offset, now + 120),
        )


async def test_what_an_earlier_version_wrote_to_a_file_is_gone_on_with(path: Path) -> None:
    with another_process(path) as earlier:
        earlier.executescript(EARLIER_TABLES)
    for offset in (1, 2):
        append_as_earlier_in_sqlite(path, offset)
    log = SQLiteLog(f"sqlite:///{path}")

    await goes_on_with(log, partial(append_as_earlier_in_sqlite, path))


@ON_ASYNCIO
async def test_a_channel_of_a_later_format_is_refused_and_left_alone(
    empty_server: RedisServer,
) -> None:
    log = RedisLog(empty_server.url)
    empty_server.say("HSET", "{sse:c}:m", "v", "2", "e", EPOCH, "n", "7")

    async with opened(log):
        with pytest.raises(LogRefused, match="written in format 2") as caught:
            await append(log, "c")
        with pytest.raises(LogRefused, match="written in format 2"):
            await read(log, "c")
        await append(log, "other")
        lease = {"renewals": None, "note": b"", "anew": False, "limits": Limits()}
        await log.take_lease("other", holder="x", replaces=0, **lease)  # type: ignore[arg-type]
        leases = await log.find_leases(["c", "other"])

    assert set(leases) == {"other"}
    assert "Update this package" in str(caught.value)
    assert empty_server.say("EXISTS", "{sse:c}:s") == 0
    assert empty_server.say("HGET", "{sse:c}:m", "n") == "7"


async def test_a_file_of_a_later_format_is_refused_and_left_alone(path: Path) -> None:
    log = SQLiteLog(f"sqlite:///{path}")
    async with opened(log):
        await append(log, "c")
    execute(path, "UPDATE sse_format SET version = 2")

    async with opened(log):
        with pytest.raises(LogRefused, match="written in format 2"):
            await append(log, "c")

    assert execute(path, "SELECT count(*) FROM sse_entries") == [(1,)]
