"""A source in its feed: its frames, what holds them up, and how it's stopped and cleaned up."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import gc
import inspect
import logging
import threading
import weakref
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Callable,
    Coroutine,
    Generator,
    Iterable,
    Iterator,
)
from dataclasses import dataclass
from typing import Any

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest
from tests.unit.driving import StillLoop, on, on_asyncio
from tests.unit.sources import (
    SEAT_BELT,
    Writer,
    encode,
    feed_of,
    numbered,
    running,
    sent_by,
    settle,
    stopped,
)

from sse_starlette._runtime.loop import current_loop
from sse_starlette._stream.batching import WARM_UP
from sse_starlette._stream.content import iterate
from sse_starlette._stream.feed import JOINED_BYTES

pytestmark = pytest.mark.anyio


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    """What the test logs; whatever it is, it comes from the logger that users know."""
    caplog.set_level(logging.DEBUG, logger="sse_starlette")
    return caplog


def logged(log: pytest.LogCaptureFixture) -> list[tuple[str, int]]:
    return [(record.name, record.levelno) for record in log.records if record.name != "asyncio"]


CLEANUP_ERROR = ("sse_starlette.sse", logging.ERROR)
CLEANUP_CUT = ("sse_starlette.sse", logging.WARNING)


Source = Callable[[list[str]], AsyncIterator[object]]


@dataclass(frozen=True)
class Stopped:
    """A source that is stopped, and what comes of it."""

    source: Source
    body: bytes = b""
    told: tuple[str, ...] = ()
    logs: tuple[tuple[str, int], ...] = ()
    yielding: bool = False
    """It's stopped at a yield, for the writer is blocked; not where it waits."""
    timeout: float | None = SEAT_BELT

    def __str__(self) -> str:
        name = self.source.__qualname__.partition(".")[0]
        return f"{name}, at a yield" if self.yielding else name


def check_logged(log: pytest.LogCaptureFixture, expected: list[tuple[str, int]]) -> None:
    assert logged(log) == expected
    if CLEANUP_ERROR in expected:
        assert "lost the key" in log.text
        assert "Traceback" in log.text
    if CLEANUP_CUT in expected:
        assert "cleanup" in log.text


async def numbers(count: int) -> AsyncGenerator[int, None]:
    """A source that never waits."""
    for number in range(count):
        yield number


async def sleeping(seen: list[str]) -> AsyncGenerator[int, None]:
    """Yield 0, wait until it's cancelled, and tell what befell it."""
    seen.append("started")
    try:
        yield 0
        await anyio.sleep_forever()
    except BaseException as exc:
        cancelled = isinstance(exc, anyio.get_cancelled_exc_class())
        seen.append("cancelled" if cancelled else type(exc).__name__)
        raise
    finally:
        await clean_up(seen)


async def clean_up(seen: list[str], what: str = "cleaned up") -> None:
    """Wait for others, as a cleanup may."""
    for _ in range(3):
        await anyio.lowlevel.checkpoint()
    seen.append(what)


# Frames and endings


@pytest.mark.parametrize("count", [0, 3])
async def test_frames_come_in_order_and_end_with_the_source(count: int) -> None:
    feed = feed_of(numbers(count))

    writer = await sent_by(feed)

    assert writer.taken == [encode(number) for number in range(count)]
    assert feed.ended
    assert feed.error is None


async def test_a_feed_that_nobody_opened_ends_all_the_same() -> None:
    feed = feed_of(numbers(0))

    with anyio.fail_after(SEAT_BELT):
        await feed.run()

    assert feed.ended


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


async def test_a_frame_without_bytes_holds_nothing_up() -> None:
    """A writer can't send nothing, so it doesn't say that it has been sent."""

    async def source() -> AsyncIterator[bytes]:
        yield b""
        yield b"0;"
        for _ in range(100):
            yield b""
        yield b"1;"

    writer = await sent_by(feed_of(source()))

    assert writer.body == b"0;1;"


async def test_a_source_is_driven_from_its_first_step_to_its_close_in_one_task() -> None:
    tasks_seen = set()

    async def source() -> AsyncIterator[int]:
        try:
            while True:
                tasks_seen.add(anyio.get_current_task().id)
                yield 0
                await anyio.lowlevel.checkpoint()
        finally:
            tasks_seen.add(anyio.get_current_task().id)

    feed = feed_of(source())
    async with running(feed) as writer:
        while writer.sent < 5:
            await anyio.lowlevel.checkpoint()
        feed.stop()

    assert len(tasks_seen) == 1


# Held back or joined


@pytest.mark.lazy_tasks
async def test_each_event_is_sent_before_a_source_that_never_waits_computes_the_next() -> None:
    loop = StillLoop()
    unsent: list[int] = []

    async def source() -> AsyncIterator[int]:
        for number in range(20):
            unsent.append(number - writer.sent)
            loop.now += 0.5
            yield number

    feed = feed_of(source(), loop)
    async with running(feed) as writer:
        pass

    assert unsent == [0] * 20
    assert len(writer.taken) == 20


@pytest.mark.parametrize("burst", [1, 2, 20, 100])
async def test_the_last_event_of_a_burst_is_sent_before_the_source_computes(burst: int) -> None:
    loop = StillLoop()
    unsent: list[int] = []

    async def source() -> AsyncIterator[int]:
        for _ in range(5):
            for number in range(burst):
                loop.now += 0.000001
                yield number
            unsent.append(burst * (len(unsent) + 1) - writer.sent)
            loop.now += 0.5

    feed = feed_of(source(), loop)
    async with running(feed) as writer:
        pass

    assert unsent == [0] * 5


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


@pytest.mark.lazy_tasks
@pytest.mark.parametrize(
    ("quick", "beside", "held_once"),
    [
        # On a loop that is on time nothing is held before the warm-up is over, and then what has come
        # within a millisecond: a thousand, here.
        (1, contextlib.nullcontext, 0),
        (3, contextlib.nullcontext, 0),
        (20, contextlib.nullcontext, 0),
        (99, contextlib.nullcontext, 0),
        (101, contextlib.nullcontext, 101 - WARM_UP),
        (1_000, contextlib.nullcontext, 1_000 - WARM_UP),
        (3_000, contextlib.nullcontext, 1_000),
        # On one that is late, nothing before the source has left it a turn, after four sends.
        (1, late, 0),
        (3, late, 0),
        (20, late, 20 - 4),
        (99, late, 99 - 4),
        (101, late, 101 - 4),
        (1_000, late, 1_000 - 4),
        (3_000, late, 1_000),
    ],
)
async def test_what_is_held_when_a_source_computes_after_quick_events_is_held_that_once(
    quick: int, beside: Any, held_once: int
) -> None:
    loop = StillLoop()
    held: list[int] = []

    async def source() -> AsyncIterator[int]:
        yielded = 0
        for step in range(6):
            for _ in range(quick if step == 0 else 1):
                loop.now += 0.000001
                yield yielded
                yielded += 1
            held.append(yielded - writer.sent)
            loop.now += 0.5

    feed = feed_of(source(), loop)
    async with beside(loop), running(feed) as writer:
        pass

    assert held[0] <= held_once
    assert held[1:] == [0] * 5


@on_asyncio
async def test_on_a_late_loop_a_burst_leaves_in_few_sends_and_on_one_in_time_event_by_event() -> (
    None
):
    sends: list[int] = []
    for beside in (contextlib.nullcontext, late):
        loop = StillLoop()
        async with beside(loop):
            writer = await sent_by(feed_of(numbers(100), loop))
        sends.append(len(writer.taken))

    assert sends[0] == 100
    assert sends[1] < 10


@on_asyncio
async def test_what_has_come_while_a_source_waited_leaves_in_one_send_while_the_loop_is_late() -> (
    None
):
    """Also its first event, which otherwise is offered to the writer at once; as it is again when all is well."""
    loop = StillLoop()
    batches = [anyio.Event() for _ in range(8)]

    async def source() -> AsyncIterator[int]:
        for batch in batches:
            await batch.wait()
            for number in range(5):
                yield number

    offered: list[bytes] = []

    def offer(frame: bytes, now: float, caller: object) -> bool:
        offered.append(frame)
        return False

    feed = feed_of(source(), loop)
    async with running(feed) as writer:
        feed.offer = offer
        sends: list[tuple[int, int]] = []

        async def release(batch: anyio.Event) -> None:
            before = writer.sent, len(writer.taken), len(offered)
            batch.set()
            while writer.sent < before[0] + 5:
                await anyio.lowlevel.checkpoint()
            await settle()
            sends.append((len(writer.taken) - before[1], len(offered) - before[2]))

        async with late(loop):
            for batch in batches[:4]:
                await release(batch)
        for batch in batches[4:]:
            await release(batch)

    # What it knows is from the turn before.
    assert sends == [(5, 1), (1, 0), (1, 0), (1, 0), (1, 0), (5, 1), (5, 1), (5, 1)]


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
            while len(sent_at) < writer.sent:
                sent_at.append(loop.now)
            yield number

    feed = feed_of(source(), loop)
    async with running(feed) as writer:
        pass

    assert len(writer.taken) < 1_500
    assert max(sent - made for sent, made in zip(sent_at, made_at, strict=False)) < 0.002


async def between_turns(
    events: Iterable[object], loop: StillLoop | None = None, *, joins: bool = True
) -> tuple[int, int]:
    """How many events at most a source yields until another task has a turn, and the turns it has in all."""
    turns = longest = 0

    async def source() -> AsyncIterator[object]:
        nonlocal longest
        seen = since = 0
        for event in events:
            since = 0 if turns > seen else since + 1
            seen = turns
            longest = max(longest, since)
            yield event

    async def other() -> None:
        nonlocal turns
        while not feed.ended:
            turns += 1
            await anyio.lowlevel.checkpoint()

    feed = feed_of(source(), loop, joins=joins)
    async with running(feed), anyio.create_task_group() as tasks:
        tasks.start_soon(other)
    return longest, turns


async def test_a_source_that_never_waits_leaves_the_loop_to_others() -> None:
    longest, _ = await between_turns([b"x" * 100] * 10_000, StillLoop())

    assert 10 < longest <= JOINED_BYTES // 100 + 1


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


@pytest.mark.parametrize(
    ("step_seconds", "joins", "most_steps"),
    [
        pytest.param(0.0, False, 4, id="after four sends"),
        pytest.param(0.0003, True, 5, id="after a millisecond"),
    ],
)
async def test_a_source_that_never_waits_leaves_the_loop_soon(
    step_seconds: float, joins: bool, most_steps: int
) -> None:
    def slow() -> Iterator[int]:
        for number in range(500):
            loop.now += step_seconds
            yield number

    loop = StillLoop()
    longest, _ = await between_turns(slow(), loop, joins=joins)

    assert longest <= most_steps


@on_asyncio()
async def test_a_source_that_never_waits_goes_on_after_each_turn_for_another_four_sends() -> None:
    """On uvloop, too, whose time stands still for a millisecond."""
    _, turns = await between_turns(range(100))

    # Two for each pause: twenty-five pauses but for the last, and a few that a busy machine may cost.
    assert 45 < turns < 60


async def test_events_that_are_ready_together_leave_together() -> None:
    writer = await sent_by(feed_of(numbers(10_000), StillLoop()))

    assert writer.body == numbered(10_000)
    assert len(writer.taken) < 300


async def test_without_joining_each_event_leaves_alone() -> None:
    writer = await sent_by(feed_of(numbers(200), StillLoop(), joins=False))

    assert writer.taken == [encode(number) for number in range(200)]


async def test_paced_events_leave_one_by_one() -> None:
    async def source() -> AsyncIterator[int]:
        for number in range(50):
            yield number
            tick = anyio.Event()
            pace.append(tick)
            await tick.wait()

    pace: list[anyio.Event] = []
    async with running(feed_of(source(), StillLoop())) as writer:
        for number in range(50):
            await settle()
            assert writer.sent == number + 1
            pace[-1].set()

    assert writer.taken == [encode(number) for number in range(50)]


async def test_events_that_are_ready_after_a_wait_leave_together() -> None:
    async def source() -> AsyncIterator[int]:
        for batch in range(20):
            ready = anyio.Event()
            batches.append(ready)
            await ready.wait()
            for number in range(50):
                yield 50 * batch + number

    batches: list[anyio.Event] = []
    takes: list[int] = []
    async with running(feed_of(source(), StillLoop())) as writer:
        for batch in range(20):
            while len(batches) <= batch or writer.sent < 50 * batch:
                await anyio.lowlevel.checkpoint()
            takes.append(len(writer.taken))
            batches[-1].set()

    assert writer.body == numbered(1_000)
    # In the end one send for fifty events; at first, when little is known, more.
    assert takes[1] - takes[0] > 20
    assert takes[-1] - takes[-2] == 1


@pytest.mark.lazy_tasks
async def test_a_source_runs_ahead_of_a_blocked_writer_by_a_bounded_number_of_bytes() -> None:
    produced = 0

    async def source() -> AsyncIterator[bytes]:
        nonlocal produced
        frame = b"x" * 999 + b";"
        for number in range(8_000):
            if number == 4_000:
                writer.blocked = True
            if writer.blocked:
                produced += len(frame)
            yield frame

    feed = feed_of(source(), StillLoop())
    async with running(feed) as writer:
        while not writer.blocked:
            await anyio.lowlevel.checkpoint()
        await settle()
        # One write is under way, and as much stands behind it.
        assert 1 < produced // 1_000 <= 2 * (JOINED_BYTES // 1_000 + 1)
        stood_still_at = produced
        await settle()
        assert produced == stood_still_at

    assert writer.sent == 8_000


async def test_the_first_event_is_not_followed_by_a_second_before_it_is_sent() -> None:
    produced: list[int] = []

    async def source() -> AsyncIterator[int]:
        for number in range(3):
            produced.append(number)
            yield number

    async with running(feed_of(source()), blocked=True) as writer:
        await settle()
        assert produced == [0]

    assert writer.body == b"0;1;2;"


# How a source ends

LOST = KeyError("lost the key")
TWO = ExceptionGroup("two", [ValueError("one"), KeyError("other")])
variable = contextvars.ContextVar("variable", default="outside")


async def ends(seen: list[str]) -> AsyncIterator[int]:
    yield 0


async def fails(seen: list[str]) -> AsyncIterator[int]:
    yield 0
    raise LOST


async def fails_with_a_group(seen: list[str]) -> AsyncIterator[int]:
    yield 0
    raise TWO


async def has_a_helper_that_fails(seen: list[str]) -> AsyncIterator[int]:
    async with anyio.create_task_group() as tasks:
        yield 0
        tasks.start_soon(lose)
        await anyio.sleep_forever()


async def lose() -> None:
    raise LOST


async def cannot_be_encoded(seen: list[str]) -> AsyncIterator[object]:
    try:
        yield 0
        yield object()
        seen.append("asked for more")
    except GeneratorExit:
        seen.append("closed")
        raise


async def fails_in_closing(seen: list[str]) -> AsyncIterator[object]:
    try:
        yield object()
    finally:
        raise LOST


async def is_slow_to_close(seen: list[str]) -> AsyncIterator[object]:
    try:
        yield object()
    finally:
        await anyio.sleep_forever()


def sets_a_variable(*, waits: bool) -> Source:
    async def events(seen: list[str]) -> AsyncIterator[int]:
        token = variable.set("inside")
        try:
            yield 0
            await anyio.lowlevel.checkpoint()
            seen.append(variable.get())
            yield 1
            if waits:
                await anyio.sleep_forever()
        finally:
            await anyio.lowlevel.checkpoint()
            variable.reset(token)
            seen.append(variable.get())

    return events


@pytest.mark.parametrize(
    ("source", "body", "error", "told", "logs"),
    [
        pytest.param(ends, b"0;", None, [], [], id="by itself, in no time"),
        pytest.param(fails, b"0;", LOST, [], [], id="with an error, after its frames"),
        pytest.param(fails_with_a_group, b"0;", TWO, [], [], id="with an exception group"),
        pytest.param(has_a_helper_that_fails, b"0;", ExceptionGroup, [], [], id="by its helper"),
        pytest.param(cannot_be_encoded, b"0;", TypeError, ["closed"], [], id="by its value"),
        pytest.param(fails_in_closing, b"", TypeError, [], [CLEANUP_ERROR], id="twice"),
        pytest.param(is_slow_to_close, b"", TypeError, [], [CLEANUP_CUT], id="too slowly"),
        pytest.param(
            sets_a_variable(waits=False),
            b"0;1;",
            None,
            ["inside", "outside"],
            [],
            id="with its context variable reset",
        ),
    ],
)
async def test_a_source_ends(
    source: Source,
    body: bytes,
    error: object,
    told: list[str],
    logs: list[tuple[str, int]],
    log: pytest.LogCaptureFixture,
) -> None:
    """None of them is given time for its cleanup."""
    seen: list[str] = []
    feed = feed_of(source(seen), cleanup_timeout=0)

    writer = await sent_by(feed)

    assert writer.body == body
    assert error in (feed.error, type(feed.error))
    assert seen == told
    check_logged(log, logs)


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


async def is_slow_to_clean_up(seen: list[str]) -> AsyncIterator[int]:
    try:
        await anyio.sleep_forever()
        yield 0
    finally:
        seen.append("cleaning up")
        await anyio.sleep_forever()
        seen.append("cleaned up")


async def has_nothing_to_clean_up(seen: list[str]) -> AsyncIterator[int]:
    yield 0
    await anyio.sleep_forever()


async def tells_its_deadline(seen: list[str]) -> AsyncIterator[int]:
    try:
        yield 0
        await anyio.sleep_forever()
    finally:
        await clean_up(seen)
        seen.append(f"until {anyio.current_effective_deadline()}")


async def has_a_timeout_in_its_cleanup(seen: list[str]) -> AsyncIterator[int]:
    try:
        await anyio.sleep_forever()
        yield 0
    finally:
        with anyio.move_on_after(0):
            await anyio.sleep_forever()
        await clean_up(seen)


async def fails_in_cleanup(seen: list[str]) -> AsyncIterator[int]:
    try:
        await anyio.sleep_forever()
        yield 0
    finally:
        raise LOST


def in_a_task_group(*, child: bool = False, inside: bool = False) -> Source:
    async def events(seen: list[str]) -> AsyncIterator[int]:
        try:
            async with anyio.create_task_group() as tasks:
                if child:
                    tasks.start_soon(anyio.sleep_forever)
                try:
                    yield 0
                    await anyio.sleep_forever()
                finally:
                    if inside:
                        await clean_up(seen, "inside")
            seen.append("went on behind it")
        finally:
            await clean_up(seen, "outside")

    return events


def has_a_helper(failure: Exception | None = None) -> Source:
    async def events(seen: list[str]) -> AsyncIterator[int]:
        async def helper() -> None:
            try:
                await anyio.sleep_forever()
            finally:
                seen.append("helper ended")
                if failure is not None:
                    raise failure

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(helper)
            await anyio.lowlevel.checkpoint()
            yield 0
            await anyio.lowlevel.checkpoint()
            yield 1
            await anyio.sleep_forever()

    return events


async def is_stopped(row: Stopped, log: pytest.LogCaptureFixture) -> None:
    seen: list[str] = []
    feed = feed_of(row.source(seen), cleanup_timeout=row.timeout)

    writer = await stopped(feed, blocked=row.yielding)

    assert writer.body == row.body
    assert seen == list(row.told)
    assert feed.error is None
    check_logged(log, list(row.logs))


@pytest.mark.parametrize(
    "row",
    [
        Stopped(sleeping, b"0;", ("started", "cancelled", "cleaned up")),
        Stopped(sleeping, b"0;", ("started", "GeneratorExit", "cleaned up"), yielding=True),
        Stopped(ends_when_it_is_cancelled),
        Stopped(yields_when_it_is_cancelled, b"farewell;", ("closed",)),
        Stopped(is_slow_to_clean_up, b"", ("cleaning up",), (CLEANUP_CUT,), timeout=0),
        Stopped(has_nothing_to_clean_up, b"0;", timeout=0),
        Stopped(tells_its_deadline, b"0;", ("cleaned up", "until inf"), timeout=None),
        Stopped(has_a_timeout_in_its_cleanup, b"", ("cleaned up",)),
        Stopped(fails_in_cleanup, b"", (), (CLEANUP_ERROR,)),
        Stopped(in_a_task_group(), b"0;", ("outside",)),
        Stopped(in_a_task_group(inside=True), b"0;", ("inside", "outside")),
        # Not both: a child that is cancelled takes its group with it, and what cleans up in there.
        Stopped(in_a_task_group(child=True), b"0;", ("outside",)),
        Stopped(has_a_helper(), b"0;1;", ("helper ended",)),
        Stopped(has_a_helper(), b"0;", ("helper ended",), yielding=True),
        Stopped(has_a_helper(LOST), b"0;1;", ("helper ended",), (CLEANUP_ERROR,)),
        Stopped(has_a_helper(LOST), b"0;", ("helper ended",), (CLEANUP_ERROR,), yielding=True),
        Stopped(sets_a_variable(waits=True), b"0;1;", ("inside", "outside")),
        Stopped(sets_a_variable(waits=True), b"0;", ("outside",), yielding=True),
    ],
    ids=str,
)
async def test_a_source_is_stopped(row: Stopped, log: pytest.LogCaptureFixture) -> None:
    """It's cancelled once if it waits and closed if it's at a yield; its cleanup may wait, for so long."""
    await is_stopped(row, log)


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
    "row",
    [Stopped(cancels_itself_anew), Stopped(awaits_a_task, b"", ("helper cancelled",))],
    ids=str,
)
async def test_a_source_of_asyncio_is_stopped(row: Stopped, log: pytest.LogCaptureFixture) -> None:
    await is_stopped(row, log)


async def test_a_source_may_have_its_own_feed_stopped() -> None:
    seen: list[str] = []

    async def source() -> AsyncIterator[int]:
        try:
            feed.stop()
            await anyio.sleep_forever()
            yield 0
        finally:
            await clean_up(seen)

    feed = feed_of(source())
    await sent_by(feed)

    assert seen == ["cleaned up"]


# Stopping


async def test_cleanup_may_wait_for_other_tasks() -> None:
    helped = anyio.Event()
    asked = anyio.Event()

    async def source() -> AsyncIterator[int]:
        try:
            await anyio.sleep_forever()
            yield 0
        finally:
            asked.set()
            await helped.wait()
            seen.append("helped")

    seen: list[str] = []
    feed = feed_of(source())
    async with running(feed):
        await settle()
        feed.stop()
        await asked.wait()
        await settle()
        assert not feed.ended
        helped.set()

    assert seen == ["helped"]


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


async def test_stop_may_be_called_at_any_time_and_twice() -> None:
    """Every moment that the loop knows, from before the first step to after the end."""
    for moment in range(40):
        seen: list[str] = []
        feed = feed_of(sleeping(seen))

        async with running(feed) as writer:
            for _ in range(moment // 2):
                await anyio.lowlevel.checkpoint()
            feed.stop()
            if moment % 2:
                await anyio.lowlevel.checkpoint()
            feed.stop()
        feed.stop()

        assert seen[-1:] in ([], ["cleaned up"])
        assert writer.body in (b"", b"0;")
        assert feed.error is None


async def test_a_stop_while_the_source_cleans_up_by_itself_does_not_disturb_it() -> None:
    """The source has failed to make an event, and is being closed, when the client goes."""
    cleaning = anyio.Event()
    seen: list[str] = []

    async def source() -> AsyncIterator[object]:
        try:
            yield object()
        finally:
            cleaning.set()
            await clean_up(seen)

    feed = feed_of(source())
    async with running(feed):
        await cleaning.wait()
        feed.stop()

    assert seen == ["cleaned up"]
    assert isinstance(feed.error, TypeError)


# Scopes, groups and contexts of the source


@contextlib.asynccontextmanager
async def _blocked_inside(
    scopes: list[anyio.CancelScope], seen: list[str]
) -> AsyncIterator[Writer]:
    async def source() -> AsyncIterator[int]:
        with anyio.CancelScope() as scope:
            scopes.append(scope)
            yield 0
            yield 1
            await anyio.sleep_forever()
        seen.append("moved on" if scope.cancelled_caught else "not cancelled")
        yield 2
        await anyio.lowlevel.checkpoint()
        yield 3

    feed = feed_of(source())
    async with running(feed, blocked=True) as writer:
        await settle()
        yield writer
    assert feed.error is None


async def test_a_cancel_scope_around_a_yield_works_and_costs_no_frame() -> None:
    """It's cancelled from another task while the writer still sends what the source has yielded."""
    scopes: list[anyio.CancelScope] = []
    seen: list[str] = []

    async with _blocked_inside(scopes, seen) as writer:
        scopes[0].cancel()
        await settle()
        writer.unblock()

    assert seen == ["moved on"]
    assert writer.body == b"0;2;3;"


async def test_scopes_around_several_yields_work_while_the_writer_takes_nothing() -> None:
    scopes: list[anyio.CancelScope] = []

    async def source() -> AsyncIterator[int]:
        for number in range(5):
            with anyio.CancelScope() as scope:
                scopes.append(scope)
                yield number

    feed = feed_of(source())
    async with running(feed, blocked=True) as writer:
        for number in range(5):
            while len(scopes) <= number:
                await anyio.lowlevel.checkpoint()
            await settle()
            scopes[number].cancel()
            await settle()
        writer.unblock()

    assert feed.error is None
    assert writer.body == numbered(5)


@contextlib.asynccontextmanager
async def timeout_of_anyio() -> AsyncIterator[None]:
    with anyio.move_on_after(0.001):
        yield


@contextlib.asynccontextmanager
async def timeout_of_asyncio() -> AsyncIterator[None]:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(0.001):
            yield


@pytest.mark.parametrize(
    ("anyio_backend", "limit"),
    [
        on("asyncio", timeout_of_anyio, name="anyio's"),
        on("asyncio", timeout_of_asyncio, name="asyncio's"),
        on("uvloop", timeout_of_asyncio, name="asyncio's"),
        on("trio", timeout_of_anyio, name="anyio's"),
    ],
)
async def test_a_timeout_around_a_yield_works_and_costs_no_frame(limit: Any) -> None:
    async def source() -> AsyncIterator[int]:
        async with limit():
            yield 0
            await anyio.sleep_forever()
        behind.set()
        yield 1

    behind = anyio.Event()
    feed = feed_of(source())
    async with running(feed, blocked=True) as writer:
        await behind.wait()

    assert feed.error is None
    assert writer.body == b"0;1;"


async def test_a_source_may_end_when_its_scope_around_a_yield_is_cancelled() -> None:
    async def source() -> AsyncIterator[int]:
        with anyio.CancelScope() as scope:
            scopes.append(scope)
            yield 0

    scopes: list[anyio.CancelScope] = []
    feed = feed_of(source())
    async with running(feed, blocked=True) as writer:
        await settle()
        scopes[0].cancel()

    assert feed.error is None
    assert writer.body == b"0;"


async def waits_in_scope_after_scope(
    scopes: list[anyio.CancelScope], seen: list[str]
) -> AsyncIterator[int]:
    try:
        while len(scopes) < 2:
            with anyio.CancelScope() as scope:
                scopes.append(scope)
                await anyio.sleep_forever()
                yield 0
        seen.append("began a third")
    finally:
        await clean_up(seen)


async def cleans_up_inside_and_outside(
    scopes: list[anyio.CancelScope], seen: list[str]
) -> AsyncIterator[int]:
    """What is inside may not wait, for its scope is cancelled."""
    try:
        with anyio.CancelScope() as scope:
            scopes.append(scope)
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


@pytest.mark.parametrize("stop_first", [False, True])
@pytest.mark.parametrize(
    ("source", "told"),
    [
        (waits_in_scope_after_scope, ["cleaned up"]),
        (cleans_up_inside_and_outside, ["inside", "outside"]),
    ],
)
async def test_a_stop_is_not_lost_when_a_scope_of_the_source_is_cancelled_with_it(
    source: Any, told: list[str], stop_first: bool
) -> None:
    scopes: list[anyio.CancelScope] = []
    seen: list[str] = []
    feed = feed_of(source(scopes, seen))
    async with running(feed):
        await settle()
        for cancel in (feed.stop, scopes[0].cancel)[:: 1 if stop_first else -1]:
            cancel()

    assert seen == told
    assert feed.error is None


@on_asyncio
@pytest.mark.parametrize("stop_first", [False, True])
async def test_a_stop_is_not_lost_when_a_timeout_of_asyncio_runs_out_with_it(
    stop_first: bool,
) -> None:
    seen: list[str] = []

    async def source() -> AsyncIterator[int]:
        try:
            while True:
                try:
                    async with asyncio.timeout(None) as timeout:
                        timeouts.append(timeout)
                        await asyncio.get_running_loop().create_future()
                        yield 0
                except TimeoutError:
                    pass
        finally:
            await clean_up(seen)

    timeouts: list[asyncio.Timeout] = []
    feed = feed_of(source())
    async with running(feed):
        await settle()
        loop = asyncio.get_running_loop()
        timeouts[0].reschedule(loop.time() - 1)
        loop.call_soon(feed.stop)
        if stop_first:
            feed.stop()

    assert seen == ["cleaned up"]
    assert len(timeouts) <= 2


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
async def test_a_task_that_somebody_cancels_by_hand_ends_its_feed() -> None:
    feed = feed_of(Counting())
    feeding: list[asyncio.Task[None]] = []

    with anyio.fail_after(SEAT_BELT):
        feeding.append(asyncio.create_task(feed.run()))
        await settle()
        feeding[0].cancel()
        await asyncio.wait(feeding)

    assert feed.ended
    assert feed.take() == b"0;"
    assert "cancelled from within" in str(feed.error)


@on_asyncio
async def test_a_task_that_somebody_cancels_by_hand_and_that_is_stopped_still_cleans_up() -> None:
    for moment in range(6):
        for stop_first in (False, True):
            seen: list[str] = []
            feed = feed_of(sleeping(seen))
            wanted: list[Callable[[], object]] = []

            with anyio.fail_after(SEAT_BELT):
                task = asyncio.create_task(feed.run())
                for _ in range(moment):
                    await anyio.lowlevel.checkpoint()
                wanted = [feed.stop, task.cancel]
                for do in wanted if stop_first else reversed(wanted):
                    do()
                await asyncio.wait([task])

            assert feed.ended or moment == 0
            assert seen[-1:] in ([], ["cleaned up"])


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

    async def source() -> AsyncIterator[object]:
        try:
            yield object()
        finally:
            raise Interrupt

    feed = feed_of(source())
    with pytest.raises(Interrupt):
        await feed.run()

    assert feed.ended


# Whatever can be closed is closed


@pytest.mark.parametrize("ending", ["end", "error", "waiting", "yielding", "not started"])
async def test_a_memory_stream_is_closed_in_every_ending(ending: str) -> None:
    sender, receiver = anyio.create_memory_object_stream[object](10)
    sender.send_nowait(0)
    feed = feed_of(receiver)
    if ending == "not started":
        feed.stop()

    async with running(feed, blocked=ending == "yielding") as writer:
        await settle()
        if ending == "end":
            sender.close()
        elif ending == "error":
            sender.send_nowait(object())
        else:
            feed.stop()

    assert writer.body == (b"" if ending == "not started" else b"0;")
    with pytest.raises(anyio.ClosedResourceError if ending == "end" else anyio.BrokenResourceError):
        sender.send_nowait(1)
    with pytest.raises(anyio.ClosedResourceError):
        receiver.receive_nowait()
    sender.close()


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
        ([ItsOwnIterator, Aclose], ["aclose"]),
        ([ItsOwnIterator, Close], ["close"]),
        ([ItsOwnIterator, AsyncClose], ["close"]),
        ([Sync], ["iterator"]),
        ([Sync, Close], ["iterator", "close"]),
        ([Sync, AsyncClose], ["iterator", "close"]),
        ([Sync, FailingClose], ["iterator", "close"]),
        ([File, Close], ["close"]),
    ],
    ids=lambda each: " ".join(getattr(one, "__name__", str(one)) for one in each),
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
        while begun and not writer.taken:
            await anyio.lowlevel.checkpoint()
        await settle()
        feed.stop()

    assert writer.body == (b"0;" if begun else b"")
    assert source.closed == (closed if begun else [each for each in closed if each != "iterator"])
    assert not (is_sync and threading.get_ident() in source.threads)
    assert feed.error is None
    check_logged(log, [CLEANUP_ERROR] if FailingClose in kinds else [])


async def test_an_iterable_that_cannot_be_closed_is_let_go() -> None:
    class Endless:
        def __aiter__(self) -> Endless:
            return self

        async def __anext__(self) -> int:
            await anyio.lowlevel.checkpoint()
            return 0

    feed = feed_of(Endless())
    async with running(feed) as writer:
        while writer.sent < 3:
            await anyio.lowlevel.checkpoint()
        feed.stop()

    assert feed.error is None


@pytest.mark.parametrize("ending", ["end", "error", "waiting", "yielding", "not started"])
async def test_nothing_of_a_source_is_kept_once_it_has_ended(ending: str) -> None:
    async def events() -> AsyncGenerator[object, None]:
        yield 0
        if ending == "error":
            yield object()
        if ending != "end":
            await anyio.sleep_forever()

    source = events()
    gone = weakref.ref(source)
    feed = feed_of(source)
    if ending == "not started":
        feed.stop()
    async with running(feed, blocked=ending == "yielding") as writer:
        await settle()
        if ending in ("waiting", "yielding"):
            feed.stop()

    del source, feed, writer
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


async def test_the_steps_of_a_sync_iterable_keep_off_the_loop() -> None:
    source = Blocking()
    source.release.set()
    feed = feed_of(source.events())

    writer = await sent_by(feed)

    assert writer.body == b"0;1;2;3;"
    assert feed.error is None
    assert source.threads
    assert threading.get_ident() not in source.threads


@pytest.mark.parametrize("kind", [list, tuple])
async def test_what_is_in_memory_already_needs_no_thread(kind: Callable[..., object]) -> None:
    def no_thread(self: object) -> None:
        raise AssertionError("a thread was started")

    feed = feed_of(kind(range(100)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(threading.Thread, "start", no_thread)
        writer = await sent_by(feed)

    assert writer.body == numbered(100)


async def test_an_error_in_a_sync_step_is_the_error_of_the_feed() -> None:
    def events() -> Iterator[int]:
        yield 0
        raise LOST

    feed = feed_of(events())
    writer = await sent_by(feed)

    assert (writer.body, feed.error) == (b"0;", LOST)


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


async def test_a_blocked_sync_step_is_left_behind_and_its_worker_closes_the_iterator(
    log: pytest.LogCaptureFixture,
) -> None:
    source = Blocking()
    feed = feed_of(source.events(), cleanup_timeout=0)

    async with running(feed):
        await source.entered.wait()
        feed.stop()

    assert not source.closed.is_set()
    assert logged(log) == [CLEANUP_CUT]
    source.release.set()
    with anyio.fail_after(SEAT_BELT):
        await source.closed.wait()
    assert threading.get_ident() not in source.threads


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


@pytest.mark.parametrize("stopped", [False, True])
async def test_a_context_variable_set_in_a_sync_step_can_be_reset_in_another(
    stopped: bool, log: pytest.LogCaptureFixture
) -> None:
    variable = contextvars.ContextVar("variable", default="outside")
    seen: list[str] = []

    def events() -> Iterator[int]:
        token = variable.set("inside")
        try:
            yield 0
            seen.append(variable.get())
            yield 1
            writer.blocked = stopped
            yield 2
        finally:
            variable.reset(token)
            seen.append(variable.get())

    feed = feed_of(events(), joins=False)
    async with running(feed) as writer:
        while len(writer.taken) < 3:
            await anyio.lowlevel.checkpoint()
        if stopped:
            feed.stop()

    assert seen == ["inside", "outside"]
    assert variable.get() == "outside"
    assert logged(log) == []


async def test_a_worker_that_comes_back_when_the_loop_is_gone_still_closes_its_iterator() -> None:
    closed = threading.Event()
    entered = threading.Event()
    release = threading.Event()

    def events() -> Generator[int, None, None]:
        try:
            entered.set()
            release.wait(SEAT_BELT)
            yield 0
        finally:
            closed.set()

    async def main() -> None:
        feed = feed_of(events(), cleanup_timeout=0)
        async with running(feed):
            while not entered.is_set():
                await anyio.lowlevel.checkpoint()
            feed.stop()

    def in_a_loop_of_its_own() -> None:
        anyio.run(main, backend=backend)

    import sniffio

    backend = sniffio.current_async_library()
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

    async def begin() -> Coroutine[Any, Any, None]:
        feeding = feed_of(source).run()
        feeding.send(None)
        return feeding

    source = Endless()
    loop = asyncio.new_event_loop()
    feeding = loop.run_until_complete(begin())
    loop.close()

    feeding.close()

    assert not source.closed
    assert logged(log) == []


# Wrong content


async def a_coroutine() -> None:
    """What an `async def` without `yield` makes."""


async def _async_events() -> AsyncIterator[int]:
    yield 0


def wrong_contents() -> list[Any]:
    return [
        pytest.param("text", "put it into a list", id="str"),
        pytest.param(b"bytes", "put it into a list", id="bytes"),
        pytest.param(bytearray(b"bytes"), "put it into a list", id="bytearray"),
        pytest.param({"data": "x"}, "put it into a list", id="dict"),
        pytest.param(
            a_coroutine,
            "got coroutine: await it, EventSourceResponse(await a_coroutine(...))",
            id="coroutine",
        ),
        pytest.param(_async_events, "got function: call the generator function", id="function"),
        pytest.param(0, "got int", id="int"),
    ]


@pytest.mark.parametrize(("content", "advice"), wrong_contents())
async def test_wrong_content_is_an_error_that_says_what_to_do(content: Any, advice: str) -> None:
    if content is a_coroutine:
        content = a_coroutine()
    feed = feed_of(content)

    writer = await sent_by(feed)

    assert writer.taken == []
    assert isinstance(feed.error, TypeError)
    assert "needs an async or sync iterable" in str(feed.error)
    assert f"got {type(content).__name__}" in str(feed.error)
    assert advice in str(feed.error)


@pytest.mark.parametrize("content", [a_coroutine, _async_events, "text", 0])
async def test_wrong_content_that_is_stopped_before_it_ran_is_nobodys_business(
    content: Any, log: pytest.LogCaptureFixture
) -> None:
    feed = feed_of(a_coroutine() if content is a_coroutine else content)

    feed.stop()
    await sent_by(feed)

    assert feed.error is None
    assert logged(log) == []


# Bytes that somebody else has framed


async def test_event_behind_bytes_that_are_not_finished_begins_on_its_own(
    log: pytest.LogCaptureFixture,
) -> None:
    async def events() -> AsyncIterator[object]:
        yield b"data: half"
        yield b" of it"
        yield 1
        yield bytearray(b"data: more")
        yield 2
        yield 3

    writer = await sent_by(feed_of(events()))

    assert writer.body == b"data: half of it\n\n1;data: more\n\n2;3;"
    assert [record.levelname for record in log.records] == ["WARNING"]
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
    assert logged(log) == []


async def test_bytes_that_never_end_are_told_once_and_left_as_they_are(
    log: pytest.LogCaptureFixture,
) -> None:
    async def events() -> AsyncIterator[object]:
        yield b"raw"
        yield b"raw"

    feed = feed_of(events())
    writer = await sent_by(feed)

    assert writer.body == b"rawraw"
    assert feed.finish_event() == b"\n\n"
    assert not feed.unfinished
    assert [record.levelname for record in log.records] == ["WARNING"]
