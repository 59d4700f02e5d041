"""
Clients' ways to read an event stream, each independent of the code that writes it.

`read_by_the_standard` follows the letter of WHATWG HTML 9.2.5 and 9.2.6; the others are what Python
programs read with, which take the stream in the pieces in which a network may deliver it.
"""

from __future__ import annotations

import codecs
import importlib
import re
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any
from unittest.mock import patch

import httpx2


@dataclass(frozen=True)
class Fired:
    """A `MessageEvent` that a client's listeners get."""

    type: str
    data: str
    last_event_id: str


@dataclass
class Reading:
    """All that the standard's parser made of a stream."""

    fired: list[Fired] = field(default_factory=list)
    #: Each line that is not empty, as (field name, value); a comment's field name is empty.
    lines: list[tuple[str, str]] = field(default_factory=list)
    blocks: int = 0
    last_event_id: str = ""
    reconnection_ms: int | None = None


def read_by_the_standard(pieces: Iterable[bytes]) -> Reading:
    reading = Reading()
    data = event_type = id_buffer = ""
    # The "UTF-8 decode" algorithm: wrong bytes are replaced, one BOM at the start is dropped.
    text = b"".join(pieces).decode("utf-8", "replace").removeprefix("\ufeff")

    # Lines end with CR LF, LF or CR; a last line without an end is none (9.2.5).
    for line in re.split("\r\n|\n|\r", text)[:-1]:
        if line == "":
            # "If the line is empty (a blank line): Dispatch the event".
            reading.blocks += 1
            reading.last_event_id = id_buffer
            if data != "":
                reading.fired.append(
                    Fired(event_type or "message", data.removesuffix("\n"), id_buffer)
                )
            data = event_type = ""
            continue
        # A line without a colon is a field name with an empty value; with a colon in front it is
        # a comment, which comes out of the same cut with an empty name.
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        reading.lines.append((name, value))
        match name:
            case "event":
                event_type = value
            case "data":
                data += value + "\n"
            case "id" if "\0" not in value:
                id_buffer = value
            case "retry" if value and all(digit in "0123456789" for digit in value):
                reading.reconnection_ms = int(value)

    # What is left without a blank line at the end of the stream is discarded.
    return reading


def read_by_httpx2(pieces: Iterable[bytes]) -> list[Fired]:
    response = httpx2.Response(
        200,
        headers={"content-type": "text/event-stream; charset=utf-8"},
        content=iter(pieces),
        request=httpx2.Request("GET", "http://testserver/"),
    )
    return [Fired(e.event, e.data, e.id) for e in httpx2.EventSource(response)]


def read_by_httpx_sse(pieces: Iterable[bytes]) -> list[Fired]:
    decoders = _httpx_sse_decoders()
    text_decoder = codecs.getincrementaldecoder("utf-8")("replace")
    line_decoder: Any = decoders.SSELineDecoder()
    event_decoder: Any = decoders.SSEDecoder()
    # As its own loop over a response does it: empty text never reaches the line decoder.
    texts = (text_decoder.decode(piece) for piece in pieces)
    lines = [line for text in texts if text for line in line_decoder.decode(text)]
    events = [event_decoder.decode(line) for line in [*lines, *line_decoder.flush()]]
    return [Fired(e.event, e.data, e.id) for e in events if e is not None]


def _httpx_sse_decoders() -> ModuleType:
    # httpx-sse asks for httpx by name, and only to annotate and to send requests, which isn't
    # wanted here: httpx2 stands in for it while the import lasts.
    with patch.dict(sys.modules):
        sys.modules.setdefault("httpx", httpx2)
        return importlib.import_module("httpx_sse._decoders")
