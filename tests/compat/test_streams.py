"""Streams as programs write them: sources, pings, producers, and what ends them."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import anyio
import pytest
from starlette.background import BackgroundTask
from tests.compat.differences import COMPLETED, differs
from tests.compat.driving import SEAT_BELT_SECONDS, Client, Message, body_of

from sse_starlette import EventSourceResponse, ServerSentEvent
from sse_starlette.sse import AppStatus, SendTimeoutError

pytestmark = pytest.mark.anyio

CLOSED = differs(
    "What nobody closes keeps its connection to the database or to the language model."
)
CONNECTION = differs(
    "It belongs to the server: HTTP/2 forbids it, a WSGI bridge answers 500 for it, and clients that asked for `close` got both."
)
HANDLER = differs("A handler that frees what the source still uses in its `finally` was a race.")
LOGGED = differs(
    "The response has been sent: nobody above can answer any more, and an error in one of them kept the other from running."
)
GROUP = differs(
    "3.7.0 took it apart, so that `except*` around the source and around the response saw different things."
)
BROKEN = differs(
    "Clients leave all day long; the close handler and `background` run then as in any leaving."
)
USED_UP = differs(
    "It's a source that was made once for many requests, and all but the first got an empty stream in silence."
)
TWO = b"data: 0\r\n\r\ndata: 1\r\n\r\n"


async def numbers(many: int = 2) -> AsyncIterator[dict[str, Any]]:
    for number in range(many):
        yield {"data": number}


async def failing(error: Exception) -> AsyncIterator[str]:
    yield "a"
    raise error


class Endless:
    """A response whose source yields once and waits; it notes how that ends, and what runs afterwards."""

    def __init__(self, **options: Any) -> None:
        self.notes: list[str] = []
        ran = BackgroundTask(self.notes.append, "background")
        self.response = EventSourceResponse(self.events(), background=ran, **options)

    async def events(self) -> AsyncIterator[str]:
        try:
            yield "first"
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.notes.append("cancelled")
            raise
        finally:
            self.notes.append("closed")

    async def is_left(self) -> Client:
        """Have a client leave after the first event."""
        return await self.ended_by(lambda client: client.leave())

    async def is_stopped(self) -> Client:
        """Have the server go down after the first event."""
        return await self.ended_by(lambda _: setattr(AppStatus, "should_exit", True))

    async def ended_by(self, ending: Callable[[Client], object]) -> Client:
        async with Client(self.response) as client:
            await client.until(b"first")
            ending(client)
            await client.end()
        return client


# Sources


async def test_an_async_generator_is_streamed_to_its_end() -> None:
    async with Client(EventSourceResponse(numbers())) as client:
        body = await client.end()

    assert body == TWO
    assert client.status == 200
    assert client.is_complete
    assert client.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert client.headers["x-accel-buffering"] == "no"


async def test_a_sync_generator_runs_in_a_worker_thread() -> None:
    threads = set()

    def events() -> Iterator[int]:
        threads.add(threading.current_thread())
        yield from range(2)

    assert await body_of(EventSourceResponse(events())) == TWO
    assert threading.current_thread() not in threads


class WithAiter:
    def __aiter__(self) -> AsyncIterator[Any]:
        return numbers()


class WithGetitemAlone:
    def __getitem__(self, index: int) -> int:
        return [0, 1][index]


@pytest.mark.parametrize("source", [[0, 1], (0, 1), iter([0, 1]), WithAiter(), WithGetitemAlone()])
async def test_any_iterable_is_streamed(source: Any) -> None:
    assert await body_of(EventSourceResponse(source)) == TWO


async def test_a_memory_stream_is_fed_by_a_data_sender() -> None:
    send, receive = anyio.create_memory_object_stream[int](10)

    async def sender() -> None:
        async with send:
            for number in range(2):
                await send.send(number)

    with receive:
        assert await body_of(EventSourceResponse(receive, data_sender_callable=sender)) == TWO


@CLOSED
async def test_a_memory_stream_is_closed_at_the_end() -> None:
    send, receive = anyio.create_memory_object_stream[str](1)
    send.close()

    with receive:
        await body_of(EventSourceResponse(receive))

        assert send.statistics().open_receive_streams == 0


async def test_an_error_of_a_data_sender_ends_the_stream() -> None:
    send, receive = anyio.create_memory_object_stream[str]()

    async def sender() -> None:
        raise LookupError("nothing to send")

    with send, receive, pytest.raises(LookupError, match="nothing to send"):
        await body_of(EventSourceResponse(receive, data_sender_callable=sender))


async def test_a_wrapped_body_iterator_is_streamed() -> None:
    response = EventSourceResponse(numbers())
    before: Any = response.body_iterator

    async def doubled() -> AsyncIterator[Any]:
        async for event in before:
            yield event
            yield "again"

    response.body_iterator = doubled()

    again = b"data: again\r\n\r\n"
    assert await body_of(response) == b"data: 0\r\n\r\n" + again + b"data: 1\r\n\r\n" + again


@pytest.mark.parametrize("source", [["a", "b"], iter(["a", "b"])])
async def test_the_body_iterator_can_be_read(source: Any) -> None:
    body: Any = EventSourceResponse(source).body_iterator

    assert [event async for event in body] == ["a", "b"]


async def test_the_separator_may_be_assigned_after_construction() -> None:
    response = EventSourceResponse(numbers(1))
    response.sep = "\n"

    assert await body_of(response) == b"data: 0\n\n"


async def test_a_subclass_may_work_around_the_call_and_active_tells_whether_the_stream_goes_on() -> (
    None
):
    seen: list[Any] = []

    class Noting(EventSourceResponse):
        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            seen.append("begins")
            try:
                await super().__call__(scope, receive, send)
            finally:
                seen.append("ends")

    endless = Endless()
    endless.response = Noting(endless.events())

    def look_and_leave(client: Client) -> None:
        seen.append(endless.response.active)
        client.leave()

    await endless.ended_by(look_and_leave)
    assert [*seen, endless.response.active] == ["begins", True, "ends", False]


@CONNECTION
async def test_the_connection_header_is_left_to_the_server() -> None:
    async with Client(EventSourceResponse(numbers())) as client:
        await client.end()

    assert "connection" not in client.headers


@USED_UP
async def test_a_used_up_generator_is_refused() -> None:
    source = numbers(1)
    assert [event async for event in source] == [{"data": 0}]

    with pytest.raises(ValueError):
        EventSourceResponse(source)


# Pings


async def test_a_ping_is_a_comment_with_the_time() -> None:
    async with Client(Endless(ping=0.01).response) as client:
        await client.until(b"\r\n\r\n", 3)

    blocks = [block for block in client.body.split(b"\r\n\r\n") if block != b"data: first"]
    assert blocks[0].startswith(b": ping - 20")
    assert b"\r\n" not in blocks[0]


@pytest.mark.parametrize(
    ("ping", "sent"),
    [
        (ServerSentEvent(event="ping", data="now"), b"event: ping\r\ndata: now\r\n\r\n"),
        (ServerSentEvent(comment="here"), b": here\r\n\r\n"),
        ({"comment": "here"}, b": here\r\n\r\n"),
        (b": raw\r\n\r\n", b": raw\r\n\r\n"),
    ],
)
async def test_a_ping_can_be_made_by_the_program(ping: Any, sent: bytes) -> None:
    async with Client(Endless(ping=0.01, ping_message_factory=lambda: ping).response) as client:
        await client.until(sent, 2)


async def test_a_ping_interval_may_be_assigned_after_construction() -> None:
    response = Endless().response
    response.ping_interval = 0.01

    async with Client(response) as client:
        await client.until(b": ping - ", 2)


async def test_ping_zero_sends_no_pings() -> None:
    async def slow() -> AsyncIterator[str]:
        yield "a"
        await asyncio.sleep(0.05)
        yield "b"

    assert await body_of(EventSourceResponse(slow(), ping=0)) == b"data: a\r\n\r\ndata: b\r\n\r\n"


# The client leaves


async def test_a_source_is_cancelled_where_it_waits_when_the_client_leaves_and_background_runs() -> (
    None
):
    endless = Endless()

    await endless.is_left()

    assert endless.notes == ["cancelled", "closed", "background"]


async def test_the_close_handler_gets_the_message() -> None:
    told: list[Message] = []

    async def on_close(message: Message) -> None:
        told.append(message)

    await Endless(client_close_handler_callable=on_close).is_left()

    assert told == [{"type": "http.disconnect"}]


async def test_the_close_handler_is_not_called_for_a_stream_that_ended() -> None:
    told: list[Message] = []

    async def on_close(message: Message) -> None:
        told.append(message)

    await body_of(EventSourceResponse(numbers(), client_close_handler_callable=on_close))

    assert told == []


@HANDLER
async def test_the_close_handler_runs_when_the_source_has_been_closed() -> None:
    async def on_close(message: Message) -> None:
        endless.notes.append("told")

    endless = Endless(client_close_handler_callable=on_close)
    await endless.is_left()

    assert endless.notes[:3] == ["cancelled", "closed", "told"]


@LOGGED
async def test_a_close_handler_that_raises_is_logged() -> None:
    async def on_close(message: Message) -> None:
        raise LookupError

    await Endless(client_close_handler_callable=on_close).is_left()


@HANDLER
async def test_a_plain_function_may_handle_the_close() -> None:
    told: list[Message] = []

    await Endless(client_close_handler_callable=told.append).is_left()

    assert len(told) == 1


# Background


async def test_background_runs_after_a_stream_that_ended() -> None:
    done: list[bytes] = []
    response = EventSourceResponse(numbers())

    async with Client(response) as client:
        response.background = BackgroundTask(lambda: done.append(client.body))
        await client.end()

    assert done == [TWO]


async def test_background_does_not_run_after_an_error() -> None:
    done: list[str] = []
    ran = BackgroundTask(done.append, "ran")

    with pytest.raises(LookupError):
        await body_of(EventSourceResponse(failing(LookupError()), background=ran))

    assert done == []


async def test_background_does_not_run_after_a_cancellation() -> None:
    endless = Endless()

    with pytest.raises(asyncio.CancelledError):
        await endless.ended_by(lambda client: client.task.cancel())

    assert endless.notes == ["cancelled", "closed"]


@LOGGED
async def test_an_error_of_background_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    def fail() -> None:
        raise LookupError

    await body_of(EventSourceResponse(numbers(), background=BackgroundTask(fail)))

    assert "LookupError" in caplog.text


# Errors


async def test_an_error_of_the_source_comes_bare() -> None:
    async with Client(EventSourceResponse(failing(LookupError("no more")))) as client:
        with pytest.raises(LookupError, match="no more"):
            await client.end()

    assert client.body == b"data: a\r\n\r\n"


@pytest.mark.parametrize(
    "errors",
    [
        pytest.param([LookupError(), ValueError()], id="of several"),
        pytest.param([LookupError()], id="of one", marks=GROUP),
    ],
)
async def test_an_exception_group_stays_one(errors: list[Exception]) -> None:
    with pytest.raises(ExceptionGroup) as caught:
        await body_of(EventSourceResponse(failing(ExceptionGroup("both", errors))))

    assert caught.value.message == "both"


@COMPLETED
async def test_the_body_is_completed_after_an_error() -> None:
    async with Client(EventSourceResponse(failing(LookupError()))) as client:
        with pytest.raises(LookupError):
            await client.end()

    assert client.is_complete


async def test_what_cannot_be_encoded_closes_the_source() -> None:
    closed: list[str] = []

    async def events() -> AsyncIterator[dict[str, str]]:
        try:
            yield {"unknown": "key"}
        finally:
            closed.append("closed")

    with pytest.raises(TypeError):
        await body_of(EventSourceResponse(events()))

    assert closed == ["closed"]


@pytest.mark.parametrize(
    ("ping", "blocks_at", "notes"),
    [(15, b"first", ["closed"]), (0.01, b": ping", ["cancelled", "closed"])],
    ids=["event", "ping"],
)
async def test_what_takes_too_long_to_send_ends_the_stream(
    ping: float, blocks_at: bytes, notes: list[str]
) -> None:
    endless = Endless(send_timeout=1, ping=ping)

    async with Client(endless.response, blocks_at=blocks_at) as client:
        with pytest.raises(SendTimeoutError):
            await client.end()

    assert endless.notes == notes


async def test_a_cleanup_that_takes_too_long_is_cut_with_a_warning(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def events() -> AsyncIterator[str]:
        try:
            yield "first"
        finally:
            await asyncio.Event().wait()

    response = EventSourceResponse(events(), send_timeout=1, cleanup_timeout=0.05)

    async with Client(response, blocks_at=b"first") as client:
        with pytest.raises(SendTimeoutError):
            await client.end()

    [record] = [one for one in caplog.records if one.levelno == logging.WARNING]
    assert record.name == "sse_starlette.sse"
    assert "cleanup" in record.getMessage()


@BROKEN
async def test_a_connection_that_the_server_reports_broken_is_no_error() -> None:
    async with Client(EventSourceResponse(numbers()), breaks=True) as client:
        await client.end()


# HEAD and websockets


@pytest.mark.parametrize("method", ["HEAD", "head"])
async def test_head_has_the_headers_and_starts_no_source(method: str) -> None:
    endless = Endless()

    async with Client(endless.response, method=method) as client:
        assert await client.end() == b""

    assert client.is_complete
    assert client.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert endless.notes == ["background"]


@CLOSED
async def test_head_closes_the_source() -> None:
    class Source:
        closed = False

        def __aiter__(self) -> AsyncIterator[str]:
            raise NotImplementedError

        async def aclose(self) -> None:
            self.closed = True

    source = Source()

    await body_of(EventSourceResponse(source), method="HEAD")

    assert source.closed


async def test_a_websocket_is_answered_with_messages_of_its_kind() -> None:
    async with Client(EventSourceResponse(numbers(1)), kind="websocket") as client:
        await client.end()

    kinds = {message["type"] for message in client.messages}
    assert kinds == {"websocket.http.response.start", "websocket.http.response.body"}


# Shutdown


async def test_should_exit_set_in_a_thread_ends_streams_and_set_back_lets_new_ones_live() -> None:
    endless = Endless()
    thread = threading.Thread(target=setattr, args=(AppStatus, "should_exit", True))

    await endless.ended_by(lambda _: thread.start())

    assert endless.notes == ["cancelled", "closed", "background"]
    AppStatus.should_exit = False
    assert await body_of(EventSourceResponse(numbers())) == TWO


@COMPLETED
async def test_the_body_is_completed_at_a_shutdown() -> None:
    assert (await Endless().is_stopped()).is_complete


async def test_a_source_may_say_farewell_within_the_grace() -> None:
    going_down = anyio.Event()

    class Polite(Endless):
        async def events(self) -> AsyncIterator[str]:
            yield "first"
            await going_down.wait()
            yield "come back"

    grace = {"shutdown_event": going_down, "shutdown_grace_period": SEAT_BELT_SECONDS}
    client = await Polite(**grace).is_stopped()

    assert client.body.endswith(b"data: come back\r\n\r\n")
    assert client.is_complete


async def test_a_source_that_goes_on_is_cancelled_after_the_grace() -> None:
    going_down = anyio.Event()
    endless = Endless(shutdown_event=going_down, shutdown_grace_period=0.05)

    await endless.is_stopped()

    assert going_down.is_set()
    assert endless.notes == ["cancelled", "closed", "background"]
