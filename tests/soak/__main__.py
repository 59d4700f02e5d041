"""
Soaks a server, or a limit, for as long as you have time for, and says what is left of it.

    python -m tests.soak server --connections 5000 --minutes 10
    python -m tests.soak limit --limit 1000 --clients 10000 --minutes 10
"""

from __future__ import annotations

import argparse
import resource
import sys
from collections import Counter

import anyio
from tests.soak.limiting import limit_holds
from tests.soak.soaking import SETTLED, soak


def tell(now: dict[str, int], counts: Counter[str]) -> None:
    names = ("streams", "memory_kib", "tasks", "descriptors")
    told = [f"{name}={now[name]:,}" for name in names]
    print(*told, f"events={counts['events in their order']:,}", flush=True)


def server(options: argparse.Namespace) -> int:
    """Soak a server; 1 if anything is left."""
    seconds = options.minutes * 60
    outcome = anyio.run(
        lambda: soak(
            connections=options.connections,
            seconds=seconds,
            stay_seconds=options.stay,
            warm_up_seconds=min(60.0, seconds / 4),
            drains=max(1, int(options.minutes) // 2),
            tell=tell,
        )
    )
    print(f"\n{'':14}{'before':>12}{'at most':>12}{'after':>12}")
    for name, value in outcome.before.items():
        print(f"{name:14}{value:12,}{outcome.most[name]:12,}{outcome.after[name]:12,}")
    print(*(f"\n{count:10,}  {name}" for name, count in sorted(outcome.counts.items())))
    left = [name for name in SETTLED if outcome.after[name] > outcome.before[name]]
    print(
        f"memory has grown by {outcome.growth:.1%}; left: {left or 'nothing'}; wrong: {outcome.wrong[:5]}"
    )
    return 1 if left or outcome.wrong else 0


def limit(options: argparse.Namespace) -> int:
    """Soak a limit; 1 if it was passed, or a slot is lost."""
    limited, visits = anyio.run(
        lambda: limit_holds(options.limit, options.clients, seconds=options.minutes * 60)
    )
    print(
        f"{visits:,} clients came, {options.clients:,} at a time; at most {limited.most:,} streams at once"
    )
    print(*(f"{count:10,}  {name}\n" for name, count in sorted(limited.outcomes.items())))
    print(f"slots taken in the end: {limited.policy.open}")
    return 1 if limited.most > options.limit or limited.policy.open else 0


def main() -> int:
    """Run one of the two."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    commands = parser.add_subparsers(required=True)
    one = commands.add_parser("server", help="a server under clients that come and go")
    one.add_argument("--connections", type=int, default=5_000)
    one.add_argument("--minutes", type=float, default=10.0)
    one.add_argument(
        "--stay", type=float, default=100.0, help="seconds that a reader stays, on average"
    )
    one.set_defaults(run=server)
    two = commands.add_parser("limit", help="a limit under clients that come and go")
    two.add_argument("--limit", type=int, default=1_000)
    two.add_argument("--clients", type=int, default=10_000)
    two.add_argument("--minutes", type=float, default=10.0)
    two.set_defaults(run=limit)
    options = parser.parse_args()
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    done: int = options.run(options)
    return done


if __name__ == "__main__":
    sys.exit(main())
