"""Real Redis for tests: one server, a cluster of three, one server with a replica and a Sentinel.

Each server listens on a free port of its own, keeps its files in a folder of the test's, and is ended
by its process id. A server is known by its port: stopped and started again, it is the same one.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Self

from redis import Redis
from redis.exceptions import RedisError
from tests.servers.serving import Program, free_port, program, until

DEADLINE_SECONDS = 90.0
MASTER_NAME = "events"
# A replica is there at once.
_NO_FILES = ("--save", "", "--appendonly", "no", "--repl-diskless-sync-delay", "0")


class RedisServer:
    """A redis-server that may be stopped, frozen, and started again."""

    def __init__(self, folder: Path, *options: str, config: Path | None = None) -> None:
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self.folder = folder / str(self.port)
        self.folder.mkdir(parents=True)
        self.socket = self.folder / "s"
        self._config = [] if config is None else [config]
        self._options = ["--sentinel"] if config is not None else [*_NO_FILES, *options]
        self._program: Program | None = None
        self.start()

    @property
    def pid(self) -> int:
        assert self._program is not None
        return self._program.pid

    def start(self) -> None:
        running = Program(
            [
                program("redis-server"),
                *self._config,
                *("--port", str(self.port), "--bind", "127.0.0.1", "--dir", self.folder),
                # From where it stands: the path of a socket has 107 bytes at the most.
                *("--unixsocket", self.socket.name),
                *self._options,
            ],
            cwd=self.folder,
        )
        self._program = running
        running.wait_for_line("Ready to accept connections|Sentinel ID is")

    def stop(self) -> None:
        """End it; what it was told to save is there when it starts again."""
        if self._program is not None:
            self.thaw()
            self._program.stop()

    def kill(self) -> None:
        """End it as a crash does: it saves nothing that it hasn't saved yet."""
        if self._program is not None:
            self._program.kill()

    def restart(self) -> None:
        """Let it crash, and start it again."""
        self.kill()
        self.start()

    def flush(self) -> None:
        self.say("FLUSHALL")

    def freeze(self) -> None:
        """Have it say nothing more, its connections being what they are."""
        os.kill(self.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        try:
            os.kill(self.pid, signal.SIGCONT)
        except ProcessLookupError:
            pass

    def say(self, *command: str | int) -> Any:
        """Run a command, on a connection of its own."""
        with Redis(port=self.port, decode_responses=True, client_name="test") as client:
            return client.execute_command(*command)

    def connections(self, kind: str = "normal") -> list[dict[str, str]]:
        """Who is connected, without those who ask."""
        found: list[dict[str, str]] = self.say("CLIENT LIST", "TYPE", kind)
        return [each for each in found if each["name"] != "test"]

    def cut(self, kind: str = "pubsub") -> int:
        """Break the connections of this kind; return how many there were."""
        ended = 0
        for each in self.connections(kind):
            ended += self.say("CLIENT KILL", "ID", each["id"])
        return ended

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()  # Nobody wants what it might save, and asked to end it takes its time.


class ClusterNode(RedisServer):
    """A server that is to be part of a cluster, and knows nobody yet."""

    def __init__(self, folder: Path) -> None:
        self.bus_port = free_port()
        super().__init__(
            folder,
            *("--cluster-enabled", "yes", "--cluster-port", str(self.bus_port)),
            *("--cluster-node-timeout", "1000"),
        )


class RedisCluster:
    """Three masters that share the slots; `url` names two of them."""

    def __init__(self, nodes: list[ClusterNode]) -> None:
        self.nodes = nodes
        self.url = "redis+cluster://" + ",".join(f"127.0.0.1:{node.port}" for node in nodes[:2])
        share = 16384 // len(nodes) + 1
        for number, node in enumerate(nodes):
            slots = range(number * share, min((number + 1) * share, 16384))
            node.say("CLUSTER SET-CONFIG-EPOCH", number + 1)
            node.say("CLUSTER ADDSLOTS", *slots)
            if number:
                node.say("CLUSTER MEET", "127.0.0.1", nodes[0].port, nodes[0].bus_port)
        assert until(lambda: all(map(self._is_complete, nodes)))

    def _is_complete(self, node: RedisServer) -> bool:
        found = node.say("CLUSTER INFO")
        return (found["cluster_state"], found["cluster_known_nodes"]) == ("ok", "3")


@contextmanager
def cluster_of_three(folder: Path) -> Iterator[RedisCluster]:
    with ExitStack() as running:
        nodes = [running.enter_context(ClusterNode(folder)) for _ in range(3)]
        yield RedisCluster(nodes)


class _SentinelServer(RedisServer):
    def __init__(self, folder: Path, master: RedisServer, replica: RedisServer) -> None:
        # It writes down what it learns, in the file that it was started with. That there's a replica
        # it would learn by itself, after ten seconds.
        file = folder / "sentinel.conf"
        file.write_text(
            f"sentinel monitor {MASTER_NAME} 127.0.0.1 {master.port} 1\n"
            f"sentinel down-after-milliseconds {MASTER_NAME} 1000\n"
            f"sentinel failover-timeout {MASTER_NAME} 3000\n"
            f"sentinel known-replica {MASTER_NAME} 127.0.0.1 {replica.port}\n",
            "utf-8",
        )
        super().__init__(folder, config=file)


class Sentinel:
    """A server, its replica, and who decides which of them is the master."""

    def __init__(self, master: RedisServer, replica: RedisServer, sentinel: RedisServer) -> None:
        self.master = master
        self.replica = replica
        self.sentinel = sentinel

    def master_port(self) -> int:
        found: tuple[str, int] = self.sentinel.say("SENTINEL GET-MASTER-ADDR-BY-NAME", MASTER_NAME)
        return int(found[1])

    def fail_over(self) -> None:
        """Have the replica take over; return when it has."""

        # As long as they have not all met, the Sentinel refuses.
        def begun() -> bool:
            try:
                self.sentinel.say("SENTINEL FAILOVER", MASTER_NAME)
            except RedisError:
                return False
            return True

        before = self.master_port()
        assert until(begun)
        assert until(lambda: self.master_port() != before)


@contextmanager
def watched_by_sentinel(folder: Path) -> Iterator[Sentinel]:
    with ExitStack() as running:
        master = running.enter_context(RedisServer(folder))
        replica = running.enter_context(
            RedisServer(folder, "--replicaof", f"127.0.0.1 {master.port}")
        )
        sentinel = running.enter_context(_SentinelServer(folder, master, replica))
        online = until(
            lambda: (
                master.say("INFO", "replication").get("slave0", {}).get("state") == "online"
                and sentinel.say("SENTINEL REPLICAS", MASTER_NAME)
            ),
            seconds=DEADLINE_SECONDS,
        )
        assert online
        yield Sentinel(master, replica, sentinel)
