"""Who is called when something has been published: without delay when it's quiet, together when it isn't."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Callable
from typing import Any

import anyio
import anyio.to_thread
import pytest
from tests.unit.driving import SEAT_BELT_SECONDS, until
from tests.unit.following import HandLoop

from sse_starlette._runtime.loop import current_loop
from sse_starlette.channels._audience import Audience


class Member:
    def __init__(self, react: Callable[[], None] = lambda: None) -> None:
        self.calls = 0
        self._react = react

    def call(self) -> None:
        self.calls += 1
        self._react()

    def offset_in(self, channel: Any) -> int:
        raise NotImplementedError


class Forsaken:
    def __init__(self) -> None:
        self.audiences: list[Audience] = []

    def __call__(self, audience: Audience) -> None:
        self.audiences.append(audience)


def audience_of(loop: HandLoop, *members: Member) -> Audience:
    audience = Audience(loop, Forsaken())
    for member in members:
        audience.add(member)
    return audience


def work(audience: Audience, loop: HandLoop, seconds: float) -> None:
    """Have the members called, which keeps the loop for so long."""
    audience.call()
    loop.turn()
    loop.now += seconds
    loop.turn()


def test_a_quiet_audience_is_called_when_the_loop_turns() -> None:
    loop = HandLoop()
    one, another = Member(), Member()
    audience = audience_of(loop, one, another)

    audience.call()

    assert (one.calls, another.calls) == (0, 0)
    loop.turn()
    assert (one.calls, another.calls) == (1, 1)
    loop.settle()
    audience.call()
    loop.turn()
    assert (one.calls, another.calls) == (2, 2)


def test_many_members_leave_the_loop_a_turn_in_between() -> None:
    loop = HandLoop()
    members = [Member() for _ in range(250)]
    audience = audience_of(loop, *members)
    called = []

    audience.call()
    for _ in range(4):
        loop.turn()
        called.append(sum(member.calls for member in members))
        audience.call()
    loop.settle()

    assert called == [100, 200, 250, 250]
    # What was published meanwhile is one call.
    assert {member.calls for member in members} == {2}


def test_calls_while_the_members_are_at_work_become_one() -> None:
    loop = HandLoop()
    member = Member()
    audience = audience_of(loop, member)
    audience.call()
    loop.turn()

    for _ in range(50):
        audience.call()

    assert member.calls == 1
    loop.settle()
    assert member.calls == 2


def test_whoever_publishes_when_called_is_called_again() -> None:
    loop = HandLoop()
    audience = audience_of(loop)
    member = Member(lambda: audience.call() if member.calls < 5 else None)
    audience.add(member)

    audience.call()
    loop.settle()

    assert member.calls == 5


@pytest.mark.parametrize("after", [0.0, 0.01, 0.019])
def test_what_comes_soon_after_work_waits_as_long_as_the_work_took(after: float) -> None:
    loop = HandLoop()
    member = Member()
    audience = audience_of(loop, member)
    work(audience, loop, 0.06)
    loop.advance(after)

    audience.call()

    loop.advance(0.059 - after)
    assert member.calls == 1
    loop.advance(0.002)
    assert member.calls == 2


def test_what_comes_later_than_a_third_of_that_does_not_wait() -> None:
    loop = HandLoop()
    member = Member()
    audience = audience_of(loop, member)
    work(audience, loop, 0.06)
    loop.advance(0.021)

    audience.call()
    loop.turn()

    assert member.calls == 2


def test_calls_in_the_pause_become_one() -> None:
    loop = HandLoop()
    member = Member()
    audience = audience_of(loop, member)
    work(audience, loop, 0.05)

    for _ in range(50):
        audience.call()
    loop.advance(1)

    assert member.calls == 2
    assert loop.timers == []
    assert loop.calls == []


def test_a_pause_is_cut_short_before_the_ring_runs_over() -> None:
    loop = HandLoop()
    member = Member()
    audience = Audience(loop, Forsaken(), most_waiting=10)
    audience.add(member)
    work(audience, loop, 0.05)

    for _ in range(10):
        audience.call()
    assert member.calls == 1

    audience.call()
    loop.turn()
    assert member.calls == 2

    loop.settle()
    loop.advance(1)
    assert member.calls == 2
    assert loop.timers == []


def test_after_the_pause_it_is_quiet_again() -> None:
    loop = HandLoop()
    member = Member()
    audience = audience_of(loop, member)
    work(audience, loop, 0.05)
    loop.now += 0.05

    audience.call()
    loop.turn()

    assert member.calls == 2


def test_whatever_blocked_the_loop_nobody_waits_long_for_the_next_event() -> None:
    loop = HandLoop()
    member = Member()
    audience = audience_of(loop, member)
    work(audience, loop, 60)

    audience.call()
    loop.advance(0.1)

    assert member.calls == 2


def test_another_thread_knocks_once_until_it_is_answered() -> None:
    loop = HandLoop()
    member = Member()
    audience = audience_of(loop, member)
    loop.current = False

    for _ in range(50):
        audience.call()
    assert (loop.knocks, member.calls) == (1, 0)

    loop.settle()
    assert member.calls == 1
    audience.call()
    loop.settle()
    assert (loop.knocks, member.calls) == (2, 2)


def test_what_is_published_while_a_knock_is_answered_knocks_again() -> None:
    loop = HandLoop()
    loop.current = False
    audience = audience_of(loop)
    member = Member(lambda: audience.call() if member.calls == 1 else None)
    audience.add(member)

    audience.call()
    loop.settle()

    assert member.calls == 2


def test_a_loop_that_was_closed_in_mid_stream_is_forsaken() -> None:
    loop = HandLoop()
    forsaken = Forsaken()
    audience = Audience(loop, forsaken)
    loop.current, loop.closed = False, True

    audience.call()

    assert forsaken.audiences == [audience]


def test_members_come_and_go() -> None:
    loop = HandLoop()
    stays, goes = Member(), Member()
    audience = audience_of(loop, stays, goes)
    assert audience

    audience.discard(goes)
    audience.discard(goes)
    audience.discard(Member())
    audience.add(stays)
    audience.call()
    loop.turn()

    assert (stays.calls, goes.calls) == (1, 0)
    assert audience.members() == [stays]
    audience.discard(stays)
    assert not audience


def test_a_member_that_leaves_when_another_is_called_disturbs_nobody() -> None:
    loop = HandLoop()
    audience = audience_of(loop)
    members = [Member(lambda: audience.discard(members[0])) for _ in range(3)]
    for member in members:
        audience.add(member)

    audience.call()
    loop.turn()

    assert sorted(member.calls for member in members)[1:] == [1, 1]
    assert len(audience.members()) == 2


def test_nobody_is_kept_alive_by_being_a_member() -> None:
    loop = HandLoop()
    member = Member()
    audience = audience_of(loop, member)
    gone = weakref.ref(member)

    del member
    gc.collect()

    assert gone() is None
    assert not audience
    audience.call()


def test_members_may_be_counted_by_another_thread_while_they_come_and_go() -> None:
    loop = HandLoop()
    audience = audience_of(loop)
    enough = threading.Event()
    failed: list[BaseException] = []

    def count() -> None:
        try:
            while not enough.is_set():
                audience.members()
        except BaseException as exc:
            failed.append(exc)

    thread = threading.Thread(target=count)
    thread.start()
    for _ in range(3_000):
        members = [Member() for _ in range(3)]
        for member in members:
            audience.add(member)
        audience.discard(members[0])
    enough.set()
    thread.join(SEAT_BELT_SECONDS)

    assert failed == []


@pytest.mark.anyio
async def test_members_are_called_on_their_own_loop() -> None:
    here = threading.get_ident()
    threads: list[int] = []
    called = anyio.Event()

    def note() -> None:
        threads.append(threading.get_ident())
        called.set()

    member = Member(note)
    audience = Audience(current_loop(), Forsaken())
    audience.add(member)

    with anyio.fail_after(SEAT_BELT_SECONDS):
        await anyio.to_thread.run_sync(audience.call)
        await called.wait()
        audience.call()
        await until(lambda: member.calls >= 2)

    assert set(threads) == {here}


@pytest.mark.anyio
async def test_a_busy_audience_leaves_the_loop_to_others() -> None:
    calls_between: list[int] = []
    member = Member()
    audience = Audience(current_loop(), Forsaken())
    audience.add(member)

    with anyio.fail_after(SEAT_BELT_SECONDS):
        for _ in range(20):
            before = member.calls
            for _ in range(100):
                audience.call()
            await anyio.lowlevel.checkpoint()
            calls_between.append(member.calls - before)

    assert max(calls_between) <= 3


def fail_to_look() -> None:
    raise ZeroDivisionError


def test_a_member_that_raises_is_logged_and_the_others_are_called_as_ever(
    caplog: pytest.LogCaptureFixture,
) -> None:
    loop = HandLoop()
    members = [Member(), Member(fail_to_look), Member()]
    audience = audience_of(loop, *members)

    for _ in range(2):
        audience.call()
        loop.settle()

    assert [member.calls for member in members] == [2, 2, 2]
    assert "ZeroDivisionError" in caplog.text


def test_a_call_that_may_have_interrupted_its_own_loop_wakes_it() -> None:
    loop = HandLoop()
    member = Member()
    audience = audience_of(loop, member)

    audience.call(knock=True)

    assert loop.knocks == 1
    loop.settle()
    assert member.calls == 1
