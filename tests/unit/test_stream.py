"""What one run of a response sends, to whom it listens, and how it ends."""

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
from tests.unit.hand_fed import FAREWELL, PING, Run
from tests.unit.nothing_left import nothing_is_left

from sse_starlette._runtime.loop import current_loop
from sse_starlette.errors import SendTimeoutError

pytestmark = pytest.mark.anyio

SORRY = b"data: sorry\n\n"


class MadeUpError(Exception):
    pass


def failing_at(number: int, failure: Exception) -> Callable[[Message], Awaitable[None]]:
    """Let the send with this number, from 0, fail."""
    sends = 0

    async def on_send(message: Message) -> None:
        nonlocal sends
        sends += 1
        if sends == number + 1:
            raise failure

    return on_send


async def sorry(failure: Exception) -> bytes:
    return SORRY


# The way of a frame


async def test_headers_are_followed_by_the_frames_and_an_empty_last_chunk() -> None:
    run = Run(b"1")

    async with drive(run) as exchange:
        await exchange.chunk(0)
        run.feed.push(b"2")
        await exchange.chunk(1)
        run.feed.end()
        await exchange.returns()

    assert exchange.messages == [
        {"type": "http.response.start", "status": 200, "headers": []},
        {"type": "http.response.body", "body": b"1", "more_body": True},
        {"type": "http.response.body", "body": b"2", "more_body": True},
        {"type": "http.response.body", "body": b"", "more_body": False},
    ]
    assert run.stream.life.reason == "end"


async def test_nothing_is_sent_before_the_headers_have_been_taken() -> None:
    run = Run()

    async with drive(run, blocked=True) as exchange:
        await exchange.until(lambda: exchange.blocked and run.feed.runs)
        run.feed.push(b"1")
        await settled()
        assert exchange.messages == []
        exchange.unblock()
        await exchange.chunk(0)
        run.feed.end()
        await exchange.returns()

    assert exchange.chunks == [b"1"]


async def test_frames_that_are_ready_while_a_send_is_blocked_leave_in_one_message() -> None:
    run = Run(b"1")

    async with drive(run) as exchange:
        await exchange.chunk(0)
        exchange.block()
        run.feed.push(b"2")
        await exchange.until(lambda: exchange.blocked)
        run.feed.push(b"3")
        run.feed.push(b"4")
        exchange.unblock()
        await exchange.contains("4")

    assert exchange.chunks == [b"1", b"2", b"34"]


@on_asyncio
async def test_frame_is_with_the_server_when_the_call_that_announces_it_returns() -> None:
    """Nobody else runs in between, not even a task that was ready before."""
    run = Run(b"1")
    seen: list[list[bytes]] = []

    async with drive(run) as exchange:
        await exchange.chunk(0)
        await settled()
        asyncio.get_running_loop().call_soon(lambda: seen.append(exchange.chunks))
        run.feed.push(b"2")
        sent_by_then = exchange.chunks
        run.feed.push(b"3")
        told_by_then = run.feed.sents
        await exchange.until(lambda: seen)

    assert sent_by_then == [b"1", b"2"]
    assert told_by_then == 3
    assert seen == [[b"1", b"2", b"3"]]


async def test_feed_learns_of_what_was_sent_only_when_it_has_been_sent() -> None:
    run = Run(b"1")

    async with drive(run) as exchange:
        await exchange.chunk(0)
        await settled()
        sents = run.feed.sents
        exchange.block()
        run.feed.push(b"2")
        await exchange.until(lambda: exchange.blocked)
        sents_while_blocked = run.feed.sents
        exchange.unblock()
        await exchange.until(lambda: run.feed.sents == 2)

    assert (sents, sents_while_blocked) == (1, 1)


async def test_frames_that_are_ready_when_the_feed_ends_are_sent() -> None:
    run = Run()

    async with drive(run) as exchange:
        await settled()
        run.feed.ready = [b"last"]
        run.feed.end()
        await exchange.returns()

    assert exchange.chunks == [b"last"]


async def test_feed_has_closed_before_the_body_ends() -> None:
    run = Run()
    run.feed.keep_open = True

    async with drive(run) as exchange:
        await settled()
        run.feed.end()
        await settled()
        complete_before_the_close = exchange.complete
        run.feed.close()
        await exchange.returns()

    assert not complete_before_the_close
    assert exchange.complete


async def test_feed_is_run_once_and_stopped_in_the_end() -> None:
    run = Run()

    async with drive(run) as exchange:
        await settled()
        exchange.leave()
        await exchange.returns()

    assert run.feed.runs == 1
    assert run.feed.stops
    assert run.feed.closed


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
    assert run.loop.alarms == 0
    assert run.stream.life.reason == "end"


async def test_head_to_a_client_that_does_not_read_times_out() -> None:
    run = Run(head=True, send_timeout=0)

    async with drive(run, blocked=True) as exchange:
        await run.loop.advance(0)
        error = await exchange.raises(SendTimeoutError)

    assert error.timeout == 0
    assert run.stream.life.reason == "timeout"


# Ping


async def test_first_ping_comes_after_the_interval_and_then_one_after_each() -> None:
    run = Run(ping_interval=15)

    async with drive(run) as exchange:
        await run.loop.advance(14.9)
        too_early = exchange.chunks
        await run.loop.advance(0.1)
        first = exchange.chunks
        await run.loop.advance(14.9)
        between = exchange.chunks
        await run.loop.advance(0.1)

        assert (too_early, first, between) == ([], [PING], [PING])
        assert exchange.chunks == [PING, PING]


async def test_no_ping_while_data_flows() -> None:
    run = Run(ping_interval=15)

    async with drive(run) as exchange:
        for _ in range(20):
            await run.loop.advance(10)
            run.feed.push(b"data")
            await settled()

        assert exchange.chunks == [b"data"] * 20


async def test_ping_comes_an_interval_after_the_last_data() -> None:
    run = Run(ping_interval=15)

    async with drive(run) as exchange:
        await run.loop.advance(10)
        run.feed.push(b"data")
        await run.loop.advance(14.9)
        before = exchange.chunks
        await run.loop.advance(0.1)

        assert before == [b"data"]
        assert exchange.chunks == [b"data", PING]


async def test_interval_may_be_a_fraction_of_a_second() -> None:
    run = Run(ping_interval=0.25)

    async with drive(run) as exchange:
        await run.loop.advance(1)

        assert exchange.chunks == [PING] * 4


async def test_interval_zero_sends_no_ping_and_sets_no_alarm() -> None:
    run = Run(ping_interval=0)

    async with drive(run) as exchange:
        await run.loop.advance(1_000_000)

        assert exchange.chunks == []
        assert run.loop.alarms == 0


async def test_no_ping_waits_behind_a_blocked_send() -> None:
    run = Run(ping_interval=15)

    async with drive(run) as exchange:
        await settled()
        exchange.block()
        run.feed.push(b"data")
        await run.loop.advance(100)
        offered_while_blocked = len(exchange.offered)
        exchange.unblock()
        await exchange.chunk(0)
        await settled()
        after = exchange.chunks
        await run.loop.advance(15)

        assert offered_while_blocked == 2
        assert after == [b"data"]
        assert exchange.chunks == [b"data", PING]


async def test_data_that_is_ready_with_a_ping_takes_its_place() -> None:
    run = Run(ping_interval=15)

    async with drive(run) as exchange:
        await settled()
        run.feed.ready = [b"data"]
        await run.loop.advance(15)

        assert exchange.chunks == [b"data"]


async def test_ping_that_falls_into_a_blocked_ping_is_left_out() -> None:
    run = Run(ping_interval=15)

    async with drive(run) as exchange:
        await settled()
        exchange.block()
        await run.loop.advance(60)
        exchange.unblock()
        await exchange.chunk(0)
        await settled()

        assert exchange.chunks == [PING]


async def test_ping_that_cannot_be_made_ends_the_stream_as_an_error() -> None:
    def ping() -> bytes:
        raise MadeUpError("no ping")

    run = Run(b"data", ping_interval=15, ping_frame=ping)

    async with drive(run) as exchange:
        await run.loop.advance(15)
        await exchange.raises(MadeUpError)

    assert exchange.complete
    assert run.feed.closed
    assert run.stream.life.reason == "error"


async def test_no_alarm_is_left_when_the_stream_has_ended() -> None:
    run = Run(ping_interval=15)

    async with drive(run) as exchange:
        await settled()
        set_while_open = run.loop.waiting
        exchange.leave()
        await exchange.returns()

    assert (set_while_open, run.loop.waiting) == (1, 0)


async def test_alarm_that_rings_after_the_end_is_not_answered() -> None:
    """On trio an alarm may already have woken when it's stopped."""
    run = Run(ping_interval=15)
    rings: list[Callable[[], None]] = []
    make_alarm = run.loop.alarm

    def alarm(ring: Callable[[], None], beside: Any) -> Any:
        rings.append(ring)
        return make_alarm(ring, beside)

    run.loop.alarm = alarm  # type: ignore[method-assign]
    async with drive(run) as exchange:
        await settled()
        exchange.leave()
        await exchange.returns()
        rings[0]()
        run.loop.now += 100
        rings[0]()
        await settled()

    assert exchange.chunks == []


# The first event


async def test_first_frame_is_sent_at_once_after_the_headers() -> None:
    run = Run(first_event_timeout=float("inf"))

    async with drive(run) as exchange:
        await settled()
        before = list(exchange.messages)
        run.feed.push(b"first")
        await exchange.chunk(0)

        assert before == []
        assert exchange.chunks == [b"first"]
        await exchange.until(lambda: run.feed.sents == 1)


async def test_frame_that_is_ready_from_the_beginning_is_not_waited_for() -> None:
    run = Run(b"first", first_event_timeout=float("inf"))

    async with drive(run) as exchange:
        assert await exchange.chunk(0) == b"first"


async def test_error_before_the_first_frame_leaves_before_any_message() -> None:
    run = Run(first_event_timeout=float("inf"), error_frame=sorry)

    async with drive(run) as exchange:
        run.feed.end(failure := MadeUpError())
        error = await exchange.raises(MadeUpError)

    assert error is failure
    assert exchange.offered == []
    assert run.stream.life.reason == "error"
    assert run.feed.closed


async def test_error_together_with_the_first_frame_comes_after_it() -> None:
    run = Run(first_event_timeout=float("inf"), error_frame=sorry)

    async with drive(run) as exchange:
        run.feed.ready = [b"first"]
        run.feed.end(MadeUpError())
        await exchange.returns()

    assert exchange.chunks == [b"first", SORRY]


async def test_feed_that_ends_without_a_frame_gives_an_empty_body() -> None:
    run = Run(first_event_timeout=float("inf"))

    async with drive(run) as exchange:
        run.feed.end()
        await exchange.returns()

    assert exchange.body == b""
    assert exchange.complete


async def test_slow_first_frame_is_waited_for_with_headers_and_pings_sent() -> None:
    run = Run(first_event_timeout=0.001, ping_interval=15)

    async with drive(run) as exchange:
        await exchange.until(lambda: exchange.messages)
        await run.loop.advance(15)
        run.feed.push(b"first")
        await exchange.contains("first")

        assert exchange.chunks == [PING, b"first"]


async def test_client_that_leaves_before_the_first_frame_is_sent_nothing() -> None:
    run = Run(first_event_timeout=float("inf"))

    async with drive(run) as exchange:
        await settled()
        exchange.leave()
        await exchange.returns()

    assert exchange.offered == []
    assert run.stream.life.reason == "client"
    assert run.feed.closed


async def test_cancellation_before_the_first_frame_sends_nothing() -> None:
    run = Run(first_event_timeout=float("inf"))

    async with drive(run) as exchange:
        await settled()
        exchange.cancel()
        await exchange.is_cancelled()

    assert exchange.offered == []
    assert run.stream.life.reason == "cancelled"
    assert run.feed.closed


async def test_what_runs_beside_may_make_the_first_frame() -> None:
    async def make_first_frame() -> None:
        run.feed.push(b"first")

    run = Run(first_event_timeout=float("inf"), side_task=make_first_frame)

    async with drive(run) as exchange:
        assert await exchange.chunk(0) == b"first"


# Errors of the feed


async def test_error_of_the_feed_is_raised_as_it_was_when_the_body_is_complete() -> None:
    run = Run(b"data")

    async with drive(run) as exchange:
        await exchange.chunk(0)
        run.feed.end(failure := ExceptionGroup("of the user", [MadeUpError(), ValueError()]))
        error = await exchange.raises(ExceptionGroup)

    assert error is failure
    assert exchange.complete
    assert run.stream.life.reason == "error"


async def test_error_that_is_made_a_last_frame_goes_no_further() -> None:
    run = Run(b"data", error_frame=sorry)

    async with drive(run) as exchange:
        await exchange.chunk(0)
        run.feed.end(MadeUpError())
        await exchange.returns()

    assert exchange.chunks == [b"data", SORRY]
    assert exchange.complete
    assert run.stream.life.reason == "error"


async def test_empty_last_frame_is_not_sent() -> None:
    async def nothing(failure: Exception) -> bytes:
        return b""

    run = Run(error_frame=nothing)

    async with drive(run) as exchange:
        run.feed.end(MadeUpError())
        await exchange.returns()

    assert exchange.chunks == []
    assert exchange.complete


async def test_error_in_making_the_last_frame_is_logged_and_the_first_error_raised(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def broken(failure: Exception) -> bytes:
        raise ValueError("on_error is broken")

    run = Run(error_frame=broken)

    async with drive(run) as exchange:
        run.feed.end(MadeUpError())
        await exchange.raises(MadeUpError)

    assert exchange.complete
    assert "on_error is broken" in caplog.text


async def test_error_that_is_raised_again_is_not_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def again(failure: Exception) -> bytes:
        raise failure

    run = Run(error_frame=again)

    async with drive(run) as exchange:
        run.feed.end(failure := MadeUpError())
        error = await exchange.raises(MadeUpError)

    assert error is failure
    assert exchange.complete
    assert caplog.records == []


async def test_error_that_came_while_a_send_was_blocked_is_logged_if_the_client_leaves(
    caplog: pytest.LogCaptureFixture,
) -> None:
    run = Run(b"data")

    async with drive(run) as exchange:
        await exchange.chunk(0)
        exchange.block()
        run.feed.push(b"more")
        await exchange.until(lambda: exchange.blocked)
        run.feed.end(MadeUpError("nobody has seen me"))
        await settled()
        exchange.leave()
        await exchange.returns()

    assert run.stream.life.reason == "client"
    assert "nobody has seen me" in caplog.text


# What runs beside


async def test_what_runs_beside_is_cancelled_with_the_stream() -> None:
    seen: list[str] = []

    async def beside() -> None:
        seen.append("begun")
        try:
            await anyio.sleep_forever()
        finally:
            seen.append("ended")

    run = Run(side_task=beside)

    async with drive(run) as exchange:
        await exchange.until(lambda: seen)
        exchange.leave()
        await exchange.returns()

    assert seen == ["begun", "ended"]


async def test_stream_goes_on_when_what_runs_beside_has_returned() -> None:
    async def beside() -> None:
        run.feed.push(b"1")

    run = Run(side_task=beside)

    async with drive(run) as exchange:
        await exchange.chunk(0)
        run.feed.push(b"2")
        assert await exchange.chunk(1) == b"2"


async def test_what_runs_beside_has_to_be_async() -> None:
    run = Run(side_task=lambda: None)

    async with drive(run) as exchange:
        error = await exchange.raises(TypeError)

    assert "has returned NoneType: it runs beside the stream, so it must be an async" in str(error)


async def test_error_beside_ends_the_stream_like_an_error_of_the_feed() -> None:
    async def beside() -> None:
        raise MadeUpError

    run = Run(side_task=beside, error_frame=sorry)

    async with drive(run) as exchange:
        await exchange.returns()

    assert exchange.chunks == [SORRY]
    assert exchange.complete
    assert run.stream.life.reason == "error"


async def test_sender_whose_receiver_the_ended_source_closed_is_no_error(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The source ends, which closes the memory stream its data came through."""

    ended = anyio.Event()

    async def beside() -> None:
        await ended.wait()
        raise anyio.BrokenResourceError

    run = Run(side_task=beside)

    async with drive(run) as exchange:
        await settled()
        exchange.block()
        run.feed.push(b"data")
        await exchange.until(lambda: exchange.blocked)
        run.feed.end()
        await exchange.until(lambda: run.feed.ended)
        ended.set()
        await settled()
        exchange.unblock()
        await exchange.returns()

    assert run.stream.life.reason == "end"
    assert caplog.records == []


async def test_error_beside_a_stream_that_is_ending_is_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def beside() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            raise MadeUpError("too late")

    run = Run(side_task=beside)

    async with drive(run) as exchange:
        await settled()
        exchange.leave()
        await exchange.returns()

    assert run.stream.life.reason == "client"
    assert "too late" in caplog.text


# The client goes away


async def test_client_that_leaves_ends_an_idle_stream() -> None:
    run = Run(b"data")

    async with drive(run) as exchange:
        await exchange.chunk(0)
        exchange.leave()
        await exchange.returns()

    assert run.stream.life.reason == "client"
    assert run.stream.life.disconnected == DISCONNECT
    assert not exchange.complete


async def test_client_that_leaves_ends_a_blocked_send() -> None:
    run = Run(b"data")

    async with drive(run, blocked=True) as exchange:
        await exchange.until(lambda: exchange.blocked)
        exchange.leave()
        await exchange.returns()

    assert len(exchange.offered) == 1
    assert run.stream.life.reason == "client"
    assert run.feed.closed


async def test_client_that_leaves_is_not_sent_what_the_feed_says_at_last() -> None:
    run = Run()
    run.feed.last_words = [b"last words"]

    async with drive(run) as exchange:
        await exchange.until(lambda: exchange.messages)
        await settled()
        exchange.leave()
        await exchange.returns()

    assert len(exchange.offered) == 1


async def test_message_that_is_no_disconnect_is_passed_over() -> None:
    async def receive(exchange: Exchange) -> Message:
        if exchange.receives < 10:
            return {"type": "http.request", "body": b"x", "more_body": True}
        return await exchange.gone()

    run = Run(b"data")

    async with drive(run, receive=receive) as exchange:
        await exchange.chunk(0)
        await exchange.until(lambda: exchange.receives == 10)
        assert run.stream.life.reason is None


async def test_receive_that_always_returns_something_does_not_stop_the_others() -> None:
    async def receive(exchange: Exchange) -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    run = Run(b"data")

    async with drive(run, receive=receive) as exchange:
        await exchange.chunk(0)
        run.feed.end()
        await exchange.returns()

    assert exchange.complete


async def test_receive_is_not_asked_again_after_the_disconnect() -> None:
    async def receive(exchange: Exchange) -> Message:
        return dict(DISCONNECT)

    run = Run()
    run.feed.keep_open = True

    async with drive(run, receive=receive) as exchange:
        await settled()
        run.feed.close()
        await exchange.returns()

    assert exchange.receives == 1
    assert run.stream.life.reason == "client"
    assert run.feed.closed


async def test_receive_that_never_returns_is_no_hindrance_at_the_end() -> None:
    async def receive(exchange: Exchange) -> Message:
        await anyio.sleep_forever()
        raise AssertionError

    run = Run(b"data")

    async with drive(run, receive=receive) as exchange:
        await exchange.chunk(0)
        run.feed.end()
        await exchange.returns()

    assert exchange.complete


async def test_receive_that_raises_ends_the_stream_as_an_error() -> None:
    async def receive(exchange: Exchange) -> Message:
        await exchange.until(lambda: exchange.chunks)
        raise MadeUpError

    run = Run(b"data")

    async with drive(run, receive=receive) as exchange:
        await exchange.raises(MadeUpError)

    assert exchange.complete
    assert run.stream.life.reason == "error"


async def test_disconnect_of_a_websocket_is_one() -> None:
    async def receive(exchange: Exchange) -> Message:
        if exchange.receives == 1:
            return {"type": "websocket.connect"}
        return {"type": "websocket.disconnect", "code": 1006}

    run = Run()

    async with drive(run, receive=receive) as exchange:
        await exchange.returns()

    assert run.stream.life.disconnected == {"type": "websocket.disconnect", "code": 1006}


async def test_client_that_leaves_while_the_feed_closes_after_its_end_changes_no_reason() -> None:
    run = Run()
    run.feed.keep_open = True

    async with drive(run) as exchange:
        await settled()
        run.feed.ended = True
        run.feed.push()
        await exchange.until(lambda: run.stream.life.reason == "end")
        await settled()
        exchange.leave()
        await settled()
        run.feed.close()
        await exchange.returns()

    assert run.stream.life.reason == "end"
    assert run.stream.life.disconnected is None


# Sends that fail


@pytest.mark.parametrize("number", [0, 1, 2])
async def test_os_error_of_send_means_that_the_client_has_gone(number: int) -> None:
    """The headers, a frame and the last chunk fail."""
    run = Run(b"data")

    async with drive(run, on_send=failing_at(number, BrokenPipeError())) as exchange:
        run.feed.end()
        await exchange.returns()

    assert len(exchange.offered) == number + 1
    assert run.stream.life.reason == "client"
    assert run.stream.life.disconnected == DISCONNECT
    assert run.feed.closed


@pytest.mark.parametrize("number", [0, 1, 2])
async def test_any_other_error_of_send_is_raised_and_nothing_more_is_sent(number: int) -> None:
    run = Run(b"data", error_frame=sorry)

    async with drive(run, on_send=failing_at(number, MadeUpError())) as exchange:
        run.feed.end()
        await exchange.raises(MadeUpError)

    assert len(exchange.offered) == number + 1
    assert run.stream.life.reason == "error"
    assert run.feed.closed


@pytest.mark.parametrize("number", [0, 1])
async def test_head_whose_answer_cannot_be_sent_raises(number: int) -> None:
    run = Run(head=True)

    async with drive(run, on_send=failing_at(number, MadeUpError())) as exchange:
        await exchange.raises(MadeUpError)

    assert run.stream.life.reason == "error"


async def test_error_of_send_does_not_take_the_place_of_the_feeds() -> None:
    run = Run(b"data")

    async with drive(run, on_send=failing_at(2, RuntimeError())) as exchange:
        await exchange.chunk(0)
        run.feed.end(failure := MadeUpError())
        error = await exchange.raises(MadeUpError)

    assert error is failure


@pytest.mark.parametrize("number", [0, 1, 2])
async def test_send_that_takes_too_long_ends_the_stream(number: int) -> None:
    """The headers, a frame and the last chunk get stuck."""
    sends = 0

    async def on_send(message: Message) -> None:
        nonlocal sends
        sends += 1
        if sends == number + 1:
            await anyio.sleep_forever()

    run = Run(b"data", send_timeout=0)

    async with drive(run, on_send=on_send) as exchange:
        run.feed.end()
        await run.loop.advance(0)
        error = await exchange.raises(SendTimeoutError)

    assert error.timeout == 0
    assert len(exchange.offered) == number + 1
    assert run.stream.life.reason == "timeout"
    assert run.feed.closed


async def test_ping_that_takes_too_long_ends_an_idle_stream() -> None:
    run = Run(ping_interval=15, send_timeout=0)

    async with drive(run) as exchange:
        await settled()
        exchange.block()
        await run.loop.advance(15)
        await run.loop.advance(0)
        await exchange.raises(SendTimeoutError)

    assert run.stream.life.reason == "timeout"


async def test_one_alarm_bounds_many_sends() -> None:
    run = Run(send_timeout=10)

    async with drive(run) as exchange:
        for number in range(30):
            await run.loop.advance(3)
            run.feed.push(b"%d" % number)
            await exchange.chunk(number)

        assert run.loop.alarms == 1
        assert run.stream.life.reason is None


async def test_sends_that_are_each_short_do_not_add_up() -> None:
    run = Run(send_timeout=10)

    async with drive(run) as exchange:
        await settled()
        for number in range(5):
            exchange.block()
            run.feed.push(b"%d" % number)
            await run.loop.advance(9)
            exchange.unblock()
            await exchange.chunk(number)

        assert run.stream.life.reason is None


async def test_send_has_its_whole_time_though_the_alarm_was_set_for_an_earlier_one() -> None:
    run = Run(send_timeout=10)

    async with drive(run) as exchange:
        await run.loop.advance(8)
        exchange.block()
        run.feed.push(b"data")
        await run.loop.advance(9.9)
        reason_before_its_time_is_up = run.stream.life.reason
        await run.loop.advance(0.1)
        await exchange.raises(SendTimeoutError)

    assert reason_before_its_time_is_up is None
    assert run.loop.alarms == 1
    assert run.stream.life.reason == "timeout"


# Cancellation


@each_way_to_cancel
async def test_cancelled_stream_completes_its_body_and_lets_the_cancellation_go_on(
    way: str,
) -> None:
    run = Run(b"data")

    async with drive(run) as exchange:
        await exchange.chunk(0)
        exchange.cancel_in(way)
        await exchange.is_cancelled()

    assert exchange.complete
    assert run.feed.closed
    assert run.stream.life.reason == "cancelled"


@each_way_to_cancel
async def test_cancelled_stream_sends_what_the_feed_says_at_last(way: str) -> None:
    run = Run(b"data")
    run.feed.last_words = [b"last words"]

    async with drive(run) as exchange:
        await exchange.chunk(0)
        exchange.cancel_in(way)
        await exchange.is_cancelled()

    assert exchange.chunks == [b"data", b"last words"]
    assert exchange.complete


@each_way_to_cancel
async def test_cancelled_stream_waits_for_the_feed_to_close(way: str) -> None:
    run = Run(b"data")
    run.feed.keep_open = True

    async with drive(run) as exchange:
        await exchange.chunk(0)
        exchange.cancel_in(way)
        await settled()
        over_before_the_close = exchange.over
        run.feed.close()
        await exchange.is_cancelled()

    assert not over_before_the_close
    assert exchange.complete


@each_way_to_cancel
async def test_cancelled_stream_whose_client_does_not_read_gives_up(way: str) -> None:
    run = Run(b"data", cancelled_timeout=0)

    async with drive(run) as exchange:
        await exchange.chunk(0)
        exchange.block()
        run.feed.push(b"more")
        await exchange.until(lambda: exchange.blocked)
        exchange.cancel_in(way)
        await exchange.is_cancelled()

    assert not exchange.complete
    assert run.feed.closed


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


@each_way_to_cancel
async def test_cancellation_does_not_make_the_last_frame_twice(way: str) -> None:
    made = 0
    go_on = anyio.Event()

    async def slow_sorry(failure: Exception) -> bytes:
        nonlocal made
        made += 1
        await go_on.wait()
        return SORRY

    run = Run(b"data", error_frame=slow_sorry)

    async with drive(run) as exchange:
        await exchange.chunk(0)
        run.feed.end(MadeUpError())
        await exchange.until(lambda: made)
        exchange.cancel_in(way)
        await settled()
        assert not exchange.over
        go_on.set()
        await exchange.is_cancelled()

    assert made == 1
    assert exchange.chunks == [b"data", SORRY]
    assert exchange.complete


async def test_client_that_leaves_does_not_cut_off_who_handles_the_error() -> None:
    handled: list[str] = []
    waits, go_on = anyio.Event(), anyio.Event()

    async def slow_sorry(failure: Exception) -> bytes:
        waits.set()
        await go_on.wait()
        handled.append(str(failure))
        return SORRY

    run = Run(b"data", error_frame=slow_sorry)

    async with drive(run) as exchange:
        await exchange.chunk(0)
        run.feed.end(MadeUpError("lost"))
        await waits.wait()
        exchange.leave()
        await settled()
        go_on.set()
        await exchange.returns()

    assert handled == ["lost"]
    assert exchange.chunks == [b"data"], "nothing is sent to a client that has left"
    assert run.stream.life.reason == "error"


async def test_shutdown_does_not_cut_off_who_handles_the_error() -> None:
    waits, go_on = anyio.Event(), anyio.Event()

    async def slow_sorry(failure: Exception) -> bytes:
        waits.set()
        await go_on.wait()
        return SORRY

    run = Run(b"data", error_frame=slow_sorry)

    async with drive(run) as exchange:
        await exchange.chunk(0)
        run.feed.end(MadeUpError())
        await waits.wait()
        run.drain()
        for _ in range(5):
            await run.loop.advance(1)
        go_on.set()
        await exchange.returns()

    assert exchange.chunks == [b"data", SORRY]
    assert exchange.complete


async def test_who_handles_the_error_is_cut_short_after_the_time_for_a_cleanup(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def endless(failure: Exception) -> bytes:
        await anyio.sleep_forever()
        raise AssertionError

    run = Run(b"data", error_frame=endless, cleanup_timeout=0)

    async with drive(run) as exchange:
        await exchange.chunk(0)
        run.feed.end(MadeUpError())
        await exchange.returns()

    assert exchange.complete
    assert "on_error was cut short after 0 s (cleanup_timeout)" in caplog.text


# Who reads the request


async def test_receive_is_not_called_before_the_feed_has_come_to_where_it_waits() -> None:
    order: list[str] = []

    class Reading(HandFeed):
        async def run(self) -> None:
            order.append("the feed runs")
            await anyio.lowlevel.checkpoint()
            await super().run()

    async def receive(exchange: Exchange) -> Message:
        order.append("receive")
        await anyio.sleep_forever()
        raise AssertionError

    run = Run()
    run.feed = Reading(b"1")
    async with drive(run, receive=receive) as exchange:
        await exchange.until(lambda: len(order) == 2)
        run.feed.end()
        await exchange.returns()

    assert order == ["the feed runs", "receive"]


async def test_receive_is_not_called_before_what_runs_beside_the_feed_waits() -> None:
    order: list[str] = []

    async def beside() -> None:
        order.append("beside")
        await anyio.sleep_forever()

    async def receive(exchange: Exchange) -> Message:
        order.append("receive")
        await anyio.sleep_forever()
        raise AssertionError

    run = Run(side_task=beside)
    async with drive(run, receive=receive) as exchange:
        await exchange.until(lambda: len(order) == 2)
        run.feed.end()
        await exchange.returns()

    assert order == ["beside", "receive"]


async def test_sources_begin_although_the_headers_are_not_taken() -> None:
    begun: list[str] = []

    async def beside() -> None:
        begun.append("beside")
        await anyio.sleep_forever()

    run = Run(side_task=beside)
    async with drive(run, blocked=True) as exchange:
        await exchange.until(lambda: exchange.blocked and run.feed.runs and begun)
        exchange.unblock()
        run.feed.end()
        await exchange.returns()

    assert exchange.complete


async def test_timeout_of_the_headers_closes_a_feed_that_has_begun() -> None:
    run = Run(send_timeout=3)

    async with drive(run, blocked=True) as exchange:
        await exchange.until(lambda: exchange.blocked and run.feed.runs)
        await run.loop.advance(3)
        await exchange.raises(SendTimeoutError)

    assert run.feed.closed


async def test_who_fills_the_feed_is_cancelled_before_the_feed_is_stopped() -> None:
    order: list[object] = []
    go_on = anyio.Event()

    class Noting(HandFeed):
        def stop(self) -> None:
            order.append("the feed is stopped")
            super().stop()

    async def beside() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            with anyio.CancelScope(shield=True):
                order.append("cancelled")
                await go_on.wait()
                order.append("cleaned up")

    run = Run(side_task=beside)
    run.feed = Noting(b"1")
    async with drive(run) as exchange:
        await exchange.chunk(0)
        exchange.leave()
        await exchange.until(lambda: order)
        await settled()
        go_on.set()
        await exchange.returns()

    assert order[:3] == ["cancelled", "cleaned up", "the feed is stopped"]


async def test_who_fills_the_feed_has_no_more_time_than_a_cleanup() -> None:
    go_on = anyio.Event()

    async def beside() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            with anyio.CancelScope(shield=True):
                await go_on.wait()

    run = Run(side_task=beside, cleanup_timeout=0)
    async with drive(run) as exchange:
        await settled()
        exchange.leave()
        await exchange.until(lambda: run.feed.closed)
        go_on.set()
        await exchange.returns()


@on_asyncio
async def test_who_fills_the_feed_and_is_cancelled_before_it_began_is_not_waited_for() -> None:
    """As by the end of `asyncio.run`, which cancels every task there is."""
    ours = asyncio.all_tasks()

    async def beside() -> None:
        raise AssertionError("it began")

    async def on_send(message: Message) -> None:
        if message["type"] == "http.response.start":
            for task in asyncio.all_tasks() - ours - {asyncio.current_task()}:
                if task is not exchange._task:
                    task.cancel()
            exchange.cancel_natively()

    run = Run(side_task=beside)
    async with drive(run, on_send=on_send) as exchange:
        await exchange.is_cancelled()

    assert run.feed.closed


async def test_alarm_of_a_stream_that_is_over_does_nothing() -> None:
    run = Run()
    async with drive(run) as exchange:
        await settled()
        run.drain(grace=5)
        run.feed.end()
        await exchange.returns()
        assert run.stream._drain is not None
        run.stream._drain._on_alarm()

    assert run.loop.waiting == 0


# An event that isn't finished


async def test_ping_waits_for_the_end_of_an_event() -> None:
    run = Run(b"data: half", ping_interval=10)
    run.feed.unfinished = True

    async with drive(run) as exchange:
        await exchange.chunk(0)
        await run.loop.advance(25)
        assert exchange.chunks == [b"data: half"]
        run.feed.unfinished = False
        run.feed.push(b" of it\n\n")
        await exchange.chunk(1)
        await run.loop.advance(10)
        await exchange.chunk(2)
        run.feed.end()
        await exchange.returns()

    assert exchange.chunks == [b"data: half", b" of it\n\n", PING]


@pytest.mark.parametrize("ending", ["error", "shutdown"])
async def test_last_frame_comes_after_the_end_of_an_event(ending: str) -> None:
    run = Run(b"data: half", error_frame=sorry)
    run.feed.finish_event = lambda: b"\n\n"  # type: ignore[method-assign]

    async with drive(run) as exchange:
        await exchange.chunk(0)
        if ending == "error":
            run.feed.end(MadeUpError())
        else:
            run.drain()
        await exchange.returns()

    last = SORRY if ending == "error" else FAREWELL
    assert exchange.body == b"data: half\n\n" + last


# What can't be interrupted


class InThread(HandFeed):
    """Is at a step in a thread until it's closed or let go."""

    let_go_of = False

    @property
    def thread(self) -> str | None:
        return "worker 7"

    def let_go(self) -> None:
        self.let_go_of = True
        self.close()


async def test_body_is_completed_before_a_step_in_a_thread_has_come_to_its_end() -> None:
    run = Run()
    run.feed = InThread(b"1")
    run.feed.keep_open = True

    async with drive(run) as exchange:
        await exchange.chunk(0)
        run.drain()
        await exchange.until(lambda: exchange.complete)
        assert not run.feed.closed
        run.feed.close()
        await exchange.returns()

    assert run.feed.closed


async def test_server_that_goes_down_does_not_wait_for_a_step_in_a_thread() -> None:
    run = Run(last_chunk_timeout=0)
    feed = run.feed = InThread(b"1")
    feed.keep_open = True

    async with drive(run) as exchange:
        await exchange.chunk(0)
        run.drain()
        await exchange.returns()

    assert feed.let_go_of


async def test_server_that_goes_down_does_not_wait_for_a_step_whose_client_has_left() -> None:
    run = Run()
    feed = run.feed = InThread(b"1")
    feed.keep_open = True

    async with drive(run) as exchange:
        await exchange.chunk(0)
        exchange.leave()
        await exchange.until(lambda: run.stream.life.reason)
        assert not feed.let_go_of
        run.drain()
        await run.loop.advance(1)
        await exchange.returns()

    assert feed.let_go_of
    assert run.stream.life.reason == "client"


@each_way_to_cancel
async def test_server_that_cancels_does_not_wait_for_a_step_in_a_thread(way: str) -> None:
    run = Run()
    feed = run.feed = InThread(b"1")
    feed.keep_open = True

    async with drive(run) as exchange:
        await exchange.chunk(0)
        exchange.cancel_in(way)
        await exchange.is_cancelled()

    assert feed.let_go_of


# The last chunk


async def test_slow_last_chunk_has_its_time_although_the_grace_is_over() -> None:
    run = Run(b"1", grace=5, farewell_frame=lambda: b"")

    async with drive(run) as exchange:
        await exchange.chunk(0)
        run.drain()
        await run.loop.advance(4.9)
        exchange.block()
        run.feed.end()
        await exchange.until(lambda: exchange.blocked)
        await run.loop.advance(0.5)
        exchange.unblock()
        await exchange.returns()

    assert exchange.complete
    assert run.stream.life.reason == "shutdown"


async def test_last_chunk_that_is_never_taken_is_given_up_after_a_second() -> None:
    run = Run(b"1", error_frame=sorry, grace=5)

    async with drive(run) as exchange:
        await exchange.chunk(0)
        run.drain()
        exchange.block()
        run.feed.end(MadeUpError())
        await exchange.until(lambda: exchange.blocked)
        for _ in range(8):
            await run.loop.advance(1)
        await exchange.ends()

    assert not exchange.complete


@each_way_to_cancel
async def test_cancellation_after_the_client_has_left_sends_nothing_more(way: str) -> None:
    run = Run(b"data")
    run.feed.keep_open = True

    async with drive(run) as exchange:
        await exchange.chunk(0)
        exchange.leave()
        await settled()
        exchange.cancel_in(way)
        await settled()
        run.feed.close()
        await exchange.ends()

    assert run.stream.life.reason == "client"
    assert len(exchange.offered) == 2


@each_way_to_cancel
async def test_no_alarm_is_left_by_a_cancellation_in_mid_cleanup(way: str) -> None:
    run = Run(ping_interval=15)
    run.feed.keep_open = True

    async with drive(run) as exchange:
        await settled()
        exchange.leave()
        await settled()
        exchange.cancel_in(way)
        await settled()
        run.feed.close()
        await exchange.ends()

    assert run.loop.waiting == 0


# The first reason stays


async def test_first_reason_to_end_stays() -> None:
    run = Run()

    async with drive(run) as exchange:
        await settled()
        run.stream._producers.end("error", MadeUpError())
        run.stream._producers.end("client")
        run.stream._producers.end("error", ValueError())
        await exchange.raises(MadeUpError)

    assert run.stream.life.reason == "error"


async def test_stream_that_ends_while_a_send_is_blocked_sends_no_ping_and_completes() -> None:
    run = Run(b"data", ping_interval=15)

    async with drive(run, blocked=True) as exchange:
        await exchange.until(lambda: exchange.blocked)
        run.stream._producers.end("error", MadeUpError())
        await run.loop.advance(100)
        exchange.unblock()
        await exchange.raises(MadeUpError)

    assert exchange.chunks == [b"data"]
    assert exchange.complete


async def test_request_to_drain_that_comes_after_the_end_is_ignored() -> None:
    """It's on its way through the loop while the stream ends; on trio it must not find a task."""
    run = Run(b"data")

    async with drive(run) as exchange:
        await exchange.chunk(0)
        exchange.leave()
        await exchange.returns()
        run.stream.drain(0, 0, automatic=False)
        run.stream.drain(0, 0, automatic=True)

    assert run.stream.life.reason == "client"
    assert run.loop.waiting == 0


@each_way_to_cancel
async def test_error_of_a_cancelled_source_is_not_logged_as_unseen(
    way: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A loop that cancels all its tasks cancels the source as well, from within as it seems."""
    run = Run(b"data")
    run.feed.keep_open = True

    async with drive(run) as exchange:
        await exchange.chunk(0)
        exchange.cancel_in(way)
        await settled()
        run.feed.error = RuntimeError()
        run.feed.close()
        await exchange.is_cancelled()

    assert caplog.records == []


async def test_error_of_the_last_send_of_a_lagging_client_is_raised() -> None:
    run = Run(b"data")
    run.feed.close_reason = "lagging"

    async with drive(run, on_send=failing_at(2, MadeUpError())) as exchange:
        run.feed.end()
        await exchange.raises(MadeUpError)

    assert run.stream.life.reason == "lagging"


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
        await current_loop().wake_up()


class Abandoned:
    """A stream whose loop was closed in its middle; what is left are coroutines that nobody runs."""

    def __init__(self, loop: asyncio.AbstractEventLoop, feed: HandFeed) -> None:
        self.sent: list[Message] = []
        self._feed = feed
        try:
            self.coroutines: list[Any] = loop.run_until_complete(self._begin())
        finally:
            loop.close()

    async def _begin(self) -> list[Any]:
        run = Run()
        run.feed = self._feed
        task = asyncio.ensure_future(run(http_scope(), self._receive, self._send))
        await until(lambda: self.sent)
        await turns(5)
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for each in tasks:
            each._log_destroy_pending = False  # type: ignore[attr-defined]
        self.tasks = [task, *(tasks - {task})]
        return [each.get_coro() for each in self.tasks]

    async def _receive(self) -> Message:
        await asyncio.get_running_loop().create_future()
        raise AssertionError

    async def _send(self, message: Message) -> None:
        self.sent.append(message)


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

    with nothing_is_left():
        abandoned = Abandoned(loop, feed)
        coroutines = abandoned.coroutines
        for coroutine in coroutines if outermost_first else reversed(coroutines):
            coroutine.close()

    assert len(coroutines) == (3 if has_work else 2)
    assert len(abandoned.sent) == 1
    assert feed.runs == has_work
