"""Channels on a real server: hundreds of clients that are cut off at any byte and come back."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial

import pytest
from tests.servers.conftest import Serve
from tests.servers.crowd import Crowd, Follower, ask

FAST = ("--http", "httptools", "--loop", "uvloop", "--no-access-log")
FRAME_BYTES = 80
"""Of an event of the app, and a little more with its share of the chunk around it."""


async def follow(followers: list[Follower], publish: Callable[[], object]) -> None:
    """Publish when all have their first cursor; return when all have the goal."""
    async with asyncio.timeout(180), asyncio.TaskGroup() as running:
        for number, follower in enumerate(followers):
            running.create_task(follower.run())
            if number % 50 == 0:
                await follower.began.wait()
        for follower in followers:
            await follower.began.wait()
        await asyncio.to_thread(publish)


def make_followers(crowd: Crowd, count: int, *, cuts: int, away: float) -> list[Follower]:
    # So that even the last cut comes before the end.
    whole = int(crowd.goal * FRAME_BYTES * 0.9)
    followers = []
    for _ in range(count):
        places = [0, *sorted(crowd.random.sample(range(1, whole), cuts))]
        ways = [after - before for before, after in zip(places, places[1:], strict=False)]
        followers.append(Follower(crowd, ways, away=away))
    return followers


@pytest.mark.slow
def test_five_hundred_clients_cut_twenty_times_each_lose_nothing(serve: Serve) -> None:
    server = serve("channels:app", *FAST)
    ask(server, "/news/make", history=5_000)
    crowd = Crowd("127.0.0.1", server.port, "/news/stream", goal=20_000)

    async def run() -> list[Follower]:
        followers = make_followers(crowd, 500, cuts=20, away=0.3)
        await follow(followers, partial(ask, server, "/news/publish", last=20_000, within=20))
        return followers

    followers = asyncio.run(run())

    faults = [fault for follower in followers for fault in follower.faults]
    assert faults == []
    assert {follower.offset for follower in followers} == {20_000}
    print(sum(follower.cuts_in_mid_block for follower in followers), len(crowd.offsets), [f.announced for f in followers if f.announced], ask(server, "/news/stats"), sum(f.resumed for f in followers))
    assert [f.cuts_left for f in followers if f.cuts_left]==[]
