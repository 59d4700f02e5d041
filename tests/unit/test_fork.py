"""What a process has drawn or begun before it was forked is not its child's."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from sse_starlette._runtime import fork as _fork
from sse_starlette._runtime.fork import call_in_child, leave_to_parent, tell_child
from sse_starlette._runtime.lock import InterruptedHolderError, Lock
from sse_starlette.channels.channel import Channel, state_of
from sse_starlette.errors import ChannelClosed
from sse_starlette.hub import Hub

IN_CHILD = """
import asyncio, contextlib, os, sys, threading, time, traceback

def started(call, *args):
    thread = threading.Thread(target=call, args=args)
    thread.start()
    return thread

@contextlib.contextmanager
def held_by_a_thread(lock):
    held, done = threading.Event(), threading.Event()

    def hold():
        with lock:
            held.set()
            done.wait()

    thread = started(hold)
    held.wait()
    try:
        yield
    finally:
        done.set()
        thread.join()

def in_child(call):
    child = os.fork()
    if child == 0:
        code = 1
        try:
            call()
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0, status
"""


def run_program(program: str, folder: Path) -> None:
    """Run it in a process of its own: this one has threads of others."""
    done = subprocess.run(
        # Since 3.12 Python warns of any fork of a process with threads.
        [sys.executable, "-W", "ignore:This process:DeprecationWarning", "-c", IN_CHILD + program],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
        cwd=folder,
        # In asyncio's debug mode it would be told of steps that take long, on a busy machine.
        env={**os.environ, "PYTHONASYNCIODEBUG": ""},
    )
    assert (done.returncode, done.stderr) == (0, "")


PROGRAMS = {
    "identities": """
from sse_starlette import Hub
from sse_starlette.channels.channel import Channel

hub = Hub()
made_before = hub.channel("c")
alone = Channel("alone")
for number in range(3):
    made_before.publish_nowait(number, key=str(number))

async def first_of(subscription):
    return await anext(subscription)

def child():
    assert made_before.epoch not in ("", EPOCH)
    assert alone.epoch != ALONE
    assert hub.channel("c") is made_before
    told = asyncio.run(first_of(made_before.subscribe(f"{EPOCH}.1")))
    assert told.event == "reset" and '"epoch"' in told.data, told
    # What was published before belongs to both, and each goes on with it under its own name.
    got = asyncio.run(first_of(made_before.subscribe(replay=2)))
    assert (got.data, got.id) == ("1", f"{made_before.epoch}.2"), got
    assert made_before.publish_nowait("again", key="2") == f"{made_before.epoch}.3"
    assert made_before.publish_nowait("new") == f"{made_before.epoch}.4"
    print(made_before.epoch)

EPOCH, ALONE = made_before.epoch, alone.epoch
in_child(child)
in_child(child)
assert made_before.epoch == EPOCH
assert made_before.publish_nowait("parent") == f"{EPOCH}.4"
""",
    "a lock is held": """
from sse_starlette import Hub
from sse_starlette.channels.channel import state_of

hub = Hub()
channel = hub.channel("c")
channel.publish_nowait("before")
epoch = channel.epoch

def child():
    assert channel.publish_nowait("x") == f"{channel.epoch}.1"
    assert channel.epoch != epoch
    assert hub.channel("c") is channel
    assert hub.stats().published == 1

with held_by_a_thread(state_of(channel)._lock), held_by_a_thread(hub._parts.registry._lock):
    in_child(child)
""",
    "streams are counted": """
from sse_starlette.metrics._tally import Tally
from sse_starlette.observe import StreamRecord

tally = Tally()
stream = StreamRecord("endpoint")
tally.stream_began(stream)

def child():
    assert tally.open_by_endpoint() == tally.sent_by_endpoint() == {}
    tally.stream_began(StreamRecord("other"))
    assert tally.open_by_endpoint() == {"other": 1}

with held_by_a_thread(tally._lock):
    in_child(child)
assert tally.open_by_endpoint() == {"endpoint": 1}
""",
    "a lifespan is under way": """
from sse_starlette import Hub

hub = Hub("sqlite:///events.db")
channel = hub.channel("c")
running, over = threading.Event(), threading.Event()

async def keep():
    async with hub.lifespan():
        async with channel.subscribe() as subscription:
            await channel.publish("first")
            assert (await anext(subscription)).data == "first"
            running.set()
            while not over.is_set():
                await asyncio.sleep(.01)

thread = started(lambda: asyncio.run(keep()))
running.wait()

async def again():
    async with hub.lifespan():
        async with channel.subscribe(replay=9) as subscription:
            assert (await anext(subscription)).data == "first"
            await channel.publish("from the child")
            assert (await anext(subscription)).data == "from the child"

def child():
    for attempt in (channel.publish_threadsafe("x").result, channel.subscribe, channel.close):
        try:
            attempt()
        except RuntimeError as error:
            assert "before this process was forked" in str(error), error
        else:
            assert False, "it was done"
    assert not asyncio.run(hub.ready())
    assert not hub.stats().connected
    asyncio.run(again())

in_child(child)
in_child(lambda: None)
assert channel.publish_threadsafe("parent").result(30).endswith(".3")
over.set()
thread.join()
""",
    "a loop is forked": """
from sse_starlette import EventSourceResponse, Hub
from sse_starlette._shutdown import streams as _shutdown
from sse_starlette._runtime.on_asyncio import timers as _timers

hub = Hub("sqlite:///events.db")
channel = hub.channel("c")
sent = []

async def receive():
    await asyncio.sleep(3600)

async def send(message):
    sent.append(message)

async def main():
    async with hub.lifespan():
        response = EventSourceResponse(channel.subscribe(), ping=60)
        scope = {"type": "http", "method": "GET", "headers": [], "query_string": b""}
        stream = asyncio.create_task(response(scope, receive, send))
        # With an older starlette an empty chunk comes before what the log has said.
        while not any(message.get("body") for message in sent):
            await asyncio.sleep(.01)
        assert _timers._WHEELS and _shutdown.State.streams

        def child():
            assert not _timers._WHEELS and not _shutdown.State.streams
            assert channel.stats().subscribers == 0
            asyncio.run(again())

        in_child(child)
        await channel.publish("still there")
        while b"still there" not in sent[-1]["body"]:
            await asyncio.sleep(.01)
        stream.cancel()

async def again():
    async with hub.lifespan():
        await channel.publish("from the child")

asyncio.run(main())
""",
    "SQLite is at work": """
from sse_starlette import Hub
from sse_starlette.eventlogs.sqlite import _appending

hub = Hub("sqlite:///events.db")
channel = hub.channel("c")
running, at_work, over = (threading.Event() for _ in range(3))
got = []
append = _appending._append_entries

def append_slowly(*arguments):
    at_work.set()
    time.sleep(.1)
    return append(*arguments)

async def keep():
    async with hub.lifespan(), channel.subscribe() as subscription:
        running.set()
        async for event in subscription:
            got.append(event.data)
            if event.data == "last":
                assert hub.stats().losses == 0
                return

thread = started(lambda: asyncio.run(keep()))
running.wait()
channel.publish_threadsafe("first").result(30)

async def again(number):
    async with hub.lifespan(), channel.subscribe(replay=1) as subscription:
        await channel.publish(f"child {number}")
        while (await anext(subscription)).data != f"child {number}":
            pass

def child(number, publisher):
    publisher.publish("c", "without a loop")
    asyncio.run(again(number))

_appending._append_entries = append_slowly
with hub.publisher() as publisher:
    for number in range(3):
        at_work.clear()
        pending = [channel.publish_threadsafe(f"parent {number}")]
        if number:
            # The other one waits until this has been written, or fails.
            other = started(publisher.publish, "c", "x")
        at_work.wait()
        _appending._append_entries = append
        in_child(lambda: child(number, publisher))
        _appending._append_entries = append_slowly
        pending[0].result(30)
        if number:
            other.join()
_appending._append_entries = append
channel.publish_threadsafe("last").result(30)
thread.join()
expected = ["first", "last", "x", "x"] + 3 * ["without a loop"]
expected += [f"{who} {number}" for who in ("child", "parent") for number in range(3)]
assert sorted(got) == sorted(expected), got
""",
}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there's no fork here")
@pytest.mark.parametrize("program", PROGRAMS.values(), ids=PROGRAMS)
def test_a_child_begins_as_if_nothing_had_been_entered_and_the_parent_goes_on(
    program: str, tmp_path: Path
) -> None:
    run_program(program, tmp_path)


def test_importing_the_package_registers_nothing() -> None:
    program = """
import os
def refuse(**calls):
    assert not any(getattr(call, "__module__", "").startswith("sse_starlette") for call in calls.values())
original, os.register_at_fork = os.register_at_fork, refuse
import sse_starlette, sse_starlette.testing
os.register_at_fork = original
"""
    run_program(program, Path.cwd())


class Told:
    def __init__(self, *, fails: bool = False) -> None:
        self.times = 0
        self.fails = fails

    def after_fork(self) -> None:
        self.times += 1
        if self.fails:
            raise RuntimeError("made up")


def test_all_that_are_still_there_are_told_whatever_one_of_them_raises(
    caplog: pytest.LogCaptureFixture,
) -> None:
    owners = [Told(), Told(fails=True), Told()]
    called: list[int] = []

    def call() -> None:
        called.append(1)

    for owner in owners:
        tell_child(owner)
    call_in_child(call)
    call_in_child(call)
    del owners[0], owner
    gc.collect()

    try:
        _fork._after_fork()
    finally:
        _fork._calls.remove(call)

    assert [owner.times for owner in owners] == [1, 1]
    assert called == [1]
    assert "made up" in caplog.text


def test_where_there_is_no_fork_nothing_is_registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "register_at_fork")
    monkeypatch.setattr(_fork, "_registered", False)

    tell_child(Told())

    assert _fork._registered


def test_what_is_the_parents_is_kept() -> None:
    thing = Told()

    leave_to_parent(thing)

    assert _fork._left.pop() is thing


# --- The lock


def test_a_thread_that_holds_the_lock_is_refused_and_may_leave_a_call_behind() -> None:
    lock, calls = Lock(), []

    with lock:
        with pytest.raises(InterruptedHolderError, match="publish_threadsafe"):
            lock.__enter__()
        lock.after(lambda: calls.append(lock.entered))
        assert calls == []

    assert calls == [False]


def test_another_thread_waits_for_the_lock() -> None:
    lock, order = Lock(), []
    begun = threading.Event()

    def other() -> None:
        begun.set()
        with lock:
            order.append("other")

    with lock:
        thread = threading.Thread(target=other)
        thread.start()
        begun.wait()
        order.append("first")
    thread.join()

    assert order == ["first", "other"]


def test_what_interrupts_a_publish_is_published_after_it() -> None:
    channel = Channel("c")
    with state_of(channel)._lock:
        with pytest.raises(RuntimeError, match="signal handler"):
            channel.publish_nowait("refused")
        futures = [channel.publish_threadsafe(text) for text in ("one", {"id": "of its own"})]
        channel.close()
        too_late = channel.publish_threadsafe("three")
        assert not futures[0].done()
        assert not channel.closed

    assert futures[0].result() == f"{channel.epoch}.1"
    assert isinstance(futures[1].exception(), ValueError)
    assert channel.closed
    assert isinstance(too_late.exception(), ChannelClosed)


def test_an_interrupted_change_is_not_carried_on() -> None:
    channel = Channel("c", slow="latest", latest_by=lambda event: event.data)
    channel.publish_nowait("one")
    state_of(channel)._ring._frames.append(b"half made")

    channel.publish_nowait("two")

    assert [frame.split(b"data: ")[1] for frame in state_of(channel)._ring.frames(0, 2)] == [
        b"one\r\n\r\n",
        b"two\r\n\r\n",
    ]
    state_of(channel).after_fork()
    latest = state_of(channel)._latest
    assert latest is not None
    assert all(channel.epoch.encode() in frame for _, frame in latest.frames.values())


def test_a_hub_in_a_child_has_its_channels_and_a_lock_of_its_own() -> None:
    hub = Hub()
    channel = hub.channel("c")
    with hub._parts.registry._lock, state_of(channel)._lock:
        hub._parts.registry.after_fork()
        state_of(channel).after_fork()
        assert hub.channel("c") is channel
        assert channel.publish_nowait("x") == f"{channel.epoch}.1"


A_SIGNAL_HANDLER = """
import signal
from sse_starlette import Hub

hub = Hub()
channel = hub.channel("c", history=100_000)
futures, refused, ids = [], [], []

def handle(*_):
    futures.append(channel.publish_threadsafe("from the handler"))
    try:
        ids.append(channel.publish_nowait("from the handler, too"))
    except RuntimeError:
        refused.append(1)

signal.signal(signal.SIGALRM, handle)
signal.setitimer(signal.ITIMER_REAL, .0002, .0002)
while len(futures) < 300:
    ids.append(channel.publish_nowait("in the loop"))
    channel.stats()
signal.setitimer(signal.ITIMER_REAL, 0)
ids += [future.result(0) for future in futures]
assert len(set(ids)) == len(ids) == channel.stats().published, (len(ids), channel.stats())
"""


def test_a_signal_handler_that_publishes_never_waits_for_what_it_has_interrupted(
    tmp_path: Path,
) -> None:
    run_program(A_SIGNAL_HANDLER, tmp_path)
