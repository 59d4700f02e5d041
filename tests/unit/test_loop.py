"""What is true of every event loop: time, wake-ups, timers, tasks, cuts, runner and wake_ups."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import anyio.abc
import anyio.lowlevel
import anyio.to_thread
import pytest
import trio
import trio.lowlevel
from anyio import wait_all_tasks_blocked
from tests.unit.driving import SEAT_BELT_SECONDS, Watched, until
from tests.unit.sources import settle

from sse_starlette._runtime.loop import (
    Loop,
    TaskGroup,
    TaskStarter,
    Waker,
    current_loop,
    loop_override,
)

pytestmark = pytest.mark.anyio

PAST = -1_000.0
FAR_AWAY = 1_000.0


@asynccontextmanager
async def in_time() -> AsyncIterator[anyio.abc.TaskGroup]:
    with anyio.fail_after(SEAT_BELT_SECONDS):
        async with anyio.create_task_group() as tasks:
            yield tasks


@asynccontextmanager
async def own_tasks() -> AsyncIterator[TaskGroup]:
    with anyio.fail_after(SEAT_BELT_SECONDS):
        async with current_loop().task_group() as tasks:
            yield tasks


async def test_the_clock_is_that_of_the_loop() -> None:
    before = anyio.current_time()
    now = current_loop().time()
    after = anyio.current_time()

    assert before <= now <= after


# Wake-ups


class Sleeper:
    """A task that waits for a wake-up, again and again, and counts how often it has been woken."""

    def __init__(self, waker: Waker) -> None:
        self.woken = 0
        self.waker = waker

    async def run(self) -> None:
        while True:
            await self.waker
            self.woken += 1


@asynccontextmanager
async def sleeping(waker: Waker | None = None) -> AsyncIterator[Sleeper]:
    sleeper = Sleeper(waker or current_loop().waker())
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(sleeper.run)
        await wait_all_tasks_blocked()
        yield sleeper
        await wait_all_tasks_blocked()
        tasks.cancel_scope.cancel()


async def test_a_task_that_is_woken_has_run_by_the_next_time_that_everybody_waits() -> None:
    async with sleeping() as sleeper:
        for turn in range(3):
            assert sleeper.woken == turn
            sleeper.waker.set()
            await settle()

    assert sleeper.woken == 3


async def test_a_task_that_is_woken_twice_before_it_runs_wakes_once() -> None:
    async with sleeping() as sleeper:
        sleeper.waker.set()
        sleeper.waker.set()

    assert sleeper.woken == 1


async def test_a_wake_up_that_nobody_waits_for_is_lost() -> None:
    waker = current_loop().waker()
    waker.set()

    async with sleeping(waker) as sleeper:
        pass

    assert sleeper.woken == 0


async def test_a_wait_that_was_cancelled_leaves_the_wake_up_as_good_as_new() -> None:
    async with sleeping() as given_up:
        pass
    given_up.waker.set()

    async with sleeping(given_up.waker) as sleeper:
        assert sleeper.woken == 0
        sleeper.waker.set()

    assert sleeper.woken == 1


async def test_what_cannot_be_done_in_the_name_of_a_task_that_stands_by_is_left_to_it() -> None:
    eager_runner = current_loop().eager_runner()
    done: list[str] = []

    async def work() -> None:
        done.append("work")

    async with sleeping(eager_runner) as sleeper:
        acted = eager_runner.run_eagerly(current_loop().current_task(), lambda _: work(), None)
        eager_runner.set()
        await settle()

    assert done == (["work"] if acted else [])
    assert sleeper.woken == 1


async def test_a_task_may_wait_until_it_is_cancelled_by_a_deadline() -> None:
    with anyio.move_on_after(0) as scope:
        await current_loop().waker()

    assert scope.cancelled_caught


# Timers


class Alarm:
    """A timer that notes when it fires; it's set again as often as it's to fire."""

    def __init__(self, tasks: TaskStarter, times: int = 1) -> None:
        self.fired: list[float] = []
        self._loop = current_loop()
        self._times = times
        self._timer = self._loop.timer(self._fire, tasks)
        self.stop = self._timer.stop

    def set(self, seconds: float) -> float:
        when = self._loop.time() + seconds
        self._timer.set(when)
        return when

    def _fire(self) -> None:
        self.fired.append(self._loop.time())
        if len(self.fired) < self._times:
            self.set(PAST)


async def test_an_alarm_rings_once_at_its_time() -> None:
    async with in_time() as tasks:
        alarm = Alarm(tasks)
        when = alarm.set(0.001)
        await until(lambda: alarm.fired)
        await wait_all_tasks_blocked()

    (fired,) = alarm.fired
    # asyncio fires up to one tick of its clock early.
    assert fired >= when - 0.001


async def test_an_alarm_for_a_time_that_is_over_rings_at_once_but_not_within_set() -> None:
    async with in_time() as tasks:
        alarm = Alarm(tasks)
        alarm.set(PAST)
        assert alarm.fired == []
        await until(lambda: alarm.fired)


async def test_setting_an_alarm_again_moves_it() -> None:
    async with in_time() as tasks:
        moved, other = Alarm(tasks), Alarm(tasks)
        moved.set(PAST)
        moved.set(FAR_AWAY)
        other.set(PAST)
        await until(lambda: other.fired)
        await wait_all_tasks_blocked()
        assert moved.fired == []
        moved.set(PAST)
        await until(lambda: moved.fired)
        moved.stop()

    assert len(moved.fired) == 1


async def test_an_alarm_may_be_set_by_its_own_ring() -> None:
    async with in_time() as tasks:
        alarm = Alarm(tasks, times=3)
        alarm.set(PAST)
        await until(lambda: len(alarm.fired) == 3)


async def test_a_stopped_alarm_rings_no_more_and_holds_nothing_up() -> None:
    async with in_time() as tasks:
        alarm = Alarm(tasks)
        alarm.stop()
        alarm.set(FAR_AWAY)
        await wait_all_tasks_blocked()
        alarm.stop()
        alarm.stop()
        alarm.set(PAST)
        alarm.stop()

    assert alarm.fired == []


async def test_an_alarm_set_for_never_does_not_ring() -> None:
    async with in_time() as tasks:
        alarm = Alarm(tasks)
        alarm.set(PAST)
        alarm.set(math.inf)
        await wait_all_tasks_blocked()
        alarm.stop()

    assert alarm.fired == []


# Tasks, and stretches that may be cut off


async def test_tasks_are_over_when_their_block_is() -> None:
    seen: list[str] = []
    waker = current_loop().waker()

    async def slow() -> None:
        await waker
        seen.append("slow")

    async def quick() -> None:
        await anyio.lowlevel.checkpoint()
        seen.append("quick")
        waker.set()

    async with own_tasks() as tasks:
        tasks.start_soon(slow)
        await settle()
        tasks.start_soon(quick)
        assert seen == []
    assert seen == ["quick", "slow"]


async def test_tasks_that_are_cancelled_clean_up_before_their_block_is_over() -> None:
    seen: list[str] = []

    async def sleeps() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            with anyio.CancelScope(shield=True):
                await settle()
            seen.append("cleaned up")

    async with own_tasks() as tasks:
        tasks.start_soon(sleeps)
        await settle()
        tasks.cancel()

    assert seen == ["cleaned up"]


async def test_who_is_cut_off_goes_on_behind_the_stretch() -> None:
    cut = current_loop().cancel_scope()
    seen: list[str] = []

    async def cut_off() -> None:
        with cut:
            await anyio.sleep_forever()
            seen.append("inside")
        await anyio.lowlevel.checkpoint()
        seen.append("behind")

    async with in_time() as tasks:
        tasks.start_soon(cut_off)
        await settle()
        cut.cancel()
        cut.cancel()
    cut.cancel()
    await anyio.lowlevel.checkpoint()

    assert seen == ["behind"]


async def test_a_stretch_that_nobody_cuts_off_is_none() -> None:
    with current_loop().cancel_scope():
        await anyio.lowlevel.checkpoint()


@pytest.mark.parametrize("cut_first", [False, True])
async def test_a_cancelled_scope_around_a_cut_is_not_forgotten(cut_first: bool) -> None:
    scope = anyio.CancelScope()
    cut = current_loop().cancel_scope()
    seen: list[str] = []

    async def cut_off() -> None:
        with scope:
            with cut:
                await anyio.sleep_forever()
            # Where the cut came first, the scope cancels again.
            await anyio.lowlevel.checkpoint()
            seen.append("behind")
        seen.append("outside")

    async with in_time() as tasks:
        tasks.start_soon(cut_off)
        await settle()
        for cancel in (cut.cancel, scope.cancel)[:: 1 if cut_first else -1]:
            cancel()

    assert seen == ["outside"]
    assert scope.cancelled_caught


# Sources


class Source:
    """A source of four waits in runner, and what befalls it; its first `cleanup` begins at the wait so numbered."""

    def __init__(self, cleanup_seconds: float | None, *, cleans_up_at: int | None = None) -> None:
        self.source_runner = current_loop().source_runner(cleanup_seconds)
        self.watched = Watched()
        self.waker = current_loop().waker()
        self.seen: list[str] = []
        self._cleans_up_at = cleans_up_at

    async def run(self) -> None:
        await self.source_runner.run(self._wait, self.watched)
        # What comes too late would hit here.
        await settle()

    async def _wait(self) -> None:
        for number in range(4):
            if number == self._cleans_up_at:
                self.source_runner.clean_up()
            try:
                await self.waker
                self.seen.append("woken")
            except anyio.get_cancelled_exc_class():
                self.seen.append("cut" if self.source_runner.cut_short else "cancelled")

    async def is_cancelled_and_then_woken(self, wakes: int) -> list[str]:
        async with own_tasks() as tasks:
            tasks.start_soon(self.run)
            await settle()
            self.source_runner.cancel()
            self.source_runner.cancel()
            for _ in range(wakes):
                await settle()
                self.waker.set()
        return self.seen


@pytest.mark.parametrize(
    ("cleanup_seconds", "cleans_up_at", "wakes", "seen"),
    [
        pytest.param(None, None, 3, ["cancelled", *["woken"] * 3], id="once and then left alone"),
        pytest.param(SEAT_BELT_SECONDS, 0, 4, ["woken"] * 4, id="not when it cleans up"),
        pytest.param(0, None, 0, ["cancelled", *["cut"] * 3], id="its cleanup takes too long"),
        pytest.param(0, 0, 0, ["cut"] * 4, id="its cleanup took too long before"),
    ],
)
async def test_a_source_in_reins_is_cancelled(
    cleanup_seconds: float | None, cleans_up_at: int | None, wakes: int, seen: list[str]
) -> None:
    """A cleanup that takes too long is cut wherever it waits."""
    source = Source(cleanup_seconds, cleans_up_at=cleans_up_at)

    assert await source.is_cancelled_and_then_woken(wakes) == seen
    assert source.source_runner.cut_short is ("cut" in seen)


async def test_reins_tell_of_every_wait_and_since_when_the_source_runs() -> None:
    source = Source(None)
    before = source.watched.time()

    async with own_tasks() as tasks:
        tasks.start_soon(source.run)
        for number in range(4):
            await until(lambda number=number: source.watched.waits > number)  # type: ignore[misc]
            await settle()
            source.waker.set()

    assert source.watched.waits == 4
    assert before <= source.watched.runs_since <= source.watched.time()


async def test_an_observer_that_notes_no_waits_is_told_of_steps_alone() -> None:
    watched = Watched(notes_waits=False)
    steps: list[bool] = []

    async def source() -> None:
        for _ in range(3):
            steps.append(watched.just_woke)
            watched.just_woke = False
            await anyio.lowlevel.checkpoint()

    await current_loop().source_runner(None).run(source, watched)

    assert steps == [True] * 3
    assert watched.waits == 0


async def test_what_a_source_in_reins_raises_is_raised() -> None:
    async def fails() -> None:
        await anyio.lowlevel.checkpoint()
        raise KeyError

    with pytest.raises(KeyError):
        await current_loop().source_runner(None).run(fails, Watched())


# What is called soon, later, and from other threads


async def test_what_is_called_soon_is_called_after_what_is_ready_to_run() -> None:
    loop = current_loop()
    seen: list[str] = []
    done = anyio.Event()

    async def ready() -> None:
        seen.append("ready")

    async with in_time() as tasks:
        tasks.start_soon(ready)
        loop.call_soon(lambda: seen.append("soon"))
        loop.call_soon(done.set)
        assert seen == []
        await done.wait()

    assert sorted(seen) == ["ready", "soon"]


async def test_what_is_called_later_is_called_once_but_not_at_once() -> None:
    loop = current_loop()
    seen: list[str] = []
    done = anyio.Event()

    loop.call_later(0.0001, lambda: seen.append("later"))
    loop.call_later(0.001, done.set)
    assert seen == []
    with anyio.fail_after(SEAT_BELT_SECONDS):
        await done.wait()
        await wait_all_tasks_blocked()

    assert seen == ["later"]


async def test_a_loop_is_current_in_no_other_thread() -> None:
    assert not await anyio.to_thread.run_sync(current_loop().is_current)


async def test_a_loop_has_one_key_for_all_its_tasks() -> None:
    keys: list[object] = []

    async def note() -> None:
        keys.append(current_loop().key)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(note)
        tasks.start_soon(note)
    await anyio.to_thread.run_sync(anyio.run, note)

    assert keys[0] is keys[1] is not keys[2]


async def test_another_loop_can_stand_in_for_one_context() -> None:
    other = type(current_loop())()

    token = loop_override.set(other)
    try:
        assert current_loop() is other
    finally:
        loop_override.reset(token)
    assert current_loop() is not other


@pytest.mark.parametrize("from_another_thread", [True, False])
async def test_a_knock_is_heard_on_the_loop_and_answered_later(from_another_thread: bool) -> None:
    loop = current_loop()
    heard = anyio.Event()

    with anyio.fail_after(SEAT_BELT_SECONDS):
        if from_another_thread:
            await anyio.to_thread.run_sync(loop.call_soon_threadsafe, heard.set)
        else:
            loop.call_soon_threadsafe(heard.set)
            assert not heard.is_set()
        await heard.wait()


@pytest.mark.parametrize("anyio_backend", ["asyncio", "trio"])
def test_a_knock_on_a_loop_that_is_gone_is_a_runtime_error(anyio_backend: str) -> None:
    async def main() -> Loop:
        return current_loop()

    loop = anyio.run(main, backend=anyio_backend)

    with pytest.raises(RuntimeError):
        loop.call_soon_threadsafe(lambda: None)


def test_a_trio_program_that_is_a_guest_of_asyncio_gets_trio() -> None:
    async def guest() -> float:
        loop = current_loop()
        heard = trio.Event()
        loop.call_soon_threadsafe(heard.set)
        await heard.wait()
        return loop.time() - trio.current_time()

    async def host() -> Any:
        loop = asyncio.get_running_loop()
        outcome = loop.create_future()
        trio.lowlevel.start_guest_run(
            guest,
            run_sync_soon_threadsafe=loop.call_soon_threadsafe,
            done_callback=outcome.set_result,
        )
        async with asyncio.timeout(SEAT_BELT_SECONDS):
            return (await outcome).unwrap()

    assert -1 < asyncio.run(host()) <= 0


def test_outside_of_any_loop_there_is_none() -> None:
    with pytest.raises(RuntimeError):
        current_loop()


# What is told of a coroutine's first wait


async def test_first_wait_of_a_coroutine_is_noted_once_and_it_goes_on() -> None:
    loop = current_loop()
    order: list[str] = []

    async def waits() -> None:
        order.append("begun")
        await anyio.lowlevel.checkpoint()
        order.append("goes on")
        await anyio.lowlevel.checkpoint()
        order.append("ended")

    await loop.run_noting_first_wait(waits(), lambda: order.append("noted"))

    assert order == ["begun", "noted", "goes on", "ended"]


async def test_coroutine_that_never_waits_is_noted_when_it_has_ended() -> None:
    loop = current_loop()
    order: list[str] = []

    async def returns() -> None:
        order.append("ended")

    async def raises() -> None:
        raise KeyError("lost")

    await loop.run_noting_first_wait(returns(), lambda: order.append("noted"))
    with pytest.raises(KeyError, match="lost"):
        await loop.run_noting_first_wait(raises(), lambda: order.append("noted"))

    assert order == ["ended", "noted", "noted"]


@pytest.mark.parametrize("waits_before", [0, 1])
async def test_cancellation_reaches_a_coroutine_at_its_first_wait_and_later(
    waits_before: int,
) -> None:
    loop = current_loop()
    seen: list[str] = []

    async def waits() -> None:
        for _ in range(waits_before):
            await anyio.lowlevel.checkpoint()
        with anyio.CancelScope() as scope:
            scope.cancel()
            try:
                await anyio.sleep_forever()
            finally:
                seen.append("inside")
        try:
            await anyio.sleep_forever()
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.lowlevel.checkpoint()
            seen.append("cancelled")

    async def run() -> None:
        await loop.run_noting_first_wait(waits(), lambda: seen.append("noted"))

    async with in_time() as tasks:
        tasks.start_soon(run)
        await until(lambda: "inside" in seen)
        await settle()
        tasks.cancel_scope.cancel()

    assert seen == ["noted", "inside", "cancelled"]


async def test_coroutine_that_swallows_what_is_thrown_at_its_first_wait_ends() -> None:
    loop = current_loop()

    async def waits() -> None:
        try:
            await anyio.lowlevel.checkpoint()
        except KeyError:
            return

    run: Any = loop.run_noting_first_wait(waits(), lambda: None)
    next(run)
    with pytest.raises(StopIteration):
        run.throw(KeyError())


async def test_coroutine_that_is_thrown_away_at_its_first_wait_is_closed() -> None:
    loop = current_loop()
    seen: list[str] = []

    async def waits() -> None:
        try:
            await anyio.sleep_forever()
        except GeneratorExit:
            seen.append("thrown away")
            raise

    run: Any = loop.run_noting_first_wait(waits(), lambda: None)
    next(run)
    run.close()

    assert seen == ["thrown away"]


async def test_the_stopwatch_goes_on_within_a_turn() -> None:
    """The time of uvloop stands still in between, and who never waits would not be told from who has just woken."""
    stopwatch = current_loop().stopwatch
    began = stopwatch()

    assert any(stopwatch() > began for _ in range(1_000_000))
