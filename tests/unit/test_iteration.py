"""A subscription that is iterated."""

from __future__ import annotations

import gc
import json
import weakref

import anyio
import anyio.lowlevel
import pytest
from tests.unit.driving import SEAT_BELT_SECONDS, settled
from tests.unit.following import fill, numbers
from tests.unit.subscribing import note, streaming

from sse_starlette.channels.channel import Channel, state_of
from sse_starlette.event import ServerSentEvent

pytestmark = pytest.mark.anyio


async def test_a_subscription_yields_events_with_their_ids() -> None:
    channel = Channel("c")
    fill(channel, 1, 2, event="number")

    async with channel.subscribe("nonsense", filter=None) as subscription:
        fill(channel, 3, 4, event="number")
        channel.close()
        got = [event async for event in subscription]
        assert subscription.last_event_id == f"{channel.epoch}.4"

    assert [(one.event, one.data, one.id) for one in got[1:]] == [
        ("number", "3", f"{channel.epoch}.3"),
        ("number", "4", f"{channel.epoch}.4"),
    ]
    assert got[0].event == "reset"
    assert json.loads(got[0].data)["reason"] == "unknown"
    assert got[0].id == f"{channel.epoch}.2"


async def test_blocks_that_fire_no_event_are_not_yielded() -> None:
    channel = Channel("c")
    async with channel.subscribe() as subscription:
        for value in ({"retry": 5}, {"comment": "x"}, ServerSentEvent(), "x", {"event": "y"}):
            channel.publish_nowait(value)
        channel.close()

        got = [(event.event, event.data) async for event in subscription]

    assert got == [(None, "x"), ("y", None)]


async def test_a_cancelled_wait_loses_no_event() -> None:
    channel = Channel("c")
    got: list[str] = []

    async with channel.subscribe() as subscription:
        for number in range(1, 30):
            with anyio.CancelScope() as scope:
                async with anyio.create_task_group() as tasks:

                    async def publish_and_cancel(
                        number: int = number, scope: anyio.CancelScope = scope
                    ) -> None:
                        for _ in range(number % 4):
                            await anyio.lowlevel.checkpoint()
                        fill(channel, number, number)
                        scope.cancel()

                    tasks.start_soon(publish_and_cancel)
                    await note(subscription, got)
        channel.close()
        got += [event.data async for event in subscription]

    assert got == numbers(1, 29)


async def test_closing_a_subscription_ends_the_wait_for_its_next_event() -> None:
    channel = Channel("c")
    subscription = channel.subscribe()
    ended = anyio.Event()

    async def follow() -> None:
        async for _ in subscription:
            raise AssertionError
        ended.set()

    with anyio.fail_after(SEAT_BELT_SECONDS):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(follow)
            await settled()
            await subscription.aclose()
            await ended.wait()


async def test_a_closed_subscription_yields_nothing_more() -> None:
    channel = Channel("c")
    subscription = channel.subscribe()
    fill(channel, 1, 3)
    assert (await anext(subscription)).data == "1"

    await subscription.aclose()
    await subscription.aclose()

    with pytest.raises(StopAsyncIteration):
        await anext(subscription)
    assert channel.stats().subscribers == 0


async def test_a_streamed_subscription_that_is_closed_ends_its_response() -> None:
    channel = Channel("c")
    subscription = channel.subscribe()
    async with streaming(subscription) as client:
        await subscription.aclose()
        await client.returns()

    assert client.complete


async def test_a_subscription_that_was_never_opened_is_not_kept_alive() -> None:
    channel = Channel("c")
    gone = weakref.ref(channel.subscribe(filter=bool, snapshot=list))

    gc.collect()

    assert gone() is None
    assert not state_of(channel)._subscriptions


async def test_an_iteration_that_was_abandoned_is_not_kept_alive() -> None:
    channel = Channel("c")
    subscription = channel.subscribe()
    channel.publish_nowait("x")
    await anext(subscription)
    gone = weakref.ref(subscription)

    del subscription
    gc.collect()

    assert gone() is None
    assert channel.stats().subscribers == 0
    channel.publish_nowait("y")
