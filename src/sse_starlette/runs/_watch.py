"""Watches the runs that are read in this process and made in another: a producer that is lost is told to the clients.

What a change here must keep: one look for all of them, and none at what nobody reads.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

import anyio

from ..channels.channel import state_of
from ..errors import LogUnavailable
from ._options import RunStatus
from ._rules import LOOK_SECONDS, Verdict, judge

if TYPE_CHECKING:
    from .._runtime.loop import TaskStarter
    from ..eventlogs.leases import Lease
    from ._entry import RunEntry
    from ._ledger import RunLedger

logger = logging.getLogger("sse_starlette.runs")

_UNUSED_SECONDS = 10.0
"""Seconds after which a run that nobody here reads or makes is forgotten by this process."""


class Watch:
    """The watch of one lifespan over the runs that its process knows."""

    def __init__(self, entries: dict[str, RunEntry], ledger: RunLedger, tasks: TaskStarter) -> None:
        """
        Watch nothing yet.

        Args:
            entries: the runs, by key.
            ledger: their leases.
            tasks: where it's told that one is lost.
        """
        self._entries = entries
        self._ledger = ledger
        self._tasks = tasks

    async def run(self) -> None:
        """Look at them again and again, until cancelled."""
        while True:
            await anyio.sleep(LOOK_SECONDS)
            try:
                self._forget_unused(time.monotonic())
                await self._look_around()
            except Exception as exc:
                # Who hasn't looked can't say that nothing has happened.
                for entry in self._entries.values():
                    entry.sighting = None
                if not isinstance(exc, LogUnavailable):
                    logger.exception(
                        "the runs of others could not be looked at",
                        extra={"sse_event": "runs_unwatched"},
                    )

    def _forget_unused(self, now: float) -> None:
        for key, entry in list(self._entries.items()):
            if state_of(entry.channel).has_subscribers:
                entry.used = now
            elif entry.producer is None and now - entry.used > _UNUSED_SECONDS:
                del self._entries[key]

    async def _look_around(self) -> None:
        watched = {
            entry.name: entry
            for entry in self._entries.values()
            # One without a token is being started: there is no lease yet that could be lost.
            if entry.token and not entry.made_here and not entry.ended and not entry.replacing
        }
        if not watched:
            return
        visited = {
            name
            for name, entry in watched.items()
            if entry.note.on_abandon == "cancel" and state_of(entry.channel).has_subscribers
        }
        found = await self._ledger.leases.find_leases(list(watched), visited=visited)
        now = time.monotonic()
        for name, entry in watched.items():
            lease = found.get(name)
            entry.sighting, verdict = judge(entry.sighting, lease, now, entry.note.lease)
            if verdict is Verdict.ENDED:
                entry.ended = True
            elif verdict is Verdict.ALIVE:
                entry.restarter = None
            elif verdict is Verdict.LOST:
                entry.sighting, entry.replacing = None, True
                self._tasks.start_soon(self._replace_lost, entry, lease)

    async def _replace_lost(self, entry: RunEntry, lease: Lease | None) -> None:
        """End a run whose producer is lost, or start it again if somebody wants that."""
        restarter, entry.restarter = entry.restarter, None
        logger.warning(
            "the producer of run %r is lost",
            entry.key,
            extra={"sse_event": "run_lost", "sse_run": entry.key},
        )
        try:
            if restarter is not None:
                await restarter(lease)
            else:
                entry.ended = await self._ledger.end_for_another(
                    entry.name, lease, entry.note, RunStatus.LOST, renewed=False
                )
        except Exception as exc:
            entry.restarter = entry.restarter or restarter
            logger.warning(
                "run %r can't be ended yet, which is tried again: %s",
                entry.key,
                exc,
                extra={"sse_event": "run_not_ended", "sse_run": entry.key},
            )
        finally:
            entry.replacing = False
