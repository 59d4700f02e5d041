"""What a client has to be told before the channels' events: gaps, the application's events, its cursor.

It's due when a subscription starts, and again when it lags. What is to be sent is decided here, and sent by the
subscription; `_opening.py` makes the application's part of it.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, cast

from .._stream.feed import JOINED_BYTES
from ..event import encoder
from ._checks import required_arguments
from ._opening import Step
from ._options import Gap

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from ._opening import Events
    from ._options import Snapshot, SubscribeOptions
    from ._positions import Positions
    from ._start import GapReason
    from ._state import ChannelState

_logger = logging.getLogger("sse_starlette.channel")

_ENCODE = encoder("\r\n")
_NONE: frozenset[int] = frozenset()
"""One for all: Python makes another each time."""


@dataclass(frozen=True, slots=True)
class _UntoldGap:
    """A gap that the client has not been told of yet, and the newest events of each key after it."""

    place: int
    channel: ChannelState
    reason: GapReason
    latest: Sequence[bytes]


class Preface:
    """What has to be sent before the channels' events."""

    __slots__ = (
        "_cursor_first",
        "_gaps",
        "_makes",
        "_options",
        "_positions",
        "due",
        "new_to",
        "outrun",
        "ready",
    )

    def __init__(
        self, positions: Positions, options: SubscribeOptions, *, cursor_first: bool
    ) -> None:
        """
        Have nothing to tell yet.

        Args:
            positions: where the client is.
            options: what the application makes for it.
            cursor_first: whether the client needs an id, for it has come without one.
        """
        self.due: bool = True
        """Whether something has to be sent that hasn't been made yet."""
        self.ready: list[bytes] = []
        """What has been made, and goes out before anything that is read from the channels."""
        self.new_to: tuple[int, ...] = ()
        """The places of the channels of which the client has nothing yet."""
        self.outrun: frozenset[int] = _NONE
        """
        The places of the channels that have gone on too far while the application made events for the
        client; it isn't asked for others.
        """
        self._positions = positions
        self._options = options
        self._cursor_first = cursor_first
        self._gaps: tuple[_UntoldGap, ...] = ()
        self._makes = False

    def add_gap(self, place: int, reason: GapReason, latest: Sequence[bytes] = ()) -> None:
        """Have the client told that it misses something, and given `latest` after it."""
        channel = self._positions.channels[place]
        self._gaps += (_UntoldGap(place, channel, reason, latest),)

    @property
    def has_events(self) -> bool:
        """Whether the client gets events, and not only an id."""
        return bool(self._gaps or (self.new_to and self._options.snapshot is not None))

    def steps(self) -> list[bytes | Step]:
        """Return what has to be sent, and what makes it; at its end the client's cursor moves."""
        gaps, options, cursor = self._gaps, self._options, self._positions.last_event_id
        steps: list[bytes | Step] = []
        # What the client has missed while the application made events for it is told, and nothing is
        # made anew: it would take as long again.
        quietly = any(gap.place in self.outrun for gap in gaps)
        new_to = list(self.new_to)
        if gaps and (options.on_gap is None or quietly):
            steps.append(_reset_frame(gaps, cursor))
            if not quietly:
                new_to += [gap.place for gap in gaps]
        elif options.on_gap is not None:
            for gap in gaps:
                told = Gap(gap.channel.name, gap.reason, cursor)
                instead = partial(_reset_instead, gap, cursor)
                steps.append(Step(partial(options.on_gap, told), instead))
        if options.snapshot is not None and new_to:
            steps.append(Step(self._snapshot_of(options.snapshot, new_to)))
        self._makes = any(isinstance(step, Step) for step in steps)
        # These have ids, so they come after what the client has to have before it moves on.
        steps += [frame for gap in gaps for frame in gap.latest]
        # The cursor comes last: who is cut off before it comes back with the one it had.
        if gaps or self._cursor_first or self.new_to:
            if len(steps) == 1 and isinstance(steps[0], bytes):
                steps[0] = self._positions.tell() + steps[0]
            elif options.id_blocks:
                steps.append(self._positions.tell() + b"\r\n")
        return steps

    def take(self, *, joins: bool) -> bytes:
        """Take of what is ready up to about `JOINED_BYTES`; without `joins`, one frame."""
        ready = self.ready
        count, size = 1, len(ready[0])
        while joins and count < len(ready) and size < JOINED_BYTES:
            size += len(ready[count])
            count += 1
        joined = b"".join(ready[:count])
        del ready[:count]
        return joined

    def told(self, frames: list[bytes]) -> None:
        """Take note that the steps have been taken; `frames` are what hasn't been sent yet."""
        self.due = False
        self.ready += frames
        self.outrun = _NONE
        if self._makes:
            places = range(len(self._positions.channels))
            self.outrun = frozenset(filter(self._positions.is_lost, places))
        self._gaps = self.new_to = ()
        self._cursor_first = False

    def _snapshot_of(
        self, snapshot: Snapshot, places: list[int]
    ) -> Callable[[], Events | Awaitable[Events]]:
        if required_arguments(snapshot):
            names = [self._positions.channels[place].name for place in sorted(places)]
            return partial(
                cast("Callable[[list[str]], Events | Awaitable[Events]]", snapshot), names
            )
        return cast("Callable[[], Events | Awaitable[Events]]", snapshot)


def _reset_frame(gaps: Sequence[_UntoldGap], cursor: str) -> bytes:
    told: dict[str, object] = {
        "reason": gaps[0].reason,
        "channel": gaps[0].channel.name,
        "cursor": cursor,
    }
    if len(gaps) > 1:
        by_reason: dict[str, list[str]] = {}
        for gap in gaps:
            by_reason.setdefault(gap.reason, []).append(gap.channel.name)
        told["gaps"] = by_reason
    return _ENCODE({"event": "reset", "data": told})


def _reset_instead(gap: _UntoldGap, cursor: str, error: Exception) -> bytes:
    gap.channel.count_failure()
    _logger.error(
        "on_gap failed for channel %r: the client is sent the event `reset`",
        gap.channel.name,
        exc_info=error,
        extra={
            "sse_event": "callback_failed",
            "sse_callback": "on_gap",
            "sse_channel": gap.channel.name,
        },
    )
    return _reset_frame([gap], cursor)
