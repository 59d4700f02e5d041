"""Whose memory an idle stream takes: the server's, Starlette's, ours, the application's.

What Python allocates is counted where it is allocated, by the file of the code that runs then (`tracemalloc`), the
same on a busy machine. The rest of what the process grows by is what C allocates for itself, and what allocators
keep.
"""

from __future__ import annotations

from dataclasses import replace

from . import environments as where
from .scenarios import idle, warm
from .servers import CONTENDERS, Contender, loading, running

WHO = ("ours", "channel", "endpoint", "plain", "floor")
OWNERS = ("server", "starlette", "ours", "application", "other")
CONNECTIONS = 1_000


def main() -> int:
    """Measure, and print; return the exit code."""
    where.prepare({"tools", "ours"})
    print(
        "   KiB of an idle stream    " + "".join(f"{owner:>13}" for owner in OWNERS) + "   process"
    )
    for key in WHO:
        # Starlette is the same in both environments.
        contender = replace(CONTENDERS[key], needs=("ours",))
        by_owner = traced(contender)
        whole = idle(contender, connections=CONNECTIONS)["KiB"]
        shown = "".join(f"{by_owner.get(owner, 0.0):13.1f}" for owner in OWNERS)
        print(f"   {contender.title:24} {shown}  {whole:8.1f}", flush=True)
    return 0


def traced(contender: Contender) -> dict[str, float]:
    """Return the KiB of one idle connection, by owner."""
    path = contender.subscribe if contender.publish == "channel" else "/idle"
    with running(contender, PYTHONTRACEMALLOC="1") as server:
        warm(server)
        before = server.order("traced")
        with loading(server, path, connections=CONNECTIONS) as load:
            load.wait_for("open")
            after = server.order("traced")
    return {
        owner: (held - before.get(owner, 0)) / CONNECTIONS / 1024 for owner, held in after.items()
    }
