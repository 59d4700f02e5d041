"""Times in event logs: where a client begins at one, and clocks that are set."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import anyio
import pytest
from tests.servers.redis_servers import RedisServer
from tests.unit.driving import LOOPS, SEAT_BELT_SECONDS, on

from sse_starlette import Hub
from sse_starlette.channel import Subscription

ON_EACH_LOG = pytest.mark.parametrize(
    ("anyio_backend", "url"),
    [
        *(on(loop, "redis", name="redis") for loop in ("asyncio", "uvloop")),
        *(on(loop, "sqlite", name="sqlite") for loop in LOOPS),
    ],
    indirect=True,
)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with RedisServer(tmp_path_factory.mktemp("redis")) as running:
        yield running


@pytest.fixture
def url(request: pytest.FixtureRequest, server: RedisServer, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/events.db"
    server.say("FLUSHALL")
    return server.url


async def read(subscription: Subscription, events: int) -> list[object]:
    found: list[object] = []
    with anyio.fail_after(SEAT_BELT_SECONDS):
        async with subscription:
            while len(found) < events:
                event = await anext(subscription)
                found.append(event.event or event.data)
    return found


@ON_EACH_LOG
@pytest.mark.anyio
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
            assert await read(one.subscribe(since=between), 1) == ["4"]
            assert await read(one.subscribe(since=timedelta(hours=1)), 4) == [*"1234"]
        later = there.subscribe(since=timedelta(hours=-1))
        await there.publish(5)
        assert await read(later, 1) == ["5"]
        assert await read(other.subscribe(["c", "d"], since=between), 2) == ["4", "5"]
