"""Who is called when something has been published: without delay when it's quiet, together when it isn't."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Callable

import anyio
import anyio.to_thread
import pytest
from tests.unit.driving import SEAT_BELT_SECONDS, until
from tests.unit.following import ManualLoop

from sse_starlette._runtime.loop import current_loop
from sse_starlette.channels._fanout import Fanout, Subscriber
from sse_starlette.channels._options import SubscribeOptions
from sse_starlette.channels._positions import Positions
from sse_starlette.channels._ring import Ring


class FakeSubscriber:
    def __init__(self, react: Callable[[], None] = lambda: None) -> None:
        self.calls = 0
        self._react = react

    def call(self) -> None:
        self.calls += 1
        self._react()

    def newest(self) -> int:
        raise NotImplementedError

    stands: Ring | None = None
    positions = Positions([], SubscribeOptions())

    def offer(self, frames: bytes, now: float, caller: object) -> bool:
        raise NotImplementedError


class StandingSubscriber(FakeSubscriber):
    """One that has had everything, and takes what it's offered unless it is busy."""

    def __init__(self, ring: Ring, offset: int = 0) -> None:
        super().__init__()
        self.positions = Positions([], SubscribeOptions())
        self.stands, self.positions.offsets = ring, [offset]
        self.busy = False
        self.taken: list[bytes] = []

    def offer(self, frames: bytes, now: float, caller: object) -> bool:
        if not self.busy:
            self.taken.append(frames)
        return not self.busy


class FakeChannel:
    """A channel that nothing is in, but for what is appended to its ring."""

    def __init__(self) -> None:
        self.ring = Ring(events=100, bytes_=100_000, seconds=None)
        self.closed_loops: list[Fanout] = []
        self.delivered = 0

    def follow(self, ring: Ring, after: int) -> tuple[bytes | None, int]:
        if ring is not self.ring:
            return None, after
        return ring.read(after) if after < ring.head else (b"", after)

    def count_delivered(self, events: int) -> None:
        self.delivered += events

    def on_loop_closed(self, fanout: Fanout) -> None:
        self.closed_loops.append(fanout)


def fanout_of(loop: ManualLoop, *subscribers: FakeSubscriber) -> Fanout:
    fanout = Fanout(FakeChannel(), loop)
    for subscriber in subscribers:
        fanout.add(subscriber)
    return fanout


def work(fanout: Fanout, loop: ManualLoop, seconds: float) -> None:
    """Have the subscribers called, which keeps the loop for so long."""
    fanout.call()
    loop.turn()
    loop.now += seconds
    loop.turn()


def test_a_quiet_fanout_is_called_when_the_loop_turns() -> None:
    loop = ManualLoop()
    one, another = FakeSubscriber(), FakeSubscriber()
    fanout = fanout_of(loop, one, another)

    fanout.call()

    assert (one.calls, another.calls) == (0, 0)
    loop.turn()
    assert (one.calls, another.calls) == (1, 1)
    loop.settle()
    fanout.call()
    loop.turn()
    assert (one.calls, another.calls) == (2, 2)


def test_who_has_all_keeps_nothing_from_those_behind() -> None:
    """In whatever order they are gone through."""
    loop, channel = ManualLoop(), FakeChannel()
    channel.ring.append(b"first;", 0.0)
    head = channel.ring.head
    has_all = [StandingSubscriber(channel.ring, head) for _ in range(10)]
    behind = [StandingSubscriber(channel.ring, head - 1) for _ in range(10)]
    fanout = Fanout(channel, loop)
    for subscriber in has_all + behind:
        fanout.add(subscriber)

    fanout.call(events=True)
    loop.turn()

    assert [one.taken for one in behind] == [[b"first;"]] * 10
    assert [(one.taken, one.calls) for one in has_all] == [([], 0)] * 10


def test_what_follows_is_offered_and_whoever_cannot_take_it_is_called() -> None:
    loop, channel = ManualLoop(), FakeChannel()
    ring = channel.ring
    fanout = Fanout(channel, loop)
    has_all, busy, behind = [StandingSubscriber(ring, offset) for offset in (1, 1, 0)]
    of_another_ring = StandingSubscriber(Ring(events=1, bytes_=1, seconds=None), 1)
    everybody = (has_all, busy, behind, of_another_ring)
    for subscriber in everybody:
        fanout.add(subscriber)
    busy.busy = True
    for frame in (b"first;", b"second;", b"third;"):
        ring.append(frame, 0.0)

    fanout.call(events=True)
    loop.settle()

    assert has_all.taken == [b"second;third;"]
    assert behind.taken == [b"first;second;third;"]
    assert has_all.positions.offsets == behind.positions.offsets == [3]
    assert channel.delivered == 5
    assert busy.positions.offsets == [1]
    assert busy.taken == of_another_ring.taken == []
    assert [one.calls for one in everybody] == [0, 1, 0, 1]
    # Those who have all events look only if there may be something else.
    fanout.call(events=True)
    loop.settle()
    assert [one.calls for one in everybody] == [0, 2, 0, 2]
    fanout.call()
    loop.settle()
    assert [one.calls for one in everybody] == [1, 3, 1, 3]


def test_what_comes_meanwhile_goes_to_those_whose_turn_is_still_to_come() -> None:
    loop, channel = ManualLoop(), FakeChannel()
    fanout = Fanout(channel, loop)
    subscribers = [StandingSubscriber(channel.ring) for _ in range(250)]
    for subscriber in subscribers:
        fanout.add(subscriber)
    in_order = fanout.subscribers()

    for frame in (b"first;", b"second;"):
        channel.ring.append(frame, 0.0)
        fanout.call(events=True)
        loop.turn()
    loop.settle()

    assert [one.taken for one in in_order[::100] if isinstance(one, StandingSubscriber)] == [
        [b"first;", b"second;"],
        [b"first;second;"],
        [b"first;second;"],
    ]
    assert {subscriber.calls for subscriber in subscribers} == {0}


def test_without_pauses_the_next_round_follows_the_last() -> None:
    loop = ManualLoop()
    subscriber = FakeSubscriber()
    fanout = Fanout(FakeChannel(), loop, pauses=False)
    fanout.add(subscriber)
    work(fanout, loop, 0.06)

    fanout.call()
    loop.turn()

    assert subscriber.calls == 2


def test_many_subscribers_leave_the_loop_a_turn_in_between() -> None:
    loop = ManualLoop()
    subscribers = [FakeSubscriber() for _ in range(250)]
    fanout = fanout_of(loop, *subscribers)
    called = []

    fanout.call()
    for _ in range(4):
        loop.turn()
        called.append(sum(subscriber.calls for subscriber in subscribers))
        fanout.call()
    loop.settle()

    assert called == [100, 200, 250, 250]
    # What was published meanwhile is one call.
    assert {subscriber.calls for subscriber in subscribers} == {2}


def test_calls_while_the_subscribers_are_at_work_become_one() -> None:
    loop = ManualLoop()
    subscriber = FakeSubscriber()
    fanout = fanout_of(loop, subscriber)
    fanout.call()
    loop.turn()

    for _ in range(50):
        fanout.call()

    assert subscriber.calls == 1
    loop.settle()
    assert subscriber.calls == 2


def test_whoever_publishes_when_called_is_called_again() -> None:
    loop = ManualLoop()
    fanout = fanout_of(loop)
    subscriber = FakeSubscriber(lambda: fanout.call() if subscriber.calls < 5 else None)
    fanout.add(subscriber)

    fanout.call()
    loop.settle()

    assert subscriber.calls == 5


@pytest.mark.parametrize("after", [0.0, 0.01, 0.019])
def test_what_comes_soon_after_work_waits_as_long_as_the_work_took(after: float) -> None:
    loop = ManualLoop()
    subscriber = FakeSubscriber()
    fanout = fanout_of(loop, subscriber)
    work(fanout, loop, 0.06)
    loop.advance(after)

    fanout.call()

    loop.advance(0.059 - after)
    assert subscriber.calls == 1
    loop.advance(0.002)
    assert subscriber.calls == 2


def test_what_comes_later_than_a_third_of_that_does_not_wait() -> None:
    loop = ManualLoop()
    subscriber = FakeSubscriber()
    fanout = fanout_of(loop, subscriber)
    work(fanout, loop, 0.06)
    loop.advance(0.021)

    fanout.call()
    loop.turn()

    assert subscriber.calls == 2


def test_calls_in_the_pause_become_one() -> None:
    loop = ManualLoop()
    subscriber = FakeSubscriber()
    fanout = fanout_of(loop, subscriber)
    work(fanout, loop, 0.05)

    for _ in range(50):
        fanout.call()
    loop.advance(1)

    assert subscriber.calls == 2
    assert loop.timers == []
    assert loop.calls == []


def test_a_pause_is_cut_short_before_the_ring_runs_over() -> None:
    loop = ManualLoop()
    subscriber = FakeSubscriber()
    fanout = Fanout(FakeChannel(), loop, most_waiting=10)
    fanout.add(subscriber)
    work(fanout, loop, 0.05)

    for _ in range(10):
        fanout.call()
    assert subscriber.calls == 1

    fanout.call()
    loop.turn()
    assert subscriber.calls == 2

    loop.settle()
    loop.advance(1)
    assert subscriber.calls == 2
    assert loop.timers == []


def test_after_the_pause_it_is_quiet_again() -> None:
    loop = ManualLoop()
    subscriber = FakeSubscriber()
    fanout = fanout_of(loop, subscriber)
    work(fanout, loop, 0.05)
    loop.now += 0.05

    fanout.call()
    loop.turn()

    assert subscriber.calls == 2


def test_whatever_blocked_the_loop_nobody_waits_long_for_the_next_event() -> None:
    loop = ManualLoop()
    subscriber = FakeSubscriber()
    fanout = fanout_of(loop, subscriber)
    work(fanout, loop, 60)

    fanout.call()
    loop.advance(0.1)

    assert subscriber.calls == 2


def test_another_thread_knocks_once_until_it_is_answered() -> None:
    loop = ManualLoop()
    subscriber = FakeSubscriber()
    fanout = fanout_of(loop, subscriber)
    loop.current = False

    for _ in range(50):
        fanout.call()
    assert (loop.wake_ups, subscriber.calls) == (1, 0)

    loop.settle()
    assert subscriber.calls == 1
    fanout.call()
    loop.settle()
    assert (loop.wake_ups, subscriber.calls) == (2, 2)


def test_what_is_published_while_a_knock_is_answered_knocks_again() -> None:
    loop = ManualLoop()
    loop.current = False
    fanout = fanout_of(loop)
    subscriber = FakeSubscriber(lambda: fanout.call() if subscriber.calls == 1 else None)
    fanout.add(subscriber)

    fanout.call()
    loop.settle()

    assert subscriber.calls == 2


def test_a_loop_that_was_closed_in_mid_stream_is_closed_loops() -> None:
    loop = ManualLoop()
    channel = FakeChannel()
    fanout = Fanout(channel, loop)
    loop.current, loop.closed = False, True

    fanout.call()

    assert channel.closed_loops == [fanout]


def test_subscribers_come_and_go() -> None:
    loop = ManualLoop()
    stays, goes = FakeSubscriber(), FakeSubscriber()
    fanout = fanout_of(loop, stays, goes)
    assert fanout

    fanout.discard(goes)
    fanout.discard(goes)
    fanout.discard(FakeSubscriber())
    fanout.add(stays)
    fanout.call()
    loop.turn()

    assert (stays.calls, goes.calls) == (1, 0)
    left: list[Subscriber] = [stays]
    assert fanout.subscribers() == left
    fanout.discard(stays)
    assert not fanout


def test_a_subscriber_that_leaves_when_another_is_called_disturbs_nobody() -> None:
    loop = ManualLoop()
    fanout = fanout_of(loop)
    subscribers = [FakeSubscriber(lambda: fanout.discard(subscribers[0])) for _ in range(3)]
    for subscriber in subscribers:
        fanout.add(subscriber)

    fanout.call()
    loop.turn()

    assert sorted(subscriber.calls for subscriber in subscribers)[1:] == [1, 1]
    assert len(fanout.subscribers()) == 2


def test_nobody_is_kept_alive_by_being_a_subscriber() -> None:
    loop = ManualLoop()
    subscriber = FakeSubscriber()
    fanout = fanout_of(loop, subscriber)
    gone = weakref.ref(subscriber)

    del subscriber
    gc.collect()

    assert gone() is None
    assert not fanout
    fanout.call()


def test_subscribers_may_be_counted_by_another_thread_while_they_come_and_go() -> None:
    loop = ManualLoop()
    fanout = fanout_of(loop)
    enough = threading.Event()
    failed: list[BaseException] = []

    def count() -> None:
        try:
            while not enough.is_set():
                fanout.subscribers()
        except BaseException as exc:
            failed.append(exc)

    thread = threading.Thread(target=count)
    thread.start()
    for _ in range(3_000):
        subscribers = [FakeSubscriber() for _ in range(3)]
        for subscriber in subscribers:
            fanout.add(subscriber)
        fanout.discard(subscribers[0])
    enough.set()
    thread.join(SEAT_BELT_SECONDS)

    assert failed == []


@pytest.mark.anyio
async def test_subscribers_are_called_on_their_own_loop() -> None:
    here = threading.get_ident()
    threads: list[int] = []
    called = anyio.Event()

    def note() -> None:
        threads.append(threading.get_ident())
        called.set()

    subscriber = FakeSubscriber(note)
    fanout = Fanout(FakeChannel(), current_loop())
    fanout.add(subscriber)

    with anyio.fail_after(SEAT_BELT_SECONDS):
        await anyio.to_thread.run_sync(fanout.call)
        await called.wait()
        fanout.call()
        await until(lambda: subscriber.calls >= 2)

    assert set(threads) == {here}


@pytest.mark.anyio
async def test_a_busy_fanout_leaves_the_loop_to_others() -> None:
    calls_between: list[int] = []
    subscriber = FakeSubscriber()
    fanout = Fanout(FakeChannel(), current_loop())
    fanout.add(subscriber)

    with anyio.fail_after(SEAT_BELT_SECONDS):
        for _ in range(20):
            before = subscriber.calls
            for _ in range(100):
                fanout.call()
            await anyio.lowlevel.checkpoint()
            calls_between.append(subscriber.calls - before)

    assert max(calls_between) <= 3


def fail_to_look() -> None:
    raise ZeroDivisionError


def test_a_subscriber_that_raises_is_logged_and_the_others_are_called_as_ever(
    caplog: pytest.LogCaptureFixture,
) -> None:
    loop = ManualLoop()
    subscribers = [FakeSubscriber(), FakeSubscriber(fail_to_look), FakeSubscriber()]
    fanout = fanout_of(loop, *subscribers)

    for _ in range(2):
        fanout.call()
        loop.settle()

    assert [subscriber.calls for subscriber in subscribers] == [2, 2, 2]
    assert "ZeroDivisionError" in caplog.text


def test_a_call_that_may_have_interrupted_its_own_loop_wakes_it() -> None:
    loop = ManualLoop()
    subscriber = FakeSubscriber()
    fanout = fanout_of(loop, subscriber)

    fanout.call(knock=True)

    assert loop.wake_ups == 1
    loop.settle()
    assert subscriber.calls == 1
