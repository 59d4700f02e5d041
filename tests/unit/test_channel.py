"""A channel: what it keeps, how it ends, what it shows, and for whom it is kept."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any

import anyio
import anyio.to_thread
import pytest
from tests.unit.driving import (
    drive,
)
from tests.unit.following import (
    FakeClock,
    ManualLoop,
    fill,
    numbers,
    opened,
    read,
    taken,
)
from tests.unit.subscribing import (
    even,
    reading,
)

from sse_starlette.channels._options import SubscribeOptions
from sse_starlette.channels.channel import Channel, state_of
from sse_starlette.channels.subscription import Subscription
from sse_starlette.errors import ChannelClosed, SubscriberTooSlow
from sse_starlette.sse import EventSourceResponse

# --- What is kept


def test_no_more_events_are_kept_than_history_says() -> None:
    channel = Channel("c", history=3)

    fill(channel, 1, 10)

    assert (channel.stats().kept_events, channel.stats().published) == (3, 10)


def test_no_more_bytes_are_kept_than_history_bytes_says_but_the_newest_event_is() -> None:
    channel = Channel("c", history_bytes=500)
    for _ in range(20):
        channel.publish_nowait("x" * 100)
        assert channel.stats().kept_bytes <= 500
    assert channel.stats().kept_events >= 3

    channel.publish_nowait("x" * 10_000)

    assert channel.stats().kept_events == 1
    assert channel.stats().kept_bytes > 10_000


def test_an_event_is_kept_no_longer_than_history_seconds_says(
    loop: ManualLoop, clock: FakeClock
) -> None:
    channel = Channel("c", history_seconds=60)
    fill(channel, 1, 2)
    clock.now += 30
    fill(channel, 3, 3)
    clock.now += 31

    assert channel.stats().kept_events == 1
    assert [one.data for one in read(opened(channel.subscribe(f"{channel.epoch}.2")))] == ["3"]
    (reset,) = read(opened(channel.subscribe(f"{channel.epoch}.1")))
    assert reset.reset["reason"] == "trimmed"
    clock.now += 30
    assert channel.stats().kept_events == 0
    assert taken(opened(channel.subscribe(channel.last_event_id))) == b""


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"history": 0}, "history must be at least 1 event, got: 0"),
        ({"history": -1}, "history must be at least 1 event, got: -1"),
        ({"history_bytes": 0}, "history_bytes must be at least 1, got: 0"),
        ({"history_seconds": 0}, "history_seconds must be > 0, got: 0"),
        ({"history_seconds": float("nan")}, "history_seconds must be > 0, got: nan"),
        ({"slow": "ignore"}, "slow must be one of .* got: 'ignore'"),
        ({"slow": "latest"}, "give both or neither"),
        ({"latest_by": len}, "give both or neither"),
        ({"slow": "reset", "latest_by": len}, "give both or neither"),
        ({"prefer": "speed"}, "prefer must be one of .* got: 'speed'"),
        ({"linger": -1}, "linger must be >= 0 seconds, got: -1"),
        ({"linger": float("nan")}, "linger must be >= 0 seconds, got: nan"),
    ],
)
def test_an_option_out_of_range_is_refused(options: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        Channel("c", **options)


# --- The end of a channel


def test_nothing_can_be_published_to_a_closed_channel(loop: ManualLoop) -> None:
    channel = Channel("c")
    assert not channel.closed
    channel.close()
    channel.close()

    with pytest.raises(ChannelClosed) as raised:
        channel.publish_nowait("x")

    assert raised.value.channel == "c"
    assert isinstance(channel.publish_threadsafe("x").exception(0), ChannelClosed)
    assert channel.closed
    assert channel.stats().published == 0


@pytest.mark.anyio
async def test_what_was_published_before_the_close_is_delivered_and_then_the_stream_ends() -> None:
    channel = Channel("c", history=2_000)
    reasons: list[str] = []
    response = EventSourceResponse(channel.subscribe(), on_close=reasons.append)

    async with drive(response) as client:
        await client.chunk(0)
        fill(channel, 1, 2_000)
        channel.close()
        await client.returns()

    assert reading(client).data == numbers(1, 2_000)
    assert (client.complete, reasons) == (True, ["end"])


@pytest.mark.anyio
@pytest.mark.parametrize("options", [{}, {"filter": lambda event: True}], ids=["all", "filtered"])
async def test_close_from_another_thread_ends_the_streams(options: dict[str, Any]) -> None:
    channel = Channel("c")
    async with drive(EventSourceResponse(channel.subscribe(**options))) as client:
        await client.chunk(0)

        def publish_and_close() -> None:
            fill(channel, 1, 3)
            channel.close()

        await anyio.to_thread.run_sync(publish_and_close)
        await client.returns()

    assert reading(client).data == ["1", "2", "3"]
    assert channel.stats().subscribers == 0


@pytest.mark.parametrize("options", [{}, {"filter": lambda event: True}], ids=["all", "filtered"])
def test_what_is_published_between_a_look_and_the_close_is_not_lost(
    loop: ManualLoop, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]
) -> None:
    channel = Channel("c")
    subscription = opened(channel.subscribe(**options))
    taken(subscription)

    def meanwhile(real: Callable[..., Any]) -> Callable[..., Any]:
        def look(*position: Any) -> Any:
            found = real(*position)
            if not channel.closed:
                channel.publish_nowait("last")
                channel.close()
            return found

        return look

    state = state_of(channel)
    monkeypatch.setattr(state, "read", meanwhile(state.read))
    monkeypatch.setattr(state, "read_each", meanwhile(state.read_each))

    got = [*read(subscription), *read(subscription)]

    assert [one.data for one in got] == ["last"]
    assert taken(subscription) == b""
    assert subscription._feed.ended


@pytest.mark.anyio
async def test_the_answer_to_the_reconnect_of_who_has_everything_is_204() -> None:
    channel = Channel("c")
    fill(channel, 1, 3)
    channel.close()

    for asked in (channel.last_event_id, None):
        response = EventSourceResponse(channel.subscribe(asked))
        async with drive(response) as client:
            await client.returns()
        assert (client.status, client.body, client.complete) == (204, b"", True)
    assert channel.stats().subscribers == 0


@pytest.mark.anyio
@pytest.mark.parametrize("asked", ["{epoch}.1", "nonsense"])
async def test_who_lacks_events_of_a_closed_channel_gets_them_and_then_204(asked: str) -> None:
    channel = Channel("c")
    fill(channel, 1, 3)
    channel.close()
    response = EventSourceResponse(channel.subscribe(asked.replace("{epoch}", channel.epoch)))
    async with drive(response) as client:
        await client.returns()
    reader = reading(client)

    assert (client.status, client.complete) == (200, True)
    assert reader.data == ["2", "3"] or reader.got[0].reset["reason"] == "unknown"
    async with drive(EventSourceResponse(channel.subscribe(reader.cut()))) as client:
        await client.returns()
    assert client.status == 204


@pytest.mark.anyio
async def test_who_had_the_last_events_left_out_is_answered_with_204_too() -> None:
    channel = Channel("c")
    async with drive(EventSourceResponse(channel.subscribe(filter=even))) as client:
        await client.chunk(0)
        fill(channel, 1, 3)
        await client.contains("data: 2\r\n")
        channel.close()
        await client.returns()
    reader = reading(client)

    async with drive(EventSourceResponse(channel.subscribe(reader.cut(), filter=even))) as client:
        await client.returns()

    assert reader.data == ["2"]
    assert client.status == 204


@pytest.mark.anyio
async def test_iteration_ends_with_the_channel() -> None:
    channel = Channel("c")
    fill(channel, 1, 2)
    subscription = channel.subscribe(f"{channel.epoch}.0")
    channel.close()

    assert [event.data async for event in subscription] == ["1", "2"]
    assert [event async for event in subscription] == []
    assert [event async for event in channel.subscribe()] == []


# --- What a channel shows


def test_a_channel_shows_what_is_for_users_and_nothing_else() -> None:
    assert [name for name in dir(Channel("c")) if not name.startswith("_")] == [
        "aclose",
        "close",
        "closed",
        "epoch",
        "head",
        "history",
        "last_event_id",
        "name",
        "position",
        "publish",
        "publish_nowait",
        "publish_threadsafe",
        "stats",
        "subscribe",
    ]


# --- For whom a channel is kept


def test_a_channel_is_idle_when_nobody_has_used_it_for_its_linger_time(
    loop: ManualLoop, clock: FakeClock
) -> None:
    channel = Channel("c", linger=30)

    def idle_after(seconds: float) -> bool:
        return state_of(channel).idle_since(clock.now + seconds)

    assert (idle_after(30), idle_after(30.1)) == (False, True)
    clock.now += 100
    uses: list[Callable[[], object]] = [
        state_of(channel).touch,
        lambda: channel.publish_nowait("x"),
        lambda: channel.subscribe().last_event_id,
        channel.close,
    ]
    for use in uses:
        clock.now += 100
        use()
        gc.collect()
        assert (idle_after(30), idle_after(30.1)) == (False, True)


def test_a_channel_with_a_subscription_is_not_idle_and_lingers_after_it(
    loop: ManualLoop, clock: FakeClock
) -> None:
    channel = Channel("c", linger=30)
    subscription = channel.subscribe()
    clock.now += 100
    assert not state_of(channel).idle_since(clock.now)
    subscription._feed.open(lambda: None)
    assert not state_of(channel).idle_since(clock.now)

    subscription._feed.stop()

    assert not state_of(channel).idle_since(clock.now + 30)
    assert state_of(channel).idle_since(clock.now + 31)


def test_who_stands_with_others_gets_no_more_than_one_send_takes() -> None:
    channel = Channel("large")
    for _ in range(3):
        channel.publish_nowait("x" * 40_000)
    state = state_of(channel)
    ring = state._ring

    # What is further behind reads by itself.
    assert state.follow(ring, 0) == (None, 0)
    assert state.follow(ring, 2)[1] == 3
    assert state.follow(ring, 3) == (b"", 3)


@pytest.mark.anyio
async def test_client_that_needs_all_of_a_history_and_lags_is_cut_off_as_any_other() -> None:
    channel = Channel("short", history=2)
    subscription = Subscription([state_of(channel)], None, SubscribeOptions(whole=True))
    for number in range(5):
        channel.publish_nowait(number)

    with pytest.raises(SubscriberTooSlow):
        await anext(subscription)
