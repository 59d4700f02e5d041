"""Clients that read too slowly: what they get, and what is counted."""

from __future__ import annotations

import pytest
from tests.unit.driving import (
    drive,
    settled,
    until,
)
from tests.unit.following import (
    Client,
    ManualLoop,
    fill,
    numbers,
    opened,
    read,
    taken,
)
from tests.unit.subscribing import (
    generated,
    key,
    publish,
    reading,
)

from sse_starlette.channels._stats import ChannelStats
from sse_starlette.channels.channel import Channel, state_of
from sse_starlette.errors import SubscriberTooSlow
from sse_starlette.sse import EventSourceResponse

# --- Clients that read too slowly


def test_a_slow_client_is_disconnected_by_default(loop: ManualLoop) -> None:
    channel = Channel("c", history=3)
    client = Client()
    subscription = opened(channel.subscribe())
    read(subscription, client)
    fill(channel, 1, 2)
    read(subscription, client)

    fill(channel, 3, 6)

    assert taken(subscription) == b""
    assert (subscription._feed.ended, subscription._feed.close_reason) == (True, "lagging")
    assert subscription._feed.error is None
    assert channel.stats().disconnected == 1
    (reset,) = read(opened(channel.subscribe(client.cut())), client)
    assert reset.reset["reason"] == "trimmed"


def test_a_client_may_be_as_far_behind_as_events_are_kept(loop: ManualLoop) -> None:
    channel = Channel("c", history=3)
    subscription = opened(channel.subscribe())
    taken(subscription)

    fill(channel, 1, 3)

    assert [one.data for one in read(subscription)] == ["1", "2", "3"]


@pytest.mark.anyio
async def test_the_stream_of_a_slow_client_is_completed_and_can_be_resumed_from() -> None:
    channel = Channel("c", history=3)
    reasons: list[str] = []
    response = EventSourceResponse(channel.subscribe(), on_close=reasons.append)

    async with drive(response) as client:
        await client.chunk(0)
        client.block()
        fill(channel, 1, 1)
        await until(lambda: client.blocked)
        fill(channel, 2, 9)
        client.unblock()
        await client.returns()

    assert (client.complete, reasons) == (True, ["lagging"])
    reader = reading(client)
    assert (reader.data, reader.cut()) == (["1"], f"{channel.epoch}.1")
    fill(channel, 10, 10)
    async with drive(EventSourceResponse(channel.subscribe(reader.cut()))) as client:
        await client.chunk(0)
    (reset,) = reading(client).got
    assert reset.reset["reason"] == "trimmed"


@pytest.mark.anyio
async def test_a_stalled_client_delays_nobody() -> None:
    channel = Channel("c", history=10)
    async with (
        drive(EventSourceResponse(channel.subscribe())) as stalled,
        drive(EventSourceResponse(channel.subscribe())) as healthy,
    ):
        await stalled.chunk(0)
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


@pytest.mark.anyio
async def test_iterating_too_slowly_raises_what_was_found() -> None:
    channel = Channel("c", history=3)
    subscription = channel.subscribe()
    fill(channel, 1, 1)
    assert (await anext(subscription)).data == "1"
    fill(channel, 2, 9)

    with pytest.raises(SubscriberTooSlow) as raised:
        await anext(subscription)

    assert raised.value.channels == ["c"]
    assert raised.value.last_event_id == f"{channel.epoch}.1"
    assert channel.stats().subscribers == 0
    with pytest.raises(StopAsyncIteration):
        await anext(subscription)


def test_a_slow_client_can_be_told_and_go_on(loop: ManualLoop) -> None:
    channel = Channel("c", history=3, slow="reset")
    subscription = opened(channel.subscribe())
    client = Client()
    read(subscription, client)
    fill(channel, 1, 1)
    read(subscription, client)

    fill(channel, 2, 6)
    (reset,) = read(subscription, client)
    fill(channel, 7, 8)
    read(subscription, client)

    cursor = f"{channel.epoch}.6"
    assert reset.reset == {"reason": "lagging", "channel": "c", "cursor": cursor}
    assert reset.id == cursor
    assert client.data[0:1] + client.data[2:] == ["1", "7", "8"]
    stats = channel.stats()
    assert (stats.dropped, stats.delivered, stats.disconnected) == (5, 3, 0)
    assert stats.resets == {"lagging": 1}


def test_a_slow_client_can_have_the_newest_event_of_every_key(loop: ManualLoop) -> None:
    channel = Channel("c", history=3, slow="latest", latest_by=key)
    publish(channel, "z0")
    subscription = opened(channel.subscribe())
    client = Client()
    read(subscription, client)

    publish(channel, "a1", "b2", "c3", "a4", "b5", "b6")
    frames = subscription._feed.take()

    reset, *latest = client.read(frames)
    assert reset.reset["reason"] == "lagging"
    assert [(one.event, one.data, one.id) for one in latest] == [
        ("c", "3", f"{channel.epoch}.4"),
        ("a", "4", f"{channel.epoch}.5"),
        ("b", "6", f"{channel.epoch}.7"),
    ]
    assert frames.endswith(f"id: {channel.epoch}.7\r\n\r\n".encode())
    publish(channel, "c7")
    assert [one.data for one in read(subscription, client)] == ["7"]
    stats = channel.stats()
    assert (stats.dropped, stats.delivered, stats.resets) == (3, 4, {"lagging": 1})


def test_the_newest_events_are_filtered_too(loop: ManualLoop) -> None:
    channel = Channel("c", history=3, slow="latest", latest_by=key)
    subscription = opened(channel.subscribe(filter=lambda event: event.event == "a"))
    client = Client()
    read(subscription, client)

    publish(channel, "a1", "b2", "a3", "c4", "b5")
    reset, *latest = read(subscription, client)

    assert reset.event == "reset"
    assert [(one.event, one.data) for one in latest] == [("a", "3")]
    assert client.cut() == f"{channel.epoch}.5"
    assert channel.stats().delivered == 1


def test_a_filter_that_raises_at_the_newest_events_leaves_them_out(loop: ManualLoop) -> None:
    channel = Channel("c", history=2, slow="latest", latest_by=key)
    subscription = opened(channel.subscribe(filter=lambda event: 1 / 0))
    taken(subscription)

    publish(channel, "a1", "b2", "a3")

    (reset,) = read(subscription)
    assert reset.event == "reset"
    assert channel.stats().failures == 2
    assert not subscription._feed.ended


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


def test_the_newest_event_is_kept_of_as_many_keys_as_history_says(loop: ManualLoop) -> None:
    channel = Channel("c", history=3, slow="latest", latest_by=key)
    subscription = opened(channel.subscribe())
    taken(subscription)

    publish(channel, *(f"{name}1" for name in "abcdefgb"))

    assert [one.event for one in read(subscription)] == ["reset", "f", "g", "b"]
    latest = state_of(channel)._latest
    assert latest is not None
    assert list(latest.frames) == ["f", "g", "b"]


def test_the_newest_events_of_all_keys_take_no_more_bytes_than_history(loop: ManualLoop) -> None:
    channel = Channel("c", history_bytes=1_100, slow="latest", latest_by=key)

    for name in "abcdefgha":
        channel.publish_nowait({"event": name, "data": "x" * 300})

    latest = state_of(channel)._latest
    assert latest is not None
    assert list(latest.frames) == ["g", "h", "a"]
    assert latest.size == sum(len(frame) for _, frame in latest.frames.values())
    channel.publish_nowait({"event": "huge", "data": "x" * 5_000})
    assert list(latest.frames) == ["huge"]
    publish(channel, "a1")
    assert list(latest.frames) == ["a"]


@pytest.mark.anyio
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
            got = [((one := await anext(subscription)).event or "message", one.data)]
            publish(channel, "b4")
            for _ in range(4):
                one = await anext(subscription)
                got.append((one.event or "message", one.data))

    assert got[0][0] == "reset"
    assert got[1:] == [("message", "snapshot"), ("b", "2"), ("a", "3"), ("b", "4")]


@pytest.mark.anyio
async def test_a_slow_client_is_dealt_with_by_on_gap() -> None:
    channel = Channel("c", history=2, slow="reset")
    subscription = channel.subscribe(
        channel.last_event_id, on_gap=lambda gap: [f"{gap.reason} {gap.cursor}"]
    )
    async with drive(EventSourceResponse(subscription)) as client:
        await settled()
        fill(channel, 1, 5)
        await client.contains("lagging")
        fill(channel, 6, 6)
        await client.contains("data: 6\r\n")

    assert reading(client).data == [f"lagging {channel.epoch}.5", "6"]


@pytest.mark.anyio
async def test_a_client_that_falls_behind_later_is_no_new_client() -> None:
    channel = Channel("c", history=2, slow="reset")
    subscription = channel.subscribe(
        snapshot=lambda: ["snapshot"], on_gap=lambda gap: [f"gap: {gap.reason}"]
    )
    async with drive(EventSourceResponse(subscription)) as client:
        await client.contains("id: ")
        await settled()  # The snapshot has come to its end, and its generator has been closed.
        fill(channel, 1, 5)
        await client.contains("lagging")
        fill(channel, 6, 6)
        await client.contains("data: 6\r\n")

    assert reading(client).data == ["snapshot", "gap: lagging", "6"]


# --- What is counted


def test_what_happened_is_counted(loop: ManualLoop) -> None:
    channel = Channel("c", history=5, slow="reset")
    assert channel.stats() == ChannelStats(
        subscribers=0,
        published=0,
        delivered=0,
        dropped=0,
        disconnected=0,
        resets={},
        lag=0,
        kept_events=0,
        kept_bytes=0,
    )
    fast, slow = opened(channel.subscribe()), opened(channel.subscribe())
    waiting = channel.subscribe()
    for _ in range(4):
        fill(channel, 1, 2)
        taken(fast)

    stats = channel.stats()
    assert (stats.subscribers, stats.published, stats.delivered) == (2, 8, 8)
    assert (stats.lag, stats.dropped) == (8, 0)
    assert stats.kept_events == 5
    assert stats.kept_bytes == 5 * len(f"id: {channel.epoch}.1\r\ndata: 1\r\n\r\n")

    taken(slow)
    stats = channel.stats()
    assert (stats.lag, stats.dropped, stats.delivered) == (0, 8, 8)
    assert stats.resets == {"lagging": 1}

    fast._feed.stop()
    fast._feed.stop()
    stats = channel.stats()
    assert stats.subscribers == 1
    taken(opened(channel.subscribe("nonsense")))
    taken(opened(channel.subscribe("00000000.1")))
    assert channel.stats().resets == {"lagging": 1, "unknown": 1, "epoch": 1}
    assert waiting.last_event_id.endswith(".0")


def test_figures_that_were_handed_out_do_not_change() -> None:
    channel = Channel("c")
    channel.subscribe("nonsense")
    stats = channel.stats()

    channel.subscribe("nonsense")

    assert stats.resets == {"unknown": 1}
