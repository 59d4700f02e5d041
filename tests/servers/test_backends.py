"""The logs of a hub, each on what it is made of: Redis alone, as a cluster, behind Sentinel, and SQLite."""

from __future__ import annotations

import os
import secrets
import signal
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import anyio
import pytest
from redis.asyncio.sentinel import Sentinel as SentinelClient
from tests.servers import redis_servers
from tests.servers.redis_servers import MASTER_NAME, RedisCluster, RedisServer, Sentinel
from tests.servers.serving import Program, until

from sse_starlette.errors import LogUnavailable
from sse_starlette.eventlogs.base import Backend, Position
from sse_starlette.eventlogs.redis import RedisLog
from sse_starlette.eventlogs.sqlite import SQLiteLog
from sse_starlette.testing.eventlogs import (
    KEEP_ALL,
    EventLogContractOverTime,
    MakeLog,
    append,
    listening,
    offsets,
    opened,
    read,
)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def prefix() -> str:
    """What no other test has in its keys."""
    return secrets.token_hex(4)


@pytest.fixture(scope="module")
def shared_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with RedisServer(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture(scope="module")
def shared_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisCluster]:
    with redis_servers.cluster_of_three(tmp_path_factory.mktemp("cluster")) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def shared_sentinel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sentinel]:
    with redis_servers.watched_by_sentinel(tmp_path_factory.mktemp("sentinel")) as sentinel:
        yield sentinel


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[RedisServer]:
    """A server that a test may break."""
    with RedisServer(tmp_path) as server:
        yield server


class TestRedis(EventLogContractOverTime):
    @pytest.fixture
    def make_log(self, shared_server: RedisServer, prefix: str) -> MakeLog:
        return lambda: RedisLog(shared_server.url, prefix=prefix)


class TestRedisCluster(EventLogContractOverTime):
    @pytest.fixture
    def make_log(self, shared_cluster: RedisCluster, prefix: str) -> MakeLog:
        return lambda: RedisLog(shared_cluster.url, prefix=prefix)


class LogBehindSentinel(RedisLog):
    """A log, and the clients that are the application's own, closed as it would close them."""

    def __init__(self, sentinel: Sentinel, prefix: str) -> None:
        where = [("127.0.0.1", sentinel.sentinel.port)]
        self._sentinel = SentinelClient(where)  # type: ignore[no-untyped-call]
        self._master = self._sentinel.master_for(MASTER_NAME)
        super().__init__(self._master, prefix=prefix, timeout=2)

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        try:
            async with super().open():
                yield
        finally:
            for client in (self._master, *self._sentinel.sentinels):
                await client.aclose()


class TestRedisBehindSentinel(EventLogContractOverTime):
    @pytest.fixture
    def make_log(self, shared_sentinel: Sentinel, prefix: str) -> MakeLog:
        return lambda: LogBehindSentinel(shared_sentinel, prefix)


class TestSQLite(EventLogContractOverTime):
    @pytest.fixture(params=["asyncio", "trio"])
    def anyio_backend(self, request: pytest.FixtureRequest) -> str:
        loop: str = request.param
        return loop

    @pytest.fixture
    def make_log(self, tmp_path: Path) -> MakeLog:
        return lambda: SQLiteLog(tmp_path / "events.db")


async def append_in_the_end(log: Backend, channel: str, key: str) -> Position:
    """Repeat it with the same key until the log is there, as a publisher does."""
    while True:
        try:
            return await append(log, channel, key=key)
        except LogUnavailable:
            await anyio.sleep(0.05)


# --- Redis, broken --------------------------------------------------------------------


@pytest.mark.anyio
async def test_history_outlives_a_server_that_keeps_it(tmp_path: Path) -> None:
    kept = ("--appendonly", "yes", "--appendfsync", "always")
    with RedisServer(tmp_path, *kept) as server:
        log = RedisLog(server.url)
        async with opened(log), listening(log, "a") as listener:
            first = await append(log, "a", key="1")
            server.stop()
            await listener.until(lambda: listener.losses)
            server.start()
            assert await append_in_the_end(log, "a", "1") == first
            second = await append_in_the_end(log, "a", "2")
            await listener.until(lambda: listener.subscriptions == ["a", "a"])
            third = await append(log, "a", key="3")
            await listener.until(lambda: 3 in listener.offsets("a"))

    assert (second, third) == ((first.epoch, 2), (first.epoch, 3))


@pytest.mark.anyio
async def test_history_of_a_server_that_keeps_nothing_is_another_one(
    own_server: RedisServer,
) -> None:
    log = RedisLog(own_server.url)
    async with opened(log), listening(log, "a") as listener:
        first = await append(log, "a", key="1")
        own_server.stop()
        own_server.start()
        await listener.until(lambda: listener.subscriptions == ["a", "a"])
        second = await append_in_the_end(log, "a", "1")

    assert second.offset == 1
    assert second.epoch != first.epoch


@pytest.mark.anyio
async def test_server_that_stands_still_for_seconds_has_each_event_once(tmp_path: Path) -> None:
    with RedisServer(tmp_path) as server:
        log = RedisLog(server.url, timeout=2, probe=2)
        async with opened(log), listening(log, "a") as listener:
            await append(log, "a", key="0")
            server.freeze()
            async with anyio.create_task_group() as tasks:
                for number in range(1, 20):
                    tasks.start_soon(append_in_the_end, log, "a", f"{number}")
                await listener.until(lambda: listener.losses)
                await anyio.sleep(2)
                server.thaw()
            page = await read(log, "a")
            await listener.until(lambda: listener.subscriptions == ["a", "a"])

    assert offsets(page) == list(range(1, 21))
    assert sorted(int(entry.key) for entry in page.entries) == list(range(20))
    assert len(listener.losses) == 1


@pytest.mark.anyio
async def test_connection_that_breaks_is_told_and_nothing_is_missing_after_it(
    own_server: RedisServer,
) -> None:
    log, other = RedisLog(own_server.url), RedisLog(own_server.url)

    async with opened(log, other), listening(log, "a", "b") as listener:
        for round_ in range(1, 4):
            before = await append(other, "a")
            assert own_server.cut() == 1
            await append(other, "a")
            await listener.until(partial(listener.has_subscribed, "a", round_ + 1))
            await listener.until(partial(listener.has_subscribed, "b", round_ + 1))
            missed = await read(log, "a", before.offset)
            await append(other, "a")
            await listener.until(partial(listener.has, "a", before.offset + 2))

            heard = set(listener.offsets("a"))
            assert heard | set(offsets(missed)) >= {before.offset + 1, before.offset + 2}
            assert len(listener.losses) == round_
    assert len(own_server.connections("pubsub")) == 0


@pytest.mark.slow
@pytest.mark.anyio
async def test_silent_server_is_noticed_and_what_was_tried_is_done_once(
    own_server: RedisServer,
) -> None:
    log = RedisLog(own_server.url, timeout=2, probe=1)

    async with opened(log), listening(log, "a") as listener:
        first = await append(log, "a")
        # It isn't silent as long as it answers.
        await anyio.sleep(4)
        assert listener.losses == []
        own_server.freeze()
        with pytest.raises(LogUnavailable, match=r"no answer within 2 s"):
            await append(log, "a", key="k")
        await listener.until(lambda: listener.losses)
        own_server.thaw()
        await listener.until(lambda: listener.subscriptions == ["a", "a"])
        second = await append(log, "a", key="k")
        page = await read(log, "a")

    assert second == (first.epoch, 2)
    assert offsets(page) == [1, 2]
    assert "no answer within 2 s" in str(listener.losses[0])


@pytest.mark.anyio
async def test_cut_off_publisher_publishes_each_event_once(own_server: RedisServer) -> None:
    log = RedisLog(own_server.url)
    done: set[int] = set()

    async def publish(number: int) -> None:
        while number not in done:
            try:
                await append(log, "a", key=f"{number}")
            except LogUnavailable:
                continue
            done.add(number)

    async with opened(log):
        async with anyio.create_task_group() as tasks:
            for first in range(0, 160, 8):
                # What waits is added together, and soon: each of the rounds has something to cut.
                for number in range(first, first + 8):
                    tasks.start_soon(publish, number)
                cut = 0
                while not cut:
                    await anyio.sleep(0.002)
                    cut = own_server.cut("normal")
        page = await read(log, "a")

    assert sorted(int(entry.key) for entry in page.entries) == list(range(160))
    assert offsets(page) == list(range(1, 161))


@pytest.mark.anyio
async def test_ten_thousand_channels_take_one_connection(tmp_path: Path) -> None:
    names = [f"{number}" for number in range(10_000)]
    with RedisServer(tmp_path) as server:
        log, other = RedisLog(server.url), RedisLog(server.url)
        async with opened(log, other), listening(log, *names) as listener:
            async with anyio.create_task_group() as tasks:
                for name in names[::20]:
                    tasks.start_soon(append, other, name)
            await listener.until(lambda: len(listener.entries) == 500)
            (connection,) = server.connections("pubsub")
            assert connection["sub"] == "10000"
            # Four of each log, at the most.
            assert len(server.connections()) <= 8
            server.cut()
            await listener.until(lambda: len(listener.subscriptions) == 20_000)
            for name in names[::2]:
                log.unwatch(name)
            log.watch("last")
            await listener.until(lambda: listener.subscriptions[-1] == "last")
            assert server.connections("pubsub")[0]["sub"] == "5001"
            await append(other, "1")
            await listener.until(lambda: listener.offsets("1"))
            heads = await log.heads(names, expire=60)

    assert len(listener.losses) == 1
    assert len(heads) == 501


@pytest.mark.anyio
async def test_keys_of_a_channel_go_when_their_time_has_come(tmp_path: Path) -> None:
    with RedisServer(tmp_path) as server:
        log = RedisLog(server.url)
        async with opened(log):
            await log.append(
                "a", b"x", key="k", key_seconds=0.2, limits=KEEP_ALL._replace(expire=0.1)
            )
            assert sorted(server.say("KEYS", "*")) == ["{sse:a}:k:k", "{sse:a}:m", "{sse:a}:s"]
            assert until(lambda: server.say("DBSIZE") == 0)


@pytest.mark.slow
@pytest.mark.anyio
async def test_replica_that_takes_over_goes_on_with_the_history(tmp_path: Path) -> None:
    with redis_servers.watched_by_sentinel(tmp_path) as sentinel:
        log = LogBehindSentinel(sentinel, "sse")
        async with opened(log), listening(log, "a") as listener:
            before = [await append(log, "a", key=f"{number}") for number in range(5)]
            # What a replica that is behind has never had can't be gone on with.
            with_replica = sentinel.master.say("WAIT", 1, 5_000)
            sentinel.fail_over()
            after = await append_in_the_end(log, "a", "after")
            again = await append(log, "a", key="3")
            await listener.until(lambda: len(listener.subscriptions) == 2)
            last = await append(log, "a")
            await listener.until(lambda: last.offset in listener.offsets("a"))

    assert with_replica == 1
    assert after == (before[0].epoch, 6)
    assert again == before[3]


@pytest.mark.slow
@pytest.mark.anyio
async def test_listening_goes_on_at_another_node_when_its_own_dies(tmp_path: Path) -> None:
    with redis_servers.cluster_of_three(tmp_path) as cluster:
        log = RedisLog(cluster.url, timeout=2)
        names = [f"{number}" for number in range(20)]
        async with opened(log), listening(log, *names) as listener:
            first = {name: await append(log, name) for name in names}
            assert all(node.say("DBSIZE") for node in cluster.nodes)
            (listened_to,) = (node for node in cluster.nodes if node.connections("pubsub"))
            listened_to.stop()
            await listener.until(lambda: len(listener.subscriptions) == 40)
            # Until then the cluster is down, for a part of the channels is nowhere.
            listened_to.start()
            for name in names:
                await append_in_the_end(log, name, "k")
            await listener.until(lambda: all(listener.offsets(name) for name in names))
            pages = {name: await read(log, name) for name in names}

    assert len(listener.losses) == 1
    # That node kept nothing: its channels begin anew.
    for name in names:
        assert pages[name].head == (2 if pages[name].epoch == first[name].epoch else 1)
    assert len({pages[name].head for name in names}) == 2


# --- SQLite, by many processes --------------------------------------------------------

WRITER = """
import sys, anyio
from sse_starlette.eventlogs.base import Limits
from sse_starlette.eventlogs.sqlite import SQLiteLog

async def main(path, name):
    log = SQLiteLog(path)
    async with log.open():
        for number in range(200):
            limits = Limits(events=1_000, seconds=None, expire=60)
            await log.append("a", b"x", key=f"{name}-{number}", key_seconds=60, limits=limits)

anyio.run(main, *sys.argv[1:])
"""


@pytest.mark.anyio
async def test_four_processes_write_one_history(tmp_path: Path) -> None:
    path = tmp_path / "events.db"
    log = SQLiteLog(path)
    async with opened(log), listening(log, "a") as listener:
        writers = [Program([sys.executable, "-c", WRITER, path, name]) for name in "1234"]
        try:
            await listener.until(lambda: len(listener.entries) == 800)
        finally:
            for writer in writers:
                writer.stop()
        page = await read(log, "a")

    assert [line for writer in writers for line in writer.lines] == []
    assert listener.offsets("a") == offsets(page) == list(range(1, 801))
    assert len({entry.key for entry in page.entries}) == 800
    assert listener.losses == []


@pytest.mark.anyio
async def test_killed_process_leaves_a_history_that_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "events.db"
    log = SQLiteLog(path)
    async with opened(log), listening(log, "a") as listener:
        with Program([sys.executable, "-c", WRITER, path, "1"]) as writer:
            await listener.until(lambda: len(listener.entries) >= 20)
            os.kill(writer.pid, signal.SIGKILL)
        head = (await read(log, "a", limit=0)).head
        position = await append(log, "a")
        await listener.until(lambda: position.offset in listener.offsets("a"))

    assert position.offset == head + 1
    assert listener.offsets("a") == list(range(1, head + 2))
    assert listener.losses == []
