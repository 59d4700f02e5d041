"""What an operator, another process or another version does to an event log, and what becomes of it."""

from __future__ import annotations

import asyncio
import logging
import traceback
from contextlib import suppress
from pathlib import Path

import anyio
import pytest
from redis.asyncio import Redis
from tests.eventlogs.stores import (
    ON_ASYNCIO,
    ON_EACH_LOG,
    FakeClock,
    execute,
    followed,
    log_at,
    tamper,
)
from tests.servers.redis_servers import RedisServer

from sse_starlette import ChannelClosed, Hub, LogRefused, LogUnavailable
from sse_starlette.eventlogs.base import Limits, NewEntry, Position
from sse_starlette.eventlogs.redis import RedisLog
from sse_starlette.eventlogs.sqlite import SQLiteLog
from sse_starlette.testing.eventlogs import KEEP_ALL, append, offsets, opened, read

pytestmark = pytest.mark.anyio


@pytest.fixture
def server(own_server: RedisServer) -> RedisServer:
    """Here, each test breaks it."""
    return own_server


# --- Refused by an ACL ----------------------------------------------------------------

COMMANDS = (
    *("evalsha", "time", "hmget", "hset", "pexpire", "xadd", "xlen", "xrange", "xtrim"),
    *("get", "set", "pttl", "hget", "hlen"),
)


@pytest.mark.parametrize("command", COMMANDS)
@ON_ASYNCIO
async def test_a_command_that_is_refused_for_a_while_ends_nothing_and_doubles_nothing(
    server: RedisServer, command: str
) -> None:
    hub = Hub(server.url, check_every=0.05)
    async with hub.lifespan():
        channel = hub.channel("c", history=100)
        async with followed(channel) as client:
            server.say("ACL SETUSER", "default", f"-{command}")
            for number in range(3):
                with suppress(LogRefused):
                    await channel.publish(f"{number}", key=f"{number}")
            assert not await hub.ready()
            assert "ACL SETUSER" in hub.stats().reason
            await anyio.sleep(0.2)  # Some checks.
            server.say("ACL SETUSER", "default", f"+{command}")
            for number in range(3):
                await channel.publish(f"{number}", key=f"{number}")
            await channel.publish("last")
            await client.until("last")
            assert await hub.ready()

    assert client.data == ["first", "0", "1", "2", "last"]


@ON_ASYNCIO
async def test_who_may_not_tell_others_has_added_its_event_once_and_is_warned(
    server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    server.say("ACL SETUSER", "mute", "on", ">x", "~*", "+@all", "resetchannels")
    hub = Hub(server.url.replace("//", "//mute:x@"))
    async with hub.lifespan():
        ids = [await hub.channel("c").publish("x", wait=0) for _ in range(3)]

    assert [each.partition(".")[2] for each in ids] == ["1", "2", "3"]
    assert server.say("XLEN", "{sse:c}:s") == 3
    assert caplog.text.count("hears of it late") == 1


# --- Secrets --------------------------------------------------------------------------

PASSWORD = "Xq7vTz9k"


@pytest.mark.parametrize("mark", ["#", "/", "?", "@", ":", "[", "]", "%", "%zz", " ", "\\", "#/@:"])
@pytest.mark.parametrize(
    "where", ["redis://:{}@127.0.0.1:1", "redis://u:{}@127.0.0.1:1/0", "redis://:{}"]
)
@ON_ASYNCIO
async def test_no_part_of_a_password_is_ever_shown(
    caplog: pytest.LogCaptureFixture, mark: str, where: str
) -> None:
    if where.endswith("{}") and "@" in mark:
        return  # What follows is the host then.
    url = where.format(PASSWORD + mark + PASSWORD[::-1])
    shown: list[str] = []
    try:
        hub = Hub(url, publish_wait=0)
        shown.append(repr(hub) + repr(RedisLog(url)))
        async with hub.lifespan():
            await hub.ready()
            shown.append(hub.stats().reason)
            await hub.channel("c").publish("x")
    except (ValueError, LogUnavailable) as error:
        met: BaseException | None = error
        shown += traceback.format_exception(error)
        while met is not None:
            shown += [str(met), repr(met)]
            met = met.__cause__ or met.__context__
        logging.getLogger().exception("failed")
    shown.append(caplog.text)

    text = "\n".join(shown)
    # The line that a traceback quotes is that of this test.
    for part in (PASSWORD[:5], PASSWORD[::-1][:5]):
        assert part not in text


# --- Limits and clocks ----------------------------------------------------------------


def kept(url: str, server: RedisServer) -> int:
    if url.startswith("redis"):
        return int(server.say("XLEN", "{sse:c}:s"))
    return int(execute(url.partition("///")[2], "SELECT count(*) FROM sse_entries")[0][0])


@ON_EACH_LOG
async def test_what_somebody_has_said_of_a_channel_counts_for_who_only_names_it(
    url: str, server: RedisServer
) -> None:
    web, worker = log_at(url), log_at(url)
    entries = [NewEntry(b"x", f"w.{turn}", 60, "w", turn) for turn in range(1, 1_401)]
    async with opened(web, worker):
        await read(web, "c", limits=Limits(events=5_000))
        for start in range(0, 1_400, 200):
            await worker.append_many("c", entries[start : start + 200], limits=Limits())
        page = await read(worker, "c", limits=Limits())

    assert len(page.entries) == 1_400


@ON_EACH_LOG
async def test_bytes_bound_the_event_log_and_the_newest_entry_is_kept(
    url: str, server: RedisServer, clock: FakeClock
) -> None:
    log = log_at(url)
    few = Limits(bytes=100_000)
    async with opened(log):
        for burst in (64, 32, 32):
            for _ in range(burst):
                await append(log, "c", b"x" * 10_000, limits=few)
            clock.passed += 1.1  # Who follows has had the time to read them.
        many = kept(url, server)
        await append(log, "c", b"z" * 200_000, limits=few)
        page = await read(log, "c", limits=few)

    assert many == 10 or (url.startswith("sqlite") and many <= 42)
    assert len(page.entries[-1].body) == 200_000
    assert url.startswith("sqlite") or len(page.entries) == 1


@ON_ASYNCIO
async def test_bytes_that_redis_has_not_counted_for_long_still_bound_the_event_log(
    server: RedisServer,
) -> None:
    log = RedisLog(server.url)
    few = Limits(events=200, bytes=1_000_000)

    async def add(first: int, batches: int, size: int) -> None:
        for start in range(first, first + 100 * batches, 100):
            entries = [
                NewEntry(b"x" * size, f"w.{start + n}", 60, "w", start + n) for n in range(100)
            ]
            for outcome in await log.append_many("c", entries, limits=few):
                assert isinstance(outcome, Position)

    async with opened(log):
        await add(1, 30, size=10)  # Far from the limit: nobody counts what is dropped.
        await add(3_001, 3, size=20_000)
        page = await read(log, "c", limits=few, limit=1_000)
        await add(3_301, 3, size=1_000)
        small = await read(log, "c", limits=few, limit=1_000)

    assert [len(entry.body) for entry in page.entries] == [20_000] * 50
    # There's room for all that is to be kept again.
    assert 200 <= len(small.entries) <= 264
    assert offsets(small)[-1] == 3_600


@ON_EACH_LOG
async def test_page_with_a_gap_begins_behind_it(url: str, server: RedisServer) -> None:
    log = log_at(url)
    drop = 'DELETE FROM sse_entries WHERE "offset" IN (2, 6)'
    async with opened(log):
        for _ in range(9):
            await append(log, "c")
        ids = [each[0] for each in server.say("XRANGE", "{sse:c}:s", "-", "+")]
        tamper(url, server, ("XDEL", "{sse:c}:s", *ids[1::4]), drop)

        assert offsets(await read(log, "c")) == [7, 8, 9]


@ON_ASYNCIO
async def test_what_is_refused_in_the_middle_of_a_batch_takes_all_that_follows_along(
    server: RedisServer,
) -> None:
    log = RedisLog(server.url)
    server.say("ACL SETUSER", "default", "-set")
    entries = [
        NewEntry(b"1", "w.1", 60, "w", 1),
        NewEntry(b"2", "own", 60),
        NewEntry(b"", "w.2", 60, "w", 2),
        NewEntry(b"4", "w.3", 60, "w", 3),
    ]
    async with opened(log):
        first = await log.append_many("c", entries, limits=Limits())
        halfway = await read(log, "c")
        server.say("ACL SETUSER", "default", "+set")
        second = await log.append_many("c", entries, limits=Limits())
        third = await log.append_many("c", entries, limits=Limits())
        page = await read(log, "c")

    epoch = page.epoch
    assert first[0] == Position(epoch, 1)
    assert [type(each) for each in first[1:]] == [LogRefused] * 3
    assert (halfway.head, halfway.closed) == (1, False)
    assert second[:3] == [Position(epoch, n) for n in (1, 2, 3)]
    assert isinstance(second[3], ChannelClosed)
    assert third[:3] == second[:3]
    assert (page.head, page.closed) == (3, True)


async def test_a_clock_that_was_ahead_for_one_event_keeps_no_others(
    path: Path, clock: FakeClock
) -> None:
    log = SQLiteLog(path, synchronous="normal")
    few = Limits(events=100, seconds=3_600, expire=7 * 86_400)

    async def add(events: int, key: str | None = None, *, ahead: float = 0) -> Position:
        clock.ahead = ahead
        return [await append(log, "c", key=key, limits=few) for _ in range(events)][-1]

    async with opened(log):
        await add(1)
        ahead = await add(1, "ahead", ahead=86_400)
        await add(200)
        again = await add(1, "ahead")
        await add(64, ahead=5)
        clock.ahead = 0
        page = await read(log, "c", limits=few)

    assert again == ahead
    assert len(page.entries) <= 100 + 64
    assert offsets(page)[-1] == 266


@ON_ASYNCIO
async def test_events_without_a_key_leave_few_keys_in_redis(server: RedisServer) -> None:
    hub = Hub(server.url)
    async with hub.lifespan():
        channel = hub.channel("c", history=100)
        await asyncio.gather(*(channel.publish("x") for _ in range(2_000)))

    assert server.say("DBSIZE") == 2
    assert kept(server.url, server) <= 100 + 64


@ON_ASYNCIO
async def test_a_small_pool_is_never_exceeded(server: RedisServer) -> None:
    client = Redis(port=server.port, max_connections=2)
    for log in (f"{server.url}?max_connections=2", RedisLog(client)):
        hub = Hub(log)
        async with hub.lifespan():
            channels = [hub.channel(f"{number}") for number in range(200)]
            await asyncio.gather(*(channel.publish("x", wait=0) for channel in channels))
    await client.aclose()


@pytest.mark.parametrize("damage", ["replaced", "missing", "tables"])
async def test_a_file_that_is_mended_is_used_again(tmp_path: Path, damage: str) -> None:
    folder = tmp_path / "folder"
    path = folder / "events.db"
    if damage != "missing":
        folder.mkdir()
    if damage == "replaced":
        path.write_bytes(b"not a database, but long enough to be looked at" * 100)
    elif damage == "tables":
        execute(path, "CREATE TABLE sse_channels (mine)")
    hub = Hub(f"sqlite:///{path}", publish_wait=0)
    async with hub.lifespan():
        with pytest.raises(LogRefused):
            await hub.channel("c").publish("x")
        assert not await hub.ready()
        assert hub.stats().reason
        if damage == "missing":
            folder.mkdir()
        else:
            path.unlink()
        await hub.channel("c").publish("x")
        assert await hub.ready()


@ON_ASYNCIO
async def test_one_bad_channel_stops_no_other(url: str, server: RedisServer) -> None:
    log = log_at(url)
    entry = NewEntry(b"x", "k", 60)
    async with opened(log):
        await append(log, "bad")
        server.say("DEL", "{sse:bad}:m")
        taken = "UPDATE sse_channels SET head = 'mine'"
        tamper(url, server, ("SET", "{sse:bad}:m", "mine"), taken)
        outcomes = await asyncio.gather(
            *(log.append_many(name, [entry], limits=KEEP_ALL) for name in ("good", "bad", "fine")),
            return_exceptions=True,
        )
        assert [isinstance(each, LogRefused) for each in outcomes] == [False, True, False]
        with pytest.raises(LogRefused) as caught:
            await read(log, "bad")
        heads = await log.heads(["good", "bad", "fine"], expire=60)

    assert caught.value.channel == "bad"
    assert set(heads) == {"good", "fine"}
