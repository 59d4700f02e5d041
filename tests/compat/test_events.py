"""Events to bytes, compared byte for byte."""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from pydantic import BaseModel
from tests.compat.differences import differs
from tests.compat.driving import body_of

from sse_starlette import EventSourceResponse, JSONServerSentEvent, ServerSentEvent
from sse_starlette.event import ensure_bytes

JSON = differs(
    "No client can read a `repr`, and it was the most frequent complaint; text and numbers are what they were."
)
JSON_EVENT = differs(
    "What is JSON in `ServerSentEvent` has to be JSON in the class that is named after it."
)
ENUM = differs(
    "The name of a Python class means nothing to a client, and FastAPI and pydantic send the value."
)
ISO_8601 = differs(
    "JavaScript's `Date` is only bound to read ISO 8601, and the same value should not have two forms."
)
BYTES = differs("The quotes and the `b` are Python's, and reached clients as part of the data.")
NO_TEXT = differs(
    "It can't be what a client was meant to get, it differs with each run, and it shows addresses of the process to strangers."
)
NUMBERS = differs("Rows of a database have numbers for ids, and an error under way helps nobody.")
NUL = differs(
    "A browser ignores an id with NUL in it, so that it would resume from the wrong place."
)
SURROGATE = differs(
    "One bad character of somebody else's text must not take away the rest, and browsers replace it likewise."
)
RETRY = differs(
    "Clients ignore a retry that isn't digits, so whoever gave one believes that something was changed."
)
ONE_LINE_END = differs(
    "A stream has one line end, or simple readers that split at it find two events where there is one."
)
SEP = differs("Clients know CR LF, LF and CR, and would take all that follows for one line.")


class Money:
    def __str__(self) -> str:
        return "5 EUR"


class Price:
    def __repr__(self) -> str:
        return "5 EUR"


@dataclass
class Point:
    x: int


class Model(BaseModel):
    x: int


class Colour(enum.Enum):
    RED = "red"


@pytest.mark.parametrize(
    ("fields", "frame"),
    [
        pytest.param(
            {"data": "d", "event": "e", "id": "i", "retry": 5, "comment": "c"},
            ": c\r\nid: i\r\nevent: e\r\ndata: d\r\nretry: 5\r\n\r\n",
            id="fields have their order",
        ),
        ({"data": "x"}, "data: x\r\n\r\n"),
        ({"data": 1}, "data: 1\r\n\r\n"),
        ({"data": 1.5}, "data: 1.5\r\n\r\n"),
        ({"data": True}, "data: True\r\n\r\n"),
        ({"data": ""}, "data: \r\n\r\n"),
        ({"data": "a\nb\r\nc\rd"}, "data: a\r\ndata: b\r\ndata: c\r\ndata: d\r\n\r\n"),
        ({"data": "a\n"}, "data: a\r\ndata: \r\n\r\n"),
        ({"data": "grüße ☃"}, "data: grüße ☃\r\n\r\n"),
        ({"data": "a\u2028b"}, "data: a\u2028b\r\n\r\n"),
        ({"comment": "a\nb"}, ": a\r\n: b\r\n\r\n"),
        ({"retry": 0}, "retry: 0\r\n\r\n"),
        ({"id": ""}, "id: \r\n\r\n"),
        ({}, "\r\n"),
        ({"id": "1\n2", "event": "a\r\nb"}, "id: 12\r\nevent: ab\r\n\r\n"),
        ({"data": Money()}, "data: 5 EUR\r\n\r\n"),
        ({"data": Price()}, "data: 5 EUR\r\n\r\n"),
        ({"data": ValueError("5 EUR")}, "data: 5 EUR\r\n\r\n"),
        pytest.param({"data": {"x": 1}}, 'data: {"x":1}\r\n\r\n', marks=JSON),
        pytest.param({"data": Point(1)}, 'data: {"x":1}\r\n\r\n', marks=JSON),
        pytest.param({"data": Model(x=1)}, 'data: {"x":1}\r\n\r\n', marks=JSON),
        pytest.param({"data": Colour.RED}, "data: red\r\n\r\n", marks=ENUM),
        pytest.param({"data": datetime(2026, 1, 2)}, "data: 2026-01-02T00:00:00\r\n\r\n", marks=ISO_8601),  # noqa: DTZ001
        pytest.param({"data": timedelta(minutes=90)}, "data: PT1H30M\r\n\r\n", marks=ISO_8601),
        pytest.param({"data": b"text"}, "data: text\r\n\r\n", marks=BYTES),
        pytest.param({"data": bytearray(b"text")}, "data: text\r\n\r\n", marks=BYTES),
        pytest.param({"id": 7}, "id: 7\r\n\r\n", marks=NUMBERS),
        pytest.param({"id": UUID(int=7)}, f"id: {UUID(int=7)}\r\n\r\n", marks=NUMBERS),
        pytest.param({"id": Colour.RED}, "id: red\r\n\r\n", marks=NUMBERS),
        pytest.param({"event": 7}, "event: 7\r\n\r\n", marks=NUMBERS),
        pytest.param({"event": UUID(int=7)}, f"event: {UUID(int=7)}\r\n\r\n", marks=NUMBERS),
        pytest.param({"event": Colour.RED}, "event: red\r\n\r\n", marks=NUMBERS),
        pytest.param({"id": "a\0b"}, "id: ab\r\n\r\n", marks=NUL),
        pytest.param({"data": "a\ud800"}, "data: a\ufffd\r\n\r\n", marks=SURROGATE),
    ],
)  # fmt: skip
def test_an_event_is_encoded_as_an_object_and_as_a_dict(fields: dict[str, Any], frame: str) -> None:
    given = dict(fields)

    assert ServerSentEvent(**fields).encode() == frame.encode()
    assert ensure_bytes(fields, "\r\n") == frame.encode()
    assert fields == given


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ({"a": None, "b": [1, "ü"]}, '{"a":null,"b":[1,"ü"]}'),
        ([1, 2], "[1,2]"),
        ("text", '"text"'),
        (0, "0"),
        (False, "false"),
        pytest.param([Point(1), Model(x=2)], '[{"x":1},{"x":2}]', marks=JSON_EVENT),
    ],
)
def test_a_json_event_is_compact(value: Any, text: str) -> None:
    assert JSONServerSentEvent(value).encode() == f"data: {text}\r\n\r\n".encode()
    assert JSONServerSentEvent(data=value, event="e").encode().startswith(b"event: e\r\ndata: ")


def test_a_json_event_without_data_has_none() -> None:
    assert JSONServerSentEvent(event="end").encode() == b"event: end\r\n\r\n"


def test_nan_is_no_json() -> None:
    with pytest.raises(ValueError):
        JSONServerSentEvent({"a": float("nan")})


def test_fields_may_be_read_and_assigned() -> None:
    event = ServerSentEvent("x", id="1")

    event.data, event.event, event.comment = "y", "e", "c"

    read = (event.data, event.event, event.id, event.retry, event.comment)
    assert read == ("y", "e", "1", None, "c")
    assert event.encode() == b": c\r\nid: 1\r\nevent: e\r\ndata: y\r\n\r\n"


class Loud(ServerSentEvent):
    def encode(self) -> bytes:
        return super().encode().upper()


@pytest.mark.parametrize(
    ("value", "frame"),
    [
        (b"raw\n\n", b"raw\n\n"),
        (memoryview(b"raw\n\n"), b"raw\n\n"),
        pytest.param(bytearray(b"raw\n\n"), b"raw\n\n", marks=BYTES),
        ({"data": "x", "event": "e", "id": "1", "retry": 9}, b"id: 1\nevent: e\ndata: x\nretry: 9\n\n"),
        ({"data": "x", "sep": "\r\n"}, b"data: x\n\n"),
        ({"comment": "c"}, b": c\n\n"),
        (ServerSentEvent("x", sep="\n"), b"data: x\n\n"),
        (ServerSentEvent("x", sep="\r"), b"data: x\r\r"),
        pytest.param(Loud("x", sep="\n"), b"DATA: X\n\n", id="a subclass may encode by itself"),
        ("x", b"data: x\n\n"),
        (3, b"data: 3\n\n"),
        (2.5, b"data: 2.5\n\n"),
        (UUID(int=1), b"data: 00000000-0000-0000-0000-000000000001\n\n"),
        (None, b"data: None\n\n"),
        (Money(), b"data: 5 EUR\n\n"),
        (Price(), b"data: 5 EUR\n\n"),
        (ValueError("5 EUR"), b"data: 5 EUR\n\n"),
        pytest.param(["a", None], b'data: ["a",null]\n\n', marks=JSON),
        pytest.param(("a", None), b'data: ["a",null]\n\n', marks=JSON),
    ],
)  # fmt: skip
def test_what_is_yielded_becomes_bytes(value: Any, frame: bytes) -> None:
    assert ensure_bytes(value, "\n") == frame


@pytest.mark.parametrize("value", [object(), Point])
@NO_TEXT
def test_an_object_without_a_text_of_its_own_is_refused(value: Any) -> None:
    with pytest.raises(TypeError, match="not JSON serializable"):
        ensure_bytes(value, "\n")


def test_a_dict_with_an_unknown_key_is_a_type_error() -> None:
    with pytest.raises(TypeError):
        ensure_bytes({"message": "x"}, "\n")


def test_a_wrong_retry_is_a_type_error() -> None:
    with pytest.raises(TypeError, match=r"^retry argument must be int"):
        ServerSentEvent("x", retry="10").encode()  # type: ignore[arg-type]


@RETRY
@pytest.mark.parametrize("retry", [-1, True])
def test_a_retry_that_clients_ignore_is_refused(retry: int) -> None:
    with pytest.raises((TypeError, ValueError)):
        ServerSentEvent("x", retry=retry).encode()


@SEP
@pytest.mark.parametrize(
    "act",
    [
        lambda: ServerSentEvent("a", sep="|").encode(),
        lambda: ensure_bytes("a", "|"),
        lambda: ensure_bytes({"data": "a", "sep": "|"}, "\n"),
    ],
)
def test_a_sep_that_ends_no_line_is_refused(act: Callable[[], object]) -> None:
    with pytest.raises(ValueError, match="sep must be one of"):
        act()


@ONE_LINE_END
@pytest.mark.anyio
async def test_a_whole_stream_has_one_line_end() -> None:
    response = EventSourceResponse(["x", ServerSentEvent("y"), {"data": "z"}], sep="\n")

    assert await body_of(response) == b"data: x\n\ndata: y\n\ndata: z\n\n"
