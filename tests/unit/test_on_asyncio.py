"""What is asyncio's own: wake-ups, what is done in the name of a waiting task, plain tasks and their cancellations."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import importlib
import math
import time
import weakref
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import ExitStack, asynccontextmanager, closing
from functools import partial
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from tests.unit.driving import SEAT_BELT_SECONDS, Watched, on, until
from tests.unit.sources import settle

from sse_starlette._runtime.loop import (
    CancelScope,
    EagerRunner,
    Loop,
    Waker,
    current_loop,
)
from sse_starlette._runtime.on_asyncio.timers import _WHEELS, AsyncioTimer

pytestmark = pytest.mark.anyio


@pytest.fixture(params=[on("asyncio"), on("uvloop")])
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    return request.param


def python_task(
    loop: asyncio.AbstractEventLoop, coro: Coroutine[Any, Any, Any], **more: Any
) -> asyncio.Task[Any]:
    task: asyncio.Task[Any] = asyncio.tasks._PyTask(coro, loop=loop, **more)  # type: ignore[attr-defined]
    return task


def asyncio_knows_tasks_in_python() -> bool:
    async def main() -> bool:
        return asyncio.current_task() is not None

    with closing(asyncio.new_event_loop()) as loop:
        return bool(loop.run_until_complete(python_task(loop, main())))


without_tasks_in_python = pytest.mark.skipif(
    not asyncio_knows_tasks_in_python(), reason="this asyncio knows tasks made in C only"
)


CreateTask = Callable[..., asyncio.Task[Any]]


@pytest.fixture(params=["c", pytest.param("python", marks=without_tasks_in_python)])
def create_task(request: pytest.FixtureRequest) -> Iterator[CreateTask]:
    """Start tasks in C and in Python, as a task factory may make them: all that a task does is the same."""

    def create(coro: Coroutine[Any, Any, Any], **more: Any) -> asyncio.Task[Any]:
        loop = asyncio.get_running_loop()
        create = loop.create_task if request.param == "c" else partial(python_task, loop)
        created.append(create(coro, **more))
        return created[-1]

    created: list[asyncio.Task[Any]] = []
    yield create
    for task in created:
        task.cancel()  # Where a test has failed: those that are over aren't hit.


def a_waker() -> Waker:
    return current_loop().waker()


def a_scope() -> CancelScope:
    return current_loop().cancel_scope()


async def begun(task: asyncio.Task[Any]) -> asyncio.Task[Any]:
    """Give back `task` when it waits."""
    await settle()
    return task


async def over(task: asyncio.Task[Any]) -> asyncio.Task[Any]:
    """Wait for the end of `task`, however it ends."""
    done, _ = await asyncio.wait([task], timeout=SEAT_BELT_SECONDS)
    assert done
    return task


def this_task() -> asyncio.Task[Any]:
    task = asyncio.current_task()
    assert task is not None
    return task


def run_at_once(waker: Any) -> None:
    """Run the task that waits now, before anything that the loop has been asked for."""
    caller = asyncio.current_task()
    resume, waker._resume = waker._resume, None
    if caller is not None:
        asyncio.tasks._leave_task(asyncio.get_running_loop(), caller)
    waker._context.run(resume, waker)
    if caller is not None:
        asyncio.tasks._enter_task(asyncio.get_running_loop(), caller)


async def wait_and(waker: Waker, work: Callable[[], object] = lambda: None) -> None:
    await waker
    work()


# What is done in the name of a task that waits


def act_for(runner: EagerRunner, work: Callable[[], Coroutine[Any, Any, None]]) -> bool:
    """Do the work of the task that waits there, in its name."""
    loop: asyncio.AbstractEventLoop = runner._loop  # type: ignore[attr-defined]
    return runner.run_eagerly(asyncio.current_task(loop), lambda _: work(), None)


class Standing:
    """A task that stands by, and what has been done by it or in its name."""

    def __init__(self, create_task: CreateTask | None = None, **more: Any) -> None:
        self.eager_runner = current_loop().eager_runner()
        self.seen: list[object] = []
        self.task: asyncio.Task[Any] = (create_task or asyncio.create_task)(self._wait(), **more)

    async def _wait(self) -> None:
        while True:
            try:
                await self.eager_runner
            except (KeyError, RuntimeError) as exc:
                self.seen.append(exc)
            else:
                self.seen.append("woken")

    def note(self, what: object) -> None:
        self.seen.append((what, asyncio.current_task()))

    async def work(self) -> None:
        self.note("work")

    async def work_that_waits(self) -> None:
        self.note("begun")
        try:
            await asyncio.sleep(0)
        finally:
            self.note("over")

    def run_eagerly(self, run: Callable[[], Coroutine[Any, Any, None]] | None = None) -> bool:
        """Act for it as whoever has something for it does."""
        done = act_for(self.eager_runner, run or self.work)
        if not done:
            self.eager_runner.set()
        return done

    async def end(self) -> None:
        self.task.cancel()
        await over(self.task)


@asynccontextmanager
async def standing(create_task: CreateTask | None = None, **more: Any) -> AsyncIterator[Standing]:
    """Have a task that stands by by now, and end it."""
    one = Standing(create_task, **more)
    await settle()
    yield one
    await one.end()


async def test_it_is_done_when_the_call_returns_and_the_task_goes_on_waiting(
    create_task: CreateTask,
) -> None:
    async with standing(create_task) as one:
        asyncio.get_running_loop().call_soon(one.seen.append, "nobody runs in between")
        assert one.run_eagerly()
        assert one.run_eagerly()
        assert one.seen == [("work", one.task), ("work", one.task)]
        await settle()
        assert one.seen[2:] == ["nobody runs in between"]
        one.eager_runner.set()
        await settle()

    assert one.seen[3:] == ["woken"]


async def test_what_waits_is_gone_on_with_by_the_task_within_its_wait(
    create_task: CreateTask,
) -> None:
    async with standing(create_task) as one:
        assert not one.run_eagerly(one.work_that_waits)
        assert one.seen == [("begun", one.task)]
        await settle()
        assert one.seen[1:] == [("over", one.task), "woken"]
        assert one.run_eagerly()


async def test_what_fails_is_raised_within_the_wait_of_the_task(create_task: CreateTask) -> None:
    mistakes = [KeyError("at once"), KeyError("later"), RuntimeError("no shared context")]

    async def fails(mistake: Exception) -> None:
        if mistake is mistakes[1]:
            await asyncio.sleep(0)
        raise mistake

    async with standing(create_task) as one:
        for mistake in mistakes:
            assert not one.run_eagerly(partial(fails, mistake))
            await settle()

        assert one.seen == mistakes
        assert one.run_eagerly()


async def cancels_the_task() -> None:
    this_task().cancel()


async def cancels_the_task_and_waits() -> None:
    await cancels_the_task()
    await asyncio.get_running_loop().create_future()


async def raises_a_cancellation() -> None:
    raise asyncio.CancelledError


async def exits() -> None:
    raise asyncio.InvalidStateError


async def returns() -> None:
    pass


async def waits() -> None:
    await asyncio.sleep(0)


async def has_time_limits() -> None:
    async with asyncio.timeout(SEAT_BELT_SECONDS):
        with anyio.fail_after(SEAT_BELT_SECONDS):
            await returns()


@pytest.mark.parametrize(
    "behave",
    [
        returns,
        waits,
        has_time_limits,
        exits,
        cancels_the_task,
        cancels_the_task_and_waits,
        raises_a_cancellation,
    ],
)
async def test_whatever_it_does_the_caller_is_the_current_task_again(
    behave: Callable[[], Coroutine[Any, Any, None]], create_task: CreateTask
) -> None:
    seen: list[asyncio.Task[Any] | None] = []

    async def calls() -> None:
        one.run_eagerly(behave)
        seen.append(asyncio.current_task())
        await settle()
        seen.append(asyncio.current_task())

    async with standing(create_task) as one:
        caller = await over(create_task(calls()))

    assert seen == [caller, caller]
    assert caller.exception() is None
    # It counts as seen.
    assert one.task.cancelled() or one.task.exception()


@pytest.mark.parametrize("overtakes", [False, True])
@pytest.mark.parametrize("swallows", [False, True])
async def test_a_cancellation_of_the_task_is_thrown_into_what_was_begun(
    swallows: bool, overtakes: bool, create_task: CreateTask
) -> None:
    async def work() -> None:
        if overtakes:
            one.task.cancel("enough")
        try:
            await asyncio.get_running_loop().create_future()
        except asyncio.CancelledError as exc:
            one.note(exc.args)
            if not swallows:
                raise
            await asyncio.sleep(0)
            one.note("goes on")

    async with standing(create_task) as one:
        assert not one.run_eagerly(work)
        if not overtakes:
            await settle()
            one.task.cancel("enough")
        await settle()

        went_on = [("goes on", one.task), "woken"] if swallows else []
        assert one.seen == [(("enough",), one.task), *went_on]
        assert one.task.done() != swallows


async def test_a_callback_without_a_task_may_act() -> None:
    seen: list[object] = []

    def callback() -> None:
        seen.append(one.run_eagerly())
        seen.append(asyncio.current_task())

    async with standing() as one:
        asyncio.get_running_loop().call_soon(callback)
        await until(lambda: len(seen) == 2)

    assert one.seen == [("work", one.task)]
    assert seen == [True, None]


async def test_it_is_done_in_the_context_of_the_task_and_the_caller_keeps_its_own(
    create_task: CreateTask,
) -> None:
    variable = contextvars.ContextVar("variable", default="nobody's")
    seen: list[str] = []

    async def work() -> None:
        seen.append(variable.get())
        variable.set("changed")

    variable.set("of the task")
    async with standing(create_task) as one:
        variable.set("of the caller")
        one.run_eagerly(work)
        seen.append(variable.get())
        one.run_eagerly(work)

    assert seen == ["of the task", "of the caller", "changed"]


async def test_who_is_acted_for_may_act_for_another() -> None:
    async def acts_for_the_other() -> None:
        one.note("before")
        assert other.run_eagerly()
        one.note("after")

    async with standing() as one, standing() as other:
        assert one.run_eagerly(acts_for_the_other)
        other.note("behind")

    assert one.seen == [("before", one.task), ("after", one.task)]
    assert other.seen == [("work", other.task), ("behind", asyncio.current_task())]


async def test_who_has_the_context_of_the_task_wakes_it_instead(create_task: CreateTask) -> None:
    context = contextvars.copy_context()

    async def calls() -> asyncio.Task[Any] | None:
        assert not one.run_eagerly()
        return asyncio.current_task()

    async with standing(create_task, context=context) as one:
        caller = await over(create_task(calls(), context=context))
        await settle()

    assert caller.result() is caller
    assert one.seen == ["woken"]


@pytest.mark.lazy_tasks
async def test_nothing_is_done_for_a_task_that_has_not_begun() -> None:
    one = Standing()
    assert not one.run_eagerly()

    await settle()
    assert one.seen == []
    await one.end()


async def test_nothing_is_done_for_a_task_that_does_not_wait() -> None:
    eager_runner = current_loop().eager_runner()
    async with standing() as one:
        assert not act_for(eager_runner, one.work)
        one.eager_runner.set()
        assert not one.run_eagerly()
        await settle()
        assert one.seen == ["woken"]

    assert not one.run_eagerly()


async def test_nothing_is_done_for_a_caller_that_does_not_run() -> None:
    """As what is left of a task whose loop has been closed."""
    loop, caller = asyncio.get_running_loop(), asyncio.current_task()
    done: list[bool] = []

    def callback() -> None:
        done.append(one.eager_runner.run_eagerly(caller, lambda _: one.work(), None))

    async with standing() as one:
        loop.call_soon(callback)
        await settle()

    assert done == [False]
    assert one.seen == []


async def test_an_exit_of_the_program_goes_through_the_loop(create_task: CreateTask) -> None:
    async def exits() -> None:
        raise SystemExit(3)

    async with standing(create_task) as one:
        act_for(one.eager_runner, exits)
        # What the loop would do with it is not for a test: it's taken from the task.
        (waiter,) = [one.task._fut_waiter]  # type: ignore[attr-defined]

        with pytest.raises(SystemExit):
            waiter.result()


async def test_a_program_can_be_looked_at_while_it_waits(create_task: CreateTask) -> None:
    task = await begun(create_task(wait_and(a_waker())))

    waiter = task._fut_waiter  # type: ignore[attr-defined]
    assert not waiter.done()
    assert "AsyncioWaker" in repr(task)
    assert task.get_stack()
    task.cancel()
    assert waiter.done()
    await over(task)


# Cancelled while it waits


class Patient:
    """A task that waits for its wake-up so many times, and notes what it gets and whether it's cancelled."""

    def __init__(self, create_task: CreateTask, times: int, *, swallows: bool = False) -> None:
        self.waker = a_waker()
        self.seen: list[object] = []
        self._times = times
        self._swallows = swallows
        self.task = create_task(self._wait())

    async def _wait(self) -> None:
        for _ in range(self._times):
            try:
                await self.waker
                self.seen.append("woken")
            except asyncio.CancelledError as exc:
                self.seen.append(("cancelled", *exc.args))
                if not self._swallows:
                    raise


@pytest.mark.parametrize("message", [("enough",), ()])
async def test_a_waiting_task_is_cancelled_natively_with_the_message(
    message: tuple[str, ...], create_task: CreateTask
) -> None:
    patient = Patient(create_task, 1)
    await settle()
    patient.task.cancel(*message)
    assert not patient.task.done()

    assert (await over(patient.task)).cancelled()
    assert patient.seen == [("cancelled", *message)]


@pytest.mark.parametrize("cancelled_first", [False, True])
async def test_a_cancellation_together_with_a_wake_up_is_not_lost(
    cancelled_first: bool, create_task: CreateTask
) -> None:
    patient = Patient(create_task, 2)
    await settle()
    calls: list[Callable[[], object]] = [patient.waker.set, patient.task.cancel]
    for call in reversed(calls) if cancelled_first else calls:
        call()

    assert (await over(patient.task)).cancelled()
    assert patient.seen == [("cancelled",)]


async def test_who_has_swallowed_a_cancellation_can_wait_again(create_task: CreateTask) -> None:
    patient = Patient(create_task, 3, swallows=True)
    for call in (patient.waker.set, patient.task.cancel, patient.waker.set):
        await settle()
        call()
    await over(patient.task)

    assert patient.seen == ["woken", ("cancelled",), "woken"]


@pytest.mark.parametrize(
    "anyio_backend", [("asyncio", {"use_uvloop": False, "debug": True})], ids=["debug"]
)
async def test_in_debug_mode_it_works_as_well(create_task: CreateTask) -> None:
    assert asyncio.get_running_loop().get_debug()
    async with standing(create_task) as one:
        patient = Patient(create_task, 2)
        for _ in range(2):
            await settle()
            one.eager_runner.set()
            patient.waker.set()
        await over(patient.task)
        assert one.seen == patient.seen == ["woken", "woken"]
        assert one.run_eagerly()


# A loop that is gone, and another one


NewLoop = Callable[[], asyncio.AbstractEventLoop]


@pytest.fixture(params=["asyncio", on("uvloop")])
def new_loop(request: pytest.FixtureRequest) -> Iterator[NewLoop]:
    """Make loops of a kind; they are closed in the end, with whatever is left on them."""
    kind: Any = asyncio if request.param == "asyncio" else importlib.import_module("uvloop")
    with ExitStack() as loops:
        yield lambda: loops.enter_context(closing(kind.new_event_loop()))


class Left:
    """A task that was left waiting on a loop that stands still."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.seen: list[str] = []
        self.waker: EagerRunner
        self.task: asyncio.Task[None]
        loop.run_until_complete(self._begin())

    async def _begin(self) -> None:
        self.waker = current_loop().eager_runner()
        self.tasks = current_loop().task_group()
        self.cut = a_scope()
        self.tasks.start_soon(self._wait)
        (self.task,) = asyncio.all_tasks() - {asyncio.current_task()}
        await settle()

    async def _wait(self) -> None:
        with self.cut:
            await self.waker
            self.seen.append("woken")

    def forget(self) -> None:
        """Say nothing of the task when it's thrown away."""
        self.task._log_destroy_pending = False  # type: ignore[attr-defined]


async def never() -> None:
    raise AssertionError


def test_what_waits_on_a_closed_loop_is_neither_woken_nor_an_error(new_loop: NewLoop) -> None:
    left = Left(new_loop())
    left.loop.close()

    assert not act_for(left.waker, never)
    left.waker.set()
    left.tasks.cancel()
    left.cut.cancel()

    assert left.seen == []
    left.forget()


def test_nobody_acts_on_this_loop_for_what_waits_on_another(new_loop: NewLoop) -> None:
    left = Left(new_loop())

    async def here() -> None:
        assert not act_for(left.waker, never)
        await settle()

    new_loop().run_until_complete(here())

    assert left.seen == []
    left.task.cancel()
    left.loop.run_until_complete(asyncio.wait([left.task]))


def test_who_is_woken_while_its_loop_stands_still_runs_when_that_goes_on(new_loop: NewLoop) -> None:
    left = Left(new_loop())

    left.waker.set()
    left.loop.run_until_complete(left.task)

    assert left.seen == ["woken"]


def test_in_debug_mode_a_thread_that_is_not_the_loops_is_told_so(new_loop: NewLoop) -> None:
    left = Left(new_loop())
    left.loop.set_debug(True)

    async def wake_from_elsewhere() -> None:
        await asyncio.get_running_loop().run_in_executor(None, left.waker.set)

    with pytest.raises(RuntimeError, match="thread"):
        left.loop.run_until_complete(wake_from_elsewhere())

    left.loop.run_until_complete(left.loop.shutdown_default_executor())
    left.forget()


# Time


async def test_the_clock_of_asyncio_is_read_without_a_detour() -> None:
    loop = asyncio.get_running_loop()

    own = isinstance(loop, asyncio.BaseEventLoop)
    assert current_loop().time == (time.monotonic if own else loop.time)


class ClockLoop:
    """As much of a loop as timers need; the test moves its time."""

    def __init__(self) -> None:
        self.now = 1_000.0
        self.timers: list[tuple[float, Timer]] = []
        self.fired: list[str] = []
        """The names of the alarms that have rung."""
        self.fired_at: list[float] = []
        self.errors: list[dict[str, Any]] = []
        self.closed = False

    def time(self) -> float:
        return self.now

    def call_at(
        self, when: float, call: Callable[[], None], *, context: contextvars.Context | None = None
    ) -> Timer:
        timer = Timer(call, context)
        self.timers.append((when, timer))
        return timer

    def call_soon(self, call: Callable[[], None], *, context: contextvars.Context) -> Timer:
        return self.call_at(self.now, call, context=context)

    def call_exception_handler(self, error: dict[str, Any]) -> None:
        self.errors.append(error)

    def is_closed(self) -> bool:
        return self.closed

    def set_timers(self) -> list[float]:
        return [when for when, timer in self.timers if not timer.cancelled]

    def turn(self) -> None:
        """Call what is due now; not what it asks for."""
        due = [timer for when, timer in self.timers if when <= self.now]
        self.timers = [one for one in self.timers if one[0] > self.now]
        for timer in due:
            if not timer.cancelled:
                timer.call()

    def advance(self, seconds: float) -> None:
        self.now += seconds
        while any(when <= self.now for when, _ in self.timers):
            self.turn()

    def alarm(self, name: str, seconds: float, then: Callable[[], None] | None = None) -> Alarm:
        """Set an alarm of this name that does something more when it has rung."""

        def fire() -> None:
            self.fired.append(name)
            self.fired_at.append(self.now)
            if then is not None:
                then()

        alarm = Alarm(self, fire)
        alarm.set_in(seconds)
        return alarm

    def has_clock(self) -> bool:
        return any(loop is self for loop in _WHEELS)  # type: ignore[comparison-overlap]


class Alarm(AsyncioTimer):
    def __init__(self, loop: ClockLoop, fire: Callable[[], None]) -> None:
        super().__init__(loop, fire)  # type: ignore[arg-type]

    def set_in(self, seconds: float) -> None:
        self.set(self._loop.time() + seconds)


class Timer:
    def __init__(self, call: Callable[[], None], context: contextvars.Context | None) -> None:
        self.call = call
        self.context = context
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True


@pytest.fixture
def clock_loop() -> Iterator[ClockLoop]:
    loop = ClockLoop()
    yield loop
    assert not loop.has_clock()
    assert loop.set_timers() == []


def test_an_alarm_that_is_near_holds_one_timer_and_gives_it_back(clock_loop: ClockLoop) -> None:
    alarm = clock_loop.alarm("near", 0.9)
    assert clock_loop.set_timers() == [1_000.9]
    alarm.set_in(-1)
    assert clock_loop.set_timers() == [999]
    clock_loop.turn()
    assert clock_loop.fired == ["near"]
    alarm.set_in(math.inf)
    assert clock_loop.set_timers() == []
    alarm.set_in(-1)
    alarm.stop()
    alarm.stop()
    assert clock_loop.set_timers() == []


def test_alarms_far_off_share_a_timer_and_ring_a_tick_late_at_the_most(
    clock_loop: ClockLoop,
) -> None:
    times = [1_001.0 + number / 100 for number in range(300)]
    for when in times:
        clock_loop.alarm(str(when), when - clock_loop.now)
        assert len(clock_loop.set_timers()) == 1

    for _ in range(1_000):
        clock_loop.advance(0.005)
        assert len(clock_loop.set_timers()) <= 1

    assert clock_loop.fired == [str(when) for when in times]
    assert all(0 <= at - when < 0.026 for at, when in zip(clock_loop.fired_at, times, strict=True))


def test_many_alarms_at_the_same_time_leave_the_loop_a_turn_in_between(
    clock_loop: ClockLoop,
) -> None:
    names = [str(number) for number in range(250)]
    for name in names:
        clock_loop.alarm(name, 2)

    clock_loop.now += 3
    turns = []
    while clock_loop.set_timers():
        clock_loop.turn()
        turns.append(len(clock_loop.fired))

    assert turns == [100, 200, 250]
    assert clock_loop.fired == names


def test_an_alarm_far_off_can_be_moved_and_stopped(clock_loop: ClockLoop) -> None:
    first, second = clock_loop.alarm("1", 5), clock_loop.alarm("2", 5)
    first.set_in(2)
    second.stop()
    second.stop()
    clock_loop.advance(2.1)
    assert clock_loop.fired == ["1"]
    first.set_in(2)
    second.set_in(4)
    second.set_in(0.5)
    clock_loop.advance(0.5)
    assert clock_loop.fired == ["1", "2"]
    clock_loop.advance(2)

    assert clock_loop.fired == ["1", "2", "1"]


def test_an_alarm_that_comes_early_has_rung_all_the_same(clock_loop: ClockLoop) -> None:
    """uvloop counts in milliseconds."""
    clock_loop.alarm("early", 2)
    ((_, timer),) = clock_loop.timers
    clock_loop.now += 1.9996
    timer.call()
    timer.cancel()

    assert clock_loop.fired == ["early"]


def test_whoever_rings_may_set_and_stop_alarms(clock_loop: ClockLoop) -> None:
    def sets_and_stops() -> None:
        another.stop()
        later.stop()
        if len(clock_loop.fired) < 3:
            alarm.set_in(1.5)

    alarm = clock_loop.alarm("one", 2, sets_and_stops)
    another, later = clock_loop.alarm("never", 2), clock_loop.alarm("never", 2.1)
    for _ in range(10):
        clock_loop.advance(1.6)

    assert clock_loop.fired == ["one"] * 3


def test_a_clock_whose_last_alarm_was_stopped_by_another_leaves_its_successor_alone(
    clock_loop: ClockLoop,
) -> None:
    def moves_the_other() -> None:
        other.stop()
        other.set_in(2)

    other = clock_loop.alarm("other", 3)
    clock_loop.alarm("one", 2, moves_the_other)
    clock_loop.advance(2.1)
    assert clock_loop.has_clock()
    clock_loop.advance(2.1)

    assert clock_loop.fired == ["one", "other"]


def test_an_alarm_that_raises_is_told_of_and_the_others_ring(clock_loop: ClockLoop) -> None:
    mistake = KeyError("mistake")

    def fails() -> None:
        raise mistake

    clock_loop.alarm("fails", 2, fails)
    clock_loop.alarm("rings", 2)
    clock_loop.advance(3)

    assert clock_loop.fired == ["fails", "rings"]
    assert [error["exception"] for error in clock_loop.errors] == [mistake]


def test_the_timer_of_all_keeps_the_context_of_none(clock_loop: ClockLoop) -> None:
    contextvars.ContextVar[str]("request").set("of the first stream")
    alarm = clock_loop.alarm("first", 2)

    assert [dict(timer.context or {}) for _, timer in clock_loop.timers] == [{}]
    alarm.stop()


def test_alarms_of_a_closed_loop_are_forgotten_when_another_has_one(
    clock_loop: ClockLoop,
) -> None:
    closed, open_one = ClockLoop(), ClockLoop()
    alarms = [loop.alarm("far off", 2) for loop in (closed, open_one)]
    assert closed.has_clock()
    assert open_one.has_clock()
    closed.closed = True

    alarms.append(clock_loop.alarm("far off", 2))

    assert [loop.has_clock() for loop in (closed, open_one, clock_loop)] == [False, True, True]
    for alarm in alarms:
        alarm.stop()
    assert not open_one.has_clock()


def test_a_loop_is_current_where_it_runs_and_can_be_knocked_at_until_it_is_closed(
    new_loop: NewLoop,
) -> None:
    loop = new_loop()
    heard: list[str] = []

    async def current() -> Loop:
        return current_loop()

    async def elsewhere() -> bool:
        return ours.is_current()

    ours = loop.run_until_complete(current())
    assert loop.run_until_complete(elsewhere())
    assert not ours.is_current()
    assert not new_loop().run_until_complete(elsewhere())
    ours.call_soon_threadsafe(lambda: heard.append("knock"))
    loop.run_until_complete(asyncio.sleep(0))
    assert heard == ["knock"]
    loop.close()
    with pytest.raises(RuntimeError):
        ours.call_soon_threadsafe(lambda: None)


# TaskGroup


async def forever(seen: list[str]) -> None:
    try:
        await asyncio.get_running_loop().create_future()
    except BaseException as exc:
        seen.append(type(exc).__name__)
        raise


async def test_an_error_of_a_task_is_raised_as_it_is_when_all_are_over() -> None:
    mistake = KeyError("lost the key")
    waker = a_waker()
    seen: list[str] = []

    async def fails() -> None:
        raise mistake

    async def host() -> None:
        async with current_loop().task_group() as tasks:
            tasks.start_soon(fails)
            tasks.start_soon(wait_and, waker, lambda: seen.append("over"))
            await settle()
            seen.append("host goes on")

    task = asyncio.create_task(host())
    await until(lambda: seen)
    await settle()
    assert not task.done()
    waker.set()

    assert (await over(task)).exception() is mistake
    assert seen == ["host goes on", "over"]


@pytest.mark.parametrize(
    ("way", "mistake"),
    [
        pytest.param("scope", None, id="scope"),
        pytest.param("natively", None, id="natively"),
        pytest.param("natively", KeyError("lost the key"), id="a task that fails then is heard"),
    ],
)
async def test_a_host_that_is_cancelled_while_it_waits_goes_on_waiting(
    way: str, mistake: Exception | None
) -> None:
    """To cancel its tasks is up to the host; it knows which of them may be."""
    seen: list[str] = []
    waker, scope = a_waker(), anyio.CancelScope()

    async def waits() -> None:
        await waker
        seen.append("over")
        if mistake is not None:
            raise mistake

    async def host() -> None:
        with scope:
            async with current_loop().task_group() as tasks:
                tasks.start_soon(waits)

    task = await begun(asyncio.create_task(host()))
    (scope if way == "scope" else task).cancel()
    await settle()
    assert not task.done()
    waker.set()
    await over(task)

    assert seen == ["over"]
    assert scope.cancelled_caught is (way == "scope")
    assert task.cancelled() is (way == "natively" and mistake is None)
    assert task.cancelled() or task.exception() is mistake


async def test_who_cancels_the_tasks_and_is_one_of_them_is_left_out() -> None:
    seen: list[str] = []

    async def cancels() -> None:
        tasks.cancel()
        await settle()
        seen.append("not cancelled")

    async with current_loop().task_group() as tasks:
        tasks.start_soon(forever, seen)
        await settle()
        tasks.start_soon(cancels)

    assert seen == ["CancelledError", "not cancelled"]


@pytest.mark.lazy_tasks
async def test_a_task_that_is_cancelled_before_it_began_is_over() -> None:
    seen: list[str] = []

    async with current_loop().task_group() as tasks:
        tasks.start_soon(forever, seen)
        tasks.cancel()

    assert seen == []


@pytest.mark.parametrize("ending", ["cancelled", "returned", "raised"])
async def test_a_task_that_ends_as_the_block_does_is_over(ending: str) -> None:
    """The loop hasn't told of its end yet."""
    waker = a_waker()
    mistake = KeyError("lost the key")

    async def ends() -> None:
        await waker
        if ending == "raised":
            raise mistake

    async def host() -> None:
        async with current_loop().task_group() as tasks:
            tasks.start_soon(ends)
            await settle()
            if ending == "cancelled":
                tasks.cancel()
            else:
                waker.set()
            await asyncio.sleep(0)

    task = asyncio.create_task(host())

    assert (await over(task)).exception() is (mistake if ending == "raised" else None)


async def test_a_block_that_is_thrown_away_waits_for_nothing() -> None:
    """As it is when the loop was closed: whoever then waits is told off by Python."""
    seen: list[str] = []
    tasks = current_loop().task_group()

    async def host() -> None:
        async with tasks:
            tasks.start_soon(forever, seen)
            await a_waker()

    thrown_away = host()
    thrown_away.send(None)
    await settle()
    thrown_away.close()

    assert seen == []
    tasks.cancel()
    await settle()
    assert seen == ["CancelledError"]


# A stretch that may be cut off

Stretch = Callable[[CancelScope, list[str]], Coroutine[Any, Any, None]]


async def is_cut_off(cut: CancelScope, seen: list[str]) -> None:
    seen.append("inside")
    await a_waker()
    seen.append("not cut off")


async def cuts_itself_off(cut: CancelScope, seen: list[str]) -> None:
    cut.cancel()
    cut.cancel()
    await is_cut_off(cut, seen)


async def does_not_wait(cut: CancelScope, seen: list[str]) -> None:
    seen.append("inside")


async def swallows_its_cut(cut: CancelScope, seen: list[str]) -> None:
    cut.cancel()
    try:
        await a_waker()
    except asyncio.CancelledError:
        seen.append("swallowed")
    cut.cancel()
    await settle()
    seen.append("went on")


@pytest.mark.parametrize(
    ("stretch", "before", "told"),
    [
        pytest.param(cuts_itself_off, False, ["inside"], id="where it waits"),
        pytest.param(is_cut_off, True, ["inside"], id="before it, where it first waits"),
        pytest.param(does_not_wait, True, ["inside"], id="before it, and it doesn't wait"),
        pytest.param(swallows_its_cut, False, ["swallowed", "went on"], id="and swallows its cut"),
    ],
)
async def test_who_was_cut_off_is_as_if_it_had_never_been_cancelled(
    stretch: Stretch, before: bool, told: list[str]
) -> None:
    cut = a_scope()
    seen: list[str] = []

    if before:
        cut.cancel()
        cut.cancel()
    with cut:
        await stretch(cut, seen)

    assert seen == told
    assert this_task().cancelling() == 0
    async with asyncio.timeout(SEAT_BELT_SECONDS):
        await settle()


async def test_an_error_in_a_stretch_that_is_cut_off_is_raised() -> None:
    cut = a_scope()

    async def cut_off() -> None:
        with cut:
            cut.cancel()
            try:
                await a_waker()
            finally:
                raise KeyError

    with pytest.raises(KeyError):
        await cut_off()

    assert this_task().cancelling() == 0
    await settle()


@pytest.mark.parametrize("cut_first", [False, True])
@pytest.mark.parametrize("where", ["a future", "a wake-up"])
async def test_a_native_cancellation_together_with_a_cut_is_not_swallowed(
    where: str, cut_first: bool, create_task: CreateTask
) -> None:
    cut = a_scope()
    seen: list[str] = []

    async def cut_off() -> None:
        with cut:
            await (a_waker() if where == "a wake-up" else forever([]))
        seen.append("behind")

    task = await begun(create_task(cut_off()))
    calls: list[Callable[[], object]] = [cut.cancel, task.cancel]
    for call in calls if cut_first else reversed(calls):
        call()

    assert (await over(task)).cancelled()
    assert seen == []


@pytest.mark.parametrize("cut_first", [False, True])
async def test_a_cancelled_scope_within_a_cut_leaves_nothing_behind(cut_first: bool) -> None:
    scope = anyio.CancelScope()
    cut = a_scope()
    seen: list[str] = []

    async def cut_off() -> None:
        with cut:
            with scope:
                await a_waker()
            await settle()
            seen.append("not cut off")
        await settle()
        seen.append("behind")

    task = await begun(asyncio.create_task(cut_off()))
    for call in (cut.cancel, scope.cancel) if cut_first else (scope.cancel, cut.cancel):
        call()
    await over(task)

    assert seen == ["behind"]
    assert task.cancelling() == 0


async def test_a_task_that_had_been_cancelled_before_is_cut_off_all_the_same() -> None:
    seen: list[str] = []

    async def cleans_up() -> None:
        cut = a_scope()
        try:
            await forever([])
        finally:
            with cut:
                cut.cancel()
                await a_waker()
            seen.append("behind")

    task = await begun(asyncio.create_task(cleans_up()))
    task.cancel()
    await over(task)

    assert seen == ["behind"]
    assert task.cancelled()


async def test_outside_of_any_task_nothing_is_cut_off() -> None:
    seen: list[str] = []
    cut = a_scope()

    def callback() -> None:
        with cut:
            cut.cancel()
            seen.append("inside")

    asyncio.get_running_loop().call_soon(callback)
    await settle()

    assert seen == ["inside"]


# SourceRunner


class Source:
    """
    Does what a script says, word by word, and notes how its waits end.

    `wait`s for its wake-up; `soon`: has itself woken before whatever is due where it waits next; `cancel`
    and `clean-up`: says so to its runner; `other`: runs a task that says `cancel`.
    """

    def __init__(self, script: str, cleanup_seconds: float | None) -> None:
        self.seen: list[str] = []
        self.waker, self.other = a_waker(), a_waker()
        self.runner = current_loop().source_runner(cleanup_seconds)
        self.helper = asyncio.create_task(wait_and(self.other, self.runner.cancel))
        self.task = asyncio.create_task(self._run(script.split()))

    async def _run(self, script: list[str]) -> None:
        await self.runner.run(partial(self._play, script), Watched())
        await settle()  # What comes too late would hit here.

    async def _play(self, script: list[str]) -> None:
        for word in script:
            if word == "wait":
                await self._wait()
            elif word == "soon":
                asyncio.get_running_loop().call_soon(run_at_once, self.waker)
            elif word == "cancel":
                self.runner.cancel()
            elif word == "other":
                run_at_once(self.other)
            else:
                self.runner.clean_up()

    async def _wait(self) -> None:
        try:
            await self.waker
        except asyncio.CancelledError:
            self.seen.append("cancelled")
        else:
            self.seen.append("woken")


@pytest.mark.parametrize(
    ("script", "cleanup_seconds", "seen"),
    [
        pytest.param("cancel wait", None, "cancelled", id="where it waits next"),
        pytest.param("other wait", None, "cancelled", id="where it waits next, by whom it runs"),
        pytest.param(
            "soon wait cancel soon wait wait soon wait",
            None,
            "woken woken cancelled woken",
            id="is not lost when the source is woken before",
        ),
        pytest.param(
            "soon wait cancel soon wait",
            None,
            "woken woken",
            id="does not hit whoever led the source",
        ),
        pytest.param(
            "soon wait cancel soon wait clean-up soon wait",
            None,
            "woken woken woken",
            id="does not disturb a cleanup that began before it",
        ),
        pytest.param(
            "clean-up wait soon wait",
            0,
            "cancelled woken",
            id="a cut does not hit whoever led the source",
        ),
    ],
)
async def test_a_cancellation_that_is_due_hits_its_source_or_nobody(
    script: str, cleanup_seconds: float | None, seen: str
) -> None:
    source = Source(script, cleanup_seconds)
    await over(source.task)

    assert source.seen == seen.split()
    assert source.task.exception() is None
    assert source.task.cancelling() == source.seen.count("cancelled")
    source.other.set()
    await over(source.helper)


async def test_streams_of_one_loop_share_what_stands_for_it_which_goes_with_the_last() -> None:
    one, other = current_loop(), current_loop()
    gone = weakref.ref(one)

    assert one is other
    del one, other
    gc.collect()
    assert gone() is None
