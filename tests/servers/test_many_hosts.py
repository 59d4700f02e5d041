"""Many processes behind nginx on one log, while whatever can break does: nobody misses anything unawares."""

from __future__ import annotations

import asyncio
import json
import re
import sqlite3
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, ExitStack, closing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import pytest
from redis import Redis
from tests.servers import proxy, redis_servers
from tests.servers.apps.one_of_many import hub_on
from tests.servers.crowd import EPOCH, Channel, Follower, connect, silent_gaps
from tests.servers.redis_servers import RedisServer
from tests.servers.serving import APPS, Program, Server, free_port, until

PROCESSES = 3
CLIENTS = 45
PUBLISHERS = ("Ada", "Bo")
EVENTS = 1_500
SECONDS = 2.5
"""How long it takes to publish them if nothing breaks."""
ALL_KEPT = 10_000


class Hosts:
    """Processes that serve the channels of one log; each has a port, which its successor takes over."""

    def __init__(self, log: str, count: int, *, history: int = ALL_KEPT) -> None:
        self.log = log
        self.history = history
        self.ports = [free_port() for _ in range(count)]
        self.past: list[Program] = []
        with ThreadPoolExecutor(count) as starting:
            self.servers = list(starting.map(self._start, self.ports))

    def _start(self, port: int) -> Server:
        options = [self.log, str(port), str(self.history)]
        return Server([sys.executable, APPS / "one_of_many.py", *options])

    def kill(self, number: int) -> None:
        server = self.servers[number]
        server.kill()
        self.past.append(server)

    def replace(self, number: int) -> None:
        self.servers[number] = self._start(self.ports[number])

    def stop(self) -> None:
        for server in self.servers:
            server.stop()

    def complaints(self) -> list[str]:
        """What they have printed about errors that nobody has dealt with."""
        return [
            line
            for each in (*self.past, *self.servers)
            for line in each.lines
            if "Traceback" in line or "ERROR" in line
        ]


@dataclass
class Run:
    """What a test has to do with while it goes on, and what came out of it."""

    hosts: Hosts
    channels: list[Channel]
    clients: list[Follower]
    folder: Path
    count: int
    size: int
    publishers: dict[str, Program] = field(default_factory=dict)

    def events(self) -> int:
        """How many events have come to anybody."""
        return sum(len(channel.events) for channel in self.channels)

    def seen(self, events: int) -> None:
        """Wait until so many events have come."""

        def settled() -> bool:
            return self.events() >= events or any(one.faults for one in self.clients)

        assert until(settled), [each.lines for each in self.publishers.values()]

    def seen_more(self, events: int) -> None:
        """Wait until so many more have come, or all those that come while things break."""
        self.seen(min(self.events() + events, self.count * 9 // 10))

    @property
    def resets(self) -> Counter[str]:
        return Counter(reset.reason for one in self.clients for reset in one.resets)

    async def go(self, disturb: Callable[[Run], object]) -> None:
        async with asyncio.timeout(300), asyncio.TaskGroup() as running:
            for client in self.clients:
                running.create_task(client.run())
            for client in self.clients:
                await client.began.wait()
            try:
                for name in PUBLISHERS:
                    self.publish(name)
                await asyncio.to_thread(self.seen, 150)
                await asyncio.to_thread(disturb, self)
                self._gate.touch()
                await asyncio.to_thread(self._finish)
            finally:
                for publisher in self.publishers.values():
                    publisher.stop()
            await self._end()
            for client in self.clients:
                client.leave_if_done()

    def publish(self, name: str) -> None:
        """Have this publisher publish all that it has, from its first event on."""
        names = ",".join(channel.name for channel in self.channels)
        count = self.count // len(PUBLISHERS)
        options = (self.hosts.history, count, SECONDS, self.size, self._file(name), self._gate)
        self.publishers[name] = publisher(self.hosts.log, name, names, *options)

    @property
    def _gate(self) -> Path:
        """With this file the publishers go on to their end."""
        return self.folder / "gate"

    def _file(self, name: str) -> Path:
        return self.folder / f"{name}.json"

    def _finish(self) -> None:
        """Wait until everything has been published."""
        by_name = {channel.name: channel for channel in self.channels}
        for name, program in self.publishers.items():
            assert program.wait(60) == 0, program.lines
            for channel, number, event_id in json.loads(self._file(name).read_text("utf-8")):
                by_name[channel].acknowledge(event_id, name, number)

    async def _end(self) -> None:
        """Publish what comes last in each channel."""
        hub = hub_on(self.hosts.log)
        async with hub.lifespan():
            for number, each in enumerate(self.channels):
                channel = hub.channel(each.name, history=self.hosts.history)
                event_id = await channel.publish({"data": {"publisher": "end", "number": number}})
                each.acknowledge(event_id, "end", number)
                each.goal = each.place(event_id)

    # What must be true in the end, whatever has broken.

    def assert_sound(self) -> None:
        """What came is right, in order and once; what didn't was announced."""
        assert [fault for one in self.channels for fault in one.faults] == []
        assert [fault for one in self.clients for fault in one.faults] == []
        assert all(one.place == one.channel.goal for one in self.clients)
        assert silent_gaps(self.clients) == []
        for channel in self.channels:
            # Who publishes knows the ids that clients get.
            common = channel.acknowledged.keys() & channel.events.keys()
            assert all(channel.acknowledged[each] == channel.events[each] for each in common)
            # In one history nothing is there twice, and each publisher's events are in its order.
            numbers: dict[tuple[int, str], list[int]] = {}
            for place, (publisher, number) in sorted(channel.events.items()):
                numbers.setdefault((place // EPOCH, publisher), []).append(number)
            assert all(each == sorted(set(each)) for each in numbers.values())
        assert self.hosts.complaints() == []

    def assert_nothing_was_lost(self) -> None:
        """Everybody has everything, and nobody was told otherwise."""
        self.assert_sound()
        assert self.resets == {}
        assert all(one.channel.acknowledged == one.channel.events for one in self.clients)
        assert all(one.got == len(one.channel.events) for one in self.clients)
        assert self.events() == self.count + len(self.channels)

    def assert_all_was_lost_once(self) -> None:
        """So everybody was told once."""
        self.assert_sound()
        assert self.resets == {"epoch": CLIENTS}


def publisher(log: str, name: str, channels: str, *options: object) -> Program:
    """Publish from a process of its own; see apps/publisher.py."""
    return Program([sys.executable, APPS / "publisher.py", log, name, channels, *map(str, options)])


def run_while(
    disturb: Callable[[Run], object],
    log: str,
    folder: Path,
    *,
    history: int = ALL_KEPT,
    channels: Sequence[str] = ("news",),
    count: int = EVENTS,
    size: int = 0,
    stalled: int = 0,
) -> Run:
    """
    Have clients follow, behind nginx, the processes that serve them, while this happens.

    So many of them will stall, and are connected to one of these processes itself until then: how much
    the kernel takes for nginx grows with how late that reads.
    """
    with ExitStack() as stack:
        there = Hosts(log, PROCESSES, history=history)
        stack.callback(there.stop)
        url = stack.enter_context(proxy.nginx(folder / "nginx", there.ports))
        port = int(url.rpartition(":")[2])
        followed = [Channel(name, port, f"/stream/{name}") for name in channels]
        clients = [
            Follower(
                followed[number % len(followed)],
                stalls_at=50 if number < stalled else None,
                first_port=there.ports[number % PROCESSES] if number < stalled else None,
            )
            for number in range(CLIENTS)
        ]
        run = Run(there, followed, clients, folder, count, size)
        asyncio.run(run.go(disturb))
    return run


def kill_and_replace(run: Run) -> None:
    """
    Kill two processes that serve, one after the other, and one that publishes.

    The second has clients that came from the first. The last publishes everything again, with the
    same keys.
    """
    for number in (0, 1):
        run.hosts.kill(number)
        run.seen_more(250)
        run.hosts.replace(number)
    run.publishers[PUBLISHERS[0]].kill()
    run.publish(PUBLISHERS[0])


# --- Redis ----------------------------------------------------------------------------


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    with RedisServer(tmp_path / "redis") as running_one:
        yield running_one


@pytest.mark.parametrize("kind", ["pubsub", "normal"], ids=["readers", "publishers"])
def test_connections_break_again_and_again(server: RedisServer, tmp_path: Path, kind: str) -> None:
    def cut(run: Run) -> None:
        broken = 0
        while broken < 30:
            # All of them are there again before they break again.
            there = partial(server.connections, kind)
            assert until(lambda: len(there()) >= len(PUBLISHERS))  # noqa: B023
            broken += server.cut(kind)
            run.seen_more(50)

    run_while(cut, server.url, tmp_path).assert_nothing_was_lost()


def test_processes_are_killed_and_replaced(server: RedisServer, tmp_path: Path) -> None:
    run = run_while(kill_and_replace, server.url, tmp_path)

    run.assert_nothing_was_lost()
    came_back = [one for one in run.clients if one.connections > 1]
    assert len(came_back) >= CLIENTS / 2


def test_redis_stands_still_for_five_seconds(server: RedisServer, tmp_path: Path) -> None:
    def freeze(_: Run) -> None:
        server.freeze()
        time.sleep(5)
        server.thaw()

    run = run_while(freeze, server.url, tmp_path)

    run.assert_nothing_was_lost()
    # It was noticed, and told.
    assert all(one.comments[": the log is out of reach"] for one in run.clients)


def test_redis_is_killed_and_comes_back_with_its_data(tmp_path: Path) -> None:
    # It has written everything down before it says so; when it dies, the kernel has it.
    kept = ("--appendonly", "yes", "--appendfsync", "no")
    with RedisServer(tmp_path / "redis", *kept) as server:
        run = run_while(lambda _: server.restart(), server.url, tmp_path)

    run.assert_nothing_was_lost()


@pytest.mark.parametrize(
    "lose", [RedisServer.restart, RedisServer.flush], ids=["killed", "flushed"]
)
def test_redis_loses_everything(
    server: RedisServer, tmp_path: Path, lose: Callable[[RedisServer], object]
) -> None:
    def lose_it(run: Run) -> None:
        run.seen(1_000)
        lose(server)

    run_while(lose_it, server.url, tmp_path).assert_all_was_lost_once()


STALLED = 9
KEPT = 150


def most_on_the_way() -> int:
    """How many bytes may have left the server for a client that takes none of them."""
    buffers = Path("/proc/sys/net/ipv4/tcp_wmem").read_text("utf-8")
    # tcp(7): the third is the most that a socket's buffer grows to. What the server itself keeps
    # for a client, and the kernel for a client that stalls, is far less than the million.
    return int(buffers.split()[2]) + 1_000_000


SIZE = max(1_000, most_on_the_way() // (EVENTS // 2))
"""Of the events, so that half of them are more than what may be on the way."""


def read_on_late(run: Run) -> None:
    """Let those who stall read on when the history has moved past all that is on the way to them."""
    stall = run.clients[:STALLED]
    assert until(lambda: all(one.stalled for one in stall))
    run.seen(EVENTS // 2 + KEPT + max(one.got for one in stall))
    for client in stall:
        client.read_on()


def trim_under_slow_clients(log: str, folder: Path) -> None:
    run = run_while(read_on_late, log, folder, history=KEPT, size=SIZE, stalled=STALLED)

    run.assert_sound()
    resets = [reset for one in run.clients for reset in one.resets]
    assert {reset.reason for reset in resets} == {"trimmed"}
    assert all(one.resets for one in run.clients[:STALLED])
    # The newest are there for whoever wants them.
    assert min(reset.after - reset.before for reset in resets) >= KEPT


def test_history_is_trimmed_under_slow_clients(server: RedisServer, tmp_path: Path) -> None:
    trim_under_slow_clients(server.url, tmp_path)


def test_connections_to_redis_grow_with_neither_clients_nor_channels(
    server: RedisServer, tmp_path: Path
) -> None:
    names = [f"c{number}" for number in range(3_000)]
    paths = [",".join(names[start : start + 10]) for start in range(0, len(names), 10)]
    hosts = Hosts(server.url, 1)
    there: dict[str, set[int]] = {"pubsub": set(), "normal": set()}

    def count() -> None:
        for kind, found in there.items():
            found.add(len(server.connections(kind)))

    async def run() -> list[bytearray]:
        bodies = [bytearray() for _ in paths]

        async def until_each_has(what: bytes, times: int) -> None:
            while not all(body.count(what) >= times for body in bodies):
                await asyncio.to_thread(count)
                await asyncio.sleep(0.2)

        async with asyncio.timeout(240), AsyncExitStack() as leaving:
            for path, body in zip(paths, bodies, strict=True):
                client = await connect(body.extend, hosts.ports[0], f"/stream/{path}")
                leaving.callback(client.leave)
            # The id by which each has its place in ten channels. On a busy machine there's a ping before.
            await until_each_has(b"id: ", 1)
            gate = tmp_path / "gate"
            gate.touch()
            channels = ",".join(names[::10])
            options = (hosts.history, len(paths), 0, 0, tmp_path / "Ada.json", gate)
            with publisher(hosts.log, "Ada", channels, *options) as publishing:
                await until_each_has(b"data:", 1)
                assert await asyncio.to_thread(publishing.wait, 90) == 0, publishing.lines
        return bodies

    try:
        bodies = asyncio.run(run())
    finally:
        hosts.stop()
    last = [bytes(body).rpartition(b"id: ")[2].partition(b"\r\n")[0] for body in bodies]

    # One event, and a place in each of ten channels.
    assert all(re.fullmatch(rb"\w{8}\.1(-\w{8}\.0){9}", id_) for id_ in last), last[0]
    # One that listens; four that ask, and as many of the publisher, which listens to nothing.
    assert max(there["pubsub"]) == 1
    assert max(there["normal"]) <= 4 + 4 + 1
    assert hosts.complaints() == []


# --- A cluster ------------------------------------------------------------------------


def test_processes_share_channels_on_a_cluster(tmp_path: Path) -> None:
    with redis_servers.cluster_of_three(tmp_path / "redis") as cluster:

        def cut(run: Run) -> None:
            for _ in range(5):
                for node in cluster.nodes:
                    node.cut("pubsub")
                    node.cut("normal")
                run.seen_more(150)

        channels = ("news", "sport", "music")
        run = run_while(cut, cluster.url, tmp_path, channels=channels, count=1_200)

        # Each of them is kept by another node.
        assert all(len(node.say("KEYS", "*:s")) == 1 for node in cluster.nodes)
    run.assert_nothing_was_lost()


# --- SQLite ---------------------------------------------------------------------------


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "events.db"


def test_processes_on_sqlite_are_killed_and_replaced(file: Path, tmp_path: Path) -> None:
    run = run_while(kill_and_replace, f"sqlite:///{file}", tmp_path)

    run.assert_nothing_was_lost()


def test_sqlite_is_locked_for_five_seconds(file: Path, tmp_path: Path) -> None:
    def lock(_: Run) -> None:
        with closing(sqlite3.connect(file, timeout=90, isolation_level=None)) as connection:
            connection.execute("BEGIN IMMEDIATE")
            time.sleep(5)
            connection.execute("ROLLBACK")

    run_while(lock, f"sqlite:///{file}", tmp_path).assert_nothing_was_lost()


def test_sqlite_is_deleted(file: Path, tmp_path: Path) -> None:
    def delete(run: Run) -> None:
        run.seen(1_000)
        for each in tmp_path.glob("events.db*"):
            each.unlink()

    run_while(delete, f"sqlite:///{file}", tmp_path).assert_all_was_lost_once()


def test_history_in_sqlite_is_trimmed_under_slow_clients(file: Path, tmp_path: Path) -> None:
    trim_under_slow_clients(f"sqlite:///{file}", tmp_path)


# --- An operator's mistakes -----------------------------------------------------------


def test_an_operator_is_mistaken_again_and_again(server: RedisServer, tmp_path: Path) -> None:
    """What is refused, of another type, late, or behind another password, is there again afterwards."""
    with Redis(port=server.port, client_name="test") as operator:

        def say(*command: str | int) -> None:
            operator.execute_command(*command)

        def until_refused() -> None:
            def refused() -> int:
                return int(operator.info("stats")["total_error_replies"])

            before = refused()
            assert until(lambda: refused() >= before + 10)

        def cut() -> None:
            for connections in ("normal", "pubsub"):
                say("CLIENT", "KILL", "TYPE", connections, "SKIPME", "yes")

        def err(run: Run) -> None:
            for command in ("xadd", "hmget", "xrange", "subscribe"):
                say("ACL", "SETUSER", "default", f"-{command}")
                cut()
                until_refused()
                say("ACL", "SETUSER", "default", f"+{command}")
                run.seen_more(100)
            for key in ("{sse:news}:m", "{sse:news}:s"):
                say("EVAL", _SWAP, 2, key, "elsewhere")
                until_refused()
                say("RENAME", "elsewhere", key)
                run.seen_more(100)
            say("CONFIG", "SET", "requirepass", "another")
            cut()
            until_refused()
            say("CONFIG", "SET", "requirepass", "")
            run.seen_more(100)
            for _ in range(2):
                say("CLIENT", "PAUSE", 1_000, "ALL")
                run.seen_more(100)

        run_while(err, server.url, tmp_path).assert_nothing_was_lost()


_SWAP = "redis.call('RENAME', KEYS[1], KEYS[2]) redis.call('SET', KEYS[1], 'of another type')"
