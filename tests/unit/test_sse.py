"""What a route's `EventSourceResponse` promises: its settings, its headers, its source, its callbacks."""

from __future__ import annotations

import gc
import inspect
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
from starlette.background import BackgroundTask
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route
from starlette.types import Message
from tests.unit.driving import (
    DISCONNECT,
    HandFeed,
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
from sse_starlette import EventSourceResponse, Hub, JSONServerSentEvent, ServerSentEvent
from sse_starlette._stream.options import StreamOptions
from sse_starlette.metrics._tally import Tally
from sse_starlette.observe import observe
from sse_starlette.sse import CloseReason, SendTimeoutError
from sse_starlette.testing import Clock, connect


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


class Notes:
    """Callbacks that note that they were called, and with what."""

    def __init__(self) -> None:
        self.calls: list[object] = []

    async def close_handler(self, message: Message) -> None:
        await anyio.lowlevel.checkpoint()
        self.calls.append(message["type"])

    async def on_close(self, reason: CloseReason) -> None:
        await anyio.lowlevel.checkpoint()
        self.calls.append(reason)

    async def background(self) -> None:
        await anyio.lowlevel.checkpoint()
        self.calls.append("background")

    def response(self, content: Any, **options: Any) -> EventSourceResponse:
        return EventSourceResponse(
            content,
            client_close_handler_callable=self.close_handler,
            on_close=self.on_close,
            background=BackgroundTask(self.background),
            **options,
        )


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


def test_the_old_import_paths_lead_to_the_same_things() -> None:
    assert sse_starlette.sse.EventSourceResponse is sse_starlette.EventSourceResponse
    assert sse_starlette.sse.ServerSentEvent is sse_starlette.event.ServerSentEvent
    assert sse_starlette.sse.ServerSentEvent is sse_starlette.ServerSentEvent
    assert sse_starlette.event.JSONServerSentEvent is sse_starlette.JSONServerSentEvent
    assert sse_starlette.sse.ensure_bytes is sse_starlette.event.ensure_bytes
    assert sse_starlette.sse.SendTimeoutError is sse_starlette.SendTimeoutError
    assert issubclass(SendTimeoutError, TimeoutError)
    for name in (
        "AppStatus",
        "Content",
        "ContentStream",
        "AsyncContentStream",
        "SyncContentStream",
    ):
        assert name in sse_starlette.sse.__all__
        assert hasattr(sse_starlette.sse, name)
    assert re.fullmatch(r"\d+\.\d+\.\d+\S*", sse_starlette.__version__)


def test_all_is_sorted_and_names_what_is_there() -> None:
    assert sse_starlette.sse.__all__ == sorted(sse_starlette.sse.__all__)
    for name in sse_starlette.sse.__all__:
        assert hasattr(sse_starlette.sse, name)


def test_reasons_to_close_are_public() -> None:
    known = {"end", "client", "error", "timeout", "shutdown", "cancelled"}
    assert known <= set(get_args(CloseReason))


# The constructor


def test_new_parameters_are_given_by_name() -> None:
    parameters = inspect.signature(EventSourceResponse).parameters.values()
    new = {
        one.name: one.default for one in parameters if one.kind is inspect.Parameter.KEYWORD_ONLY
    }

    assert {
        "first_event_timeout": None,
        "on_error": None,
        "on_close": None,
        "join_events": True,
    }.items() <= new.items()


def test_class_attributes_hold_the_defaults() -> None:
    assert EventSourceResponse.DEFAULT_PING_INTERVAL == 15
    assert EventSourceResponse.DEFAULT_SEPARATOR == "\r\n"
    assert EventSourceResponse.DEFAULT_CLEANUP_TIMEOUT == 30.0


def test_subclass_may_choose_other_defaults() -> None:
    class Mine(EventSourceResponse):
        DEFAULT_PING_INTERVAL = 3
        DEFAULT_SEPARATOR = "\n"

    response = Mine([])

    assert (response.ping_interval, response.sep) == (3, "\n")


def test_response_is_a_streaming_response() -> None:
    assert issubclass(EventSourceResponse, StreamingResponse)


def test_content_is_not_touched_by_the_constructor() -> None:
    response = EventSourceResponse(0)  # type: ignore[arg-type]

    assert response.status_code == 200
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"


def test_what_was_asked_for_can_be_looked_at() -> None:
    async def handler(message: Message) -> None:
        pass

    async def sender() -> None:
        pass

    def factory() -> str:
        return "ping"

    background = BackgroundTask(sender)
    response = EventSourceResponse(
        [],
        status_code=201,
        background=background,
        ping=7,
        sep="\n",
        ping_message_factory=factory,
        data_sender_callable=sender,
        send_timeout=3,
        client_close_handler_callable=handler,
    )

    assert response.status_code == 201
    assert response.media_type == "text/event-stream"
    assert response.background is background
    assert response.ping_interval == 7
    assert response.sep == "\n"
    assert response.ping_message_factory is factory
    assert response.data_sender_callable is sender
    assert response.send_timeout == 3
    assert response.client_close_handler_callable is handler
    assert response.active is True


def test_ping_is_every_15_seconds_unless_told_otherwise() -> None:
    assert EventSourceResponse([]).ping_interval == 15
    assert EventSourceResponse([], ping=0).ping_interval == 0
    assert EventSourceResponse([], ping=0.5).ping_interval == 0.5


@pytest.mark.parametrize("ping", ["15", [], True, b"1"])
def test_ping_that_is_no_number_is_refused(ping: Any) -> None:
    with pytest.raises(TypeError, match=r"^ping interval must be int or float$"):
        EventSourceResponse([], ping=ping)

    response = EventSourceResponse([])
    with pytest.raises(TypeError, match=r"^ping interval must be int or float$"):
        response.ping_interval = ping


@pytest.mark.parametrize("ping", [-1, -0.5, math.nan])
def test_ping_below_zero_is_refused(ping: float) -> None:
    text = re.escape("ping interval must be >= 0 (0 disables ping)")
    with pytest.raises(ValueError, match=f"^{text}$"):
        EventSourceResponse([], ping=ping)

    response = EventSourceResponse([])
    with pytest.raises(ValueError, match=f"^{text}$"):
        response.ping_interval = ping


@pytest.mark.parametrize("sep", ["", "\n\n", "x", "\r\n\r\n", b"\n", 1])
def test_separator_that_ends_no_line_is_refused(sep: Any) -> None:
    text = re.escape(r"sep must be one of: \r\n, \r, \n, got: ")
    with pytest.raises(ValueError, match=f"^{text}"):
        EventSourceResponse([], sep=sep)

    response = EventSourceResponse([])
    with pytest.raises(ValueError, match=f"^{text}"):
        response.sep = sep


def test_times_below_zero_are_refused() -> None:
    with pytest.raises(ValueError, match=r"^shutdown_grace_period must be >= 0$"):
        EventSourceResponse([], shutdown_grace_period=-1)
    with pytest.raises(ValueError, match=r"^cleanup_timeout must be >= 0$"):
        EventSourceResponse([], cleanup_timeout=-1)
    with pytest.raises(ValueError, match=r"^first_event_timeout must be >= 0 .* got: -1$"):
        EventSourceResponse([], first_event_timeout=-1)


def test_cleanup_may_be_unbounded() -> None:
    assert EventSourceResponse([], cleanup_timeout=None).cleanup_timeout is None


@pytest.mark.parametrize(
    ("name", "wrong", "says"),
    [
        ("sep", None, "sep must be"),
        ("ping_interval", -1, "ping interval must be >= 0"),
        ("send_timeout", "30", "send_timeout is str: give seconds"),
        ("on_close", lambda: None, "on_close is called with the reason"),
        ("farewell", {"evnet": "typo"}, "evnet"),
    ],
)
def test_an_option_that_is_assigned_is_checked_as_if_it_were_passed(
    name: str, wrong: object, says: str
) -> None:
    response = EventSourceResponse([], send_timeout=3)
    before = getattr(response, name)

    with pytest.raises((TypeError, ValueError), match=says):
        setattr(response, name, wrong)

    assert getattr(response, name) == before
    setattr(response, name, before)
    assert EventSourceResponse.send_timeout is vars(EventSourceResponse)["send_timeout"]


def test_compression_does_not_exist() -> None:
    response = EventSourceResponse([])

    with pytest.raises(NotImplementedError):
        response.enable_compression()
    with pytest.raises(NotImplementedError):
        response.enable_compression(force=True)


# Headers


def test_headers_keep_caches_and_proxies_from_holding_events_back() -> None:
    assert dict(EventSourceResponse([]).headers) == {
        "cache-control": "no-store",
        "connection": "keep-alive",
        "x-accel-buffering": "no",
        "content-type": "text/event-stream; charset=utf-8",
    }


def test_own_headers_are_added_and_cache_control_may_be_chosen() -> None:
    headers = {"X-Mine": "1", "Cache-Control": "no-transform"}
    response = EventSourceResponse([], headers=headers)

    assert response.headers["x-mine"] == "1"
    assert response.headers.getlist("cache-control") == ["no-transform"]


def test_connection_and_buffering_are_not_for_the_caller_to_choose() -> None:
    headers = {"connection": "close", "X-ACCEL-Buffering": "yes"}
    response = EventSourceResponse([], headers=headers)

    assert response.headers.getlist("connection") == ["keep-alive"]
    assert response.headers.getlist("x-accel-buffering") == ["no"]


def test_headers_that_were_given_are_not_changed() -> None:
    headers = {"Connection": "close"}
    EventSourceResponse([], headers=headers)

    assert headers == {"Connection": "close"}


def test_media_type_may_be_chosen() -> None:
    response = EventSourceResponse([], media_type="text/plain")

    assert response.headers["content-type"] == "text/plain; charset=utf-8"


def test_subclass_may_have_a_media_type() -> None:
    class Mine(EventSourceResponse):
        media_type = "text/x-mine"

    assert Mine([], media_type=None).headers["content-type"] == "text/x-mine; charset=utf-8"


@pytest.mark.anyio
@pytest.mark.parametrize("version", ["1.0", "1.1", "2", "3"])
async def test_connection_belongs_to_the_server_and_can_only_be_looked_at(version: str) -> None:
    response = EventSourceResponse([])

    async with drive(response, scope=http_scope(http_version=version)) as exchange:
        await exchange.returns()

    assert "connection" not in exchange.headers
    assert exchange.headers["x-accel-buffering"] == "no"
    assert response.headers["connection"] == "keep-alive"


# What is sent


@pytest.mark.anyio
async def test_all_that_can_be_yielded_becomes_an_event() -> None:
    items = [
        b"raw\n\n",
        "text",
        5,
        {"event": "named", "data": [1]},
        ServerSentEvent("object", id=1),
        JSONServerSentEvent({"a": None}),
    ]

    async with drive(EventSourceResponse(Source(*items))) as exchange:
        await exchange.returns()

    assert exchange.status == 200
    assert exchange.body == (
        b"raw\n\n"
        b"data: text\r\n\r\n"
        b"data: 5\r\n\r\n"
        b"event: named\r\ndata: [1]\r\n\r\n"
        b"id: 1\r\ndata: object\r\n\r\n"
        b'data: {"a":null}\r\n\r\n'
    )
    assert exchange.complete


@pytest.mark.anyio
@pytest.mark.parametrize("empty", [b"", ServerSentEvent(), {}])
async def test_source_may_yield_next_to_nothing_and_goes_on(empty: object) -> None:
    async with connect(EventSourceResponse(Source("1", empty, "2"))) as stream:
        assert [event.data async for event in stream] == ["1", "2"]


@pytest.mark.anyio
async def test_sync_iterables_are_content_too() -> None:
    async with connect(EventSourceResponse(str(number) for number in range(3))) as stream:
        assert [event.data async for event in stream] == ["0", "1", "2"]


@pytest.mark.anyio
async def test_memory_stream_is_content_and_is_closed_with_the_response() -> None:
    send, receive = anyio.create_memory_object_stream[str](1)

    async with connect(EventSourceResponse(receive)) as stream:
        await send.send("1")
        await stream.expect(data="1")

    with pytest.raises(anyio.BrokenResourceError):
        send.send_nowait("2")
    send.close()


@pytest.mark.anyio
async def test_content_that_cannot_be_iterated_says_so_in_its_error() -> None:
    async with drive(EventSourceResponse(0)) as exchange:  # type: ignore[arg-type]
        error = await exchange.raises(TypeError)

    assert "iterable" in str(error)
    assert exchange.complete


@pytest.mark.anyio
async def test_body_iterator_may_be_replaced_before_the_response_is_sent() -> None:
    response = EventSourceResponse(Source("1"))
    response.body_iterator = Source("2")

    async with drive(response) as exchange:
        await exchange.returns()

    assert exchange.body == b"data: 2\r\n\r\n"


@pytest.mark.anyio
async def test_separator_may_be_assigned_after_construction() -> None:
    response = EventSourceResponse(Source("1", ServerSentEvent("2")))
    response.sep = "\n"

    async with drive(response) as exchange:
        await exchange.returns()

    assert exchange.body == b"data: 1\n\ndata: 2\n\n"


@pytest.mark.anyio
async def test_same_dict_in_two_responses_is_sent_with_the_separator_of_each() -> None:
    fields = {"event": "tick", "data": "1"}
    one = EventSourceResponse(Source(fields), sep="\n")
    other = EventSourceResponse(Source(fields), sep="\r")

    async with drive(one) as first, drive(other) as second:
        await first.returns()
        await second.returns()

    assert first.body == b"event: tick\ndata: 1\n\n"
    assert second.body == b"event: tick\rdata: 1\r\r"
    assert fields == {"event": "tick", "data": "1"}


@pytest.mark.anyio
async def test_events_leave_one_by_one_where_they_are_not_to_be_joined() -> None:
    events = [str(number) for number in range(100)]

    async with drive(EventSourceResponse(Source(*events), join_events=False)) as exchange:
        await exchange.returns()

    assert len(exchange.chunks) == 100


@pytest.mark.anyio
async def test_events_that_are_ready_together_leave_together(loops: list[StillLoop]) -> None:
    events = [str(number) for number in range(1_000)]

    async with drive(EventSourceResponse(Source(*events))) as exchange:
        await exchange.returns()

    assert exchange.body == b"".join(b"data: %d\r\n\r\n" % number for number in range(1_000))
    assert len(exchange.chunks) < 500


@pytest.mark.anyio
async def test_head_is_answered_without_starting_the_source() -> None:
    notes = Notes()
    source = Source("1")
    response = notes.response(source)

    async with drive(response, scope=http_scope("HEAD")) as exchange:
        await exchange.returns()

    seen = dict(EventSourceResponse([]).headers)
    assert exchange.headers == {name: seen[name] for name in seen if name != "connection"}
    assert exchange.body == b""
    assert exchange.complete
    assert (source.seen, source.released) == ([], 1)
    assert notes.calls == ["end", "background"]


@pytest.mark.anyio
async def test_answer_to_head_that_takes_too_long_times_out() -> None:
    notes = Notes()
    response = notes.response(Source(), send_timeout=0)

    async with drive(response, scope=http_scope("HEAD"), blocked=True) as exchange:
        await exchange.raises(SendTimeoutError)

    assert notes.calls == ["timeout"]


@pytest.mark.anyio
@pytest.mark.parametrize("method", ["head", "Head"])
async def test_head_is_head_in_small_letters_too(method: str) -> None:
    source = Source("1")

    async with drive(EventSourceResponse(source), scope=http_scope(method)) as exchange:
        await exchange.returns()

    assert exchange.body == b""
    assert (source.seen, source.released) == ([], 1)


@pytest.mark.anyio
async def test_separator_of_a_dict_gives_way_to_that_of_the_stream() -> None:
    source = Source(
        {"data": "a", "sep": "\r\n"}, ServerSentEvent("b", sep="\r\n"), ServerSentEvent("c")
    )

    async with drive(EventSourceResponse(source, sep="\n")) as exchange:
        await exchange.returns()

    assert exchange.body == b"data: a\n\ndata: b\r\n\r\ndata: c\n\n"


@pytest.mark.anyio
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


@pytest.mark.anyio
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
    assert record.getMessage() == f"{name} raised after the stream had ended (client)"
    assert record.exc_info is not None
    assert isinstance(record.exc_info[1], ZeroDivisionError)


@pytest.mark.anyio
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


@pytest.mark.anyio
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


@pytest.mark.anyio
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


def test_serializer_that_cannot_be_one_is_refused() -> None:
    with pytest.raises(TypeError, match="serializer is int: give a function"):
        EventSourceResponse([], serializer=3)  # type: ignore[arg-type]


@pytest.mark.anyio
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


@pytest.mark.anyio
@pytest.mark.parametrize("items", [(), ("1",)])
async def test_http_exception_that_comes_too_late_is_logged_with_the_way_out(
    items: tuple[object, ...], caplog: pytest.LogCaptureFixture
) -> None:
    source = failing(*items, failure=HTTPException(404, "no such thing"))

    async with drive(EventSourceResponse(source)) as exchange:
        await exchange.raises(HTTPException)

    (record,) = [one for one in caplog.records if one.name == "sse_starlette.sse"]
    assert "first_event_timeout" in record.getMessage()
    assert "404" in record.getMessage()
    assert "status 200" in record.getMessage()


@pytest.mark.anyio
async def test_http_exception_that_comes_in_time_is_not_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    source = failing(failure=HTTPException(404))

    async with drive(EventSourceResponse(source, first_event_timeout=5)) as exchange:
        await exchange.raises(HTTPException)

    assert caplog.records == []


@pytest.mark.anyio
async def test_websocket_is_denied_with_the_response() -> None:
    async with drive(EventSourceResponse(Source("1")), scope=websocket_scope()) as exchange:
        await exchange.returns()

    assert [message["type"] for message in exchange.messages] == [
        "websocket.http.response.start",
        "websocket.http.response.body",
        "websocket.http.response.body",
    ]
    assert exchange.body == b"data: 1\r\n\r\n"


@pytest.mark.anyio
async def test_response_is_active_until_it_has_ended() -> None:
    response = EventSourceResponse(endless("1"))

    async with connect(response) as stream:
        await stream.expect(data="1")
        before = response.active

    assert (before, response.active) == (True, False)


# Ping


@pytest.mark.anyio
async def test_default_ping_is_a_comment_with_the_time_in_utc() -> None:
    clock = Clock()
    async with connect(EventSourceResponse(endless()), clock=clock) as stream:
        await clock.advance(15)

        [ping] = stream.comments
        assert re.fullmatch(r"ping - \d{4}-\d\d-\d\d \d\d:\d\d:\d\d(\.\d+)?\+00:00", ping.text)


@pytest.mark.anyio
async def test_default_ping_has_the_separator_of_the_response(loops: list[StillLoop]) -> None:
    async with drive(EventSourceResponse(endless(), sep="\n", ping=1)) as exchange:
        await exchange.until(lambda: exchange.messages)
        await loops[0].advance(1)

        assert re.fullmatch(rb": ping - [^\r\n]+\n\n", exchange.body)


@pytest.mark.anyio
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


@pytest.mark.anyio
async def test_ping_that_cannot_be_made_is_treated_like_an_error_of_the_source() -> None:
    def factory() -> ServerSentEvent:
        raise MadeUpError("no ping")

    notes = Notes()
    source = endless("1")
    response = notes.response(source, ping_message_factory=factory, on_error=str)

    clock = Clock()
    async with connect(response, clock=clock) as stream:
        await stream.expect(data="1")
        await clock.advance(15)
        await stream.expect(data="no ping")
        await stream.until_ended()

    assert source.seen == ["begun", "cancelled", "closed"]
    assert notes.calls == ["error"]


@pytest.mark.anyio
async def test_ping_zero_sends_no_ping_and_asks_for_no_alarm(loops: list[StillLoop]) -> None:
    async with drive(EventSourceResponse(endless("1"), ping=0)) as exchange:
        await exchange.chunk(0)
        await loops[0].advance(1_000_000)

        assert len(exchange.chunks) == 1
        assert loops[0].timers == 0


# The source


@pytest.mark.anyio
async def test_source_is_cancelled_where_it_waits_and_closed_when_the_client_leaves() -> None:
    source = endless("1")

    async with connect(EventSourceResponse(source)) as stream:
        await stream.expect(data="1")

    assert source.seen == ["begun", "cancelled", "closed"]
    assert source.released == 1


@pytest.mark.anyio
async def test_source_whose_headers_were_never_taken_is_released_once() -> None:
    """The headers are being sent when the client leaves."""
    notes = Notes()
    source = Source("1")

    async with drive(notes.response(source), blocked=True) as exchange:
        await exchange.until(lambda: exchange.blocked)
        exchange.leave()
        await exchange.returns()

    assert (source.seen, source.released) == (["begun", "closed"], 1)
    assert notes.calls == ["http.disconnect", "client", "background"]


@pytest.mark.anyio
async def test_cleanup_that_takes_too_long_is_cut_with_a_warning(
    caplog: pytest.LogCaptureFixture,
) -> None:
    seen: list[str] = []

    async def source() -> AsyncIterator[str]:
        try:
            yield "1"
            await anyio.sleep_forever()
        finally:
            try:
                await anyio.sleep_forever()
            finally:
                seen.append("cut")

    async with drive(EventSourceResponse(source(), cleanup_timeout=0)) as exchange:
        await exchange.chunk(0)
        exchange.leave()
        await exchange.returns()

    assert seen == ["cut"]
    [record] = caplog.records
    assert (record.name, record.levelname) == ("sse_starlette.sse", "WARNING")
    assert "cleanup" in record.getMessage()


@pytest.mark.anyio
async def test_error_in_cleanup_is_logged_and_changes_nothing_else(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def source() -> AsyncIterator[str]:
        try:
            yield "1"
            await anyio.sleep_forever()
        finally:
            raise MadeUpError("in cleanup")

    notes = Notes()
    async with connect(notes.response(source())) as stream:
        await stream.expect(data="1")

    [record] = caplog.records
    assert (record.name, record.levelname) == ("sse_starlette.sse", "ERROR")
    assert record.exc_info is not None
    assert "cleanup" in record.getMessage()
    assert notes.calls == ["http.disconnect", "client", "background"]


@pytest.mark.anyio
async def test_data_sender_runs_beside_the_stream_and_is_cancelled_with_it() -> None:
    seen: list[str] = []
    send, receive = anyio.create_memory_object_stream[str]()

    async def sender() -> None:
        async with send:
            await send.send("1")
            try:
                await anyio.sleep_forever()
            finally:
                seen.append("cancelled")

    async with connect(EventSourceResponse(receive, data_sender_callable=sender)) as stream:
        await stream.expect(data="1")

    assert seen == ["cancelled"]


@pytest.mark.anyio
async def test_data_sender_that_returns_ends_the_stream_it_feeds() -> None:
    send, receive = anyio.create_memory_object_stream[str]()

    async def sender() -> None:
        async with send:
            await send.send("1")

    response = EventSourceResponse(
        receive, data_sender_callable=sender, first_event_timeout=math.inf
    )
    async with connect(response) as stream:
        assert [event.data async for event in stream] == ["1"]


# Errors


@pytest.mark.anyio
@pytest.mark.parametrize(
    "failure",
    [
        MadeUpError("bare"),
        ExceptionGroup("of the user", [ValueError(), ExceptionGroup("", [MadeUpError()])]),
    ],
)
async def test_error_of_the_source_leaves_as_it_was_raised(failure: Exception) -> None:
    source = failing("1", failure=failure)

    async with drive(EventSourceResponse(source)) as exchange:
        error = await exchange.raises(type(failure))

    assert error is failure
    assert exchange.complete
    assert source.released == 1


@pytest.mark.anyio
async def test_value_that_cannot_be_encoded_is_an_error_of_its_stream() -> None:
    notes = Notes()
    source = Source("1", {"unknown": "key"}, "2")

    async with drive(notes.response(source)) as exchange:
        error = await exchange.raises(TypeError)

    assert "'unknown'" in str(error)
    assert exchange.body == b"data: 1\r\n\r\n"
    assert exchange.complete
    assert source.seen[-1] == "closed"
    assert notes.calls == ["error"]


@pytest.mark.anyio
async def test_on_error_makes_the_last_event_and_keeps_the_error_from_the_server() -> None:
    failures: list[Exception] = []

    def on_error(failure: Exception) -> ServerSentEvent:
        failures.append(failure)
        return ServerSentEvent("sorry", event="error")

    failure = MadeUpError()
    source = failing("1", failure=failure)

    async with connect(EventSourceResponse(source, on_error=on_error)) as stream:
        await stream.expect(data="1")
        await stream.expect(event="error", data="sorry")
        await stream.until_ended()

    assert failures == [failure]


@pytest.mark.anyio
async def test_on_error_may_wait() -> None:
    async def on_error(failure: Exception) -> dict[str, str]:
        await anyio.lowlevel.checkpoint()
        return {"event": "error"}

    async with drive(EventSourceResponse(failing(), on_error=on_error)) as exchange:
        await exchange.returns()

    assert exchange.body == b"event: error\r\n\r\n"


@pytest.mark.anyio
async def test_on_error_that_returns_none_sends_nothing() -> None:
    async with drive(EventSourceResponse(failing(), on_error=lambda _: None)) as exchange:
        await exchange.returns()

    assert exchange.body == b""
    assert exchange.complete


@pytest.mark.anyio
async def test_on_error_that_raises_is_logged_and_the_first_error_goes_to_the_server(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def on_error(failure: Exception) -> None:
        raise ValueError("broken handler")

    notes = Notes()
    async with drive(notes.response(failing(), on_error=on_error)) as exchange:
        await exchange.raises(MadeUpError)

    assert exchange.complete
    assert "broken handler" in caplog.text
    assert notes.calls == ["error"]


@pytest.mark.anyio
async def test_on_error_may_raise_the_error_again(caplog: pytest.LogCaptureFixture) -> None:
    def on_error(failure: Exception) -> None:
        raise failure

    async with drive(EventSourceResponse(failing(), on_error=on_error)) as exchange:
        await exchange.raises(MadeUpError)

    assert exchange.complete
    assert caplog.records == []


@pytest.mark.anyio
async def test_error_of_one_stream_does_not_touch_another() -> None:
    async with (
        drive(EventSourceResponse(endless("1"))) as healthy,
        drive(EventSourceResponse(failing("1"))) as broken,
    ):
        await healthy.chunk(0)
        await broken.raises(MadeUpError)
        await settled()

        assert not healthy.over


# The first event


def app_of(endpoint: Callable[[Request], Any], *middleware: Middleware) -> Starlette:
    return Starlette(routes=[Route("/", endpoint)], middleware=middleware)


@pytest.mark.anyio
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


@pytest.mark.anyio
async def test_slow_first_event_is_waited_for_with_pings_when_the_time_is_up() -> None:
    first = anyio.Event()

    async def source() -> AsyncIterator[str]:
        await first.wait()
        yield "1"

    clock = Clock()
    response = EventSourceResponse(source(), first_event_timeout=0.001)
    async with connect(response, clock=clock) as stream:
        await clock.advance(15)
        assert len(stream.comments) == 1
        first.set()
        await stream.expect(data="1")


@pytest.mark.anyio
async def test_first_event_leaves_at_once() -> None:
    response = EventSourceResponse(endless("1"), first_event_timeout=math.inf)

    async with drive(response) as exchange:
        assert await exchange.chunk(0) == b"data: 1\r\n\r\n"


@pytest.mark.anyio
async def test_empty_source_that_is_waited_for_gives_an_empty_stream() -> None:
    async with drive(EventSourceResponse(Source(), first_event_timeout=math.inf)) as exchange:
        await exchange.returns()

    assert exchange.status == 200
    assert exchange.complete


@pytest.mark.anyio
async def test_client_may_leave_before_the_first_event() -> None:
    notes = Notes()
    source = endless()

    async with drive(notes.response(source, first_event_timeout=math.inf)) as exchange:
        await exchange.until(lambda: source.seen)
        exchange.leave()
        await exchange.returns()

    assert exchange.offered == []
    assert source.seen == ["begun", "cancelled", "closed"]
    assert notes.calls == ["http.disconnect", "client", "background"]


# Callbacks


@pytest.mark.anyio
async def test_close_handler_gets_the_message_of_the_server() -> None:
    messages: list[Message] = []

    async def handler(message: Message) -> None:
        messages.append(message)

    response = EventSourceResponse(endless("1"), client_close_handler_callable=handler)
    async with connect(response) as stream:
        await stream.expect(data="1")

    assert messages == [DISCONNECT]


@pytest.mark.anyio
async def test_close_handler_is_not_called_when_the_source_ends() -> None:
    notes = Notes()

    async with drive(notes.response(Source("1"))) as exchange:
        await exchange.returns()

    assert notes.calls == ["end", "background"]


@pytest.mark.anyio
async def test_callbacks_run_after_the_source_has_been_closed() -> None:
    source = endless("1")
    seen_by_callback: list[str] = []

    response = EventSourceResponse(source, on_close=lambda _: seen_by_callback.extend(source.seen))
    async with connect(response) as stream:
        await stream.expect(data="1")

    assert seen_by_callback == ["begun", "cancelled", "closed"]


@pytest.mark.anyio
async def test_callbacks_that_raise_are_logged_and_do_not_stop_the_others(
    caplog: pytest.LogCaptureFixture,
) -> None:
    calls: list[str] = []

    async def handler(message: Message) -> None:
        calls.append("handler")
        raise MadeUpError("handler")

    def on_close(reason: CloseReason) -> None:
        calls.append(reason)
        raise MadeUpError("on_close")

    async def background() -> None:
        calls.append("background")
        raise MadeUpError("background")

    response = EventSourceResponse(
        endless("1"),
        client_close_handler_callable=handler,
        on_close=on_close,
        background=BackgroundTask(background),
    )
    async with connect(response) as stream:
        await stream.expect(data="1")

    assert calls == ["handler", "client", "background"]
    assert [record.levelname for record in caplog.records] == ["ERROR"] * 3
    assert {record.name for record in caplog.records} == {"sse_starlette.sse"}


@pytest.mark.anyio
async def test_callbacks_of_a_cancelled_response_may_wait() -> None:
    notes = Notes()

    async with drive(notes.response(endless("1"))) as exchange:
        await exchange.chunk(0)
        exchange.cancel()
        await exchange.is_cancelled()

    assert notes.calls == ["cancelled"]


@pytest.mark.anyio
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


@pytest.mark.anyio
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


@pytest.mark.anyio
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


@pytest.mark.anyio
async def test_send_that_takes_too_long_ends_the_response_when_the_source_is_closed() -> None:
    notes = Notes()
    source = endless("1")

    async with drive(notes.response(source, send_timeout=0)) as exchange:
        exchange.block()
        error = await exchange.raises(SendTimeoutError)

    assert error.timeout == 0
    assert source.released == 1
    assert notes.calls == ["timeout"]


@pytest.mark.anyio
async def test_ping_that_takes_too_long_ends_the_response(loops: list[StillLoop]) -> None:
    source = endless("1")

    async with drive(EventSourceResponse(source, send_timeout=0)) as exchange:
        await exchange.chunk(0)
        exchange.block()
        await loops[0].advance(15)
        await exchange.raises(SendTimeoutError)

    assert source.seen == ["begun", "cancelled", "closed"]


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


@pytest.mark.anyio
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


@pytest.mark.anyio
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


@pytest.mark.anyio
async def test_cors_headers_are_on_the_stream() -> None:
    async def endpoint(request: Request) -> Response:
        return EventSourceResponse(Source("1"))

    app = app_of(endpoint, *MIDDLEWARE["cors"])
    async with connect(app, headers=BROWSER) as stream:
        assert stream.response.headers["access-control-allow-origin"] == "*"


@pytest.mark.anyio
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


@pytest.mark.anyio
async def test_feed_is_content_and_is_told_whether_it_may_join() -> None:
    feed = HandFeed(b"data: 1\n\n")

    async with drive(EventSourceResponse(feed, join_events=False)) as exchange:  # type: ignore[arg-type]
        await exchange.chunk(0)
        exchange.leave()
        await exchange.returns()

    assert feed.joins is False
    assert feed.closed


@pytest.mark.anyio
async def test_feed_that_is_over_is_answered_with_204_so_that_the_client_stays_away() -> None:
    class Over(HandFeed):
        def is_over(self) -> bool:
            return True

    feed = Over()

    async with drive(EventSourceResponse(feed)) as exchange:  # type: ignore[arg-type]
        await exchange.returns()

    assert exchange.status == 204
    assert "content-type" not in exchange.headers
    assert exchange.body == b""
    assert feed.closed


@pytest.mark.anyio
async def test_answer_that_tells_to_stay_away_keeps_the_other_headers() -> None:
    """Without those of CORS a browser would take it for a failure, and come back."""
    channel = Hub().channel("over")
    channel.close()
    response = EventSourceResponse(
        channel.subscribe(), headers={"Access-Control-Allow-Origin": "*"}
    )

    async with drive(response) as exchange:
        await exchange.returns()

    start = exchange.messages[0]
    assert start["status"] == 204
    assert dict(start["headers"]) == {
        b"access-control-allow-origin": b"*",
        b"cache-control": b"no-store",
        b"x-accel-buffering": b"no",
    }


@pytest.mark.anyio
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
@pytest.mark.anyio
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


@pytest.mark.anyio
async def test_no_ping_falls_into_an_event_that_is_relayed_in_pieces(
    loops: list[StillLoop],
) -> None:
    go_on = anyio.Event()

    async def relay() -> AsyncIterator[object]:
        yield b"data: first half"
        await go_on.wait()
        yield b" second half\n\n"
        await anyio.sleep_forever()

    async with drive(EventSourceResponse(relay(), ping=1)) as exchange:
        await exchange.contains("first half")
        await loops[0].advance(5)
        assert exchange.body == b"data: first half"
        go_on.set()
        await exchange.contains("second half")
        await loops[0].advance(1)
        await exchange.contains("ping")

    assert exchange.body.startswith(b"data: first half second half\n\n: ping")


@pytest.mark.anyio
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


@pytest.mark.anyio
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


@pytest.mark.anyio
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
@pytest.mark.anyio
async def test_cancelled_response_does_not_wait_for_a_client_that_takes_nothing(
    way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    timeout = inspect.signature(StreamOptions).parameters["cancelled_timeout"].default
    assert timeout < 0.5, "that's how long a server waits"
    impatient = partial(
        StreamOptions, start_alone=True, cancelled_timeout=0, last_chunk_timeout=math.inf
    )
    monkeypatch.setattr("sse_starlette.sse.StreamOptions", impatient)

    async with drive(EventSourceResponse(endless())) as exchange:
        exchange.block()
        await exchange.until(lambda: exchange.blocked)
        exchange.cancel_in(way)
        await exchange.is_cancelled()
