"""Whatever the fields hold: clients read back what was encoded, and nothing else."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from itertools import pairwise
from typing import Any
from unittest.mock import patch

import msgspec
import orjson
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tests.unit.parsers import Fired, read_by_httpx2, read_by_httpx_sse, read_by_the_standard

from sse_starlette.event import SEPARATORS, JSONServerSentEvent, ServerSentEvent, encode

# The characters that mean something to some parser, between ordinary ones, with whole and half
# surrogate pairs.
SPECIAL = (
    "\r\n\0: \t\x0b\x0c\x1c\x1d\x1e\x7f\x85\xa0\u2028\u2029\ufeff\ufffddateirvny:0\ud83d\ude00"
)
TEXT = st.text(st.one_of(st.sampled_from(SPECIAL), st.characters()), max_size=20)
FIELDS = st.fixed_dictionaries(
    {},
    optional={
        "data": TEXT,
        "event": TEXT,
        "id": TEXT,
        "retry": st.integers(min_value=0, max_value=10**12),
        "comment": TEXT,
    },
)
SEPS = st.sampled_from(SEPARATORS)
CUTS = st.lists(st.integers(min_value=0, max_value=400), max_size=12)
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=10),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=8,
)


def cut(stream: bytes, at: list[int]) -> list[bytes]:
    edges = [0, *sorted(min(place, len(stream)) for place in at), len(stream)]
    return [stream[left:right] for left, right in pairwise(edges)]


def scalar_text(text: str) -> str:
    """What a browser makes of a text of UTF-16 units (the USVString of Web IDL)."""
    joined = re.sub(
        "[\ud800-\udbff][\udc00-\udfff]",
        lambda pair: chr(0x10000 + (ord(pair[0][0]) - 0xD800) * 0x400 + ord(pair[0][1]) - 0xDC00),
        text,
    )
    return re.sub("[\ud800-\udfff]", "\ufffd", joined)


def lines_of(text: str) -> list[str]:
    return [scalar_text(line) for line in re.split("\r\n|\r|\n", text)]


def field_of(text: str) -> str:
    return scalar_text(re.sub("[\r\n\0]", "", text))


def expected_lines(fields: dict[str, Any]) -> list[tuple[str, str]]:
    """The lines that may stand in a frame: these, in this order, and no more."""
    lines: list[tuple[str, str]] = []
    if "comment" in fields:
        lines += [("", line) for line in lines_of(fields["comment"])]
    lines += [(name, field_of(fields[name])) for name in ("id", "event") if name in fields]
    if "data" in fields:
        lines += [("data", line) for line in lines_of(fields["data"])]
    if "retry" in fields:
        lines.append(("retry", str(fields["retry"])))
    return lines


def expected_events(all_fields: list[dict[str, Any]]) -> list[Fired]:
    fired, last_event_id = [], ""
    for fields in all_fields:
        if "id" in fields:
            last_event_id = field_of(fields["id"])
        if "data" in fields:
            event_type = field_of(fields.get("event", "")) or "message"
            fired.append(Fired(event_type, "\n".join(lines_of(fields["data"])), last_event_id))
    return fired


@settings(deadline=None)
@given(st.lists(FIELDS, max_size=4), SEPS)
@example([{"data": "a", "id": "1\n\ndata: b"}, {"event": "\r\rid: 2", "data": ""}], "\r\n")
@example([{"comment": "a\r\rdata: b", "data": "\n\nretry: 1"}], "\r")
@example([{"id": "\ud83d\0\ude00", "data": "\ud83d\n\ude00"}], "\n")
@example([{"data": ""}, {"data": "\n"}, {"data": " x"}, {"data": "\ufeff"}], "\n")
def test_a_client_of_the_standard_reads_exactly_what_was_encoded(
    all_fields: list[dict[str, Any]], sep: str
) -> None:
    reading = read_by_the_standard(encode(fields, sep) for fields in all_fields)

    assert reading.lines == [line for fields in all_fields for line in expected_lines(fields)]
    assert reading.fired == expected_events(all_fields)
    assert reading.blocks == len(all_fields)
    retries = [fields["retry"] for fields in all_fields if "retry" in fields]
    assert reading.reconnection_ms == (retries[-1] if retries else None)


# Both fire an event for a block that has an id, an event or a retry and no data, where the
# standard has none; so they are given data in every block. Everything else is compared as it is.
@pytest.mark.parametrize("read", [read_by_httpx2, read_by_httpx_sse])
@settings(deadline=None)
@given(
    st.lists(st.builds(lambda fields, data: fields | {"data": data}, FIELDS, TEXT), max_size=3),
    SEPS,
    CUTS,
)
def test_python_clients_read_exactly_what_was_encoded(
    read: Callable[[list[bytes]], list[Fired]],
    all_fields: list[dict[str, Any]],
    sep: str,
    cuts: list[int],
) -> None:
    stream = b"".join(encode(fields, sep) for fields in all_fields)

    assert read(cut(stream, cuts)) == expected_events(all_fields)


@settings(deadline=None)
@given(FIELDS, SEPS)
def test_a_dict_an_event_and_its_encode_say_the_same(fields: dict[str, Any], sep: str) -> None:
    frame = encode(fields, sep)

    assert encode(ServerSentEvent(**fields), sep) == frame
    assert ServerSentEvent(**fields, sep=sep).encode() == frame
    assert encode(dict(reversed(fields.items())), sep) == frame
    if fields.keys() == {"data"}:
        assert encode(fields["data"], sep) == frame


@settings(deadline=None)
@given(JSON, SEPS, st.sampled_from(["orjson", "msgspec", ""]))
@example(1e16, "\n", "orjson")
@example(2**64, "\n", "msgspec")
def test_json_arrives_as_the_value_it_was(value: Any, sep: str, library: str) -> None:
    libraries = {"orjson": orjson, "msgspec": msgspec}
    loaded = {name: one if name == library else None for name, one in libraries.items()}
    with patch.dict(sys.modules, loaded):
        frame = encode(JSONServerSentEvent({"value": value}), sep)
        same = encode({"data": {"value": value}}, sep)

    (event,) = read_by_the_standard([frame]).fired
    assert json.loads(event.data) == {"value": value}
    assert same == frame


STREAM: list[dict[str, Any]] = [
    {"comment": "ping\r\n2024", "retry": 1500},
    {"data": "é😀\n\na\u2028", "event": "tïck", "id": "épöch.1"},
    {"data": ""},
    {"id": ""},
    {"data": "\ufeff\r\x85", "event": "x"},
]


@pytest.mark.parametrize("sep", SEPARATORS, ids=["crlf", "cr", "lf"])
def test_frames_cut_at_any_byte_read_the_same(sep: str) -> None:
    stream = b"".join(encode(fields, sep) for fields in STREAM if "data" in fields)
    events = expected_events([fields for fields in STREAM if "data" in fields])

    for place in range(len(stream) + 1):
        assert read_by_httpx2(cut(stream, [place])) == events
        assert read_by_httpx_sse(cut(stream, [place])) == events


def test_fields_without_data_move_the_cursor_alone() -> None:
    assert read_by_the_standard(encode(fields, "\n") for fields in STREAM).fired == (
        expected_events(STREAM)
    )


def test_a_frame_that_was_cut_off_fires_nothing() -> None:
    frame = encode({"data": "a", "id": "1"}, "\n")

    for place in range(len(frame)):
        reading = read_by_the_standard([frame[:place]])

        assert (reading.fired, reading.last_event_id) == ([], "")
