"""The headers of an event stream: what is always there, and what is left out."""

from __future__ import annotations

from typing import Any

import pytest
from starlette.datastructures import Headers
from tests.unit.driving import drive, http_scope

from sse_starlette import EventSourceResponse
from sse_starlette._stream.headers import event_stream_headers, is_event_stream, sent_headers

# What an upstream's response may have, and whether it can be true of ours.
UPSTREAM = [
    ("Content-Length", "12", False),
    ("content-length", "12", False),
    ("Transfer-Encoding", "chunked", False),
    ("Connection", "close, X-Hop", False),
    ("X-Hop", "1", False),
    ("Keep-Alive", "timeout=5", False),
    ("TE", "trailers", False),
    ("Trailer", "Digest", False),
    ("Upgrade", "h2c", False),
    ("Proxy-Authenticate", "Basic", False),
    ("Proxy-Authorization", "Basic x", False),
    ("Proxy-Connection", "close", False),
    ("Content-MD5", "x", False),
    ("Content-Range", "bytes 0-1/2", False),
    ("Accept-Ranges", "bytes", False),
    ("Content-Encoding", "gzip", False),
    ("Content-Encoding", "br", False),
    ("Content-Encoding", "identity", True),
    ("X-Mine", "1", True),
    ("Set-Cookie", "a=b", True),
    ("ETag", '"1"', True),
    ("Vary", "Origin", True),
]


@pytest.mark.parametrize(("name", "value", "stays"), UPSTREAM)
def test_what_cannot_be_true_of_a_stream_is_not_taken_over(
    name: str, value: str, *, stays: bool
) -> None:
    given = {"Connection": "close, X-Hop", name: value}

    headers = event_stream_headers(given)

    if name != "Connection":
        assert headers.getlist(name) == ([value] if stays else [])
    assert headers.getlist("connection") == ["keep-alive"]
    assert headers["cache-control"] == "no-store"


@pytest.mark.anyio
@pytest.mark.parametrize(("name", "value", "stays"), UPSTREAM)
async def test_what_was_added_later_is_not_sent_either(
    name: str, value: str, *, stays: bool
) -> None:
    if name == "X-Hop":
        return  # Nothing says that it was of one connection.
    one, other = EventSourceResponse([]), EventSourceResponse([])
    one.headers[name] = value
    other.raw_headers.append((name.encode(), value.encode()))

    for response in (one, other):
        async with drive(response, scope=http_scope()) as exchange:
            await exchange.returns()
        sent = [each.lower() for each, _ in exchange.messages[0]["headers"]]
        assert (name.lower().encode() in sent) is stays


@pytest.mark.anyio
async def test_headers_that_a_subclass_puts_in_are_not_sent_if_they_cannot_be_true() -> None:
    class Mine(EventSourceResponse):
        def init_headers(self, headers: Any = None) -> None:
            super().init_headers(headers)
            self.raw_headers.append((b"content-length", b"5"))

    async with drive(Mine(["a"])) as exchange:
        await exchange.returns()

    assert "content-length" not in exchange.headers
    assert exchange.body == b"data: a\r\n\r\n"


def test_a_header_that_was_given_twice_stays_so() -> None:
    given = Headers(raw=[(b"set-cookie", b"a=1"), (b"set-cookie", b"b=2"), (b"te", b"x")])

    assert event_stream_headers(given).getlist("set-cookie") == ["a=1", "b=2"]
    assert given["te"] == "x"


def test_an_answer_without_a_body_has_no_content_type() -> None:
    raw = [(b"Content-Type", b"text/event-stream"), (b"x-mine", b"1")]

    assert sent_headers(raw) == raw
    assert sent_headers(raw, without_body=True) == raw[1:]


@pytest.mark.parametrize(
    ("headers", "error", "text"),
    [
        ([("a", "b")], TypeError, "headers is list: give a mapping of text to text"),
        ("a: b", TypeError, "headers is str"),
        ({"X-Count": 5}, TypeError, "'X-Count' with a value of type int"),
        ({"X-None": None}, TypeError, "'X-None' with a value of type NoneType"),
        ({b"x": "1"}, TypeError, "b'x' with a value of type str"),
        ({"X-Mine": "a\rhunter2"}, ValueError, "value of header 'X-Mine' holds a line"),
        ({"X-Mine": "a\nSet-Cookie: hunter2"}, ValueError, "value of header 'X-Mine' holds a line"),
        ({"X\n": "a"}, ValueError, "the name of header 'X\\n' can't be sent"),
        ({"": "a"}, ValueError, "the name of header '' can't be sent"),
        ({"X Mine": "a"}, ValueError, "the name of header 'X Mine' can't be sent"),
        ({"X-Mine:": "a"}, ValueError, "the name of header 'X-Mine:' can't be sent"),
        ({"Größe": "a"}, ValueError, "the name of header 'Größe' can't be sent"),
        ({"X-Mine": "a\0"}, ValueError, "NUL"),
        (
            {"X-Mine": "hunter2 €"},
            ValueError,
            "'X-Mine' holds characters that a header can't carry",
        ),
    ],
)
def test_headers_that_cannot_be_sent_are_refused_by_name(
    headers: Any, error: type[Exception], text: str
) -> None:
    with pytest.raises(error) as caught:
        EventSourceResponse([], headers=headers)

    assert text in str(caught.value)
    assert "hunter2" not in str(caught.value)


def test_a_header_may_hold_latin_1() -> None:
    assert EventSourceResponse([], headers={"X-Mine": "é"}).headers["x-mine"] == "é"


@pytest.mark.parametrize(
    ("content_type", "known"),
    [
        ("text/event-stream", True),
        ("Text/Event-Stream; charset=utf-8", True),
        ("application/json", False),
        ("", False),
        (None, False),
    ],
)
def test_an_event_stream_is_told_by_its_content_type(
    content_type: str | None, *, known: bool
) -> None:
    assert is_event_stream(content_type) is known


JSON = "application/json"


@pytest.mark.parametrize(
    ("options", "warned"),
    [
        ({"media_type": JSON}, True),
        ({"headers": {"Content-Type": JSON}}, True),
        ({}, False),
        ({"media_type": None}, False),
        ({"headers": {"Content-Type": "text/event-stream; charset=utf-8"}}, False),
    ],
)
def test_another_content_type_than_the_usual_one_is_warned_of_once(
    options: dict[str, Any], *, warned: bool, caplog: pytest.LogCaptureFixture
) -> None:
    response = EventSourceResponse([], **options)

    assert response.headers["content-type"].startswith(JSON if warned else "text/event-stream")
    assert [record.name for record in caplog.records] == ["sse_starlette.sse"] * warned
    assert ("leave media_type out" in caplog.text) is warned
