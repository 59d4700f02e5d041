"""The worker threads in which sync iterables take their steps."""

from __future__ import annotations

import gc
import logging
import threading
from collections.abc import Iterator

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest
from tests.unit.sources import SEAT_BELT, Writer, feed_of, running, settle
from tests.unit.test_source import Blocking

from sse_starlette import sync_source_limiter
from sse_starlette._runtime.loop import current_loop
from sse_starlette._stream.threads import ThreadedIterator, _Job, _Pool, _Worker

pytestmark = pytest.mark.anyio


of_other_tests: set[threading.Thread] = set()
"""Of loops that were closed in mid-stream, and that the garbage collector hasn't come to yet."""


@pytest.fixture(autouse=True)
def threads_of_other_tests() -> None:
    of_other_tests.clear()
    of_other_tests.update(threading.enumerate())


def our_threads() -> set[threading.Thread]:
    started = set(threading.enumerate()) - of_other_tests
    return {one for one in started if one.name.startswith("sse-starlette")}


async def until_threads_end() -> None:
    with anyio.fail_after(SEAT_BELT):
        for thread in our_threads():
            await anyio.to_thread.run_sync(thread.join)


async def test_sync_sources_do_not_take_the_threads_of_others() -> None:
    sources = [Blocking() for _ in range(45)]
    feeds = [feed_of(source.events()) for source in sources]
    in_a_thread: list[Blocking] = []
    all_threads_are_taken = anyio.Event()

    async def count(source: Blocking) -> None:
        await source.entered.wait()
        in_a_thread.append(source)
        if len(in_a_thread) == 40:
            all_threads_are_taken.set()

    with anyio.fail_after(SEAT_BELT):
        async with anyio.create_task_group() as tasks:
            try:
                for source, feed in zip(sources, feeds, strict=True):
                    tasks.start_soon(Writer(feed).run)
                    tasks.start_soon(feed.run)
                    tasks.start_soon(count, source)
                # Not by turning the loop: it would leave the threads little of the interpreter.
                await all_threads_are_taken.wait()
                assert await anyio.to_thread.run_sync(threading.get_ident)
            except BaseException:
                for feed in feeds:
                    feed.stop()
                raise
            finally:
                for source in sources:
                    source.release.set()

    assert all(source.closed.is_set() for source in sources)
    assert [feed.error for feed in feeds] == [None] * 45


async def test_thread_counts_until_its_step_is_over_whoever_still_waits() -> None:
    limiter = sync_source_limiter()
    sources = [Blocking() for _ in range(3)]
    for source in sources:
        feed = feed_of(source.events(), cleanup_timeout=0)
        async with running(feed):
            await source.entered.wait()
            feed.stop()

    assert limiter.borrowed_tokens == 3

    for source in sources:
        source.release.set()
        await source.closed.wait()
    # There's room for a step only when all three have been given back.
    limiter.total_tokens = 1
    steps = ThreadedIterator(iter(["step"]), current_loop())
    assert await anext(steps) == "step"
    await steps.aclose()
    await until_threads_end()
    assert our_threads() == set()


async def test_source_waits_for_a_thread_and_the_log_says_so_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    limiter = sync_source_limiter()
    limiter.total_tokens = 1
    first = Blocking()
    waiting = [Blocking(), Blocking()]
    for source in waiting:
        source.release.set()

    with caplog.at_level(logging.WARNING):
        async with running(feed_of(first.events())) as writer:
            await first.entered.wait()
            async with (
                running(feed_of(waiting[0].events())) as second,
                running(feed_of(waiting[1].events())) as third,
            ):
                await settle()
                assert (second.taken, third.taken) == ([], [])
                first.release.set()

    assert writer.body == second.body == third.body == b"0;1;2;3;"
    told = [record.getMessage() for record in caplog.records]
    assert len(told) == 1
    assert "all 1 threads for sync sources are busy" in told[0]
    assert "sse_starlette.sync_source_limiter().total_tokens" in told[0]


async def test_source_that_is_stopped_while_it_waits_for_a_thread_takes_none() -> None:
    sync_source_limiter().total_tokens = 1
    first, second = Blocking(), Blocking()

    async with running(feed_of(first.events())):
        await first.entered.wait()
        feed = feed_of(second.events())
        async with running(feed):
            await settle()
            feed.stop()
        first.release.set()

    assert second.threads == set()


async def test_limits_of_this_loop_are_those_of_no_other() -> None:
    sync_source_limiter().total_tokens = 7

    async def elsewhere() -> float:
        await anyio.lowlevel.checkpoint()
        return sync_source_limiter().total_tokens

    assert await anyio.to_thread.run_sync(anyio.run, elsewhere) == 40


async def test_threads_are_daemons_with_a_name_and_end_with_the_last_source() -> None:
    source = Blocking()
    feed = feed_of(source.events())

    async with running(feed):
        await source.entered.wait()
        (thread,) = our_threads()
        assert thread.daemon
        assert feed.thread == thread.name
        source.release.set()

    await until_threads_end()
    assert our_threads() == set()


async def test_step_in_a_thread_can_be_left_behind(caplog: pytest.LogCaptureFixture) -> None:
    source = Blocking()
    feed = feed_of(source.events(), cleanup_timeout=None)
    feed.release()

    async with running(feed):
        await source.entered.wait()
        thread = feed.thread
        feed.stop()
        await settle()
        feed.release()
        feed.release()

    assert not source.closed.is_set()
    assert caplog.text.count(f"is still at a step in thread {thread!r}") == 1
    source.release.set()
    with anyio.fail_after(SEAT_BELT):
        await source.closed.wait()
    await until_threads_end()


async def test_cleanup_that_is_cut_short_names_the_thread(
    caplog: pytest.LogCaptureFixture,
) -> None:
    source = Blocking()
    feed = feed_of(source.events(), cleanup_timeout=0)

    async with running(feed):
        await source.entered.wait()
        thread = feed.thread
        feed.stop()

    assert f"a step of it goes on in thread {thread!r}" in caplog.text
    source.release.set()
    await until_threads_end()


async def test_thread_that_cannot_be_started_does_not_count(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def no_more(self: object) -> None:
        raise RuntimeError("can't start new thread")

    def numbers() -> Iterator[int]:
        yield 0

    steps = ThreadedIterator(numbers(), current_loop())
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", no_more)
        with pytest.raises(RuntimeError, match="can't start new thread"):
            await anext(steps)

    assert sync_source_limiter().borrowed_tokens == 0
    await steps.aclose()


async def test_idle_threads_end_with_a_loop_that_closed_nothing() -> None:
    pool = _Pool()
    pool.users = 1
    await pool.run(current_loop(), lambda: None, object())
    assert len(our_threads()) == 1

    del pool
    gc.collect()

    await until_threads_end()


async def test_worker_that_comes_back_to_no_pool_has_nobody_to_tell() -> None:
    loop = current_loop()
    job = _Job(lambda: None, loop.waker())

    _Worker(_Pool(), loop)._tell_done(job)

    assert not job.finished
