"""Events as bytes: what is sent for which value, and what is refused."""

from __future__ import annotations

import ast
import asyncio
import dataclasses
import pickle
import sys
from collections import OrderedDict
from collections.abc import Callable
from datetime import date
from decimal import Decimal
from enum import Enum, IntEnum, StrEnum
from pathlib import Path
from types import ModuleType
from typing import Any
from uuid import UUID

import fastapi.sse
import httpx2
import pydantic
import pytest

from sse_starlette import _arguments as arguments_module
from sse_starlette import event as event_module
from sse_starlette._wire import frame as frame_module
from sse_starlette._wire import kinds as kinds_module
from sse_starlette._wire import values as json_module
from sse_starlette.event import (
    SEPARATORS,
    JSONServerSentEvent,
    ServerSentEvent,
    check_field,
    check_separator,
    encode,
    encoder,
    ensure_bytes,
    own_event,
    parse_frame,
    split_frames,
)

SOME_UUID = UUID("12345678-1234-5678-1234-567812345678")
each_separator = pytest.mark.parametrize("sep", SEPARATORS, ids=["crlf", "cr", "lf"])


class Color(Enum):
    RED = "red"
    ONE = 1


class Flag(Enum):
    YES = True


class Level(IntEnum):
    HIGH = 3


class Kind(StrEnum):
    TICK = "tick"


class OldKind(str, Enum):  # noqa: UP042 -- its str() is "OldKind.TICK", not its value
    TICK = "tick"


class Told:
    def __str__(self) -> str:
        return "told"


class Shout(str):
    __slots__ = ()

    def __str__(self) -> str:
        return self.upper()


@dataclasses.dataclass
class Point:
    x: int


class Model(pydantic.BaseModel):
    at: date
    name: str = "é"


# Fields on the wire

ALL_FIELDS = {"retry": 5, "data": "a", "event": "e", "id": "1", "comment": "c"}
NO_BREAKS = "\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029"

FRAMES: list[tuple[dict[str, Any], bytes]] = [
    # Which fields there are, and their order
    ({}, b"\r\n"),
    ({"data": "a"}, b"data: a\r\n\r\n"),
    ({"data": ""}, b"data: \r\n\r\n"),
    ({"event": "e"}, b"event: e\r\n\r\n"),
    ({"id": "1"}, b"id: 1\r\n\r\n"),
    ({"retry": 5}, b"retry: 5\r\n\r\n"),
    ({"retry": 0}, b"retry: 0\r\n\r\n"),
    ({"retry": Level.HIGH}, b"retry: 3\r\n\r\n"),
    ({"comment": "c"}, b": c\r\n\r\n"),
    ({"data": "a", "id": "1"}, b"id: 1\r\ndata: a\r\n\r\n"),
    ({"data": "a", "id": 1}, b"id: 1\r\ndata: a\r\n\r\n"),
    ({"data": "a", "event": "e"}, b"event: e\r\ndata: a\r\n\r\n"),
    ({"data": "a", "retry": 1}, b"data: a\r\nretry: 1\r\n\r\n"),
    ({"data": "a", "comment": "c"}, b": c\r\ndata: a\r\n\r\n"),
    ({"event": "e", "id": "1", "data": "a"}, b"id: 1\r\nevent: e\r\ndata: a\r\n\r\n"),
    ({"event": "e", "id": "1", "retry": 1}, b"id: 1\r\nevent: e\r\nretry: 1\r\n\r\n"),
    ({"data": "a", "id": "1", "retry": 1}, b"id: 1\r\ndata: a\r\nretry: 1\r\n\r\n"),
    (ALL_FIELDS, b": c\r\nid: 1\r\nevent: e\r\ndata: a\r\nretry: 5\r\n\r\n"),
    # Empty is sent, None isn't
    ({"data": "a", "event": "", "id": ""}, b"id: \r\nevent: \r\ndata: a\r\n\r\n"),
    ({"comment": ""}, b": \r\n\r\n"),
    ({"data": "a", "event": None, "id": None}, b"data: a\r\n\r\n"),
    ({"data": None, "event": "e"}, b"event: e\r\n\r\n"),
    # Each kind of line break begins a new line of the same field, and no other character does
    ({"data": "a\nb\rc\r\nd"}, b"data: a\r\ndata: b\r\ndata: c\r\ndata: d\r\n\r\n"),
    ({"data": "a\n"}, b"data: a\r\ndata: \r\n\r\n"),
    ({"data": "\n"}, b"data: \r\ndata: \r\n\r\n"),
    ({"data": "\n\r"}, b"data: \r\ndata: \r\ndata: \r\n\r\n"),
    ({"data": "a\rb", "event": "e", "id": "1"}, b"id: 1\r\nevent: e\r\ndata: a\r\ndata: b\r\n\r\n"),
    ({"comment": "a\nb\rc\r\nd"}, b": a\r\n: b\r\n: c\r\n: d\r\n\r\n"),
    ({"comment": "a\n"}, b": a\r\n: \r\n\r\n"),
    ({"data": NO_BREAKS}, f"data: {NO_BREAKS}\r\n\r\n".encode()),
    # What has no meaning in data is passed
    ({"data": " a: b "}, b"data:  a: b \r\n\r\n"),
    ({"data": "a\0b"}, b"data: a\0b\r\n\r\n"),
    ({"data": "\ufeffa"}, b"data: \xef\xbb\xbfa\r\n\r\n"),
    # Line breaks and NUL are deleted from id and event
    ({"data": "a", "id": "1\r\ndata: b"}, b"id: 1data: b\r\ndata: a\r\n\r\n"),
    ({"data": "a", "event": "e\n\nid: 2"}, b"event: eid: 2\r\ndata: a\r\n\r\n"),
    ({"data": "a", "id": "1", "event": "e\rid: 2"}, b"id: 1\r\nevent: eid: 2\r\ndata: a\r\n\r\n"),
    ({"data": "a", "id": "1\0", "event": "\0e\r"}, b"id: 1\r\nevent: e\r\ndata: a\r\n\r\n"),
    ({"id": "1\u2028", "event": " e\t"}, "id: 1\u2028\r\nevent:  e\t\r\n\r\n".encode()),
    # What is made text for id and event
    ({"event": 7, "id": 0}, b"id: 0\r\nevent: 7\r\n\r\n"),
    ({"id": SOME_UUID}, b"id: 12345678-1234-5678-1234-567812345678\r\n\r\n"),
    ({"event": Color.RED, "id": Color.ONE}, b"id: 1\r\nevent: red\r\n\r\n"),
    ({"event": Kind.TICK, "id": Level.HIGH}, b"id: 3\r\nevent: tick\r\n\r\n"),
    ({"event": OldKind.TICK, "id": Told()}, b"id: told\r\nevent: tick\r\n\r\n"),
    ({"event": Shout("e"), "id": 1.5}, b"id: 1.5\r\nevent: E\r\n\r\n"),
    # Surrogates: two halves are one character, one half alone is replaced
    ({"data": "\ud83d\ude00"}, b"data: \xf0\x9f\x98\x80\r\n\r\n"),
    ({"data": "a\ud83d"}, b"data: a\xef\xbf\xbd\r\n\r\n"),
    ({"data": "\ude00\ud83d"}, b"data: \xef\xbf\xbd\xef\xbf\xbd\r\n\r\n"),
    ({"data": "a", "event": "\udc80"}, b"event: \xef\xbf\xbd\r\ndata: a\r\n\r\n"),
    ({"id": "\ud83d\n\ude00"}, b"id: \xf0\x9f\x98\x80\r\n\r\n"),
    ({"comment": "\ud800"}, b": \xef\xbf\xbd\r\n\r\n"),
    # Data that is not text
    ({"data": 0}, b"data: 0\r\n\r\n"),
    ({"data": False}, b"data: False\r\n\r\n"),
    ({"data": 1.5}, b"data: 1.5\r\n\r\n"),
    ({"data": Told()}, b"data: told\r\n\r\n"),
    ({"data": Shout("a")}, b"data: A\r\n\r\n"),
    ({"data": Color.ONE}, b"data: 1\r\n\r\n"),
    ({"data": OldKind.TICK}, b"data: tick\r\n\r\n"),
    ({"data": b"\xc3\xa9\na\xff"}, b"data: \xc3\xa9\r\ndata: a\xef\xbf\xbd\r\n\r\n"),
    ({"data": memoryview(b"a")}, b"data: a\r\n\r\n"),
    ({"comment": b"a"}, b": a\r\n\r\n"),
    ({"comment": 5}, b": 5\r\n\r\n"),
]


@each_separator
@pytest.mark.parametrize(("fields", "frame"), FRAMES)
def test_fields_become_this_frame(fields: dict[str, Any], frame: bytes, sep: str) -> None:
    expected = frame.replace(b"\r\n", sep.encode())

    assert encode(fields, sep) == expected
    assert encode(OrderedDict(fields), sep) == expected
    assert encode(fields | {"sep": "\n"}, sep) == expected
    assert encode(fields | {"sep": None}, sep) == expected
    assert encode(ServerSentEvent(**fields), sep) == expected
    assert ServerSentEvent(**fields, sep=sep).encode() == expected


def test_json_event_has_all_the_fields_and_its_data_as_text() -> None:
    event = JSONServerSentEvent("a\nb", event="e", id=1, retry=2, comment="c", sep="\n")

    assert event.encode() == b': c\nid: 1\nevent: e\ndata: "a\\nb"\nretry: 2\n\n'
    assert event.data == '"a\\nb"'


def test_json_event_without_a_value_has_no_data() -> None:
    assert JSONServerSentEvent().encode() == b"\r\n"
    assert JSONServerSentEvent(None, id="1").encode() == b"id: 1\r\n\r\n"


def test_json_event_keeps_the_value_it_was_made_of() -> None:
    value = {"a": 1}
    event = JSONServerSentEvent(value)

    value["a"] = 2

    assert event.encode() == b'data: {"a":1}\r\n\r\n'


# What can be yielded


@pytest.mark.parametrize(
    ("value", "frame"),
    [
        (b": raw\n\n", b": raw\n\n"),
        (b"", b""),
        (bytearray(b"raw"), b"raw"),
        (memoryview(b"raw"), b"raw"),
        (memoryview(b"r_a_w")[::2], b"raw"),
        ("a", b"data: a\n\n"),
        ("", b"data: \n\n"),
        ("a\nb\r\n", b"data: a\ndata: b\ndata: \n\n"),
        ("a\rid: 1", b"data: a\ndata: id: 1\n\n"),
        ("é", b"data: \xc3\xa9\n\n"),
        ("\ud83d", b"data: \xef\xbf\xbd\n\n"),
        (None, b"data: None\n\n"),
        (5, b"data: 5\n\n"),
        (True, b"data: True\n\n"),
        ([1, None], b"data: [1,null]\n\n"),
        (ServerSentEvent("a\nb"), b"data: a\ndata: b\n\n"),
        (ServerSentEvent("\ud83d"), b"data: \xef\xbf\xbd\n\n"),
        (ServerSentEvent("a", id="1"), b"id: 1\ndata: a\n\n"),
        (ServerSentEvent("a", id="1", sep="\r"), b"id: 1\rdata: a\r\r"),
        ({}, b"\n"),
        ({"data": "a", "sep": "\r"}, b"data: a\n\n"),
    ],
)
def test_a_yielded_value_becomes_this_frame(value: object, frame: bytes) -> None:
    assert encode(value, "\n") == frame
    assert encoder("\n")(value) == frame
    assert ensure_bytes(value, "\n") == frame
    assert type(encode(value, "\n")) is bytes


def test_a_subclass_of_bytes_is_sent_as_it_is() -> None:
    class Raw(bytes):
        __slots__ = ()

    assert encode(Raw(b"raw"), "\n") == b"raw"


def test_an_event_that_encodes_itself_is_asked() -> None:
    class Own(ServerSentEvent):
        def encode(self) -> bytes:
            return b": own\n\n"

    assert encode(Own("a"), "\r\n") == b": own\n\n"


def test_an_event_of_a_subclass_takes_the_separator_of_the_response() -> None:
    class Tick(ServerSentEvent):
        def __init__(self, symbol: str) -> None:
            super().__init__(symbol, event="tick")
            self.symbol = symbol

    assert encode(Tick("ACME"), "\n") == b"event: tick\ndata: ACME\n\n"


# Events of other packages


@pytest.mark.parametrize(
    ("fields", "frame"),
    [
        ({"data": "text"}, 'data: "text"\n\n'),
        ({"data": {"a": None}, "event": "e"}, 'event: e\ndata: {"a":null}\n\n'),
        ({"id": "1", "retry": 5}, "id: 1\nretry: 5\n\n"),
        ({"data": Model(at=date(2024, 5, 6))}, 'data: {"at":"2024-05-06","name":"é"}\n\n'),
        ({"raw_data": "two\nlines"}, "data: two\ndata: lines\n\n"),
        ({"raw_data": "", "id": ""}, "id: \ndata: \n\n"),
        ({"comment": "c"}, ": c\n\n"),
        ({}, "\n"),
    ],
)
def test_an_event_of_fastapi_is_an_event(fields: dict[str, Any], frame: str) -> None:
    class Mine(fastapi.sse.ServerSentEvent):
        pass

    for kind in (fastapi.sse.ServerSentEvent, Mine):
        assert encode(kind(**fields), "\n") == frame.encode()


def test_the_data_of_an_event_of_fastapi_is_made_by_the_serializer() -> None:
    make = encoder("\n", lambda value: f"<{value}>")

    assert make(fastapi.sse.ServerSentEvent(data="a")) == b"data: <a>\n\n"
    assert make(fastapi.sse.ServerSentEvent(raw_data="a")) == b"data: a\n\n"


def test_an_event_that_a_client_has_received_can_be_relayed() -> None:
    of_client = httpx2.ServerSentEvent
    full = of_client(event="e", data="a\nb", id="1", retry=5)

    assert encode(of_client(data="a"), "\n") == b"event: message\ndata: a\n\n"
    assert encode(full, "\n") == b"id: 1\nevent: e\ndata: a\ndata: b\nretry: 5\n\n"


def test_an_event_of_ours_is_itself() -> None:
    event = ServerSentEvent("a")

    assert own_event(event) is event
    assert own_event("a") is None


def test_something_else_of_that_name_is_data() -> None:
    @dataclasses.dataclass
    class ServerSentEvent:
        name: str

    assert encode(ServerSentEvent("a"), "\n") == b'data: {"name":"a"}\n\n'


@pytest.mark.parametrize("key", ["dta", "Data", 1, ("data",)])
def test_an_unknown_key_is_refused_with_advice(key: object) -> None:
    for fields in ({"data": "a", key: "b"}, {key: "b"}):
        with pytest.raises(TypeError) as caught:
            encode(fields, "\n")

        message = str(caught.value)
        assert f"unknown key in a dict that was to be sent as an event: {key!r}." in message
        assert "The keys of an event are data, event, id, retry, comment, sep." in message
        assert "{'data': your_dict} or JSONServerSentEvent(your_dict)" in message


@pytest.mark.parametrize("fields", [fields for fields, _ in FRAMES])
def test_nothing_a_caller_passes_in_is_written_to(fields: dict[str, Any]) -> None:
    given = dict(fields)
    event = ServerSentEvent(**fields)
    before = dict(vars(event))

    for sep in SEPARATORS:
        encode(given, sep)
        encode(event, sep)

    assert given == fields
    assert list(given) == list(fields)
    assert vars(event) == before


# What is refused


def encoded_after_assignment(**fields: Any) -> object:
    event = ServerSentEvent("a")
    vars(event).update(fields)
    return event.encode()


def encoded_from_a_dict(**fields: Any) -> object:
    return encode({"data": "a", **fields}, "\n")


in_every_way = pytest.mark.parametrize(
    "act", [ServerSentEvent, JSONServerSentEvent, encoded_after_assignment, encoded_from_a_dict]
)
GIVE_TEXT = "give the text that the client is to see, or None."


@in_every_way
@pytest.mark.parametrize(
    ("field", "value", "error"),
    [
        ("retry", -1, "ValueError: retry argument must be >= 0 (milliseconds), got: -1"),
        ("id", b"1", "TypeError: id is bytes, not text: decode it first, id=value.decode()."),
        (
            "event",
            bytearray(b"1"),
            "TypeError: event is bytearray, not text: decode it first, event=value.decode().",
        ),
        ("id", False, f"TypeError: id is False: {GIVE_TEXT}"),
        ("event", Flag.YES, f"TypeError: event is True: {GIVE_TEXT}"),
        ("event", ["a"], f"TypeError: event is list, which is no text: {GIVE_TEXT}"),
        ("sep", "x", "ValueError: sep must be one of: \\r\\n, \\r, \\n, got: 'x'"),
    ],
)
def test_a_wrong_field_is_refused(
    act: Callable[..., object], field: str, value: object, error: str
) -> None:
    with pytest.raises((TypeError, ValueError)) as caught:
        act(**{field: value})

    assert f"{caught.type.__name__}: {caught.value}" == error


@pytest.mark.parametrize("field", ["id", "event"])
@pytest.mark.parametrize("value", [(1,), {"a": 1}, {1}, object(), len, Point(1), asyncio.Event()])
def test_a_field_that_is_no_text_is_refused_by_its_type(field: str, value: Any) -> None:
    for act in (ServerSentEvent, encoded_from_a_dict):
        with pytest.raises(TypeError, match=f"{field} is {type(value).__name__}, which is no text"):
            act(**{field: value})


@pytest.mark.parametrize("value", [1.5, Decimal("1.0"), Path("/a"), Told(), date(2024, 1, 2)])
def test_a_field_may_be_whatever_has_a_text(value: object) -> None:
    frame = f"id: {value}\nevent: {value}\n\n".encode()

    assert encode({"id": value, "event": value}, "\n") == frame


@in_every_way
@pytest.mark.parametrize("value", ["5", 1.5, True, "1\nid: x"])
def test_a_retry_that_is_no_int_is_named_with_what_to_do(
    act: Callable[..., object], value: object
) -> None:
    with pytest.raises(TypeError) as caught:
        act(retry=value)

    assert str(caught.value) == "retry argument must be int", "programs compare it"
    [note] = caught.value.__notes__
    assert note.startswith(f"It is {value!r}, {type(value).__name__}. Give the milliseconds")
    assert "retry=5000" in note


@pytest.mark.parametrize("sep", ["", "x", "\n\n", "\t\n", "\\n", "\u2028", 5, b"\n"])
def test_no_other_separator_is_taken(sep: Any) -> None:
    message = f"sep must be one of: \\r\\n, \\r, \\n, got: {sep!r}"

    for act in (
        lambda: check_separator(sep),
        lambda: encoder(sep),
        lambda: encode("a", sep),
        lambda: ensure_bytes("a", sep),
        lambda: ServerSentEvent("a", sep=sep),
    ):
        with pytest.raises(ValueError) as caught:
            act()
        assert str(caught.value) == message


@each_separator
def test_a_separator_of_the_standard_is_taken(sep: str) -> None:
    check_separator(sep)


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("ab\rc", "CR (U+000D) at position 2 of 'ab\\rc'"),
        ("\nab\r", "LF (U+000A) at position 0 of '\\nab\\r'"),
        ("a\0", "NUL (U+0000) at position 1 of 'a\\x00'"),
    ],
)
def test_check_field_names_what_the_field_cannot_hold(text: str, what: str) -> None:
    with pytest.raises(ValueError) as caught:
        check_field("event", text)

    assert str(caught.value).startswith(f"event holds {what}: ")


@pytest.mark.parametrize("text", ["", "tick", " é\u2028\t"])
def test_check_field_takes_what_arrives_unchanged(text: str) -> None:
    check_field("id", text)


# Events as objects


def test_the_attributes_are_those_of_the_constructor() -> None:
    fields: dict[str, Any] = {**ALL_FIELDS, "sep": "\n"}

    assert vars(ServerSentEvent(**fields)) == fields


def test_an_event_encodes_what_was_assigned_last() -> None:
    event = ServerSentEvent("a")

    event.data = "b"
    event.sep = "\n"

    assert event.encode() == b"data: b\n\n"


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (ServerSentEvent("a"), ServerSentEvent("a")),
        (ServerSentEvent({"a": [1]}, id="1"), ServerSentEvent({"a": [1]}, id="1")),
        (ServerSentEvent("1"), JSONServerSentEvent(1)),
    ],
)
def test_events_are_equal_if_all_their_fields_are(
    first: ServerSentEvent, second: ServerSentEvent
) -> None:
    assert first == second
    assert hash(first) == hash(second)


OTHER: dict[str, Any] = {
    "data": "b",
    "event": "e",
    "id": "1",
    "retry": 1,
    "comment": "c",
    "sep": "\n",
}


@pytest.mark.parametrize("field", OTHER)
def test_events_differ_if_one_field_does(field: str) -> None:
    fields: dict[str, Any] = {"data": "a", field: OTHER[field]}

    assert ServerSentEvent("a") != ServerSentEvent(**fields)
    assert ServerSentEvent("a") != "a"


@pytest.mark.parametrize(
    ("event", "value"),
    [
        (ServerSentEvent('{"a": 1}'), {"a": 1}),
        (ServerSentEvent({"a": 1}), {"a": 1}),
        (ServerSentEvent(1.5), 1.5),
        (JSONServerSentEvent("text"), "text"),
    ],
)
def test_json_is_what_a_client_parses(event: ServerSentEvent, value: object) -> None:
    assert event.json() == value


@pytest.mark.parametrize("event", [ServerSentEvent("text"), ServerSentEvent(id="1")])
def test_json_refuses_what_is_none(event: ServerSentEvent) -> None:
    with pytest.raises(ValueError, match=r"data|Expecting value"):
        event.json()


def test_event_with_a_type_argument_is_the_same_event() -> None:
    """The argument is for type checkers; nothing of it is pickled, sent or compared."""
    kind = ServerSentEvent[int]
    event = kind(1, id="1")

    assert pickle.loads(pickle.dumps(event)) == event == ServerSentEvent(1, id="1")
    assert event.encode() == b"id: 1\r\ndata: 1\r\n\r\n"


@pytest.mark.parametrize(
    ("event", "text"),
    [
        (ServerSentEvent(), "ServerSentEvent()"),
        (ServerSentEvent("a", retry=0), "ServerSentEvent(data='a', retry=0)"),
        (
            JSONServerSentEvent({"a": 1}, event="e", id="1", comment="c", sep="\n"),
            "JSONServerSentEvent(data='{\"a\":1}', event='e', id='1', comment='c', sep='\\n')",
        ),
    ],
)
def test_repr_shows_the_fields_that_are_there(event: ServerSentEvent, text: str) -> None:
    assert repr(event) == text


@pytest.mark.parametrize(
    "module",
    [arguments_module, event_module, frame_module, json_module, kinds_module],
    ids=["_arguments", "event", "frame", "values", "kinds"],
)
def test_only_the_standard_library_is_imported(module: ModuleType) -> None:
    imported: set[str] = set()
    for node in ast.walk(ast.parse(Path(str(module.__file__)).read_text("utf-8"))):
        if isinstance(node, ast.Import):
            imported |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add((node.module or ".").split(".")[0])

    # typing_extensions: for the type checker, which brings it itself.
    ours = {"_arguments", "_wire", "boundary", "doubts", "kinds", "values", "typing_extensions"}
    assert imported - ours <= sys.stdlib_module_names


# Frames back into events


@each_separator
@pytest.mark.parametrize("frame", [frame for _, frame in FRAMES])
def test_a_frame_that_was_read_becomes_the_same_frame(frame: bytes, sep: str) -> None:
    assert parse_frame(frame.replace(b"\r\n", sep.encode())).encode() == frame


@pytest.mark.parametrize(
    ("frame", "fields"),
    [
        (b"\n", {}),
        (b"data: a\n\n", {"data": "a"}),
        (b"data:a\n\n", {"data": "a"}),
        (b"data:  a\n\n", {"data": " a"}),
        (b"data\n\n", {"data": ""}),
        (b"data:\n\n", {"data": ""}),
        (b"data: a\ndata\ndata: b\n\n", {"data": "a\n\nb"}),
        (b"data: a\r\ndata: b\rdata: c\n\r\n", {"data": "a\nb\nc"}),
        (b"data: a: b\n\n", {"data": "a: b"}),
        (b"event: e\nevent: f\n\n", {"event": "f"}),
        (b"id: 1\nid\n\n", {"id": ""}),
        (b"retry: 5\n\n", {"retry": 5}),
        (b"retry: 007\n\n", {"retry": 7}),
        (b"retry: -5\n\n", {}),
        (b"retry: 5s\n\n", {}),
        (b"retry\n\n", {}),
        (b"retry: " + b"9" * 5_000 + b"\n\n", {}),
        ("retry: \u0665\n\n".encode(), {}),
        (b": a\n:b\n:\n\n", {"comment": "a\nb\n"}),
        (b"Data: a\nother: b\nlone\n\n", {}),
        (b"data: \xc3\xa9\xff\n\n", {"data": "\xe9\ufffd"}),
        ("data: \u2028\x85\x0b\n\n".encode(), {"data": "\u2028\x85\x0b"}),
    ],
)
def test_a_frame_is_read_as_clients_read_it(frame: bytes, fields: dict[str, Any]) -> None:
    event = parse_frame(frame)

    found = {name: getattr(event, name) for name in ("data", "event", "id", "retry", "comment")}
    assert {name: value for name, value in found.items() if value is not None} == fields
    assert event.sep is None


@pytest.mark.parametrize(
    "frame",
    [b"", b"data: a", b"data: a\n", b"data: a\r\n", b"data: a\n\ndata: b\n\n", b"a\r\rb\n\n"],
)
def test_what_is_not_one_event_is_no_frame(frame: bytes) -> None:
    with pytest.raises(ValueError, match="is not one event: an event ends with an empty line"):
        parse_frame(frame)


def test_an_error_shows_no_more_than_the_beginning_of_a_large_frame() -> None:
    with pytest.raises(ValueError, match="is not one event") as raised:
        parse_frame(b"x" * 100_000)

    assert len(str(raised.value)) < 200


def test_a_run_of_frames_is_split_where_it_was_joined() -> None:
    frames = [frame for fields, frame in FRAMES if fields]

    assert split_frames(b"".join(frames)) == frames
    assert split_frames(frames[0]) == frames[:1]
    assert split_frames(b"") == []


def test_however_many_names_there_are_each_event_has_its_own() -> None:
    names = [f"name-{number}" for number in range(300)]

    for name in [*names, *names[:3], "a\nb", "a\nb", *names[:3]]:
        fields, sent = {"event": name, "data": "x"}, name.replace("\n", "")
        frame = f"event: {sent}\ndata: x\n\n".encode()
        assert encode(fields, "\n") == frame
        assert encode({"id": 7, **fields}, "\n") == b"id: 7\n" + frame
