"""What makes the events of a stream: how its feed and the task at its side begin, fail and are stopped."""

from __future__ import annotations

import asyncio
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from starlette.types import Message
from tests.unit.driving import Exchange, HandFeed, drive, each_way_to_cancel, on_asyncio, settled
from tests.unit.hand_fed import SORRY, MadeUpError, Run, sorry

pytestmark = pytest.mark.anyio

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


async def broken(failure: Exception) -> bytes:
    raise ValueError("on_error is broken")


async def again(failure: Exception) -> bytes:
    raise failure


@pytest.mark.parametrize(
    ("on_error", "logged"), [(broken, ["on_error is broken"]), (again, [])], ids=["another", "it"]
)
async def test_error_in_making_the_last_frame_is_logged_if_new_and_the_first_error_raised(
    on_error: Any, logged: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    run = Run(on_error=on_error)

    async with drive(run) as exchange:
        run.feed.end(failure := MadeUpError())
        error = await exchange.raises(MadeUpError)

    assert error is failure
    assert exchange.complete
    assert [str(record.exc_info[1]) for record in caplog.records if record.exc_info] == logged
    assert len(caplog.records) == len(logged)


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


async def test_stream_goes_on_when_what_runs_beside_has_returned() -> None:
    async def beside() -> None:
        run.feed.push(b"1")

    run = Run(data_sender_callable=beside)

    async with drive(run) as exchange:
        await exchange.chunk(0)
        run.feed.push(b"2")
        assert await exchange.chunk(1) == b"2"


async def test_what_runs_beside_has_to_be_async() -> None:
    run = Run(data_sender_callable=lambda: None)

    async with drive(run) as exchange:
        error = await exchange.raises(TypeError)

    assert "has returned NoneType: it runs beside the stream, so it must be an async" in str(error)


async def test_error_beside_ends_the_stream_like_an_error_of_the_feed() -> None:
    async def beside() -> None:
        raise MadeUpError

    run = Run(data_sender_callable=beside, on_error=sorry)

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

    run = Run(data_sender_callable=beside)

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

    run = Run(data_sender_callable=beside)

    async with drive(run) as exchange:
        await settled()
        exchange.leave()
        await exchange.returns()

    assert run.stream.life.reason == "client"
    assert "too late" in caplog.text


# Who reads the request


@pytest.mark.parametrize("who", ["the feed", "what runs beside it"])
async def test_receive_is_not_called_before_everything_has_come_to_where_it_waits(who: str) -> None:
    order: list[str] = []

    async def work() -> None:
        order.append("works")
        await anyio.lowlevel.checkpoint()

    async def beside() -> None:
        await work()
        await anyio.sleep_forever()

    class Reading(HandFeed):
        async def run(self) -> None:
            await work()
            await super().run()

    async def receive(exchange: Exchange) -> Message:
        order.append("receives")
        await anyio.sleep_forever()
        raise AssertionError

    run = Run(data_sender_callable=beside if who == "what runs beside it" else None)
    if who == "the feed":
        run.feed = Reading(b"1")
    async with drive(run, receive=receive) as exchange:
        await exchange.until(lambda: len(order) == 2)
        run.feed.end()
        await exchange.returns()

    assert order == ["works", "receives"]


async def test_sources_begin_although_the_headers_are_not_taken() -> None:
    begun: list[str] = []

    async def beside() -> None:
        begun.append("beside")
        await anyio.sleep_forever()

    run = Run(data_sender_callable=beside)
    async with drive(run, blocked=True) as exchange:
        await exchange.until(lambda: exchange.blocked and run.feed.runs and begun)
        exchange.unblock()
        run.feed.end()
        await exchange.returns()

    assert exchange.complete


class Filling:
    """What runs beside a feed, and cleans up when the test lets it."""

    def __init__(self, order: list[str]) -> None:
        self.go_on = anyio.Event()
        self._order = order

    async def __call__(self) -> None:
        try:
            await anyio.sleep_forever()
        finally:
            with anyio.CancelScope(shield=True):
                self._order.append("cancelled")
                await self.go_on.wait()
                self._order.append("cleaned up")


async def test_who_fills_the_feed_is_cancelled_before_the_feed_is_stopped() -> None:
    order: list[str] = []

    class Noting(HandFeed):
        def stop(self) -> None:
            order.append("the feed is stopped")
            super().stop()

    run = Run(data_sender_callable=(filling := Filling(order)))
    run.feed = Noting(b"1")
    async with drive(run) as exchange:
        await exchange.chunk(0)
        exchange.leave()
        await exchange.until(lambda: order)
        await settled()
        filling.go_on.set()
        await exchange.returns()

    assert order[:3] == ["cancelled", "cleaned up", "the feed is stopped"]


async def test_who_fills_the_feed_has_no_more_time_than_a_cleanup() -> None:
    run = Run(data_sender_callable=(filling := Filling([])), cleanup_timeout=0)
    async with drive(run) as exchange:
        await settled()
        exchange.leave()
        await exchange.until(lambda: run.feed.closed)
        filling.go_on.set()
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

    run = Run(data_sender_callable=beside)
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


# What can't be interrupted


class InThread(HandFeed):
    """Is at a step in a thread until it's closed or let go."""

    released = False

    @property
    def thread(self) -> str | None:
        return "worker 7"

    def release(self) -> None:
        self.released = True
        self.close()


def run_in_thread(**options: Any) -> tuple[Run, InThread]:
    run = Run(**options)
    feed = run.feed = InThread(b"1")
    feed.keep_open = True
    return run, feed


async def test_body_is_completed_before_a_step_in_a_thread_has_come_to_its_end() -> None:
    run, feed = run_in_thread()

    async with drive(run) as exchange:
        await exchange.chunk(0)
        run.drain()
        await exchange.until(lambda: exchange.complete)
        assert not feed.closed
        feed.close()
        await exchange.returns()

    assert feed.closed


@pytest.mark.parametrize("left", [False, True], ids=["with its client", "whose client has left"])
async def test_server_that_goes_down_does_not_wait_for_a_step_in_a_thread(left: bool) -> None:
    run, feed = run_in_thread()

    async with drive(run) as exchange:
        await exchange.chunk(0)
        if left:
            exchange.leave()
            await exchange.until(lambda: run.stream.life.reason)
        assert not feed.released
        run.drain()
        await run.loop.advance(1)
        await exchange.returns()

    assert feed.released
    assert run.stream.life.reason == ("client" if left else "shutdown")


@each_way_to_cancel
async def test_server_that_cancels_does_not_wait_for_a_step_in_a_thread(way: str) -> None:
    run, feed = run_in_thread()

    async with drive(run) as exchange:
        await exchange.chunk(0)
        exchange.cancel_in(way)
        await exchange.is_cancelled()

    assert feed.released
