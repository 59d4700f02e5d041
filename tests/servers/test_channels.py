"""Channels on a real server: clients that are cut off at any byte, that come with any id, that stall."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import AsyncExitStack
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from tests.servers.conftest import Serve
from tests.servers.crowd import (
    END,
    Block,
    Channel,
    Follower,
    Listener,
    Reader,
    ask,
    connect,
    read_block,
)
from tests.servers.serving import Server, until

FAST = ("--http", "httptools", "--loop", "uvloop", "--no-access-log")
FRAME_BYTES = 50
"""An event of the app has a few more."""


def cut_again_and_again(
    serve: Serve, *, clients: int, cuts: int, events: int, **options: object
) -> tuple[dict[str, Any], list[Follower]]:
    """Publish to clients that are cut at random places, the last of them before the end; what became of them."""
    server = serve("channels:app", *FAST)
    ask(server, "/news/make", **options)
    channel = Channel("news", server.port, "/news/stream", goal=events)
    followers = []
    for _ in range(clients):
        places = [0, *sorted(channel.random.sample(range(1, events * FRAME_BYTES), cuts))]
        ways = [after - before for before, after in pairwise(places)]
        followers.append(Follower(channel, cuts=ways))

    async def follow() -> None:
        async with asyncio.timeout(300), asyncio.TaskGroup() as running:
            for number, follower in enumerate(followers):
                running.create_task(follower.run())
                if number % 50 == 0:
                    await follower.began.wait()
            for follower in followers:
                await follower.began.wait()
            within = events / 1_000
            await asyncio.to_thread(ask, server, "/news/publish", last=events, within=within)

    asyncio.run(follow())
    assert until(lambda: ask(server, "/news/stats")["subscribers"] == 0)
    stats = ask(server, "/news/stats")

    # Lost, doubled, out of order, from elsewhere, or a gap without a word: each would be a fault.
    assert channel.faults == []
    assert [fault for one in followers for fault in one.faults] == []
    assert channel.events.items() <= {n: ("app", n) for n in range(1, events + 1)}.items()
    for one in followers:
        missed = sum(reset.after - reset.before for reset in one.resets)
        assert (one.place, one.got + missed, one.broken) == (events, events, 0)
    assert stats["published"] == events
    # What it has told those who were cut off before they got it, is counted too.
    told = Counter(reset.reason for one in followers for reset in one.resets)
    assert told <= Counter(stats["resets"])
    assert set(stats["resets"]) <= {"trimmed", "lagging"}
    return stats, followers


@pytest.mark.slow
def test_hundreds_of_clients_cut_twenty_times_each_lose_nothing(serve: Serve) -> None:
    stats, followers = cut_again_and_again(serve, clients=200, cuts=20, events=4_000, history=4_000)

    # And the test has done what it says.
    assert all(one.connections > 20 and not one.cuts_left for one in followers)
    assert sum(one.cuts_in_mid_block for one in followers) > 200 * 20 / 4
    assert sum(len(one.resets) for one in followers) <= 200 * 20 * 0.1, stats["resets"]


@pytest.mark.parametrize("slow", ["disconnect", "reset"])
def test_every_gap_is_announced_where_little_is_kept(serve: Serve, slow: str) -> None:
    _, followers = cut_again_and_again(
        serve, clients=60, cuts=10, events=3_000, history=20, slow=slow
    )

    assert sum(len(one.resets) for one in followers) > 60


# --- Ids ------------------------------------------------------------------------------


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
    ask(server, "/news/publish", last=3)

    async def come() -> dict[str, list[Block]]:
        async with asyncio.timeout(90), AsyncExitStack() as clients:
            readers = {}
            for name, (_, form) in FOREIGN_IDS.items():
                cursor = form.replace("{epoch}", epoch).replace("{other}", other)
                reader = Reader(server.port, "/news/stream", cursor)
                readers[name] = await clients.enter_async_context(reader)
            for reader in readers.values():
                await reader.until(1)
            await asyncio.to_thread(ask, server, "/news/publish", first=4, last=4)
            assert {reader.connection.status for reader in readers.values()} == {200}
            return {name: await reader.until(2) for name, reader in readers.items()}

    got = asyncio.run(come())

    for name, (reason, _) in FOREIGN_IDS.items():
        told, live = got[name]
        assert told.kind == "reset", name
        assert told.fields == {"reason": reason, "channel": "news", "cursor": f"{epoch}.3"}, name
        assert (told.id, live.kind, live.id) == (f"{epoch}.3", "message", f"{epoch}.4"), name
    counted = Counter(reason for reason, _ in FOREIGN_IDS.values())
    assert ask(server, "/news/stats")["resets"] == counted


# --- Threads --------------------------------------------------------------------------


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_event_from_a_worker_thread_reaches_the_stream_by_itself(serve: Serve, loop: str) -> None:
    server = serve("channels:app", "--loop", loop)
    ask(server, "/news/make")

    async def run() -> list[Any]:
        async with asyncio.timeout(180), Reader(server.port, "/news/stream") as reader:
            await reader.until(1)
            for number in range(1, 21):
                # By turns with `publish_nowait` and `publish_threadsafe`.
                how = {"threadsafe": 1} if number % 2 else {}
                path = "/news/publish-in-thread"
                await asyncio.to_thread(partial(ask, server, path, number=number, **how))
                await reader.until(number + 1)
            return [block.fields["number"] for block in reader.blocks[1:]]

    # Each is there before the next is published.
    assert asyncio.run(run()) == list(range(1, 21))


# --- A stalled reader -----------------------------------------------------------------

EVENT_BYTES = 1_000
HEALTHY = 999
GROWTH_BYTES = 5 * 1024 * 1024
"""
What a stalled client may cost in the end, measured on the whole process (docs/channels.md).

It has one write that is blocked, and a transport's buffer: 64 KiB and an event each. The rest is what
the allocator takes while hundreds of clients are served, and all the events together have twice as
much. What the kernel holds for a connection is not part of it.
"""


@pytest.mark.slow
def test_stalled_reader_costs_a_bounded_amount_and_delays_nobody(serve: Serve) -> None:
    server = serve("channels:app", *FAST)
    ask(server, "/news/make", history=1_000)
    come = partial(connect, port=server.port, path="/news/stream")
    script = bytearray()
    listeners = [Listener(script) for _ in range(HEALTHY)]
    body = bytearray()

    async def publish_to_all(first: int, last: int) -> int:
        """Publish half of what the channel keeps when all have what was before; what the server then has in memory."""
        for start in range(first, last + 1, 500):
            query = {"first": start, "last": start + 499, "within": 0.5, "size": EVENT_BYTES}
            await asyncio.to_thread(partial(ask, server, "/news/publish", **query))
            async with asyncio.timeout(400):
                # A look now and then costs this process less than a signal for each piece.
                while not all_have(start + 499):  # noqa: ASYNC110
                    await asyncio.sleep(0.1)
        return memory(server)

    def all_have(offset: int) -> bool:
        there = f".{offset}\r\n".encode() in script[-2 * EVENT_BYTES :]
        return there and all(listener.place == len(script) for listener in listeners)

    def all_are_there(count: int) -> bool:
        return bool(ask(server, "/news/stats")["subscribers"] == count)

    async def run() -> tuple[int, int, int]:
        connections = [await come(listener.take) for listener in listeners]
        assert await asyncio.to_thread(until, lambda: all_are_there(HEALTHY))
        before = await publish_to_all(1, 3_000)
        # A small window, so that what is stuck is stuck in the server.
        stalled = await come(body.extend, window=16 * 1024)
        stalled.transport.pause_reading()
        assert await asyncio.to_thread(until, lambda: all_are_there(HEALTHY + 1))
        after = await publish_to_all(3_001, 13_000)
        assert not any(one.over.done() for one in connections)
        lag = (await asyncio.to_thread(ask, server, "/news/stats"))["lag"]
        for one in connections:
            one.leave()
        stalled.transport.resume_reading()
        async with asyncio.timeout(90):
            await stalled.over
        assert stalled.completed
        return before, after, lag

    before, after, lag = asyncio.run(run())
    cursor, *got = map(read_block, bytes(body).split(END)[:-1])
    blocks = [read_block(raw) for raw in bytes(script).split(END)[:-1]]

    # The healthy ones have everything, as if it weren't there: what came before the next was published.
    assert [fault for listener in listeners for fault in listener.faults] == []
    assert [block.kind for block in blocks] == ["cursor", *["message"] * 13_000]
    assert [block.fields["number"] for block in blocks[1:]] == list(range(1, 13_001))
    # The stalled one costs little, is far behind, and has no hole when it reads on.
    assert after - before < GROWTH_BYTES, (before, after)
    assert lag > 1_000
    assert (cursor.kind, cursor.offset) == ("cursor", 3_000)
    assert [block.offset for block in got] == list(range(3_001, 3_001 + len(got)))
    assert 0 < len(got) < 10_000 - 1_000
    # Its stream has ended properly, and when it comes back, it's told what it has missed.
    assert body.endswith(END)
    ends = server.journal("went", count=HEALTHY + 1, seconds=90)
    assert "lagging" in [end["reason"] for end in ends]
    told = asyncio.run(first_block(server, got[-1].id))
    assert told.fields["reason"] == "trimmed"
    assert told.offset == 13_000


async def first_block(server: Server, cursor: str) -> Block:
    async with asyncio.timeout(90), Reader(server.port, "/news/stream", cursor) as reader:
        return (await reader.until(1))[0]


def memory(server: Server) -> int:
    """What the server's process has in memory, in bytes."""
    status = Path(f"/proc/{server.pid}/status").read_text("utf-8")
    (line,) = (line for line in status.splitlines() if line.startswith("VmRSS:"))
    return int(line.split()[1]) * 1024
