"""What a test may ask of a stream's order, times and headers: functions of what has arrived.

Pure. Each returns the name of the bug and a sentence, or None if there is none.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from .._wire.number import whole_number
from ._parser import Cursor, Event

Bug: TypeAlias = tuple[str, str]


@dataclass(frozen=True)
class Asked:
    """The client has connected, with this cursor."""

    last_event_id: str


@dataclass(frozen=True)
class Arrival:
    """Something has arrived, and when, in seconds."""

    at: float
    dispatches: bool
    """It brought an event, or a part of one."""
    comments: bool
    """It brought a comment."""


def gap_or_duplicate(story: Iterable[Asked | Event | Cursor], reset_event: str) -> Bug | None:
    """Look for the first place where the ids are not what comes next."""
    place: tuple[str, int] | None = None
    asked = ""
    just_asked = False
    for one in story:
        if isinstance(one, Asked):
            asked, just_asked = one.last_event_id, one.last_event_id != ""
            place = _place(asked)
            continue
        if isinstance(one, Event) and not one.own_id:
            continue
        here = _place(one.id)
        if here is None:
            return "unordered ids", f"id {one.id!r} is neither `epoch.offset` nor a whole number"
        # A first cursor says where we are; a reset, that from here on it's another history.
        moves = isinstance(one, Cursor) and (place is None or here == place)
        told = isinstance(one, Event) and one.event == reset_event
        if place is not None and not moves and not told:
            bug = _difference(place, here, one)
            if bug is not None and just_asked:
                return "wrong cursor", f"the client came back with {asked!r}, and got: {bug[1]}"
            if bug is not None:
                return bug
        place = here
        just_asked = just_asked and isinstance(one, Cursor)
    return None


def _place(id: str) -> tuple[str, int] | None:
    epoch, _, digits = id.rpartition(".")
    offset = whole_number(digits)
    return None if offset is None else (epoch, offset)


def _difference(place: tuple[str, int], here: tuple[str, int], one: Event | Cursor) -> Bug | None:
    (epoch, offset), (epoch_here, offset_here) = place, here
    last = _id(epoch, offset)
    if epoch_here != epoch:
        return "gap", f"after id {last!r} came {one.id!r} of another epoch, without a reset"
    missing = offset_here - offset - (1 if isinstance(one, Event) else 0)
    if missing > 0:
        first, end = _id(epoch, offset + 1), _id(epoch, offset + missing)
        lost = repr(first) if missing == 1 else f"{first!r} to {end!r} ({missing} events)"
        return "gap", f"after id {last!r} came {one.id!r}; missing: {lost}"
    if missing < 0:
        return "duplicate", f"after id {last!r} came {one.id!r}, which is not new"
    return None


def _id(epoch: str, offset: int) -> str:
    return f"{epoch}.{offset}" if epoch else str(offset)


def wrong_ping(
    arrivals: Iterable[Arrival], now: float | None, every: float, tolerance: float
) -> Bug | None:
    """
    Look for the first silence without a ping, or ping without a silence.

    Args:
        arrivals: what has arrived; the first is the headers.
        now: the time, if more could have arrived until now; else None.
        every: seconds of silence after which a ping is due.
        tolerance: seconds by which it may be late, or early.
    """
    last: Arrival | None = None
    for one in arrivals:
        if last is not None:
            silence = one.at - last.at
            if silence > every + tolerance:
                return _missing(silence, last.at, every)
            is_ping = one.comments and not one.dispatches
            if is_ping and last.dispatches and silence < every - tolerance:
                return (
                    "ping under data",
                    f"at {one.at:g} s, {silence:g} s after an event; due after {every:g} s of silence",
                )
        last = one
    if last is not None and now is not None and now - last.at >= every + tolerance:
        return _missing(now - last.at, last.at, every)
    return None


def _missing(silence: float, since: float, every: float) -> Bug:
    return (
        "missing ping",
        f"{silence:g} s of silence from {since:g} s on; a ping is due after {every:g} s",
    )


def missing_header(headers: Mapping[str, str], expected: Mapping[str, str | None]) -> Bug | None:
    """Look for the first header that is not as expected; None: it must not be there."""
    for name, value in expected.items():
        found = headers.get(name)
        if value is None and found is not None:
            return "forbidden header", f"{name}: {found}"
        if value is not None and found is None:
            return "missing header", f"{name}: {value}"
        if value is not None and found is not None and value.lower() not in _parts(found):
            return "missing header", f"{name}: {value}; it is {found!r}"
    return None


def refused_by_browsers(status: int, headers: Mapping[str, str]) -> Bug | None:
    """Look for what an `EventSource` doesn't take (WHATWG HTML 9.2.2)."""
    if status != 200:
        return "wrong status", str(status)
    return missing_header(headers, {"content-type": "text/event-stream"})


def cacheable(cache_control: str) -> Bug | None:
    """Look for the word that keeps a stream out of caches."""
    if "no-store" in cache_control or "no-cache" in cache_control:
        return None
    return "missing header", f"cache-control: no-store; it is {cache_control!r}"


def unexpected(found: Event, expected: Mapping[str, object]) -> Bug | None:
    """Look for the fields that are not as expected; None: any. Data may be what its JSON decodes to."""
    wrong = [
        f"{name}={value!r}"
        for name, value in expected.items()
        if value is not None and not _matches(getattr(found, name), value)
    ]
    return ("unexpected event", f"expected {', '.join(wrong)}, got {found}") if wrong else None


def _matches(found: str, expected: object) -> bool:
    if isinstance(expected, str):
        return found == expected
    try:
        decoded: object = json.loads(found)
    except ValueError:
        return False
    return decoded == expected


def _parts(value: str) -> set[str]:
    # `no-cache, no-transform` has both; `text/event-stream; charset=utf-8` is text/event-stream.
    lowered = value.lower()
    return {part.strip() for part in lowered.replace(";", ",").split(",")} | {lowered}
