"""What a stream does when it's asked to end: grace, farewell, the last chunk, and a client that's stuck."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from typing import Any

import anyio
import pytest
from starlette.applications import Starlette
from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Message
from tests.unit.driving import drive, each_way_to_cancel, settled
from tests.unit.hand_fed import FAREWELL, START, Run

from sse_starlette import EventSourceResponse, ServerSentEvent, drain
from sse_starlette._shutdown import AppStatus
from sse_starlette.testing import connect

pytestmark = pytest.mark.anyio

# When it ends


async def test_without_grace_the_source_is_stopped_at_once_and_the_body_completed() -> None:
    run = Run(b"1")

    async with drive(run) as exchange:
        await exchange.chunk(0)
        run.drain()
        await exchange.returns()

    assert exchange.chunks == [b"1", FAREWELL]
    assert exchange.complete
    assert run.stream.life.reason == "shutdown"
    assert run.feed.closed
    assert run.told == 1


async def test_frames_that_are_ready_leave_before_the_farewell() -> None:
    run = Run(b"1")

    async with drive(run) as exchange:
        await exchange.chunk(0)
        run.feed.last_words = [b"last words"]
        run.feed.push(b"2")
        run.drain()
        await exchange.returns()

    assert exchange.body == b"12last words" + FAREWELL


async def test_within_the_grace_a_source_ends_by_itself_and_all_its_events_arrive() -> None:
    run = Run(b"1", shutdown_grace_period=5)

    async with drive(run) as exchange:
        await exchange.chunk(0)
        run.drain()
        await run.loop.advance(4.9)
        run.feed.push(b"2")
        await exchange.chunk(1)
        stopped_by_us = run.feed.stops
        run.feed.end()
        await exchange.returns()

    assert exchange.body == b"12" + FAREWELL
    assert stopped_by_us == 0
    assert run.stream.life.reason == "shutdown"


async def test_source_that_does_not_end_within_the_grace_is_stopped_then() -> None:
    run = Run(b"1", shutdown_grace_period=5)

    async with drive(run) as exchange:
        await exchange.chunk(0)
        run.drain()
        await run.loop.advance(4.9)
        lives = run.stream.life.reason is None and run.told == 1
        await run.loop.advance(0.1)
        await exchange.returns()

    assert lives
    assert exchange.body == b"1" + FAREWELL


@each_way_to_cancel
async def test_server_that_cancels_within_the_grace_still_lets_the_farewell_out(way: str) -> None:
    run = Run(b"1", shutdown_grace_period=5)

    async with drive(run) as exchange:
        await exchange.chunk(0)
        run.drain()
        await run.loop.advance(1)
        exchange.cancel_in(way)
        await exchange.is_cancelled()

    assert exchange.body == b"1" + FAREWELL
    assert exchange.complete
    assert run.stream.life.reason == "cancelled"


@each_way_to_cancel
async def test_server_that_cancels_without_a_word_gets_no_farewell(way: str) -> None:
    run = Run(b"1", shutdown_grace_period=5)

    async with drive(run) as exchange:
        await exchange.chunk(0)
        exchange.cancel_in(way)
        await exchange.is_cancelled()

    assert exchange.body == b"1"
    assert exchange.complete


async def test_grace_of_the_request_counts_for_more_than_that_of_the_response() -> None:
    run = Run(b"1", shutdown_grace_period=5)

    async with drive(run) as exchange:
        await exchange.chunk(0)
        run.drain(0.0, 60)
        await run.loop.advance(59)
        lives = run.stream.life.reason is None
        await run.loop.advance(1)
        await exchange.returns()

    assert lives


async def test_delay_comes_before_the_grace() -> None:
    run = Run(b"1", shutdown_grace_period=5)

    async with drive(run) as exchange:
        await exchange.chunk(0)
        run.drain(10)
        await run.loop.advance(9.9)
        told_before = run.told
        await run.loop.advance(0.1)
        told = run.told
        await run.loop.advance(4.9)
        lives = run.stream.life.reason is None
        await run.loop.advance(0.1)
        await exchange.returns()

    assert (told_before, told, lives) == (0, 1, True)


async def test_request_of_a_server_that_goes_down_does_not_replace_an_explicit_one() -> None:
    run = Run(b"1")

    async with drive(run) as exchange:
        await exchange.chunk(0)
        run.drain(10, 7)
        run.drain(automatic=True)
        await run.loop.advance(16.9)
        lives = run.stream.life.reason is None
        await run.loop.advance(0.1)
        await exchange.returns()

    assert lives
    assert run.told == 1


async def test_explicit_request_replaces_the_one_before() -> None:
    run = Run(b"1")

    async with drive(run) as exchange:
        await exchange.chunk(0)
        run.drain(3_600, 3_600)
        run.drain(2, 5)
        await run.loop.advance(2)
        told = run.told
        run.drain(1, 1)
        await run.loop.advance(1.9)
        lives = run.stream.life.reason is None
        await run.loop.advance(0.1)
        await exchange.returns()

    assert (told, run.told, lives) == (1, 1, True)


async def test_request_that_comes_within_the_grace_begins_it_anew_and_tells_nobody_again() -> None:
    run = Run(b"1", shutdown_grace_period=5)

    async with drive(run) as exchange:
        await exchange.chunk(0)
        run.drain()
        await run.loop.advance(4)
        run.drain()
        await run.loop.advance(4.9)
        lives = run.stream.life.reason is None
        await run.loop.advance(0.1)
        await exchange.returns()

    assert lives
    assert run.told == 1


async def test_request_that_comes_when_the_stream_has_ended_does_nothing() -> None:
    run = Run(b"1")

    async with drive(run) as exchange:
        run.feed.end()
        await exchange.returns()
        run.drain()
        await run.loop.advance(5)

    assert run.told == 0
    assert run.loop.waiting == 0


async def test_stream_that_waits_for_its_first_event_says_its_headers_and_farewell() -> None:
    run = Run(first_event_timeout=float("inf"))

    async with drive(run) as exchange:
        await settled()
        started = list(exchange.messages)
        run.drain()
        await exchange.returns()

    assert started == []
    assert exchange.messages[0] == START
    assert exchange.body == FAREWELL
    assert exchange.complete


# A client that doesn't read


async def test_client_that_does_not_read_holds_nobody_up_for_longer_than_a_second() -> None:
    run = Run(b"1")

    async with drive(run) as exchange:
        await exchange.chunk(0)
        exchange.block()
        run.feed.push(b"2")
        await exchange.until(lambda: exchange.blocked)
        run.drain()
        await run.loop.advance(0.9)
        still_there = not exchange.over
        await run.loop.advance(0.1)
        await exchange.returns()

    assert still_there
    assert exchange.body == b"1"
    assert not exchange.complete
    assert run.stream.life.reason == "shutdown"
    assert run.feed.closed


async def test_client_that_stops_reading_before_it_got_the_headers_holds_nobody_up_either() -> None:
    run = Run(b"1")

    async with drive(run, blocked=True) as exchange:
        await exchange.until(lambda: exchange.blocked)
        run.drain()
        await run.loop.advance(1)
        await exchange.returns()

    assert exchange.messages == []


async def test_client_that_reads_again_in_time_gets_everything() -> None:
    run = Run(b"1")

    async with drive(run) as exchange:
        await exchange.chunk(0)
        exchange.block()
        run.feed.push(b"2")
        await exchange.until(lambda: exchange.blocked)
        run.drain()
        await run.loop.advance(0.9)
        exchange.unblock()
        await exchange.returns()

    assert exchange.body == b"12" + FAREWELL
    assert exchange.complete


async def test_client_that_does_not_take_the_farewell_is_left_after_a_second() -> None:
    async def take_no_farewell(message: Message) -> None:
        if message.get("body") == FAREWELL:
            await anyio.sleep_forever()

    run = Run(b"1")

    async with drive(run, on_send=take_no_farewell) as exchange:
        await exchange.chunk(0)
        run.drain()
        await run.loop.advance(1)
        await exchange.returns()

    assert exchange.body == b"1"
    assert run.feed.closed


async def test_stream_that_ends_already_is_not_held_up_by_its_client_when_asked_to_drain() -> None:
    run = Run(b"1")

    async with drive(run) as exchange:
        await exchange.chunk(0)
        exchange.block()
        run.feed.end()
        await exchange.until(lambda: exchange.blocked)
        assert run.stream.life.reason == "end"
        run.drain()
        run.drain(automatic=True)
        await run.loop.advance(1)
        await exchange.returns()

    assert run.told == 0
    assert run.stream.life.reason == "end"


async def test_cleanup_that_takes_time_is_not_cut_when_the_stream_ends_already() -> None:
    run = Run(b"1")
    run.feed.keep_open = True

    async with drive(run) as exchange:
        await exchange.chunk(0)
        run.drain()
        run.drain()
        await run.loop.advance(5)
        waits = not exchange.over
        run.feed.close()
        await exchange.returns()

    assert waits
    assert exchange.complete


# Farewell


async def asleep() -> AsyncIterator[dict[str, str]]:
    yield {"data": "hello"}
    await anyio.sleep_forever()


async def last_frames(**options: Any) -> str:
    """What a client gets between its last event and the end of the body."""
    async with drive(EventSourceResponse(asleep(), **options)) as exchange:
        await exchange.contains("hello")
        drain()
        await exchange.returns()
    assert exchange.complete
    return exchange.body.decode().partition("data: hello\r\n\r\n")[2]


@pytest.mark.parametrize(
    ("farewell", "said"),
    [
        (None, ""),
        ({"event": "farewell", "data": "bye"}, "event: farewell\r\ndata: bye\r\n\r\n"),
        (ServerSentEvent("bye", id=7), "id: 7\r\ndata: bye\r\n\r\n"),
        ("bye", "data: bye\r\n\r\n"),
        (b"data: raw\n\n", "data: raw\n\n"),
        (lambda: {"event": "made", "data": "just now"}, "event: made\r\ndata: just now\r\n\r\n"),
    ],
    ids=["none", "dict", "event", "text", "bytes", "function"],
)
async def test_farewell_reaches_the_client_before_the_stream_ends(farewell: Any, said: str) -> None:
    assert await last_frames(farewell=farewell) == said


def raises() -> str:
    raise RuntimeError("no words")


@pytest.mark.parametrize("farewell", [raises, lambda: {"unknown": 1}])
async def test_farewell_that_cannot_be_made_is_logged_and_the_body_completed(
    farewell: Any, caplog: pytest.LogCaptureFixture
) -> None:
    assert await last_frames(farewell=farewell) == ""
    assert [(each.name, each.levelno) for each in caplog.records if each.name != "asyncio"] == [
        ("sse_starlette.sse", logging.ERROR)
    ]


async def test_farewell_is_said_at_a_shutdown_only() -> None:
    async def short() -> AsyncIterator[str]:
        yield "all"

    async with connect(EventSourceResponse(short(), farewell="bye")) as ended:
        assert [event.data async for event in ended] == ["all"]
    # What is sent to a client that has left shows in `drive` only.
    async with drive(EventSourceResponse(asleep(), farewell="bye")) as left:
        await left.contains("hello")
        left.leave()
        await left.returns()

    assert b"bye" not in left.body


async def test_clients_are_told_to_wait_for_times_that_differ() -> None:
    retries = []
    for _ in range(20):
        response = EventSourceResponse(
            asleep(), shutdown_retry_ms=(1_000, 1_000_000), farewell="bye"
        )
        async with connect(response) as stream:
            await stream.expect(data="hello")
            drain()
            await stream.expect(data="bye")
            retries.append(stream.retry_ms)

    assert all(1_000 <= each <= 1_000_000 for each in retries)
    assert len(set(retries)) > 10


async def test_retry_comes_without_a_farewell_too() -> None:
    assert await last_frames(shutdown_retry_ms=(500, 500)) == "retry: 500\r\n\r\n"


@pytest.mark.parametrize("wrong", [(-1, 5), (6, 5)])
def test_retry_that_is_no_range_is_refused_where_it_is_written(wrong: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match=r"^shutdown_retry_ms must be "):
        EventSourceResponse([], shutdown_retry_ms=wrong)


# The response as a whole


class Worker:
    """A source that finishes its work when it's told to, and notes what befell it."""

    def __init__(self, left: int) -> None:
        self.going_down = anyio.Event()
        self.seen: list[str] = []
        self._left = left

    async def events(self) -> AsyncIterator[dict[str, int | str]]:
        try:
            yield {"data": "hello"}
            await self.going_down.wait()
            for left in range(self._left):
                await anyio.lowlevel.checkpoint()
                yield {"data": left}
            self.seen.append("finished")
        except anyio.get_cancelled_exc_class():
            self.seen.append("cancelled")
            raise
        finally:
            self.seen.append("finally")


async def test_source_that_listens_to_shutdown_event_finishes_and_is_not_cancelled() -> None:
    worker = Worker(left=3)
    reasons: list[str] = []
    response = EventSourceResponse(
        worker.events(),
        shutdown_event=worker.going_down,
        shutdown_grace_period=60,
        farewell="bye",
        on_close=reasons.append,
    )

    async with connect(response) as stream:
        await stream.expect(data="hello")
        drain()
        assert [event.data async for event in stream] == ["0", "1", "2", "bye"]

    assert worker.seen == ["finished", "finally"]
    assert reasons == ["shutdown"]


async def test_shutdown_event_is_set_and_the_source_cancelled_at_once_without_grace() -> None:
    worker = Worker(left=3)

    response = EventSourceResponse(worker.events(), shutdown_event=worker.going_down)
    async with connect(response) as stream:
        await stream.expect(data="hello")
        await settled()
        drain()
        await stream.until_ended()

    assert worker.going_down.is_set()
    assert worker.seen == ["cancelled", "finally"]


async def test_stream_that_begins_while_streams_are_to_end_ends_at_once() -> None:
    reasons: list[str] = []
    AppStatus.should_exit = True
    try:
        response = EventSourceResponse(asleep(), farewell="bye", on_close=reasons.append)
        async with connect(response) as stream:
            assert [event.data async for event in stream] == ["bye"]
    finally:
        AppStatus.should_exit = False

    assert reasons == ["shutdown"]


async def test_stream_behind_middleware_ends_properly() -> None:
    async def pass_on(request: Request, call_next: RequestResponseEndpoint) -> Response:
        return await call_next(request)

    async def route(request: Request) -> EventSourceResponse:
        return EventSourceResponse(asleep(), farewell="bye")

    app = BaseHTTPMiddleware(Starlette(routes=[Route("/", route)]), dispatch=pass_on)

    async with connect(app) as stream:
        await stream.expect(data="hello")
        drain()
        assert [event.data async for event in stream] == ["bye"]


async def test_sync_source_ends_too() -> None:
    async with connect(EventSourceResponse(iter(range(10)), farewell="bye")) as finite:
        assert [event.data async for event in finite] == [str(number) for number in range(10)]
    endless = EventSourceResponse(iter(int, 1), farewell="bye")
    async with connect(endless) as stream:
        await stream.expect(data="0")
        drain()
        await stream.until_ended()

    assert {event.data for event in stream.events[:-1]} == {"0"}
    assert stream.events[-1].data == "bye"
