"""
Proves what docs/runs.md says of runs, with real processes, real Redis and real files.

    python -m tests.servers.run_proofs [loss | reloads | starts | outage] [memory | sqlite | redis]

tries each proof as often as it takes to be convinced, and prints what it has seen; test_runs.py does it in short.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import httpx2
from tests.servers.redis_servers import RedisServer
from tests.servers.serving import APPS, Server, until

T = TypeVar("T")
KINDS = ("memory", "sqlite", "redis")


@dataclass
class Client:
    """Reads a run as an `EventSource` does: it comes back with the id of what it got last."""

    key: str
    last: str = ""
    got: list[str] = field(default_factory=list)
    ended: bool = False
    at: float = 0.0
    """When the last event came."""

    async def read(
        self, http: httpx2.AsyncClient, url: str, *, leave_after: float | None = None, **query: str
    ) -> None:
        """Read from this process, until the end or for so many seconds; a query starts the run."""
        method = "POST" if query else "GET"
        headers = {"Last-Event-ID": self.last} if self.last else {}
        try:
            async with asyncio.timeout(leave_after):
                async with http.stream(
                    method, f"{url}/runs/{self.key}", params=query, headers=headers
                ) as answer:
                    self.ended = answer.status_code == 204
                    waiting = ""
                    async for piece in answer.aiter_text():
                        *blocks, waiting = (waiting + piece).split("\r\n\r\n")
                        for block in blocks:
                            self._take(block)
        except (TimeoutError, httpx2.HTTPError):
            pass

    def _take(self, block: str) -> None:
        fields = dict(line.split(": ", 1) for line in block.split("\r\n") if ": " in line)
        self.last = fields.get("id", self.last)
        if "data" in fields:
            self.at = time.monotonic()
            name = fields.get("event", "message")
            self.got.append(fields["data"] if name == "message" else name)
            if name in ("end", "error", "stopped", "lost"):
                self.ended = True
            elif name == "reset":
                self.got = ["reset"]


@dataclass
class Processes:
    """Processes on one event log, and what their sources have noted."""

    servers: list[Server]
    journal: Path
    redis: RedisServer | None

    @property
    def urls(self) -> list[str]:
        return [server.url for server in self.servers]

    def noted(self, what: str, key: str) -> int:
        """How often a source has noted this."""
        if not self.journal.exists():
            return 0
        return sum(
            line.startswith(f"{what} {key} ") for line in self.journal.read_text().splitlines()
        )

    def say(self, number: int, signal_: signal.Signals) -> None:
        os.kill(self.servers[number].pid, signal_)


@contextmanager
def processes(kind: str, count: int, folder: Path, *, lease: float = 3.0) -> Iterator[Processes]:
    """Start so many of them; in memory there's one, which is asked as if it were all."""
    with ExitStack() as stack:
        redis = None
        log = "memory" if kind == "memory" else f"sqlite:///{folder / 'events.db'}"
        if kind == "redis":
            redis = stack.enter_context(RedisServer(folder, "--appendonly", "yes"))
            log = redis.url
        journal = folder / "journal"
        servers = [
            stack.enter_context(
                Server([sys.executable, APPS / "runs.py", log, journal, str(lease)])
            )
            for _ in range(1 if kind == "memory" else count)
        ]
        if kind == "memory":
            servers *= count
        yield Processes(servers, journal, redis)


def http() -> httpx2.AsyncClient:
    limits = httpx2.Limits(max_connections=None)
    return httpx2.AsyncClient(timeout=120, trust_env=False, limits=limits)


def tokens(key: str, count: int) -> list[str]:
    return [f"{key} {number}" for number in range(count)]


async def have_got(readers: list[Client], count: int) -> None:
    """Wait until each has got more events than this."""
    while not all(len(reader.got) > count for reader in readers):  # noqa: ASYNC110  (nobody tells of it)
        await asyncio.sleep(0.01)


async def ten_at_a_time(one: Callable[[int], Coroutine[Any, Any, None]], times: int) -> None:
    for begin in range(0, times, 10):
        await asyncio.gather(*map(one, range(begin, min(times, begin + 10))))


async def reload_in_mid_answer(of: Processes, times: int) -> int:
    """Reload at random moments, on another process each time; return how often a client has reloaded."""
    count, reloads = 60, 0
    random_ = random.Random(17)
    async with http() as client:

        async def one(number: int) -> None:
            nonlocal reloads
            reader = Client(f"reload{number}")
            query = {"count": str(count), "pause": "0.01"}
            for place in itertools.count(number):
                await reader.read(
                    client,
                    of.urls[place % len(of.urls)],
                    leave_after=random_.uniform(0.05, 0.6),
                    # A POST that was cut off before anything came is repeated.
                    **({} if reader.last else query),
                )
                if reader.ended:
                    break
                reloads += 1
            assert reader.got == [*tokens(reader.key, count), "end"], (reader.key, reader.got)
            assert of.noted("began", reader.key) == 1

        await ten_at_a_time(one, times)
    return reloads


async def start_at_once(of: Processes, times: int) -> int:
    """Start a run in two processes at the same instant; return how often one process was faster."""
    firsts = 0
    async with http() as client:

        async def one(number: int) -> None:
            nonlocal firsts
            key = f"once{number}"
            query = {"count": "3", "pause": "0"}
            answers = await asyncio.gather(
                *(client.post(f"{url}/runs/{key}/start", params=query) for url in of.urls[:2])
            )
            started = [answer.json() for answer in answers]
            assert sorted(started) == [False, True], (key, started)
            firsts += started[0]

        await ten_at_a_time(one, times)
    for number in range(times):
        assert of.noted("began", f"once{number}") == 1
    return firsts


async def lose_producer(
    of: Processes, key: str, way: signal.Signals, clients: int
) -> tuple[float, float]:
    """
    Have the first process vanish in mid-answer, and start the run again in another.

    Returns:
        The seconds after which the first and the last client were told.
    """
    async with http() as client:
        query = {"count": "100000", "pause": "0.02"}
        await client.post(f"{of.urls[0]}/runs/{key}/start", params=query)
        readers = [Client(key) for _ in range(clients)]
        reading = [
            asyncio.create_task(reader.read(client, of.urls[1 + number % (len(of.urls) - 1)]))
            for number, reader in enumerate(readers)
        ]
        await have_got(readers, 5)
        of.say(0, way)
        vanished = time.monotonic()
        await asyncio.gather(*reading)
        delays = [reader.at - vanished for reader in readers]
        for reader in readers:
            assert reader.got == [*tokens(key, len(reader.got) - 1), "lost"], reader.got[-3:]
        before = (await client.get(f"{of.urls[1]}/runs/{key}/events")).json()

        if way is signal.SIGSTOP:
            of.say(0, signal.SIGCONT)
            assert await asyncio.to_thread(until, lambda: of.noted("closed", key))
            after = (await client.get(f"{of.urls[0]}/runs/{key}/events")).json()
            assert after == before, "the one that came back has written something"

        again = {"count": "20", "pause": "0.001", "restart": "lost"}
        answers = await asyncio.gather(
            *(client.post(f"{url}/runs/{key}/start", params=again) for url in of.urls[1:] * 3)
        )
        assert sum(answer.json() for answer in answers) == 1
        for reader in readers:
            reader.ended = False
            await reader.read(client, of.urls[-1])
            assert reader.got == ["reset", *tokens(key, 20), "end"], reader.got[:5]
        assert of.noted("began", key) == 2
    return min(delays), max(delays)


async def without_redis(of: Processes, key: str, seconds: float, *, frozen: bool) -> int:
    """Have Redis go away in mid-answer, frozen or stopped; return how many tokens there were."""
    assert of.redis is not None
    count = max(200, int(seconds * 60))
    async with http() as client:
        query = {"count": str(count), "pause": "0.02"}
        readers = [Client(key) for _ in range(6)]
        await client.post(f"{of.urls[0]}/runs/{key}/start", params=query)
        reading = [
            asyncio.create_task(reader.read(client, of.urls[number % len(of.urls)]))
            for number, reader in enumerate(readers)
        ]
        await have_got(readers, 20)
        if frozen:
            of.redis.freeze()
        else:
            await asyncio.to_thread(of.redis.stop)
        await asyncio.sleep(seconds)
        if frozen:
            of.redis.thaw()
        else:
            await asyncio.to_thread(of.redis.start)
        await asyncio.gather(*reading)
        for reader in readers:
            assert reader.got == [*tokens(key, count), "end"], (len(reader.got), reader.got[-3:])
        assert of.noted("began", key) == 1
    return count


def prove(
    kind: str, count: int, proof: Callable[[Processes], Coroutine[Any, Any, T]], said: str
) -> None:
    """Try a proof with so many processes, and print what it has seen."""
    with tempfile.TemporaryDirectory() as folder, processes(kind, count, Path(folder)) as of:
        print(f"{kind}: " + said.format(asyncio.run(proof(of))), flush=True)


def prove_loss(kind: str) -> None:
    said = "20 clients told after {0[0]:.2f} to {0[1]:.2f} s, nothing written after, started again once"
    for way in (signal.SIGKILL, signal.SIGSTOP):
        proof = partial(lose_producer, key="lost", way=way, clients=20)
        prove(kind, 3, proof, f"{way.name}: {said}")


def prove_reloads(kind: str) -> None:
    proof = partial(reload_in_mid_answer, times=200)
    prove(kind, 2, proof, "200 answers, {0} reloads: each identical, each made once")


def prove_starts(kind: str) -> None:
    proof = partial(start_at_once, times=500)
    prove(kind, 2, proof, "500 doubled POSTs: one producer each ({0} in the first)")


def prove_outage(kind: str) -> None:
    for how, frozen in (("frozen", True), ("stopped", False)):
        proof = partial(without_redis, key="away", seconds=5.0, frozen=frozen)
        prove(kind, 2, proof, f"{how} for 5 s: {{0}} tokens, none lost, none doubled")


PROOFS = {
    "loss": (prove_loss, KINDS[1:]),
    "reloads": (prove_reloads, KINDS),
    "starts": (prove_starts, KINDS),
    "outage": (prove_outage, KINDS[2:]),
}


def main(words: list[str]) -> None:
    """Prove what the words name, proofs and kinds of logs; without a word, all of it."""
    for name, (prove_it, kinds) in PROOFS.items():
        for kind in kinds:
            if {name, kind} >= set(words):
                prove_it(kind)


if __name__ == "__main__":
    main(sys.argv[1:])
