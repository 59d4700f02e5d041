"""What a stream sends, and when: frames, pings, and what belongs at its end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Generator
from functools import partial
from typing import Any, cast

import anyio
import anyio.lowlevel
import pytest
from starlette.types import Message
from tests.unit.driving import (
    DISCONNECT,
    drive,
    each_way_to_cancel,
    http_scope,
    on_asyncio,
    settled,
    turns,
)
from tests.unit.hand_fed import PING, MadeUpError, Run, failing_at, sorry
from tests.unit.scenarios import Scenario

from sse_starlette import EventSourceResponse
from sse_starlette._runtime.on_asyncio import wakers
from sse_starlette._shutdown.streams import current_streams
from sse_starlette._stream.run import Stream
from sse_starlette.errors import SendTimeoutError

pytestmark = pytest.mark.anyio

# The way of a frame


async def test_headers_are_followed_by_the_frames_and_an_empty_last_chunk() -> None:
    run = Run(b"1")

    async with drive(run) as exchange:
        run.feed.end()
        await exchange.returns()

    assert exchange.messages == [
        {"type": "http.response.start", "status": 200, "headers": []},
        {"type": "http.response.body", "body": b"1", "more_body": True},
        {"type": "http.response.body", "body": b"", "more_body": False},
    ]
    assert run.stream.life.reason == "end"


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


# Ping


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


async def test_slow_first_frame_is_waited_for_with_headers_and_pings_sent() -> None:
    run = Run(first_event_timeout=0.001, ping_interval=15)

    async with drive(run) as exchange:
        await exchange.until(lambda: exchange.messages)
        await run.loop.advance(15)
        run.feed.push(b"first")
        await exchange.contains("first")

        assert exchange.chunks == [PING, b"first"]


async def test_what_runs_beside_may_make_the_first_frame() -> None:
    async def make_first_frame() -> None:
        run.feed.push(b"first")

    run = Run(first_event_timeout=float("inf"), data_sender_callable=make_first_frame)

    async with drive(run) as exchange:
        assert await exchange.chunk(0) == b"first"


# Sends that fail


@pytest.mark.parametrize("number", [0, 1, 2], ids=["headers", "frame", "last chunk"])
@pytest.mark.parametrize(
    ("failure", "raised", "reason"),
    [
        pytest.param(BrokenPipeError(), None, "client", id="the client has gone"),
        pytest.param(MadeUpError(), MadeUpError, "error", id="any other error"),
        pytest.param(None, SendTimeoutError, "timeout", id="it takes too long"),
    ],
)
async def test_send_that_fails_ends_the_stream_and_nothing_more_is_sent(
    number: int, failure: Exception | None, raised: type[Exception] | None, reason: str
) -> None:
    async def on_send(message: Message) -> None:
        if len(exchange.offered) == number + 1:
            if failure is None:
                await anyio.sleep_forever()
            else:
                raise failure

    run = Run(b"data", on_error=sorry, send_timeout=0)

    async with drive(run, on_send=on_send) as exchange:
        run.feed.end()
        await run.loop.advance(0)
        await exchange.ends()

    assert type(exchange.raised) is (raised or type(None))
    assert getattr(exchange.raised, "timeout", 0) == 0
    assert len(exchange.offered) == number + 1
    assert run.stream.life.reason == reason
    assert run.stream.life.disconnected == (DISCONNECT if reason == "client" else None)
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


# The last chunk


async def test_last_chunk_that_is_never_taken_is_given_up() -> None:
    options = {"on_error": sorry, "shutdown_grace_period": 5}

    await Scenario(
        "drain block fail +4.9 waits +0.1 returns", "1", "error", options, complete=False
    ).play()


@each_way_to_cancel
async def test_cancellation_after_the_client_has_left_sends_nothing_more_and_leaves_no_alarm(
    way: str,
) -> None:
    scenario = Scenario(
        "keep leave cancel close cancelled offered:2", "1", "client", {"ping_interval": 15}
    )

    await scenario.play(way)


@pytest.fixture(params=["usual", "without"])
def eager(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether Python offers what it takes to send in the name of the writer's task."""
    if request.param == "without":
        monkeypatch.setattr(wakers, "enter_task", None)


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("wait", [anyio.lowlevel.checkpoint, partial(anyio.sleep, 0)])
async def test_events_leave_one_by_one_when_they_come_so(
    wait: Callable[[], Awaitable[None]],
) -> None:
    async def source() -> AsyncIterator[str]:
        for number in range(3):
            yield f"{number}"
            await wait()

    async with drive(EventSourceResponse(source())) as exchange:
        await exchange.returns()

    assert exchange.chunks == [b"data: 0\r\n\r\n", b"data: 1\r\n\r\n", b"data: 2\r\n\r\n"]


@pytest.mark.usefixtures("eager")
async def test_an_event_that_comes_alone_and_has_to_wait_is_followed_by_the_next_when_it_is_sent() -> (
    None
):
    waited: list[int] = []

    async def slowly(message: Message) -> None:
        if message.get("body"):
            await turns(3)
            waited.append(len(exchange.chunks))

    async def source() -> AsyncIterator[str]:
        for number in range(3):
            await anyio.lowlevel.checkpoint()
            yield f"{number}"

    async with drive(EventSourceResponse(source(), send_timeout=60), on_send=slowly) as exchange:
        await exchange.returns()

    assert waited == [0, 1, 2]
    assert exchange.complete


async def test_a_send_that_gives_something_else_to_wait_for_than_a_coroutine_is_waited_for() -> (
    None
):
    """That of a server that isn't written in Python."""
    sent: list[Message] = []

    class Sending:
        def __init__(self, message: Message) -> None:
            self._message = message

        def __await__(self) -> Generator[Any, Any, None]:
            yield from anyio.lowlevel.checkpoint().__await__()
            sent.append(self._message)

    async def source() -> AsyncIterator[str]:
        await anyio.lowlevel.checkpoint()
        yield "event"
        await anyio.lowlevel.checkpoint()
        yield "another"

    async def receive() -> Message:
        await anyio.sleep_forever()
        raise AssertionError

    await EventSourceResponse(source())(http_scope(), receive, Sending)

    bodies = [message.get("body", b"") for message in sent]
    assert bodies == [b"", b"data: event\r\n\r\n", b"data: another\r\n\r\n", b""]


async def test_a_source_whose_stream_ends_in_the_send_of_its_event_makes_no_other() -> None:
    made: list[int] = []

    async def source() -> AsyncIterator[str]:
        await anyio.lowlevel.checkpoint()
        for number in range(3):
            made.append(number)
            yield f"{number}"

    async def end_it(message: Message) -> None:
        if message.get("body"):
            stream.end("revoked")

    response = EventSourceResponse(source())
    async with drive(response, on_send=end_it) as exchange:
        await exchange.until(lambda: current_streams() or exchange.over)
        stream = cast("Stream", current_streams()[0])
        await exchange.returns()

    assert made == [0]
