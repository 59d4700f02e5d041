"""A channel: what it keeps, how it ends, and what it shows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import anyio
import anyio.to_thread
import pytest
from tests.unit.following import ManualLoop, fill, numbers, opened, read, taken
from tests.unit.subscribing import even, reading, streamed, streaming

from sse_starlette.channels._options import SubscribeOptions
from sse_starlette.channels.channel import Channel, state_of
from sse_starlette.channels.subscription import Subscription
from sse_starlette.errors import ChannelClosed, SubscriberTooSlow

pytestmark = pytest.mark.anyio

ALL_OR_FILTERED = pytest.mark.parametrize(
    "options", [{}, {"filter": lambda event: True}], ids=["all", "filtered"]
)

# --- What is kept


def test_no_more_bytes_are_kept_than_history_bytes_says_but_the_newest_event_is() -> None:
    channel = Channel("c", history_bytes=500)
    for _ in range(20):
        channel.publish_nowait("x" * 100)
        assert channel.stats().kept_bytes <= 500
    assert channel.stats().kept_events >= 3

    channel.publish_nowait("x" * 10_000)

    assert channel.stats().kept_events == 1
    assert channel.stats().kept_bytes > 10_000


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


@ALL_OR_FILTERED
@pytest.mark.parametrize("where", ["here", "in another thread"])
async def test_what_was_published_before_the_close_is_delivered_and_then_the_stream_ends(
    where: str, options: dict[str, Any]
) -> None:
    channel = Channel("c", history=2_000)
    reasons: list[str] = []

    def publish_and_close() -> None:
        fill(channel, 1, 2_000)
        channel.close()

    async with streaming(channel.subscribe(**options), on_close=reasons.append) as client:
        if where == "here":
            publish_and_close()
        else:
            await anyio.to_thread.run_sync(publish_and_close)
        await client.returns()

    assert reading(client).data == numbers(1, 2_000)
    assert (client.complete, reasons, channel.stats().subscribers) == (True, ["end"], 0)


@ALL_OR_FILTERED
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


@pytest.mark.parametrize(
    ("asked", "data"),
    [
        pytest.param(None, [], id="a new client"),
        pytest.param("{epoch}.3", [], id="who has everything"),
        pytest.param("{epoch}.1", ["2", "3"], id="who lacks events"),
        pytest.param("nonsense", ["reset unknown"], id="who has a gap"),
    ],
)
async def test_who_lacks_events_of_a_closed_channel_gets_them_and_then_204(
    asked: str | None, data: list[str]
) -> None:
    channel = Channel("c")
    fill(channel, 1, 3)
    channel.close()
    last = asked and asked.replace("{epoch}", channel.epoch)
    if data:
        client = await streamed(channel.subscribe(last))
        reader = reading(client)
        shown = [
            f"reset {one.reset['reason']}" if one.event == "reset" else one.data
            for one in reader.got
        ]
        assert (client.status, client.complete, shown) == (200, True, data)
        last = reader.cut()

    client = await streamed(channel.subscribe(last))
    assert (client.status, client.body, client.complete) == (204, b"", True)
    assert channel.stats().subscribers == 0


async def test_who_had_the_last_events_left_out_is_answered_with_204_too() -> None:
    channel = Channel("c")
    async with streaming(channel.subscribe(filter=even)) as client:
        fill(channel, 1, 3)
        await client.contains("data: 2\r\n")
        channel.close()
        await client.returns()
    reader = reading(client)

    assert reader.data == ["2"]
    assert (await streamed(channel.subscribe(reader.cut(), filter=even))).status == 204


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
    assert " ".join(name for name in dir(Channel("c")) if not name.startswith("_")) == (
        "aclose close closed epoch head history last_event_id name position"
        " publish publish_nowait publish_threadsafe stats subscribe"
    )


# --- How it is read


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


async def test_client_that_needs_all_of_a_history_and_lags_is_cut_off_as_any_other() -> None:
    channel = Channel("short", history=2)
    subscription = Subscription([state_of(channel)], None, SubscribeOptions(whole=True))
    for number in range(5):
        channel.publish_nowait(number)

    with pytest.raises(SubscriberTooSlow):
        await anext(subscription)
