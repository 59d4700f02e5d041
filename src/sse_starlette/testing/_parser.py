"""Reads an event stream to the letter of WHATWG HTML 9.2.5 and 9.2.6, from pieces of any size.

Pure: bytes in, values out; knows nothing of ASGI, tasks or time, and keeps no more than one event.
What the standard has clients ignore in silence, but no sound server sends, is noted in `faults`.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TypeAlias

from .._wire.number import whole_number
from ._failures import StreamFailure

MAX_EVENT_BYTES = 1024 * 1024
"""The size of an event from which on a server is taken to be out of control."""

_LINE_END = re.compile(rb"\r\n|\n|\r")
_ONCE = ("event", "id", "retry")


@dataclass(frozen=True, slots=True)
class Event:
    """An event as a client's listeners get it."""

    event: str
    """Its type; `"message"` if the server named none."""
    data: str
    """Its data, lines joined by LF."""
    id: str
    """The last event id when it was dispatched, whether this event brought it or an earlier one."""
    retry: int | None = None
    """The reconnection time that came with it, in milliseconds."""
    own_id: bool = False
    """Whether it brought `id` itself."""

    def json(self) -> object:
        """
        Decode the data as JSON.

        Raises:
            ValueError: it isn't.
        """
        decoded: object = json.loads(self.data)
        return decoded


@dataclass(frozen=True, slots=True)
class Comment:
    """A comment, which listeners don't see; most pings are one."""

    text: str


@dataclass(frozen=True, slots=True)
class Cursor:
    """A block that only moves the last event id: no listener hears of it."""

    id: str


Parsed: TypeAlias = Event | Comment | Cursor
"""What the parser finds in a stream."""


class EventStreamParser:
    r"""
    Makes events of bytes, as a browser does.

    ```python
    parser = EventStreamParser()
    parser.feed(b"id: 7\ndata: a")  # []
    parser.feed(b"b\n\n")  # [Event("message", "ab", "7", own_id=True)]
    ```
    """

    def __init__(self, *, last_event_id: str = "", max_event_bytes: int = MAX_EVENT_BYTES) -> None:
        """
        Begin a stream.

        Args:
            last_event_id: the last event id to begin with: that of the connection before this one.
            max_event_bytes: the most bytes that one event may have, an unfinished line included.
        """
        self.last_event_id: str = last_event_id
        """What a client would come back with: set when a block is complete, not before."""
        self.retry_ms: int | None = None
        """The reconnection time the server asked for, in milliseconds; None: it didn't."""
        self.faults: list[tuple[str, str]] = []
        """What is wrong with the stream although a client ignores it: names of `CHECKS`, sentences."""

        self._max_event_bytes = max_event_bytes
        self._line = bytearray()
        self._after_cr = False
        self._first_line = True
        self._id = last_event_id
        self._retry: int | None
        self._begin_block()

    @property
    def unfinished(self) -> bool:
        """Whether the stream stands in the middle of a block: if it ended here, that would be lost."""
        return bool(self._seen or self._line)

    def feed(self, data: bytes) -> list[Parsed]:
        """
        Take the next piece of the stream; return what has become complete with it, in order.

        Raises:
            StreamFailure: `"endless event"`: an event has more bytes than it may have. The parser is
                of no use from then on.
        """
        parsed: list[Parsed] = []
        if self._after_cr and data:
            # A CR has ended its line already when it came; an LF after it belongs to it.
            data = data.removeprefix(b"\n")
            self._after_cr = False
        start = 0
        for end in _LINE_END.finditer(data):
            self._line += data[start : end.start()]
            start = end.end()
            self._take_line(parsed)
            self._check_size()
        self._line += data[start:]
        if data:
            self._after_cr = data.endswith(b"\r")
        self._check_size()
        return parsed

    def _take_line(self, parsed: list[Parsed]) -> None:
        raw = bytes(self._line)
        self._line.clear()
        if self._first_line:
            # 9.2.6: "The UTF-8 decode algorithm strips one leading UTF-8 Byte Order Mark (BOM), if any."
            raw = raw.removeprefix(b"\xef\xbb\xbf")
            self._first_line = False
        try:
            line = raw.decode()
        except UnicodeDecodeError:
            # Line by line is as good as all at once: CR and LF are never part of another character.
            line = raw.decode(errors="replace")
            self._fault("malformed field", f"{_shown(raw)} is not UTF-8")
        if not line:
            self._end_block(parsed)
            return
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if not name and line.startswith(":"):
            parsed.append(Comment(value))
        else:
            self._size += len(raw)
            self._take_field(name, value, raw)

    def _take_field(self, name: str, value: str, raw: bytes) -> None:
        if name in _ONCE and name in self._seen:
            self._fault(
                "injected field", f"{_shown(raw)} is the second {name!r} of its event{_HINT}"
            )
        match name:
            case "data":
                self._data.append(value)
            case "event":
                self._type = value
            case "id" if "\0" in value:
                self._fault("malformed field", f"clients ignore {_shown(raw)}: NUL in an id")
            case "id":
                self._id = value
                self._own_id = True
            case "retry" if (number := whole_number(value)) is not None:
                self.retry_ms = self._retry = number
            case "retry":
                self._fault("malformed field", f"clients ignore {_shown(raw)}: not a number of ms")
            case _:
                self._fault(
                    "injected field", f"{_shown(raw)} is no field of an event stream{_HINT}"
                )
        self._seen.add(name)

    def _end_block(self, parsed: list[Parsed]) -> None:
        self.last_event_id = self._id
        if self._data:
            data = "\n".join(self._data)
            parsed.append(Event(self._type or "message", data, self._id, self._retry, self._own_id))
        elif self._own_id:
            parsed.append(Cursor(self._id))
        self._begin_block()

    def _begin_block(self) -> None:
        self._data: list[str] = []
        self._type = ""
        self._retry = None
        self._own_id = False
        self._seen: set[str] = set()
        self._size = 0

    def _check_size(self) -> None:
        size = self._size + len(self._line)
        if size > self._max_event_bytes:
            raise StreamFailure(
                "endless event",
                f"{size} bytes without the blank line that ends an event, limit {self._max_event_bytes}",
            )

    def _fault(self, bug: str, details: str) -> None:
        if len(self.faults) < _FAULTS_KEPT:
            self.faults.append((bug, details))


_FAULTS_KEPT = 20
_HINT = ": a value with a line break in it was sent as it is?"


def _shown(raw: bytes) -> str:
    return f"the line {raw[:200]!r}" + (" ..." if len(raw) > 200 else "")
