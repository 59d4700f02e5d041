"""FastAPI's tutorial on server-sent events: the same code with either import gives the same events."""

# No `from __future__ import annotations`: FastAPI reads annotations that name local values.

import json
from collections.abc import AsyncIterable, Iterable
from types import SimpleNamespace
from typing import Annotated, Any

import fastapi
import fastapi.sse
import pytest
from fastapi import Header
from pydantic import BaseModel
from tests.unit.fastapi_apps import ask

import sse_starlette.fastapi
from sse_starlette.testing import Comment, Event, EventStreamParser

pytestmark = pytest.mark.anyio


class Book(BaseModel):
    title: str
    pages: int | None


class Question(BaseModel):
    text: str


BOOKS = [
    Book(title="Ulysses", pages=732),
    Book(title="Molloy", pages=None),
    Book(title="Malina", pages=284),
]

THEIRS = SimpleNamespace(
    FastAPI=fastapi.FastAPI,
    EventSourceResponse=fastapi.sse.EventSourceResponse,
    ServerSentEvent=fastapi.sse.ServerSentEvent,
)
OURS = sse_starlette.fastapi


def tutorial(library: Any) -> fastapi.FastAPI:
    """What the page shows, section by section, written for either library."""
    app: fastapi.FastAPI = library.FastAPI()
    event: Any = library.ServerSentEvent
    streamed = library.EventSourceResponse

    @app.get("/items", response_class=streamed)
    async def items() -> AsyncIterable[Book]:
        for book in BOOKS:
            yield book

    @app.get("/items-no-async", response_class=streamed)
    def items_no_async() -> Iterable[Book]:
        yield from BOOKS

    @app.get("/items-no-annotation", response_class=streamed)
    async def items_no_annotation():  # type: ignore[no-untyped-def]  # noqa: ANN202
        for book in BOOKS:
            yield book

    @app.get("/items-no-async-no-annotation", response_class=streamed)
    def items_no_async_no_annotation():  # type: ignore[no-untyped-def]  # noqa: ANN202
        yield from BOOKS

    @app.get("/events", response_class=streamed)
    async def events() -> AsyncIterable[event]:
        yield event(comment="the books follow")
        for number, book in enumerate(BOOKS, start=1):
            yield event(data=book, event="book", id=str(number), retry=4000)

    @app.get("/raw", response_class=streamed)
    async def raw() -> AsyncIterable[event]:
        yield event(raw_data="12:00 INFO  started")
        yield event(raw_data="12:01 ERROR <b>failed</b>\nsecond line", event="log")

    @app.get("/resume", response_class=streamed)
    async def resume(last_event_id: Annotated[int | None, Header()] = None) -> AsyncIterable[event]:
        for number, book in enumerate(BOOKS):
            if last_event_id is None or number > last_event_id:
                yield event(data=book, id=str(number))

    @app.post("/chat", response_class=streamed)
    async def chat(question: Question) -> AsyncIterable[event]:
        for word in question.text.split():
            yield event(data=word, event="token")
        yield event(raw_data="[DONE]", event="done")

    @app.get("/plain", response_class=streamed)
    async def plain():  # type: ignore[no-untyped-def]  # noqa: ANN202
        yield "text"
        yield 1.5
        yield float("nan")
        yield None
        yield {"a": [1, {"b": "é"}]}
        yield {"n": float("inf"), "book": BOOKS[0]}
        yield [BOOKS[0], {1, 2}]

    return app


async def events_of(library: Any, path: str, **request: Any) -> list[object]:
    response = await ask(tutorial(library), path, **request)
    assert response.status_code == 200
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    parser = EventStreamParser()
    found = parser.feed(response.content)
    comments = [one.text for one in found if isinstance(one, Comment)]
    events = [(one.event, parsed(one.data), one.id) for one in found if isinstance(one, Event)]
    return [*comments, *events, parser.retry_ms]


def parsed(data: str) -> object:
    """The value of JSON, which both write differently: with and without blanks and ASCII escapes."""
    try:
        return json.loads(data)
    except ValueError:
        return f"not JSON: {data}"


@pytest.mark.parametrize(
    ("path", "request_"),
    [
        ("/items", {}),
        ("/items-no-async", {}),
        ("/items-no-annotation", {}),
        ("/items-no-async-no-annotation", {}),
        ("/events", {}),
        ("/raw", {}),
        ("/resume", {}),
        ("/resume", {"headers": {"Last-Event-ID": "1"}}),
        ("/chat", {"method": "POST", "json": {"text": "how many are there"}}),
        ("/plain", {}),
    ],
)
async def test_the_same_code_gives_the_same_events(path: str, request_: dict[str, Any]) -> None:
    theirs = await events_of(THEIRS, path, **request_)

    assert len(theirs) > 1
    assert await events_of(OURS, path, **request_) == theirs


@pytest.mark.parametrize(
    ("path", "request_"),
    [
        ("/resume", {"headers": {"Last-Event-ID": "no number"}}),
        ("/chat", {"method": "POST", "json": {"txt": "typo"}}),
        ("/chat", {}),
    ],
)
async def test_a_wrong_request_is_answered_alike(path: str, request_: dict[str, Any]) -> None:
    theirs = await ask(tutorial(THEIRS), path, **request_)
    ours = await ask(tutorial(OURS), path, **request_)

    assert ours.status_code == theirs.status_code >= 400
    assert ours.json() == theirs.json()


@pytest.mark.parametrize(
    ("what", "theirs", "ours"),
    [
        # Lines end with CR LF, as before 4.0; clients see no difference.
        ("line end", b"\n", b"\r\n"),
        # Compact, and text is text.
        ("JSON", b'{"a": [1, {"b": "\\u00e9"}]}', '{"a":[1,{"b":"é"}]}'.encode()),
        # An event stream must not be stored; `no-cache` lets it be.
        ("Cache-Control", b"no-cache", b"no-store"),
    ],
)
async def test_what_differs_on_the_wire(what: str, theirs: bytes, ours: bytes) -> None:
    found = []
    for library in (THEIRS, OURS):
        response = await ask(tutorial(library), "/plain")
        headers = [f"{name}: {value}".encode() for name, value in response.headers.items()]
        found.append(b"".join(headers) if what == "Cache-Control" else response.content)

    assert [theirs in one.replace(b"\r\n", b"") for one in found] == [True, False]
    assert [ours in one for one in found] == [False, True]
