"""Hub: the channels of an application by name, for how long, and several of them on one stream."""

from __future__ import annotations

import gc
import json
import sys
from pathlib import Path
from typing import Any, cast

import anyio
import fastapi.sse
import pytest
from starlette.applications import Starlette
from tests.unit.driving import SEAT_BELT_SECONDS
from tests.unit.following import Client, FakeClock, ManualLoop, fill, numbers, opened, read, taken
from tests.unit.logs import FakeLog
from tests.unit.subscribing import at_once, key, reading, some_of, streamed, streaming

from sse_starlette.channels._state import ChannelState
from sse_starlette.channels.channel import Channel, Gap, Subscription, state_of
from sse_starlette.hub import Hub

pytestmark = pytest.mark.anyio

# --- A name stands for a channel


def test_a_name_stands_for_the_same_channel_of_one_hub() -> None:
    hub = Hub()

    assert hub.channel("a") is hub.channel("a")
    assert hub.channel("a") is not hub.channel("b")
    assert hub.channel("a") is not Hub().channel("a")
    assert hub.channel("a").name == "a"


@pytest.mark.parametrize("name", ["", " ", "a/b", "*", "é\U0001f600", "a\r\nb", "x" * 1_000])
def test_any_text_is_a_name(loop: ManualLoop, name: str) -> None:
    channel = Hub().channel(name)

    (reset,) = read(opened(channel.subscribe("nonsense")))

    assert reset.reset["channel"] == name


def test_threads_that_ask_for_a_name_get_the_same_channel() -> None:
    hub = Hub()

    answers = at_once([lambda: [hub.channel(str(number)) for number in range(200)]] * 4)

    assert answers == [answers[0]] * 4


@pytest.mark.parametrize(
    ("log", "shown"),
    [
        (None, "in memory"),
        ("sqlite:////var/events.db", "on <SQLiteLog /var/events.db>"),
        ("sqlite:///events.db", f"on <SQLiteLog {Path('events.db').absolute()}>"),
        ("redis://me:secret@host:70/3", "on <RedisLog redis://host:70/3, database 3, {sse}>"),
        ("rediss://me:secret@host", "on <RedisLog rediss://host, database 0, {sse}>"),
        ("unix:///run/r.sock", "on <RedisLog unix:///run/r.sock, database 0, {sse}>"),
        ("redis+cluster://a:1,b:2", "on <RedisLog redis+cluster://a:1,b:2, database 0, {sse}>"),
        ("rediss+cluster://a:1", "on <RedisLog rediss+cluster://a:1, database 0, {sse}>"),
    ],
)
def test_the_url_says_which_log_and_a_hub_shows_it_without_the_password(
    log: str | None, shown: str
) -> None:
    """Two programs with one relative path, but two working directories, have two logs."""
    assert repr(Hub(log)) == f"<Hub {shown}>".replace("{sse}", "prefix 'sse'")


OPTIONS: dict[str, tuple[Any, Any]] = {
    "history": (5, 6),
    "history_bytes": (1_000, 2_000),
    "history_seconds": (1.0, 2.0),
    "slow": ("reset", "disconnect"),
    "linger": (1.0, 2.0),
    "prefer": ("latency", "cpu"),
}


@pytest.mark.parametrize("option", OPTIONS)
def test_a_channel_can_not_get_other_options_than_it_has(option: str) -> None:
    hub = Hub()
    mine, other = OPTIONS[option]
    channel = hub.channel("a", **{option: mine})

    assert hub.channel("a", **{option: mine}) is channel
    assert hub.channel("a") is channel
    with pytest.raises(ValueError, match=f"channel 'a' has {option}={mine!r} already"):
        hub.channel("a", **{option: other})
    assert getattr(state_of(channel).options, option) == mine


def test_options_that_were_left_out_are_options_too() -> None:
    hub = Hub()
    hub.channel("a")

    hub.channel("a", history=1_000, slow="disconnect", linger=30.0)
    with pytest.raises(ValueError, match="has history=1000 already, so it can't get history=5"):
        hub.channel("a", history=5)
    with pytest.raises(ValueError, match="latest_by"):
        hub.channel("a", latest_by=len)  # type: ignore[arg-type]


def test_the_newest_events_need_their_key_in_one_place_only() -> None:
    hub = Hub()
    channel = hub.channel("a", slow="latest", latest_by=key)

    assert hub.channel("a") is channel
    assert hub.channel("a", latest_by=key) is channel


def test_a_channel_whose_options_are_wrong_is_not_made() -> None:
    hub = Hub()

    with pytest.raises(ValueError, match="history must be"):
        hub.channel("a", history=0)

    assert hub.stats().channels == {}
    assert state_of(hub.channel("a", history=5)).options.history == 5


# --- How long a channel is kept


def epoch_of(hub: Hub, name: str = "a") -> str:
    gc.collect()
    return hub.channel(name).epoch


@pytest.mark.parametrize(
    ("linger", "script"),
    [
        pytest.param(30, "+29.9 same +29.9 same +30.1 new", id="for its time"),
        pytest.param(30, "hold +1000 same +1000 same", id="while it is held"),
        pytest.param(30, "hold +1000 same drop +29 same", id="for its time after it was held"),
        pytest.param(30, "follow +1000 same leave +29 same +31 new", id="with a subscriber"),
        pytest.param(30, "+20 publish +20 publish +20 publish +29.9 same", id="published to"),
        pytest.param(30, "+20 subscribe +20 subscribe +29.9 same", id="subscribed to"),
        pytest.param(30, "subscribe hold +20 drop +30.1 new", id="its time after a subscription"),
        pytest.param(30, "subscribed +1000 same leave +29 same", id="held by a subscription"),
        pytest.param(0, "hold +0.001 same drop +0.001 new", id="as long as it is used"),
        pytest.param(30, "close +29 same closed +31 new open", id="closed"),
    ],
)
def test_a_channel_is_kept(linger: float, script: str, loop: ManualLoop, clock: FakeClock) -> None:
    hub = Hub(linger=linger)
    epoch = epoch_of(hub)
    held: list[object] = []
    for word in script.split():
        match word:
            case "same" | "new":
                assert (epoch_of(hub) == epoch) == (word == "same")
                assert hub.stats().channels.keys() == {"a"}
            case "hold":
                held.append(hub.channel("a"))
            case "subscribe":
                hub.channel("a").subscribe()
                gc.collect()
            case "subscribed":
                held.append(hub.channel("a").subscribe())
            case "follow":
                held.append(opened(hub.channel("a").subscribe()))
            case "drop":
                held.clear()
            case "leave":
                cast("Subscription", held.pop())._feed.stop()
            case "publish":
                hub.channel("a").publish_nowait("x")
            case "close":
                hub.channel("a").close()
            case "closed" | "open":
                assert hub.channel("a").closed == (word == "closed")
            case _:
                clock.now += float(word)
                gc.collect()


def test_a_client_of_a_channel_that_was_forgotten_is_told(
    loop: ManualLoop, clock: FakeClock
) -> None:
    hub = Hub()
    event_id = hub.channel("a").publish_nowait("x")

    clock.now += 31

    (reset,) = read(opened(hub.channel("a").subscribe(event_id)))
    assert reset.reset["reason"] == "epoch"


def test_one_channel_may_linger_longer_or_shorter_than_the_others(clock: FakeClock) -> None:
    hub = Hub(linger=10)
    hub.channel("short", linger=5)
    hub.channel("usual")
    hub.channel("long", linger=20)

    left = []
    for _ in range(3):
        clock.now += 7
        gc.collect()
        left.append(set(hub.stats().channels))

    assert left == [{"usual", "long"}, {"long"}, set()]


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """When it was looked at a channel, whether somebody uses it."""
    looks: list[float] = []
    look = ChannelState.idle_since

    def noted(channel: ChannelState, now: float) -> bool:
        looks.append(now)
        return look(channel, now)

    monkeypatch.setattr(ChannelState, "idle_since", noted)
    return looks


def test_however_many_channels_there_are_a_call_looks_at_a_few(
    clock: FakeClock, looks: list[float]
) -> None:
    hub = Hub(linger=30)

    def looks_of_a_call(name: str) -> int:
        looks.clear()
        hub.channel(name)
        return len(looks)

    assert max(looks_of_a_call(f"user-{number}") for number in range(1_000)) == 0  # All are new.
    clock.now += 31
    at_once = [looks_of_a_call("another") for _ in range(400)]

    assert max(at_once) <= 20
    assert list(hub.stats().channels) == ["another"]
    assert at_once[-1] == 1  # All others had their look.


def test_channels_that_are_used_are_looked_at_once_in_their_linger_time(
    clock: FakeClock, looks: list[float]
) -> None:
    hub = Hub(linger=30)
    used = [hub.channel(f"user-{number}") for number in range(50)]
    for _ in range(300):
        clock.now += 1
        for channel in used:
            channel.publish_nowait("x")
        hub._parts.registry.sweep()

    assert len(looks) <= 50 * 300 / 29
    assert len(hub._parts.registry._lingering) == 50


def test_a_channel_that_a_subscription_held_is_let_go_after_it(
    loop: ManualLoop, clock: FakeClock
) -> None:
    hub = Hub(linger=0)
    subscription = opened(hub.channel("a").subscribe())
    left = []

    for sweep in range(7):
        if sweep == 5:
            subscription._feed.stop()
            del subscription
        clock.now += 1.1
        hub._parts.registry.sweep()
        left.append(len(hub._parts.registry._lingering))

    assert (left[4], left[6]) == (1, 0)


def test_a_name_that_stands_for_a_new_channel_lingers_anew(clock: FakeClock) -> None:
    hub = Hub(linger=30)
    for _ in range(100):
        clock.now += 31
        hub.channel("a")

    left = []
    for seconds in (29, 2, 0, 0):
        clock.now += seconds
        hub._parts.registry.sweep()
        left.append(len(hub._parts.registry._lingering))

    assert (left[0], left[2:]) == (1, [0, 0])


# --- Several channels on one stream; see also test_channel_scenarios.py


def test_whoever_is_cut_after_any_event_gets_the_rest_exactly(loop: ManualLoop) -> None:
    hub = Hub()
    a, b = hub.channel("a"), hub.channel("b")
    subscription = opened(hub.subscribe([a, b]))
    for number in range(1, 5):
        a.publish_nowait(f"a{number}")
        b.publish_nowait(f"b{number}")
    body = taken(subscription)

    for length in range(body.index(b"data"), len(body)):
        client = Client()
        client.read(body[:length])
        read(opened(hub.subscribe([a, b], client.cut())), client)
        assert sorted(client.data) == [f"{name}{n}" for name in "ab" for n in range(1, 5)]


async def test_a_channel_that_was_added_gets_a_snapshot_for_it_alone() -> None:
    hub = Hub()
    a, b = hub.channel("a"), hub.channel("b")
    fill(a, 1, 3)

    subscription = hub.subscribe([a, b], f"{a.epoch}.2", snapshot=lambda names: [f"all of {names}"])

    assert await some_of(subscription, 2) == ["all of ['b']", "3"]


async def test_on_gap_is_asked_for_each_channel_that_has_one() -> None:
    def on_gap(gap: Gap) -> list[str]:
        return [f"{gap.reason} in {gap.channel}"]

    subscription = Hub().subscribe(["a", "b", "c"], "nonsense", on_gap=on_gap)

    assert await some_of(subscription, 3) == ["unknown in a", "unknown in b", "unknown in c"]


async def test_filter_snapshot_and_replay_are_those_of_all_channels() -> None:
    hub = Hub()
    fill(hub.channel("a"), 1, 5)
    fill(hub.channel("b"), 11, 15)

    subscription = hub.subscribe(
        ["a", "b"],
        filter=lambda event: int(event.data) % 2,
        snapshot=lambda: ["snapshot"],
        replay=3,
    )

    assert await some_of(subscription, 5) == ["snapshot", "3", "5", "13", "15"]


def test_the_channels_of_a_stream_may_be_many_and_its_ids_stay_short(loop: ManualLoop) -> None:
    hub = Hub()
    names = [f"channel {number}" for number in range(100)]
    channels = [hub.channel(name) for name in names]
    client = Client()
    read(opened(hub.subscribe(names)), client)
    for channel in channels:
        fill(channel, 1, 12)

    got = read(opened(hub.subscribe(names, client.cut())), client)

    assert [one.data for one in got] == numbers(1, 12) * 100
    assert len(client.last_event_id) < 100 * 13


async def test_a_stream_ends_when_all_its_channels_are_closed() -> None:
    hub = Hub()
    a, b = hub.channel("a"), hub.channel("b")
    async with streaming(hub.subscribe([a, b])) as client:
        for channel in (a, b):
            await channel.publish(f"{channel.name}1")
            await client.contains(f"{channel.name}1")
            channel.close()
        await client.returns()
    reader = reading(client)

    assert reader.data == ["a1", "b1"]
    assert (await streamed(hub.subscribe([a, b], reader.cut()))).status == 204


def test_channels_that_are_none_or_the_same_are_refused() -> None:
    hub = Hub()
    wrong: list[list[Channel | str]] = [[], ["a", "a"], ["a", "b", "a"], [hub.channel("a"), "a"]]

    for channels in wrong:
        with pytest.raises(ValueError, match="needs different channels, at least one"):
            hub.subscribe(channels)
    with pytest.raises(TypeError, match=r"give a list, \['prices'\]"):
        hub.subscribe("prices")


# --- Figures, and life with an application


def test_the_figures_of_a_hub_are_those_of_its_channels(loop: ManualLoop) -> None:
    hub = Hub()
    a, b = hub.channel("a"), hub.channel("b")
    both, only_a = opened(hub.subscribe([a, b])), opened(a.subscribe())
    fill(a, 1, 2)
    fill(b, 1, 3)
    taken(both)
    taken(only_a)

    stats = hub.stats()

    assert stats.channels == {"a": a.stats(), "b": b.stats()}
    assert list(stats.channels) == ["a", "b"]
    assert (stats.subscribers, stats.published, stats.delivered) == (3, 5, 7)
    assert (Hub().stats().subscribers, Hub().stats().published) == (0, 0)


async def test_a_hub_in_memory_may_be_the_lifespan_of_an_application_and_needs_no_start() -> None:
    hub = Hub()
    with anyio.fail_after(SEAT_BELT_SECONDS):
        async with hub.subscribe(["a"]) as subscription:
            await hub.channel("a").publish("x")
            async with hub.lifespan(Starlette(lifespan=hub.lifespan)):
                await hub.channel("a").publish("y")
            async with hub.lifespan():
                await hub.channel("a").publish("z")
            assert [(await anext(subscription)).data for _ in range(3)] == ["x", "y", "z"]


# --- Which log


class Redis:
    """Called as a client of redis-py is."""

    __module__ = "redis.asyncio.client"


NO_SCHEME = "there's no log for a URL without a scheme"


@pytest.mark.parametrize(
    ("log", "error", "said"),
    [
        ("kafka://localhost", ValueError, "there's no log for 'kafka://': give Hub a URL"),
        ("redis:6379", ValueError, "there's no log for 'redis:6379': give Hub a URL"),
        ("", ValueError, "there's no log for '': give Hub a URL"),
        ("postgres://u:secret@h", ValueError, "there's no log for 'postgres://': give Hub a URL"),
        ("redis:/:secret@host", ValueError, NO_SCHEME),
        ("user:secret@host", ValueError, NO_SCHEME),
        (":secret", ValueError, NO_SCHEME),
        ("s/ecret", ValueError, NO_SCHEME),
        (
            Redis(),
            TypeError,
            r"Hub was given a redis\.asyncio\.client\.Redis: .*RedisLog\(client\)\)",
        ),
        (Path("events.db"), TypeError, r"Hub was given a pathlib[\w.]+: for a file, write"),
        (5, TypeError, r"a builtins\.int: Hub\(log\) takes a URL, a Backend or nothing"),
        (b"redis://u:secret@host", TypeError, "Hub was given a builtins.bytes"),
    ],
)
def test_a_log_that_there_is_not_is_refused_and_no_password_is_shown(
    log: Any, error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said) as caught:
        Hub(log)

    assert "ecret" not in str(caught.value)


def test_a_log_whose_client_is_missing_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delitem(sys.modules, "sse_starlette.eventlogs.redis", raising=False)
    for name in {"redis", *(name for name in sys.modules if name.startswith("redis."))}:
        monkeypatch.setitem(sys.modules, name, None)

    with pytest.raises(ImportError, match=r"extra `redis`.*pip install '\.\[redis\]'") as raised:
        Hub("redis://user:secret@localhost")

    assert "secret" not in str(raised.value)


def test_an_import_that_fails_for_another_reason_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sse_starlette.eventlogs.redis", None)

    with pytest.raises(ImportError, match=r"eventlogs\.redis"):
        Hub("redis://localhost")


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"publish_wait": -1}, "publish_wait must be >= 0 seconds, got: -1"),
        ({"publish_wait": float("nan")}, "publish_wait must be >= 0"),
        ({"check_every": 0}, "check_every must be > 0 seconds, got: 0"),
        ({"expire": 30}, r"expire must be > check_every=30.0 seconds, got: 30"),
        ({"expire": float("nan")}, "expire must be > check_every"),
        ({"linger": -1}, "linger must be >= 0 seconds"),
        ({"linger": float("nan")}, "linger must be >= 0 seconds"),
    ],
)
def test_an_option_that_is_out_of_range_is_refused(options: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        Hub(FakeLog(), **options)


async def test_a_hub_in_memory_is_ready() -> None:
    assert await Hub().ready()
    assert (Hub().stats().connected, Hub().stats().losses, Hub().stats().catch_ups) == (True, 0, 0)


async def test_serializer_of_a_hub_makes_the_json_of_all_that_its_channels_send() -> None:
    hub = Hub(serializer=lambda value: f"<{value}>")
    channel = hub.channel("c")
    channel.publish_nowait({"data": {"a": 1}})
    channel.publish_nowait([2])
    subscription = hub.subscribe(
        [channel], replay=2, snapshot=lambda: [{"data": [0]}, fastapi.sse.ServerSentEvent(data="s")]
    )

    assert await some_of(subscription, 4) == ["<[0]>", "<s>", "<{'a': 1}>", "<[2]>"]


def test_serializer_that_raises_does_so_where_the_event_was_published() -> None:
    def serializer(value: object) -> str:
        raise KeyError(value)

    channel = Hub(serializer=serializer).channel("c")

    with pytest.raises(KeyError):
        channel.publish_nowait([1])
    assert channel.head == 0


def test_serializer_that_cannot_be_one_is_refused_by_the_hub() -> None:
    with pytest.raises(TypeError, match=r"serializer is module: .* serializer=json\.dumps"):
        Hub(serializer=json)  # type: ignore[arg-type]
