"""Clients that read too slowly: what they get, and what is counted. See also test_channel_scenarios.py."""

from __future__ import annotations

import pytest
from tests.unit.driving import drive, settled
from tests.unit.following import Client, ManualLoop, fill, numbers, opened, read
from tests.unit.subscribing import generated, key, publish, reading, streaming

from sse_starlette.channels._stats import ChannelStats
from sse_starlette.channels.channel import Channel, state_of
from sse_starlette.errors import SubscriberTooSlow
from sse_starlette.hub import Hub
from sse_starlette.sse import EventSourceResponse

pytestmark = pytest.mark.anyio

# --- Clients that read too slowly


async def test_a_stalled_client_delays_nobody_and_its_stream_is_completed() -> None:
    channel = Channel("c", history=10)
    reasons: list[str] = []
    async with (
        streaming(channel.subscribe(), on_close=reasons.append) as stalled,
        streaming(channel.subscribe()) as healthy,
    ):
        stalled.block()
        for number in range(1, 101):
            await channel.publish(number)
            await healthy.contains(f"data: {number}\r\n")
        stats = channel.stats()
        stalled.unblock()
        await stalled.returns()

    assert reading(healthy).data == numbers(1, 100)
    assert (stats.kept_events, stats.subscribers) == (10, 2)
    assert stats.lag >= 99
    assert (stalled.complete, reasons) == (True, ["lagging"])
    assert (reading(stalled).data, reading(stalled).cut()) == (["1"], f"{channel.epoch}.1")


async def test_iterating_too_slowly_raises_what_was_found() -> None:
    hub = Hub()
    a, b = hub.channel("a"), hub.channel("b", history=3)
    subscription = hub.subscribe([a, b])
    fill(b, 1, 1)
    assert (await anext(subscription)).data == "1"
    fill(b, 2, 9)

    with pytest.raises(SubscriberTooSlow) as raised:
        await anext(subscription)

    assert raised.value.channels == ["a", "b"]
    assert raised.value.last_event_id == f"{a.epoch}.0-{b.epoch}.1"
    assert b.stats().subscribers == 0
    with pytest.raises(StopAsyncIteration):
        await anext(subscription)


def test_who_is_cut_among_the_newest_events_gets_the_rest_when_it_comes_back(
    loop: ManualLoop,
) -> None:
    channel = Channel("c", history=4, slow="latest", latest_by=key)
    subscription = opened(channel.subscribe())
    client = Client()
    read(subscription, client)
    publish(channel, "a1", "b2", "c3", "a4", "d5", "b6")
    frames = subscription._feed.take()

    client.read(frames[: frames.index(b"data: 4") + 11])
    subscription._feed.stop()
    read(opened(channel.subscribe(client.cut())), client)

    assert [one.data for one in client.got[1:]] == ["3", "4", "5", "6"]


def test_the_newest_events_of_all_keys_are_no_more_than_history() -> None:
    few = Channel("few", history=3, slow="latest", latest_by=key)
    small = Channel("small", history_bytes=1_100, slow="latest", latest_by=key)
    of_few, of_small = state_of(few)._latest, state_of(small)._latest
    assert of_few is not None
    assert of_small is not None

    for name in "abcdefgha":
        publish(few, f"{name}1")
        publish(small, name + "x" * 300)

    assert list(of_few.frames) == list(of_small.frames) == ["g", "h", "a"]
    assert of_small.size == sum(len(frame) for _, frame in of_small.frames.values())
    publish(small, "b" + "x" * 5_000)
    assert list(of_small.frames) == ["b"]
    publish(small, "a1")
    assert list(of_small.frames) == ["a"]


@pytest.mark.parametrize("way", ["streamed", "iterated"])
async def test_a_slow_client_gets_the_snapshot_after_the_reset(way: str) -> None:
    channel = Channel("c", history=2, slow="latest", latest_by=key)
    subscription = channel.subscribe(channel.last_event_id, snapshot=lambda: generated("snapshot"))

    got: list[tuple[object, str]]
    if way == "streamed":
        async with drive(EventSourceResponse(subscription)) as client:
            await settled()
            publish(channel, "a1", "b2", "a3")
            await client.contains("data: 3\r\n")
            publish(channel, "b4")
            await client.contains("data: 4\r\n")
        got = [(one.event, one.data) for one in reading(client).got]
    else:
        publish(channel, "a1", "b2", "a3")
        async with subscription:
            events = [await anext(subscription)]
            publish(channel, "b4")
            events += [await anext(subscription) for _ in range(4)]
        got = [(one.event or "message", one.data) for one in events]

    assert got[0][0] == "reset"
    assert got[1:] == [("message", "snapshot"), ("b", "2"), ("a", "3"), ("b", "4")]


@pytest.mark.parametrize("first", [[], ["snapshot"]], ids=["came back", "was new"])
async def test_a_slow_client_is_dealt_with_by_on_gap_and_is_no_new_client(first: list[str]) -> None:
    channel = Channel("c", history=2, slow="reset")
    subscription = channel.subscribe(
        None if first else channel.last_event_id,
        snapshot=lambda: ["snapshot"],
        on_gap=lambda gap: [f"{gap.reason} {gap.cursor}"],
    )
    async with drive(EventSourceResponse(subscription)) as client:
        await settled()  # The snapshot has come to its end, and its generator has been closed.
        fill(channel, 1, 5)
        await client.contains("lagging")
        fill(channel, 6, 6)
        await client.contains("data: 6\r\n")

    assert reading(client).data == [*first, f"lagging {channel.epoch}.5", "6"]


# --- What is counted


def test_nothing_has_been_counted_at_first() -> None:
    assert Channel("c").stats() == ChannelStats(0, 0, 0, 0, 0, {}, 0, 0, 0, 0)


def test_figures_that_were_handed_out_do_not_change() -> None:
    channel = Channel("c")
    channel.subscribe("nonsense")
    stats = channel.stats()

    channel.subscribe("nonsense")

    assert stats.resets == {"unknown": 1}
