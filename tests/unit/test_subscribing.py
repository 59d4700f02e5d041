"""Where a subscription begins, and what its response is."""

from __future__ import annotations

import pytest
from starlette.requests import HTTPConnection
from tests.unit.driving import drive, http_scope, settled
from tests.unit.following import ManualLoop, fill, numbers, opened
from tests.unit.parsers import read_by_the_standard
from tests.unit.subscribing import asking, data_of, reading, streaming

from sse_starlette.channels.channel import Channel, state_of
from sse_starlette.sse import EventSourceResponse

pytestmark = pytest.mark.anyio

# --- Where a subscription begins; see also test_channel_scenarios.py


def test_the_first_block_is_an_id_that_fires_no_event(loop: ManualLoop) -> None:
    channel = Channel("c")
    fill(channel, 1, 2)

    first = opened(channel.subscribe())._feed.take()

    assert first == f"id: {channel.epoch}.2\r\n\r\n".encode()
    reading = read_by_the_standard([first])
    assert (reading.fired, reading.last_event_id) == ([], f"{channel.epoch}.2")


def test_where_a_client_left_off_is_read_from_its_request(loop: ManualLoop) -> None:
    channel = Channel("c")
    fill(channel, 1, 5)

    def first(request: HTTPConnection) -> list[str]:
        return data_of(channel.subscribe(request))

    at = [f"{channel.epoch}.{offset}" for offset in range(6)]
    assert first(asking()) == []
    assert first(asking(at[3])) == ["4", "5"]
    assert first(asking(last_event_id=at[3])) == ["4", "5"]
    assert first(asking(at[4], last_event_id=at[1])) == ["5"]
    assert first(asking(lastEventId=at[4])) == ["5"]
    assert first(asking(lastEventId=at[1])) == numbers(2, 5)


def test_what_nobody_can_ask_for_is_refused_where_it_was_written() -> None:
    with pytest.raises(ValueError, match="replay must be >= 0 events, got: -1"):
        Channel("c").subscribe(replay=-1)
    with pytest.raises((TypeError, AttributeError)):
        Channel("c").subscribe(b"ab.1")  # type: ignore[arg-type]


# --- One response


async def test_events_of_one_turn_leave_together_and_one_leaves_at_once() -> None:
    channel = Channel("c")
    async with streaming(channel.subscribe()) as client:
        fill(channel, 1, 50)
        await client.contains("data: 50\r\n")
        await settled()
        before = len(client.chunks)
        fill(channel, 51, 51)
        await client.contains("data: 51\r\n")

    assert before <= 3
    assert reading(client).data == numbers(1, 51)


@pytest.mark.parametrize("first", ["a reset", "a snapshot"])
async def test_what_must_not_be_joined_leaves_one_by_one(first: str) -> None:
    channel = Channel("c")
    if first == "a reset":
        subscription = channel.subscribe("nonsense")
    else:
        subscription = channel.subscribe(snapshot=lambda: ["a", "b"])
    fill(channel, 1, 5)

    async with streaming(subscription, join_events=False) as client:
        await client.contains("data: 5\r\n")

    before = 1 if first == "a reset" else 3  # The last block of a snapshot is its id.
    assert [chunk.count(b"\r\n\r\n") for chunk in client.chunks] == [1] * (before + 5)


async def test_a_client_that_leaves_is_a_subscriber_no_more() -> None:
    channel = Channel("c")
    subscription = channel.subscribe()
    assert (channel.stats().subscribers, subscription.last_event_id[-2:]) == (0, ".0")
    async with streaming(subscription):
        assert channel.stats().subscribers == 1

    assert channel.stats().subscribers == 0
    assert state_of(channel)._fanouts == {}


async def test_the_answer_to_head_has_no_body_and_leaves_nothing_behind() -> None:
    channel = Channel("c")
    fill(channel, 1, 3)
    asked: list[str] = []

    def snapshot() -> list[str]:
        asked.append("snapshot")
        return ["snapshot"]

    for subscription in (
        channel.subscribe(),
        channel.subscribe(f"{channel.epoch}.1"),
        channel.subscribe("nonsense", snapshot=snapshot),
    ):
        async with drive(EventSourceResponse(subscription), scope=http_scope("HEAD")) as client:
            await client.returns()
        assert (client.status, client.body, client.complete) == (200, b"", True)

    assert asked == []
    assert (channel.stats().subscribers, channel.stats().delivered) == (0, 0)


@pytest.mark.parametrize("first", ["streamed", "iterated", "closed"])
@pytest.mark.parametrize("then", ["streamed", "iterated"])
async def test_a_subscription_can_be_used_once(first: str, then: str) -> None:
    channel = Channel("c")
    subscription = channel.subscribe()
    channel.publish_nowait("x")
    if first == "streamed":
        async with streaming(subscription) as client:
            await client.contains("data: x\r\n")
    elif first == "iterated":
        await anext(subscription)
    else:
        await subscription.aclose()

    if then == "streamed":
        async with drive(EventSourceResponse(subscription)) as client:
            error = await client.raises(RuntimeError)
        assert "once" in str(error)
    elif first != "iterated":
        with pytest.raises(StopAsyncIteration):
            await anext(subscription)

    await subscription.aclose()
    assert channel.stats().subscribers == 0


async def test_what_is_being_streamed_can_not_be_iterated_too() -> None:
    channel = Channel("c")
    subscription = channel.subscribe()
    async with streaming(subscription) as client:
        for _ in range(2):
            with pytest.raises(RuntimeError, match="can be streamed or iterated once"):
                await anext(subscription)
        await channel.publish("x")
        await client.contains("data: x\r\n")
