"""
`python -m tests.fuzzing`: generated events through every public door, and generated ids back in; the long form.

Says how many, of which seed, and at the first that gets through, which one it was. `tests/thorough/test_fuzzing.py`
is the short form, `python -m tests.fuzzing.guided` lets Atheris look for what isn't covered yet.
"""

from __future__ import annotations

import argparse
import logging
import time

import anyio
from tests.fuzzing.doors import DOORS, check_odd, cursors
from tests.fuzzing.inputs import RandomPicks, fields_from, odd_fields_from
from tests.fuzzing.names import check_names

BATCH = 500


async def fuzz(events: int, ids: int, seed: int, only: list[str]) -> None:
    for door, run in DOORS.items():
        if not only or door in only:
            # Each gets the same events.
            picks, start = RandomPicks(seed), time.monotonic()
            for first in range(0, events, BATCH):
                batch = [fields_from(picks) for _ in range(min(BATCH, events - first))]
                try:
                    await run(batch)
                except BaseException:
                    print(f"{door}: among events {first} to {first + BATCH} of seed {seed}")
                    raise
            told(door, events, "events", start)
    if not only or "encode" in only:
        picks, start = RandomPicks(seed), time.monotonic()
        for _ in range(events):
            check_odd(odd_fields_from(picks))
        told("encode", events, "events of any type", start)
    if not only or "names" in only:
        start = time.monotonic()
        check_names(RandomPicks(seed), events)
        told("names", events, "names of channels", start)
    if not only or "Last-Event-ID" in only:
        picks, start = RandomPicks(seed), time.monotonic()
        for first in range(0, ids, BATCH):
            try:
                await cursors(picks, min(BATCH, ids - first))
            except BaseException:
                print(f"Last-Event-ID: among ids {first} to {first + BATCH} of seed {seed}")
                raise
        told("Last-Event-ID", ids, "ids", start)


def told(door: str, count: int, what: str, start: float) -> None:
    print(
        f"{door}: {count:,} {what} in {time.monotonic() - start:.0f} s, none got through",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzzing", description=__doc__)
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--ids", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--loop", choices=["asyncio", "trio"], default="asyncio")
    parser.add_argument(
        "doors", nargs="*", help=f"{', '.join(DOORS)}, encode, names, Last-Event-ID"
    )
    options = parser.parse_args()
    # What looks like a mistake is warned of, once for each stream.
    logging.disable(logging.CRITICAL)
    anyio.run(fuzz, options.events, options.ids, options.seed, options.doors, backend=options.loop)


if __name__ == "__main__":
    main()
