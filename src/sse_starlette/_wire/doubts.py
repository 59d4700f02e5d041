"""What can be sent and is hardly meant: the log says so, once for each response, and once elsewhere."""

from __future__ import annotations

import logging
from contextvars import ContextVar

__all__ = [
    "HOUR",
    "doubt",
    "doubt_milliseconds",
    "doubt_seconds",
    "looks_like_a_frame",
    "warn_of_doubts",
]

_logger = logging.getLogger("sse_starlette.sse")

_FIELDS = ("data:", "event:", "id:", "retry:", ":")

_WARNINGS = {
    "frame": (
        "a str that is a frame of an event stream already, or a line of one, was sent as the data of an event, so "
        "that the client sees 'data:' in it. Yield (or publish) the data alone, yield \"text\", or the fields, "
        'yield {"event": "name", "data": "text"}. Bytes are sent as they are: relay a frame by '
        '`yield frame.encode()`, lines by `yield f"{line}\\n".encode()`.'
    ),
    "None": (
        "None was given as an event, and sent as the text 'None'. To send nothing, don't yield or publish; for an "
        'event without data give {"event": "name", "data": ""}.'
    ),
    "fields": (
        "a dict of an event's fields was sent as the data of an event, because FastAPI makes JSON of what an endpoint "
        'yields. For an event yield ServerSentEvent(data, event="name").'
    ),
}

# What the response of this context has been warned of. None: there's no response.
_warned: ContextVar[list[str] | None] = ContextVar("sse_starlette_warned", default=None)
_warned_elsewhere: list[str] = []


def warn_of_doubts() -> None:
    """Have the log say once more of what is encoded in this context, and in its tasks, that it's hardly meant."""
    _warned.set([])  # A set takes four times as much, for each stream.


def doubt(what: str) -> None:
    """
    Warn, for the first time, of what was found.

    Args:
        what: `"frame"`, a text that is a frame already; `"None"`, as a value of its own; `"fields"`, a dict of fields
            where it's data.
    """
    warned = _warned.get()
    if warned is None:
        warned = _warned_elsewhere  # What is published, for example.
    if what not in warned:
        warned.append(what)
        _logger.warning(
            "%s", _WARNINGS[what], extra={"sse_event": "doubtful_event", "sse_doubt": what}
        )


def looks_like_a_frame(text: str) -> bool:
    """Whether `text`, which isn't empty, was made for the wire: it begins with a field and ends a line."""
    return text[-1] in "\r\n" and text.lstrip().startswith(_FIELDS)


HOUR = 3_600
"""Seconds; what is longer may be meant as milliseconds."""
_MOST_MISTAKEN = 1_000_000
"""Whoever gives more seconds than that means that they never end."""


def doubt_seconds(name: str, value: float, otherwise: str = "") -> None:
    """Warn of an argument of more than an hour that looks like milliseconds."""
    if value < _MOST_MISTAKEN:
        _logger.warning(
            "%s=%g is %.1f hours: it counts seconds. Give %s=%g if you meant milliseconds%s",
            name,
            value,
            value / HOUR,
            name,
            value / 1_000,
            otherwise and f", {otherwise}",
            extra={"sse_event": "doubtful_option", "sse_option": name},
        )


_LEAST_MILLISECONDS = 100


def doubt_milliseconds(name: str, least: int, most: int) -> None:
    """Warn of a range of milliseconds that looks like seconds."""
    if 0 < most < _LEAST_MILLISECONDS:
        _logger.warning(
            "%s=(%d, %d) counts milliseconds: all clients come back at once. Give %s=(%d, %d) if you meant "
            "seconds",
            name,
            least,
            most,
            name,
            least * 1_000,
            most * 1_000,
            extra={"sse_event": "doubtful_option", "sse_option": name},
        )
