"""Publishes on a log: `publisher.py LOG NAME CHANNELS HISTORY COUNT SECONDS SIZE FILE GATE`.

Each event has a key, and is published again with it until the log has it. Which id each has been given
is written into FILE in the end. The last tenth is published when there's a file GATE.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
import time
from pathlib import Path

from one_of_many import (  # type: ignore[import-not-found,unused-ignore]  # found beside this file
    hub_on,
)

from sse_starlette import LogUnavailable


async def main(
    log: str,
    name: str,
    channels: str,
    history: int,
    count: int,
    seconds: float,
    size: int,
    gate: Path,
) -> list[tuple[str, int, str]]:
    """Publish in bursts of 1 to 20, all of it within so many seconds; (channel, number, id) of each."""
    bursts = random.Random(name)
    done: list[tuple[str, int, str]] = []
    hub = hub_on(log)
    async with hub.lifespan():
        there = [hub.channel(each, history=history) for each in channels.split(",")]
        began = time.monotonic()
        left = 0
        for number in range(count):
            if number == count * 9 // 10:
                while not gate.exists():  # noqa: ASYNC110, ASYNC240  (another process makes it)
                    await asyncio.sleep(0.05)
            channel = there[number % len(there)]
            event = {"data": {"publisher": name, "number": number, "more": "x" * size}}
            while True:
                try:
                    event_id = await channel.publish(event, key=f"{name}-{number}")
                except LogUnavailable:
                    continue
                break
            done.append((channel.name, number, event_id))
            if left == 0:
                left = bursts.randint(1, 20)
                due = began + seconds * (number + 1) / count
                await asyncio.sleep(max(0, due - time.monotonic()))
            left -= 1
    return done


if __name__ == "__main__":
    log, name, channels, history, count, seconds, size, file, gate = sys.argv[1:]
    work = main(
        log, name, channels, int(history), int(count), float(seconds), int(size), Path(gate)
    )
    Path(file).write_text(json.dumps(asyncio.run(work)), "utf-8")
