"""The options of channels and of subscriptions, checked when they are given. Values, nothing else."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, fields
from datetime import datetime, timedelta
from operator import is_
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args

from starlette.requests import HTTPConnection

from ..eventlogs.base import DEFAULT_BYTES, DEFAULT_EVENTS
from ._checks import check_count, check_flag, check_function, check_seconds
from ._opening import Events

if TYPE_CHECKING:
    from ..event import ServerSentEvent
    from ._start import GapReason

_END_OF_TIME = 1e300
Slow: TypeAlias = Literal["disconnect", "reset", "latest"]
"""
What becomes of a client that has not taken an event when the channel forgets it:

- `"disconnect"`: its stream ends. `EventSource` comes back, with the id of what it got last.
- `"reset"`: it's told so by a `reset` event, and goes on with what is published from then on.
- `"latest"`: it's told so, gets the newest event of every key (`latest_by`), and goes on.
"""


Preference: TypeAlias = Literal["cpu", "latency"]
"""
What counts for more on a channel that is published to again before all its subscribers have been called:

- `"cpu"`: it goes through them, then pauses for as long as that took. What is published meanwhile is joined, and
  half of the event loop's time is left to others.
- `"latency"`: it goes through them again at once. Nobody waits for a pause, and each event takes more CPU time, up
  to all of a core.

A channel that isn't that busy delivers at once in any case.
"""


@dataclass(frozen=True, slots=True)
class ChannelOptions:
    """What a channel keeps, for how long, and what slow clients get; see `Hub.channel`."""

    history: int = DEFAULT_EVENTS
    history_bytes: int = DEFAULT_BYTES
    history_seconds: float | None = None
    slow: Slow = "disconnect"
    latest_by: Callable[[ServerSentEvent], object] | None = None
    linger: float = 30.0
    type: Any = None
    prefer: Preference = "cpu"

    def __post_init__(self) -> None:
        check_count("history", self.history, 1, "at least 1 event")
        check_count("history_bytes", self.history_bytes, 1, "at least 1")
        if self.history_seconds is not None:
            check_seconds("history_seconds", self.history_seconds, above=0, unit="")
        if self.slow not in get_args(Slow):
            raise ValueError(f"slow must be one of {get_args(Slow)}, got: {self.slow!r}")
        if self.latest_by is not None:
            check_function("latest_by", self.latest_by, "one event", may_wait=False)
        if (self.latest_by is not None) != (self.slow == "latest"):
            raise ValueError('slow="latest" and latest_by go together: give both or neither')
        check_seconds("linger", self.linger)
        if self.prefer not in get_args(Preference):
            raise ValueError(f"prefer must be one of {get_args(Preference)}, got: {self.prefer!r}")


_OF_A_CHANNEL = tuple(field.name for field in fields(ChannelOptions))


def channel_options(*given: Any) -> dict[str, Any]:
    """Return those options of `Hub.channel` that were given, by name: what is left out may be anything."""
    return {name: one for name, one in zip(_OF_A_CHANNEL, given, strict=True) if one is not None}


@dataclass(frozen=True, slots=True)
class Gap:
    """
    A hole in what a client gets, as `on_gap` is told of it.

    Attributes:
        channel: the name of the channel.
        reason: why there is one; see `GapReason`.
        cursor: the id from which the client goes on.
    """

    channel: str
    reason: GapReason
    cursor: str


Snapshot: TypeAlias = (
    Callable[[], Events | Awaitable[Events]] | Callable[[list[str]], Events | Awaitable[Events]]
)
Since: TypeAlias = datetime | timedelta | float
"""A time, how long ago that was, or the seconds of a Unix timestamp."""


@dataclass(frozen=True, slots=True)
class SubscribeOptions:
    """What a client is to get, and in which form: the arguments of `Channel.subscribe` but the request."""

    filter: Callable[[ServerSentEvent], object] | None = None
    on_gap: Callable[[Gap], Events | Awaitable[Events]] | None = None
    snapshot: Snapshot | None = None
    replay: int = 0
    after: str | int | None = None
    since: Since | None = None
    id_blocks: bool = True
    name_channels: bool = False
    whole: bool = False
    """Whether the client needs all of a history: after a `reset` it gets what is kept from the beginning."""

    def __post_init__(self) -> None:
        if self.filter is not None:
            check_function("filter", self.filter, "one event", may_wait=False)
        if self.on_gap is not None:
            check_function("on_gap", self.on_gap, "one Gap", may_wait=True)
        if self.snapshot is not None:
            check_function("snapshot", self.snapshot, "", may_wait=True, limit=1)
        check_count("replay", self.replay, 0, ">= 0 events")
        check_flag("id_blocks", self.id_blocks)
        check_flag("name_channels", self.name_channels)
        self._check_after()
        if self.since is not None:
            self.seconds_ago()
        given = [name for name in ("after", "since") if getattr(self, name) is not None]
        if self.replay:
            given.append("replay")
        if len(given) > 1:
            raise ValueError(
                f"{' and '.join(given)} say in different ways where a new client begins: give one."
            )

    def _check_after(self) -> None:
        after = self.after
        if after is None:
            return
        if isinstance(after, bool) or not isinstance(after, (str, int)):
            raise TypeError(
                f'after must be the id of an event, an offset or "start", got: {after!r}'
            )
        if after == "":
            raise ValueError(
                "after is empty: where the channel is isn't known here. Ask for it, "
                "`await channel.position()`, or leave it out for a client that begins anew."
            )
        if isinstance(after, int) and after < 0:
            raise ValueError(f"after must be >= 0 as an offset, got: {after}")

    def seconds_ago(self) -> float | None:
        """How long ago `since` is; None if it wasn't given."""
        since: Any = self.since
        if since is None:
            return None
        if isinstance(since, timedelta):
            return since.total_seconds()
        if isinstance(since, datetime):
            if since.tzinfo is None:
                raise ValueError(
                    f"since has no time zone: {since!r}. Use datetime.now(UTC), or a timedelta."
                )
            since = since.timestamp()
        if isinstance(since, bool) or not isinstance(since, (int, float)):
            raise TypeError(
                f"since must be a datetime, a timedelta or a Unix timestamp, got: {since!r}"
            )
        if not -_END_OF_TIME < since < _END_OF_TIME:  # NaN isn't, nor an int that no float holds.
            raise ValueError("since must be a time: seconds since 1970, and no NaN or infinity.")
        return time.time() - since


def check_request(request: object) -> None:
    """Make sure that `request` may say where a client left off."""
    if request is None or isinstance(request, (HTTPConnection, str)):
        return
    advice = ""
    if isinstance(request, int) and not isinstance(request, bool):
        advice = f". To begin after an offset: subscribe(after={request})"
    elif isinstance(request, dict) and "type" in request:
        advice = ". Of an ASGI scope make a request: starlette.requests.Request(scope)"
    raise TypeError(
        "subscribe needs the request, for its Last-Event-ID, or that id as a str, or None for a client that "
        f"begins anew, got: {type(request).__name__} {request!r:.80}{advice}"
    )


_USUAL = SubscribeOptions()
_DEFAULTS = tuple(getattr(_USUAL, field.name) for field in fields(_USUAL) if field.name != "whole")


def subscribe_options(*given: Any) -> SubscribeOptions:
    """Return the options of a subscription; the same ones for all that were given none, which are most."""
    return _USUAL if all(map(is_, given, _DEFAULTS)) else SubscribeOptions(*given)
