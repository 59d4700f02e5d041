"""What the items of a stream say about its course: ids left out or repeated, latencies, totals. Pure."""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from .._wire.cursor import parse_cursor
from ..testing import Comment, Cursor, Event

if TYPE_CHECKING:
    from ..testing import Parsed

_PING = re.compile(r"ping - (\d{4}-\d\d-\d\d \d\d:\d\d:\d\d(?:\.\d+)?\+00:00)")
_NOT_MILLISECONDS = 100_000_000_000
"""A Unix time that is greater counts milliseconds: in seconds it would be the year 5138."""
_STEPS_TO_BELIEVE = 2
"""Ids that are numbers count events only where they have been seen to."""


def latency_of(item: Parsed, field_name: str | None, now: float) -> float | None:
    """
    Seconds between the time that `item` says it was made at and `now`, if it says so.

    This package's pings do; of an event, the field `field_name` of its JSON: a Unix time in seconds or
    milliseconds, or ISO 8601.
    """
    made: float | None = None
    if isinstance(item, Comment):
        found = _PING.fullmatch(item.text)
        made = None if found is None else datetime.fromisoformat(found[1]).timestamp()
    elif isinstance(item, Event) and field_name is not None:
        made = _time_in(item.data, field_name)
    return None if made is None else now - made


def _time_in(data: str, field_name: str) -> float | None:
    try:
        found = json.loads(data)
    except (ValueError, RecursionError):
        return None
    value = found.get(field_name) if isinstance(found, dict) else None
    if isinstance(value, str):
        try:
            told = datetime.fromisoformat(value)
        except ValueError:
            return None
        # ISO 8601 without a zone is anybody's; most write UTC so.
        return (told if told.tzinfo else told.replace(tzinfo=UTC)).timestamp()
    if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        return value / 1000 if abs(value) > _NOT_MILLISECONDS else float(value)
    return None


@dataclass
class Tally:
    """What has been seen so far, over all connections."""

    events: int = 0
    comments: int = 0
    left_out: int = 0
    """Ids between those of two events that did not come."""
    repeated: int = 0
    resets: int = 0
    latencies: list[float] = field(default_factory=list)
    _positions: dict[str, int] = field(default_factory=dict)
    _number: int | None = None
    _steps: int = 0

    def take(self, item: Parsed) -> str:
        """Count an item; what is remarkable about it, in words, or nothing."""
        if isinstance(item, Comment):
            self.comments += 1
            return ""
        if isinstance(item, Cursor):
            self._move(item.id)
            return ""
        self.events += 1
        if not item.own_id:
            return ""
        left_out, is_repeated, is_new = self._move(item.id)
        if item.event == "reset":
            self.resets += 1
            return "reset: events are missing before this one"
        if is_repeated:
            self.repeated += 1
            return "this id has come before"
        if left_out:
            self.left_out += left_out
            ids = "1 id was" if left_out == 1 else f"{left_out} ids were"
            return f"{ids} left out before this one, by a filter or lost"
        return "the history has begun anew, without a reset" if is_new else ""

    def _move(self, event_id: str) -> tuple[int, bool, bool]:
        """Go on to this id; how many were left out, whether it came before, whether it's of another history."""
        positions = parse_cursor(event_id)
        if positions is None:
            self._positions = {}
            return *self._count(event_id), False
        before, self._positions = self._positions, positions
        known = before.keys() & positions.keys()
        if not known:
            return 0, False, bool(before)
        steps = [positions[epoch] - before[epoch] for epoch in known]
        return max(0, sum(steps) - 1), not any(steps), False

    def _count(self, event_id: str) -> tuple[int, bool]:
        before = self._number
        self._number = int(event_id) if re.fullmatch("[0-9]{1,15}", event_id) else None
        if before is None or self._number is None:
            self._steps = 0
            return 0, False
        step = self._number - before
        counts = self._steps >= _STEPS_TO_BELIEVE
        if step == 1:
            self._steps += 1
        return (max(0, step - 1), step == 0) if counts else (0, False)

    def summary(self, *, connections: int, seconds: float) -> str:
        """Return all of it as a line."""
        parts = [
            f"{self.events} events and {self.comments} comments in {seconds:.1f} s",
            f"{connections} connection{'s' if connections != 1 else ''}",
        ]
        for count, what in (
            (self.left_out, "ids left out"),
            (self.repeated, "ids repeated"),
            (self.resets, "resets"),
        ):
            if count:
                parts.append(f"{count} {what}")
        if self.latencies:
            ordered = sorted(self.latencies)
            half, most = ordered[len(ordered) // 2], ordered[int(len(ordered) * 0.95)]
            parts.append(
                f"latency {shown_ms(half)} in the middle, {shown_ms(most)} at 95 %, "
                f"{shown_ms(ordered[-1])} at the most"
            )
        return "; ".join(parts)


def shown_ms(seconds: float) -> str:
    """A duration as text, in milliseconds below a second."""
    return f"{seconds:.2f} s" if abs(seconds) >= 1 else f"{seconds * 1000:.0f} ms"
