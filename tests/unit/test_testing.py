"""The testing kit: what it reads, what it catches, and that it says nothing where nothing is wrong."""

from __future__ import annotations

import asyncio
import gc
import importlib
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import anyio
import anyio.lowlevel
import httpx2
import pytest
from fastapi import FastAPI
from fastapi.sse import EventSourceResponse as FastAPIEventSourceResponse
from hypothesis import given
from hypothesis import strategies as st
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from tests.unit.parsers import Fired, read_by_the_standard
from tests.unit.seeded import ending, pinging, resuming, writing
from tests.unit.seeded.writing import START, body

from sse_starlette import EventSourceResponse
from sse_starlette.errors import SendTimeoutError
from sse_starlette.testing import (
    CHECKS,
    INJECTION,
    Clock,
    Comment,
    Cursor,
    Event,
    EventStreamParser,
    Parsed,
    Stream,
    StreamFailure,
    StreamingASGITransport,
    connect,
)

HASTE = 0.05
"""The patience of a test that waits for something in vain."""

URL = "http://testserver"

both = pytest.mark.anyio


# --- The parser


def parse(*pieces: bytes, **options: Any) -> tuple[list[Parsed], EventStreamParser]:
    parser = EventStreamParser(**options)
    return [one for piece in pieces for one in parser.feed(piece)], parser


STREAM_BYTES = st.lists(
    st.sampled_from(
        [b"data", b"event", b"id", b"retry", b"x", b":", b": ", b" ", b"\r", b"\n", b"\r\n", b"12"]
        + [b"\0", "ü€🎈".encode(), b"\xe2\x82", b"\xff", b"\xef\xbb\xbf", b"\n\n", b"data: a\n\n"]
    ),
    max_size=40,
)


@given(STREAM_BYTES)
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
    parser = EventStreamParser(max_event_bytes=1000)

    with pytest.raises(StreamFailure, match=r"endless event: 10\d\d bytes .* limit 1000"):
        for _ in range(1000):
            parser.feed(piece)


def test_comments_without_end_are_no_endless_event() -> None:
    parsed, _ = parse(*[b": ping\n"] * 1000, max_event_bytes=100)

    assert len(parsed) == 1000


def test_event_decodes_json() -> None:
    assert Event("message", '{"a": 1}', "").json() == {"a": 1}
    with pytest.raises(ValueError):
        Event("message", "{", "").json()


# --- Twelve bugs, and their correct twins

Drive = Callable[[], Awaitable[None]]


async def come_back(subscription: resuming.Subscription) -> None:
    app, log = resuming.app_of(subscription)
    async with connect(app, "/events") as stream:
        for _ in range(3):
            await stream.next()
        log.publish()
        await stream.next()
        await stream.reconnect()
        log.publish()
        await stream.next()
        await stream.next()

        stream.assert_contiguous()


async def let_minutes_pass(app_of: Callable[[Clock], ASGIApp]) -> None:
    clock = Clock()
    async with connect(app_of(clock), clock=clock) as stream:
        await clock.advance(200)

        stream.assert_pings(every=pinging.EVERY)
        assert len(stream.events) == 8


async def read_to_the_end(app: ASGIApp) -> None:
    async with connect(app, params={"text": INJECTION}) as stream:
        async for _ in stream:
            pass


async def leave(app: ASGIApp, *, lifespan: bool = False) -> None:
    async with connect(app, lifespan=lifespan, patience=HASTE) as stream:
        await stream.next()
        stream.leave()


async def stop_reading(app: ASGIApp) -> None:
    async with connect(app, patience=2 * HASTE) as stream:
        await stream.next()
        stream.stall()
        await stream.until_blocked()

        await stream.until_ended(within=4 * HASTE)


SEEDED: dict[str, tuple[Drive, Drive]] = {
    "gap": (
        partial(come_back, resuming.with_a_gap),
        partial(come_back, resuming.correct),
    ),
    "duplicate": (
        partial(come_back, resuming.with_a_duplicate),
        partial(come_back, resuming.correct),
    ),
    "wrong cursor": (
        partial(come_back, resuming.with_a_wrong_cursor),
        partial(come_back, resuming.correct),
    ),
    "missing ping": (
        partial(let_minutes_pass, pinging.without_pings),
        partial(let_minutes_pass, pinging.correct),
    ),
    "ping under data": (
        partial(let_minutes_pass, pinging.with_pings_under_data),
        partial(let_minutes_pass, pinging.correct),
    ),
    "missing header": (
        partial(read_to_the_end, writing.without_its_header),
        partial(read_to_the_end, writing.with_its_header),
    ),
    "injected field": (
        partial(read_to_the_end, writing.with_text_as_it_comes),
        partial(read_to_the_end, writing.with_text_as_data),
    ),
    "unfinished body": (
        partial(read_to_the_end, writing.unfinished),
        partial(read_to_the_end, writing.finished),
    ),
    "two writers": (
        partial(read_to_the_end, writing.with_two_writers),
        partial(read_to_the_end, writing.with_one_writer),
    ),
    "leaked task": (
        partial(leave, ending.polling(stops=False), lifespan=True),
        partial(leave, ending.polling(stops=True), lifespan=True),
    ),
    "source not closed": (
        partial(leave, ending.with_registry(closes=False)),
        partial(leave, ending.with_registry(closes=True)),
    ),
    "stalled writer": (
        partial(stop_reading, ending.without_end(gives_up_after=None)),
        partial(stop_reading, ending.without_end(gives_up_after=HASTE)),
    ),
}


@both
@pytest.mark.parametrize("bug", SEEDED)
async def test_seeded_bug_is_caught_by_its_name(bug: str) -> None:
    buggy, _ = SEEDED[bug]

    with pytest.raises(StreamFailure) as caught:
        await buggy()

    assert caught.value.bug == bug
    assert str(caught.value).startswith(f"{bug}: ")
    assert "what arrived" in caught.value.arrived


@both
@pytest.mark.parametrize("bug", SEEDED)
async def test_nothing_is_reported_on_the_correct_twin(bug: str) -> None:
    _, correct = SEEDED[bug]

    await correct()
