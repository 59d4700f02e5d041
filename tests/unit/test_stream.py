"""One run of a response: what ends it, and that all of it comes to its end."""

from __future__ import annotations

import asyncio
import gc
import logging
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from starlette.types import Message
from tests.unit.driving import (
    DISCONNECT,
    LOOPS,
    Exchange,
    HandFeed,
    drive,
    each_way_to_cancel,
    http_scope,
    on,
    on_asyncio,
    settled,
    turns,
    until,
)
from tests.unit.hand_fed import PING, SORRY, MadeUpError, Run, failing_at
from tests.unit.nothing_left import nothing_is_left
from tests.unit.scenarios import Scenario

from sse_starlette._runtime.loop import current_loop
from sse_starlette.errors import SendTimeoutError

pytestmark = pytest.mark.anyio

# HEAD


async def test_head_is_answered_with_headers_and_the_feed_is_stopped_before_it_runs() -> None:
    run = Run(head=True, ping_interval=1)

    async with drive(run) as exchange:
        await exchange.returns()

    assert [message["type"] for message in exchange.messages] == [
        "http.response.start",
        "http.response.body",
    ]
    assert exchange.complete
    assert run.feed.closed
    assert run.loop.timers == 0
    assert run.stream.life.reason == "end"


async def test_head_to_a_client_that_does_not_read_times_out() -> None:
    run = Run(head=True, send_timeout=0)

    async with drive(run, blocked=True) as exchange:
        await run.loop.advance(0)
        error = await exchange.raises(SendTimeoutError)

    assert error.timeout == 0
    assert run.stream.life.reason == "timeout"


# The client goes away


async def receive_at_once(exchange: Exchange) -> Message:
    return {"type": "http.request", "body": b"", "more_body": False}


async def receive_never(exchange: Exchange) -> Message:
    await anyio.sleep_forever()
    raise AssertionError


@pytest.mark.parametrize("receive", [receive_at_once, receive_never])
async def test_receive_that_has_nothing_to_say_is_no_hindrance(
    receive: Callable[[Exchange], Awaitable[Message]],
) -> None:
    run = Run(b"data")

    async with drive(run, receive=receive) as exchange:
        await exchange.chunk(0)
        run.feed.end()
        await exchange.returns()

    assert exchange.complete


@pytest.mark.parametrize(
    "left", [DISCONNECT, {"type": "websocket.disconnect", "code": 1006}], ids=["http", "websocket"]
)
async def test_receive_is_not_asked_again_after_the_disconnect(left: Message) -> None:
    async def receive(exchange: Exchange) -> Message:
        return dict(left)

    run = Run()
    run.feed.keep_open = True

    async with drive(run, receive=receive) as exchange:
        await settled()
        run.feed.close()
        await exchange.returns()

    assert exchange.receives == 1
    assert run.stream.life.reason == "client"
    assert run.stream.life.disconnected == left
    assert run.feed.closed


# Cancellation


@each_way_to_cancel
async def test_cancelled_stream_whose_send_fails_is_cancelled_all_the_same(
    way: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "sse_starlette.sse")
    run = Run(b"data")

    async with drive(run, on_send=failing_at(2, MadeUpError("gone"))) as exchange:
        await exchange.chunk(0)
        exchange.cancel_in(way)
        await exchange.is_cancelled()

    assert [record.levelname for record in caplog.records] == ["DEBUG"]


@pytest.mark.parametrize(
    ("anyio_backend", "hit"),
    [
        on(loop, hit, name=hit)
        for loop in LOOPS
        for hit in ("scope", "natively", "the client leaves", "a shutdown")
        if (loop, hit) != ("trio", "natively")
    ],
)
async def test_who_handles_the_error_is_not_cut_off_and_the_last_frame_made_once(hit: str) -> None:
    made: list[str] = []
    handled: list[str] = []
    go_on = anyio.Event()

    async def slow_sorry(failure: Exception) -> bytes:
        made.append(str(failure))
        await go_on.wait()
        handled.append(str(failure))
        return SORRY

    run = Run(b"data", on_error=slow_sorry)
    async with drive(run) as exchange:
        await exchange.chunk(0)
        run.feed.end(MadeUpError("lost"))
        await exchange.until(lambda: made)
        if hit == "the client leaves":
            exchange.leave()
        elif hit == "a shutdown":
            run.drain()
            await run.loop.advance(5)
        else:
            exchange.cancel_in(hit)
        await settled()
        assert not exchange.over
        go_on.set()
        await exchange.ends()

    assert made == handled == ["lost"]
    gone = hit == "the client leaves"
    assert exchange.chunks == [b"data", *([] if gone else [SORRY])]
    assert exchange.complete is not gone
    assert run.stream.life.reason == "error"
    cancelled = hit in ("scope", "natively")
    assert isinstance(exchange.raised, anyio.get_cancelled_exc_class() if cancelled else type(None))


async def test_who_handles_the_error_is_cut_short_after_the_time_for_a_cleanup(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def endless(failure: Exception) -> bytes:
        await anyio.sleep_forever()
        raise AssertionError

    run = Run(b"data", on_error=endless, cleanup_timeout=0)

    async with drive(run) as exchange:
        await exchange.chunk(0)
        run.feed.end(MadeUpError())
        await exchange.returns()

    assert exchange.complete
    assert "on_error was cut short after 0 s (cleanup_timeout)" in caplog.text


async def test_stream_that_fails_while_a_send_is_blocked_sends_no_ping_and_completes() -> None:
    await Scenario("block fail +100 unblock raises", "1", "error", {"ping_interval": 15}).play()


async def test_feed_without_work_is_stopped_and_not_run() -> None:
    run = Run(b"data")
    run.feed.has_work = False

    async with drive(run) as exchange:
        await exchange.chunk(0)
        exchange.leave()
        await exchange.returns()

    assert run.feed.runs == 0
    assert run.feed.stops


async def test_ping_takes_along_what_the_feed_adds() -> None:
    run = Run(ping_interval=15)
    run.feed.ping = lambda: b"id: 5\n\n"  # type: ignore[method-assign]

    async with drive(run) as exchange:
        await run.loop.advance(15)

        assert exchange.chunks == [PING + b"id: 5\n\n"]


@on_asyncio
@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited:RuntimeWarning")
async def test_feed_is_closed_when_all_tasks_of_the_loop_are_cancelled_at_once() -> None:
    """As `asyncio.run` does in the end, also to tasks that haven't begun."""
    for moment in range(1, 10):
        run = Run(b"data")
        others = asyncio.all_tasks()

        async with drive(run) as exchange:
            await turns(moment)
            for task in asyncio.all_tasks() - others:
                task.cancel()
            await exchange.is_cancelled()

        assert run.feed.runs == 1
        assert run.feed.closed
        assert run.stream.life.reason == "cancelled"
    gc.collect()  # Python complains of a task that never began when it's collected: here.


async def test_empty_chunk_follows_headers_that_do_not_leave_by_themselves() -> None:
    run = Run(start_alone=False)

    async with drive(run) as exchange:
        await exchange.chunk(0)

        assert exchange.chunks == [b""]


@on_asyncio
async def test_receive_that_raises_a_cancellation_at_once_is_taken_for_one() -> None:
    """It waits for something that has been cancelled; the writer's task hasn't begun by then."""

    async def receive(exchange: Exchange) -> Message:
        await cancelled
        raise AssertionError

    cancelled = asyncio.get_running_loop().create_future()
    cancelled.cancel()
    run = Run()

    async with drive(run, receive=receive) as exchange:
        await exchange.is_cancelled()

    assert exchange.complete
    assert run.feed.closed


# The loop goes away


class WaitingFeed(HandFeed):
    """Its `run` waits as the tasks of streams do."""

    async def run(self) -> None:
        self.runs += 1
        await current_loop().waker()


async def begin(feed: HandFeed, sent: list[Message]) -> list[asyncio.Task[Any]]:
    """Begin a stream, the loop of which is to be closed in its middle; return its tasks."""

    async def receive() -> Message:
        await asyncio.get_running_loop().create_future()
        raise AssertionError

    async def send(message: Message) -> None:
        sent.append(message)

    run = Run()
    run.feed = feed
    task = asyncio.ensure_future(run(http_scope(), receive, send))
    await until(lambda: sent)
    await turns(5)
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for each in tasks:
        each._log_destroy_pending = False  # type: ignore[attr-defined]
    return [task, *(tasks - {task})]


@pytest.mark.parametrize("kind", ["asyncio", on("uvloop")])
@pytest.mark.parametrize("outermost_first", [False, True])
@pytest.mark.parametrize("has_work", [False, True])
def test_stream_whose_loop_was_closed_awaits_nothing_when_it_is_thrown_away(
    has_work: bool, outermost_first: bool, kind: str
) -> None:
    """A coroutine that awaits something then is told off by Python, and its stream remembered for ever."""
    feed = WaitingFeed()
    feed.has_work = has_work
    if kind == "asyncio":
        loop = asyncio.new_event_loop()
    else:
        import uvloop

        loop = uvloop.new_event_loop()

    sent: list[Message] = []
    with nothing_is_left():
        tasks = loop.run_until_complete(begin(feed, sent))
        loop.close()
        coroutines: list[Any] = [task.get_coro() for task in tasks]
        for coroutine in coroutines if outermost_first else reversed(coroutines):
            coroutine.close()

    assert len(coroutines) == (3 if has_work else 2)
    assert len(sent) == 1
    assert feed.runs == has_work
