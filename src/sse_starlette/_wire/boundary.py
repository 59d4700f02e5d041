"""Where an event ends in bytes that somebody else has framed. Pure.

A source may yield bytes, which pass as they are, cut anywhere: people relay the chunks of an upstream.
What is ours, a ping or another event, must not fall into an event that isn't complete, since the
client would take it for a part of it.
"""

from __future__ import annotations

import re

_END_OF_LINE = re.compile(rb"\r\n|\n|\r")
BLANK_LINES = (b"\n\n", b"\r\n\r\n", b"\r\r")
"""Ends after which an event is complete whatever came before; there are others."""


class EventBoundary:
    """
    Reads bytes as a client's parser does (WHATWG HTML 9.2.6), to know whether an event is unfinished.

    Comment lines may stand anywhere and belong to no event.
    """

    __slots__ = ("_after_cr", "_fields", "_line")

    def __init__(self) -> None:
        self._fields = False  # Fields have come since the last blank line.
        self._line = b""  # How the line that has no end yet begins.
        self._after_cr = False  # An LF that comes next belongs to the end of the last line.

    @property
    def unfinished(self) -> bool:
        """Whether a comment or an event that came now would become a part of what is there."""
        return self._fields or bool(self._line)

    def follow(self, chunk: bytes) -> None:
        """Take note of what is sent next."""
        if chunk.endswith(BLANK_LINES):
            self._fields, self._line, self._after_cr = False, b"", chunk.endswith(b"\r")
            return
        if self._after_cr and chunk.startswith(b"\n"):
            chunk = chunk[1:]
        elif not chunk:
            return
        self._after_cr = chunk.endswith(b"\r")
        first, *others = _END_OF_LINE.split(chunk)
        lines = [self._line + first, *others]
        self._line = lines.pop()[:1]
        for line in lines:
            if not line:
                self._fields = False
            elif not line.startswith(b":"):
                self._fields = True

    def finish(self, sep: str) -> bytes:
        """Return what has to be sent for the event to be complete; empty if it is. It counts as sent."""
        end = b""
        if self._line:
            end = sep.encode()
            self._fields = self._fields or self._line != b":"
        if self._fields:
            if self._after_cr and sep == "\n":
                end = b"\n"  # This one still belongs to the CR.
            end += sep.encode()
        self._fields, self._line, self._after_cr = False, b"", end.endswith(b"\r")
        return end


def completed(frame: bytes, sep: str) -> bytes:
    """Return `frame` with what it lacks at its end so that an event may follow."""
    if frame.endswith(BLANK_LINES):
        return frame
    boundary = EventBoundary()
    boundary.follow(frame)
    return frame + boundary.finish(sep)
