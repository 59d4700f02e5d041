"""What is stored for a channel and can't be understood: it's refused, for that channel alone."""

from __future__ import annotations

import asyncio
from functools import partial
from pathlib import Path

import anyio
import pytest
from tests.eventlogs.stores import ON_ASYNCIO, execute, log_at, tamper
from tests.servers.redis_servers import RedisServer
from tests.unit.driving import SEAT_BELT_SECONDS

from sse_starlette import Hub, LogRefused
from sse_starlette.eventlogs.redis import RedisLog
from sse_starlette.eventlogs.sqlite import SQLiteLog
from sse_starlette.testing.eventlogs import KEEP_ALL, append, listening, opened, read

pytestmark = pytest.mark.anyio

BAD_EPOCHS = {
    "undecodable": b"\xff\xfe",
    "empty": b"",
    "with a dot": b"a.b",
    "with a dash": b"a-b",
    "with a blank": b"a b",
    "of two lines": b"a\ndata: b",
    "too long": b"a" * 65,
}


@pytest.mark.parametrize("epoch", BAD_EPOCHS.values(), ids=BAD_EPOCHS)
@ON_ASYNCIO
async def test_an_epoch_that_no_id_can_have_is_refused_for_its_channel_alone(
    url: str, server: RedisServer, epoch: bytes
) -> None:
    log = log_at(url)
    hub = Hub(log_at(url), publish_wait=0)
    async with opened(log), hub.lifespan(), hub.channel("fine").subscribe() as subscription:
        await append(log, "fine")
        await append(log, "bad", key="k")
        for table in ("channels", "keys"):
            update = f"UPDATE sse_{table} SET epoch = CAST(? AS TEXT) WHERE name = ?"
            tamper(url, server, ("HSET", "{sse:bad}:m", "e", epoch), update, epoch, b"bad")
        for attempt in (
            partial(append, log, "bad"),
            partial(append, log, "bad", key="k"),
            partial(read, log, "bad"),
            partial(log.seek, "bad", age=60, limits=KEEP_ALL),
            partial(hub.channel("bad").publish, "x"),
        ):
            with pytest.raises(LogRefused) as caught:
                await attempt()
            assert caught.value.channel == "bad"
            assert "clients are told of the gap" in caught.value.remedy
        assert set(await log.heads(["fine", "bad"], expire=60)) == {"fine"}
        assert await log.find_leases(["fine", "bad"]) == {}

        # Who listens to it waits, and keeps nobody from anything.
        waiting = hub.channel("bad").subscribe()
        with anyio.fail_after(SEAT_BELT_SECONDS):
            async with waiting:
                waits = asyncio.ensure_future(anext(waiting))
                await hub.channel("fine").publish("last")
                while (await anext(subscription)).data != "last":
                    pass
                assert await hub.ready()
                waits.cancel()


@pytest.mark.parametrize("head", ["-3", "many", ""])
@ON_ASYNCIO
async def test_a_head_that_is_no_offset_is_refused_for_its_channel(
    url: str, server: RedisServer, head: str
) -> None:
    log = log_at(url)
    async with opened(log):
        await append(log, "bad")
        set_head = ("HSET", "{sse:bad}:m", "n", head)
        tamper(url, server, set_head, "UPDATE sse_channels SET head = ?", head)
        for attempt in (partial(append, log, "bad"), partial(read, log, "bad")):
            with pytest.raises(LogRefused) as caught:
                await attempt()
            assert caught.value.channel == "bad"


@ON_ASYNCIO
async def test_a_key_that_cannot_be_read_in_redis_is_refused_for_its_channel(
    empty_server: RedisServer,
) -> None:
    log = RedisLog(empty_server.url)
    async with opened(log):
        await append(log, "bad")
        empty_server.say("XADD", "{sse:bad}:s", "2-0", "k", b"\xff", "b", "x")  # type: ignore[arg-type]
        with pytest.raises(LogRefused, match="can't be read") as caught:
            await read(log, "bad")

    assert caught.value.channel == "bad"


@pytest.mark.parametrize("column", ["key", "body"])
async def test_an_entry_of_another_type_is_heard_by_nobody_and_refused_for_its_channel(
    path: Path, column: str
) -> None:
    log = SQLiteLog(path)
    columns = {"key": b"k", "body": b"b"} | {column: "text"}
    async with opened(log), listening(log, "bad", "fine") as listener:
        await append(log, "bad")
        await listener.until(lambda: listener.has("bad", 1))
        insert = (
            'INSERT INTO sse_entries (channel, "offset", made, key, body)'
            " SELECT id, 2, 2e12, ?, ? FROM sse_channels"
        )
        execute(path, insert, columns["key"], columns["body"])
        await listener.until(lambda: listener.notifications == ["bad"])
        with pytest.raises(LogRefused) as caught:
            await read(log, "bad", 1, 2)
        await append(log, "fine")
        await listener.until(lambda: listener.has("fine", 1))

    assert caught.value.channel == "bad"
    assert listener.losses == []
