"""Event ids as positions: what a client may send back to us, and what it means.

An id is `epoch.offset`: the offset counts the events of one channel without a gap, the epoch changes
when the history is lost. A stream of several channels joins their positions with `-`. Pure: text to
positions and back. Whatever is no position is None here, never an error: an id is data from outside.

An epoch begins with a mark of its channel's name, so that of an epoch that is no longer known one can
tell which channels it can't have been of.
"""

from __future__ import annotations

import hashlib
import secrets
import string
from functools import lru_cache
from typing import TYPE_CHECKING

from starlette.requests import HTTPConnection

from .number import whole_number

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

MOST_CHANNELS = 200
"""
Channels that one stream may have.

Its ids have some 4,000 characters then, as long as no channel has had 10,000,000,000 events: nginx takes
8 KiB for all of a header, and 4 KiB over HTTP/2 in older versions.
"""
_LONGEST = 5000
"""Characters of an id that we look at: none of ours has more, as long as its offsets have 15 digits."""

_LETTERS = string.digits + string.ascii_letters
_MARKS = string.ascii_letters[6:]
"""What a mark begins with: no digit of a hexadecimal number, of which older epochs were made."""
_RANDOM_LETTERS = 6
_PAIRS = [one + other for one in _LETTERS for other in _LETTERS]


def new_epoch(channel: str = "") -> str:
    """A name for a history of `channel` that no earlier one had."""
    number, first = divmod(secrets.randbits(64), len(_PAIRS))
    number, second = divmod(number, len(_PAIRS))
    third = number % len(_PAIRS)
    return f"{mark_of(channel)}{_PAIRS[first]}{_PAIRS[second]}{_PAIRS[third]}"


@lru_cache(maxsize=1024)
def mark_of(channel: str) -> str:
    """What the epochs of `channel` begin with; other channels may have the same."""
    digest = hashlib.blake2b(channel.encode("utf-8", "surrogatepass"), digest_size=4).digest()
    number = int.from_bytes(digest, "big")
    return _MARKS[number % len(_MARKS)] + _LETTERS[number // len(_MARKS) % len(_LETTERS)]


def may_name(positions: Collection[str], channel: str, known: Collection[str]) -> bool:
    """
    Whether one of the epochs of an id may be that of a history that `channel` has lost.

    Args:
        positions: the epochs of the id.
        channel: the name of the channel.
        known: epochs that other channels have now.
    """
    mark = mark_of(channel)
    return any(
        epoch not in known and (epoch.startswith(mark) or not _has_mark(epoch))
        for epoch in positions
    )


def _has_mark(epoch: str) -> bool:
    # A log of somebody else's, or an older version of this package, names histories in its own way.
    return len(epoch) == 2 + _RANDOM_LETTERS and epoch[0] in _MARKS


def format_cursor(positions: Iterable[tuple[str, int]]) -> str:
    """The id that stands for these (epoch, offset) positions."""
    return "-".join(f"{epoch}.{offset}" for epoch, offset in positions)


def parse_cursor(text: str) -> dict[str, int] | None:
    """The offset for each epoch that `text` names; None if it isn't one of our ids."""
    if len(text) > _LONGEST:
        return None
    positions: dict[str, int] = {}
    for part in text.split("-"):
        epoch, _, digits = part.partition(".")
        offset = whole_number(digits)
        if not epoch or offset is None:
            return None
        positions[epoch] = offset
    return positions


class Cursor:
    """
    The id of a stream of many channels, put together from parts that are kept.

    Moving one of a hundred positions costs two short joins, not the formatting of a hundred.
    """

    _BLOCK = 16

    def __init__(self, positions: Iterable[tuple[str, int]]) -> None:
        self._parts = [f"{epoch}.{offset}" for epoch, offset in positions]
        starts = range(0, len(self._parts), self._BLOCK)
        self._blocks = ["-".join(self._parts[start : start + self._BLOCK]) for start in starts]
        self._stale: set[int] = set()
        self._text = "-".join(self._blocks)

    def move(self, place: int, epoch: str, offset: int) -> None:
        """Put one of the positions elsewhere."""
        self._parts[place] = f"{epoch}.{offset}"
        self._stale.add(place // self._BLOCK)

    def __str__(self) -> str:
        if self._stale:
            for block in self._stale:
                start = block * self._BLOCK
                self._blocks[block] = "-".join(self._parts[start : start + self._BLOCK])
            self._stale.clear()
            self._text = "-".join(self._blocks)
        return self._text


def last_event_id(request: HTTPConnection) -> str | None:
    """
    The id of the last event that the client has seen, None if it has seen none.

    It is what a client sends in the header `Last-Event-ID` when it reconnects (WHATWG HTML 9.2.3).
    Clients that can't set a header may send it as the query parameter `last_event_id` or
    `lastEventId`; the header wins. An empty id counts as none. Where it's given more than once, or
    has been folded into one line with commas, as clients do that set it themselves beside what they
    remember, the last one counts that a channel has given out; if there's none, the last one.
    """
    query = request.query_params
    return (
        _last_of(request.headers.getlist("last-event-id"))
        or _last_of(query.getlist("last_event_id"))
        or _last_of(query.getlist("lastEventId"))
    )


def _last_of(values: list[str]) -> str | None:
    given = [value for value in values if value]
    # A list of header values may be joined by commas on its way (RFC 9110, 5.3).
    for value in reversed(given):
        if "," not in value:
            if len(given) == 1 or parse_cursor(value) is not None:
                return value
        elif len(value) <= 2 * _LONGEST:
            for part in reversed(value.split(",")):
                if parse_cursor(part.strip()) is not None:
                    return part.strip()
    return given[-1] if given else None
