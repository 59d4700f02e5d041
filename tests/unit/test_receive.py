"""Who reads a request, and how it is noticed that the client has left."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from starlette.requests import Request
from starlette.types import Message, Receive, Scope, Send
from tests.unit.driving import DISCONNECT, Exchange, drive, http_scope, on_asyncio, settled, turns

from sse_starlette import EventSourceResponse
from sse_starlette._stream import receive as _receive
from sse_starlette._stream.receive import may_have_body, until_body_is_read, until_disconnect
from sse_starlette.channels.channel import Channel

pytestmark = pytest.mark.anyio

BODY = b'{"q": "why?"}'


@pytest.fixture
def slept(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses that would have been made; they take no time."""
    pauses: list[float] = []

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)
        await anyio.lowlevel.checkpoint()

    monkeypatch.setattr(_receive, "sleep", sleep)
    return pauses


def request_message(body: bytes = b"", *, more_body: bool = False) -> Message:
    return {"type": "http.request", "body": body, "more_body": more_body}


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ({}, False),
        ({"headers": [(b"accept", b"*/*")]}, False),
        ({"headers": [(b"content-length", b"0")]}, False),
        ({"headers": [(b"content-length", b"00")]}, False),
        ({"headers": [(b"content-length", b"12")]}, True),
        ({"headers": [(b"accept", b"*/*"), (b"transfer-encoding", b"chunked")]}, True),
        ({"method": "POST"}, False),
        ({"method": "POST", "http_version": "2"}, True),
        ({"method": "post", "http_version": "3"}, True),
        ({"method": "POST", "http_version": "2", "headers": [(b"content-length", b"0")]}, False),
        ({"method": "GET", "http_version": "2"}, False),
        ({"type": "websocket", "headers": [(b"content-length", b"12")]}, False),
    ],
)
def test_request_tells_whether_it_may_have_a_body(more: dict[str, Any], expected: bool) -> None:
    assert may_have_body(http_scope(**more)) is expected


class Server:
    """Gives each message to whoever has waited longest, as servers with a queue do."""

    def __init__(self) -> None:
        self._send, self._messages = anyio.create_memory_object_stream[Message](100)

    def arrives(self, chunk: bytes, *, more_body: bool = False) -> None:
        self._send.send_nowait(request_message(chunk, more_body=more_body))

    async def receive(self, exchange: Exchange | None = None) -> Message:
        return await self._messages.receive()

    def close(self) -> None:
        self._send.close()
        self._messages.close()


def posted(source: Callable[[Request], AsyncIterator[Any]]) -> Any:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await EventSourceResponse(source(Request(scope, receive)))(scope, receive, send)

    return app


async def json(request: Request) -> object:
    return (await request.json())["q"]


async def body(request: Request) -> object:
    return (await request.body()).decode()


async def stream(request: Request) -> object:
    return b"".join([chunk async for chunk in request.stream()]).decode()


async def json_after_a_wait(request: Request) -> object:
    await turns(20)
    return (await request.json())["q"]


@pytest.mark.parametrize("late", [False, True], ids=["there already", "arrives later"])
@pytest.mark.parametrize(
    ("read", "expected"),
    [(json, b"why?"), (body, BODY), (stream, BODY), (json_after_a_wait, b"why?")],
)
async def test_source_may_read_the_body_of_the_request(
    read: Callable[[Request], Awaitable[object]], expected: bytes, late: bool
) -> None:
    async def answer(request: Request) -> AsyncIterator[object]:
        yield {"data": await read(request)}

    server = Server()
    scope = http_scope("POST", headers=[(b"content-length", b"%d" % len(BODY))])
    if not late:
        server.arrives(BODY)
    async with drive(posted(answer), scope=scope, receive=server.receive) as exchange:
        if late:
            await settled()
            server.arrives(BODY[:5], more_body=True)
            await settled()
            server.arrives(BODY[5:])
        await exchange.returns()
    server.close()

    assert exchange.body == b"data: %b\r\n\r\n" % expected


async def test_source_may_read_a_body_that_no_header_tells_of() -> None:
    async def answer(request: Request) -> AsyncIterator[object]:
        yield {"data": await json(request)}

    server = Server()
    async with drive(posted(answer), scope=http_scope("POST"), receive=server.receive) as exchange:
        await settled()
        server.arrives(BODY)
        await exchange.returns()
    server.close()

    assert exchange.body == b"data: why?\r\n\r\n"


async def test_source_may_ask_whether_the_client_has_left() -> None:
    ended: list[str] = []

    async def endless(request: Request) -> AsyncIterator[object]:
        try:
            while not await request.is_disconnected():
                yield {"data": "still there"}
                await anyio.lowlevel.checkpoint()
        finally:
            ended.append("closed")

    async with drive(posted(endless)) as exchange:
        await exchange.chunk(3)
        exchange.leave()
        await exchange.returns()

    assert ended == ["closed"]


@pytest.mark.parametrize("kind", ["a source", "a subscription"])
async def test_client_that_leaves_after_the_first_event_is_noticed_although_there_was_a_body(
    kind: str,
) -> None:
    async def source() -> AsyncIterator[object]:
        yield {"id": "1"}
        await anyio.sleep_forever()

    content = source() if kind == "a source" else Channel("c").subscribe()
    reasons: list[str] = []
    response = EventSourceResponse(content, on_close=reasons.append)
    scope = http_scope("POST", headers=[(b"content-length", b"2")])
    async with drive(response, scope=scope) as exchange:
        await exchange.contains("id: ")
        exchange.leave()
        await exchange.returns()

    assert reasons == ["client"]


# Watching by itself


def giving(*messages: Message) -> Receive:
    """Make a `receive` that gives these, each at once."""
    left = iter(messages)

    async def receive() -> Message:
        return next(left)

    return receive


async def test_bytes_that_nobody_has_read_are_told_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    receive = giving(request_message(b"12345", more_body=True), request_message(b"6"), DISCONNECT)

    with caplog.at_level(logging.WARNING):
        assert await until_disconnect(receive) == DISCONNECT

    assert [record.getMessage()[:8] for record in caplog.records] == ["5 bytes "]
    assert "before its first `yield`" in caplog.text


async def test_request_without_a_body_is_nothing_to_tell(
    caplog: pytest.LogCaptureFixture,
) -> None:
    left = {"type": "websocket.disconnect", "code": 1001}

    assert await until_disconnect(giving(request_message(), left)) == left

    assert caplog.records == []


@pytest.mark.parametrize("more_body", [False, True])
async def test_receive_that_returns_nothing_at_once_is_asked_more_and_more_rarely(
    more_body: bool, slept: list[float]
) -> None:
    await until_disconnect(giving(*[request_message(more_body=more_body)] * 20, DISCONNECT))

    assert slept[:4] == [0.001, 0.002, 0.004, 0.008]
    assert slept == sorted(slept)
    assert slept[-1] == 1.0


async def test_large_upload_that_nobody_reads_is_taken_without_a_pause(
    slept: list[float],
) -> None:
    piece = request_message(b"x" * 1000, more_body=True)

    await until_disconnect(giving(*[piece] * 100, DISCONNECT))

    assert slept == []


async def never() -> Message:
    raise AssertionError


@pytest.mark.parametrize(
    ("begins_after", "pauses"),
    [(0, [0.05]), (2, [0.05, 0.1, 0.2]), (None, [0.05, 0.1, 0.2, 0.4, 0.8, pytest.approx(1.45)])],
)
async def test_body_is_left_to_a_source_that_has_made_no_event_for_three_seconds(
    begins_after: int | None, pauses: list[float], slept: list[float]
) -> None:
    await until_body_is_read(never, lambda: begins_after is not None and len(slept) > begins_after)

    assert slept == pauses


class UvicornRequest:
    """Shows what uvicorn's request shows."""

    __module__ = "uvicorn.protocols.http.h11_impl"

    def __init__(
        self, *, disconnected: bool = False, more_body: bool = False, body: bytes = b"", told: bool
    ) -> None:
        self.disconnected = disconnected
        self.more_body = more_body
        self.body = bytearray(body)
        self.message_event = anyio.Event()
        if not told:
            self.message_event.set()

    async def receive(self) -> Message:
        raise AssertionError


class OtherUvicornRequest(UvicornRequest):
    """One of a version that isn't known yet."""

    __module__ = UvicornRequest.__module__

    def __init__(self) -> None:
        self.disconnected = False


@pytest.mark.parametrize(
    ("request_", "is_read"),
    [
        (UvicornRequest(told=True), True),
        (UvicornRequest(told=False), False),
        (UvicornRequest(told=True, body=b"a"), False),
        (UvicornRequest(told=True, more_body=True), False),
        (UvicornRequest(told=False, more_body=True, disconnected=True), True),
        (OtherUvicornRequest(), False),
    ],
)
async def test_a_body_that_uvicorn_shows_to_be_read_is_not_waited_for(
    request_: UvicornRequest, slept: list[float], *, is_read: bool
) -> None:
    await until_body_is_read(request_.receive, lambda: len(slept) == 2)

    assert slept == ([] if is_read else [0.05, 0.1])


async def test_a_body_is_not_waited_for_from_when_uvicorn_shows_that_it_has_been_read(
    slept: list[float],
) -> None:
    request = UvicornRequest(told=True, more_body=True)

    def it_is_read_but_no_event_is_made() -> bool:
        request.more_body = False
        return False

    await until_body_is_read(request.receive, it_is_read_but_no_event_is_made)

    assert slept == [0.05]


class GranianProtocol:
    """Answers as granian does: falsely when another `receive` is cancelled, and for good at once."""

    __module__ = "granian._granian"

    def __init__(self, *answers: str) -> None:
        self._answers = iter(answers)

    async def receive(self) -> Message:
        answer = next(self._answers)
        if answer.startswith("waits, "):
            await anyio.lowlevel.checkpoint()
        return request_message() if answer.endswith("request") else DISCONNECT


@on_asyncio
@pytest.mark.parametrize(
    "answers",
    [
        ["disconnect", "disconnect", "disconnect"],
        ["request", "waits, disconnect", "disconnect", "disconnect"],
        ["waits, disconnect", "waits, disconnect", "disconnect", "disconnect"],
        ["waits, disconnect", "disconnect", "waits, disconnect", "disconnect", "disconnect"],
        ["waits, disconnect", "waits, request", "waits, disconnect", "disconnect", "disconnect"],
        ["disconnect", "disconnect", "request", "disconnect", "disconnect", "disconnect"],
    ],
)
async def test_granian_is_believed_when_it_says_again_and_again_at_once_that_the_client_has_left(
    answers: list[str],
) -> None:
    protocol = GranianProtocol(*answers)

    assert await until_disconnect(protocol.receive) == DISCONNECT

    with pytest.raises(StopIteration):
        next(protocol._answers)
