"""What a stream sends, and when: frames, pings, and what belongs at its end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from starlette.types import Message
from tests.unit.driving import (
    DISCONNECT,
    drive,
    each_way_to_cancel,
    on_asyncio,
    settled,
)
from tests.unit.hand_fed import FAREWELL, PING, SORRY, MadeUpError, Run, failing_at, sorry

from sse_starlette.errors import SendTimeoutError

pytestmark = pytest.mark.anyio

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
        assert run.loop.timers == 0


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

    run = Run(b"data", ping_interval=15, ping_message_factory=ping)

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


async def test_alarm_that_fires_after_the_end_is_not_answered() -> None:
    """On trio a timer may already have woken when it's stopped."""
    run = Run(ping_interval=15)
    fires: list[Callable[[], None]] = []
    make_timer = run.loop.timer

    def timer(fire: Callable[[], None], starter: Any) -> Any:
        fires.append(fire)
        return make_timer(fire, starter)

    run.loop.timer = timer  # type: ignore[method-assign]
    async with drive(run) as exchange:
        await settled()
        exchange.leave()
        await exchange.returns()
        fires[0]()
        run.loop.now += 100
        fires[0]()
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
    run = Run(first_event_timeout=float("inf"), on_error=sorry)

    async with drive(run) as exchange:
        run.feed.end(failure := MadeUpError())
        error = await exchange.raises(MadeUpError)

    assert error is failure
    assert exchange.offered == []
    assert run.stream.life.reason == "error"
    assert run.feed.closed


async def test_error_together_with_the_first_frame_comes_after_it() -> None:
    run = Run(first_event_timeout=float("inf"), on_error=sorry)

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

    run = Run(first_event_timeout=float("inf"), data_sender_callable=make_first_frame)

    async with drive(run) as exchange:
        assert await exchange.chunk(0) == b"first"


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
    run = Run(b"data", on_error=sorry)

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

        assert run.loop.timers == 1
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
    assert run.loop.timers == 1
    assert run.stream.life.reason == "timeout"


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
    run = Run(b"data: half", on_error=sorry)
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


# The last chunk


async def test_slow_last_chunk_has_its_time_although_the_grace_is_over() -> None:
    run = Run(b"1", shutdown_grace_period=5, farewell=None)

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
    run = Run(b"1", on_error=sorry, shutdown_grace_period=5)

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
