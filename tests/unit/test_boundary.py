"""Where an event ends in bytes that somebody else has framed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.parsers import Fired, read_by_the_standard

from sse_starlette._wire.boundary import EventBoundary, completed


def parse(sent: bytes) -> list[Fired]:
    return read_by_the_standard([sent]).fired


CASES = [
    # what was sent, and what has to come before something else
    (b"", b""),
    (b"data: a\n\n", b""),
    (b"data: a\r\n\r\n", b""),
    (b"data: a\r\r", b""),
    (b"data: a\n\r\n", b""),
    (b"data: a\r\n\n", b""),
    (b"data: a\r\n\r", b""),
    (b"data: a", b"\n\n"),
    (b"data: a\n", b"\n"),
    (b"data: a\r\n", b"\n"),
    (b"data: a\r", b"\n\n"),
    (b"data: a\n\ndata: b", b"\n\n"),
    (b"data: a\n\nid: 1\n", b"\n"),
    (b": a comment\n", b""),
    (b": a comment\r\n", b""),
    (b": a comment", b"\n"),
    (b": a comment\n\n", b""),
    (b"data: a\n: a comment\n", b"\n"),
    (b"data: a\n: a comment", b"\n\n"),
    (b": a comment\ndata", b"\n\n"),
    (b"\n", b""),
    (b"\n\n\n", b""),
]


def boundary_after(*chunks: bytes) -> EventBoundary:
    boundary = EventBoundary()
    for chunk in chunks:
        boundary.follow(chunk)
    return boundary


@pytest.mark.parametrize(("sent", "end"), CASES)
def test_event_that_is_not_finished_is_told_by_what_it_lacks(sent: bytes, end: bytes) -> None:
    boundary = boundary_after(sent)

    assert boundary.unfinished == bool(end)
    assert boundary.finish("\n") == end
    assert not boundary.unfinished
    assert boundary.finish("\n") == b""
    assert completed(sent, "\n") == sent + end


@pytest.mark.parametrize(("sent", "end"), CASES)
def test_bytes_may_be_cut_anywhere(sent: bytes, end: bytes) -> None:
    assert boundary_after(*(bytes([byte]) for byte in sent)).finish("\n") == end
    for cut in range(len(sent)):
        assert boundary_after(sent[:cut], sent[cut:]).finish("\n") == end
        assert boundary_after(sent[:cut], b"", sent[cut:]).finish("\n") == end


def test_end_of_a_line_is_that_of_the_stream() -> None:
    assert boundary_after(b"data: a").finish("\r\n") == b"\r\n\r\n"


pieces = st.lists(
    st.sampled_from([b"data: x", b"data", b": c", b"id: 1", b"\n", b"\r", b"\r\n", b"\n\n", b" "]),
    max_size=12,
)


@given(pieces)
def test_what_comes_behind_is_an_event_of_its_own(chunks: list[bytes]) -> None:
    before = b"".join(chunks)
    boundary = boundary_after(*chunks)
    end = boundary.finish("\n")

    ours = b"data: ours\n\n"
    assert parse(before + end + ours) == parse(before + b"\n\n" + ours)
    assert parse(before + end + ours)[-1].data == "ours"


@given(pieces)
def test_comment_falls_into_no_event_that_is_finished(chunks: list[bytes]) -> None:
    before = b"".join(chunks)
    if not boundary_after(*chunks).unfinished:
        assert parse(before + b": ping\n\ndata: next\n\n") == parse(before + b"data: next\n\n")
