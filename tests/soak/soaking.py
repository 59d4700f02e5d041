"""A server under thousands of clients that come and go, and what is left of it when they have gone."""

from __future__ import annotations

import asyncio
import sys
from dataclasses import dataclass, field
from typing import Any

import httpx2
from tests.servers.serving import ROOT, Server
from tests.soak.clients import Crowd

SETTLED = ("tasks", "descriptors", "streams", "subscribers")
"""What is to be as it was before."""
_PATIENCE_SECONDS = 120


@dataclass
class Outcome:
    """What a soak has shown."""

    before: dict[str, int]
    after: dict[str, int]
    most: dict[str, int]
    counts: dict[str, int]
    wrong: list[str] = field(default_factory=list)

    @property
    def growth(self) -> float:
        """How much memory has grown by, as a part of what it was."""
        return self.after["memory_kib"] / self.before["memory_kib"] - 1


async def soak(
    *,
    connections: int,
    seconds: float | None = None,
    visits: int | None = None,
    warm_up_seconds: float = 0.0,
    stay_seconds: float = 20.0,
    drains: int = 1,
    seed: int = 1,
    tell: Any = None,
) -> Outcome:
    """
    Have a server soaked by so many clients at a time.

    Args:
        connections: clients at a time.
        seconds: for how long; None: until each has come so often.
        visits: how often each comes.
        warm_up_seconds: for how long they come before anything is compared.
        stay_seconds: how long a reader stays, on average.
        drains: how often all streams are asked to end meanwhile.
        seed: of what clients do.
        tell: called with a line of progress now and then.
    """
    command = [sys.executable, "-m", "uvicorn", "tests.soak.app:app", "--port", "0"]
    with Server([*command, "--log-level", "info", "--no-access-log"], cwd=ROOT) as server:
        async with httpx2.AsyncClient(base_url=server.url, trust_env=False, timeout=None) as client:
            port = int(server.url.rpartition(":")[2])
            most: dict[str, int] = {}

            async def figures(**params: str) -> dict[str, int]:
                found: dict[str, int] = (await client.get("/figures", params=params)).json()
                for name, value in found.items():
                    most[name] = max(most.get(name, 0), value)
                return found

            async def crowd_for(seconds: float | None, visits: int | None, drains: int) -> Crowd:
                crowd = Crowd(port, seed=seed, stay_seconds=stay_seconds)
                until = asyncio.Event()

                async def watch() -> None:
                    while True:
                        now = await figures()
                        if tell is not None:
                            tell(now, crowd.counts)
                        await asyncio.sleep(1.0 if tell is None else 15.0)

                async def end_all() -> None:
                    for _ in range(drains):
                        await asyncio.sleep((seconds or 2.0) / (drains + 1))
                        await client.post("/drain")

                async with asyncio.TaskGroup() as tasks:
                    watching = tasks.create_task(watch())
                    draining = tasks.create_task(end_all())
                    if seconds is not None:
                        asyncio.get_running_loop().call_later(seconds, until.set)
                    async with asyncio.TaskGroup() as visitors:
                        for number in range(connections):
                            visitors.create_task(crowd.visit(number, until, visits))
                    watching.cancel()
                    await draining
                return crowd

            await figures(collect="")
            if warm_up_seconds:
                await crowd_for(warm_up_seconds, None, 0)
                await settle(figures, None)
            before = await settle(figures, None)
            crowd = await crowd_for(seconds, visits, drains)
            after = await settle(figures, before)
            return Outcome(before, after, most, dict(crowd.counts), crowd.wrong)


async def settle(figures: Any, before: dict[str, int] | None) -> dict[str, int]:
    """Wait until all is as it was before, or at rest; return how it stands in the end."""
    now: dict[str, int] = await figures(collect="")
    for _ in range(_PATIENCE_SECONDS):
        at_rest = now["streams"] == now["subscribers"] == 0
        if at_rest and (before is None or all(now[name] <= before[name] for name in SETTLED)):
            break
        await asyncio.sleep(1)
        now = await figures(collect="")
    return now
