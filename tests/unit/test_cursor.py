"""Ids as positions: what a client may send back, and what is taken from it."""

from __future__ import annotations

from typing import Any

import pytest
from starlette.requests import HTTPConnection, Request
from starlette.websockets import WebSocket
from tests.unit.driving import http_scope, websocket_scope

from sse_starlette._wire import cursor as _cursor


@pytest.mark.parametrize(
    "positions", [{"ab": 0}, {"0f8a3bc1": 10**18 - 1}, {"ab": 7, "cd": 20, "0": 1}]
)
def test_what_was_written_is_what_is_read(positions: dict[str, int]) -> None:
    assert _cursor.parse_cursor(_cursor.format_cursor(positions.items())) == positions


def test_the_positions_of_several_channels_stand_side_by_side() -> None:
    assert _cursor.format_cursor([("ab", 1), ("cd", 20)]) == "ab.1-cd.20"


def test_a_history_has_a_name_of_its_own_that_fits_into_an_id() -> None:
    epochs = {_cursor.new_epoch() for _ in range(100)}

    assert len(epochs) == 100
    assert all(epoch.isascii() and epoch.isalnum() for epoch in epochs)


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("", id="nothing"),
        pytest.param("7", id="a number"),
        pytest.param("ab", id="no offset"),
        pytest.param("ab.", id="an empty offset"),
        pytest.param(".7", id="no epoch"),
        pytest.param(".", id="a dot"),
        pytest.param("-", id="a dash"),
        pytest.param("ab.-1", id="negative"),
        pytest.param("ab.+1", id="a sign"),
        pytest.param("ab. 1", id="a space"),
        pytest.param("ab.1 ", id="a space behind"),
        pytest.param("ab.1.2", id="two dots"),
        pytest.param("ab.1-", id="a part missing"),
        pytest.param("ab.1--cd.2", id="an empty part"),
        pytest.param("ab.1,cd.2", id="a comma"),
        pytest.param("ab.1e3", id="an exponent"),
        pytest.param("ab.1_000", id="an underscore"),
        pytest.param("ab.0x10", id="hexadecimal"),
        pytest.param("ab.\u0661\u0662", id="digits of Arabic"),
        pytest.param("ab.\u00b2", id="a superscript"),
        pytest.param("ab.\uff11", id="full width"),
        pytest.param("ab.\U0001d7ce", id="bold"),
        pytest.param("ab." + "9" * 19, id="more digits than we write"),
        pytest.param("ab." + "9" * 5000, id="more digits than int() takes"),
        pytest.param("x" * 1_000_000, id="a megabyte"),
        pytest.param("ab.1-" * 250_000 + "ab.1", id="a megabyte of positions"),
        pytest.param("00f8a3bc-1f5e-4e0c-9f3b-6c3f0a2f5d11", id="a UUID"),
        pytest.param("\0", id="NUL"),
    ],
)
def test_what_is_no_position_is_none_and_no_error(text: str) -> None:
    assert _cursor.parse_cursor(text) is None


def test_a_huge_id_is_not_even_looked_at() -> None:
    class Sealed(str):
        __slots__ = ()

        def split(self, *_: object) -> list[str]:
            raise AssertionError

    assert _cursor.parse_cursor(Sealed("ab.1-" * 1_000 + "ab.1")) is None


@pytest.mark.parametrize(
    ("header", "query", "found"),
    [
        (None, "", None),
        ("a.1", "", "a.1"),
        (None, "last_event_id=b.2", "b.2"),
        (None, "lastEventId=c.3", "c.3"),
        ("a.1", "last_event_id=b.2&lastEventId=c.3", "a.1"),
        (None, "lastEventId=c.3&last_event_id=b.2", "b.2"),
        ("", "lastEventId=c.3", "c.3"),
        (None, "last_event_id=&lastEventId=c.3", "c.3"),
        ("", "last_event_id=&lastEventId=", None),
        (None, "Last-Event-ID=a.1", None),
        (None, "last_event_id=a%00%0Ab", "a\0\nb"),
    ],
)
def test_the_header_wins_over_the_query(header: str | None, query: str, found: str | None) -> None:
    headers = [] if header is None else [(b"last-event-id", header.encode())]
    scope = http_scope(query_string=query.encode(), headers=headers)

    assert _cursor.last_event_id(Request(scope)) == found
    assert _cursor.last_event_id(HTTPConnection(scope)) == found


def test_bytes_of_a_header_that_are_no_text_are_no_error() -> None:
    scope = http_scope(headers=[(b"last-event-id", bytes(range(128, 256)))])

    found = _cursor.last_event_id(HTTPConnection(scope))

    assert found is not None
    assert _cursor.parse_cursor(found) is None


def test_a_websocket_has_an_id_too() -> None:
    async def nothing(*_: Any) -> Any: ...

    scope = {**websocket_scope(), "query_string": b"last_event_id=a.1"}

    assert _cursor.last_event_id(WebSocket(scope, nothing, nothing)) == "a.1"
