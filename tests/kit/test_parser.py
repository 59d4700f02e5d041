"""What the parser reads, and what it finds wrong with it."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tests.unit.parsers import Fired, read_by_the_standard

from sse_starlette.testing import Comment, Cursor, Event, EventStreamParser, Parsed, StreamFailure


def parse(*pieces: bytes, **options: Any) -> tuple[list[Parsed], EventStreamParser]:
    parser = EventStreamParser(**options)
    return [one for piece in pieces for one in parser.feed(piece)], parser


STREAM_BYTES = st.lists(
    st.sampled_from(
        [
            *(b"data", b"event", b"id", b"retry", b"x", b":", b": ", b" ", b"\r", b"\n", b"\r\n"),
            *(b"12", b"\0", "ü€🎈".encode(), b"\xe2\x82", b"\xff", b"\xef\xbb\xbf", b"\n\n"),
            b"data: a\n\n",
        ]
    ),
    max_size=40,
)


@given(STREAM_BYTES)
@example([b"\xef\xbb\xbfdata: a\n", b"\xef\xbb\xbfdata: b\n\n"])
@example([b"data: a\r", b"", b"\n", b"data: b\r\n\r", b"\n"])
def test_parser_reads_what_the_standard_says(pieces: list[bytes]) -> None:
    expected = read_by_the_standard(pieces)

    parsed, parser = parse(*pieces)

    events = [one for one in parsed if isinstance(one, Event)]
    comments = [one.text for one in parsed if isinstance(one, Comment)]
    assert [Fired(e.event, e.data, e.id) for e in events] == expected.fired
    assert comments == [value for name, value in expected.lines if name == ""]
    assert (parser.last_event_id, parser.retry_ms) == (
        expected.last_event_id,
        expected.reconnection_ms,
    )


def test_parser_returns_events_comments_and_cursors_in_their_order() -> None:
    parsed, parser = parse(
        b": hello\nid: 1\n\nretry: 10\nevent: e\ndata: a\ndata: b\nid: 2\n\ndata: c\n\n"
    )

    assert parsed == [
        Comment("hello"),
        Cursor("1"),
        Event("e", "a\nb", "2", 10, own_id=True),
        Event("message", "c", "2"),
    ]
    assert parser.faults == []


def test_parser_goes_on_with_the_cursor_of_the_connection_before() -> None:
    parsed, parser = parse(b"data: a\n\n", last_event_id="7")

    assert parsed == [Event("message", "a", "7")]
    assert parser.last_event_id == "7"


def test_event_cut_off_in_the_middle_leaves_the_cursor_alone() -> None:
    parsed, parser = parse(b"id: 1\ndata: a\n\nid: 2\ndata: b\n")

    assert [one.id for one in parsed if isinstance(one, Event)] == ["1"]
    assert (parser.last_event_id, parser.unfinished) == ("1", True)


@pytest.mark.parametrize(
    ("sent", "bug", "part"),
    [
        (b"evil\n\n", "injected field", "b'evil' is no field"),
        (b"Data: a\n\n", "injected field", "no field"),
        (b"event: a\nevent: b\n", "injected field", "second 'event'"),
        (b"id: a\nid: b\n", "injected field", "second 'id'"),
        (b"id: a\0b\n", "malformed field", "NUL"),
        (b"retry: soon\n", "malformed field", "not a number"),
        (b"retry: " + b"9" * 5000 + b"\n", "malformed field", "..."),
        (b"data: \xff\n", "malformed field", "UTF-8"),
    ],
)
def test_parser_notes_what_a_client_ignores(sent: bytes, bug: str, part: str) -> None:
    _, parser = parse(sent)

    ((found, details),) = parser.faults
    assert found == bug
    assert part in details


def test_parser_keeps_a_few_faults_only() -> None:
    _, parser = parse(b"evil\n" * 1000)

    assert len(parser.faults) == 20


@pytest.mark.parametrize("piece", [b"x" * 10, b"data: x\n", b"data:\n"])
def test_parser_is_bounded_whatever_arrives(piece: bytes) -> None:
    with pytest.raises(StreamFailure, match=r"endless event: 10\d\d bytes .* limit 1000"):
        parse(*[piece] * 1000, max_event_bytes=1000)


def test_comments_without_end_are_no_endless_event() -> None:
    parsed, _ = parse(*[b": ping\n"] * 1000, max_event_bytes=100)

    assert len(parsed) == 1000


def test_event_decodes_json() -> None:
    assert Event("message", '{"a": 1}', "").json() == {"a": 1}
    with pytest.raises(ValueError):
        Event("message", "{", "").json()
