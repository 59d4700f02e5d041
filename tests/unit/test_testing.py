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
from sse_starlette.testing._clock import settled

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
        [
            *(b"data", b"event", b"id", b"retry", b"x", b":", b": ", b" ", b"\r", b"\n", b"\r\n"),
            *(b"12", b"\0", "ü€🎈".encode(), b"\xe2\x82", b"\xff", b"\xef\xbb\xbf", b"\n\n"),
            b"data: a\n\n",
        ]
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


def test_parser_takes_a_cr_and_its_lf_in_two_pieces() -> None:
    parsed, _ = parse(b"data: a\r", b"", b"\n", b"data: b\r\n\r", b"\n")

    assert parsed == [Event("message", "a\nb", "")]


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


# --- Twelve bugs, and their correct twins

Drive = Callable[[], Awaitable[None]]


async def come_back(subscription: resuming.Subscription) -> None:
    app, log = resuming.app_of(subscription)
    async with connect(app, "/events") as stream:
        for _ in range(3):
            await stream.next()
        await settled()
        log.publish()
        await stream.next()
        await stream.reconnect()
        await settled()
        log.publish()
        await stream.next()
        await settled()

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


async def leave(app: ASGIApp, *, lifespan: bool = False, patience: float = 5) -> None:
    async with (
        StreamingASGITransport(app, lifespan=lifespan) as transport,
        connect(transport) as stream,
    ):
        await stream.next()
        stream.leave()
        await stream.until_ended()
        # From here on everybody waits in vain, if it's the buggy twin.
        transport.patience = patience


async def stop_reading(app: ASGIApp, *, patience: float = 5) -> None:
    async with StreamingASGITransport(app) as transport, connect(transport) as stream:
        await stream.next()
        stream.stall()
        await stream.until_blocked()
        transport.patience = patience

        await stream.until_ended()


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
        partial(read_to_the_end, writing.finished),
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
        partial(leave, ending.polling(stops=False), lifespan=True, patience=HASTE),
        partial(leave, ending.polling(stops=True), lifespan=True),
    ),
    "source not closed": (
        partial(leave, ending.with_registry(closes=False), patience=HASTE),
        partial(leave, ending.with_registry(closes=True)),
    ),
    "stalled writer": (
        partial(stop_reading, ending.without_end(gives_up_after=None), patience=HASTE),
        partial(stop_reading, ending.without_end(gives_up_after=4 * HASTE)),
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


# --- Apps of others


@both
async def test_starlettes_own_streaming_response_can_be_tested() -> None:
    ended = []

    async def numbers() -> AsyncIterator[str]:
        try:
            for number in range(3):
                yield f"id: {number}\ndata: {number}\n\n"
            await anyio.sleep_forever()
        finally:
            ended.append(True)

    async def events(request: Request) -> Response:
        return StreamingResponse(numbers(), media_type="text/event-stream")

    app = Starlette(routes=[Route("/events", events)])
    async with connect(app, "/events") as stream:
        assert [(await stream.next()).data for _ in range(3)] == ["0", "1", "2"]
        stream.assert_contiguous()

    assert ended == [True]


@both
async def test_fastapis_own_event_source_response_can_be_tested() -> None:
    app = FastAPI()
    ended = []

    @app.get("/events", response_class=FastAPIEventSourceResponse)
    async def events() -> AsyncIterator[dict[str, int]]:
        try:
            for number in range(3):
                yield {"number": number}
            await anyio.sleep_forever()
        finally:
            ended.append(True)

    async with connect(app, "/events") as stream:
        for number in range(3):
            await stream.expect(event="message", data={"number": number})
        stream.assert_headers()

    assert ended == [True]


# Starlette's middleware leaves a generator to the garbage collector, and trio says so.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@both
async def test_middleware_in_between_changes_nothing() -> None:
    async def pass_on(request: Request, call_next: RequestResponseEndpoint) -> Response:
        return await call_next(request)

    async def events(request: Request) -> Response:
        return EventSourceResponse(numbers(3))

    app = Starlette(
        routes=[Route("/", events)], middleware=[Middleware(BaseHTTPMiddleware, dispatch=pass_on)]
    )
    async with connect(app) as stream:
        assert [(await stream.next()).data for _ in range(3)] == ["0", "1", "2"]


# --- The transport


async def numbers(count: int, *, ends: bool = False) -> AsyncIterator[dict[str, object]]:
    for number in range(count):
        yield {"id": number, "data": number}
    if not ends:
        await anyio.sleep_forever()


def tasks_here() -> int:
    return len(anyio.get_running_tasks())


def answering(answer: Callable[[Request], Response]) -> ASGIApp:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await answer(Request(scope, receive))(scope, receive, send)

    return app


def sending(*messages: Message, then: Callable[[], Awaitable[object]] | None = None) -> ASGIApp:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        for message in messages:
            await send(message)
        if then is not None:
            await then()

    return app


async def fail() -> None:
    raise KeyError("made up")


END = body("", more=False)


# httpx2 leaves the generators below `EventSource` to the garbage collector, and trio says so.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@both
async def test_httpx2_reads_an_endless_stream() -> None:
    before = tasks_here()
    app = EventSourceResponse(numbers(3))

    async with httpx2.AsyncClient(transport=StreamingASGITransport(app)) as client:
        async with client.sse(URL) as source:
            events = aiter(source)
            seen = [(await anext(events)).data for _ in range(3)]
            await events.aclose()  # type: ignore[attr-defined]

        assert seen == ["0", "1", "2"]
        assert not app.active
    await settled()
    assert tasks_here() == before


@both
async def test_transport_serves_requests_that_are_no_streams() -> None:
    async def answer(request: Request) -> Response:
        return PlainTextResponse(f"{request.method} {(await request.body()).decode()}")

    app = Starlette(routes=[Route("/", answer, methods=["GET", "POST", "HEAD"])])
    async with httpx2.AsyncClient(transport=StreamingASGITransport(app), base_url=URL) as client:
        posted = await client.post("/", content=b"hello")
        head = await client.head("/")

    assert posted.text == "POST hello"
    assert (head.status_code, head.content) == (200, b"")


@both
@pytest.mark.parametrize("version", ["1.1", "2"])
async def test_app_is_told_the_version_of_http(version: str) -> None:
    scopes = []

    def answer(request: Request) -> Response:
        scopes.append(request.scope)
        return PlainTextResponse("ok")

    transport = StreamingASGITransport(
        answering(answer), http_version=version, root_path="/sub", client=("192.0.2.1", 7)
    )
    async with httpx2.AsyncClient(transport=transport) as client:
        response = await client.get(f"{URL}:81/sub/path?a=b")

    (scope,) = scopes
    assert response.http_version == f"HTTP/{version}"
    assert (scope["http_version"], scope["path"], scope["query_string"]) == (
        version,
        "/sub/path",
        b"a=b",
    )
    assert (scope["root_path"], scope["client"]) == ("/sub", ("192.0.2.1", 7))
    assert scope["server"] == ("testserver", 81)
    assert ("connection" in dict(Request(scope).headers)) == (version == "1.1")


@both
async def test_connection_header_on_http_2_is_reported() -> None:
    start = {**START, "headers": [*START["headers"], (b"connection", b"keep-alive")]}

    with pytest.raises(StreamFailure, match="forbidden header: connection on HTTP/2"):
        async with connect(sending(start, END), http_version="2"):
            pass
    async with connect(sending(start, END)):
        pass
    async with connect(EventSourceResponse(numbers(1)), http_version="2"):
        pass


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"http_version": "1"}, "http_version must be"),
        ({"patience": 0}, "patience must be > 0"),
        ({"patience": float("nan")}, "patience must be > 0"),
    ],
)
def test_transport_checks_its_arguments(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        StreamingASGITransport(sending(), **options)


@both
async def test_error_before_the_headers_reaches_the_test_as_it_is() -> None:
    async with httpx2.AsyncClient(transport=StreamingASGITransport(sending(then=fail))) as client:
        with pytest.raises(KeyError, match="made up"):
            await client.get(URL)


@both
async def test_error_that_a_framework_answers_reaches_the_test_as_it_is() -> None:
    async def boom(request: Request) -> Response:
        raise KeyError("made up")

    app = Starlette(routes=[Route("/", boom)])
    async with httpx2.AsyncClient(transport=StreamingASGITransport(app)) as client:
        with pytest.raises(KeyError, match="made up"):
            await client.get(URL)
    with pytest.raises(KeyError, match="made up"):
        async with connect(app):
            pass


@both
async def test_error_in_the_middle_of_a_body_comes_after_what_was_sent() -> None:
    app = sending(START, body("data: 1\n\n"), then=fail)

    async with (
        httpx2.AsyncClient(transport=StreamingASGITransport(app)) as client,
        client.stream("GET", URL) as response,
    ):
        pieces = response.aiter_raw()
        first = await anext(pieces)
        with pytest.raises(KeyError, match="made up"):
            await anext(pieces)

    assert first == b"data: 1\n\n"


@both
async def test_error_nobody_has_met_is_raised_when_the_response_is_closed() -> None:
    async def fail_at_the_end() -> None:
        await anyio.lowlevel.checkpoint()
        await fail()

    app = sending(START, body("data: 1\n\n"), then=fail_at_the_end)
    async with httpx2.AsyncClient(transport=StreamingASGITransport(app)) as client:
        response = await client.send(client.build_request("GET", URL), stream=True)
        with pytest.raises(KeyError, match="made up"):
            await response.aclose()


@both
async def test_errors_can_be_left_to_the_server() -> None:
    quiet = partial(StreamingASGITransport, raise_app_exceptions=False)

    async with httpx2.AsyncClient(transport=quiet(sending(then=fail))) as client:
        response = await client.get(URL)
    async with httpx2.AsyncClient(transport=quiet(sending(START, then=fail))) as client:
        with pytest.raises(httpx2.RemoteProtocolError, match="broke off"):
            await client.get(URL)

    assert response.status_code == 500


@both
async def test_app_that_fails_the_test_fails_it() -> None:
    async def judge() -> None:
        pytest.fail("the app says no")

    with pytest.raises(pytest.fail.Exception, match="the app says no"):
        async with connect(sending(START, then=judge)) as stream:
            await stream.next()


@both
async def test_app_without_a_response_is_reported() -> None:
    async with httpx2.AsyncClient(transport=StreamingASGITransport(sending())) as client:
        with pytest.raises(
            StreamFailure, match=r"unfinished body: .* a response\n\nGET /: no response"
        ):
            await client.get(URL)


@both
async def test_read_timeout_of_httpx2_holds() -> None:
    async with httpx2.AsyncClient(
        transport=StreamingASGITransport(sending(then=anyio.sleep_forever), patience=HASTE),
        timeout=HASTE,
    ) as client:
        with pytest.raises(httpx2.ReadTimeout, match="no headers within"):
            await client.get(URL)


@both
async def test_read_timeout_in_a_body_shows_what_arrived() -> None:
    app = EventSourceResponse(numbers(1))
    async with (
        httpx2.AsyncClient(transport=StreamingASGITransport(app), timeout=4 * HASTE) as client,
        client.stream("GET", URL) as response,
    ):
        with pytest.raises(httpx2.ReadTimeout, match="data: 0"):
            await response.aread()


@both
async def test_app_that_ignores_its_client_leaving_is_cancelled_and_reported() -> None:
    before = tasks_here()
    app = sending(START, then=anyio.sleep_forever)

    with pytest.raises(StreamFailure, match=r"leaked task: the app still ran .* client had left"):
        async with httpx2.AsyncClient(
            transport=StreamingASGITransport(app, patience=HASTE)
        ) as client:
            await client.send(client.build_request("GET", URL), stream=True)

    assert tasks_here() == before


@both
async def test_app_that_does_not_end_after_its_body_is_reported() -> None:
    app = sending(START, END, then=anyio.sleep_forever)

    async with httpx2.AsyncClient(transport=StreamingASGITransport(app, patience=HASTE)) as client:
        with pytest.raises(StreamFailure, match=r"leaked task: .* body was complete"):
            await client.get(URL)


@both
async def test_response_may_be_closed_when_its_client_is_closed_already() -> None:
    app = EventSourceResponse(numbers(1))

    async with httpx2.AsyncClient(transport=StreamingASGITransport(app)) as client:
        response = await client.send(client.build_request("GET", URL), stream=True)
    await response.aclose()

    assert not app.active


@both
async def test_closing_the_transport_ends_every_app() -> None:
    apps = [EventSourceResponse(numbers(1)) for _ in range(3)]
    transport = StreamingASGITransport(
        answering(lambda request: apps[int(request.url.path.strip("/"))])
    )

    async with httpx2.AsyncClient(transport=transport, base_url=URL) as client:
        for number in range(3):
            await client.send(client.build_request("GET", f"/{number}"), stream=True)
        assert all(app.active for app in apps)
    await transport.aclose()

    assert not any(app.active for app in apps)


@both
async def test_cancelled_test_leaves_no_app_behind() -> None:
    before = tasks_here()
    app = EventSourceResponse(numbers(0))

    with anyio.move_on_after(HASTE) as within:
        async with connect(app) as stream:
            await stream.next()

    assert within.cancelled_caught
    assert not app.active
    assert tasks_here() == before


@both
async def test_request_that_is_cancelled_leaves_no_app_behind() -> None:
    before = tasks_here()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    with anyio.move_on_after(HASTE) as within:
        async with connect(app):
            pass

    assert within.cancelled_caught
    assert tasks_here() == before


def test_on_asyncio_a_transport_may_be_closed_by_another_task_and_run_of_the_loop() -> None:
    """Fixtures of pytest-asyncio are set up in one and torn down in another."""
    app = EventSourceResponse(numbers(1))
    stream = connect(app)

    async def read() -> str:
        return (await stream.next()).data

    with asyncio.Runner() as runner:
        runner.run(stream.__aenter__())
        data = runner.run(read())
        runner.run(stream.__aexit__(None, None, None))
        left = asyncio.all_tasks(runner.get_loop())

    assert (data, app.active, left) == ("0", False, set())


def test_loop_after_loop_is_the_same() -> None:
    async def use() -> str:
        async with connect(EventSourceResponse(numbers(1))) as stream:
            return (await stream.next()).data

    assert [anyio.run(use, backend=b) for b in ("asyncio", "trio") * 2] == ["0"] * 4


@both
async def test_hook_of_async_generators_is_taken_back() -> None:
    before = sys.get_asyncgen_hooks()

    async with connect(EventSourceResponse(numbers(1))) as outer:
        async with connect(EventSourceResponse(numbers(1))) as inner:
            await inner.next()
        await outer.next()
        during = sys.get_asyncgen_hooks()

    assert sys.get_asyncgen_hooks() == before
    assert during != before


def test_hook_that_another_has_replaced_stays_theirs() -> None:
    seen: list[object] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        sys.set_asyncgen_hooks(firstiter=seen.append)
        await sending(START, END)(scope, receive, send)

    async def use() -> object:
        async with connect(app):
            pass
        return sys.get_asyncgen_hooks().firstiter

    assert asyncio.run(use()) == seen.append


@both
@pytest.mark.parametrize(
    ("messages", "fault"),
    [
        ([END], "expected http.response.start"),
        ([START, START], "expected http.response.body"),
        ([START, END, END], "sent after the end of the body"),
        ([START, {"type": "http.response.body", "body": "text"}], "a body is bytes"),
    ],
)
async def test_breach_of_protocol_is_reported(messages: list[Message], fault: str) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        for message in messages:
            try:
                await send(message)
            except RuntimeError:
                return

    with pytest.raises(StreamFailure, match=f"broken protocol: {fault}"):
        async with connect(app) as stream:
            await stream.until_ended()


@both
async def test_breach_of_protocol_raises_in_the_app_too() -> None:
    with pytest.raises(RuntimeError, match=r"expected http.response.start: \{"):
        async with connect(sending(END)):
            pass


def test_app_that_is_cancelled_from_within_is_reported() -> None:
    async def give_up() -> None:
        raise asyncio.CancelledError

    async def use() -> None:
        async with connect(sending(START, then=give_up)) as stream:
            await stream.next()

    with pytest.raises(StreamFailure, match="the app was cancelled from within"):
        asyncio.run(use())


def test_loop_without_a_hook_of_its_own_is_watched_too() -> None:
    async def use() -> None:
        sys.set_asyncgen_hooks(firstiter=None)
        await leave(ending.with_registry(closes=False), patience=HASTE)

    with pytest.raises(StreamFailure, match="source not closed"):
        asyncio.run(use())


# --- The lifespan of an app


@both
async def test_lifespan_runs_when_asked_and_hands_its_state_on() -> None:
    told = []

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[dict[str, Any]]:
        told.append("up")
        yield {"greeting": "hello"}
        told.append("down")

    async def events(request: Request) -> Response:
        return EventSourceResponse([request.state.greeting])

    app = Starlette(routes=[Route("/", events)], lifespan=lifespan)
    async with connect(app, lifespan=True) as stream:
        await stream.expect(data="hello")
        told.append("used")

    assert told == ["up", "used", "down"]


@both
async def test_startup_that_fails_raises_why() -> None:
    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        raise KeyError("made up")
        yield

    before = tasks_here()
    with pytest.raises(KeyError, match="made up"):
        async with connect(Starlette(lifespan=lifespan), lifespan=True):
            pass

    assert tasks_here() == before


@both
async def test_shutdown_that_fails_raises_why() -> None:
    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        yield
        raise KeyError("made up")

    with pytest.raises(KeyError, match="made up"):
        async with StreamingASGITransport(Starlette(lifespan=lifespan), lifespan=True):
            pass


@both
async def test_startup_that_is_only_said_to_have_failed_is_an_error() -> None:
    app = sending({"type": "lifespan.startup.failed", "message": "no database"})

    with pytest.raises(RuntimeError, match=r"startup failed: .*no database"):
        async with StreamingASGITransport(app, lifespan=True):
            pass


@both
async def test_app_without_a_lifespan_is_an_error_if_one_is_asked_for() -> None:
    with pytest.raises(RuntimeError, match="lifespan startup failed: it answered None"):
        async with StreamingASGITransport(sending(), lifespan=True):
            pass


def test_lifespan_that_is_cancelled_from_within_has_failed() -> None:
    async def give_up() -> None:
        raise asyncio.CancelledError

    async def use() -> None:
        async with StreamingASGITransport(sending(then=give_up), lifespan=True):
            pass

    with pytest.raises(RuntimeError, match="lifespan startup failed"):
        asyncio.run(use())


@both
async def test_startup_that_is_cancelled_leaves_no_task_behind() -> None:
    before = tasks_here()

    with anyio.move_on_after(HASTE) as within:
        async with StreamingASGITransport(sending(then=anyio.sleep_forever), lifespan=True):
            pass

    assert within.cancelled_caught
    assert tasks_here() == before


@both
async def test_lifespan_needs_the_transport_to_be_entered() -> None:
    transport = StreamingASGITransport(sending(START, END), lifespan=True)

    with pytest.raises(RuntimeError, match="enter the transport"):
        await httpx2.AsyncClient(transport=transport).get(URL)


# --- What a test does to a stream


@both
async def test_stream_can_be_iterated_to_its_end() -> None:
    async with connect(EventSourceResponse(numbers(3, ends=True))) as stream:
        assert [event.id async for event in stream] == ["0", "1", "2"]
        assert stream.ended
        with pytest.raises(StreamFailure, match="stream ended: there is no next event"):
            await stream.next()


@both
async def test_expected_event_is_returned() -> None:
    source = [{"event": "e", "data": '{"a": [1]}', "id": "7"}, "plain"]

    async with connect(EventSourceResponse(source)) as stream:
        event = await stream.expect(event="e", data={"a": [1]}, id="7")
        await stream.expect(event="message", data="plain", id="7", within=1)

    assert event == Event("e", '{"a": [1]}', "7", own_id=True)


@both
@pytest.mark.parametrize(
    ("expected", "said"),
    [
        ({"event": "x"}, "expected event='x', got Event"),
        ({"data": "1", "id": "x"}, "expected data='1', id='x', got"),
        ({"data": 2}, "expected data=2"),
        ({"data": {"a": 1}}, r"expected data=\{'a': 1\}"),
    ],
)
async def test_unexpected_event_is_shown_with_what_arrived(
    expected: dict[str, Any], said: str
) -> None:
    async with connect(EventSourceResponse([{"data": "0"}, "text"])) as stream:
        with pytest.raises(StreamFailure, match=rf"unexpected event: {said}") as caught:
            await stream.expect(**expected)
        with pytest.raises(StreamFailure, match="unexpected event"):
            await stream.expect(data=1)

    assert "GET / -> 200" in str(caught.value)
    assert "content-type: text/event-stream" in str(caught.value)
    assert r"b'data: 0\r\n\r\n" in str(caught.value)


@both
async def test_event_that_does_not_come_is_missed_within_its_time() -> None:
    async with connect(EventSourceResponse(numbers(0)), "/path?a=b") as stream:
        with pytest.raises(StreamFailure, match=r"no event: none within 0.05 s") as caught:
            await stream.next(within=HASTE)

    assert "GET /path?a=b -> 200" in caught.value.arrived
    assert "nothing" in caught.value.arrived
    assert "the app still runs" in caught.value.arrived


@both
async def test_event_is_not_lost_when_the_wait_for_it_is_cancelled() -> None:
    send, receive = anyio.create_memory_object_stream[str](1)

    async with connect(EventSourceResponse(receive)) as stream, send:
        with anyio.move_on_after(0):
            await stream.next()
        send.send_nowait("kept")

        await stream.expect(data="kept")


@both
async def test_what_arrived_is_shown_in_part_when_it_is_much() -> None:
    frames = [f"data: {number} {'x' * 1000}\n\n".encode() for number in range(60)]

    async with connect(EventSourceResponse(frames, join_events=False)) as stream:
        await stream.until_ended()
        shown = StreamFailure("x", "y", stream._exchange.shown())

    assert "... 20 before these" in str(shown)
    assert "... 611 more" in str(shown)
    assert len(str(shown)) < 30_000


@both
async def test_app_that_has_failed_comes_before_the_failure_of_the_test() -> None:
    event = anyio.Event()

    async def fail_later() -> None:
        await event.wait()
        await fail()

    async def judge() -> None:
        async with connect(sending(START, then=fail_later)) as stream:
            event.set()
            await settled()
            assert len(stream.events) == 1

    with pytest.raises(KeyError, match="made up") as caught:
        await judge()

    assert isinstance(caught.value.__context__, AssertionError)


@both
async def test_what_is_wrong_with_the_stream_is_added_to_the_failure_of_the_test() -> None:
    async def judge() -> None:
        async with connect(sending(START, body("evil\n\n"), END)):
            await settled()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError) as caught:
        await judge()

    (note,) = caught.value.__notes__
    assert "injected field: the line b'evil'" in note


@both
async def test_error_of_the_app_is_raised_where_the_test_waits() -> None:
    async with connect(sending(START, body("data: 1\n\n"), then=fail)) as stream:
        await stream.next()
        with pytest.raises(KeyError, match="made up"):
            await stream.next()


@both
async def test_error_of_the_app_is_raised_at_the_end_if_not_before() -> None:
    with pytest.raises(KeyError, match="made up"):
        async with connect(sending(START, body("data: 1\n\n"), then=fail)) as stream:
            await stream.next()


@both
async def test_leaving_ends_the_app() -> None:
    app = EventSourceResponse(numbers(1))

    async with connect(app) as stream:
        await stream.next()
        stream.leave()
        stream.leave()
        await stream.until_ended()
        assert not app.active
        with pytest.raises(StreamFailure, match="stream ended"):
            await stream.next()


@both
async def test_stalled_client_blocks_the_writer_until_it_reads_again() -> None:
    send, receive = anyio.create_memory_object_stream[str](10)

    async with connect(EventSourceResponse(receive)) as stream, send:
        stream.stall()
        send.send_nowait("1")
        await stream.until_blocked()
        assert stream.blocked
        assert stream.events == []

        stream.resume()
        await stream.expect(data="1")
        assert not stream.blocked


@both
async def test_stalled_client_that_leaves_releases_the_writer() -> None:
    app = EventSourceResponse(numbers(1))

    async with connect(app) as stream:
        stream.stall()
        await stream.until_blocked()
        stream.leave()
        await stream.until_ended()

    assert not app.active


@both
async def test_writer_that_gives_up_a_stalled_client_raises_its_error() -> None:
    app = EventSourceResponse(numbers(1), send_timeout=HASTE)

    async with connect(app) as stream:
        stream.stall()
        with pytest.raises(SendTimeoutError):
            await stream.until_ended()


@both
async def test_events_nobody_reads_fill_the_socket() -> None:
    frame = b"data: " + b"x" * 1016 + b"\n\n"

    async with connect(EventSourceResponse([frame] * 200, join_events=False)) as stream:
        await stream.until_blocked()
        assert len(stream.events) == 64

        await stream.next()
        await settled()
        assert len(stream.events) == 65

        await stream.until_ended()
        assert len(stream.events) == 200
        assert len([event async for event in stream]) == 199


@both
async def test_blocked_writer_of_another_client_is_named_when_nothing_comes() -> None:
    listeners: list[Send] = []

    async def broadcasting(scope: Scope, receive: Receive, send: Send) -> None:
        await send(START)
        listeners.append(send)
        await receive()
        await receive()
        listeners.remove(send)

    async def broadcast() -> None:
        for send in [*listeners]:
            await send(body("data: 1\n\n"))

    async with (
        StreamingASGITransport(broadcasting) as transport,
        connect(transport) as stalled,
        connect(transport) as other,
        anyio.create_task_group() as tasks,
    ):
        stalled.stall()
        tasks.start_soon(broadcast)
        with pytest.raises(StreamFailure, match=r"stalled writer: .* another client"):
            await other.next(within=HASTE)
        stalled.leave()


@both
async def test_wait_for_a_block_that_does_not_come_is_in_vain() -> None:
    async with connect(EventSourceResponse(numbers(1))) as stream:
        with pytest.raises(StreamFailure, match=r"not blocked: .* 0.05 s"):
            await stream.until_blocked(within=HASTE)


@both
async def test_wait_for_an_end_that_does_not_come_is_in_vain() -> None:
    app = sending(START, then=anyio.sleep_forever)

    async with (
        StreamingASGITransport(app) as transport,
        connect(transport, unchecked={"leaked task"}) as stream,
    ):
        transport.patience = HASTE
        with pytest.raises(StreamFailure, match=r"stream goes on: .* 0.05 s"):
            await stream.until_ended()
        stream.leave()
        with pytest.raises(StreamFailure, match="leaked task: the app still runs"):
            await stream.until_ended()


@both
async def test_wait_ends_in_time_beside_an_app_that_sends_and_sends() -> None:
    app = ending.without_end(gives_up_after=None)

    async with StreamingASGITransport(app) as transport, connect(transport) as stream:
        transport.patience = HASTE
        with pytest.raises(StreamFailure, match="stream goes on"):
            await stream.until_ended()
        with pytest.raises(StreamFailure, match="leaked task"):
            await stream.__aexit__(None, None, None)


@both
async def test_draining_ends_the_streams_of_this_app_only() -> None:
    draining = EventSourceResponse(numbers(1), farewell={"event": "bye", "data": ""})

    async with (
        connect(EventSourceResponse(numbers(1))) as other,
        connect(draining) as stream,
    ):
        await stream.next()
        stream.drain()
        await stream.expect(event="bye")
        await stream.until_ended()

        assert not other.ended


@both
async def test_grace_of_draining_passes_on_the_clock() -> None:
    clock = Clock()

    async with connect(EventSourceResponse(numbers(1)), clock=clock) as stream:
        stream.drain(grace=30)
        await clock.advance(29)
        assert not stream.ended
        await clock.advance(1)
        assert stream.ended


@both
async def test_reconnecting_takes_the_cursor_and_the_time_that_the_server_gave() -> None:
    clock = Clock()
    came: list[tuple[float, str | None]] = []

    def answer(request: Request) -> Response:
        came.append((clock.time(), request.headers.get("last-event-id")))
        return EventSourceResponse([{"id": f"ü{len(came)}", "data": "", "retry": 7000}])

    async with connect(answering(answer), clock=clock) as stream:
        await stream.next()
        assert (stream.last_event_id, stream.retry_ms) == ("ü1", 7000)
        await stream.reconnect()
        assert stream.last_event_id == "ü1"
        await stream.next()

    assert [(at, None if id is None else id.encode("latin-1").decode()) for at, id in came] == [
        (0.0, None),
        (7.0, "ü1"),
    ]


@both
async def test_reconnecting_leaves_a_stream_that_goes_on_and_waits_for_its_end() -> None:
    apps: list[EventSourceResponse] = []

    def answer(request: Request) -> Response:
        assert not any(app.active for app in apps)
        apps.append(EventSourceResponse(numbers(2)))
        return apps[-1]

    async with connect(answering(answer)) as stream:
        await stream.next()
        await settled()
        await stream.reconnect()
        assert [(await stream.next()).data for _ in range(3)] == ["1", "0", "1"]

    assert len(apps) == 2


@both
@pytest.mark.parametrize("status", [204, 503])
async def test_response_that_a_browser_refuses_is_reported(status: int) -> None:
    responses = [EventSourceResponse(numbers(1)), Response("gone", status_code=status)]

    async with connect(answering(lambda _: responses.pop(0))) as stream:
        await stream.next()
        with pytest.raises(StreamFailure, match=f"wrong status: {status}"):
            await stream.reconnect()


@both
async def test_what_a_refused_response_says_is_shown() -> None:
    app = answering(lambda _: PlainTextResponse("no such stream", status_code=404))

    with pytest.raises(StreamFailure, match="wrong status: 404") as caught:
        async with connect(app):
            pass

    assert "no such stream" in caught.value.arrived


@both
async def test_redirect_is_followed() -> None:
    def answer(request: Request) -> Response:
        if request.url.path == "/old":
            return RedirectResponse("/new")
        return EventSourceResponse([request.url.path])

    async with connect(answering(answer), "/old") as stream:
        await stream.expect(data="/new")


@both
async def test_request_is_made_as_asked() -> None:
    async def answer(request: Request) -> Response:
        headers = ("accept", "cache-control", "last-event-id", "x-token", "cookie")
        said: list[object] = [request.headers[name] for name in headers]
        return EventSourceResponse([*said, request.method, request.url.query, await request.json()])

    app = Starlette(routes=[Route("/", answer, methods=["POST"])])
    async with connect(
        app,
        last_event_id="7",
        method="POST",
        params={"a": "b"},
        headers={"X-Token": "secret"},
        cookies={"c": "d"},
        json=[1],
    ) as stream:
        for data in ("text/event-stream", "no-store", "7", "secret", "c=d", "POST", "a=b", [1]):
            await stream.expect(data=data)


def test_connect_checks_its_arguments() -> None:
    with pytest.raises(ValueError, match=r"unchecked has \['x'\]"):
        connect(sending(), unchecked={"x"})
    with pytest.raises(ValueError, match="are the transport's"):
        connect(StreamingASGITransport(sending()), clock=Clock())


@both
async def test_what_is_unchecked_is_not_reported() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 418, "headers": []})
        await send(body("evil\n\ndata: 1"))

    async with connect(app, unchecked=CHECKS) as stream:
        await stream.until_ended()


# --- What is found without being asked


@both
async def test_event_without_its_blank_line_is_reported() -> None:
    with pytest.raises(StreamFailure, match="unfinished event: the body ended"):
        async with connect(sending(START, body("data: 1\n"), END)) as stream:
            await stream.until_ended()


@both
async def test_event_without_end_is_reported_and_left() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(START)
        for _ in range(20):
            await send(body("data: " + "x" * 60_000 + "\n"))
        while (await receive())["type"] != "http.disconnect":
            pass

    with pytest.raises(StreamFailure, match="endless event: 10"):
        async with connect(app) as stream:
            await stream.next()


@both
async def test_writer_in_the_middle_of_anothers_event_is_reported() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(START)
        await send(body("data: half\n"))
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(writing.write, send, ": ping\n\n")
        await send(body("", more=False))

    with pytest.raises(StreamFailure, match="two writers: another task wrote b': ping"):
        async with connect(app) as stream:
            await stream.until_ended()


@both
async def test_event_in_pieces_of_one_writer_is_an_event() -> None:
    async with connect(sending(START, body("data: a"), body("b\n"), body("\n"), END)) as stream:
        await stream.expect(data="ab")


# --- Order


def block(id: str, event: str = "message", data: str | None = "") -> bytes:
    lines = [f"id: {id}", f"event: {event}"] + ([] if data is None else [f"data: {data}"])
    return ("\n".join(lines) + "\n\n").encode()


def cursor(id: str) -> bytes:
    return f"id: {id}\n\n".encode()


async def story(*frames: bytes, last_event_id: str = "") -> Stream:
    async with connect(EventSourceResponse(list(frames)), last_event_id=last_event_id) as stream:
        await stream.until_ended()
    return stream


@both
@pytest.mark.parametrize(
    ("frames", "last_event_id"),
    [
        ([], ""),
        ([block("7"), block("8")], ""),
        ([block("e.7"), b"data: farewell\n\n", block("e.8")], "e.6"),
        ([cursor("e.7"), block("e.8"), cursor("e.8")], ""),
        ([cursor("e.7"), block("e.8")], "e.7"),
        ([block("e.7"), block("f.3", "reset"), block("f.4")], "e.6"),
        ([block("f.3", "reset"), block("f.4")], "made up"),
        ([block("a.b.1"), block("a.b.2")], ""),
    ],
)
async def test_contiguous_streams_pass(frames: list[bytes], last_event_id: str) -> None:
    stream = await story(*frames, last_event_id=last_event_id)

    stream.assert_contiguous()


@both
@pytest.mark.parametrize(
    ("frames", "last_event_id", "said"),
    [
        (["e.1", "e.3"], "", "gap: after id 'e.1' came 'e.3'; missing: 'e.2'"),
        (["1", "5"], "", r"gap: after id '1' came '5'; missing: '2' to '4' \(3 events\)"),
        (["e.1", "f.2"], "", "gap: after id 'e.1' came 'f.2' of another epoch"),
        (["e.1", "e.1"], "", "duplicate: after id 'e.1' came 'e.1', which is not new"),
        (["e.2", "e.1"], "", "duplicate: after id 'e.2' came 'e.1'"),
        (["e.3"], "e.1", "wrong cursor: the client came back with 'e.1', and got: .* 'e.2'"),
        (["e.1"], "e.1", "wrong cursor: the client came back with 'e.1', and got: .* not new"),
        (["e.2", "e.4"], "e.1", "gap: after id 'e.2'"),
        (["x"], "", "unordered ids: id 'x' is neither"),
        (["e.²"], "", "unordered ids"),
    ],
)
async def test_streams_that_are_not_contiguous_are_told_what_is_wrong(
    frames: list[str], last_event_id: str, said: str
) -> None:
    stream = await story(*map(block, frames), last_event_id=last_event_id)

    with pytest.raises(StreamFailure, match=said):
        stream.assert_contiguous()


@both
async def test_cursor_that_moves_by_itself_hides_a_gap() -> None:
    stream = await story(cursor("e.1"), block("e.2"), cursor("e.5"), block("e.6"))

    with pytest.raises(StreamFailure, match=r"gap: .* 'e.3' to 'e.5' \(3 events\)"):
        stream.assert_contiguous()


@both
async def test_error_of_the_app_comes_before_what_a_check_says() -> None:
    frames = (body(block(id).decode()) for id in ("1", "3"))

    async with connect(sending(START, *frames, then=fail)) as stream:
        await settled()
        with pytest.raises(KeyError, match="made up"):
            stream.assert_contiguous()


@both
async def test_reset_may_have_another_name() -> None:
    stream = await story(block("e.1"), block("e.9", "resync"), block("e.10"))

    stream.assert_contiguous(reset_event="resync")
    with pytest.raises(StreamFailure, match="gap"):
        stream.assert_contiguous()


# --- Time


@both
async def test_ping_comes_when_the_clock_says_so() -> None:
    clock = Clock()

    async with connect(EventSourceResponse(numbers(1)), clock=clock) as stream:
        await clock.advance(14.999)
        assert stream.comments == []
        await clock.advance(0.001)
        assert [comment.text.split(" - ")[0] for comment in stream.comments] == ["ping"]
        await clock.advance(45)
        assert len(stream.comments) == 4

        stream.assert_pings(every=15)
        with pytest.raises(StreamFailure, match="missing ping: 15 s of silence from 0 s on"):
            stream.assert_pings(every=10)
        with pytest.raises(StreamFailure, match="ping under data: at 15 s, 15 s after an event"):
            stream.assert_pings(every=30)


@both
async def test_ping_that_has_not_come_yet_is_missing() -> None:
    clock = Clock()

    async with connect(EventSourceResponse(numbers(1), ping=60), clock=clock) as stream:
        await clock.advance(14)
        stream.assert_pings(every=15)
        await clock.advance(1)
        with pytest.raises(StreamFailure, match="missing ping: 15 s of silence from 0 s on"):
            stream.assert_pings(every=15)


@both
async def test_nobody_owes_a_ping_to_who_does_not_read_or_has_gone() -> None:
    clock = Clock()

    async with connect(EventSourceResponse(numbers(1)), clock=clock) as stream:
        stream.stall()
        await clock.advance(100)
        stream.assert_pings(every=15)
        stream.leave()
        await clock.advance(100)
        stream.assert_pings(every=15)


@both
async def test_silence_between_two_connections_is_none() -> None:
    clock = Clock()
    app = answering(lambda _: EventSourceResponse([{"data": "", "retry": 60_000}]))

    async with connect(app, clock=clock) as stream:
        await stream.until_ended()
        await stream.reconnect()
        await stream.until_ended()

        stream.assert_pings(every=15)


@both
async def test_greeting_is_no_ping_under_data_and_real_pings_may_be_late() -> None:
    app = sending(START, body(": hello\n\n"), body("data: 1\n\n"), END)

    async with connect(app) as stream:
        await stream.until_ended()
        stream.assert_pings(every=100)
        stream.assert_pings(every=100, tolerance=1)


@both
async def test_missing_event_tells_where_the_clock_stands() -> None:
    clock = Clock()

    async with connect(EventSourceResponse(numbers(0)), clock=clock) as stream:
        await clock.advance(7)
        with pytest.raises(StreamFailure, match="the clock stands at 7 s"):
            await stream.next(within=HASTE)


@both
async def test_clock_wakes_sleepers_in_their_order_and_at_their_time() -> None:
    clock = Clock()
    woken: list[float] = []

    async def sleep(seconds: float) -> None:
        await clock.sleep(seconds)
        woken.append(clock.time())

    async with anyio.create_task_group() as tasks:
        for seconds in (3, 1, 2, 50):
            tasks.start_soon(sleep, seconds)
        await clock.advance(10)
        tasks.cancel_scope.cancel()
    await clock.advance(100)

    assert woken == [1, 2, 3]
    assert clock.time() == 110


@both
async def test_clock_does_not_go_back() -> None:
    with pytest.raises(ValueError, match="seconds must be >= 0, got: -1"):
        await Clock().advance(-1)


@both
async def test_clock_does_not_wait_for_a_task_that_never_waits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("sse_starlette.testing._clock._BUSY_SECONDS", HASTE)
    clock = Clock()

    async def spin() -> None:
        while True:
            await anyio.lowlevel.checkpoint()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(spin)
        await clock.advance(1)
        tasks.cancel_scope.cancel()

    assert clock.time() == 1


# --- Headers


@both
async def test_headers_that_get_a_stream_through_proxies_pass() -> None:
    async with connect(EventSourceResponse(numbers(1))) as stream:
        stream.assert_headers()
        stream.assert_headers({"Cache-Control": "no-store", "X-None": None})


@both
@pytest.mark.parametrize(
    ("headers", "said"),
    [
        ({}, "missing header: x-accel-buffering: no"),
        ({"x-accel-buffering": "yes"}, "missing header: x-accel-buffering: no; it is 'yes'"),
        ({"x-accel-buffering": "no"}, "missing header: cache-control: no-store; it is ''"),
        ({"x-accel-buffering": "no", "content-length": "3"}, "forbidden header: content-length"),
    ],
)
async def test_header_that_a_proxy_needs_is_missed(headers: dict[str, str], said: str) -> None:
    start = {**START, "headers": [*START["headers"]]}
    start["headers"] += [(name.encode(), value.encode()) for name, value in headers.items()]

    async with connect(sending(start, END)) as stream:
        with pytest.raises(StreamFailure, match=said):
            stream.assert_headers()


# --- What is left behind


@both
async def test_generator_that_only_a_cycle_holds_is_closed() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        source = numbers(2, ends=True)
        cycle: list[object] = [source]
        cycle.append(cycle)
        await anext(source)
        await sending(START, END)(scope, receive, send)
        await source.aclose()  # type: ignore[attr-defined]

    gc.disable()
    try:
        async with connect(app):
            pass
    finally:
        gc.enable()


@both
async def test_task_on_its_way_out_is_waited_for() -> None:
    async def linger() -> None:
        for _ in range(200):
            await anyio.lowlevel.checkpoint()

    async with anyio.create_task_group() as tasks:

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            tasks.start_soon(linger)
            await sending(START, END)(scope, receive, send)

        async with connect(app):
            pass


# --- Without httpx2


@pytest.fixture
def without_httpx2(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    kit = {name: module for name, module in sys.modules.items() if "sse_starlette.testing" in name}
    for name in kit:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "httpx2", None)
    yield
    sys.modules.update(kit)


@pytest.mark.usefixtures("without_httpx2")
def test_missing_httpx2_names_the_extra() -> None:
    with pytest.raises(ImportError, match=r"extra `testing`.*pip install '\.\[testing\]'"):
        importlib.import_module("sse_starlette.testing")
