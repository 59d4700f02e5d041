"""What can be sent and is hardly meant: the log says so, once for each response."""

from __future__ import annotations

import logging
from contextvars import ContextVar

__all__ = ["doubt", "doubt_seconds", "looks_like_a_frame", "warn_of_doubts"]

_logger = logging.getLogger("sse_starlette.sse")

_FIELDS = ("data:", "event:", "id:", "retry:", ":")

_WARNINGS = {
    "frame": (
        "a str that is a frame of an event stream already was sent as the data of an event, so that the "
        "client sees 'data:' in it. Yield the data alone, yield \"text\", or the fields, yield "
        '{"event": "name", "data": "text"}; bytes are sent as they are, yield frame.encode().'
    ),
    "None": (
        "None was yielded, and sent as the text 'None'. To send nothing, don't yield; for an event without "
        'data yield {"event": "name", "data": ""}.'
    ),
}

# What the response of this context has been warned of. None: there's no response.
_warned: ContextVar[set[str] | None] = ContextVar("sse_starlette_warned", default=None)


def warn_of_doubts() -> None:
    """Have the log say of what is encoded in this context, and in its tasks, that it's hardly meant."""
    _warned.set(set())


def doubt(what: str) -> None:
    """
    Warn, for the first time, of what was found.

    Args:
        what: `"frame"`, a text that is a frame already; or `"None"`, as a value of its own.
    """
    warned = _warned.get()
    if warned is not None and what not in warned:
        warned.add(what)
        _logger.warning("%s", _WARNINGS[what])


def looks_like_a_frame(text: str) -> bool:
    """Whether `text`, which isn't empty, was made for the wire: it begins with a field and ends a line."""
    return text[-1] in "\r\n" and text.startswith(_FIELDS)


_HOUR = 3_600
_MOST_MISTAKEN = 1_000_000
"""Whoever gives more seconds than that means that they never end."""


def doubt_seconds(name: str, value: float | None, otherwise: str = "") -> None:
    """Warn of an argument in seconds that looks like milliseconds."""
    if value is not None and _HOUR < value < _MOST_MISTAKEN:
        _logger.warning(
            "%s=%g is %.1f hours: it counts seconds. Give %s=%g if you meant milliseconds%s",
            name,
            value,
            value / _HOUR,
            name,
            value / 1_000,
            otherwise and f", {otherwise}",
        )
