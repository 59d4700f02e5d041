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

BODY = b'{"q": "why?"}'


def request_message(body: bytes = b"", *, more_body: bool = False) -> Message:
    return {"type": "http.request", "body": body, "more_body": more_body}


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ({}, False),
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

    def __init__(self, *chunks: bytes) -> None:
        self._send, self._messages = anyio.create_memory_object_stream[Message](100)
        for chunk in chunks:
            self.arrives(chunk)

    def arrives(self, chunk: bytes, *, more_body: bool = False) -> None:
        self._send.send_nowait(request_message(chunk, more_body=more_body))

    async def receive(self, exchange: Exchange | None = None) -> Message:
        return await self._messages.receive()

    def leave(self) -> None:
        self._send.send_nowait(DISCONNECT)

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


@pytest.mark.anyio
@pytest.mark.parametrize("late", [False, True], ids=["there already", "arrives later"])
@pytest.mark.parametrize("read", [json, body, stream, json_after_a_wait])
async def test_source_may_read_the_body_of_the_request(
    read: Callable[[Request], Awaitable[object]], late: bool
) -> None:
    async def answer(request: Request) -> AsyncIterator[object]:
        yield {"data": await read(request)}

    server = Server()
    headers = [(b"content-length", b"%d" % len(BODY))]
    scope = http_scope("POST", headers=headers)
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

    asked = "why?" if read in (json, json_after_a_wait) else BODY.decode()
    assert exchange.body == f"data: {asked}\r\n\r\n".encode()


@pytest.mark.anyio
async def test_source_may_read_a_body_that_no_header_tells_of() -> None:
    async def answer(request: Request) -> AsyncIterator[object]:
        yield {"data": (await request.json())["q"]}

    server = Server()
    async with drive(posted(answer), scope=http_scope("POST"), receive=server.receive) as exchange:
        await settled()
        server.arrives(BODY)
        await exchange.returns()
    server.close()

    assert exchange.body == b"data: why?\r\n\r\n"


@pytest.mark.anyio
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


@pytest.mark.anyio
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


@pytest.mark.anyio
async def test_bytes_that_nobody_has_read_are_told_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    messages = iter([request_message(b"12345", more_body=True), request_message(b"6"), DISCONNECT])

    async def receive() -> Message:
        return next(messages)

    with caplog.at_level(logging.WARNING):
        assert await until_disconnect(receive) == DISCONNECT

    assert [record.getMessage()[:8] for record in caplog.records] == ["5 bytes "]
    assert "before its first `yield`" in caplog.text


@pytest.mark.anyio
async def test_request_without_a_body_is_nothing_to_tell(
    caplog: pytest.LogCaptureFixture,
) -> None:
    messages = iter([request_message(), {"type": "websocket.disconnect", "code": 1001}])

    async def receive() -> Message:
        return next(messages)

    message = await until_disconnect(receive)

    assert message["type"] == "websocket.disconnect"
    assert caplog.records == []


@pytest.mark.anyio
@pytest.mark.parametrize("more_body", [False, True])
async def test_receive_that_returns_nothing_at_once_is_asked_more_and_more_rarely(
    more_body: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)
        await anyio.lowlevel.checkpoint()

    monkeypatch.setattr(_receive, "sleep", sleep)
    received = 0

    async def receive() -> Message:
        nonlocal received
        received += 1
        return DISCONNECT if received > 20 else request_message(more_body=more_body)

    await until_disconnect(receive)

    assert pauses[:4] == [0.001, 0.002, 0.004, 0.008]
    assert pauses == sorted(pauses)
    assert pauses[-1] == 1.0


@pytest.mark.anyio
async def test_large_upload_that_nobody_reads_is_taken_without_a_pause(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def sleep(seconds: float) -> None:
        raise AssertionError(f"a pause of {seconds} s")

    monkeypatch.setattr(_receive, "sleep", sleep)
    received = 0

    async def receive() -> Message:
        nonlocal received
        received += 1
        return DISCONNECT if received > 100 else request_message(b"x" * 1000, more_body=True)

    await until_disconnect(receive)

    assert received == 101


async def never() -> Message:
    raise AssertionError


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("begins_after", "pauses"),
    [(0, [0.05]), (2, [0.05, 0.1, 0.2]), (None, [0.05, 0.1, 0.2, 0.4, 0.8, pytest.approx(1.45)])],
)
async def test_body_is_left_to_a_source_that_has_made_no_event_for_three_seconds(
    begins_after: int | None, pauses: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)
        await anyio.lowlevel.checkpoint()

    monkeypatch.setattr(_receive, "sleep", sleep)

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

    __module__ = "uvicorn.protocols.http.h11_impl"

    def __init__(self) -> None:
        self.disconnected = False


@pytest.mark.anyio
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
    request_: UvicornRequest, monkeypatch: pytest.MonkeyPatch, *, is_read: bool
) -> None:
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    monkeypatch.setattr(_receive, "sleep", sleep)

    await until_body_is_read(request_.receive, lambda: len(slept) == 2)

    assert slept == ([] if is_read else [0.05, 0.1])


@pytest.mark.anyio
async def test_a_body_is_not_waited_for_from_when_uvicorn_shows_that_it_has_been_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    request = UvicornRequest(told=True, more_body=True)
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)
        request.more_body = False

    monkeypatch.setattr(_receive, "sleep", sleep)

    await until_body_is_read(request.receive, lambda: False)

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


@pytest.mark.anyio
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
