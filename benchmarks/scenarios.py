"""What is measured, and what a good figure is.

A measurement runs one contender once, on a server of its own, and returns figures by name. Each is
bounded in count and in time.
"""

from __future__ import annotations

import json
import socket
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import Any

from . import environments as where
from .servers import SERVER_CORE, Contender, Load, Server, loading, on_core, python_of, running

Figures = dict[str, float]


@dataclass(frozen=True)
class Metric:
    """
    One figure of a scenario.

    Attributes:
        key: its name in the results.
        title: its name in tables, with the unit.
        more: whether more is better.
    """

    key: str
    title: str
    more: bool


@dataclass(frozen=True)
class Scenario:
    """
    Something to measure.

    Attributes:
        key: the name in results and options.
        title: the name in tables.
        who: the contenders that can do it.
        metrics: the figures that it gives.
        measure: measures one contender once.
    """

    key: str
    title: str
    who: tuple[str, ...]
    metrics: tuple[Metric, ...]
    measure: Callable[[Contender], Figures]


@dataclass(frozen=True)
class Target:
    """
    What we want to reach: to be so many times better than another, or within a bound.

    Attributes:
        scenario: its key.
        metric: its key.
        of: which of ours.
        factor: how many times better than `than`.
        than: a contender; None: `bound` counts.
        bound: the figure itself.
        than_metric: the other's figure, if it goes by another name.
    """

    scenario: str
    metric: str
    of: str = "ours"
    factor: float = 1.0
    than: str | None = None
    bound: float | None = None
    than_metric: str | None = None


# --- Without a server -----------------------------------------------------------------


def without_server(contender: Contender, *, wanted: str) -> Figures:
    """Encode, and run one response with a `send` that counts."""
    python, env = python_of(contender)
    done = subprocess.run(
        [*on_core(SERVER_CORE), python, where.APPS / "inprocess.py", contender.app, wanted],
        env=env,
        cwd=where.APPS,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    if done.returncode:
        raise RuntimeError(f"{contender.title}: {done.stderr[-2000:]}")
    figures: Figures = json.loads(done.stdout)
    return figures


# --- One source for each connection ---------------------------------------------------


def warm(server: Server) -> None:
    """Have it done once what is done once: imports, caches."""
    with loading(server, "/one", 10, connections=4, total=20) as load:
        load.wait_for("done")


def throughput(contender: Contender, *, connections: int, events: int) -> Figures:
    """Stream as fast as the client takes it."""
    with running(contender) as server:
        warm(server)
        cpu = server.cpu_seconds()
        with loading(server, f"/stream?n={events}", connections=connections) as load:
            done = load.wait_for("done")
            cpu = server.cpu_seconds() - cpu
    if done["events"] != connections * events:
        raise RuntimeError(f"{contender.title}: {done['events']} events arrived")
    return {"events/s": done["events"] / done["to_last"], "us": cpu / done["events"] * 1e6}


def paced(contender: Contender, *, connections: int, seconds: float) -> Figures:
    """Stream a token every 20 ms to each."""
    events = int((seconds + 10) * 50)
    with running(contender) as server:
        warm(server)
        path = f"/paced?n={events}&ms=20"
        with loading(server, path, int(seconds) + 20, connections=connections) as load:
            load.wait_for("open")
            time.sleep(3)  # What came late while all were opening is made up for by then.
            cpu = server.cpu_seconds()
            load.mark()
            time.sleep(seconds)
            came = load.mark()
            cpu = server.cpu_seconds() - cpu
    return {"cpu": cpu / came["events"] * 1e5, "p99": came["p99_ms"]}


def idle(contender: Contender, *, connections: int) -> Figures:
    """Hold connections that have nothing to say."""
    path = contender.subscribe if contender.publish == "channel" else "/idle"
    with running(contender) as server:
        warm(server)
        before = memory(server)
        with loading(server, path, connections=connections) as load:
            load.wait_for("open")
            time.sleep(1)
            after = memory(server)
    return {"KiB": (after - before) / connections}


def pings(contender: Contender, *, connections: int, seconds: float) -> Figures:
    """Hold connections that are pinged every two seconds."""
    path = "/channel?ping=2" if contender.key == "channel" else "/idle?ping=2"
    with running(contender) as server:
        warm(server)
        with loading(server, path, connections=connections, line=": ping") as load:
            load.wait_for("open")
            time.sleep(2.5)
            cpu = server.cpu_seconds()
            load.mark()
            time.sleep(seconds)
            came = load.mark()
            cpu = server.cpu_seconds() - cpu
    return {"us": cpu / came["events"] * 1e6}


def churn(contender: Contender, *, total: int) -> Figures:
    """Open a stream, get its one event, and be at its end; 50 at a time, each on a new connection."""
    path = "/endpoint/one" if contender.key == "endpoint" else "/one"
    with running(contender) as server:
        warm(server)
        cpu = server.cpu_seconds()
        with loading(server, path, connections=50, total=total) as load:
            done = load.wait_for("done")
            cpu = server.cpu_seconds() - cpu
    if done["events"] < total:
        raise RuntimeError(f"{contender.title}: {done['events']} of {total} events arrived")
    return {"streams/s": total / done["seconds"], "us": cpu / total * 1e6}


def leave(contender: Contender, *, times: int) -> Figures:
    """Leave a stream, and see when its source is told."""
    left = []
    with running(contender) as server:
        warm(server)
        for _ in range(times):
            with socket.create_connection(("127.0.0.1", server.port), timeout=5) as client:
                client.sendall(b"GET /left HTTP/1.1\r\nHost: b\r\n\r\n")
                came = b""
                while b"data:" not in came:
                    came += client.recv(65536)
                time.sleep(0.002)
                left.append(time.monotonic_ns())
        time.sleep(0.2)
        closed = server.order("closed")
    if len(closed) != times:
        raise RuntimeError(f"{contender.title}: {len(closed)} of {times} sources were closed")
    return {"ms": median(end - begin for begin, end in zip(left, closed, strict=True)) / 1e6}


# --- Publish once, deliver to many ----------------------------------------------------


_FOLLOWED_RATE = 30
"""Events a second that everybody delivers to 1,000 clients without falling behind."""


def fan_out(
    contender: Contender, *, clients: int, rate: float, seconds: float, before: int = 0
) -> Figures:
    """
    Publish at a rate (0: as fast as the loop turns) to so many clients.

    Each of them has been given `before` events by then, at a rate that all contenders can follow: what
    is measured is how it goes on, not how it begins.
    """
    with running(contender) as server:
        empty = memory(server)
        with loading(server, contender.subscribe, int(seconds) + 40, connections=clients) as load:
            load.wait_for("open")
            time.sleep(0.5)
            held = (memory(server) - empty) / clients
            if before:
                published_to(server, load, clients, _FOLLOWED_RATE, before / _FOLLOWED_RATE)
            return {"KiB": held, **published_to(server, load, clients, rate, seconds)}


def published_to(
    server: Server, load: Load, clients: int, rate: float, seconds: float, size: int = 0
) -> Figures:
    """Publish to clients that are there; count what arrives meanwhile, and what is still to come."""
    cpu = server.cpu_seconds()
    load.mark()
    published = server.order(
        "publish", to=server.contender.publish, seconds=seconds, rate=rate, size=size
    )
    came = load.mark()
    total = came["events"]
    slowest = came["p99_ms"]
    used = server.cpu_seconds() - cpu
    used_by_client = came["cpu"]
    for _ in range(6):
        if total >= published * clients:
            break
        time.sleep(0.25)
        later = load.mark()
        total += later["events"]
    return {
        "deliveries/s": came["events"] / came["seconds"],
        "us": used / max(1, came["events"]) * 1e6,
        "cores": used / came["seconds"],
        "p99": slowest,
        "missing": float(published * clients - total),
        "published/s": published / came["seconds"],
        "client cores": used_by_client / came["seconds"],
    }


def growth(contender: Contender, *, sizes: Sequence[int], deliveries: float) -> Figures:
    """Fan out to more and more clients, about as many deliveries a second each time."""
    figures: Figures = {}
    for clients in sizes:
        rate = min(200.0, deliveries / clients)
        found = fan_out(contender, clients=clients, rate=rate, seconds=4)
        figures[f"{clients} us"] = found["us"]
        figures[f"{clients} p99"] = found["p99"]
        if clients >= 1000:
            figures[f"{clients} KiB"] = found["KiB"]
    return figures


def slow(contender: Contender, *, seconds: float) -> Figures:
    """Publish 1 MB a second to 21 clients, one of which has stopped reading."""
    with (
        running(contender) as server,
        loading(server, contender.subscribe, 60, connections=21) as load,
    ):
        load.wait_for("open")
        # Fills what is kept anyway, while everybody reads.
        published_to(server, load, 21, 1000, 2, size=1000)
        before = memory(server)
        load.stall(1)
        published_to(server, load, 21, 1000, seconds, size=1000)
        after = memory(server)
    return {"KiB": after - before}


def replay(contender: Contender, *, clients: int) -> Figures:
    """Let clients come back all at once, each for the last 100 events."""
    path = "/channel?since=0" if contender.key == "channel" else "/replay"
    with running(contender) as server:
        warm(server)
        server.order("keep")
        cpu = server.cpu_seconds()
        with loading(server, path, connections=clients, events=100) as load:
            done = load.wait_for("done")
            cpu = server.cpu_seconds() - cpu
    if done["least"] < 100:
        raise RuntimeError(f"{contender.title}: a client got {done['least']} events")
    return {"streams/s": clients / done["seconds"], "us": cpu / clients * 1e6}


def memory(server: Server) -> float:
    """What it takes when it has tidied up."""
    server.order("collect")
    return server.memory_kib()


# --- All of them ----------------------------------------------------------------------

OURS = ("ours", "channel", "endpoint")
PYTHON = ("ours", "3.7.0", "plain", "fastapi", "litestar")
DELIVERY = (
    Metric("deliveries/s", "deliveries/s", more=True),
    Metric("us", "CPU µs/delivery", more=False),
    Metric("p99", "p99 ms", more=False),
)
EVENTS = (
    Metric("events/s", "events/s", more=True),
    Metric("us", "CPU µs/event", more=False),
)
STREAMS = (
    Metric("streams/s", "streams/s", more=True),
    Metric("us", "CPU µs/stream", more=False),
)
EVERYONE = ("channel", "ours", "3.7.0", "better-sse", "nchan", "floor", "ceiling")

SCENARIOS = {
    each.key: each
    for each in (
        Scenario(
            "encode",
            "Encode",
            ("ours", "3.7.0", "fastapi", "litestar"),
            (
                Metric("encode dict", "a small dict, events/s", more=True),
                Metric("encode text", "20 lines of text, 2 KB, events/s", more=True),
                Metric("encode json", "a small JSON value, events/s", more=True),
                Metric("encode json, msgspec", "the same with msgspec loaded, events/s", more=True),
                Metric("encode json, orjson", "the same with orjson loaded, events/s", more=True),
            ),
            partial(without_server, wanted="encode"),
        ),
        Scenario(
            "in-process",
            "A response without a server",
            (*PYTHON, "floor", "ceiling"),
            (Metric("in process", "CPU ns/event", more=False),),
            partial(without_server, wanted="respond"),
        ),
        Scenario(
            "one",
            "One connection, 200,000 events",
            (*PYTHON, "aiohttp-sse", "floor", "ceiling"),
            EVENTS,
            partial(throughput, connections=1, events=200_000),
        ),
        Scenario(
            "hundred",
            "100 connections, 2,000 events each",
            (*PYTHON, "floor", "ceiling"),
            EVENTS,
            partial(throughput, connections=100, events=2_000),
        ),
        Scenario(
            "paced",
            "500 connections, a token every 20 ms",
            (*PYTHON, "floor"),
            (
                Metric("cpu", "CPU s/100k events", more=False),
                Metric("p99", "p99 ms late", more=False),
            ),
            partial(paced, connections=500, seconds=4),
        ),
        Scenario(
            "idle",
            "5,000 idle connections",
            (*OURS, "3.7.0", "plain", "fastapi", "litestar", "aiohttp-sse", "floor"),
            (Metric("KiB", "KiB each", more=False),),
            partial(idle, connections=5_000),
        ),
        Scenario(
            "ping",
            "5,000 connections, a ping every 2 s",
            ("ours", "channel", "3.7.0", "aiohttp-sse", "floor"),
            (Metric("us", "CPU µs/ping", more=False),),
            partial(pings, connections=5_000, seconds=4),
        ),
        Scenario(
            "fan-out-20",
            "20 events/s to 1,000 clients",
            ("endpoint", *EVERYONE),
            DELIVERY[1:],
            partial(fan_out, clients=1_000, rate=20, seconds=5),
        ),
        Scenario(
            "flood",
            "200/s to 1,000 clients, from the first event",
            EVERYONE,
            (*DELIVERY, Metric("missing", "not delivered 1.5 s later", more=False)),
            partial(fan_out, clients=1_000, rate=200, seconds=5),
        ),
        Scenario(
            "fan-out-200",
            "the same, when each has had 150 events",
            EVERYONE,
            DELIVERY,
            partial(fan_out, clients=1_000, rate=200, seconds=5, before=150),
        ),
        Scenario(
            "fan-out-2000",
            "2,000 events/s to 1,000 clients",
            ("channel", "better-sse", "nchan", "ceiling"),
            (*DELIVERY, Metric("missing", "not delivered", more=False)),
            partial(fan_out, clients=1_000, rate=2_000, seconds=5),
        ),
        Scenario(
            "burst",
            "As fast as the loop turns, 1,000 clients",
            EVERYONE,
            (DELIVERY[0], Metric("missing", "not delivered", more=False)),
            partial(fan_out, clients=1_000, rate=0, seconds=4),
        ),
        Scenario(
            "churn",
            "Open, one event, close",
            ("endpoint", *PYTHON, "aiohttp-sse", "floor"),
            STREAMS,
            partial(churn, total=4_000),
        ),
        Scenario(
            "leave",
            "From the client's close to `finally`",
            ("ours", "3.7.0", "plain", "floor"),
            (Metric("ms", "p50 ms", more=False),),
            partial(leave, times=200),
        ),
        Scenario(
            "slow",
            "1 of 21 clients stops reading, 10 MB published",
            ("channel", "ours", "3.7.0", "plain"),
            (Metric("KiB", "KiB of growth", more=False),),
            partial(slow, seconds=10),
        ),
        Scenario(
            "replay",
            "1,000 clients come back for 100 events each",
            ("channel", "ours", "3.7.0", "plain", "floor", "ceiling"),
            STREAMS,
            partial(replay, clients=1_000),
        ),
        Scenario(
            "growth",
            "20,000 deliveries/s to 1 ... 10,000 clients",
            ("channel", "3.7.0"),
            tuple(
                Metric(
                    f"{clients} {unit}",
                    f"{clients:,} client{'' if clients == 1 else 's'}, {title}",
                    more=False,
                )
                for clients in (1, 10, 100, 1_000, 10_000)
                for unit, title in (
                    ("us", "CPU µs/delivery"),
                    ("p99", "p99 ms"),
                    ("KiB", "KiB each"),
                )
                if unit != "KiB" or clients >= 1_000
            ),
            partial(growth, sizes=(1, 10, 100, 1_000, 10_000), deliveries=20_000),
        ),
    )
}

TARGETS = (
    Target("encode", "encode dict", factor=5, than="3.7.0"),
    Target("encode", "encode text", factor=4, than="3.7.0"),
    Target("encode", "encode json", factor=2, than="3.7.0"),
    Target("encode", "encode json, orjson", factor=3, than="3.7.0", than_metric="encode json"),
    Target("encode", "encode json, msgspec", than="litestar", than_metric="encode json"),
    Target("in-process", "in process", factor=10, than="3.7.0"),
    Target("in-process", "in process", factor=1, than="plain"),
    Target("one", "events/s", factor=14, than="3.7.0"),
    Target("one", "events/s", factor=6, than="floor"),
    Target("hundred", "events/s", factor=12, than="3.7.0"),
    Target("paced", "cpu", factor=1 / 1.15, than="plain"),
    Target("paced", "p99", factor=1, than="plain"),
    Target("idle", "KiB", bound=20),
    Target("idle", "KiB", of="channel", bound=20),
    Target("idle", "KiB", of="endpoint", bound=15),
    Target("ping", "us", factor=2.5, than="3.7.0"),
    Target("ping", "us", factor=1, than="floor"),
    Target("fan-out-20", "us", of="channel", factor=2.8, than="3.7.0"),
    Target("fan-out-20", "us", of="channel", factor=1, than="better-sse"),
    Target("fan-out-20", "us", of="channel", factor=1 / 1.1, than="ceiling"),
    Target("fan-out-20", "p99", of="channel", bound=25),
    Target("fan-out-200", "deliveries/s", of="channel", bound=196_000),
    Target("fan-out-200", "deliveries/s", of="channel", factor=2, than="nchan"),
    Target("fan-out-200", "p99", of="channel", bound=60),
    Target("fan-out-200", "cores", of="channel", bound=0.5),
    Target("flood", "deliveries/s", factor=4, than="3.7.0"),
    Target("flood", "deliveries/s", of="channel", bound=196_000),
    Target("fan-out-2000", "deliveries/s", of="channel", bound=1_960_000),
    Target("fan-out-2000", "p99", of="channel", bound=60),
    Target("fan-out-2000", "missing", of="channel", bound=0),
    Target("burst", "deliveries/s", of="channel", bound=1_000_000),
    Target("burst", "missing", of="channel", bound=0),
    Target("churn", "streams/s", factor=1, than="plain"),
    Target("churn", "us", of="endpoint", factor=1 / 0.85, than="plain"),
    Target("leave", "ms", factor=1, than="3.7.0"),
    Target("slow", "KiB", of="channel", bound=1024),
)
"""Those with a factor of 1 are met by 5 % less, too: two runs of the same differ by as much."""


def is_more(scenario: str, metric: str) -> bool:
    """Whether more of this figure is better."""
    found: Any = [each.more for each in SCENARIOS[scenario].metrics if each.key == metric]
    return bool(found and found[0])


def times_better(scenario: str, metric: str, figure: float, other: float) -> float:
    """How many times better a figure is than another of its kind."""
    if is_more(scenario, metric):
        return figure / other if other else float("inf")
    return other / figure if figure > 0 else float("inf")
