"""
`python3 tasks.py fuzz`: Atheris looks for inputs that reach what none has reached yet.

In the encoder, the reader of frames, the parser of the testing kit, and the reader of ids: what is pure, and so
quick enough for some thousand tries a second. What follows is for libFuzzer, `-max_total_time=600` for one.
"""

from __future__ import annotations

import logging
import sys

import atheris

with atheris.instrument_imports(include=["sse_starlette"]):
    import sse_starlette.testing  # noqa: F401  (instrumented here, used by what follows)
    from sse_starlette._wire.cursor import format_cursor, last_event_id, parse_cursor
    from sse_starlette.event import encode, encode_body
    from sse_starlette.testing import Event, EventStreamParser, StreamFailure

from starlette.requests import Request
from tests.fuzzing.doors import SCOPE, blocks_in, check_odd
from tests.fuzzing.inputs import BytePicks, cursor_from, fields_from, odd_fields_from
from tests.thorough.test_event_properties import expected_lines
from tests.unit.parsers import read_by_the_standard


def encoder(data: bytes) -> None:
    """The fields of an event stay its own."""
    fields = fields_from(BytePicks(data))
    assert blocks_in(encode(fields, "\r\n")) == [expected_lines(fields)]


def values(data: bytes) -> None:
    """Values of any type are one event, or refused."""
    check_odd(odd_fields_from(BytePicks(data)))


def frames(data: bytes) -> None:
    """A frame of somebody else's is one event, or refused."""
    try:
        frame = encode_body(data)
    except ValueError:
        return
    (block,) = blocks_in(frame)
    assert {name for name, _ in block} <= {"", "event", "data", "retry"}


def parser(data: bytes) -> None:
    """The parser reads what the standard says, in whatever pieces it comes."""
    cut, stream = data[0] if data else 0, data[1:]
    reader = EventStreamParser()
    try:
        items = [*reader.feed(stream[:cut]), *reader.feed(stream[cut:])]
    except StreamFailure:
        return
    events = [(item.event, item.data, item.id) for item in items if isinstance(item, Event)]
    fired = read_by_the_standard([stream]).fired
    assert events == [(each.type, each.data, each.last_event_id) for each in fired]


def cursor(data: bytes) -> None:
    """No id that a client sends is an error, and one that is a position says so again."""
    picks = BytePicks(data)
    for text in (cursor_from(picks, "kQ3xTn1a"), data.decode("latin-1")):
        raw = text.encode("utf-8", "surrogatepass")
        last_event_id(Request({**SCOPE, "headers": [(b"last-event-id", raw)], "query_string": raw}))
        positions = parse_cursor(text)
        if positions is not None:
            assert parse_cursor(format_cursor(positions.items())) == positions


TARGETS = (encoder, values, frames, parser, cursor)


def try_one(data: bytes) -> None:
    """The first byte says what is tried with the others."""
    if data:
        TARGETS[data[0] % len(TARGETS)](data[1:])


if __name__ == "__main__":
    logging.disable(logging.CRITICAL)
    atheris.Setup(sys.argv, try_one)
    atheris.Fuzz()
