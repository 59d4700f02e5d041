"""Event ids as positions: what a client may send back to us, and what it means.

An id is `epoch.offset`: the offset counts the events of one channel without a gap, the epoch changes
when the history is lost. A stream of several channels joins their positions with `-`. Pure: text to
positions and back. Whatever is no position is None here, never an error: an id is data from outside.
"""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING

from starlette.requests import HTTPConnection

if TYPE_CHECKING:
    from collections.abc import Iterable

_LONGEST = 4096
"""Characters of an id that we look at; a proxy or server takes hardly more in a header."""
_MOST_DIGITS = 18


def new_epoch() -> str:
    """A name for a history that no earlier one had."""
    return secrets.token_hex(4)


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
        # isdigit() alone is true for digits that int() takes but we never wrote.
        if not epoch or not digits.isascii() or not digits.isdigit() or len(digits) > _MOST_DIGITS:
            return None
        positions[epoch] = int(digits)
    return positions


def last_event_id(request: HTTPConnection) -> str | None:
    """
    The id of the last event that the client has seen, None if it has seen none.

    It is what a client sends in the header `Last-Event-ID` when it reconnects (WHATWG HTML 9.2.3).
    Clients that can't set a header may send it as the query parameter `last_event_id` or
    `lastEventId`; the header wins. An empty id counts as none.
    """
    query = request.query_params
    return (
        request.headers.get("last-event-id")
        or query.get("last_event_id")
        or query.get("lastEventId")
        or None
    )
