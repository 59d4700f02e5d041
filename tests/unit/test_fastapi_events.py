"""FastAPI's event: JSON or raw, named by its class, and an event wherever events may be."""

from __future__ import annotations

import pickle
from typing import Any

import fastapi.sse
import pytest
from pydantic import BaseModel

import sse_starlette
from sse_starlette import Hub, JSONServerSentEvent
from sse_starlette.event import encode
from sse_starlette.fastapi import ServerSentEvent


class Item(BaseModel):
    n: int


class Tick(ServerSentEvent[Item], event="tick"):
    pass


@pytest.mark.parametrize(
    "fields",
    [
        {"data": "text"},
        {"data": 1},
        {"data": {"a": [True, None]}},
        {"data": Item(n=1)},
        {"data": [Item(n=1)]},
        {"raw_data": "text"},
        {"raw_data": "two\nlines"},
        {"data": 1, "event": "e", "id": "7", "retry": 5, "comment": "c"},
        {"comment": "c"},
        {},
    ],
)
def test_it_is_sent_as_that_of_fastapi(fields: dict[str, Any]) -> None:
    theirs = encode(fastapi.sse.ServerSentEvent(**fields), "\r\n")

    assert ServerSentEvent(**fields).encode() == theirs == encode(ServerSentEvent(**fields), "\n")


@pytest.mark.parametrize(
    ("fields", "error", "said"),
    [
        ({"data": 1, "raw_data": "a"}, ValueError, "both data and raw_data"),
        ({"raw_data": b"a"}, TypeError, "raw_data is bytes"),
        ({"event": "a\nb"}, ValueError, "LF"),
        ({"id": "a\0b"}, ValueError, "NUL"),
        ({"retry": -1}, ValueError, "retry"),
        ({"id": True}, TypeError, "id is True"),
    ],
)
def test_a_wrong_field_is_refused_where_it_is_given(
    fields: dict[str, Any], error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said):
        ServerSentEvent(**fields)


def test_a_class_names_its_events() -> None:
    assert Tick(Item(n=1), id=3).encode() == b'id: 3\r\nevent: tick\r\ndata: {"n":1}\r\n\r\n'
    assert Tick(Item(n=1), event="tick").event == "tick"
    with pytest.raises(ValueError, match="Tick is named 'tick'"):
        Tick(Item(n=1), event="other")


@pytest.mark.parametrize("name", ["", 5, "a\rb"])
def test_a_wrong_name_is_refused_where_the_class_is_made(name: Any) -> None:
    with pytest.raises((TypeError, ValueError), match="event"):

        class Wrong(ServerSentEvent[Item], event=name):
            pass


@pytest.mark.parametrize(
    ("first", "second", "equal"),
    [
        (ServerSentEvent(1), ServerSentEvent(1), True),
        (Tick(Item(n=1)), ServerSentEvent(Item(n=1), event="tick"), True),
        (ServerSentEvent(raw_data="a"), ServerSentEvent(raw_data="a"), True),
        (ServerSentEvent(raw_data="a"), ServerSentEvent(raw_data="b"), False),
        (ServerSentEvent(1), ServerSentEvent(2), False),
        (ServerSentEvent("a"), sse_starlette.ServerSentEvent("a"), False),
        (sse_starlette.ServerSentEvent("a"), ServerSentEvent("a"), False),
        (JSONServerSentEvent("a"), ServerSentEvent("a"), False),
        (ServerSentEvent(1), 1, False),
    ],
)
def test_events_are_equal_if_they_are_sent_alike(
    first: ServerSentEvent, second: object, equal: bool
) -> None:
    assert (first == second) is equal
    if equal:
        assert hash(first) == hash(second)


@pytest.mark.parametrize(
    ("event", "value"),
    [
        (ServerSentEvent("text"), "text"),
        (ServerSentEvent(Item(n=1)), {"n": 1}),
        (ServerSentEvent(raw_data="[1]"), [1]),
    ],
)
def test_json_is_what_a_client_parses(event: ServerSentEvent, value: object) -> None:
    assert event.json() == value


def test_an_event_without_data_has_no_json() -> None:
    with pytest.raises(ValueError, match="has no data"):
        ServerSentEvent(comment="c").json()


def test_it_shows_itself_and_is_pickled_whole() -> None:
    event = ServerSentEvent(raw_data="a", id="1")

    assert repr(event) == "ServerSentEvent(raw_data='a', id='1')"
    assert pickle.loads(pickle.dumps(event)) == event


def test_it_is_an_event_for_channels_too() -> None:
    channel = Hub().channel("c")

    channel.publish_nowait(ServerSentEvent("text"))
    channel.publish_nowait(Tick(Item(n=1)))
    channel.publish_nowait(ServerSentEvent(raw_data="raw"))
    with pytest.raises(ValueError, match="numbers its events itself"):
        channel.publish_nowait(ServerSentEvent("text", id="1"))

    assert channel.head == 3


def test_a_channel_with_a_type_takes_it() -> None:
    channel = Hub().channel("c", type=Item)

    channel.publish_nowait(Tick(Item(n=1)))
    with pytest.raises(ValueError, match="Item"):
        channel.publish_nowait(ServerSentEvent("text"))  # type: ignore[arg-type]

    assert channel.head == 1
