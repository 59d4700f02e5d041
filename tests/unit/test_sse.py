"""What a route's `EventSourceResponse` promises: its settings, its headers, its source, its callbacks."""

from __future__ import annotations

import gc
import math
import re
import weakref
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from typing import Any, get_args

import anyio
import anyio.lowlevel
import fastapi.sse
import pytest
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Message
from tests.unit.driving import (
    HandFeed,
    Notes,
    StillLoop,
    drive,
    each_way_to_cancel,
    http_scope,
    on,
    settled,
    websocket_scope,
)
from tests.unit.parsers import Fired, read_by_httpx_sse, read_by_the_standard

import sse_starlette
import sse_starlette.event
import sse_starlette.sse
from sse_starlette import EventSourceResponse, Hub, ServerSentEvent
from sse_starlette._stream.options import Patience, StreamOptions
from sse_starlette.metrics._tally import Tally
from sse_starlette.observe import observe
from sse_starlette.sse import CloseReason
from sse_starlette.testing import connect

pytestmark = pytest.mark.anyio


class MadeUpError(Exception):
    pass


class Source:
    """An async iterable that yields `items`, then what is done about the end, and remembers all."""

    def __init__(self, *items: object, then: Callable[[], Any] | None = None) -> None:
        self.items = items
        self.then = then
        self.seen: list[str] = []
        self.released = 0

    async def __aiter__(self) -> AsyncIterator[object]:
        self.seen.append("begun")
        try:
            for item in self.items:
                yield item
            if self.then is not None:
                await self.then()
        except anyio.get_cancelled_exc_class():
            self.seen.append("cancelled")
            raise
        finally:
            self.seen.append("closed")

    async def aclose(self) -> None:
        self.released += 1


def endless(*items: object) -> Source:
    return Source(*items, then=anyio.sleep_forever)


def failing(*items: object, failure: Exception | None = None) -> Source:
    async def fail() -> None:
        raise failure or MadeUpError("of the source")

    return Source(*items, then=fail)


@pytest.fixture
def loops(monkeypatch: pytest.MonkeyPatch) -> list[StillLoop]:
    """Lets responses run on loops whose clocks stand still; these are the loops."""
    loops: list[StillLoop] = []

    def current_loop() -> StillLoop:
        loops.append(StillLoop())
        return loops[-1]

    monkeypatch.setattr("sse_starlette.sse.current_loop", current_loop)
    return loops


# Names


def test_all_is_sorted_and_names_what_is_there() -> None:
    assert sse_starlette.sse.__all__ == sorted(sse_starlette.sse.__all__)
    for name in sse_starlette.sse.__all__:
        assert hasattr(sse_starlette.sse, name)


def test_reasons_to_close_are_public() -> None:
    known = {"end", "client", "error", "timeout", "shutdown", "cancelled"}
    assert known <= set(get_args(CloseReason))


# The constructor

NOT_A_NUMBER = "^ping interval must be int or float$"
BELOW_ZERO = r"^ping interval must be >= 0 \(0 disables ping\)$"
NO_SEPARATOR = r"^sep must be one of: \\r\\n, \\r, \\n, got: "


@pytest.mark.parametrize(
    ("name", "values", "error", "says"),
    [
        ("ping_interval", ["15", [], True, b"1"], TypeError, NOT_A_NUMBER),
        ("ping_interval", [-1, -0.5, math.nan], ValueError, BELOW_ZERO),
        ("sep", ["", "\n\n", "x", "\r\n\r\n", b"\n", 1], ValueError, NO_SEPARATOR),
        ("send_timeout", ["30"], TypeError, "send_timeout is str: give seconds"),
        ("on_close", [lambda: None], TypeError, "on_close is called with the reason"),
        ("farewell", [{"evnet": "typo"}], TypeError, "evnet"),
    ],
)
def test_an_option_is_checked_when_it_is_passed_and_when_it_is_assigned(
    name: str, values: list[Any], error: type[Exception], says: str
) -> None:
    response = EventSourceResponse([], send_timeout=3)
    before = getattr(response, name)

    for wrong in values:
        with pytest.raises(error, match=says):
            EventSourceResponse([], **{name.removesuffix("_interval"): wrong})
        with pytest.raises(error, match=says):
            setattr(response, name, wrong)

    assert getattr(response, name) == before
    setattr(response, name, before)


def test_an_option_of_the_class_is_what_describes_it() -> None:
    assert EventSourceResponse.send_timeout is vars(EventSourceResponse)["send_timeout"]


def test_cleanup_may_be_unbounded() -> None:
    assert EventSourceResponse([], cleanup_timeout=None).cleanup_timeout is None


def test_compression_does_not_exist() -> None:
    response = EventSourceResponse([])

    with pytest.raises(NotImplementedError):
        response.enable_compression()
    with pytest.raises(NotImplementedError):
        response.enable_compression(force=True)


# Headers


def test_subclass_may_have_a_media_type() -> None:
    class Mine(EventSourceResponse):
        media_type = "text/x-mine"

    assert Mine([], media_type=None).headers["content-type"] == "text/x-mine; charset=utf-8"


# What is sent


@pytest.mark.parametrize("join", [True, False])
async def test_events_that_are_ready_together_leave_together_if_they_may(
    join: bool, loops: list[StillLoop]
) -> None:
    events = [str(number) for number in range(1_000)]

    async with drive(EventSourceResponse(Source(*events), join_events=join)) as exchange:
        await exchange.returns()

    assert exchange.body == b"".join(b"data: %d\r\n\r\n" % number for number in range(1_000))
    assert len(exchange.chunks) < 500 if join else len(exchange.chunks) == 1_000


@pytest.mark.parametrize("method", ["HEAD", "head", "Head"])
async def test_head_is_answered_without_starting_the_source(method: str) -> None:
    notes = Notes()
    source = Source("1")

    async with drive(notes.response(source), scope=http_scope(method)) as exchange:
        await exchange.returns()

    assert exchange.headers == {
        "cache-control": "no-store",
        "x-accel-buffering": "no",
        "content-type": "text/event-stream; charset=utf-8",
    }
    assert exchange.body == b""
    assert exchange.complete
    assert (source.seen, source.released) == ([], 1)
    assert notes.calls == ["end", "background"]


async def test_separator_of_the_stream_may_be_assigned_and_holds_for_dicts_and_not_for_events() -> (
    None
):
    source = Source(
        {"data": "a", "sep": "\r\n"}, ServerSentEvent("b", sep="\r\n"), ServerSentEvent("c")
    )
    response = EventSourceResponse(source)
    response.sep = "\n"

    async with drive(response) as exchange:
        await exchange.returns()

    assert exchange.body == b"data: a\n\ndata: b\r\n\r\ndata: c\n\n"


async def test_serializer_makes_the_json_of_all_that_a_response_sends() -> None:
    def serializer(value: object) -> str:
        return f"<{value}>"

    def events() -> Iterator[object]:
        yield "text"
        yield [1]
        yield {"data": {"a": 1}}
        yield ServerSentEvent((1, 2))
        raise MadeUpError("of the source")

    response = EventSourceResponse(
        events(), sep="\n", serializer=serializer, on_error=lambda exc: {"data": [str(exc)]}
    )

    async with drive(response) as exchange:
        await exchange.returns()

    assert exchange.body.decode().split("\n\n")[:-1] == [
        "data: text",
        "data: <[1]>",
        "data: <{'a': 1}>",
        "data: <(1, 2)>",
        "data: <['of the source']>",
    ]


@pytest.mark.parametrize("name", ["client_close_handler_callable", "on_close", "background"])
async def test_what_a_callback_raises_is_logged_under_its_name(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError("made up")

    options: dict[str, Any] = {name: fail}
    async with drive(EventSourceResponse(endless("1"), **options)) as exchange:
        await exchange.contains("data: 1")
        exchange.leave()
        await exchange.returns()

    (record,) = caplog.records
    assert (record.name, record.levelname) == ("sse_starlette.sse", "ERROR")
    assert record.getMessage() == f"{name} raised after the stream had ended (client)"
    assert record.exc_info is not None
    assert isinstance(record.exc_info[1], ZeroDivisionError)


async def test_a_bare_response_does_not_use_its_source_up_for_the_lifespan_of_a_server() -> None:
    async def nobody(message: Message | None = None) -> Message:
        raise AssertionError

    source = Source("1")
    response = EventSourceResponse(source)
    with pytest.raises(RuntimeError, match="answers requests, and not ASGI's 'lifespan'"):
        await response({"type": "lifespan"}, nobody, nobody)  # type: ignore[arg-type]

    async with drive(response) as exchange:
        await exchange.returns()

    assert exchange.body == b"data: 1\r\n\r\n"


def test_a_farewell_that_returns_none_is_none() -> None:
    response = EventSourceResponse([], farewell=lambda: None, shutdown_retry_ms=(5, 5))

    assert response._options.farewell_frame() == b"retry: 5\r\n\r\n"


async def test_event_of_fastapi_may_be_given_wherever_an_event_may() -> None:
    def named(name: str) -> object:
        return fastapi.sse.ServerSentEvent(data=name, event=name)

    response = EventSourceResponse(
        failing(named("yielded")),
        ping_message_factory=lambda: named("ping"),
        on_error=lambda _: named("error"),
        farewell=named("farewell"),
    )

    async with drive(response) as exchange:
        await exchange.returns()

    assert exchange.body == (
        b'event: yielded\r\ndata: "yielded"\r\n\r\nevent: error\r\ndata: "error"\r\n\r\n'
    )
    assert response._options.ping_frame() == b'event: ping\r\ndata: "ping"\r\n\r\n'
    assert response._options.farewell_frame() == b'event: farewell\r\ndata: "farewell"\r\n\r\n'


async def test_serializer_that_raises_is_an_error_of_its_stream() -> None:
    def serializer(value: object) -> str:
        raise MadeUpError(value)

    notes = Notes()
    response = notes.response(Source("1", [1]), serializer=serializer)

    async with drive(response) as exchange:
        await exchange.raises(MadeUpError)

    assert exchange.complete
    assert exchange.body == b"data: 1\r\n\r\n"
    assert notes.calls == ["error"]


@pytest.mark.parametrize(
    ("value", "frame", "line"),
    [
        ("data: hi\n\n", b"data: data: hi\r\ndata: \r\ndata: \r\n\r\n", 'yield "text"'),
        (None, b"data: None\r\n\r\n", "don't yield"),
    ],
)
async def test_value_that_is_hardly_meant_is_warned_of_once_for_each_response(
    value: object, frame: bytes, line: str, caplog: pytest.LogCaptureFixture
) -> None:
    for responses in (1, 2):
        async with drive(EventSourceResponse(Source(value, "fine", value))) as exchange:
            await exchange.returns()

        assert exchange.body == frame + b"data: fine\r\n\r\n" + frame
        assert len(caplog.records) == responses
    assert caplog.records[0].name == "sse_starlette.sse"
    assert line in caplog.records[0].getMessage()


@pytest.mark.parametrize(
    ("items", "wait", "logged"),
    [
        pytest.param([], None, ["404", "status 200", "first_event_timeout"], id="too late"),
        pytest.param(["1"], None, ["404", "status 200", "first_event_timeout"], id="after events"),
        pytest.param([], 5, [], id="in time"),
    ],
)
async def test_http_exception_that_comes_too_late_is_logged_with_the_way_out(
    items: list[str], wait: float | None, logged: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    source = failing(*items, failure=HTTPException(404, "no such thing"))

    async with drive(EventSourceResponse(source, first_event_timeout=wait)) as exchange:
        await exchange.raises(HTTPException)

    assert [record.name for record in caplog.records] == ["sse_starlette.sse"] * bool(logged)
    assert all(words in caplog.text for words in logged)


async def test_websocket_is_denied_with_the_response() -> None:
    async with drive(EventSourceResponse(Source("1")), scope=websocket_scope()) as exchange:
        await exchange.returns()

    assert [message["type"] for message in exchange.messages] == [
        "websocket.http.response.start",
        "websocket.http.response.body",
        "websocket.http.response.body",
    ]
    assert exchange.body == b"data: 1\r\n\r\n"


async def test_response_is_active_until_it_has_ended() -> None:
    response = EventSourceResponse(endless("1"))

    async with connect(response) as stream:
        await stream.expect(data="1")
        before = response.active

    assert (before, response.active) == (True, False)


# Ping


async def test_default_ping_is_a_comment_with_the_time_in_utc_and_the_separator_of_the_response(
    loops: list[StillLoop],
) -> None:
    async with drive(EventSourceResponse(endless(), sep="\n")) as exchange:
        await exchange.until(lambda: exchange.messages)
        await loops[0].advance(15)

    time = rb"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d(\.\d+)?\+00:00"
    assert re.fullmatch(rb": ping - " + time + rb"\n\n", exchange.body)


@pytest.mark.parametrize(
    ("made", "sent"),
    [
        (ServerSentEvent(comment="still here"), b": still here\r\n\r\n"),
        ({"event": "ping"}, b"event: ping\r\n\r\n"),
        (b": p\n\n", b": p\n\n"),
        ("ping", b"data: ping\r\n\r\n"),
    ],
)
async def test_own_ping_may_be_whatever_a_source_may_yield(
    made: object, sent: bytes, loops: list[StillLoop]
) -> None:
    response = EventSourceResponse(endless(), ping_message_factory=lambda: made)

    async with drive(response) as exchange:
        await exchange.until(lambda: exchange.messages)
        await loops[0].advance(30)

        assert exchange.chunks == [sent, sent]


# Errors


async def make_event_later(failure: Exception) -> dict[str, str]:
    await anyio.lowlevel.checkpoint()
    return {"event": "error", "data": str(failure)}


@pytest.mark.parametrize(
    ("on_error", "frame"),
    [
        (lambda failure: ServerSentEvent(str(failure)), b"data: of the source\r\n\r\n"),
        (make_event_later, b"event: error\r\ndata: of the source\r\n\r\n"),
        (lambda failure: None, b""),
    ],
    ids=["an event", "an event, later", "no event"],
)
async def test_on_error_makes_the_last_event_and_keeps_the_error_from_the_server(
    on_error: Callable[[Exception], Any], frame: bytes
) -> None:
    async with drive(EventSourceResponse(failing("1"), on_error=on_error)) as exchange:
        await exchange.returns()

    assert exchange.body == b"data: 1\r\n\r\n" + frame
    assert exchange.complete


# The first event


def app_of(endpoint: Callable[[Request], Any], *middleware: Middleware) -> Starlette:
    return Starlette(routes=[Route("/", endpoint)], middleware=middleware)


async def test_http_exception_before_the_first_event_is_an_ordinary_answer() -> None:
    notes = Notes()

    async def endpoint(request: Request) -> Response:
        source = failing(failure=HTTPException(403, "not yours"))
        return notes.response(source, first_event_timeout=math.inf)

    async with drive(app_of(endpoint)) as exchange:
        await exchange.returns()

    assert exchange.status == 403
    assert exchange.body == b"not yours"
    assert notes.calls == ["error"]


# Callbacks


async def test_callbacks_run_after_the_source_has_been_closed() -> None:
    source = endless("1")
    seen_by_callback: list[str] = []

    response = EventSourceResponse(source, on_close=lambda _: seen_by_callback.extend(source.seen))
    async with connect(response) as stream:
        await stream.expect(data="1")

    assert seen_by_callback == ["begun", "cancelled", "closed"]


async def test_callbacks_of_a_stream_that_is_cancelled_when_it_has_ended_may_wait() -> None:
    notes = Notes()
    cleaning_up = anyio.Event()

    async def source() -> AsyncIterator[str]:
        try:
            yield "1"
            await anyio.sleep_forever()
        finally:
            await cleaning_up.wait()

    async with drive(notes.response(source())) as exchange:
        await exchange.chunk(0)
        exchange.leave()
        await settled()
        exchange.cancel()
        cleaning_up.set()
        await exchange.ends()

    assert notes.calls == ["http.disconnect", "client", "background"]
    assert notes.waits == 3


@each_way_to_cancel
async def test_cancellation_in_a_callback_lets_the_others_run(way: str) -> None:
    notes = Notes()
    begun = anyio.Event()

    async def handler(message: Message) -> None:
        begun.set()
        await anyio.sleep_forever()

    response = notes.response(endless("1"))
    response.client_close_handler_callable = handler
    async with drive(response) as exchange:
        await exchange.chunk(0)
        exchange.leave()
        await begun.wait()
        exchange.cancel_in(way)
        await exchange.is_cancelled()

    assert notes.calls == ["client", "background"]


@each_way_to_cancel
async def test_callback_that_keeps_a_cancelled_response_too_long_is_cut_with_a_warning(
    way: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    notes = Notes()

    response = notes.response(endless("1"), cleanup_timeout=0)
    response.on_close = lambda reason: anyio.sleep_forever()
    async with drive(response) as exchange:
        await exchange.chunk(0)
        exchange.cancel_in(way)
        await exchange.is_cancelled()

    messages = [record.getMessage() for record in caplog.records]
    assert any("cleanup_timeout" in message for message in messages)


# In an application


class PassOn(BaseHTTPMiddleware):
    async def dispatch(self, request: Request, call_next: RequestResponseEndpoint) -> Response:
        response = await call_next(request)
        response.headers["x-passed"] = "on"
        return response


MIDDLEWARE = {
    "none": [],
    "base": [Middleware(PassOn)],
    "two of base": [Middleware(PassOn), Middleware(PassOn)],
    "gzip": [Middleware(GZipMiddleware, minimum_size=0)],
    "cors": [Middleware(CORSMiddleware, allow_origins=["*"])],
}


BROWSER = {"Origin": "https://example.org", "Accept-Encoding": "gzip"}


@pytest.fixture(params=MIDDLEWARE)
def middleware(request: pytest.FixtureRequest) -> list[Middleware]:
    return MIDDLEWARE[request.param]


async def test_events_pass_middleware_one_by_one_and_the_end_too(
    middleware: list[Middleware],
) -> None:
    go_on = anyio.Event()

    async def source() -> AsyncIterator[str]:
        yield "1"
        await go_on.wait()
        yield "2"

    async def endpoint(request: Request) -> Response:
        return EventSourceResponse(source())

    async with connect(app_of(endpoint, *middleware), headers=BROWSER) as stream:
        await stream.expect(data="1")
        go_on.set()
        await stream.expect(data="2")
        await stream.until_ended()

        stream.assert_headers()
        cors = middleware == MIDDLEWARE["cors"]
        assert stream.response.headers.get("access-control-allow-origin") == ("*" if cors else None)


async def test_client_that_leaves_is_noticed_behind_middleware(
    middleware: list[Middleware], caplog: pytest.LogCaptureFixture
) -> None:
    notes = Notes()
    source = endless("1")

    async def endpoint(request: Request) -> Response:
        return notes.response(source)

    async with connect(app_of(endpoint, *middleware), headers=BROWSER) as stream:
        await stream.expect(data="1")
        await settled()  # The source waits now, and no longer for its event to be sent.

    assert source.seen == ["begun", "cancelled", "closed"]
    assert notes.calls == ["http.disconnect", "client", "background"]
    assert caplog.records == []


async def test_route_answers_head_with_the_headers_of_get(middleware: list[Middleware]) -> None:
    source = Source("1")

    async def endpoint(request: Request) -> Response:
        return EventSourceResponse(source)

    headers = [(name.lower().encode(), value.encode()) for name, value in BROWSER.items()]
    scope = http_scope("HEAD", headers=headers)
    async with drive(app_of(endpoint, *middleware), scope=scope) as exchange:
        await exchange.returns()

    assert exchange.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert exchange.body == b""
    assert (source.seen, source.released) == ([], 1)


# A feed as content


async def test_feed_is_content_and_is_told_whether_it_may_join() -> None:
    feed = HandFeed(b"data: 1\n\n")

    async with drive(EventSourceResponse(feed, join_events=False)) as exchange:  # type: ignore[arg-type]
        await exchange.chunk(0)
        exchange.leave()
        await exchange.returns()

    assert feed.joins is False
    assert feed.closed


async def test_feed_that_is_over_is_answered_with_204_so_that_the_client_stays_away() -> None:
    """Without the headers of CORS a browser would take it for a failure, and come back."""

    class Over(HandFeed):
        def is_over(self) -> bool:
            return True

    feed = Over()
    headers = {"Access-Control-Allow-Origin": "*"}

    async with drive(EventSourceResponse(feed, headers=headers)) as exchange:  # type: ignore[arg-type]
        await exchange.returns()

    assert exchange.status == 204
    assert exchange.headers == {
        "access-control-allow-origin": "*",
        "cache-control": "no-store",
        "x-accel-buffering": "no",
    }
    assert exchange.body == b""
    assert feed.closed


async def test_headers_leave_at_once_behind_gzip_however_long_the_first_event_takes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The oldest starlettes withhold them until a chunk follows."""
    monkeypatch.setattr(sse_starlette.sse, "StreamOptions", StreamOptions)  # as it is

    async def events() -> AsyncIterator[int]:
        await anyio.sleep_forever()
        yield 0

    async with drive(GZipMiddleware(EventSourceResponse(events()))) as exchange:
        await exchange.until(lambda: exchange.messages)
        exchange.leave()
        await exchange.returns()

    assert exchange.status == 200


@pytest.mark.parametrize("anyio_backend", [on("asyncio"), on("uvloop")])
@pytest.mark.parametrize("kind", ["source", "subscription", "left", "observed"])
async def test_stream_that_is_over_goes_without_the_garbage_collector(kind: str) -> None:
    """It may hold a lot, and a server that opens and closes thousands has better to do."""
    channel = Hub().channel("news")

    async def events() -> AsyncIterator[int]:
        yield 1
        if kind == "left":
            await anyio.sleep_forever()

    async def one_stream() -> weakref.ref[object]:
        content = channel.subscribe() if kind == "subscription" else events()
        leaving = anyio.Event()
        sent = anyio.Event()

        async def receive() -> Message:
            await leaving.wait()
            return {"type": "http.disconnect"}

        async def send(message: Message) -> None:
            if message.get("body"):
                sent.set()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(EventSourceResponse(content), http_scope(), receive, send)
            await sent.wait()
            if kind == "subscription":
                channel.close()
            elif kind == "left":
                leaving.set()
        return weakref.ref(content)

    unobserve = observe(Tally()) if kind == "observed" else None
    gc.disable()
    try:
        gone = await one_stream()
        await settled()
        assert gone() is None
    finally:
        gc.enable()
        if unobserve is not None:
            unobserve()


# What is ours and what is theirs


@pytest.mark.parametrize("ending", ["an event", "an error", "a shutdown"])
async def test_what_follows_an_event_that_is_not_finished_is_an_event_of_its_own(
    ending: str,
) -> None:
    go_on = anyio.Event()

    async def relay() -> AsyncIterator[object]:
        yield b"data: half"
        await go_on.wait()
        if ending == "an error":
            raise KeyError("upstream")
        yield {"event": "bye", "data": "ours"}

    response = EventSourceResponse(
        relay(),
        sep="\n",
        on_error=lambda exc: {"event": "bye", "data": "ours"},
        farewell={"event": "bye", "data": "ours"},
    )
    async with drive(response) as exchange:
        await exchange.contains("half")
        if ending == "a shutdown":
            sse_starlette.drain()
        else:
            go_on.set()
        await exchange.returns()

    assert exchange.body == b"data: half\n\nevent: bye\ndata: ours\n\n"


@pytest.mark.parametrize("ping", [b": ping\r\n", b": ping", b"event: ping\ndata: x"])
async def test_ping_of_ones_own_ends_before_the_next_event(
    ping: bytes, loops: list[StillLoop]
) -> None:
    go_on = anyio.Event()

    async def source() -> AsyncIterator[object]:
        await go_on.wait()
        yield {"data": "next"}

    response = EventSourceResponse(source(), ping=1, ping_message_factory=lambda: ping)
    async with drive(response) as exchange:
        await exchange.until(lambda: exchange.messages)
        await loops[0].advance(1)
        go_on.set()
        await exchange.returns()

    between = {b": ping\r\n": b"", b": ping": b"\r\n"}.get(ping, b"\r\n\r\n")
    assert exchange.body == ping + between + b"data: next\r\n\r\n"


async def test_clients_that_take_a_blank_line_for_an_event_read_those_around_a_ping_without_one(
    loops: list[StillLoop],
) -> None:
    """httpx-sse fires an empty event for a ping that comes after an event with an id."""
    bodies = []
    ways: list[dict[str, Any]] = [{}, {"ping_message_factory": lambda: b": ping\r\n"}]
    for options in ways:
        go_on = anyio.Event()

        async def source(go_on: anyio.Event = go_on) -> AsyncIterator[object]:
            yield {"data": "one", "id": "1"}
            await go_on.wait()
            yield {"data": "two"}

        async with drive(EventSourceResponse(source(), ping=1, **options)) as exchange:
            await exchange.until(lambda: exchange.body)
            for _ in range(2):
                await loops[-1].advance(1)
            go_on.set()
            await exchange.returns()
        bodies.append(exchange.body)

    usual, without = bodies
    events = [Fired("message", "one", "1"), Fired("message", "two", "1")]
    assert usual.count(b": ping") == without.count(b": ping") == 2
    assert read_by_the_standard([usual]).fired == events
    assert len(read_by_httpx_sse([usual])) == 4
    assert read_by_the_standard([without]).fired == events
    assert read_by_httpx_sse([without]) == events


@each_way_to_cancel
async def test_cancelled_response_does_not_wait_for_a_client_that_takes_nothing(
    way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert Patience().cancelled < 0.5, "that's how long a server waits"
    impatient = partial(StreamOptions, start_alone=True, patience=Patience(math.inf, cancelled=0))
    monkeypatch.setattr("sse_starlette.sse.StreamOptions", impatient)

    async with drive(EventSourceResponse(endless())) as exchange:
        exchange.block()
        await exchange.until(lambda: exchange.blocked)
        exchange.cancel_in(way)
        await exchange.is_cancelled()
