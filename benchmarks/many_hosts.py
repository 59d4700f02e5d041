"""One channel in many processes: how long an event takes through each log, and what processes add.

`python3 tasks.py bench --many-hosts`. Prints the table of docs/performance.md, "Many processes".
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

from . import environments as where
from .servers import START_SECONDS, TICKS, answer_to, free_port, loading

CLIENTS = 10
RATE = 100
SECONDS = 5.0
MANY_CLIENTS = 1_000
LOGS = ("memory", "Redis", "SQLite")


class Process:
    """A process that serves the channel, and publishes when it's told to."""

    def __init__(self, log: str) -> None:
        """Start it."""
        self.port = free_port()
        env = {**os.environ, "PYTHONPATH": str(where.ROOT / "src")}
        python = where.OURS / "bin" / "python"
        command: list[str | Path] = [python, where.APPS / "many_hosts.py", str(self.port), log]
        self._process = subprocess.Popen(command, env=env, stdin=subprocess.DEVNULL)

    def wait_until_ready(self) -> None:
        """
        Wait until it takes connections.

        Raises:
            RuntimeError: it takes too long.
        """
        wait_for(lambda: socket.create_connection(("127.0.0.1", self.port), timeout=1).close())

    def publish(self, *, seconds: float, rate: float) -> int:
        """Publish one event after the other; return how many there were."""
        published: int = answer_to(
            self.port, "publish", 60, to="channel", seconds=seconds, rate=rate
        )
        return published

    def cpu_seconds(self) -> float:
        """CPU time that it has used so far."""
        stat = Path(f"/proc/{self._process.pid}/stat").read_text("utf-8")
        fields = stat.rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICKS

    def stop(self) -> None:
        """End it."""
        end(self._process)


def end(process: subprocess.Popen[bytes]) -> None:
    """End a program, and see that it has ended."""
    process.terminate()
    try:
        process.wait(5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def wait_for(attempt: Any) -> None:
    """
    Try until it succeeds.

    Raises:
        RuntimeError: it takes too long.
    """
    until = time.monotonic() + START_SECONDS
    while True:
        try:
            attempt()
        except OSError:
            if time.monotonic() > until:
                raise RuntimeError("a server does not start") from None
            time.sleep(0.05)
        else:
            return


@contextlib.contextmanager
def log_of(kind: str) -> Iterator[str]:
    """Make a log of this kind; its URL."""
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        if kind == "memory":
            yield ""
        elif kind == "SQLite":
            yield f"sqlite:///{name}/events.db"
        else:
            port = free_port()
            options = ["--port", str(port), "--bind", "127.0.0.1", "--dir", name, "--save", ""]
            redis = subprocess.Popen(
                [where.program("redis-server"), *options], stdout=subprocess.DEVNULL
            )
            try:
                wait_for(lambda: socket.create_connection(("127.0.0.1", port), timeout=1).close())
                yield f"redis://127.0.0.1:{port}"
            finally:
                end(redis)


@contextlib.contextmanager
def processes(log: str, count: int) -> Iterator[list[Process]]:
    """Run so many of them."""
    started = [Process(log) for _ in range(count)]
    try:
        for each in started:
            each.wait_until_ready()
        yield started
    finally:
        for each in started:
            each.stop()


def delay(kind: str) -> tuple[float, float]:
    """Milliseconds from publishing to the client, p50 and p99; with a log, from another process."""
    with (
        log_of(kind) as log,
        processes(log, 1 if kind == "memory" else 2) as started,
        loading(started[0], "/channel", 60, connections=CLIENTS) as load,
    ):
        load.wait_for("open")
        started[-1].publish(seconds=1, rate=RATE)
        time.sleep(0.5)
        load.mark()
        published = started[-1].publish(seconds=SECONDS, rate=RATE)
        time.sleep(0.2)
        came = load.mark()
    if came["events"] != published * CLIENTS:
        raise RuntimeError(f"{kind}: {came['events']} of {published * CLIENTS} events came")
    return came["p50_ms"], came["p99_ms"]


def deliveries(count: int, *, rate: float) -> tuple[float, float, float]:
    """
    Publish through Redis to clients of so many processes.

    Deliveries a second, CPU time for each in µs (of all processes that serve), and the part that had
    not come half a second after.
    """
    with contextlib.ExitStack() as stack:
        log = stack.enter_context(log_of("Redis"))
        publisher, *serving = stack.enter_context(processes(log, count + 1))
        loads = [
            stack.enter_context(loading(each, "/channel", 60, connections=MANY_CLIENTS // count))
            for each in serving
        ]
        for load in loads:
            load.wait_for("open")
        publisher.publish(seconds=1, rate=RATE)
        time.sleep(0.5)
        used = sum(each.cpu_seconds() for each in serving)
        for load in loads:
            load.mark()
        began = time.monotonic()
        published = publisher.publish(seconds=SECONDS, rate=rate)
        came = sum(load.mark()["events"] for load in loads)
        passed = time.monotonic() - began
        time.sleep(0.5)
        later = sum(load.mark()["events"] for load in loads)
        used = sum(each.cpu_seconds() for each in serving) - used
    missing = 1 - (came + later) / (published * MANY_CLIENTS)
    return came / passed, used / (came + later) * 1e6, missing


def measure(rounds: int) -> None:
    """Measure everything several times, in turn; print the medians."""
    where.prepare({"tools", "ours"})
    delays: dict[str, list[tuple[float, float]]] = {kind: [] for kind in LOGS}
    found: dict[tuple[int, float], list[tuple[float, float, float]]] = {}
    for number in range(rounds):
        for kind in LOGS:
            delays[kind].append(delay(kind))
            print(f"   {number + 1}: {kind}, p50 and p99 in ms: {delays[kind][-1]}", flush=True)
        for rate in (RATE, 2_000.0):
            for count in (1, 4):
                measured = deliveries(count, rate=rate)
                found.setdefault((count, rate), []).append(measured)
                print(f"   {number + 1}: {count} processes, {rate:g}/s: {measured}", flush=True)

    cores = len(os.sched_getaffinity(0))
    print(
        f"\n{cores} cores, {rounds} rounds, the medians of these, load {os.getloadavg()[0]:.1f}\n"
    )
    print(f"| {RATE} events/s, {CLIENTS} clients | p50 ms | p99 ms |\n| --- | ---: | ---: |")
    for kind in LOGS:
        p50, p99 = (median(column) for column in zip(*delays[kind], strict=True))
        print(f"| {kind} | {p50:.2f} | {p99:.2f} |")
    print(f"\n| Redis, {MANY_CLIENTS:,} clients | deliveries/s | CPU µs/delivery | not delivered |")
    print("| --- | ---: | ---: | ---: |")
    for (count, rate), figures in found.items():
        a_second, micros, missing = (median(column) for column in zip(*figures, strict=True))
        named = f"{count} process{'es' if count > 1 else ''}, {rate:,.0f} events/s"
        print(f"| {named} | {a_second:,.0f} | {micros:.2f} | {missing:.1%} |")
