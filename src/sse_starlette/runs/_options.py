"""What a run is to be like, and how it may end: options that are checked where they are given. Values.

What other processes need of them goes with the lease, as a note.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Collection
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypedDict, get_args

from ..channels._checks import check_count, check_function, check_seconds
from ..eventlogs.base import Limits

if TYPE_CHECKING:
    from ..event import Event

_logger = logging.getLogger("sse_starlette.runs")

OnAbandon: TypeAlias = Literal["keep", "cancel"]
EndReason: TypeAlias = Literal["end", "error", "limit", "stop", "abandoned", "shutdown", "silence"]
"""
Why a run has ended:

- `"end"`: its source has come to its end.
- `"error"`: its source, or what makes it, has raised.
- `"limit"`: it had more events or bytes than it may have.
- `"stop"`: somebody has called `Run.stop`.
- `"abandoned"`: nobody has read it for `abandon_after`.
- `"shutdown"`: the process that made it has ended its hub's lifespan.
- `"silence"`: the process that made it has died, was stopped, or can't reach the event log.
"""

_LEAST_EXPIRE_SECONDS = 60.0
"""So long an event log keeps a run at the least: longer than any outage that it's to survive."""
_LAST_BYTES = 256 * 1024
"""Room for the events that a run ends with."""
_ID_BYTES = 64
"""Room for the id of an event."""


class RunStatus(StrEnum):
    """How a run stands."""

    RUNNING = "running"
    """Its producer is at work."""
    DONE = "done"
    """Its source has come to its end."""
    FAILED = "failed"
    """Its source has raised, or had more events or bytes than it may have."""
    STOPPED = "stopped"
    """It was stopped, by `Run.stop` or because nobody read it."""
    LOST = "lost"
    """Its producer is gone: the process has died, hangs, was shut down, or can't reach the event log."""


@dataclass(frozen=True, slots=True)
class RunEnd:
    """
    How a run has ended, as `last_event` is told of it.

    Attributes:
        status: what it ended as; never `RUNNING`.
        reason: why; see `EndReason`.
        error: what the source raised. Don't show it to clients.
    """

    status: RunStatus
    reason: EndReason
    error: Exception | None = None


def default_last_event(end: RunEnd) -> Event:
    """The event that a run ends with where the application says nothing: none of the exception is in it."""
    if end.status is RunStatus.DONE:
        return None
    name = "error" if end.status is RunStatus.FAILED else end.status.value
    return {"event": name, "data": {"reason": end.reason}}


class RunArguments(TypedDict, total=False):
    """
    The options of `Hub.run`.

    Attributes:
        ttl: seconds for which a run can be read after its end, at the least. Default: an hour.
        on_abandon: what becomes of it when nobody reads it: `"keep"`, the default, it goes on; `"cancel"`:
            it's stopped after `abandon_after` seconds without a reader in any process.
        abandon_after: see there. Default: 30 seconds.
        restart: how one may have ended that this call starts again, some of `"lost"`, `"failed"`, `"stopped"`
            and `"done"`. Who reads the one before gets a `reset` event, and all of the new one. Default: none.
        end_event: the last event of a run whose source has come to its end. Default: none.
        last_event: a function that returns the last event for any `RunEnd`, or None for none. Default:
            `end_event`; or `error`, `stopped` or `lost` with the reason, and nothing of an exception.
        max_events: events that its source may make; with the next one it ends as failed (`"limit"`).
            Default: 50,000.
        max_bytes: bytes that these may take together; as for `max_events`. Default: 16 MiB.
        lease: seconds of silence of the process that makes it after which it's lost. A source that blocks the
            event loop for so long loses it. Default: 3; it's renewed five times in that time.
        shutdown_grace: seconds that it may go on when the hub's lifespan ends in the process that makes it;
            then it's lost. Default: 0.
    """

    ttl: float
    on_abandon: OnAbandon
    abandon_after: float
    restart: Collection[RunStatus | str]
    end_event: Event
    last_event: Callable[[RunEnd], Event] | None
    max_events: int
    max_bytes: int
    lease: float
    shutdown_grace: float


@dataclass(frozen=True, slots=True)
class RunOptions:
    """The options of a run, checked; see `RunArguments`."""

    ttl: float = 3_600.0
    on_abandon: OnAbandon = "keep"
    abandon_after: float = 30.0
    restart: Collection[RunStatus | str] = ()
    end_event: Event = None
    last_event: Callable[[RunEnd], Event] | None = None
    max_events: int = 50_000
    max_bytes: int = 16 * 1024 * 1024
    lease: float = 3.0
    shutdown_grace: float = 0.0

    def __post_init__(self) -> None:
        check_seconds("ttl", self.ttl, above=0)
        if self.on_abandon not in get_args(OnAbandon):
            raise ValueError(
                f"on_abandon must be one of {get_args(OnAbandon)}, got: {self.on_abandon!r}"
            )
        check_seconds("abandon_after", self.abandon_after, above=0)
        self._check_restart()
        if self.last_event is not None:
            check_function("last_event", self.last_event, "one RunEnd", may_wait=False)
            if self.end_event is not None:
                raise ValueError(
                    "end_event and last_event both say how a run ends: give one. last_event is called "
                    "for each way to end, and may return an event for RunStatus.DONE, too."
                )
        check_count("max_events", self.max_events, 1, "at least 1 event")
        check_count("max_bytes", self.max_bytes, 1, "at least 1")
        check_seconds("lease", self.lease, above=0)
        check_seconds("shutdown_grace", self.shutdown_grace)

    def _check_restart(self) -> None:
        ends = [status.value for status in RunStatus if status is not RunStatus.RUNNING]
        given: Any = self.restart
        if isinstance(given, str) or not isinstance(given, Collection):
            raise TypeError(
                f'restart must be a list of ends, restart=["lost"], or [] for never, got: {given!r}'
            )
        for one in given:
            if one not in ends:
                raise ValueError(f"restart must be some of {ends}, got: {one!r}")

    @classmethod
    def of(cls, given: RunArguments) -> RunOptions:
        """Return the options that were given; raise TypeError or ValueError for what is wrong with them."""
        known = sorted(RunArguments.__annotations__)
        for name in given:
            if name not in known:
                raise TypeError(f"run has no option {name!r}: there are {', '.join(known)}.")
        return cls(**given)

    def event_for(self, end: RunEnd) -> Event:
        """The last event of a run that has ended so; None: none."""
        if self.last_event is not None:
            return self.last_event(end)
        if end.status is RunStatus.DONE:
            return self.end_event
        return default_last_event(end)


@dataclass(frozen=True, slots=True)
class RunNote:
    """
    What each process knows of a run, whoever has started it.

    Attributes:
        max_events: how many events it may have; those that it ends with come on top.
        max_bytes: how many bytes they may have.
        ttl: seconds that it's kept after its end.
        lease: seconds after which a producer that is silent is lost.
        on_abandon: what becomes of it when nobody reads it.
        lost: the last event of a run whose producer is lost, encoded; empty: none.
        stopped: the last event of one that is stopped.
    """

    max_events: int
    max_bytes: int
    ttl: float
    lease: float
    on_abandon: OnAbandon
    lost: bytes
    stopped: bytes

    @property
    def limits(self) -> Limits:
        """How much of its channel an event log keeps: all of it."""
        return Limits(
            self.max_events + 2,
            None,
            max(self.ttl, _LEAST_EXPIRE_SECONDS),
            self.max_bytes + _LAST_BYTES,
        )

    @property
    def last_frames(self) -> dict[RunStatus, bytes]:
        """The last events of a run that is ended by another than its producer."""
        return {RunStatus.LOST: self.lost, RunStatus.STOPPED: self.stopped}

    @property
    def channel_options(self) -> dict[str, Any]:
        """The options of its channel."""
        return {
            "history": self.max_events + 2,
            "history_bytes": self.max_bytes + _LAST_BYTES + _ID_BYTES * (self.max_events + 2),
        }

    def encode(self) -> bytes:
        """Return it as it goes with the lease."""
        return json.dumps(
            {
                "max_events": self.max_events,
                "max_bytes": self.max_bytes,
                "ttl": self.ttl,
                "lease": self.lease,
                "on_abandon": self.on_abandon,
                "lost": self.lost.decode(),
                "stopped": self.stopped.decode(),
            },
            separators=(",", ":"),
        ).encode()

    @classmethod
    def decode(cls, stored: bytes) -> RunNote:
        """Return what was stored."""
        found = json.loads(stored)
        return cls(
            found["max_events"],
            found["max_bytes"],
            found["ttl"],
            found["lease"],
            found["on_abandon"],
            found["lost"].encode(),
            found["stopped"].encode(),
        )


def note_of(options: RunOptions, encode: Callable[[Event], bytes]) -> RunNote:
    """
    Return what goes with the lease of a run with these options.

    Raises:
        TypeError, ValueError: an event that it may end with can't be encoded.
    """

    def frame(end: RunEnd) -> bytes:
        event = options.event_for(end)
        return b"" if event is None else encode(event)

    if options.end_event is not None:
        encode(options.end_event)
    return RunNote(
        options.max_events,
        options.max_bytes,
        options.ttl,
        options.lease,
        options.on_abandon,
        frame(RunEnd(RunStatus.LOST, "silence")),
        frame(RunEnd(RunStatus.STOPPED, "stop")),
    )


def last_frame(options: RunOptions, end: RunEnd, encode: Callable[[Event], bytes]) -> bytes:
    """Return the last event of a run that has ended so, encoded; empty: none. It never fails."""
    try:
        event = options.event_for(end)
        return b"" if event is None else encode(event)
    except Exception:
        _logger.exception(
            "last_event failed for %r: clients get what is usual",
            end,
            extra={"sse_event": "callback_failed", "sse_callback": "last_event"},
        )
        return encode(default_last_event(end)) if end.status is not RunStatus.DONE else b""
