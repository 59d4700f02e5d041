"""What is trio's own: a nursery, cancel scopes, and a shield that knows the source's own scopes and nurseries."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any

import anyio
import anyio.lowlevel
import pytest
import trio
import trio.testing
from tests.unit.driving import SEAT_BELT_SECONDS, Watched
from tests.unit.sources import settle

from sse_starlette._runtime.loop import Loop, SourceRunner, current_loop

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "trio"


# A wake-up


async def test_nobody_acts_for_a_task_that_waits() -> None:
    eager_runner = current_loop().eager_runner()
    seen: list[str] = []

    async def never() -> None:
        raise AssertionError

    async def waits() -> None:
        await eager_runner
        seen.append("woken")

    async with current_loop().task_group() as tasks:
        tasks.start_soon(waits)
        await trio.testing.wait_all_tasks_blocked()
        assert not eager_runner.run_eagerly(None, lambda _: never(), None)
        eager_runner.set()
        assert seen == []
        await trio.testing.wait_all_tasks_blocked()
        assert seen == ["woken"]


# The loop


async def test_whether_it_is_current_is_not_worth_asking() -> None:
    assert not current_loop().is_current()


def test_a_run_that_is_over_calls_nothing_and_only_a_knock_is_told_so() -> None:
    async def main() -> Loop:
        return current_loop()

    def never() -> None:
        raise AssertionError

    loop = trio.run(main)

    loop.call_soon(never)
    loop.call_later(0, never)
    with pytest.raises(RuntimeError):
        loop.call_soon_threadsafe(never)


async def test_what_is_to_be_called_later_is_called_soon() -> None:
    loop = current_loop()
    seen: list[str] = []

    loop.call_later(SEAT_BELT_SECONDS, lambda: seen.append("later"))
    loop.call_soon(lambda: seen.append("soon"))
    loop.call_soon_threadsafe(lambda: seen.append("knock"))
    assert seen == []
    await trio.testing.wait_all_tasks_blocked()

    assert seen == ["later", "soon", "knock"]


async def test_time_and_key_are_those_of_the_run() -> None:
    loop = current_loop()

    assert loop.key is trio.lowlevel.current_trio_token()
    assert loop.time() <= trio.current_time() <= loop.time()


async def test_an_alarm_sleeps_in_a_task_that_ends_when_it_is_stopped_or_moved() -> None:
    fired: list[str] = []
    loop = current_loop()

    with anyio.fail_after(SEAT_BELT_SECONDS):
        async with loop.task_group() as tasks:
            timer = loop.timer(lambda: fired.append("fired"), tasks)
            timer.set(loop.time() + SEAT_BELT_SECONDS)
            await settle()
            timer.set(loop.time() - 1)
            while not fired:
                await anyio.lowlevel.checkpoint()
            timer.set(float("inf"))
            await settle()
            timer.stop()
            timer.stop()

    assert fired == ["fired"]


# TaskGroup


async def test_an_error_of_a_task_cancels_the_others_and_is_raised_in_a_group() -> None:
    seen: list[str] = []

    async def fails() -> None:
        raise KeyError

    async def sleeps() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            seen.append("cancelled")

    async def host() -> None:
        async with current_loop().task_group() as tasks:
            tasks.start_soon(sleeps)
            await trio.testing.wait_all_tasks_blocked()
            tasks.start_soon(fails)

    with pytest.raises(ExceptionGroup) as caught:
        await host()

    assert [type(error) for error in caught.value.exceptions] == [KeyError]
    assert seen == ["cancelled"]


async def test_a_stretch_that_is_cut_off_early_is_so_where_it_waits_first() -> None:
    """TaskGroup begin in any order, so that whoever cuts may be there before the one that is cut off."""
    cut = current_loop().cancel_scope()
    seen: list[str] = []

    cut.cancel()
    with cut:
        seen.append("begun")
        await anyio.sleep_forever()

    assert seen == ["begun"]


# SourceRunner


async def run_source(runner: SourceRunner, source: Coroutine[Any, Any, None]) -> None:
    await runner.run(lambda: source, Watched())


async def cleans_up(seen: list[str]) -> None:
    try:
        await settle()
        seen.append("cleaned up")
    except trio.Cancelled:
        seen.append("cancelled in its cleanup")
        raise


async def test_a_source_that_is_cancelled_before_it_waits_is_so_where_it_waits_first() -> None:
    runner = current_loop().source_runner(None)
    seen: list[str] = []

    async def source() -> None:
        seen.append("begun")
        try:
            await anyio.sleep_forever()
        finally:
            await cleans_up(seen)

    runner.cancel()
    await run_source(runner, source())

    assert seen == ["begun", "cleaned up"]


async def test_cleanup_is_shielded_from_whoever_cancels_the_task() -> None:
    runner = current_loop().source_runner(None)
    seen: list[str] = []

    async def source() -> None:
        runner.clean_up()
        runner.clean_up()
        await cleans_up(seen)

    with anyio.CancelScope() as scope:
        scope.cancel()
        await run_source(runner, source())

    assert seen == ["cleaned up"]


async def test_a_source_is_reached_by_nobody_but_its_reins() -> None:
    """A server that cancels the response has the source cancelled through them, too."""
    runner = current_loop().source_runner(None)
    seen: list[str] = []

    async def source() -> None:
        try:
            await settle()
            seen.append("not cancelled")
            await anyio.sleep_forever()
        finally:
            seen.append("cancelled")

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(run_source, runner, source())
        tasks.cancel_scope.cancel()
        with anyio.CancelScope(shield=True):
            while not seen:
                await anyio.lowlevel.checkpoint()
            runner.cancel()

    assert seen == ["not cancelled", "cancelled"]


async def test_a_source_that_is_thrown_away_where_it_waits_is_told_so() -> None:
    """As it happens when a run of trio breaks down."""
    runner = current_loop().source_runner(None)
    seen: list[str] = []

    async def source() -> None:
        try:
            await anyio.sleep_forever()
        except GeneratorExit:
            seen.append("thrown away")
            raise

    leading = run_source(runner, source())
    leading.send(None)
    leading.close()

    assert seen == ["thrown away"]
