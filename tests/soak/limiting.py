"""A limit under clients that come and go by chance: never one too many, never a slot lost. In memory."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import AsyncIterator, MutableMapping
from typing import Any

import anyio
import anyio.lowlevel

from sse_starlette import EventSourceResponse, StreamPolicy


class Limited:
    """Streams behind one policy, and a count of them that the policy has no part in."""

    def __init__(self, limit: int, seed: int) -> None:
        self.policy = StreamPolicy(total=limit, per_listener=3)
        self.rolls = random.Random(seed)
        self.running = 0
        self.most = 0
        self.outcomes: Counter[str] = Counter()
        self._limit = limit

    async def numbers(self) -> AsyncIterator[str]:
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            while True:
                yield "x"
                await anyio.sleep(self.rolls.random() / 20)
        finally:
            self.running -= 1

    async def client(self) -> None:
        """Ask once, behave somehow, and be gone."""
        left = anyio.Event()
        blocks = fails = refuses = False
        manner = self.rolls.choice(["leaves", "cancelled", "blocks", "fails", "refuses", "HEAD"])
        stay = self.rolls.choice([0.0, 0.001, 0.01, 0.05, 0.2])

        async def receive() -> dict[str, Any]:
            if refuses:
                raise RuntimeError("receive has failed")
            await left.wait()
            return {"type": "http.disconnect"}

        async def send(message: MutableMapping[str, Any]) -> None:
            if fails:
                raise OSError("the transport is closed")
            if blocks:
                await anyio.sleep_forever()
            if self.rolls.random() < 0.2:
                await anyio.lowlevel.checkpoint()

        async def misbehave(scope: anyio.CancelScope) -> None:
            nonlocal blocks, fails, refuses
            await anyio.sleep(stay)
            blocks, fails, refuses = (manner == one for one in ("blocks", "fails", "refuses"))
            if manner in ("leaves", "refuses", "HEAD"):
                left.set()
            if manner in ("cancelled", "blocks"):
                await anyio.sleep(stay)
                scope.cancel()

        listener = f"user {self.rolls.randrange(self._limit)}"
        response = EventSourceResponse(
            self.numbers(), policy=self.policy, listener=listener, ping=0, on_close=self._count
        )
        scope: dict[str, Any] = {
            "type": "http",
            "method": "HEAD" if manner == "HEAD" else "GET",
            "headers": [],
        }
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(misbehave, tasks.cancel_scope)
                await response(scope, receive, send)
                tasks.cancel_scope.cancel()
        except* RuntimeError:
            self.outcomes["raised to the server"] += 1

    def _count(self, reason: str) -> None:
        self.outcomes[reason] += 1


async def limit_holds(
    limit: int, clients: int, *, seconds: float | None = None, rounds: int = 1, seed: int = 1
) -> tuple[Limited, int]:
    """
    Have so many clients come and go at a time; how often one has been, too.

    Args:
        limit: streams at a time.
        clients: clients at a time.
        seconds: for how long; None: each comes `rounds` times.
        rounds: see above.
        seed: of what they do.
    """
    limited = Limited(limit, seed)
    until = None if seconds is None else time.monotonic() + seconds
    visits = 0

    async def visitor() -> None:
        nonlocal visits
        done = 0
        while (time.monotonic() < until) if until is not None else (done < rounds):
            await limited.client()
            done += 1
            visits += 1
            # A client that was refused comes back after a while.
            await anyio.sleep(limited.rolls.random() * clients / limit / 20)

    async with anyio.create_task_group() as tasks:
        for _ in range(clients):
            tasks.start_soon(visitor)
    return limited, visits
