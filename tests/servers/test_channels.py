"""Channels on a real server: clients that are cut off at any byte, that come with any id, that stall."""

from __future__ import annotations

import asyncio
import socket
import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import AsyncExitStack, closing
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import httptools
import pytest
from tests.servers.conftest import Serve
from tests.servers.crowd import (
    END,
    Block,
    Crowd,
    Follower,
    Listener,
    Reader,
    Script,
    ask,
    read_block,
)
from tests.servers.serving import Server, until

FAST = ("--http", "httptools", "--loop", "uvloop", "--no-access-log")
FRAME_BYTES = 50
"""An event of the app has a few more."""


async def follow(followers: Sequence[Follower], publish: Callable[[], object]) -> None:
    """Publish when all have their first cursor; return when all have the goal."""
    async with asyncio.timeout(300), asyncio.TaskGroup() as running:
        for number, follower in enumerate(followers):
            running.create_task(follower.run())
            if number % 50 == 0:
                await follower.began.wait()
        for follower in followers:
            await follower.began.wait()
        await asyncio.to_thread(publish)


def followers_of(crowd: Crowd, count: int, *, cuts: int, away: float) -> list[Follower]:
    """Clients with cuts at random places, the last of them before the end."""
    whole = crowd.goal * FRAME_BYTES
    followers = []
    for _ in range(count):
        places = [0, *sorted(crowd.random.sample(range(1, whole), cuts))]
        ways = [after - before for before, after in pairwise(places)]
        followers.append(Follower(crowd, ways, away=away))
    return followers


@pytest.mark.slow
def test_hundreds_of_clients_cut_twenty_times_each_lose_nothing(serve: Serve) -> None:
    server = serve("channels:app", *FAST)
    ask(server, "/news/make", history=8_000)
    crowd = Crowd("127.0.0.1", server.port, "/news/stream", goal=8_000)
    followers = followers_of(crowd, 250, cuts=20, away=0.3)

    asyncio.run(follow(followers, partial(ask, server, "/news/publish", last=8_000, within=8)))
    gone = until(lambda: ask(server, "/news/stats")["subscribers"] == 0)
    stats = ask(server, "/news/stats")
    announced = sum(sum(follower.announced.values()) for follower in followers)

    # Lost, doubled, out of order, from elsewhere, or a gap without a word: each would be a fault.
    assert [fault for follower in followers for fault in follower.faults] == []
    assert {follower.offset for follower in followers} == {8_000}
    assert all(follower.got + follower.missed == 8_000 for follower in followers)
    # And the test has done what it says.
    assert [follower.cuts_left for follower in followers if follower.cuts_left] == []
    assert sum(follower.cuts_in_mid_block for follower in followers) > 250 * 20 / 4
    assert sum(follower.resumed for follower in followers) >= 250 * 20
    assert announced <= 250 * 20 * 0.1, stats["resets"]
    assert stats["published"] == 8_000
    assert gone, stats
    server.stop()
    assert server.complaints() == []


@pytest.mark.parametrize("slow", ["disconnect", "reset"])
def test_every_gap_is_announced_where_little_is_kept(serve: Serve, slow: str) -> None:
    server = serve("channels:app", *FAST)
    ask(server, "/news/make", history=20, slow=slow)
    crowd = Crowd("127.0.0.1", server.port, "/news/stream", goal=5_000)
    followers = followers_of(crowd, 100, cuts=10, away=0.2)

    asyncio.run(follow(followers, partial(ask, server, "/news/publish", last=5_000, within=5)))
    stats = ask(server, "/news/stats")
    announced = sum(sum(follower.announced.values()) for follower in followers)

    assert [fault for follower in followers for fault in follower.faults] == []
    assert {follower.offset for follower in followers} == {5_000}
    assert all(follower.got + follower.missed == 5_000 for follower in followers)
    assert announced > 100
    # What it has told those who were cut off before they got it, is counted too.
    assert announced <= sum(stats["resets"].values())
    assert set(stats["resets"]) <= {"trimmed", "lagging"}
    server.stop()
    assert server.complaints() == []


# --- Ids ------------------------------------------------------------------------------


def test_client_that_had_nothing_yet_gets_exactly_the_three_it_missed(serve: Serve) -> None:
    server = serve("channels:app")
    ask(server, "/news/make")
    crowd = Crowd("127.0.0.1", server.port, "/news/stream", goal=3)

    async def run() -> tuple[list[Block], list[Block]]:
        async with asyncio.timeout(90), Reader(crowd) as first:
            before = list(await first.until(1))
        await asyncio.to_thread(ask, server, "/news/publish", last=3)
        async with asyncio.timeout(90), Reader(crowd, before[-1].id) as second:
            await second.until(3)
            # Whatever else it gets would come before this one.
            await asyncio.to_thread(ask, server, "/news/publish", first=4, last=4)
            return before, await second.until(4)

    before, after = asyncio.run(run())

    assert [block.kind for block in before] == ["cursor"]
    assert [(block.kind, block.offset) for block in after] == [("message", n) for n in (1, 2, 3, 4)]


FOREIGN_IDS: dict[str, tuple[str, str]] = {
    "a word": ("unknown", "yesterday"),
    "a number": ("unknown", "17"),
    "negative": ("unknown", "{epoch}.-1"),
    "a fraction": ("unknown", "{epoch}.1.5"),
    "more behind it": ("unknown", "{epoch}.1x"),
    "no offset": ("unknown", "{epoch}."),
    "no epoch": ("unknown", ".1"),
    "digits that don't end": ("unknown", "{epoch}." + "9" * 3_000),
    "huge": ("unknown", "x" * 12_000),
    "many parts": ("epoch", "-".join(f"e{number}.{number}" for number in range(300))),
    "too many parts": ("unknown", "-".join(f"e{number}.{number}" for number in range(2_000))),
    "Latin-1": ("unknown", "d\xe9j\xe0.vu"),
    "markup": ("epoch", "<script>.1"),
    "a lost history": ("epoch", "00000000.3"),
    "another channel": ("epoch", "{other}.2"),
    "the future": ("future", "{epoch}.4"),
    "the far future": ("future", "{epoch}.999999999999999999"),
}


@pytest.mark.parametrize("http", ["h11", "httptools"])
def test_foreign_id_leads_to_one_reset_and_then_live_events(serve: Serve, http: str) -> None:
    server = serve("channels:app", "--http", http, "--no-access-log")
    other = ask(server, "/other/make")["cursor"].partition(".")[0]
    ask(server, "/other/publish", last=3)
    epoch = ask(server, "/news/make")["cursor"].partition(".")[0]
    crowd = Crowd("127.0.0.1", server.port, "/news/stream", goal=4)
    ask(server, "/news/publish", last=3)

    async def come_with(cursors: dict[str, str]) -> dict[str, list[Block]]:
        async with asyncio.timeout(90), AsyncExitStack() as clients:
            readers = {
                name: await clients.enter_async_context(Reader(crowd, cursor))
                for name, cursor in cursors.items()
            }
            for reader in readers.values():
                await reader.until(1)
            await asyncio.to_thread(ask, server, "/news/publish", first=4, last=4)
            assert {reader.connection.status for reader in readers.values()} == {200}
            return {name: await reader.until(2) for name, reader in readers.items()}

    got = asyncio.run(
        come_with(
            {
                name: cursor.replace("{epoch}", epoch).replace("{other}", other)
                for name, (_, cursor) in FOREIGN_IDS.items()
            }
        )
    )

    for name, (reason, _) in FOREIGN_IDS.items():
        told, live = got[name]
        assert told.kind == "reset", name
        assert told.fields == {"reason": reason, "channel": "news", "cursor": f"{epoch}.3"}, name
        assert (told.id, live.kind, live.id) == (f"{epoch}.3", "message", f"{epoch}.4"), name
    counted = Counter(reason for reason, _ in FOREIGN_IDS.values())
    assert ask(server, "/news/stats")["resets"] == counted
    server.stop()
    assert server.complaints() == []


# --- Threads --------------------------------------------------------------------------


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
@pytest.mark.parametrize("how", [{}, {"threadsafe": 1}], ids=["nowait", "threadsafe"])
def test_event_from_a_worker_thread_reaches_the_stream_by_itself(
    serve: Serve, how: dict[str, int], loop: str
) -> None:
    server = serve("channels:app", "--loop", loop)
    ask(server, "/news/make")
    crowd = Crowd("127.0.0.1", server.port, "/news/stream", goal=20)

    async def run() -> list[Any]:
        async with asyncio.timeout(180), Reader(crowd) as reader:
            await reader.until(1)
            for number in range(1, 21):
                path = "/news/publish-in-thread"
                await asyncio.to_thread(partial(ask, server, path, number=number, **how))
                await reader.until(number + 1)
            return [block.fields["number"] for block in reader.blocks[1:]]

    # Each is there before the next is published.
    assert asyncio.run(run()) == list(range(1, 21))
    server.stop()
    assert [line for line in server.complaints() if "HTTP" not in line] == []


# --- A stalled reader -----------------------------------------------------------------

EVENT_BYTES = 1_000
HEALTHY = 999
TIMED = 40
"""Of the healthy ones: enough for a percentile, and few enough to leave the server its time."""

GROWTH_BYTES = 5 * 1024 * 1024
"""
What a stalled client may cost in the end, measured on the whole process (docs/channels.md).

It has one write that is blocked, and a transport's buffer: 64 KiB and an event each. The rest is what
the allocator takes while a thousand clients are served, and all the events together have twice as
much. What the kernel holds for a connection is not part of it.
"""


@pytest.mark.slow
def test_stalled_reader_costs_a_bounded_amount_and_delays_nobody(serve: Serve) -> None:
    server = serve("channels:app", *FAST)
    ask(server, "/news/make", history=1_000)
    crowd = Crowd("127.0.0.1", server.port, "/news/stream", goal=0)
    script = Script()
    listeners = [Listener(crowd, script, timed=number < TIMED) for number in range(HEALTHY)]
    publish = partial(ask, server, "/news/publish", size=EVENT_BYTES)

    async def all_have(offset: int) -> int:
        """Wait until all have this event; return what the server then has in memory."""
        id_line = f".{offset}\r\n".encode()

        def reached() -> bool:
            there = id_line in script.text[-2 * EVENT_BYTES :]
            return there and all(listener.place == len(script.text) for listener in listeners)

        async with asyncio.timeout(400):
            # A look now and then costs this process less than a signal for each piece.
            while not reached():  # noqa: ASYNC110
                await asyncio.sleep(0.1)
        return memory(server)

    async def publish_to_all(first: int, last: int) -> int:
        """Publish half of what the channel keeps at a time: on a busy machine nobody falls behind."""
        for start in range(first, last + 1, 500):
            end = start + 499
            await asyncio.to_thread(partial(publish, first=start, last=end, within=0.5))
            found = await all_have(end)
        return found

    async def run(stalled: socket.socket) -> tuple[int, int]:
        for listener in listeners:
            await listener.connect()
        await all_have(0)
        before = await publish_to_all(1, 3_000)
        await asyncio.to_thread(stall, stalled)
        after = await publish_to_all(3_001, 13_000)
        assert not any(listener.gone for listener in listeners)
        for listener in listeners:
            listener.leave()
        return before, after

    def stall(stalled: socket.socket) -> None:
        # A small window, so that what is stuck is stuck in the server.
        stalled.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16 * 1024)
        stalled.connect(("127.0.0.1", server.port))
        stalled.sendall(b"GET /news/stream HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert until(lambda: ask(server, "/news/stats")["subscribers"] == HEALTHY + 1)

    with closing(socket.socket()) as stalled:
        before, after = asyncio.run(run(stalled))
        lag = ask(server, "/news/stats")["lag"]
        body = rest_of(stalled)
    (cursor, *got) = map(read_block, body.split(END)[:-1])
    blocks = script.blocks()
    late = latencies(blocks, listeners[:TIMED])
    without = percentile_99(seconds for offset, seconds in late if offset <= 3_000)
    beside = percentile_99(seconds for offset, seconds in late if offset > 3_000)

    # The healthy ones have everything, as if it weren't there.
    assert [fault for listener in listeners for fault in listener.faults] == []
    assert [block.kind for _, block in blocks] == ["cursor", *["message"] * 13_000]
    assert [block.fields["number"] for _, block in blocks[1:]] == list(range(1, 13_001))
    # For whoever looks at the output: when they had it, without the stalled one and beside it.
    print(f"99 of 100 events took {without:.3f} s without it, {beside:.3f} s beside it")
    # The stalled one costs little, is far behind, and has no hole when it reads on.
    assert after - before < GROWTH_BYTES, (before, after)
    assert lag > 1_000
    assert (cursor.kind, cursor.offset) == ("cursor", 3_000)
    assert [block.offset for block in got] == list(range(3_001, 3_001 + len(got)))
    assert 0 < len(got) < 10_000 - 1_000
    # Its stream has ended properly, and when it comes back, it's told what it has missed.
    assert body.endswith(END)
    assert "lagging" in [end["reason"] for end in ask_for_ends(server)]
    told = asyncio.run(first_block(crowd, got[-1].id))
    assert told.fields["reason"] == "trimmed"
    assert told.offset == 13_000
    server.stop()
    assert server.complaints() == []


def rest_of(connection: socket.socket) -> bytes:
    """Read what is left of a response; it must be complete."""
    body: list[bytes] = []

    class Response:
        completed = False

        def on_body(self, piece: bytes) -> None:
            body.append(piece)

        def on_message_complete(self) -> None:
            self.completed = True

    response = Response()
    parser = httptools.HttpResponseParser(response)
    connection.settimeout(90)
    while not response.completed:
        piece = connection.recv(256 * 1024)
        assert piece, "the body was cut off"
        parser.feed_data(piece)
    return b"".join(body)


async def first_block(crowd: Crowd, cursor: str) -> Block:
    async with asyncio.timeout(90), Reader(crowd, cursor) as reader:
        return (await reader.until(1))[0]


def ask_for_ends(server: Server) -> list[dict[str, Any]]:
    return server.journal("went", count=HEALTHY + 1, seconds=90)


def percentile_99(found: Iterable[float]) -> float:
    return statistics.quantiles(found, n=100)[-1]


def latencies(
    blocks: list[tuple[int, Block]], listeners: list[Listener]
) -> list[tuple[int, float]]:
    found = []
    for listener in listeners:
        arrivals = iter(listener.arrivals)
        place, came = next(arrivals)
        for end, block in blocks:
            while place < end:
                place, came = next(arrivals)
            if block.kind == "message":
                found.append((block.offset, came - block.fields["made"]))
    return found


def memory(server: Server) -> int:
    """What the server's process has in memory, in bytes."""
    status = Path(f"/proc/{server.pid}/status").read_text("utf-8")
    (line,) = (line for line in status.splitlines() if line.startswith("VmRSS:"))
    return int(line.split()[1]) * 1024
