"""What is asyncio's own: wake-ups, what is done in the name of a waiting task, plain tasks and their cancellations."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import math
import time
import weakref
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager
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
    SourceRunner,
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

    loop = asyncio.new_event_loop()
    try:
        return bool(loop.run_until_complete(python_task(loop, main())))
    finally:
        loop.close()


without_tasks_in_python = pytest.mark.skipif(
    not asyncio_knows_tasks_in_python(), reason="this asyncio knows tasks made in C only"
)


@pytest.fixture(params=["c", pytest.param("python", marks=without_tasks_in_python)])
def create_task(request: pytest.FixtureRequest) -> Iterator[Callable[..., asyncio.Task[Any]]]:
    """Start tasks in C and in Python, as a task factory may make them: all that a task does is the same."""

    def create(coro: Coroutine[Any, Any, Any], **more: Any) -> asyncio.Task[Any]:
        loop = asyncio.get_running_loop()
        if request.param == "c":
            task = loop.create_task(coro, **more)
        else:
            loop.set_task_factory(python_task)  # type: ignore[arg-type]
            task = loop.create_task(coro, **more)
            loop.set_task_factory(None)
        created.append(task)
        return task

    created: list[asyncio.Task[Any]] = []
    yield create
    # Where a test has failed.
    for task in created:
        if not task.done():
            task.cancel()


CreateTask = Callable[..., asyncio.Task[Any]]


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
            except KeyError as exc:
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
    mistakes = [KeyError("at once"), KeyError("later")]

    async def fails_at_once() -> None:
        raise mistakes[0]

    async def fails_later() -> None:
        await asyncio.sleep(0)
        raise mistakes[1]

    async with standing(create_task) as one:
        for fails in (fails_at_once, fails_later):
            assert not one.run_eagerly(fails)
            await settle()

        assert one.seen == mistakes
        assert one.run_eagerly()


async def cancels_the_task() -> None:
    task = asyncio.current_task()
    assert task is not None
    task.cancel()


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


@pytest.mark.parametrize("swallows", [False, True])
async def test_a_cancellation_of_the_task_is_thrown_into_what_was_begun(
    swallows: bool, create_task: CreateTask
) -> None:
    async def work() -> None:
        try:
            await asyncio.get_running_loop().create_future()
        except asyncio.CancelledError as exc:
            one.note(exc.args)
            if not swallows:
                raise
            await asyncio.sleep(0)
            one.note("goes on")

    async with standing(create_task) as one:
        one.run_eagerly(work)
        await settle()
        one.task.cancel("enough")
        await settle()

        went_on = [("goes on", one.task), "woken"] if swallows else []
        assert one.seen == [(("enough",), one.task), *went_on]
        assert one.task.done() != swallows


async def test_a_cancellation_that_overtakes_what_was_begun_is_thrown_into_it(
    create_task: CreateTask,
) -> None:
    async def work() -> None:
        await cancels_the_task()
        try:
            await asyncio.get_running_loop().create_future()
        except asyncio.CancelledError:
            one.seen.append("cancelled")
            raise

    async with standing(create_task) as one:
        assert not one.run_eagerly(work)

        assert (await over(one.task)).cancelled()
        assert one.seen == ["cancelled"]


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


async def test_an_error_of_the_work_is_not_taken_for_a_shared_context() -> None:
    async def fails() -> None:
        raise RuntimeError("its own")

    async with standing() as one:
        assert not one.run_eagerly(fails)

        assert str((await over(one.task)).exception()) == "its own"


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


@pytest.mark.parametrize(
    "anyio_backend", [("asyncio", {"use_uvloop": False, "debug": True})], ids=["debug"]
)
async def test_in_debug_mode_it_works_as_well(create_task: CreateTask) -> None:
    assert asyncio.get_running_loop().get_debug()
    async with standing(create_task) as one:
        for _ in range(2):
            one.eager_runner.set()
            await settle()
        assert one.seen == ["woken", "woken"]
        assert one.run_eagerly()


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


async def test_a_waiting_task_is_cancelled_by_a_scope_that_knows_its_own_cancellation(
    create_task: CreateTask,
) -> None:
    scope = anyio.CancelScope()

    async def waits() -> bool:
        with scope:
            await a_waker()
        return scope.cancelled_caught

    task = await begun(create_task(waits()))
    scope.cancel()

    assert (await over(task)).result() is True
    assert task.cancelling() == 0


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


# A loop that is gone, and another one


@pytest.fixture(params=["asyncio", on("uvloop")])
def new_loop(request: pytest.FixtureRequest) -> Iterator[Callable[[], asyncio.AbstractEventLoop]]:
    """Make loops of a kind; they are closed in the end, with whatever is left on them."""

    def new() -> asyncio.AbstractEventLoop:
        if request.param == "asyncio":
            loop = asyncio.new_event_loop()
        else:
            import uvloop

            loop = uvloop.new_event_loop()
        loops.append(loop)
        return loop

    loops: list[asyncio.AbstractEventLoop] = []
    yield new
    for loop in loops:
        loop.close()


NewLoop = Callable[[], asyncio.AbstractEventLoop]


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


async def test_an_alarm_holds_one_timer_and_gives_it_back() -> None:
    fired: list[str] = []
    loop = current_loop()
    async with loop.task_group() as tasks:
        timer: Any = loop.timer(lambda: fired.append("fired"), tasks)

    timer.set(loop.time() + 0.9)
    first = timer._set
    timer.set(loop.time() - 1)
    assert first.cancelled()
    await until(lambda: fired)
    timer.set(math.inf)
    assert timer._set is None
    timer.set(loop.time() - 1)
    last: Any = timer._set
    timer.stop()
    timer.stop()
    await settle()

    assert last.cancelled()
    assert fired == ["fired"]


class ClockLoop:
    """As much of a loop as timers need; the test moves its time."""

    def __init__(self) -> None:
        self.now = 1_000.0
        self.timers: list[tuple[float, Timer]] = []
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

    def timer(self, fire: Callable[[], None]) -> AsyncioTimer:
        return AsyncioTimer(self, fire)  # type: ignore[arg-type]

    def has_clock(self) -> bool:
        return any(loop is self for loop in _WHEELS)  # type: ignore[comparison-overlap]


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


def test_alarms_far_off_share_a_timer_and_ring_a_tick_late_at_the_most(
    clock_loop: ClockLoop,
) -> None:
    fired: list[tuple[int, float]] = []
    for number in range(300):
        timer = clock_loop.timer(lambda number=number: fired.append((number, clock_loop.now)))  # type: ignore[misc]
        timer.set(clock_loop.now + 1.0 + number / 100)
        assert len(clock_loop.set_timers()) == 1

    for _ in range(1_000):
        clock_loop.advance(0.005)
        assert len(clock_loop.set_timers()) <= 1

    assert [number for number, _ in fired] == list(range(300))
    assert all(0 <= when - 1_001.0 - number / 100 < 0.026 for number, when in fired)


def test_many_alarms_at_the_same_time_leave_the_loop_a_turn_in_between(
    clock_loop: ClockLoop,
) -> None:
    fired: list[int] = []
    timers = [clock_loop.timer(lambda number=n: fired.append(number)) for n in range(250)]  # type: ignore[misc]
    for timer in timers:
        timer.set(clock_loop.now + 2)

    clock_loop.now += 3
    turns = []
    while clock_loop.set_timers():
        clock_loop.turn()
        turns.append(len(fired))

    assert turns == [100, 200, 250]
    assert fired == list(range(250))


def test_an_alarm_far_off_can_be_moved_and_stopped(clock_loop: ClockLoop) -> None:
    fired: list[str] = []
    first, second = (clock_loop.timer(lambda name=name: fired.append(name)) for name in "12")  # type: ignore[misc]
    first.set(clock_loop.now + 5)
    second.set(clock_loop.now + 5)
    first.set(clock_loop.now + 2)
    second.stop()
    second.stop()
    clock_loop.advance(2.1)
    assert fired == ["1"]
    first.set(clock_loop.now + 2)
    second.set(clock_loop.now + 4)
    second.set(clock_loop.now + 0.5)
    clock_loop.advance(0.5)
    assert fired == ["1", "2"]
    clock_loop.advance(2)

    assert fired == ["1", "2", "1"]


def test_an_alarm_that_comes_early_has_rung_all_the_same(clock_loop: ClockLoop) -> None:
    """uvloop counts in milliseconds."""
    fired: list[str] = []
    clock_loop.timer(lambda: fired.append("fired")).set(clock_loop.now + 2)
    ((_, timer),) = clock_loop.timers
    clock_loop.now += 1.9996
    timer.call()
    timer.cancel()

    assert fired == ["fired"]


def test_whoever_rings_may_set_and_stop_alarms(clock_loop: ClockLoop) -> None:
    fired: list[str] = []

    def one() -> None:
        fired.append("one")
        another.stop()
        later.stop()
        if len(fired) < 3:
            timer.set(clock_loop.now + 1.5)

    timer = clock_loop.timer(one)
    another, later = (clock_loop.timer(lambda: fired.append("never")) for _ in range(2))
    timer.set(clock_loop.now + 2)
    another.set(clock_loop.now + 2)
    later.set(clock_loop.now + 2.1)
    for _ in range(10):
        clock_loop.advance(1.6)

    assert fired == ["one"] * 3


def test_a_clock_whose_last_alarm_was_stopped_by_another_leaves_its_successor_alone(
    clock_loop: ClockLoop,
) -> None:
    fired: list[str] = []

    def one() -> None:
        other.stop()
        other.set(clock_loop.now + 2)

    other = clock_loop.timer(lambda: fired.append("other"))
    clock_loop.timer(one).set(clock_loop.now + 2)
    other.set(clock_loop.now + 3)
    clock_loop.advance(2.1)
    assert clock_loop.has_clock()
    clock_loop.advance(2.1)

    assert fired == ["other"]


def test_an_alarm_that_raises_is_told_of_and_the_others_ring(clock_loop: ClockLoop) -> None:
    fired: list[str] = []
    mistake = KeyError("mistake")

    def fails() -> None:
        raise mistake

    for fire in (fails, lambda: fired.append("fired")):
        clock_loop.timer(fire).set(clock_loop.now + 2)
    clock_loop.advance(3)

    assert fired == ["fired"]
    assert [error["exception"] for error in clock_loop.errors] == [mistake]


def test_the_timer_of_all_keeps_the_context_of_none(clock_loop: ClockLoop) -> None:
    contextvars.ContextVar[str]("request").set("of the first stream")
    timer = clock_loop.timer(lambda: None)
    timer.set(clock_loop.now + 2)

    assert [dict(timer.context or {}) for _, timer in clock_loop.timers] == [{}]
    timer.stop()


def test_alarms_of_a_closed_loop_are_forgotten_when_another_has_one(
    clock_loop: ClockLoop,
) -> None:
    loops = [ClockLoop(), ClockLoop(), clock_loop]
    timers = [loop.timer(lambda: None) for loop in loops]
    for loop, timer in zip(loops[:2], timers, strict=False):
        timer.set(loop.now + 2)
        assert loop.has_clock()
    loops[0].closed = True

    timers[2].set(clock_loop.now + 2)

    assert [loop.has_clock() for loop in loops] == [False, True, True]
    for timer in timers:
        timer.stop()
    assert not loops[1].has_clock()


def test_a_loop_is_current_where_it_runs_and_can_be_knocked_at_until_it_is_closed(
    new_loop: NewLoop,
) -> None:
    loop = new_loop()
    heard: list[str] = []

    async def main() -> Loop:
        return current_loop()

    async def elsewhere() -> bool:
        return ours.is_current()

    ours = loop.run_until_complete(main())
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


async def forever(seen: list[str], name: str = "one") -> None:
    try:
        await asyncio.get_running_loop().create_future()
    except BaseException as exc:
        seen.append(f"{name}: {type(exc).__name__}")
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


@pytest.mark.parametrize("way", ["scope", "natively"])
async def test_a_host_that_is_cancelled_while_it_waits_goes_on_waiting(way: str) -> None:
    """To cancel its tasks is up to the host; it knows which of them may be."""
    seen: list[str] = []
    waker = a_waker()
    scope = anyio.CancelScope()

    async def host() -> None:
        with scope:
            async with current_loop().task_group() as tasks:
                tasks.start_soon(wait_and, waker, lambda: seen.append("over"))

    task = await begun(asyncio.create_task(host()))
    if way == "scope":
        scope.cancel()
    else:
        task.cancel()
    await settle()
    assert not task.done()
    waker.set()
    await over(task)

    assert seen == ["over"]
    assert task.cancelled() is (way == "natively")
    assert scope.cancelled_caught is (way == "scope")


async def test_a_task_that_fails_when_its_host_is_cancelled_is_heard() -> None:
    mistake = KeyError("lost the key")

    async def fails() -> None:
        await waker
        raise mistake

    async def host() -> None:
        async with current_loop().task_group() as tasks:
            tasks.start_soon(fails)

    waker = a_waker()
    task = await begun(asyncio.create_task(host()))
    task.cancel()
    await settle()
    waker.set()

    assert (await over(task)).exception() is mistake


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

    assert seen == ["one: CancelledError", "not cancelled"]


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
    assert seen == ["one: CancelledError"]


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
    task = asyncio.current_task()
    assert task is not None

    if before:
        cut.cancel()
        cut.cancel()
    with cut:
        await stretch(cut, seen)

    assert seen == told
    assert task.cancelling() == 0
    async with asyncio.timeout(SEAT_BELT_SECONDS):
        await settle()


async def test_an_error_in_a_stretch_that_is_cut_off_is_raised() -> None:
    cut = a_scope()
    task = asyncio.current_task()
    assert task is not None

    async def cut_off() -> None:
        with cut:
            try:
                cut.cancel()
                await a_waker()
            finally:
                raise KeyError

    with pytest.raises(KeyError):
        await cut_off()

    assert task.cancelling() == 0
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


async def observer(runner: SourceRunner, source: Coroutine[Any, Any, None]) -> None:
    """Have `source` observer; then turn the loop, so that what comes too late would hit."""
    await runner.run(lambda: source, Watched())
    await settle()


class Source:
    """Waits for its wake-up as often as it's told to, and notes what it gets."""

    def __init__(self, runner: SourceRunner, waits: int = 1) -> None:
        self.waker = a_waker()
        self.seen: list[str] = []
        self._runner = runner
        self._waits = waits

    async def run(self) -> None:
        for _ in range(self._waits):
            try:
                await self.waker
            except asyncio.CancelledError:
                self.seen.append("cancelled")
            else:
                self.seen.append("woken")


@pytest.mark.parametrize("by_whom", ["itself", "whom it runs"])
async def test_a_source_that_is_cancelled_while_it_runs_is_so_where_it_waits_next(
    by_whom: str,
) -> None:
    runner = current_loop().source_runner(None)
    other = a_waker()
    seen: list[str] = []

    async def source() -> None:
        if by_whom == "itself":
            runner.cancel()
        else:
            run_at_once(other)
        seen.append("goes on")
        try:
            await a_waker()
        finally:
            seen.append("cancelled")

    helper = asyncio.create_task(wait_and(other, runner.cancel))
    await settle()
    task = asyncio.create_task(observer(runner, source()))
    await over(task)

    assert seen == ["goes on", "cancelled"]
    assert task.cancelled()
    other.set()
    await over(helper)


async def test_a_cancellation_that_is_due_is_not_lost_when_the_source_is_woken_before() -> None:
    runner = current_loop().source_runner(None)
    source = Source(runner, waits=3)
    task = await begun(asyncio.create_task(observer(runner, asked_while_it_runs(source, runner))))

    run_at_once(source.waker)
    run_at_once(source.waker)
    await settle()

    assert source.seen == ["woken", "cancelled"]
    run_at_once(source.waker)
    await over(task)


async def asked_while_it_runs(source: Source, runner: SourceRunner) -> None:
    await source.waker
    runner.cancel()
    await source.run()


async def test_a_cancellation_that_is_due_does_not_hit_whoever_led_the_source() -> None:
    runner = current_loop().source_runner(None)
    source = Source(runner, waits=1)
    task = await begun(asyncio.create_task(observer(runner, asked_while_it_runs(source, runner))))

    run_at_once(source.waker)
    run_at_once(source.waker)

    assert source.seen == ["woken"]
    assert (await over(task)).exception() is None
    assert task.cancelling() == 0


async def test_a_cancellation_that_is_due_does_not_disturb_a_cleanup_that_began_before_it() -> None:
    runner = current_loop().source_runner(None)
    waker = a_waker()
    seen: list[str] = []

    async def source() -> None:
        await waker
        runner.cancel()
        await waker
        runner.clean_up()
        await settle()
        seen.append("cleaned up")

    task = await begun(asyncio.create_task(observer(runner, source())))
    run_at_once(waker)
    run_at_once(waker)

    assert not (await over(task)).cancelled()
    assert seen == ["cleaned up"]


async def test_a_cut_that_is_due_does_not_hit_whoever_led_the_source() -> None:
    runner = current_loop().source_runner(0)
    loop = asyncio.get_running_loop()
    seen: list[str] = []

    async def source() -> None:
        waker = a_waker()
        runner.clean_up()
        try:
            await waker
        except asyncio.CancelledError:
            seen.append("cut")
        # Comes before the cut that is due where it waits next.
        loop.call_soon(run_at_once, waker)
        await waker
        seen.append("over")

    task = asyncio.create_task(observer(runner, source()))
    await over(task)

    assert seen == ["cut", "over"]
    assert task.exception() is None


async def test_streams_of_one_loop_share_what_stands_for_it_which_goes_with_the_last() -> None:
    one, other = current_loop(), current_loop()
    gone = weakref.ref(one)

    assert one is other
    del one, other
    gc.collect()
    assert gone() is None
