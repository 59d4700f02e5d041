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
from tests.compat.driving import body_of

from sse_starlette import EventSourceResponse, JSONServerSentEvent, ServerSentEvent
from sse_starlette.event import ensure_bytes


def test_fields_have_their_order() -> None:
    event = ServerSentEvent("d", event="e", id="i", retry=5, comment="c")

    assert event.encode() == b": c\r\nid: i\r\nevent: e\r\ndata: d\r\nretry: 5\r\n\r\n"


@pytest.mark.parametrize(
    ("event", "frame"),
    [
        (ServerSentEvent("x"), b"data: x\r\n\r\n"),
        (ServerSentEvent(data=1), b"data: 1\r\n\r\n"),
        (ServerSentEvent(data=1.5), b"data: 1.5\r\n\r\n"),
        (ServerSentEvent(data=True), b"data: True\r\n\r\n"),
        (ServerSentEvent(data=""), b"data: \r\n\r\n"),
        (ServerSentEvent("a\nb\r\nc\rd"), b"data: a\r\ndata: b\r\ndata: c\r\ndata: d\r\n\r\n"),
        (ServerSentEvent("a\n"), b"data: a\r\ndata: \r\n\r\n"),
        (ServerSentEvent("grüße ☃"), "data: grüße ☃\r\n\r\n".encode()),
        (ServerSentEvent("a\u2028b"), "data: a\u2028b\r\n\r\n".encode()),
        (ServerSentEvent(comment="a\nb"), b": a\r\n: b\r\n\r\n"),
        (ServerSentEvent(retry=0), b"retry: 0\r\n\r\n"),
        (ServerSentEvent(id=""), b"id: \r\n\r\n"),
        (ServerSentEvent(), b"\r\n"),
        (ServerSentEvent("x", sep="\n"), b"data: x\n\n"),
        (ServerSentEvent("x", id="1\n2", event="a\r\nb"), b"id: 12\r\nevent: ab\r\ndata: x\r\n\r\n"),
    ],
)  # fmt: skip
def test_an_event_is_encoded(event: ServerSentEvent, frame: bytes) -> None:
    assert event.encode() == frame


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ({"a": None, "b": [1, "ü"]}, '{"a":null,"b":[1,"ü"]}'),
        ([1, 2], "[1,2]"),
        ("text", '"text"'),
        (0, "0"),
        (False, "false"),
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


def test_a_wrong_retry_is_a_type_error() -> None:
    with pytest.raises(TypeError, match=r"^retry argument must be int"):
        ServerSentEvent("x", retry="10").encode()  # type: ignore[arg-type]


@pytest.mark.parametrize("retry", [-1, True])
def test_a_retry_that_clients_ignore_is_refused(retry: int) -> None:
    with pytest.raises((TypeError, ValueError)):
        ServerSentEvent("x", retry=retry).encode()


def test_fields_may_be_read_and_assigned() -> None:
    event = ServerSentEvent("x", id="1")

    event.data, event.event, event.comment = "y", "e", "c"

    assert (event.data, event.event, event.id, event.retry, event.comment) == (
        "y",
        "e",
        "1",
        None,
        "c",
    )
    assert event.encode() == b": c\r\nid: 1\r\nevent: e\r\ndata: y\r\n\r\n"


def test_a_subclass_may_encode_by_itself() -> None:
    class Loud(ServerSentEvent):
        def encode(self) -> bytes:
            return super().encode().upper()

    assert ensure_bytes(Loud("x"), "\r\n") == b"DATA: X\r\n\r\n"


@pytest.mark.parametrize(
    ("value", "frame"),
    [
        (b"raw\n\n", b"raw\n\n"),
        (memoryview(b"raw\n\n"), b"raw\n\n"),
        ({"data": "x", "event": "e", "id": "1", "retry": 9}, b"id: 1\nevent: e\ndata: x\nretry: 9\n\n"),
        ({"data": "x", "sep": "\r\n"}, b"data: x\n\n"),
        ({"comment": "c"}, b": c\n\n"),
        (ServerSentEvent("x", sep="\r"), b"data: x\r\r"),
        ("x", b"data: x\n\n"),
        (3, b"data: 3\n\n"),
        (2.5, b"data: 2.5\n\n"),
        (UUID(int=1), b"data: 00000000-0000-0000-0000-000000000001\n\n"),
        (None, b"data: None\n\n"),
    ],
)  # fmt: skip
def test_what_is_yielded_becomes_bytes(value: Any, frame: bytes) -> None:
    assert ensure_bytes(value, "\n") == frame


def test_a_dict_with_an_unknown_key_is_a_type_error() -> None:
    with pytest.raises(TypeError):
        ensure_bytes({"message": "x"}, "\n")


def test_a_dict_that_was_yielded_is_not_changed() -> None:
    event = {"data": "x"}

    ensure_bytes(event, "\n")

    assert event == {"data": "x"}


class Money:
    def __str__(self) -> str:
        return "5 EUR"


class Price:
    def __repr__(self) -> str:
        return "5 EUR"


@pytest.mark.parametrize("value", [Money(), Price(), ValueError("5 EUR")])
def test_an_object_is_sent_as_its_text(value: Any) -> None:
    assert ensure_bytes(value, "\n") == b"data: 5 EUR\n\n"
    assert ServerSentEvent(value).encode() == b"data: 5 EUR\r\n\r\n"


@dataclass
class Point:
    x: int


class Model(BaseModel):
    x: int


@pytest.mark.parametrize("value", [{"x": 1}, Point(1), Model(x=1)])
def test_a_record_given_as_data_is_json(value: Any) -> None:
    assert ensure_bytes({"data": value}, "\n") == b'data: {"x":1}\n\n'
    assert ServerSentEvent(value).encode() == b'data: {"x":1}\r\n\r\n'


@pytest.mark.parametrize("value", [["a", None], ("a", None)])
def test_a_list_given_as_data_is_json(value: Any) -> None:
    assert ensure_bytes(value, "\n") == b'data: ["a",null]\n\n'


def test_a_json_event_takes_records() -> None:
    assert (
        JSONServerSentEvent([Point(1), Model(x=2)]).encode() == b'data: [{"x":1},{"x":2}]\r\n\r\n'
    )


class Colour(enum.Enum):
    RED = "red"


def test_an_enum_given_as_data_is_its_value() -> None:
    assert ServerSentEvent(Colour.RED).encode() == b"data: red\r\n\r\n"


@pytest.mark.parametrize(
    ("value", "text"),
    [(datetime(2026, 1, 2, 3, 4), "2026-01-02T03:04:00"), (timedelta(minutes=90), "PT1H30M")],  # noqa: DTZ001
)
def test_dates_and_durations_are_iso_8601(value: Any, text: str) -> None:
    assert ServerSentEvent(value).encode() == f"data: {text}\r\n\r\n".encode()


@pytest.mark.parametrize("value", [b"text", bytearray(b"text")])
def test_bytes_given_as_data_are_text(value: Any) -> None:
    assert ServerSentEvent(value).encode() == b"data: text\r\n\r\n"


def test_a_bytearray_is_sent_as_it_is() -> None:
    assert ensure_bytes(bytearray(b"data: x\n\n"), "\n") == b"data: x\n\n"


@pytest.mark.parametrize("value", [object(), Point])
def test_an_object_without_a_text_of_its_own_is_refused(value: Any) -> None:
    with pytest.raises(TypeError, match="not JSON serializable"):
        ensure_bytes(value, "\n")


@pytest.mark.parametrize("value", [7, UUID(int=7), Colour.RED])
def test_ids_and_event_names_may_be_more_than_text(value: Any) -> None:
    text = getattr(value, "value", value)

    assert ServerSentEvent(id=value).encode() == f"id: {text}\r\n\r\n".encode()
    assert ServerSentEvent(event=value).encode() == f"event: {text}\r\n\r\n".encode()


def test_nul_in_an_id_is_deleted() -> None:
    assert ServerSentEvent(id="a\0b").encode() == b"id: ab\r\n\r\n"


def test_half_a_pair_of_surrogates_does_not_end_a_stream() -> None:
    assert ServerSentEvent("a\ud800").encode() == "data: a\ufffd\r\n\r\n".encode()


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


@pytest.mark.anyio
async def test_a_whole_stream_has_one_line_end() -> None:
    response = EventSourceResponse(["x", ServerSentEvent("y"), {"data": "z"}], sep="\n")

    assert await body_of(response) == b"data: x\n\ndata: y\n\ndata: z\n\n"
