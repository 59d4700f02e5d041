"""Streams as programs write them: sources, pings, producers, and what ends them."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

import anyio
import pytest
from starlette.background import BackgroundTask
from tests.compat.driving import SEAT_BELT_SECONDS, Client, Message, body_of

from sse_starlette import EventSourceResponse, ServerSentEvent
from sse_starlette.sse import AppStatus, SendTimeoutError

pytestmark = pytest.mark.anyio


async def numbers(many: int = 3) -> AsyncIterator[dict[str, Any]]:
    for number in range(many):
        yield {"data": number}


class Endless:
    """A source that yields once, waits, and notes how it ends."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    async def events(self) -> AsyncIterator[str]:
        try:
            yield "first"
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.notes.append("cancelled")
            raise
        finally:
            self.notes.append("closed")


# Sources


async def test_an_async_generator_is_streamed_to_its_end() -> None:
    async with Client(EventSourceResponse(numbers())) as client:
        body = await client.end()

    assert body == b"data: 0\r\n\r\ndata: 1\r\n\r\ndata: 2\r\n\r\n"
    assert client.status == 200
    assert client.is_complete
    assert client.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert client.headers["x-accel-buffering"] == "no"


async def test_a_sync_generator_runs_in_a_worker_thread() -> None:
    threads = set()

    def events() -> Iterator[str]:
        threads.add(threading.current_thread())
        yield "a"
        yield "b"

    assert await body_of(EventSourceResponse(events())) == b"data: a\r\n\r\ndata: b\r\n\r\n"
    assert threading.current_thread() not in threads


@pytest.mark.parametrize("source", [["a", "b"], ("a", "b"), iter(["a", "b"])])
async def test_any_sync_iterable_is_streamed(source: Any) -> None:
    assert await body_of(EventSourceResponse(source)) == b"data: a\r\n\r\ndata: b\r\n\r\n"


async def test_an_object_with_aiter_is_streamed() -> None:
    class Source:
        def __aiter__(self) -> AsyncIterator[Any]:
            return numbers(2)

    assert await body_of(EventSourceResponse(Source())) == b"data: 0\r\n\r\ndata: 1\r\n\r\n"


async def test_a_source_may_have_getitem_alone() -> None:
    class Source:
        def __getitem__(self, index: int) -> int:
            return [0, 1][index]

    source: Any = Source()
    assert await body_of(EventSourceResponse(source)) == b"data: 0\r\n\r\ndata: 1\r\n\r\n"


async def test_a_memory_stream_is_fed_by_a_data_sender() -> None:
    send, receive = anyio.create_memory_object_stream[dict[str, Any]](10)

    async def sender() -> None:
        async with send:
            for number in range(2):
                await send.send({"data": number})

    with receive:
        body = await body_of(EventSourceResponse(receive, data_sender_callable=sender))

    assert body == b"data: 0\r\n\r\ndata: 1\r\n\r\n"


async def test_a_memory_stream_is_closed_at_the_end() -> None:
    send, receive = anyio.create_memory_object_stream[str](1)
    send.send_nowait("x")
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
    response = EventSourceResponse(numbers(2))
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


async def test_a_subclass_may_work_around_the_call() -> None:
    class Counted(EventSourceResponse):
        running = 0

        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            Counted.running += 1
            try:
                await super().__call__(scope, receive, send)
            finally:
                Counted.running -= 1

    async with Client(Counted(Endless().events())) as client:
        await client.until(b"first")
        assert Counted.running == 1
        client.leave()
        await client.end()

    assert Counted.running == 0


async def test_active_tells_whether_the_stream_goes_on() -> None:
    response = EventSourceResponse(Endless().events())

    async with Client(response) as client:
        await client.until(b"first")
        assert response.active
        client.leave()
        await client.end()

    assert not response.active


async def test_the_connection_header_is_left_to_the_server() -> None:
    async with Client(EventSourceResponse(numbers())) as client:
        await client.end()

    assert "connection" not in client.headers


# Pings


async def test_a_ping_is_a_comment_with_the_time() -> None:
    async with Client(EventSourceResponse(Endless().events(), ping=0.01)) as client:
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
    response = EventSourceResponse(Endless().events(), ping=0.01, ping_message_factory=lambda: ping)

    async with Client(response) as client:
        await client.until(sent, 2)


async def test_a_ping_interval_may_be_assigned_after_construction() -> None:
    response = EventSourceResponse(Endless().events())
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


async def test_a_source_is_cancelled_where_it_waits_when_the_client_leaves() -> None:
    source = Endless()

    async with Client(EventSourceResponse(source.events())) as client:
        await client.until(b"first")
        client.leave()
        await client.end()

    assert source.notes == ["cancelled", "closed"]


async def test_the_close_handler_gets_the_message() -> None:
    told: list[Message] = []

    async def on_close(message: Message) -> None:
        told.append(message)

    response = EventSourceResponse(Endless().events(), client_close_handler_callable=on_close)
    async with Client(response) as client:
        await client.until(b"first")
        client.leave()
        await client.end()

    assert told == [{"type": "http.disconnect"}]


async def test_the_close_handler_is_not_called_for_a_stream_that_ended() -> None:
    told: list[Message] = []

    async def on_close(message: Message) -> None:
        told.append(message)

    await body_of(EventSourceResponse(numbers(), client_close_handler_callable=on_close))

    assert told == []


async def test_the_close_handler_runs_when_the_source_has_been_closed() -> None:
    source = Endless()

    async def on_close(message: Message) -> None:
        source.notes.append("told")

    response = EventSourceResponse(source.events(), client_close_handler_callable=on_close)
    async with Client(response) as client:
        await client.until(b"first")
        client.leave()
        await client.end()

    assert source.notes == ["cancelled", "closed", "told"]


async def test_a_close_handler_that_raises_is_logged() -> None:
    async def on_close(message: Message) -> None:
        raise LookupError

    response = EventSourceResponse(Endless().events(), client_close_handler_callable=on_close)
    async with Client(response) as client:
        await client.until(b"first")
        client.leave()
        await client.end()


async def test_a_plain_function_may_handle_the_close() -> None:
    told: list[Message] = []
    response: Any = EventSourceResponse(
        Endless().events(),
        client_close_handler_callable=told.append,  # type: ignore[arg-type]
    )

    async with Client(response) as client:
        await client.until(b"first")
        client.leave()
        await client.end()

    assert len(told) == 1


# Background


async def test_background_runs_after_a_stream_that_ended() -> None:
    done: list[bytes] = []
    response = EventSourceResponse(numbers(1))

    async with Client(response) as client:
        response.background = BackgroundTask(lambda: done.append(client.body))
        await client.end()

    assert done == [b"data: 0\r\n\r\n"]


async def test_background_runs_after_the_client_has_left() -> None:
    done: list[str] = []
    response = EventSourceResponse(
        Endless().events(), background=BackgroundTask(done.append, "ran")
    )

    async with Client(response) as client:
        await client.until(b"first")
        client.leave()
        await client.end()

    assert done == ["ran"]


async def test_background_does_not_run_after_an_error() -> None:
    done: list[str] = []

    async def failing() -> AsyncIterator[str]:
        yield "a"
        raise LookupError

    with pytest.raises(LookupError):
        await body_of(EventSourceResponse(failing(), background=BackgroundTask(done.append, "ran")))

    assert done == []


async def test_background_does_not_run_after_a_cancellation() -> None:
    done: list[str] = []
    source = Endless()
    response = EventSourceResponse(source.events(), background=BackgroundTask(done.append, "ran"))

    async with Client(response) as client:
        await client.until(b"first")
        client.task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await client.end()

    assert source.notes == ["cancelled", "closed"]
    assert done == []


async def test_an_error_of_background_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    def failing() -> None:
        raise LookupError

    await body_of(EventSourceResponse(numbers(1), background=BackgroundTask(failing)))

    assert "LookupError" in caplog.text


# Errors


async def test_an_error_of_the_source_comes_bare() -> None:
    async def failing() -> AsyncIterator[str]:
        yield "a"
        raise LookupError("no more")

    async with Client(EventSourceResponse(failing())) as client:
        with pytest.raises(LookupError, match="no more"):
            await client.end()

    assert client.body == b"data: a\r\n\r\n"


async def test_an_exception_group_of_several_stays_one() -> None:
    async def failing() -> AsyncIterator[str]:
        yield "a"
        raise ExceptionGroup("both", [LookupError(), ValueError()])

    with pytest.raises(ExceptionGroup) as caught:
        await body_of(EventSourceResponse(failing()))

    assert caught.value.message == "both"


async def test_an_exception_group_of_one_stays_one() -> None:
    async def failing() -> AsyncIterator[str]:
        yield "a"
        raise ExceptionGroup("one", [LookupError()])

    with pytest.raises(ExceptionGroup):
        await body_of(EventSourceResponse(failing()))


async def test_the_body_is_completed_after_an_error() -> None:
    async def failing() -> AsyncIterator[str]:
        yield "a"
        raise LookupError

    async with Client(EventSourceResponse(failing())) as client:
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


async def test_a_send_that_takes_too_long_ends_the_stream() -> None:
    source = Endless()
    done: list[str] = []
    response = EventSourceResponse(
        source.events(), send_timeout=1, background=BackgroundTask(done.append, "ran")
    )

    async with Client(response, blocks_at=b"first") as client:
        with pytest.raises(SendTimeoutError):
            await client.end()

    assert source.notes == ["closed"]
    assert done == []


async def test_a_ping_that_takes_too_long_ends_the_stream() -> None:
    source = Endless()
    response = EventSourceResponse(source.events(), send_timeout=1, ping=0.01)

    async with Client(response, blocks_at=b": ping") as client:
        with pytest.raises(TimeoutError):
            await client.end()

    assert source.notes == ["cancelled", "closed"]


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


async def test_a_connection_that_the_server_reports_broken_is_no_error() -> None:
    async def send(message: Message) -> None:
        if message["type"] == "http.response.body":
            raise OSError("connection reset")

    async def receive() -> Message:
        await asyncio.Event().wait()
        return {}

    scope = {"type": "http", "method": "GET", "headers": []}

    await EventSourceResponse(numbers())(scope, receive, send)


# HEAD and websockets


@pytest.mark.parametrize("method", ["HEAD", "head"])
async def test_head_has_the_headers_and_starts_no_source(method: str) -> None:
    done: list[str] = []
    source = Endless()
    response = EventSourceResponse(source.events(), background=BackgroundTask(done.append, "ran"))

    async with Client(response, method=method) as client:
        assert await client.end() == b""

    assert client.is_complete
    assert client.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert source.notes == []
    assert done == ["ran"]


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

    assert {message["type"] for message in client.messages} == {
        "websocket.http.response.start",
        "websocket.http.response.body",
    }


# Shutdown


async def test_should_exit_set_in_a_thread_ends_streams_and_set_back_lets_new_ones_live() -> None:
    source = Endless()

    async with Client(EventSourceResponse(source.events())) as client:
        await client.until(b"first")
        threading.Thread(target=lambda: setattr(AppStatus, "should_exit", True)).start()
        await client.end()

    assert source.notes == ["cancelled", "closed"]
    AppStatus.should_exit = False
    assert await body_of(EventSourceResponse(numbers(1))) == b"data: 0\r\n\r\n"


async def test_background_runs_after_a_shutdown() -> None:
    done: list[str] = []
    response = EventSourceResponse(
        Endless().events(), background=BackgroundTask(done.append, "ran")
    )

    async with Client(response) as client:
        await client.until(b"first")
        AppStatus.should_exit = True
        await client.end()

    assert done == ["ran"]


async def test_the_body_is_completed_at_a_shutdown() -> None:
    async with Client(EventSourceResponse(Endless().events())) as client:
        await client.until(b"first")
        AppStatus.should_exit = True
        await client.end()

    assert client.is_complete


async def test_a_source_may_say_farewell_within_the_grace() -> None:
    going_down = anyio.Event()

    async def events() -> AsyncIterator[dict[str, str]]:
        yield {"data": "first"}
        await going_down.wait()
        yield {"event": "bye", "data": "come back"}

    response = EventSourceResponse(
        events(), shutdown_event=going_down, shutdown_grace_period=SEAT_BELT_SECONDS
    )
    async with Client(response) as client:
        await client.until(b"first")
        AppStatus.should_exit = True
        body = await client.end()

    assert body.endswith(b"event: bye\r\ndata: come back\r\n\r\n")
    assert client.is_complete


async def test_a_source_that_goes_on_is_cancelled_after_the_grace() -> None:
    going_down = anyio.Event()
    source = Endless()
    response = EventSourceResponse(
        source.events(), shutdown_event=going_down, shutdown_grace_period=0.05
    )

    async with Client(response) as client:
        await client.until(b"first")
        AppStatus.should_exit = True
        await client.end()

    assert going_down.is_set()
    assert source.notes == ["cancelled", "closed"]


async def test_a_used_up_generator_is_refused() -> None:
    source = numbers(1)
    assert [event async for event in source] == [{"data": 0}]

    with pytest.raises(ValueError):
        EventSourceResponse(source)
