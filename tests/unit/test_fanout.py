"""Who is called when something has been published: without delay when it's quiet, together when it isn't."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import anyio
import anyio.to_thread
import pytest
from tests.unit.driving import SEAT_BELT_SECONDS, until
from tests.unit.following import ManualLoop

from sse_starlette._runtime.loop import Loop, current_loop
from sse_starlette.channels._fanout import Fanout, Subscriber
from sse_starlette.channels._options import SubscribeOptions
from sse_starlette.channels._positions import Positions
from sse_starlette.channels._ring import Ring

pytestmark = pytest.mark.anyio


class FakeSubscriber:
    """One that stands at an offset of a ring, if there is one, and takes what it's offered unless it is busy."""

    def __init__(
        self,
        react: Callable[[], object] = lambda: None,
        *,
        ring: Ring | None = None,
        offset: int = 0,
        busy: bool = False,
    ) -> None:
        self.calls = 0
        self.taken: list[bytes] = []
        self.stands = ring
        self.positions = Positions([], SubscribeOptions())
        self.positions.offsets = [offset]
        self._react = react
        self._busy = busy

    def call(self) -> None:
        self.calls += 1
        self._react()

    def newest(self) -> int:
        raise NotImplementedError

    def offer(self, frames: bytes, now: float, caller: object) -> bool:
        assert self.stands is not None
        if not self._busy:
            self.taken.append(frames)
        return not self._busy


class FakeChannel:
    """A channel that nothing is in, but for what is appended to its ring."""

    def __init__(self) -> None:
        self.ring = Ring(events=100, bytes_=100_000, seconds=None)
        self.delivered = 0

    def follow(self, ring: Ring, after: int) -> tuple[bytes | None, int]:
        if ring is not self.ring:
            return None, after
        return ring.read(after) if after < ring.head else (b"", after)

    def count_delivered(self, events: int) -> None:
        self.delivered += events

    def on_loop_closed(self, fanout: Fanout) -> None:
        raise NotImplementedError


def fanout_of(
    loop: Loop, *subscribers: FakeSubscriber, channel: FakeChannel | None = None
) -> Fanout:
    fanout = Fanout(channel or FakeChannel(), loop)
    for subscriber in subscribers:
        fanout.add(subscriber)
    return fanout


class Play:
    """
    Plays what happens to a fan-out with one subscriber, word by word.

    `call` or `call:50`: so often something has been published; `knock`: by what may have interrupted the loop;
    `work:0.06`: the subscribers are called, which keeps the loop for so long; `turn` and `settle`: the loop
    turns once, or until nothing is ready; `+0.01`: the clock moves, and the loop settles; `thread`: from now on
    another thread calls; `=2`: the subscriber has been called so often; `wakes:1`: the loop has been woken so
    often; `idle`: the loop has nothing to do.
    """

    def __init__(self, again: int = 0, **options: Any) -> None:
        self.loop = ManualLoop()
        self.fanout = Fanout(FakeChannel(), self.loop, **options)
        self.subscriber = FakeSubscriber(
            lambda: self.fanout.call() if self.subscriber.calls <= again else None
        )
        self.fanout.add(self.subscriber)

    def do(self, word: str) -> None:
        loop = self.loop
        name, _, value = word.partition(":")
        if name == "call":
            for _ in range(int(value or 1)):
                self.fanout.call()
        elif name == "knock":
            self.fanout.call(knock=True)
        elif name == "work":
            self.fanout.call()
            loop.turn()
            loop.now += float(value)
            loop.turn()
        elif name in ("turn", "settle"):
            getattr(loop, name)()
        elif name == "thread":
            loop.current = False
        elif name == "wakes":
            assert loop.wake_ups == int(value), word
        elif name == "idle":
            assert (loop.timers, loop.calls) == ([], [])
        elif name[0] == "=":
            assert self.subscriber.calls == int(name[1:]), word
        else:
            loop.advance(float(name))


ROUNDS: dict[str, tuple[str, dict[str, Any]]] = {
    "a quiet one is called when the loop turns": ("call =0 turn =1 settle call turn =2", {}),
    "calls while it is at work become one": ("call turn call:50 =1 settle =2", {}),
    "who publishes when called is called again": ("call settle =5", {"again": 4}),
    "what comes right after work waits as long as that": ("work:.06 call +.059 =1 +.002 =2", {}),
    "what comes soon after it, too": ("work:.06 +.01 call +.049 =1 +.002 =2", {}),
    "just within a third of it, too": ("work:.06 +.019 call +.04 =1 +.002 =2", {}),
    "what comes later than a third does not wait": ("work:.06 +.021 call turn =2", {}),
    "calls in the pause become one": ("work:.05 call:50 +1 =2 idle", {}),
    "a pause is cut short before the ring runs over": (
        "work:.05 call:10 =1 call turn =2 settle +1 =2 idle",
        {"most_waiting": 10},
    ),
    "after the pause it is quiet again": ("work:.05 +.05 call turn =2", {}),
    "without pauses the next round follows the last": ("work:.06 call turn =2", {"pauses": False}),
    "whatever blocked the loop nobody waits long": ("work:60 call +.1 =2", {}),
    "another thread knocks once until it is answered": (
        "thread call:50 wakes:1 =0 settle =1 call settle wakes:2 =2",
        {},
    ),
    "what comes while a knock is answered knocks again": ("thread call settle =2", {"again": 1}),
    "what may have interrupted its own loop wakes it": ("knock wakes:1 settle =1", {}),
}


@pytest.mark.parametrize(("script", "options"), ROUNDS.values(), ids=ROUNDS)
def test_when_the_subscribers_are_called(script: str, options: dict[str, Any]) -> None:
    play = Play(**options)

    for word in script.split():
        play.do(word)


def test_who_has_all_keeps_nothing_from_those_behind() -> None:
    """In whatever order they are gone through."""
    loop, channel = ManualLoop(), FakeChannel()
    channel.ring.append(b"first;", 0.0)
    head = channel.ring.head
    has_all = [FakeSubscriber(ring=channel.ring, offset=head) for _ in range(10)]
    behind = [FakeSubscriber(ring=channel.ring, offset=head - 1) for _ in range(10)]
    fanout = fanout_of(loop, *has_all, *behind, channel=channel)

    fanout.call(events=True)
    loop.turn()

    assert [one.taken for one in behind] == [[b"first;"]] * 10
    assert [(one.taken, one.calls) for one in has_all] == [([], 0)] * 10


def test_what_follows_is_offered_and_whoever_cannot_take_it_is_called() -> None:
    loop, channel = ManualLoop(), FakeChannel()
    ring = channel.ring
    has_all, behind = [FakeSubscriber(ring=ring, offset=offset) for offset in (1, 0)]
    busy = FakeSubscriber(ring=ring, offset=1, busy=True)
    of_another_ring = FakeSubscriber(ring=Ring(events=1, bytes_=1, seconds=None), offset=1)
    everybody = (has_all, busy, behind, of_another_ring)
    fanout = fanout_of(loop, *everybody, channel=channel)
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
    for events, calls in ((True, [0, 2, 0, 2]), (False, [1, 3, 1, 3])):
        fanout.call(events=events)
        loop.settle()
        assert [one.calls for one in everybody] == calls


def test_what_comes_meanwhile_goes_to_those_whose_turn_is_still_to_come() -> None:
    loop, channel = ManualLoop(), FakeChannel()
    subscribers = [FakeSubscriber(ring=channel.ring) for _ in range(250)]
    fanout = fanout_of(loop, *subscribers, channel=channel)

    for frame in (b"first;", b"second;"):
        channel.ring.append(frame, 0.0)
        fanout.call(events=True)
        loop.turn()
    loop.settle()

    taken = sorted(one.taken for one in subscribers)
    assert taken == [[b"first;", b"second;"]] * 100 + [[b"first;second;"]] * 150
    assert {subscriber.calls for subscriber in subscribers} == {0}


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


def test_subscribers_come_and_go() -> None:
    loop, stays, goes = ManualLoop(), FakeSubscriber(), FakeSubscriber()
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
    subscribers = [FakeSubscriber(lambda: fanout.discard(subscribers[0])) for _ in range(3)]
    fanout = fanout_of(loop, *subscribers)

    fanout.call()
    loop.turn()

    assert sorted(subscriber.calls for subscriber in subscribers)[1:] == [1, 1]
    assert len(fanout.subscribers()) == 2


def test_nobody_is_kept_alive_by_being_a_subscriber() -> None:
    subscriber = FakeSubscriber()
    fanout = fanout_of(ManualLoop(), subscriber)
    gone = weakref.ref(subscriber)

    del subscriber
    gc.collect()

    assert gone() is None
    assert not fanout
    fanout.call()


def test_subscribers_may_be_counted_by_another_thread_while_they_come_and_go() -> None:
    fanout = fanout_of(ManualLoop())
    enough = threading.Event()

    def count() -> None:
        while not enough.is_set():
            fanout.subscribers()

    with ThreadPoolExecutor(1) as pool:
        counting = pool.submit(count)
        for _ in range(3_000):
            subscribers = [FakeSubscriber() for _ in range(3)]
            for subscriber in subscribers:
                fanout.add(subscriber)
            fanout.discard(subscribers[0])
        enough.set()

    counting.result()


async def test_subscribers_are_called_on_their_own_loop() -> None:
    here = threading.get_ident()
    threads: list[int] = []
    called = anyio.Event()

    def note() -> None:
        threads.append(threading.get_ident())
        called.set()

    subscriber = FakeSubscriber(note)
    fanout = fanout_of(current_loop(), subscriber)

    with anyio.fail_after(SEAT_BELT_SECONDS):
        await anyio.to_thread.run_sync(fanout.call)
        await called.wait()
        fanout.call()
        await until(lambda: subscriber.calls >= 2)

    assert set(threads) == {here}


def test_a_subscriber_that_raises_is_logged_and_the_others_are_called_as_ever(
    caplog: pytest.LogCaptureFixture,
) -> None:
    loop = ManualLoop()
    subscribers = [FakeSubscriber(), FakeSubscriber(lambda: divmod(1, 0)), FakeSubscriber()]
    fanout = fanout_of(loop, *subscribers)

    for _ in range(2):
        fanout.call()
        loop.settle()

    assert [subscriber.calls for subscriber in subscribers] == [2, 2, 2]
    assert "ZeroDivisionError" in caplog.text
