"""Times in event logs: where a client begins at one, and clocks that are set."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import anyio
import pytest
from tests.eventlogs.stores import ON_ASYNCIO, ON_EACH_LOG, FakeClock
from tests.servers.redis_servers import RedisServer
from tests.unit.driving import SEAT_BELT_SECONDS

from sse_starlette import Hub
from sse_starlette.channels.channel import Subscription
from sse_starlette.eventlogs.base import Limits
from sse_starlette.eventlogs.redis import RedisLog
from sse_starlette.eventlogs.sqlite import SQLiteLog
from sse_starlette.testing.eventlogs import KEEP_ALL, append, offsets, opened, read

pytestmark = pytest.mark.anyio


async def taken_from(subscription: Subscription, events: int) -> list[object]:
    found: list[object] = []
    with anyio.fail_after(SEAT_BELT_SECONDS):
        async with subscription:
            while len(found) < events:
                event = await anext(subscription)
                found.append(event.event or event.data)
    return found


@ON_EACH_LOG
async def test_a_client_begins_at_a_time_in_any_process(url: str) -> None:
    hub, other = Hub(url), Hub(url)
    async with hub.lifespan(), other.lifespan():
        channel, there = hub.channel("c"), other.channel("c")
        for number in range(1, 4):
            await channel.publish(number)
        await anyio.sleep(0.05)
        between = datetime.now(UTC)
        await anyio.sleep(0.05)
        await channel.publish(4)

        for one in (channel, there):
            assert await taken_from(one.subscribe(since=between), 1) == ["4"]
            assert await taken_from(one.subscribe(since=timedelta(hours=1)), 4) == [*"1234"]
        later = there.subscribe(since=timedelta(hours=-1))
        await there.publish(5)
        assert await taken_from(later, 1) == ["5"]
        assert await taken_from(other.subscribe(["c", "d"], since=between), 2) == ["4", "5"]


@ON_EACH_LOG
async def test_limits_may_be_so_large_that_they_are_none(url: str) -> None:
    hub = Hub(url, expire=1e300)
    async with hub.lifespan():
        channel = hub.channel("c", history=10**30, history_bytes=10**30, history_seconds=1e300)
        assert (await channel.publish("x")).endswith(".1")
        assert [event.data for event in await channel.history()] == ["x"]
        assert await taken_from(channel.subscribe(replay=1), 1) == ["x"]


# --- Clocks that are set --------------------------------------------------------------

DAY = 86_400.0
BRIEF = Limits(events=10, seconds=3_600, expire=DAY / 2)


@pytest.mark.parametrize("ahead", [2 * DAY, -2 * DAY], ids=["ahead", "behind"])
async def test_a_clock_that_is_wrong_for_a_while_forgets_neither_events_nor_keys(
    path: Path, clock: FakeClock, ahead: float
) -> None:
    log, other = SQLiteLog(path), SQLiteLog(path)
    async with opened(log, other):
        before = [await append(log, "c", key="before", limits=BRIEF) for _ in range(2)]
        idle = await append(log, "idle", limits=BRIEF)
        clock.ahead = ahead
        assert offsets(await read(other, "c", limits=BRIEF)) == [1]
        assert await append(other, "c", key="before", limits=BRIEF) == before[0]
        for _ in range(100):
            await append(log, "c", limits=BRIEF)
        during = [await append(one, "c", key="during", limits=BRIEF) for one in (log, other)]
        assert (await other.seek("c", age=60, limits=BRIEF)).epoch == before[0].epoch
        clock.ahead = 0
        page = await read(other, "c", limits=BRIEF)
        again = [await append(one, "c", key="during", limits=BRIEF) for one in (log, other)]
        heads = await other.heads(["c", "idle"], expire=BRIEF.expire)
        # What it was told while the clock was wrong isn't remembered for as long as it was wrong.
        for _ in range(100):
            await append(log, "c", limits=BRIEF)
        clock.passed += 300
        after = await append(log, "c", key="during", limits=BRIEF)
        for _ in range(40):
            await append(log, "c", limits=BRIEF)
        kept = await read(log, "c", limits=BRIEF)
        clock.passed += DAY
        forgotten = await read(other, "c", limits=BRIEF)

    assert before[0] == before[1]
    assert set(during + again) == {during[0]}
    assert (page.epoch, page.head) == (before[0].epoch, 102)
    assert heads == {"c": during[0], "idle": idle}
    assert after == (before[0].epoch, 203)
    assert len(kept.entries) <= 10 + 64
    assert forgotten.epoch != before[0].epoch


async def test_a_clock_that_stays_ahead_is_believed_in_the_end(
    path: Path, clock: FakeClock
) -> None:
    log = SQLiteLog(path)
    async with opened(log):
        first = await append(log, "idle", limits=BRIEF)
        clock.ahead = 2 * DAY
        for _ in range(5):
            assert await log.heads(["other"], expire=60) == {}
            clock.passed += 1_000
        assert await log.heads(["idle"], expire=60) == {}
        assert (await read(log, "idle", limits=BRIEF)).epoch != first.epoch


@ON_ASYNCIO
async def test_a_key_that_redis_would_remember_for_days_is_forgotten_in_its_time(
    empty_server: RedisServer,
) -> None:
    """Its time is of a clock that was ahead: that of another server, or of the same one."""
    server = empty_server
    log = RedisLog(server.url)
    async with opened(log):
        first = await append(log, "c", key="k")
        (marker,) = server.say("KEYS", "*:k:*")
        server.say("PEXPIRE", marker, int(2 * DAY * 1_000))
        server.say("PEXPIRE", "{sse:c}:m", int(2 * DAY * 1_000))
        words = str(server.say("HGET", "{sse:c}:m", "d")).split(" ")
        words[2] = f"{int(words[2]) + 2 * DAY:.0f}"  # When that clock said so.
        server.say("HSET", "{sse:c}:m", "d", " ".join(words))
        assert await append(log, "c", key="k") == first
        left = server.say("PTTL", marker)
        assert await append(log, "c", key="k") == first
        still_left = server.say("PTTL", marker)

    assert 0 < still_left <= left <= 120_000
    assert server.say("PTTL", "{sse:c}:m") <= (KEEP_ALL.expire or 0) * 1_000 + 1_000
