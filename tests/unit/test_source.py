"""A source in its feed: its frames, what holds them up, and how it's stopped and cleaned up."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import gc
import inspect
import logging
import math
import threading
import weakref
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest
import sniffio
from tests.unit.driving import LOOPS, StillLoop, on, on_asyncio, until
from tests.unit.sources import SEAT_BELT, feed_of, numbered, running, sent_by, settle, stopped

from sse_starlette._runtime.loop import current_loop
from sse_starlette._stream.batching import WARM_UP
from sse_starlette._stream.content import iterate
from sse_starlette._stream.feed import JOINED_BYTES
from sse_starlette._stream.source import SourceFeed

pytestmark = pytest.mark.anyio


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    """What the test logs; whatever it is, it comes from the logger that users know."""
    caplog.set_level(logging.DEBUG, logger="sse_starlette")
    return caplog


def check_logged(log: pytest.LogCaptureFixture, level: str | None) -> None:
    """Check that one message of this level was logged, or none."""
    records = [
        (record.name, record.levelname) for record in log.records if record.name != "asyncio"
    ]
    assert records == ([("sse_starlette.sse", level)] if level else [])
    if level == "ERROR":
        assert "lost the key" in log.text
        assert "Traceback" in log.text


Source = Callable[[list[str]], object]
"""Makes a source that tells in a list what befalls it."""

WAITS = object()
NO_EVENT = object()
LOST = KeyError("lost the key")
TWO = ExceptionGroup("two", [ValueError("one"), KeyError("other")])


async def clean_up(seen: list[str], what: str = "cleaned up") -> None:
    """Wait for others, as a cleanup may."""
    for _ in range(3):
        await anyio.lowlevel.checkpoint()
    seen.append(what)


async def clean_up_at_once(seen: list[str]) -> None:
    seen.append("cleaned up")


async def hang(seen: list[str]) -> None:
    seen.append("cleaning up")
    await anyio.sleep_forever()
    seen.append("cleaned up")


async def tell_the_deadline(seen: list[str]) -> None:
    await anyio.lowlevel.checkpoint()
    seen.append(f"until {anyio.current_effective_deadline()}")


async def time_out(seen: list[str]) -> None:
    with anyio.move_on_after(0):
        await anyio.sleep_forever()
    await clean_up(seen)


async def fail(seen: list[str]) -> None:
    raise LOST


def yields(
    *steps: object, then: Callable[[list[str]], Awaitable[None]] = clean_up
) -> Callable[[list[str]], AsyncGenerator[object, None]]:
    """Make a source of its steps, what it yields, errors that it raises and `WAITS`, and of its cleanup."""

    async def source(seen: list[str]) -> AsyncGenerator[object, None]:
        try:
            for step in steps:
                if step is WAITS:
                    await anyio.sleep_forever()
                elif isinstance(step, Exception):
                    raise step
                else:
                    yield step
        except (GeneratorExit, anyio.get_cancelled_exc_class()) as exc:
            seen.append("closed" if isinstance(exc, GeneratorExit) else "cancelled")
            raise
        finally:
            await then(seen)

    return source


sleeping = yields(0, WAITS)


async def numbers(count: int) -> AsyncGenerator[int, None]:
    """A source that never waits."""
    for number in range(count):
        yield number


# Who takes


async def test_what_was_not_taken_when_the_source_ends_can_still_be_taken() -> None:
    feed = feed_of(numbers(1))
    waking: list[bool] = []
    feed.open(lambda: waking.append(feed.ended))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(feed.run)
        await settle()
        assert not feed.ended
        assert feed.take() == b"0;"
        feed.sent()

    assert feed.ended
    assert feed.take() == b""
    assert waking == [False, True]


async def test_a_feed_that_nobody_opened_ends_all_the_same() -> None:
    feed = feed_of(numbers(0))

    with anyio.fail_after(SEAT_BELT):
        await feed.run()

    assert feed.ended


# Held back or joined

TURN = 0.05


@contextlib.asynccontextmanager
async def late(loop: StillLoop) -> AsyncIterator[None]:
    """Have others on the loop, two hundred busy streams say, keep it for a while in each turn."""

    async def keep_busy() -> None:
        while True:
            loop.now += TURN
            await anyio.lowlevel.checkpoint()

    async with anyio.create_task_group() as others:
        others.start_soon(keep_busy)
        yield
        others.cancel_scope.cancel()


def in_time(loop: StillLoop) -> contextlib.AbstractAsyncContextManager[None]:
    return contextlib.nullcontext()


ONES = [1] * 5


@pytest.mark.parametrize(
    ("bursts", "beside", "held_once"),
    [
        ([1] * 5, in_time, 0),
        ([2] * 5, in_time, 0),
        ([20] * 5, in_time, 0),
        ([100] * 5, in_time, 0),
        # On a loop that is on time nothing is held before the warm-up is over, and then what has come
        # within a millisecond: a thousand, here.
        ([3, *ONES], in_time, 0),
        ([20, *ONES], in_time, 0),
        ([99, *ONES], in_time, 0),
        ([101, *ONES], in_time, 101 - WARM_UP),
        ([1_000, *ONES], in_time, 1_000 - WARM_UP),
        ([3_000, *ONES], in_time, 1_000),
        # On one that is late, nothing before the source has left it a turn, after four sends.
        ([1, *ONES], late, 0),
        ([3, *ONES], late, 0),
        ([20, *ONES], late, 20 - 4),
        ([99, *ONES], late, 99 - 4),
        ([101, *ONES], late, 101 - 4),
        ([1_000, *ONES], late, 1_000 - 4),
        ([3_000, *ONES], late, 1_000),
    ],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
async def test_what_is_held_when_a_source_computes_after_quick_events_is_held_that_once(
    bursts: list[int], beside: Any, held_once: int
) -> None:
    loop = StillLoop()
    held: list[int] = []

    async def source() -> AsyncIterator[int]:
        yielded = 0
        for burst in bursts:
            for _ in range(burst):
                loop.now += 0.000001
                yield yielded
                yielded += 1
            held.append(yielded - writer.sent)
            loop.now += 0.5

    async with beside(loop), running(feed_of(source(), loop)) as writer:
        pass

    assert held[0] <= held_once
    assert held[1:] == [0] * (len(bursts) - 1)


@on_asyncio
async def test_on_a_late_loop_a_burst_leaves_in_few_sends_and_on_one_in_time_event_by_event() -> (
    None
):
    sends: list[int] = []
    for beside in (in_time, late):
        loop = StillLoop()
        async with beside(loop):
            writer = await sent_by(feed_of(numbers(100), loop))
        sends.append(len(writer.taken))

    assert sends[0] == 100
    assert sends[1] < 10


@contextlib.asynccontextmanager
async def batches(loop: StillLoop) -> AsyncIterator[Callable[[int], Awaitable[tuple[int, int]]]]:
    """
    Run a source that waits for batches.

    What this gives lets one of so many events go; it returns in how many sends they left, and how
    many of them were offered to leave alone.
    """
    sender, receiver = anyio.create_memory_object_stream[int](1)
    offered: list[bytes] = []

    async def source() -> AsyncIterator[int]:
        async with receiver:
            async for count in receiver:
                for number in range(count):
                    yield number

    def offer(frame: bytes, now: float, caller: object) -> bool:
        offered.append(frame)
        return False

    feed = feed_of(source(), loop)
    feed.offer = offer
    async with running(feed) as writer:

        async def let_go(count: int) -> tuple[int, int]:
            sends, offers, sent = len(writer.taken), len(offered), writer.sent + count
            sender.send_nowait(count)
            await until(lambda: writer.sent == sent)
            await settle()
            return len(writer.taken) - sends, len(offered) - offers

        yield let_go
        sender.close()


@on_asyncio
async def test_what_has_come_while_a_source_waited_leaves_in_one_send_while_the_loop_is_late() -> (
    None
):
    """Also its first event, which otherwise is offered to the writer at once; as it is again when all is well."""
    loop = StillLoop()
    async with batches(loop) as let_go:
        async with late(loop):
            sends = [await let_go(5) for _ in range(4)]
        sends += [await let_go(5) for _ in range(4)]

    # What it knows is from the turn before.
    assert sends == [(5, 1), (1, 0), (1, 0), (1, 0), (1, 0), (5, 1), (5, 1), (5, 1)]


async def test_events_that_are_ready_after_a_wait_leave_together() -> None:
    async with batches(StillLoop()) as let_go:
        sends = [await let_go(50) for _ in range(20)]

    # In the end one send for fifty events; at first, when little is known, more.
    assert sends[0][0] > 20
    assert sends[-1][0] == 1


@pytest.mark.lazy_tasks
async def test_no_frame_is_held_while_a_millisecond_passes() -> None:
    """Steps that are neither quick nor slow: what they make together is sent each millisecond."""
    loop = StillLoop()
    sent_at: list[float] = []
    made_at: list[float] = []

    async def source() -> AsyncIterator[int]:
        for number in range(2_000):
            loop.now += 0.0003
            made_at.append(loop.now)
            sent_at.extend([loop.now] * (writer.sent - len(sent_at)))
            yield number

    async with running(feed_of(source(), loop)) as writer:
        pass

    assert len(writer.taken) < 1_500
    assert max(sent - made for sent, made in zip(sent_at, made_at, strict=False)) < 0.002


async def between_turns(
    frame: bytes, count: int, *, step_seconds: float = 0.0, joins: bool = True
) -> tuple[int, int]:
    """How many events at most a source yields until another task has a turn, and the turns it has in all."""
    turns = longest = 0

    async def source() -> AsyncIterator[bytes]:
        nonlocal longest
        seen = since = 0
        for _ in range(count):
            loop.now += step_seconds
            since = 0 if turns > seen else since + 1
            seen = turns
            longest = max(longest, since)
            yield frame

    async def other() -> None:
        nonlocal turns
        while not feed.ended:
            turns += 1
            await anyio.lowlevel.checkpoint()

    loop = StillLoop()
    feed = feed_of(source(), loop, joins=joins)
    async with running(feed), anyio.create_task_group() as tasks:
        tasks.start_soon(other)
    return longest, turns


@pytest.mark.parametrize(
    ("size", "count", "step_seconds", "joins", "fewest", "most"),
    [
        pytest.param(100, 10_000, 0.0, True, 11, JOINED_BYTES // 100 + 1, id="after 64 KiB"),
        pytest.param(2, 500, 0.0, False, 0, 4, id="after four sends"),
        pytest.param(2, 500, 0.0003, True, 0, 5, id="after a millisecond"),
    ],
)
async def test_a_source_that_never_waits_leaves_the_loop_to_others(
    size: int, count: int, step_seconds: float, joins: bool, fewest: int, most: int
) -> None:
    longest, _ = await between_turns(b"x" * size, count, step_seconds=step_seconds, joins=joins)

    assert fewest <= longest <= most


@on_asyncio()
async def test_a_source_that_never_waits_goes_on_after_each_turn_for_another_four_sends() -> None:
    _, turns = await between_turns(b"0;", 100, step_seconds=0.000001, joins=False)

    # Two for each pause: twenty-five pauses but for the last.
    assert 45 < turns < 55


@on_asyncio
async def test_an_event_is_sent_within_the_call_in_which_the_source_yields_it() -> None:
    """When the source goes on, in the same turn of the loop, the event is with the server."""
    others: list[int] = []
    seen: list[tuple[int, int]] = []

    async def source() -> AsyncIterator[int]:
        await settle()  # Until the writer stands by.
        asyncio.get_running_loop().call_soon(others.append, 0)
        for number in range(3):
            yield number
            seen.append((writer.sent, len(others)))

    async with running(feed_of(source(), StillLoop())) as writer:
        pass

    assert seen == [(1, 0), (2, 0), (3, 0)]


async def test_events_that_are_ready_together_leave_together() -> None:
    writer = await sent_by(feed_of(numbers(10_000), StillLoop()))

    assert writer.body == numbered(10_000)
    assert len(writer.taken) < 300


async def test_without_joining_each_event_leaves_alone() -> None:
    writer = await sent_by(feed_of(numbers(200), StillLoop(), joins=False))

    assert writer.taken == [b"%d;" % number for number in range(200)]


@pytest.mark.lazy_tasks
async def test_a_source_runs_ahead_of_a_blocked_writer_by_a_bounded_number_of_bytes() -> None:
    produced = 0

    async def source() -> AsyncIterator[bytes]:
        nonlocal produced
        for number in range(8_000):
            writer.blocked |= number == 4_000
            produced += writer.blocked
            yield b"x" * 999 + b";"

    async with running(feed_of(source(), StillLoop())) as writer:
        await until(lambda: writer.blocked)
        await settle()
        # One write is under way, and as much stands behind it.
        assert 1 < produced <= 2 * (JOINED_BYTES // 1_000 + 1)
        stood_still_at = produced
        await settle()
        assert produced == stood_still_at

    assert writer.sent == 8_000


# How a source ends

variable = contextvars.ContextVar("variable", default="outside")


def sets_a_variable_in_a_thread(seen: list[str]) -> Iterator[int]:
    token = variable.set("inside")
    try:
        yield 0
        seen.append(variable.get())
        yield 1
    finally:
        variable.reset(token)
        seen.append(variable.get())


def fails_in_a_thread(seen: list[str]) -> Iterator[int]:
    yield 0
    raise LOST


async def has_a_helper_that_fails(seen: list[str]) -> AsyncIterator[int]:
    async def lose() -> None:
        raise LOST

    async with anyio.create_task_group() as tasks:
        yield 0
        tasks.start_soon(lose)
        await anyio.sleep_forever()


@dataclass(frozen=True)
class Case:
    """A source, and what comes of it."""

    source: Source
    body: bytes = b""
    told: str = ""
    error: object = None
    logs: str | None = None
    timeout: float | None = SEAT_BELT

    async def check(
        self, log: pytest.LogCaptureFixture, run: Callable[[SourceFeed], Awaitable[Any]]
    ) -> None:
        seen: list[str] = []
        feed = feed_of(self.source(seen), cleanup_timeout=self.timeout)

        writer = await run(feed)

        assert writer.body == self.body
        assert ", ".join(seen) == self.told
        assert self.error in (feed.error, type(feed.error))
        check_logged(log, self.logs)
        assert self.logs is None or "cleanup" in log.text


DONE = "cleaned up"
ENDS = {
    "by itself, in no time": Case(yields(0, 1, 2), b"0;1;2;", DONE, timeout=0),
    "without an event": Case(yields(), b"", DONE),
    # A writer can't send nothing, so it doesn't say that it has been sent.
    "with frames without bytes": Case(yields(b"", 0, *[b""] * 100, 1), b"0;1;", DONE),
    "with an error, after its frames": Case(yields(0, LOST), b"0;", DONE, LOST, timeout=0),
    "with an exception group": Case(yields(0, TWO), b"0;", DONE, TWO),
    "with an error in a thread": Case(fails_in_a_thread, b"0;", "", LOST),
    "by its helper": Case(has_a_helper_that_fails, b"0;", "", ExceptionGroup),
    "by its value": Case(yields(0, NO_EVENT, 1), b"0;", f"closed, {DONE}", TypeError),
    "twice": Case(yields(NO_EVENT, then=fail), b"", "closed", TypeError, "ERROR", 0),
    "too slowly": Case(
        yields(NO_EVENT, then=hang), b"", "closed, cleaning up", TypeError, "WARNING", 0
    ),
    "with its variable reset": Case(sets_a_variable_in_a_thread, b"0;1;", "inside, outside"),
}


@pytest.mark.parametrize("case", ENDS.values(), ids=ENDS)
async def test_a_source_ends(case: Case, log: pytest.LogCaptureFixture) -> None:
    await case.check(log, sent_by)


async def ends_when_it_is_cancelled(seen: list[str]) -> AsyncIterator[int]:
    try:
        await anyio.sleep_forever()
    except anyio.get_cancelled_exc_class():
        return
    yield 0


async def yields_when_it_is_cancelled(seen: list[str]) -> AsyncIterator[bytes]:
    try:
        await anyio.sleep_forever()
    except anyio.get_cancelled_exc_class():
        try:
            yield b"farewell;"
            seen.append("asked for more")
        except GeneratorExit:
            seen.append("closed")


async def cleans_up_in_a_task_group(seen: list[str]) -> AsyncIterator[int]:
    try:
        async with anyio.create_task_group():
            try:
                yield 0
                await anyio.sleep_forever()
            finally:
                await clean_up(seen, "inside")
        seen.append("went on behind it")
    finally:
        await clean_up(seen, "outside")


def has_a_helper(failure: Exception | None = None) -> Source:
    async def events(seen: list[str]) -> AsyncIterator[int]:
        async def helper() -> None:
            try:
                await anyio.sleep_forever()
            finally:
                seen.append("helper ended")
                if failure is not None:
                    raise failure

        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(helper)
                await anyio.lowlevel.checkpoint()
                yield 0
                await anyio.lowlevel.checkpoint()
                yield 1
                await anyio.sleep_forever()
            seen.append("went on behind it")
        finally:
            # A child that is cancelled takes its group with it: what cleans up in there can't wait.
            await clean_up(seen, "outside")

    return events


ENDED = "helper ended, outside"
WAITING = {
    "begun": Case(sleeping, b"0;", f"cancelled, {DONE}"),
    "ending then": Case(ends_when_it_is_cancelled),
    "yielding then": Case(yields_when_it_is_cancelled, b"farewell;", "closed"),
    "slow to clean up": Case(
        yields(WAITS, then=hang), b"", "cancelled, cleaning up", logs="WARNING", timeout=0
    ),
    "quick to clean up": Case(
        yields(0, WAITS, then=clean_up_at_once), b"0;", f"cancelled, {DONE}", timeout=0
    ),
    "with any time to clean up": Case(
        yields(0, WAITS, then=tell_the_deadline), b"0;", "cancelled, until inf", timeout=None
    ),
    "with a timeout in its cleanup": Case(yields(WAITS, then=time_out), b"", f"cancelled, {DONE}"),
    "failing in its cleanup": Case(yields(WAITS, then=fail), b"", "cancelled", logs="ERROR"),
    "cleaning up in a task group": Case(cleans_up_in_a_task_group, b"0;", "inside, outside"),
    "with a helper": Case(has_a_helper(), b"0;1;", ENDED),
    "with a helper that fails": Case(has_a_helper(LOST), b"0;1;", ENDED, logs="ERROR"),
}


@pytest.mark.parametrize("case", WAITING.values(), ids=WAITING)
async def test_a_source_that_waits_is_cancelled_once_and_its_cleanup_may_wait_for_so_long(
    case: Case, log: pytest.LogCaptureFixture
) -> None:
    await case.check(log, stopped)


AT_A_YIELD = {
    "begun": Case(sleeping, b"0;", f"closed, {DONE}"),
    "with a helper": Case(has_a_helper(), b"0;", ENDED),
    "with a helper that fails": Case(has_a_helper(LOST), b"0;", ENDED, logs="ERROR"),
    "with a variable, in a thread": Case(sets_a_variable_in_a_thread, b"0;", "outside"),
}


@pytest.mark.parametrize("case", AT_A_YIELD.values(), ids=AT_A_YIELD)
async def test_a_source_that_is_at_a_yield_is_closed(
    case: Case, log: pytest.LogCaptureFixture
) -> None:
    await case.check(log, partial(stopped, blocked=True))


async def cancels_itself_anew(seen: list[str]) -> AsyncIterator[int]:
    """What some libraries do; anyio doesn't take the new one for its own."""
    with contextlib.suppress(asyncio.CancelledError):
        await anyio.sleep_forever()
        yield 0
    raise asyncio.CancelledError


async def awaits_a_task(seen: list[str]) -> AsyncIterator[int]:
    async def helper() -> None:
        try:
            await asyncio.get_running_loop().create_future()
        except asyncio.CancelledError:
            seen.append("helper cancelled")
            raise

    await asyncio.create_task(helper())
    yield 0


@on_asyncio
@pytest.mark.parametrize(
    "case",
    [Case(cancels_itself_anew), Case(awaits_a_task, b"", "helper cancelled")],
    ids=["cancelling itself anew", "awaiting a task"],
)
async def test_a_source_of_asyncio_is_stopped(case: Case, log: pytest.LogCaptureFixture) -> None:
    await case.check(log, stopped)


# Stopping


async def test_a_source_may_have_its_own_feed_stopped() -> None:
    seen: list[str] = []

    async def source() -> AsyncIterator[object]:
        feed.stop()
        async for event in yields(WAITS)(seen):
            yield event

    feed = feed_of(source())
    await sent_by(feed)

    assert seen == ["cancelled", "cleaned up"]


async def test_a_source_that_is_stopped_before_it_ran_is_never_started() -> None:
    seen: list[str] = []
    events = sleeping(seen)
    feed = feed_of(events)

    feed.stop()
    writer = await sent_by(feed)

    assert seen == []
    assert writer.taken == []
    assert feed.error is None
    with pytest.raises(StopAsyncIteration):
        await events.__anext__()


@pytest.mark.lazy_tasks
async def test_a_source_that_is_stopped_as_its_task_starts_is_never_started() -> None:
    seen: list[str] = []
    feed = feed_of(sleeping(seen))

    async with running(feed):
        feed.stop()

    assert seen == []


async def test_a_stop_while_the_source_cleans_up_by_itself_does_not_disturb_it() -> None:
    """The source has failed to make an event, and is being closed, when the client goes."""
    cleaning = anyio.Event()

    async def tell_and_clean_up(seen: list[str]) -> None:
        cleaning.set()
        await clean_up(seen)

    seen: list[str] = []
    feed = feed_of(yields(NO_EVENT, then=tell_and_clean_up)(seen))
    async with running(feed):
        await cleaning.wait()
        feed.stop()

    assert seen[-1] == "cleaned up"
    assert isinstance(feed.error, TypeError)


# Scopes, groups and contexts of the source

Hits = list[Callable[[], object]]
"""What cancels each of the scopes that a source has entered."""


@contextlib.asynccontextmanager
async def cancel_scope(hits: Hits) -> AsyncIterator[None]:
    with anyio.CancelScope() as scope:
        hits.append(scope.cancel)
        yield


@contextlib.asynccontextmanager
async def deadline(hits: Hits) -> AsyncIterator[None]:
    with anyio.move_on_after(math.inf) as scope:
        hits.append(partial(setattr, scope, "deadline", -math.inf))
        yield


@contextlib.asynccontextmanager
async def timeout_of_asyncio(hits: Hits) -> AsyncIterator[None]:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(None) as timeout:
            hits.append(partial(timeout.reschedule, 0))
            yield


each_scope = pytest.mark.parametrize(
    ("anyio_backend", "scope"),
    [
        on(loop, scope, name=scope.__name__)
        for loop in LOOPS
        for scope in (cancel_scope, deadline, timeout_of_asyncio)
        if (loop, scope) != ("trio", timeout_of_asyncio)
    ],
)
Scope = Callable[[Hits], contextlib.AbstractAsyncContextManager[None]]


@each_scope
async def test_a_scope_around_a_yield_that_is_cancelled_works_and_costs_no_frame(
    scope: Scope,
) -> None:
    """It's cancelled from another task while the writer still sends what the source has yielded."""
    hits: Hits = []

    async def source() -> AsyncIterator[object]:
        for number in range(5):
            async with scope(hits):
                yield number
                yield NO_EVENT
                await anyio.sleep_forever()

    feed = feed_of(source())
    async with running(feed, blocked=True) as writer:
        for number in range(5):
            await until(lambda: len(hits) > number)  # noqa: B023  (called in this turn only)
            await settle()
            hits[number]()
            await settle()

    assert feed.error is None
    assert writer.body == numbered(5)


@each_scope
@pytest.mark.parametrize("stop", ["before", "after", "soon after"])
async def test_a_stop_is_not_lost_when_a_scope_of_the_source_is_cancelled_with_it(
    scope: Scope, stop: str
) -> None:
    seen: list[str] = []
    hits: Hits = []

    async def source() -> AsyncIterator[int]:
        try:
            while True:
                async with scope(hits):
                    await anyio.sleep_forever()
                    yield 0
        finally:
            await clean_up(seen)

    feed = feed_of(source())
    async with running(feed):
        await settle()
        if stop == "before":
            feed.stop()
        hits[0]()
        if stop == "after":
            feed.stop()
        current_loop().call_soon(feed.stop)

    assert seen == ["cleaned up"]
    assert len(hits) <= 2


@pytest.mark.parametrize("stop_first", [False, True])
async def test_cleanup_outside_of_a_cancelled_scope_may_wait_although_that_inside_may_not(
    stop_first: bool,
) -> None:
    seen: list[str] = []
    hits: Hits = []

    async def source() -> AsyncIterator[int]:
        try:
            async with cancel_scope(hits):
                try:
                    await anyio.sleep_forever()
                    yield 0
                finally:
                    try:
                        await anyio.sleep_forever()
                    finally:
                        seen.append("inside")
        finally:
            await clean_up(seen, "outside")

    feed = feed_of(source())
    async with running(feed):
        await settle()
        for cancel in (feed.stop, hits[0])[:: 1 if stop_first else -1]:
            cancel()

    assert seen == ["inside", "outside"]
    assert feed.error is None


class Counting:
    """An async iterator that isn't a generator: nothing can be thrown into it."""

    def __init__(self, *, scope: anyio.CancelScope | None = None) -> None:
        self.count = 0
        self.closed = False
        self._scope = scope

    def __aiter__(self) -> Counting:
        return self

    async def __anext__(self) -> int:
        if self._scope is not None and self.count == 0:
            self._scope.__enter__()
        self.count += 1
        return self.count - 1

    async def aclose(self) -> None:
        if self._scope is not None:
            self._scope.__exit__(None, None, None)
        await anyio.lowlevel.checkpoint()
        self.closed = True


async def test_a_cancelled_scope_of_an_iterator_that_nothing_can_be_thrown_into_ends_it() -> None:
    scope = anyio.CancelScope()
    source = Counting(scope=scope)
    feed = feed_of(source)

    async with running(feed, blocked=True) as writer:
        await settle()
        scope.cancel()

    assert source.closed
    assert writer.body == b"0;"
    assert "cancelled from within" in str(feed.error)


@on_asyncio
async def test_a_source_whose_wait_was_cancelled_by_somebody_else_ends_with_an_error() -> None:
    async def source() -> AsyncIterator[int]:
        yield 0
        await future
        yield 1

    future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    feed = feed_of(source())
    async with running(feed) as writer:
        await settle()
        future.cancel()

    assert writer.body == b"0;"
    assert isinstance(feed.error, RuntimeError)
    assert "cancelled from within" in str(feed.error)
    assert isinstance(feed.error.__cause__, asyncio.CancelledError)


async def test_an_interrupt_in_cleanup_is_nothing_that_a_feed_holds_back() -> None:
    class Interrupt(BaseException):
        pass

    async def interrupt(seen: list[str]) -> None:
        raise Interrupt

    feed = feed_of(yields(NO_EVENT, then=interrupt)([]))
    with pytest.raises(Interrupt):
        await feed.run()

    assert feed.ended


# Whatever can be closed is closed


class Closable:
    """Notes what of it is closed, in which order, and in which threads."""

    def __init__(self) -> None:
        self.closed: list[str] = []
        self.threads: set[int] = set()


class Async(Closable):
    async def __aiter__(self) -> AsyncIterator[int]:
        try:
            yield 0
            await anyio.sleep_forever()
        finally:
            self.closed.append("iterator")


class Sync(Closable):
    """As the result of a database."""

    def __iter__(self) -> Iterator[int]:
        self.threads.add(threading.get_ident())
        try:
            yield from (0, 1)
        finally:
            self.threads.add(threading.get_ident())
            self.closed.append("iterator")


class File(Sync):
    def __iter__(self) -> Iterator[int]:
        return self

    def __next__(self) -> int:
        return 0


class ItsOwnIterator(Closable):
    """What clients of HTTP APIs give for a stream."""

    given = False

    def __aiter__(self) -> AsyncIterator[int]:
        return self

    async def __anext__(self) -> int:
        if self.given:
            await anyio.sleep_forever()
        self.given = True
        return 0


class Aclose(Closable):
    async def aclose(self) -> None:
        await anyio.lowlevel.checkpoint()
        self.closed.append("aclose")


class Close(Closable):
    def close(self) -> None:
        self.threads.add(threading.get_ident())
        self.closed.append("close")


class AsyncClose(Closable):
    async def close(self) -> None:
        await anyio.lowlevel.checkpoint()
        self.closed.append("close")


class FailingClose(Close):
    def close(self) -> None:
        super().close()
        raise LOST


@pytest.mark.parametrize("begun", [True, False], ids=["begun", "never iterated"])
@pytest.mark.parametrize(
    ("kinds", "closed"),
    [
        ([Async], ["iterator"]),
        ([Async, Aclose], ["iterator", "aclose"]),
        ([Async, Close], ["iterator", "close"]),
        ([Async, AsyncClose], ["iterator", "close"]),
        ([Async, Aclose, Close], ["iterator", "aclose"]),
        ([ItsOwnIterator], []),
        ([ItsOwnIterator, Aclose], ["aclose"]),
        ([ItsOwnIterator, Close], ["close"]),
        ([ItsOwnIterator, AsyncClose], ["close"]),
        ([Sync], ["iterator"]),
        ([Sync, Close], ["iterator", "close"]),
        ([Sync, AsyncClose], ["iterator", "close"]),
        ([Sync, FailingClose], ["iterator", "close"]),
        ([File], []),
        ([File, Close], ["close"]),
    ],
    ids=lambda each: " ".join(getattr(one, "__name__", str(one)) for one in each) or "nothing",
)
async def test_an_iterable_and_its_iterator_are_closed_each_once(
    kinds: list[type[Closable]], closed: list[str], begun: bool, log: pytest.LogCaptureFixture
) -> None:
    source = type("Source", tuple(kinds), {})()
    feed = feed_of(source)
    if not begun:
        feed.stop()

    is_sync = isinstance(source, Sync)
    async with running(feed, blocked=is_sync) as writer:
        await until(lambda: writer.taken or not begun)
        await settle()
        feed.stop()

    assert writer.body == (b"0;" if begun else b"")
    assert source.closed == (closed if begun else [each for each in closed if each != "iterator"])
    assert not (is_sync and threading.get_ident() in source.threads)
    assert feed.error is None
    check_logged(log, "ERROR" if FailingClose in kinds else None)


@pytest.mark.parametrize("ending", ["end", "error", "waiting", "yielding", "not started"])
async def test_nothing_of_a_source_is_kept_once_it_has_ended(ending: str) -> None:
    source = yields(0, *{"end": [], "error": [NO_EVENT]}.get(ending, [WAITS]))([])
    gone = weakref.ref(source)
    feed = feed_of(source)
    if ending == "not started":
        feed.stop()

    if ending in ("end", "error"):
        await sent_by(feed)
    else:
        await stopped(feed, blocked=ending == "yielding")

    del source, feed
    gc.collect()
    assert gone() is None


# Sync iterables


class Blocking:
    """A sync generator whose steps block until they are told to go on."""

    def __init__(self) -> None:
        self.entered = anyio.Event()
        self.closed = anyio.Event()
        self.release = threading.Event()
        self.threads: set[int] = set()
        self._loop = current_loop()

    def events(self) -> Iterator[int]:
        try:
            for number in range(3):
                self.threads.add(threading.get_ident())
                yield number
            self._loop.call_soon_threadsafe(self.entered.set)
            self.release.wait(SEAT_BELT)
            yield 3
        finally:
            self.threads.add(threading.get_ident())
            self._loop.call_soon_threadsafe(self.closed.set)


@pytest.mark.parametrize("kind", [list, tuple])
async def test_what_is_in_memory_already_needs_no_thread(kind: Callable[..., object]) -> None:
    def no_thread(self: object) -> None:
        raise AssertionError("a thread was started")

    feed = feed_of(kind(range(100)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(threading.Thread, "start", no_thread)
        writer = await sent_by(feed)

    assert writer.body == numbered(100)


async def test_a_blocked_sync_step_is_waited_for_and_its_iterator_closed() -> None:
    source = Blocking()
    feed = feed_of(source.events(), cleanup_timeout=None)

    async with running(feed) as writer:
        await source.entered.wait()
        feed.stop()
        await settle()
        assert not feed.ended
        source.release.set()

    assert source.closed.is_set()
    assert writer.body == b"0;1;2;"


async def test_a_sync_generator_that_was_never_started_is_closed() -> None:
    source = Blocking()
    events = source.events()
    feed = feed_of(events)

    feed.stop()
    await sent_by(feed)

    assert inspect.getgeneratorstate(events) == inspect.GEN_CLOSED  # type: ignore[arg-type]
    assert source.threads == set()


async def test_a_step_that_comes_too_late_does_not_touch_a_closed_iterator() -> None:
    """Its worker had been chosen, but had not begun, when the source was closed."""
    source = Blocking()
    steps = iterate(source.events(), current_loop())

    await steps.aclose()  # type: ignore[attr-defined]

    assert [step async for step in steps] == []
    assert source.threads == set()


async def test_a_worker_that_comes_back_when_the_loop_is_gone_still_closes_its_iterator() -> None:
    entered, release, closed = threading.Event(), threading.Event(), threading.Event()

    def events() -> Iterator[int]:
        try:
            entered.set()
            release.wait(SEAT_BELT)
            yield 0
        finally:
            closed.set()

    async def main() -> None:
        feed = feed_of(events(), cleanup_timeout=0)
        async with running(feed):
            await until(entered.is_set)
            feed.stop()

    in_a_loop_of_its_own = partial(anyio.run, main, backend=sniffio.current_async_library())
    await anyio.to_thread.run_sync(in_a_loop_of_its_own)
    assert not closed.is_set()
    release.set()
    assert await anyio.to_thread.run_sync(closed.wait, SEAT_BELT)


def test_a_source_whose_loop_was_closed_is_not_closed_by_awaiting_something(
    log: pytest.LogCaptureFixture,
) -> None:
    class Endless(Counting):
        async def __anext__(self) -> int:
            await anyio.sleep_forever()
            raise AssertionError

    async def begin() -> Any:
        feeding = feed_of(source).run()
        feeding.send(None)
        return feeding

    source = Endless()
    loop = asyncio.new_event_loop()
    feeding = loop.run_until_complete(begin())
    loop.close()

    feeding.close()

    assert not source.closed
    check_logged(log, None)


# Wrong content


async def a_coroutine() -> None:
    """What an `async def` without `yield` makes."""


@pytest.mark.parametrize(
    ("make", "found"),
    [
        (a_coroutine, "coroutine: await it, EventSourceResponse(await a_coroutine(...))"),
        (lambda: numbers, "function: call the generator function"),
        (lambda: "text", "str: to send it as one event, put it into a list"),
        (lambda: 0, "int"),
    ],
    ids=["coroutine", "function", "text", "number"],
)
@pytest.mark.parametrize("stop_first", [False, True])
async def test_wrong_content_is_an_error_but_nobodys_business_if_it_is_stopped_before_it_ran(
    make: Callable[[], object], found: str, stop_first: bool, log: pytest.LogCaptureFixture
) -> None:
    feed = feed_of(make())
    if stop_first:
        feed.stop()

    writer = await sent_by(feed)

    assert writer.taken == []
    if stop_first:
        assert feed.error is None
    else:
        assert isinstance(feed.error, TypeError)
        assert f"needs an async or sync iterable of events, got {found}" in str(feed.error)
    check_logged(log, None)


# Bytes that somebody else has framed


async def test_event_behind_bytes_that_are_not_finished_begins_on_its_own(
    log: pytest.LogCaptureFixture,
) -> None:
    feed = feed_of([b"data: half", b" of it", 1, bytearray(b"data: more"), 2, 3])

    writer = await sent_by(feed)

    assert writer.body == b"data: half of it\n\n1;data: more\n\n2;3;"
    check_logged(log, "WARNING")
    assert r'`yield b"data: text\n\n"`' in log.text


async def test_feed_says_whether_its_bytes_end_within_an_event(
    log: pytest.LogCaptureFixture,
) -> None:
    seen: list[bool] = []

    async def events() -> AsyncIterator[object]:
        for chunk in (b"data: half", b" of it\r\n", b"\r\n", b": ping\r\n", b"data: a\n\n"):
            yield chunk
            seen.append(feed.unfinished)

    feed = feed_of(events())
    await sent_by(feed)

    assert seen == [True, True, False, False, False]
    assert feed.finish_event() == b""
    check_logged(log, None)


async def test_bytes_that_never_end_are_told_once_and_left_as_they_are(
    log: pytest.LogCaptureFixture,
) -> None:
    feed = feed_of([b"raw", b"raw"])

    writer = await sent_by(feed)

    assert writer.body == b"rawraw"
    assert feed.finish_event() == b"\n\n"
    assert not feed.unfinished
    check_logged(log, "WARNING")
