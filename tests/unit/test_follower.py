"""Channels on a log: many processes, one history, and what can go wrong between them."""

from __future__ import annotations

import gc
import math
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from contextvars import ContextVar
from datetime import timedelta
from functools import partial
from typing import Any

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest
from starlette.applications import Starlette
from tests.unit.driving import SEAT_BELT_SECONDS, drive, settled, turns, until
from tests.unit.following import Client, Hands, numbers, stop_the_clock
from tests.unit.logs import FakeLog, FakeStore, Gate

import sse_starlette.channels._newcomers as newcomers_module
from sse_starlette.channels._replica import ReplicatedChannel
from sse_starlette.channels.channel import Channel, Subscription, state_of
from sse_starlette.channels.hub import Hub
from sse_starlette.errors import ChannelClosed, HistoryGap, LogRefused, LogUnavailable
from sse_starlette.event import ServerSentEvent
from sse_starlette.eventlogs import _replicator, _track, _tracks
from sse_starlette.eventlogs._replicator import Replicator
from sse_starlette.eventlogs._tracks import Tracks
from sse_starlette.eventlogs.base import Backend, Entry, Limits, Position
from sse_starlette.sse import EventSourceResponse

pytestmark = pytest.mark.anyio


@pytest.fixture(autouse=True)
def without_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Try again at once."""
    monkeypatch.setattr(_tracks, "_FIRST_PAUSE_SECONDS", 0.0)
    monkeypatch.setattr(_tracks, "_LONGEST_PAUSE_SECONDS", 0.0)
    monkeypatch.setattr(_replicator, "_LISTEN_AGAIN_SECONDS", 0.0)


@pytest.fixture
def store() -> FakeStore:
    return FakeStore()


@pytest.fixture
def log(store: FakeStore) -> FakeLog:
    return FakeLog(store)


@asynccontextmanager
async def running(*logs: FakeLog, **options: Any) -> AsyncIterator[list[Hub]]:
    """Hubs that are connected, one on each of these logs."""
    with anyio.fail_after(SEAT_BELT_SECONDS):
        async with AsyncExitStack() as stack:
            hubs = [Hub(log, **options) for log in logs]
            for hub in hubs:
                await stack.enter_async_context(hub.lifespan())
            yield hubs


@asynccontextmanager
async def one(log: FakeLog, **options: Any) -> AsyncIterator[Hub]:
    async with running(log, **options) as (hub,):
        yield hub


def replicator_of(hub: Hub) -> Replicator:
    assert hub._replicator is not None
    return hub._replicator


def tracks_of(hub: Hub) -> Tracks:
    return replicator_of(hub).tracks


class Ear:
    """A client whose connection takes everything at once, but looks only when it's woken."""

    def __init__(self, subscription: Subscription, client: Client | None = None) -> None:
        self.client = client or Client()
        self.subscription = subscription
        self.raw = b""
        self._woken = True
        subscription.open(self._wake)

    def _wake(self) -> None:
        self._woken = True

    def look(self) -> None:
        while self._woken:
            self._woken = False
            while frames := self.subscription.take():
                self.raw += frames
                self.client.read(frames)

    @property
    def data(self) -> list[str]:
        """The data of all events, and the reason of each reset."""
        self.look()
        return [
            f"reset {one.reset['reason']}" if one.event == "reset" else one.data
            for one in self.client.got
        ]

    @property
    def text(self) -> str:
        self.look()
        return self.raw.decode()

    async def has(self, *data: object) -> None:
        """Wait until exactly this has come."""
        expected = [str(one) for one in data]
        await until(lambda: len(self.data) >= len(expected))
        await settled()
        assert self.data == expected

    async def begun(self) -> Ear:
        """Wait until it's known where it begins, and all that can be done has been."""
        await until(lambda: "id: " in self.text)
        await settled()
        return self

    async def reads(self, text: str) -> None:
        """Wait for this text, which may be no event."""
        await until(lambda: text in self.text)

    async def ends(self) -> None:
        """Wait for the end of the stream, and leave."""
        await until(lambda: self.data is not None and self.subscription.ended)
        self.leave()

    def leave(self) -> str:
        """Break the connection; return the id to come back with."""
        self.subscription.stop()
        return self.client.cut()


# --- One history for all


async def test_what_one_process_publishes_reaches_the_clients_of_all(store: FakeStore) -> None:
    async with running(*(FakeLog(store) for _ in range(3))) as hubs:
        ears = [await Ear(hub.channel("c").subscribe()).begun() for hub in hubs]

        ids = [await hub.channel("c").publish({"data": number}) for number, hub in enumerate(hubs)]

        for ear in ears:
            await ear.has(0, 1, 2)
            assert [one.id for one in ear.client.got] == ids == ["e1.1", "e1.2", "e1.3"]


async def test_a_client_that_waits_for_the_first_event_gets_it(store: FakeStore) -> None:
    """The epoch is made with the first look: made with the first event, it would reset everyone."""
    async with running(FakeLog(store), FakeLog(store)) as (hub, other):
        ear = await Ear(hub.channel("c").subscribe()).begun()
        assert ear.text == "id: e1.0\r\n\r\n"

        await other.channel("c").publish("first")

        await ear.has("first")


async def test_the_log_is_looked_at_after_it_is_known_to_be_heard(
    store: FakeStore, log: FakeLog
) -> None:
    log.joining.shut()
    async with one(log) as hub:
        ear = Ear(hub.channel("c").subscribe("e1.0"))
        await settled()
        assert store.reads == []
        store.say("c", "missed")

        log.joining.open()

        await ear.has("missed")


async def test_what_is_published_during_the_first_look_comes_once(
    store: FakeStore, log: FakeLog
) -> None:
    store.say("c", "before")
    log.reading.shut()
    async with one(log) as hub:
        ear = Ear(hub.channel("c").subscribe())
        await until(lambda: log.reading.waiting)
        store.say("c", 1, 2)
        await settled()

        log.reading.open()

        await ear.has(1, 2)


async def test_what_is_heard_before_the_first_look_is_done_is_looked_for(
    store: FakeStore, log: FakeLog
) -> None:
    async with one(log) as hub:
        log.hearing.shut()
        ear = await Ear(hub.channel("c").subscribe()).begun()
        store.say("c", 1)
        await settled()
        store.say("c", 2)

        log.hearing.open()

        await ear.has(1, 2)


async def test_who_comes_to_another_process_gets_exactly_what_it_missed(store: FakeStore) -> None:
    async with running(FakeLog(store), FakeLog(store)) as (hub, other):
        ear = await Ear(hub.channel("c").subscribe()).begun()
        store.say("c", 1, 2)
        await ear.has(1, 2)
        asked = ear.leave()
        store.say("c", 3, 4)

        again = Ear(other.channel("c").subscribe(asked), ear.client)

        await again.has(1, 2, 3, 4)
        store.say("c", 5)
        await again.has(1, 2, 3, 4, 5)


async def test_who_has_everything_is_sent_nothing_first(store: FakeStore, log: FakeLog) -> None:
    store.say("c", 1, 2)
    async with one(log) as hub:
        ear = Ear(hub.channel("c").subscribe("e1.2"))
        await settled()
        assert ear.text == ""
        assert ear.subscription.last_event_id == "e1.2"

        store.say("c", 3)

        await ear.has(3)


async def test_what_is_heard_twice_comes_once(store: FakeStore, log: FakeLog) -> None:
    async with one(log) as hub:
        ear = await Ear(hub.channel("c").subscribe()).begun()
        entry = store.add("c", b"data: 1\r\n\r\n")
        for _ in range(2):
            log.tell("c", "e1", entry)
        store.say("c", 2)

        await ear.has(1, 2)


async def test_what_is_heard_of_other_channels_is_nobodys_business(log: FakeLog) -> None:
    async with one(log) as hub:
        tracks = tracks_of(hub)

        tracks.subscribed("other")
        tracks.received("other", "e", Entry(1, "k", b"x"))
        tracks.notified("other")


async def test_what_must_be_read_from_the_log_is_read(store: FakeStore, log: FakeLog) -> None:
    store.stirs = True
    async with one(log) as hub:
        ear = await Ear(hub.channel("c").subscribe()).begun()

        store.say("c", 1, 2)
        await ear.has(1, 2)
        store.say("c", 3)

        await ear.has(1, 2, 3)


async def test_what_stirs_during_a_look_is_looked_for_once_more(
    store: FakeStore, log: FakeLog
) -> None:
    store.stirs = True
    async with one(log) as hub:
        ear = await Ear(hub.channel("c").subscribe()).begun()
        log.reading.shut()
        store.say("c", 1)
        await until(lambda: log.reading.waiting)
        store.say("c", 2)
        await settled()

        log.reading.open()

        await ear.has(1, 2)


async def test_a_hole_in_what_is_heard_is_filled_from_the_log(
    store: FakeStore, log: FakeLog
) -> None:
    async with one(log) as hub:
        ear = await Ear(hub.channel("c").subscribe()).begun()
        log.deaf = True
        store.say("c", 1, 2)
        log.deaf = False

        store.say("c", 3)

        await ear.has(1, 2, 3)
        assert hub.stats().catch_ups == 1


async def test_what_is_heard_while_a_hole_is_filled_comes_in_order(
    store: FakeStore, log: FakeLog
) -> None:
    async with one(log) as hub:
        ear = await Ear(hub.channel("c").subscribe()).begun()
        log.deaf = True
        store.say("c", 1)
        log.deaf = False
        log.reading.shut()
        store.say("c", 2)
        await until(lambda: log.reading.waiting)
        store.say("c", 3, 4)
        await settled()
        looks = len(store.reads)

        log.reading.open()

        await ear.has(1, 2, 3, 4)
        assert len(store.reads) == looks


async def test_much_that_is_heard_while_a_hole_is_filled_is_read(
    store: FakeStore, log: FakeLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_track, "_PAGE", 3)
    async with one(log) as hub:
        ear = await Ear(hub.channel("c").subscribe()).begun()
        log.reading.shut()
        log.deaf = True
        store.say("c", 1)
        log.deaf = False
        store.say("c", 2)
        await until(lambda: log.reading.waiting)
        store.say("c", *range(3, 13))
        await settled()

        log.reading.open()

        await ear.has(*range(1, 13))


# --- The connection


async def test_what_was_published_while_the_connection_was_lost_is_caught_up(
    store: FakeStore, log: FakeLog
) -> None:
    async with one(log) as hub:
        ear = await Ear(hub.channel("c").subscribe()).begun()
        store.say("c", 1)
        await ear.has(1)

        log.go_away()
        store.say("c", 2, 3)
        await settled()
        assert ear.data == ["1"]
        log.come_back()

        await ear.has(1, 2, 3)
        store.say("c", 4)
        await ear.has(1, 2, 3, 4)


async def test_a_connection_that_breaks_time_and_again_loses_and_doubles_nothing(
    store: FakeStore, log: FakeLog
) -> None:
    async with one(log) as hub:
        ear = await Ear(hub.channel("c").subscribe()).begun()
        for number in range(1, 41):
            store.say("c", number)
            if number % 3 == 0:
                log.lose()
            await turns(number % 5)

        await ear.has(*range(1, 41))


async def test_much_that_was_missed_is_caught_up_page_by_page(
    store: FakeStore, log: FakeLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_track, "_PAGE", 4)
    async with one(log) as hub:
        ear = await Ear(hub.channel("c").subscribe()).begun()
        log.go_away()
        store.say("c", *range(1, 23))

        log.come_back()

        await ear.has(*range(1, 23))


async def test_a_look_that_fails_is_repeated(store: FakeStore, log: FakeLog) -> None:
    async with one(log) as hub:
        ear = await Ear(hub.channel("c").subscribe()).begun()
        log.deaf = True
        store.say("c", 1)
        log.deaf = False
        log.cut = True
        store.say("c", 2)
        before = store.calls["read"]
        await until(lambda: store.calls["read"] > before + 3)

        log.cut = False

        await ear.has(1, 2)


async def test_looks_that_fail_together_are_repeated_together(
    store: FakeStore, log: FakeLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_tracks, "_FIRST_PAUSE_SECONDS", 0.001)
    async with one(log) as hub:
        ears = [await Ear(hub.channel(name).subscribe()).begun() for name in "ab"]
        log.cut = True
        store.stirs = True
        before = store.calls["read"]
        for name in "ab":
            store.say(name, 1)
        await until(lambda: store.calls["read"] == before + 2)

        log.cut = False

        for ear in ears:
            await ear.has(1)


async def test_a_look_that_failed_is_not_repeated_while_nothing_is_heard(
    store: FakeStore, log: FakeLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_tracks, "_FIRST_PAUSE_SECONDS", 0.001)
    async with one(log) as hub:
        ear = await Ear(hub.channel("c").subscribe()).begun()
        log.cut = True
        store.stirs = True
        before = store.calls["read"]
        store.say("c", 1)
        await until(lambda: store.calls["read"] == before + 1)
        log.lose()
        await until(lambda: not tracks_of(hub)._failed)
        await settled()
        assert store.calls["read"] == before + 1

        log.come_back()

        await ear.has(1)


async def test_many_channels_are_looked_at_a_few_at_a_time(store: FakeStore, log: FakeLog) -> None:
    async with one(log) as hub:
        ears = [Ear(hub.channel(f"c{number}").subscribe()) for number in range(50)]
        for ear in ears:
            await ear.begun()
        log.go_away()
        for number in range(50):
            store.say(f"c{number}", number)
        log.reading.shut()

        log.come_back()

        await settled()
        assert 1 < log.reading.waiting <= 8
        log.reading.open()
        for number, ear in enumerate(ears):
            await ear.has(number)


async def test_an_unexpected_error_of_the_log_is_logged_once_and_the_look_repeated(
    store: FakeStore,
    log: FakeLog,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    real, errors = log.read, [ZeroDivisionError("made up"), ZeroDivisionError("made up")]

    async def read(channel: str, **options: Any) -> Any:
        if errors:
            raise errors.pop()
        return await real(channel, **options)

    monkeypatch.setattr(log, "read", read)
    async with one(log) as hub:
        await Ear(hub.channel("c").subscribe()).begun()

    assert caplog.text.count("channel 'c' can't be read from its log") == 1


async def test_listening_that_fails_is_begun_anew(
    store: FakeStore,
    log: FakeLog,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    real, errors = log.listen, [ZeroDivisionError("made up")]

    async def listen(listener: Any) -> None:
        if errors:
            raise errors.pop()
        await real(listener)

    monkeypatch.setattr(log, "listen", listen)
    async with one(log) as hub:
        ear = await Ear(hub.channel("c").subscribe()).begun()
        store.say("c", 1)
        await ear.has(1)

    assert "the log can't be listened to" in caplog.text


async def test_a_connection_that_died_without_a_word_is_found_out(
    store: FakeStore, log: FakeLog
) -> None:
    async with one(log, check_every=0.01) as hub:
        ear = await Ear(hub.channel("c").subscribe()).begun()
        log.deaf = True

        store.say("c", 1, 2)

        await ear.has(1, 2)


async def test_channels_that_are_in_step_are_not_read_when_they_are_checked(
    store: FakeStore, log: FakeLog
) -> None:
    async with one(log) as hub:
        ear = await Ear(hub.channel("c").subscribe()).begun()
        store.say("c", 1, 2)
        await ear.has(1, 2)
        reads = len(store.reads)

        await tracks_of(hub).check_positions()

        await settled()
        assert store.calls["heads"] == 1
        assert len(store.reads) == reads


async def test_a_check_that_fails_is_no_news(store: FakeStore, log: FakeLog) -> None:
    async with one(log) as hub:
        ear = await Ear(hub.channel("c").subscribe()).begun()
        log.cut = True
        await tracks_of(hub).check_positions()
        log.cut = False

        store.say("c", 1)

        await ear.has(1)


@pytest.mark.parametrize("what", ["flushed", "fallen back"])
async def test_a_check_finds_that_the_history_is_another_one(
    store: FakeStore, log: FakeLog, what: str
) -> None:
    async with one(log) as hub:
        ear = await Ear(hub.channel("c").subscribe()).begun()
        store.say("c", 1, 2)
        await ear.has(1, 2)
        if what == "flushed":
            store.flush()
        else:
            store.fall_back("c", 1)

        await tracks_of(hub).check_positions()

        await ear.has(1, 2, "reset epoch")


# --- Coming back


async def test_many_clients_that_come_back_cause_one_read(store: FakeStore, log: FakeLog) -> None:
    store.say("c", *range(1, 101))
    async with one(log) as hub:
        await Ear(hub.channel("c").subscribe()).begun()
        before = len(store.reads)

        ears = [Ear(hub.channel("c").subscribe("e1.40")) for _ in range(200)]
        await until(lambda: all(ear.data for ear in ears))

        assert len(store.reads) == before + 1
        assert all(ear.data == numbers(41, 100) for ear in ears)


async def test_what_was_read_for_one_is_there_for_the_next(store: FakeStore, log: FakeLog) -> None:
    store.say("c", *range(1, 11))
    async with one(log) as hub:
        await Ear(hub.channel("c").subscribe("e1.3")).has(*range(4, 11))
        reads = len(store.reads)

        await Ear(hub.channel("c").subscribe("e1.5")).has(*range(6, 11))
        assert len(store.reads) == reads
        await Ear(hub.channel("c").subscribe("e1.1")).has(*range(2, 11))

        assert store.reads[reads:] == [("c", 1, 3, 2)]


async def test_a_long_history_is_read_page_by_page(
    store: FakeStore, log: FakeLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_track, "_PAGE", 10)
    store.say("c", *range(1, 36))
    async with one(log) as hub:
        await Ear(hub.channel("c").subscribe("e1.2")).has(*range(3, 36))

    assert [read[1:3] for read in store.reads[-4:]] == [(25, 35), (15, 25), (5, 15), (2, 5)]


async def test_what_is_published_while_the_history_is_read_follows_it_once(
    store: FakeStore, log: FakeLog
) -> None:
    store.say("c", *range(1, 6))
    async with one(log) as hub:
        await Ear(hub.channel("c").subscribe()).begun()
        log.reading.shut()
        ear = Ear(hub.channel("c").subscribe("e1.2"))
        await until(lambda: log.reading.waiting)
        store.say("c", 6, 7)
        await settled()
        assert ear.data == []

        log.reading.open()

        await ear.has(3, 4, 5, 6, 7)


async def test_what_the_log_no_longer_has_is_a_gap(store: FakeStore, log: FakeLog) -> None:
    store.say("c", *range(1, 11))
    store.trim("c", 5)
    async with one(log) as hub:
        late = Ear(hub.channel("c").subscribe("e1.4"))
        await late.has("reset trimmed")
        assert late.client.last_event_id == "e1.10"

        await Ear(hub.channel("c").subscribe("e1.5")).has(*range(6, 11))
        reads = len(store.reads)

        await Ear(hub.channel("c").subscribe("e1.3")).has("reset trimmed")
        assert len(store.reads) == reads
        assert hub.channel("c").stats().resets == {"trimmed": 2}


async def test_what_is_trimmed_while_it_is_being_read_is_a_gap(
    store: FakeStore, log: FakeLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_track, "_PAGE", 10)
    store.say("c", *range(1, 31))
    async with one(log) as hub:
        await Ear(hub.channel("c").subscribe()).begun()
        log.reading.shut()
        ear = Ear(hub.channel("c").subscribe("e1.2"))
        await until(lambda: log.reading.waiting)
        store.trim("c", 15)

        log.reading.open()

        await ear.has("reset trimmed")
        await Ear(hub.channel("c").subscribe("e1.15")).has(*range(16, 31))


async def test_a_log_that_has_nothing_left_of_it_is_a_gap(store: FakeStore, log: FakeLog) -> None:
    store.say("c", *range(1, 11))
    store.trim("c", 10)
    async with one(log) as hub:
        await Ear(hub.channel("c").subscribe("e1.7")).has("reset trimmed")
        await Ear(hub.channel("c").subscribe(replay=3)).begun()


async def test_no_more_is_read_than_history_says(store: FakeStore, log: FakeLog) -> None:
    store.say("c", *range(1, 31))
    async with one(log) as hub:
        channel = hub.channel("c", history=10)
        await Ear(channel.subscribe("e1.19")).has("reset trimmed")
        await Ear(channel.subscribe("e1.20")).has(*range(21, 31))

        assert channel.stats().kept_events == 10


async def test_no_more_is_read_than_history_bytes_says(store: FakeStore, log: FakeLog) -> None:
    store.say("c", *("x" * 100 for _ in range(30)))
    async with one(log) as hub:
        channel = hub.channel("c", history_bytes=1_000)
        await Ear(channel.subscribe("e1.2")).has("reset trimmed")

        assert 800 < channel.stats().kept_bytes <= 1_000
        assert len((await Ear(channel.subscribe(replay=30)).begun()).data) == 8


async def test_what_is_forgotten_while_older_events_are_read_is_a_gap(
    store: FakeStore, log: FakeLog
) -> None:
    store.say("c", *range(1, 11))
    async with one(log) as hub:
        channel = hub.channel("c", history=10)
        await Ear(channel.subscribe()).begun()
        log.reading.shut()
        ear = Ear(channel.subscribe("e1.2"))
        await until(lambda: log.reading.waiting)
        store.say("c", *range(11, 26))
        await settled()

        log.reading.open()

        await ear.has("reset trimmed")


@pytest.mark.parametrize(("replay", "first"), [(0, 11), (3, 8), (10, 1), (50, 1)])
async def test_a_new_client_can_have_the_newest_events_of_the_log_first(
    store: FakeStore, log: FakeLog, replay: int, first: int
) -> None:
    store.say("c", *range(1, 11))
    async with one(log) as hub:
        ear = await Ear(hub.channel("c").subscribe(replay=replay)).begun()
        store.say("c", 11)

        await ear.has(*range(first, 12))


async def test_an_id_that_another_process_knows_already_is_none_from_the_future(
    store: FakeStore, log: FakeLog
) -> None:
    async with one(log) as hub:
        await Ear(hub.channel("c").subscribe()).begun()
        log.deaf = True
        store.say("c", 1, 2, 3)

        ear = Ear(hub.channel("c").subscribe("e1.2"))

        await ear.has(3)


async def test_an_epoch_that_another_process_knows_already_is_none_that_is_lost(
    store: FakeStore, log: FakeLog
) -> None:
    async with one(log) as hub:
        old = await Ear(hub.channel("c").subscribe()).begun()
        log.deaf = True
        store.flush()
        store.say("c", 1, 2, 3)

        ear = Ear(hub.channel("c").subscribe("e2.1"))

        await ear.has(2, 3)
        await old.has("reset epoch")


@pytest.mark.parametrize(
    ("asked", "reason"),
    [("e1.11", "future"), ("00000000.4", "epoch"), ("nonsense", "unknown")],
)
async def test_an_id_that_the_log_does_not_know_leads_to_one_reset(
    store: FakeStore, log: FakeLog, asked: str, reason: str
) -> None:
    store.say("c", *range(1, 11))
    async with one(log) as hub:
        for _ in range(2):
            ear = Ear(hub.channel("c").subscribe(asked))
            await ear.has(f"reset {reason}")
            store.say("c", "live")
            await ear.has(f"reset {reason}", "live")
            ear.leave()
            store.fall_back("c", 10)
            await tracks_of(hub).check_positions()
            await settled()
            store.flush()
            break

        assert hub.channel("c").stats().resets == {reason: 1}


async def test_clients_with_odd_ids_that_come_together_cause_one_look_or_two(
    store: FakeStore, log: FakeLog
) -> None:
    async with one(log) as hub:
        await Ear(hub.channel("c").subscribe()).begun()
        before = len(store.reads)

        ears = [Ear(hub.channel("c").subscribe(f"x{number}.1")) for number in range(200)]
        await until(lambda: all(ear.data for ear in ears))

        assert len(store.reads) <= before + 2


async def test_a_slow_client_is_dealt_with_as_in_memory_and_resumes_from_the_log(
    store: FakeStore, log: FakeLog
) -> None:
    async with one(log) as hub:
        channel = hub.channel("c", history=5)
        subscription = channel.subscribe()
        ear = await Ear(subscription).begun()
        subscription.joins = True
        ear._woken = False
        store.say("c", *range(1, 8))
        await until(lambda: channel.head == 7)

        assert subscription.take() == b""
        assert subscription.close_reason == "lagging"
        await Ear(channel.subscribe("e1.2")).has(*range(3, 8))


async def test_the_newest_event_of_every_key_is_known_from_the_log_too(
    store: FakeStore, log: FakeLog
) -> None:
    for number in range(1, 6):
        store.say("c", f"{number % 3}:{number}")
    async with one(log) as hub:
        channel = hub.channel(
            "c", history=6, slow="latest", latest_by=lambda event: event.data.partition(":")[0]
        )
        await Ear(channel.subscribe()).begun()
        store.say("c", "0:6")
        await until(lambda: channel.head == 6)
        ear = await Ear(channel.subscribe("e1.1")).begun()
        assert ear.data == ["2:2", "0:3", "1:4", "2:5", "0:6"]
        slow = channel.subscribe("e1.1")
        slow.open(lambda: None)
        store.say("c", "0:7", "0:8", "0:9")
        await until(lambda: channel.head == 9)
        client = Client()
        while frames := slow.take():
            client.read(frames)

        assert client.data[1:] == ["1:4", "2:5", "0:9"]


async def test_an_event_whose_key_can_not_be_found_is_delivered_and_kept_without(
    store: FakeStore, log: FakeLog, caplog: pytest.LogCaptureFixture
) -> None:
    def key(event: ServerSentEvent) -> object:
        return 1 / int(event.data)

    async with one(log) as hub:
        channel = hub.channel("c", slow="latest", latest_by=key)
        ear = await Ear(channel.subscribe()).begun()

        store.say("c", 0, 1)

        await ear.has(0, 1)
        latest = state_of(channel)._latest
        assert latest is not None
        assert len(latest.frames) == 1
        with pytest.raises(ZeroDivisionError):
            await channel.publish("0")
    assert caplog.text.count("latest_by failed for an event of channel 'c'") == 1


# --- Histories that break


async def test_a_history_that_was_lost_is_told_once_to_everyone(
    store: FakeStore, log: FakeLog
) -> None:
    async with one(log) as hub:
        channel = hub.channel("c")
        ears = [await Ear(channel.subscribe()).begun() for _ in range(3)]
        store.say("c", 1, 2)
        for ear in ears:
            await ear.has(1, 2)

        store.flush()
        log.lose()
        await until(lambda: channel.epoch == "e4")
        store.say("c", 3)

        for ear in ears:
            await ear.has(1, 2, "reset epoch", 3)
            assert ear.client.got[-2].reset["cursor"] == ear.client.got[-2].id == "e4.0"
        assert channel.stats().resets == {"epoch": 3}


async def test_a_new_history_is_known_by_the_first_event_that_is_heard_of_it(
    store: FakeStore, log: FakeLog
) -> None:
    async with one(log) as hub:
        ear = await Ear(hub.channel("c").subscribe()).begun()
        store.say("c", 1)
        await ear.has(1)

        store.flush()
        store.say("c", 2)

        await ear.has(1, "reset epoch")
        assert ear.client.last_event_id == "e3.1"
        store.say("c", 3)
        await ear.has(1, "reset epoch", 3)


async def test_who_has_not_taken_the_old_history_yet_is_told_and_goes_on_with_the_new_one(
    store: FakeStore, log: FakeLog
) -> None:
    """Its position is that of an offset the new history has, too: with other events."""
    async with one(log) as hub:
        channel = hub.channel("c")
        ear = await Ear(channel.subscribe()).begun()
        store.say("c", 1, 2)
        await ear.has(1, 2)
        ear.subscription._wake = lambda: None
        store.flush()
        store.say("c", "a", "b", "c", "d")
        await until(lambda: channel.epoch == "e4")
        ear._woken = True

        await ear.has(1, 2, "reset epoch")
        assert ear.client.last_event_id == "e4.4"


async def test_who_looks_too_late_at_a_new_history_goes_on_at_its_end(
    store: FakeStore, log: FakeLog
) -> None:
    async with one(log) as hub:
        channel = hub.channel("c", history=2)
        ear = await Ear(channel.subscribe()).begun()
        ear.subscription._wake = lambda: None
        store.flush()
        log.lose()
        await until(lambda: channel.epoch == "e2")
        store.say("c", *range(1, 6))
        await until(lambda: channel.head == 5)
        ear._woken = True

        await ear.has("reset epoch")
        assert ear.client.last_event_id == "e2.5"


async def test_who_was_told_has_the_place_that_is_true_in_the_new_history(
    store: FakeStore, log: FakeLog
) -> None:
    async with one(log) as hub:
        ear = await Ear(hub.channel("c").subscribe()).begun()
        store.flush()
        store.say("c", 1, 2)
        await ear.has("reset epoch")
        asked = ear.leave()
        store.say("c", 3)

        await Ear(hub.channel("c").subscribe(asked), ear.client).has("reset epoch", 3)


async def test_what_was_trimmed_while_the_connection_was_lost_is_told_and_what_is_left_is_live(
    store: FakeStore, log: FakeLog
) -> None:
    async with one(log) as hub:
        channel = hub.channel("c")
        ear = await Ear(channel.subscribe()).begun()
        store.say("c", 1, 2)
        await ear.has(1, 2)

        log.go_away()
        store.say("c", *range(3, 9))
        store.trim("c", 5)
        log.come_back()

        await ear.has(1, 2, "reset trimmed", 6, 7, 8)
        assert ear.client.got[2].reset["cursor"] == "e1.5"
        store.say("c", 9)
        await ear.has(1, 2, "reset trimmed", 6, 7, 8, 9)
        assert ear.subscription.close_reason is None
        assert channel.stats().resets == {"trimmed": 1}
        await Ear(channel.subscribe("e1.5")).has(6, 7, 8, 9)
        await Ear(channel.subscribe("e1.4")).has("reset trimmed")


@pytest.mark.parametrize("known", [True, False], ids=["heard", "never heard"])
async def test_when_nothing_is_left_of_what_was_missed_it_is_told(
    store: FakeStore, log: FakeLog, known: bool
) -> None:
    async with one(log) as hub:
        ear = await Ear(hub.channel("c").subscribe()).begun()
        if known:
            store.say("c", 1)
            await until(lambda: ear.data)
        log.go_away()
        store.say("c", 2, 3)
        store.trim("c", 3)
        log.come_back()

        await until(lambda: "reset trimmed" in ear.data)
        store.say("c", 4)
        await until(lambda: ear.data[-1] == "4")


async def test_who_misses_nothing_of_what_was_trimmed_is_not_told(
    store: FakeStore, log: FakeLog
) -> None:
    async with one(log) as hub:
        ear = await Ear(hub.channel("c").subscribe()).begun()
        store.say("c", 1, 2, 3)
        await ear.has(1, 2, 3)
        log.go_away()
        store.trim("c", 3)
        store.say("c", 4)

        log.come_back()

        await ear.has(1, 2, 3, 4)


@pytest.mark.parametrize("since", [0, 1, 2, 5], ids="{} newer events".format)
@pytest.mark.parametrize("how", ["lost", "heard", "checked"])
async def test_a_history_that_was_written_anew_is_given_up(
    store: FakeStore, log: FakeLog, since: int, how: str
) -> None:
    """A server that took over lacks the newest events, and their numbers are given out again."""
    async with one(log) as hub:
        ear = await Ear(hub.channel("c").subscribe()).begun()
        store.say("c", 1, 2, 3)
        await ear.has(1, 2, 3)

        if how == "lost":
            log.go_away()
        log.deaf = how == "checked"
        store.fall_back("c", 1)
        for number in range(since):
            store.say("c", f"other {number}")
        if how == "lost":
            log.come_back()
        elif how == "checked":
            await tracks_of(hub).check_positions()

        if (how == "checked" and since >= 2) or (how == "heard" and since < 2):
            # The numbers look fine; the next look finds out.
            log.lose()
        await ear.has(1, 2, 3, "reset epoch")
        assert store.calls["renew"] == 1
        log.deaf = False
        store.say("c", "live")
        await ear.has(1, 2, 3, "reset epoch", "live")


async def test_nothing_is_delivered_between_a_loss_and_the_proof_that_the_history_is_the_same(
    store: FakeStore, log: FakeLog
) -> None:
    async with one(log) as hub:
        ear = await Ear(hub.channel("c").subscribe()).begun()
        store.say("c", 1, 2)
        await ear.has(1, 2)
        log.reading.shut()
        log.go_away()
        store.fall_back("c", 1)
        log.come_back()
        await until(lambda: log.reading.waiting)
        store.say("c", "other 2", "other 3")
        await settled()
        assert ear.data == ["1", "2"]

        log.reading.open()

        await ear.has(1, 2, "reset epoch")


async def test_a_history_that_is_written_anew_while_it_is_read_is_given_up(
    store: FakeStore, log: FakeLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_track, "_PAGE", 3)
    async with one(log) as hub:
        ear = await Ear(hub.channel("c").subscribe()).begun()
        store.say("c", 1)
        await ear.has(1)
        log.go_away()
        store.say("c", *range(2, 12))
        log.reading.shut()
        log.come_back()
        await until(lambda: log.reading.waiting)
        store.fall_back("c", 1)

        log.reading.open()

        await until(lambda: "reset epoch" in ear.data)


async def test_a_history_that_is_lost_while_it_is_read_is_told(
    store: FakeStore, log: FakeLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_track, "_PAGE", 3)
    async with one(log) as hub:
        ear = await Ear(hub.channel("c").subscribe()).begun()
        log.go_away()
        store.say("c", *range(1, 12))
        log.reading.shut()
        log.come_back()
        await until(lambda: log.reading.waiting)
        store.flush()
        log.reading.open()

        await until(lambda: "reset epoch" in ear.data)
        assert ear.data in ([*numbers(1, 3), "reset epoch"], ["reset epoch"])


async def test_a_history_that_is_lost_while_older_events_are_read_is_told(
    store: FakeStore, log: FakeLog
) -> None:
    store.say("c", 1, 2, 3)
    async with one(log) as hub:
        await Ear(hub.channel("c").subscribe()).begun()
        log.deaf = True
        store.flush()
        store.say("c", *range(1, 6))

        ear = Ear(hub.channel("c").subscribe("e1.1"))

        await ear.has("reset epoch")


async def test_only_the_channel_that_was_lost_is_reset(store: FakeStore, log: FakeLog) -> None:
    async with one(log) as hub:
        ear = await Ear(hub.subscribe(["a", "b"])).begun()
        store.say("a", "a1")
        store.say("b", "b1")
        # Between channels there's no order.
        await until(lambda: len(ear.data) == 2)

        store.flush("b")
        log.lose()
        await until(lambda: len(ear.data) == 3)
        store.say("a", "a2")
        store.say("b", "b2")

        await until(lambda: len(ear.data) == 5)
        assert sorted(ear.data[:2]) == ["a1", "b1"]
        assert ear.data[2] == "reset epoch"
        assert sorted(ear.data[3:]) == ["a2", "b2"]
        assert ear.client.got[2].reset["channel"] == "b"
        asked = ear.leave()
        epochs = [hub.channel(name).epoch for name in "ab"]
        assert asked == f"{epochs[0]}.2-{epochs[1]}.1"


async def test_an_event_of_the_old_history_is_not_taken_for_one_of_the_new(
    store: FakeStore, log: FakeLog
) -> None:
    async with one(log) as hub:
        ear = await Ear(hub.channel("c").subscribe(filter=lambda event: event.data != "no")).begun()
        store.say("c", "old")
        await ear.has("old")
        store.flush()
        log.lose()
        await ear.has("old", "reset epoch")

        store.say("c", "no")
        store.say("c", "new")

        await ear.has("old", "reset epoch", "new")


async def test_the_application_is_asked_when_a_history_breaks(
    store: FakeStore, log: FakeLog
) -> None:
    async with one(log) as hub:
        subscription = hub.channel("c").subscribe(snapshot=lambda: ["snapshot"])
        got: list[str] = []
        async with anyio.create_task_group() as tasks:

            async def follow() -> None:
                async for event in subscription:
                    got.append(str(event.event or event.data))  # noqa: PERF401

            tasks.start_soon(follow)
            await until(lambda: got == ["snapshot"])
            store.flush()
            log.lose()
            await until(lambda: got == ["snapshot", "reset", "snapshot"])
            store.say("c", 1)
            await until(lambda: got[-1] == "1")
            await subscription.aclose()


# --- Through responses


@pytest.mark.parametrize("app", [None, "snapshot"], ids=["", "snapshot"])
async def test_a_response_streams_from_the_log(
    store: FakeStore, log: FakeLog, app: str | None
) -> None:
    store.say("c", 1, 2)
    hooks: dict[str, Any] = {"snapshot": lambda: [app]} if app else {}
    async with one(log) as hub:
        response = EventSourceResponse(hub.channel("c").subscribe(replay=1, **hooks))
        async with drive(response) as client:
            await client.contains("data: 2")
            await hub.channel("c").publish("3")
            await client.contains("data: 3")

    assert ("data: snapshot" in client.body.decode()) == bool(app)


async def test_a_client_that_leaves_before_it_is_known_where_to_begin_leaves_nothing_behind(
    store: FakeStore, log: FakeLog
) -> None:
    log.joining.shut()
    async with one(log) as hub:
        channel = hub.channel("c")
        subscription = channel.subscribe(snapshot=lambda: ["x"])
        async with drive(EventSourceResponse(subscription)) as client:
            await client.chunk(0) if client.chunks else await settled()
            client.leave()
            await client.returns()

        assert channel.stats().subscribers == 0


async def test_a_wait_for_the_first_event_that_is_cancelled_loses_nothing(
    store: FakeStore, log: FakeLog
) -> None:
    log.joining.shut()
    async with one(log) as hub, hub.channel("c").subscribe("e1.0") as subscription:
        with anyio.move_on_after(0):
            await anext(subscription)
        assert subscription.last_event_id == "e1.0"
        store.say("c", 1)

        log.joining.open()

        assert (await anext(subscription)).data == "1"


async def test_the_id_of_who_begins_anew_is_empty_until_it_is_known(log: FakeLog) -> None:
    async with one(log) as hub:
        channel = hub.channel("c")
        subscription = channel.subscribe()
        assert (subscription.last_event_id, channel.last_event_id, channel.epoch) == ("", "", "")

        await Ear(subscription).begun()

        assert subscription.last_event_id == channel.last_event_id == "e1.0"


# --- The log is away


async def test_a_stream_says_once_that_the_log_is_away_and_once_that_it_is_back(
    store: FakeStore, log: FakeLog
) -> None:
    async with one(log) as hub:
        ear = await Ear(hub.channel("c").subscribe()).begun()
        before = ear.text
        log.go_away()
        log.lose()
        await ear.reads("out of reach")

        away = ear.text.removeprefix(before)
        assert away.startswith(": the log is out of reach since 2")
        assert away.endswith("Z\r\n\r\n")
        assert away.count(": ") == 1
        assert ear.subscription.ping() == away.encode()
        log.come_back()
        await until(lambda: ear.text.endswith(": the log is in reach again\r\n\r\n"))
        assert ear.subscription.ping() == b""
        assert hub.stats().losses == 1


async def test_many_channels_on_one_stream_say_it_once(store: FakeStore, log: FakeLog) -> None:
    async with one(log) as hub:
        hub.channel("b")
        ear = await Ear(hub.subscribe(["a", "b"])).begun()
        log.go_away()
        await ear.reads("out of reach")
        await settled()
        log.come_back()
        await ear.reads("in reach")

        assert ear.text.count(": the log is") == 2


async def test_what_is_here_is_replayed_while_the_log_is_away_and_the_rest_waits(
    store: FakeStore, log: FakeLog
) -> None:
    store.say("c", *range(1, 11))
    async with one(log) as hub:
        channel = hub.channel("c")
        await Ear(channel.subscribe("e1.5")).has(*range(6, 11))
        log.go_away()

        covered = Ear(channel.subscribe("e1.7"))
        older = Ear(channel.subscribe("e1.3"))
        other = Ear(hub.channel("d").subscribe())
        for ear in (covered, older, other):
            await ear.reads("the log is out of reach")

        assert covered.data == numbers(8, 10)
        assert older.data == other.data == []
        assert older.subscription.ping().startswith(b": the log is out of reach")
        log.come_back()
        await older.has(*range(4, 11))
        store.say("d", 1)
        await other.has(1)


async def test_a_log_that_is_away_at_the_beginning_is_waited_for(
    store: FakeStore, log: FakeLog
) -> None:
    log.cut = True
    async with one(log) as hub:
        ear = Ear(hub.channel("c").subscribe())
        await settled()
        log.lose()
        await ear.reads("out of reach")
        assert not await hub.ready()

        log.come_back()

        await until(lambda: "id: e1.0" in ear.text)
        assert await hub.ready()


async def test_ready_says_whether_channels_can_be_used(store: FakeStore, log: FakeLog) -> None:
    assert await Hub().ready()
    hub = Hub(log)
    assert not await hub.ready()
    async with hub.lifespan():
        assert await hub.ready()
        store.down = True
        assert not await hub.ready()
        store.down = False
        log.lose()  # Nothing is watched, so nothing says that it's back.
        assert not hub.stats().connected
        assert await hub.ready()
        assert hub.stats().connected
        log.lose()
        await tracks_of(hub).check_positions()
        assert hub.stats().connected
    assert not await hub.ready()
    assert not hub.stats().connected


async def test_a_log_that_does_not_answer_in_time_is_not_ready(
    log: FakeLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log, "check", anyio.sleep_forever)
    async with one(log) as hub:
        assert not await hub.ready(timeout=0)


async def test_what_is_refused_stays_the_reason_while_positions_can_be_asked_for(
    log: FakeLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def check() -> None:
        raise LogRefused("fake", "no XTRIM", "Give the user its rights.")

    async with one(log) as hub:
        await Ear(hub.channel("c").subscribe()).begun()
        with monkeypatch.context() as patched:
            patched.setattr(log, "check", check)
            assert not await hub.ready()
        await tracks_of(hub).check_positions()
        assert "Give the user its rights" in hub.stats().reason
        assert await hub.ready()
        assert hub.stats().reason == ""


async def test_a_stall_of_the_own_loop_is_no_silence_of_the_log(
    log: FakeLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, answered = anyio.Event(), anyio.Event()
    ready: list[bool] = []

    async def check() -> None:
        asked.set()
        await answered.wait()
        for _ in range(5):
            await anyio.lowlevel.checkpoint()

    monkeypatch.setattr(log, "check", check)
    async with one(log) as hub, anyio.create_task_group() as tasks:

        async def ask() -> None:
            ready.append(await hub.ready(timeout=0.2))

        tasks.start_soon(ask)
        await asked.wait()
        time.sleep(0.5)  # noqa: ASYNC251  (the loop is to stall)
        answered.set()

    assert ready == [True]


async def test_a_loss_during_the_question_counts(
    log: FakeLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with one(log) as hub:
        await Ear(hub.channel("c").subscribe()).begun()

        async def check() -> None:
            log.go_away()

        monkeypatch.setattr(log, "check", check)
        assert not await hub.ready()


# --- Publishing


async def test_an_event_whose_answer_was_lost_is_published_once(
    store: FakeStore, log: FakeLog
) -> None:
    def lose_answer() -> None:
        store.on_append = lambda: None
        raise LogUnavailable("fake://", "reset by peer")

    store.on_append = lose_answer
    async with one(log) as hub:
        ear = await Ear(hub.channel("c").subscribe()).begun()

        event_id = await hub.channel("c").publish("1")

        assert event_id == "e1.1"
        assert store.calls["append"] == 2
        await ear.has(1)


async def test_publishing_bridges_a_hiccup(store: FakeStore, log: FakeLog) -> None:
    async with one(log) as hub:
        log.cut = True
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(hub.channel("c").publish, "1")
            await until(lambda: store.calls["append"] > 3)
            log.cut = False

        assert store.shelf("c").head == 1


@pytest.mark.parametrize("where", ["hub", "publish"])
async def test_publishing_may_give_up_at_once(store: FakeStore, log: FakeLog, where: str) -> None:
    store.down = True
    async with one(log, **({"publish_wait": 0} if where == "hub" else {})) as hub:
        with pytest.raises(LogUnavailable, match="cut off"):
            await hub.channel("c").publish("1", wait=0 if where == "publish" else None)

    assert store.calls["append"] == 1


async def test_publishing_gives_up_when_its_time_is_over(store: FakeStore, log: FakeLog) -> None:
    store.down = True
    async with one(log) as hub:
        with pytest.raises(LogUnavailable):
            await hub.channel("c").publish("1", wait=0.001)


@pytest.mark.parametrize("wait", [-1, float("nan")])
async def test_a_wait_of_less_than_nothing_is_refused(log: FakeLog, wait: float) -> None:
    async with one(log) as hub:
        with pytest.raises(ValueError, match="wait must be >= 0 seconds"):
            await hub.channel("c").publish("1", wait=wait)
        with pytest.raises(ValueError, match="wait must be >= 0 seconds"):
            await hub.channel("c").aclose(wait=wait)


async def test_a_key_counts_for_all_processes(store: FakeStore) -> None:
    async with running(FakeLog(store), FakeLog(store)) as (hub, other):
        ids = [await one.channel("c").publish("x", key="payment-17") for one in (hub, other)]

        assert ids == ["e1.1", "e1.1"]
        assert store.shelf("c").head == 1


async def test_keys_are_remembered_for_longer_than_publishing_is_tried(
    log: FakeLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, float]] = []

    async def append(channel: str, body: bytes, **options: Any) -> Position:
        asked.append((options["key"], options["key_seconds"]))
        return Position("e", 1)

    monkeypatch.setattr(log, "append", append)
    async with one(log) as hub:
        channel = hub.channel("c")
        asking: list[dict[str, Any]] = [
            {"key": "k"},
            {"key": "k", "wait": 200},
            {"wait": 200},
            {},
            {},
        ]
        for options in asking:
            await channel.publish("x", **options)

    (k1, first), (k2, second), (_, third), (r1, fourth), (r2, _) = asked
    assert k1 == k2 == "k"
    assert r1 != r2
    assert first == 120
    assert second == third > 200
    assert fourth > 5


async def test_the_limits_of_a_channel_are_those_of_the_log(
    log: FakeLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[Any] = []

    async def append(channel: str, body: bytes, *, limits: Any, **_: Any) -> Position:
        found.append(limits)
        return Position("e", 1)

    monkeypatch.setattr(log, "append", append)
    async with one(log, expire=600) as hub:
        await hub.channel("c", history=7, history_seconds=9).publish("x")

    assert found == [(7, 9, 600, None)]


async def test_publish_nowait_says_what_to_use_instead(log: FakeLog) -> None:
    with pytest.raises(RuntimeError, match=r"await channel\.publish"):
        Hub(log).channel("c").publish_nowait("x")


@pytest.mark.parametrize("what", ["subscribe", "publish", "close", "aclose", "threadsafe"])
async def test_a_hub_outside_of_its_lifespan_says_what_it_needs(log: FakeLog, what: str) -> None:
    channel = Hub(log).channel("c")

    async def use() -> None:
        match what:
            case "subscribe":
                channel.subscribe()
            case "publish":
                await channel.publish("x")
            case "close":
                channel.close()
            case "aclose":
                await channel.aclose()
            case _:
                channel.publish_threadsafe("x").result()

    with pytest.raises(RuntimeError, match=r"Starlette\(lifespan=hub\.lifespan\)"):
        await use()


async def test_what_can_not_be_encoded_raises_at_the_publisher(
    store: FakeStore, log: FakeLog
) -> None:
    async with one(log) as hub:
        with pytest.raises(ValueError, match="a channel numbers its events itself"):
            await hub.channel("c").publish({"data": "x", "id": "5"})
        with pytest.raises(ValueError, match="a channel numbers its events itself"):
            hub.channel("c").publish_threadsafe({"data": "x", "id": "5"}).result()

    assert store.calls["append"] == 0


def in_a_loop_of_its_own(function: Callable[[], Awaitable[Any]]) -> Any:
    async def run() -> Any:
        with anyio.fail_after(SEAT_BELT_SECONDS):
            return await function()

    return anyio.run(run)


async def test_a_hub_may_be_used_from_other_loops(store: FakeStore, log: FakeLog) -> None:
    got: list[str] = []
    async with one(log) as hub:
        channel = hub.channel("c")

        async def elsewhere() -> str:
            assert await hub.ready()
            async with channel.subscribe() as subscription:
                event_id = await channel.publish("1")
                got.append((await anext(subscription)).data)
                got.append((await anext(subscription)).data)
            return event_id

        async with anyio.create_task_group() as tasks:

            async def follow() -> None:
                assert await anyio.to_thread.run_sync(in_a_loop_of_its_own, elsewhere) == "e1.1"

            tasks.start_soon(follow)
            await until(lambda: got)
            await channel.publish("2")

    assert got == ["1", "2"]


async def test_what_is_raised_on_the_loop_of_the_log_is_raised_where_it_was_published(
    store: FakeStore, log: FakeLog
) -> None:
    store.add("c", b"")
    async with one(log) as hub:

        async def elsewhere() -> None:
            with pytest.raises(ChannelClosed):
                await hub.channel("c").publish("x")

        await anyio.to_thread.run_sync(in_a_loop_of_its_own, elsewhere)


async def test_the_loop_of_who_published_may_be_gone_when_it_is_done(
    store: FakeStore, log: FakeLog
) -> None:
    log.appending.shut()
    async with one(log) as hub:

        async def elsewhere() -> None:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(hub.channel("c").publish, "x")
                await until(lambda: log.appending.waiting)
                tasks.cancel_scope.cancel()

        await anyio.to_thread.run_sync(in_a_loop_of_its_own, elsewhere)
        log.appending.open()
        await until(lambda: store.shelf("c").head == 1)


async def test_who_gives_up_elsewhere_before_it_is_its_turn_has_published_nothing(
    store: FakeStore, log: FakeLog
) -> None:
    async with one(log) as hub:
        channel = hub.channel("c")
        log.appending.shut()
        first = channel.publish_threadsafe("1")
        await until(lambda: log.appending.waiting)

        with anyio.move_on_after(0):
            await channel.publish("2")
        log.appending.open()
        await channel.publish("3")

        assert first.result() == "e1.1"
        assert [entry.body for entry in store.shelf("c").entries] == [
            b"data: 1\r\n\r\n",
            b"data: 3\r\n\r\n",
        ]


async def test_a_thread_publishes_in_its_order_and_closes_after_it(
    store: FakeStore, log: FakeLog
) -> None:
    async with one(log) as hub:
        channel = hub.channel("c")
        ear = await Ear(channel.subscribe()).begun()

        def work() -> list[str]:
            futures = [channel.publish_threadsafe(number) for number in range(5)]
            channel.close()
            return [future.result(SEAT_BELT_SECONDS) for future in futures]

        ids = await anyio.to_thread.run_sync(work)

        assert ids == [f"e1.{offset}" for offset in range(1, 6)]
        await ear.ends()
        assert ear.data == numbers(0, 4)


async def test_a_channel_is_closed_after_what_is_being_published(
    store: FakeStore, log: FakeLog
) -> None:
    log.appending.shut()
    async with one(log) as hub:
        channel = hub.channel("c")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(channel.publish, "1")
            tasks.start_soon(channel.publish, "2")
            await until(lambda: log.appending.waiting)
            tasks.start_soon(channel.aclose)
            await settled()
            assert log.appending.waiting == 1
            log.appending.open()

        assert [entry.body for entry in store.shelf("c").entries][-1] == b""
        assert store.shelf("c").head == 3


async def test_closing_ends_the_streams_of_all_processes_for_good(store: FakeStore) -> None:
    async with running(FakeLog(store), FakeLog(store)) as (hub, other):
        ears = [await Ear(one.channel("c").subscribe()).begun() for one in (hub, other)]
        await hub.channel("c").publish("last")

        await other.channel("c").aclose()

        for ear, where in zip(ears, (hub, other), strict=True):
            await ear.ends()
            assert ear.data == ["last"]
            asked = ear.client.last_event_id
            assert asked == "e1.2"
            assert where.channel("c").closed
            async with drive(EventSourceResponse(where.channel("c").subscribe(asked))) as client:
                await client.returns()
            assert client.status == 204
            with pytest.raises(ChannelClosed):
                await where.channel("c").publish("too late")
        hub.channel("c").close()
        await other.channel("c").aclose()
        assert store.shelf("c").head == 2


@pytest.mark.parametrize("options", [{}, {"filter": lambda event: event.data == "1"}])
async def test_who_comes_to_a_closed_channel_gets_what_it_lacks_and_stays_away(
    store: FakeStore, log: FakeLog, options: dict[str, Any]
) -> None:
    store.say("c", 1, 2)
    store.add("c", b"")
    async with one(log) as hub:
        ear = Ear(hub.channel("c").subscribe("e1.0", **options))
        await ear.ends()

        assert ear.data == (["1"] if options else ["1", "2"])
        assert ear.client.last_event_id == "e1.3"
        asked = ear.client.last_event_id
        async with drive(EventSourceResponse(hub.channel("c").subscribe(asked))) as client:
            await client.returns()
        assert client.status == 204
        assert hub.channel("c").closed


async def test_a_channel_that_was_closed_is_open_again_when_its_history_was_lost(
    store: FakeStore, log: FakeLog
) -> None:
    store.add("c", b"")
    async with one(log) as hub:
        ear = Ear(hub.channel("c").subscribe())
        await ear.ends()
        store.flush()

        await hub.channel("c").publish("1")

        await until(lambda: not hub.channel("c").closed)


async def test_a_close_that_fails_is_logged(
    store: FakeStore, log: FakeLog, caplog: pytest.LogCaptureFixture
) -> None:
    store.down = True
    async with one(log, publish_wait=0) as hub:
        hub.channel("c").close()
        with pytest.raises(LogUnavailable):
            await hub.channel("d").aclose()
        with pytest.raises(LogUnavailable):
            await hub.channel("d").aclose(wait=0)

    assert caplog.text.count("channel 'c' could not be closed") == 1


async def test_a_channel_in_memory_can_be_closed_and_waited_for() -> None:
    channel = Channel("c")

    await channel.aclose()

    assert channel.closed


async def test_no_task_is_started_on_behalf_of_who_asks(
    store: FakeStore, log: FakeLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    request: ContextVar[str] = ContextVar("request", default="none")
    seen: set[str] = set()
    real = log.read

    async def read(channel: str, **options: Any) -> Any:
        seen.add(request.get())
        return await real(channel, **options)

    monkeypatch.setattr(log, "read", read)
    async with one(log) as hub:
        request.set("ours")
        ear = await Ear(hub.channel("c").subscribe()).begun()
        await hub.channel("c").publish("1")
        await hub.channel("c").aclose()
        await ear.ends()

    assert seen == {"none"}


# --- The lifespan


async def test_streams_that_are_open_at_the_end_of_the_lifespan_end(
    store: FakeStore, log: FakeLog
) -> None:
    store.say("other", 1)
    async with one(log) as hub:
        ears = [
            await Ear(hub.channel("c").subscribe()).begun(),
            await Ear(hub.subscribe(["c", "d"])).begun(),
        ]
        log.joining.shut()
        log.lose()
        ears += [
            Ear(hub.channel("new").subscribe()),
            Ear(hub.channel("other").subscribe(snapshot=lambda: ["x"])),
            Ear(hub.subscribe(["c", "newer"])),
        ]
        await settled()
        assert not any(ear.subscription.ended for ear in ears)

    for ear in ears:
        await ear.ends()
        assert ear.subscription.close_reason is None
    assert log.watched == {}
    assert log.opened == 0


async def test_a_hub_can_be_entered_again_on_another_loop(store: FakeStore) -> None:
    hub = Hub(FakeLog(store))
    held = hub.channel("c")

    async def run() -> list[object]:
        async with hub.lifespan(), held.subscribe("e1.0") as subscription:
            await held.publish("x")
            return [(await anext(subscription)).id for _ in range(store.shelf("c").head)]

    found = [await anyio.to_thread.run_sync(in_a_loop_of_its_own, run) for _ in range(3)]

    assert found == [["e1.1"], ["e1.1", "e1.2"], ["e1.1", "e1.2", "e1.3"]]


async def test_a_stream_of_an_earlier_lifespan_ends_and_can_be_resumed(
    store: FakeStore, log: FakeLog
) -> None:
    hub = Hub(log)
    async with hub.lifespan():
        ear = await Ear(hub.channel("c").subscribe()).begun()
        ear.subscription._wake = lambda: None
        store.say("c", 1)
        await settled()
    async with hub.lifespan():
        await Ear(hub.channel("c").subscribe()).begun()
        ear._woken = True
        ear.look()

        assert ear.subscription.ended
        assert ear.data == []
        await Ear(hub.channel("c").subscribe(ear.leave())).has(1)


async def test_a_lifespan_can_not_be_entered_twice_at_a_time(log: FakeLog) -> None:
    async with one(log) as hub:
        with pytest.raises(RuntimeError, match="the hub's lifespan is under way"):
            async with hub.lifespan():
                pass
        assert await hub.ready()


async def test_what_is_raised_in_the_lifespan_comes_out_as_it_is(log: FakeLog) -> None:
    error = ZeroDivisionError("made up")

    with pytest.raises(ZeroDivisionError) as raised:
        async with Hub(log).lifespan():
            raise error

    assert raised.value is error


async def test_a_lifespan_can_be_cancelled(log: FakeLog) -> None:
    hub = Hub(log)
    with anyio.CancelScope() as scope:
        async with hub.lifespan():
            scope.cancel()
            await anyio.sleep_forever()

    assert log.opened == 0
    async with hub.lifespan():
        assert await hub.ready()


async def test_a_hub_on_a_log_may_be_the_lifespan_of_an_application(log: FakeLog) -> None:
    hub = Hub(log)
    app = Starlette(lifespan=hub.lifespan)

    async with app.router.lifespan_context(app):
        assert await hub.channel("c").publish("x") == "e1.1"


async def test_the_end_of_the_lifespan_waits_for_what_is_in_line(
    store: FakeStore, log: FakeLog
) -> None:
    async with one(log) as hub:
        for name in "ab":
            hub.channel(name).publish_threadsafe("x")
            hub.channel(name).close()

    assert [store.shelf(name).head for name in "ab"] == [2, 2]


async def test_what_can_not_be_published_before_the_end_of_the_lifespan_is_said(
    store: FakeStore, log: FakeLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_replicator, "_LAST_APPENDS_SECONDS", 0.001)
    log.appending.shut()
    async with one(log) as hub:
        futures = [hub.channel("c").publish_threadsafe(number) for number in range(3)]
        futures[1].cancel()

    for future in (futures[0], futures[2]):
        with pytest.raises(RuntimeError, match="lifespan has ended"):
            future.result(0)
    assert futures[1].cancelled()


@pytest.mark.parametrize("fails", [False, True])
async def test_an_attempt_that_outlives_the_lifespan_changes_nothing(
    log: FakeLog, monkeypatch: pytest.MonkeyPatch, fails: bool
) -> None:
    monkeypatch.setattr(_replicator, "_LAST_APPENDS_SECONDS", 0.001)

    async def append(channel: str, body: bytes, **_: Any) -> Position:
        with anyio.CancelScope(shield=True):
            await until(lambda: not replicator_of(hub).running)
        if fails:
            raise ZeroDivisionError
        return Position("e", 1)

    monkeypatch.setattr(log, "append", append)
    async with one(log) as hub:
        future = hub.channel("c").publish_threadsafe("x")

    with pytest.raises(RuntimeError, match="lifespan has ended"):
        future.result(0)


async def test_who_publishes_when_the_lifespan_ends_does_not_try_for_long(
    store: FakeStore, log: FakeLog
) -> None:
    store.down = True
    async with anyio.create_task_group() as tasks, one(log) as hub:

        async def publish() -> None:
            with pytest.raises(LogUnavailable):
                await hub.channel("c").publish("x", wait=1_000)

        tasks.start_soon(publish)
        await until(lambda: store.calls["append"])


async def test_who_asks_when_the_lifespan_has_just_ended_is_not_left_waiting(
    store: FakeStore, log: FakeLog
) -> None:
    async with one(log) as hub:
        replicator = replicator_of(hub)
        channel = hub.channel("c")
        ear = Ear(channel.subscribe())
        ear._woken = False
    ear._woken = True
    state = state_of(channel)
    assert isinstance(state, ReplicatedChannel)
    replicator.ensure_following(state)
    replicator._ensure_following(state)

    await ear.ends()


# --- Letting go


@pytest.fixture
def hands(monkeypatch: pytest.MonkeyPatch) -> Hands:
    return stop_the_clock(monkeypatch)


async def test_a_channel_that_nobody_listens_to_is_let_go_after_its_linger_time(
    store: FakeStore, log: FakeLog, hands: Hands
) -> None:
    async with one(log, linger=30) as hub:
        channel = hub.channel("c")
        ear = await Ear(channel.subscribe()).begun()
        store.say("c", 1)
        await ear.has(1)
        asked = ear.leave()
        del ear
        hands.now += 29
        tracks_of(hub).sweep()
        assert channel.epoch == "e1"
        store.say("c", 2)
        await settled()
        hands.now += 2

        tracks_of(hub).sweep()

        assert log.watched == {}
        assert (channel.epoch, channel.stats().kept_events) == ("", 0)
        store.say("c", 3)
        await Ear(channel.subscribe(asked)).has(2, 3)


async def test_a_channel_with_a_subscriber_is_not_let_go(
    store: FakeStore, log: FakeLog, hands: Hands
) -> None:
    async with one(log, linger=0) as hub:
        ear = await Ear(hub.channel("c").subscribe()).begun()
        hands.now += 1_000
        tracks_of(hub).sweep()
        store.say("c", 1)
        await ear.has(1)


async def test_letting_go_happens_by_itself(
    store: FakeStore, log: FakeLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_replicator, "_SWEEP_SECONDS", 0.01)
    async with one(log, linger=0) as hub:
        (await Ear(hub.channel("c").subscribe()).begun()).leave()

        await until(lambda: log.unwatched == ["c"])
        await until(lambda: gc.collect() >= 0 and hub.stats().channels == {})


@pytest.mark.parametrize("what", ["attach", "catch up", "fill"])
async def test_a_channel_that_is_let_go_while_it_is_read_is_left_alone(
    store: FakeStore, log: FakeLog, hands: Hands, what: str
) -> None:
    store.say("c", 1, 2, 3)
    async with one(log, linger=0) as hub:
        channel = hub.channel("c")
        if what == "attach":
            log.reading.shut()
            ear = Ear(channel.subscribe())
        else:
            ear = await Ear(channel.subscribe()).begun()
            await settled()
            log.reading.shut()
            if what == "catch up":
                log.lose()
            else:
                ear.leave()
                ear = Ear(channel.subscribe("e1.1"))
        await until(lambda: log.reading.waiting)
        ear.leave()
        hands.now += 1
        tracks_of(hub).sweep()
        log.reading.open()
        await settled()

        assert (channel.epoch, log.watched) == ("", {})


@pytest.mark.parametrize("newer", [0, 3])
async def test_what_this_process_publishes_after_subscribe_is_not_missed(
    store: FakeStore, log: FakeLog, newer: int
) -> None:
    """Where a new client begins is known only later; until then others may have published, too."""
    store.say("c", "before")
    async with one(log) as hub:
        channel = hub.channel("c")
        subscriptions = [channel.subscribe(), channel.subscribe()]
        await channel.publish("1")
        late = Ear(channel.subscribe())
        await channel.publish("2")
        store.say("c", *range(3, 3 + newer))

        for ear in map(Ear, subscriptions):
            await ear.has(*range(1, 3 + newer))
        await late.has(*range(2, 3 + newer))
        state = state_of(channel)
        assert isinstance(state, ReplicatedChannel)
        assert len(state._newcomers) == 0


async def test_publishing_does_not_listen(store: FakeStore, log: FakeLog) -> None:
    async with one(log) as hub:
        await hub.channel("c").publish("x")
        await settled()

        assert log.watched == {}
        assert store.reads == []


class LateAnswers(FakeLog):
    """A way to the store on which the answer to what is named is late."""

    def __init__(self, store: FakeStore, late: bytes) -> None:
        super().__init__(store)
        self.late = late
        self.answering = Gate()
        self.answering.shut()

    async def append(
        self, channel: str, body: bytes, *, key: str, key_seconds: float, limits: Limits
    ) -> Position:
        position = await super().append(
            channel, body, key=key, key_seconds=key_seconds, limits=limits
        )
        if self.late in body:
            await self.answering.passed()
        return position


@pytest.mark.parametrize("late", ["first", "second", "third"])
async def test_whatever_order_the_answers_come_in_the_first_subscriber_misses_nothing(
    store: FakeStore, late: str
) -> None:
    store.say("c", "before")
    log = LateAnswers(store, late.encode())
    async with one(log) as hub, anyio.create_task_group() as tasks:
        channel = hub.channel("c")
        log.joining.shut()
        ear = Ear(channel.subscribe())
        for text in ("first", "second", "third"):
            tasks.start_soon(channel.publish, text)
            await settled()
        log.joining.open()
        await settled()

        log.answering.open()

        await ear.has("first", "second", "third")


async def test_a_publish_that_is_given_up_keeps_no_new_client_waiting(
    store: FakeStore, log: FakeLog
) -> None:
    log.appending.shut()
    async with one(log) as hub:
        channel = hub.channel("c")
        ear = Ear(channel.subscribe())
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(channel.publish, "never sent")
            await until(lambda: log.appending.waiting)
            await settled()
            assert ear.text == ""

            tasks.cancel_scope.cancel()

        assert (await ear.begun()).text == "id: e1.0\r\n\r\n"


async def test_in_the_child_of_a_fork_the_lifespan_has_never_been_entered(
    store: FakeStore, log: FakeLog
) -> None:
    """As the child sees it: nothing that was under way goes on, and what asks for it says why."""
    async with one(log) as hub:
        channel = hub.channel("c")
        ear = await Ear(channel.subscribe()).begun()
        replicator_of(hub).after_fork()
        state_of(channel).after_fork()

        for attempt in (channel.subscribe, channel.publish_threadsafe("x").result, channel.close):
            with pytest.raises(RuntimeError, match="before this process was forked"):
                attempt()
        assert not hub.stats().connected
        assert (channel.epoch, channel.stats().subscribers) == ("", 0)

        async with hub.lifespan():
            again = await Ear(channel.subscribe()).begun()
            await channel.publish("x")
            await again.has("x")
        ear.leave()
        replicator_of(hub).after_fork()
        with pytest.raises(RuntimeError, match="isn't connected"):
            channel.subscribe()
        assert log.opened == 1


# --- What keeps the channels in step outlives what it calls


async def test_keepers_survive_whatever_they_call_raises(
    store: FakeStore,
    log: FakeLog,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(_replicator, "_SWEEP_SECONDS", 0.001)
    made_up = [0, 0]

    async def heads(*_: Any, **__: Any) -> Any:
        made_up[0] += 1
        raise ZeroDivisionError("in a check")

    def unwatched(*_: Any) -> Any:
        made_up[1] += 1
        raise ZeroDivisionError("in a sweep")

    async def side_task() -> None:
        raise ZeroDivisionError("in a side task")

    async with one(log, check_every=0.001) as hub:
        ear = await Ear(hub.channel("c").subscribe()).begun()
        replicator = replicator_of(hub)
        monkeypatch.setattr(log, "heads", heads)
        monkeypatch.setattr(replicator.tracks, "sweep", unwatched)
        replicator._side_tasks.start(side_task)
        await until(lambda: min(made_up) > 2)
        assert hub.stats().reason
        monkeypatch.undo()

        await hub.channel("c").publish("1")

        await ear.has(1)
        # One of these has been mended by now, and the question mends the others.
        await until(lambda: "in a sweep" not in hub.stats().reason)

    assert caplog.text.count("what keeps the channels in step") == 3


async def test_what_the_log_refuses_leaves_streams_open_and_is_the_reason(
    store: FakeStore, log: FakeLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused = LogRefused("fake://", "NOPERM", "Give the user its rights.")

    async def refuse(*_: Any, **__: Any) -> Any:
        raise refused

    async with one(log) as hub:
        ear = await Ear(hub.channel("c").subscribe()).begun()
        for name in ("heads", "check", "read"):
            monkeypatch.setattr(log, name, refuse)
        await tracks_of(hub).check_positions()
        log.lose()

        assert not await hub.ready()
        assert "Give the user its rights" in hub.stats().reason

        monkeypatch.undo()
        store.say("c", 1)
        await ear.has(1)
        assert await hub.ready()
        assert hub.stats().reason == ""
    assert hub.stats().reason == "the hub's lifespan isn't under way"


async def test_two_that_enter_one_lifespan_at_once_are_told_apart(log: FakeLog) -> None:
    hub = Hub(log)
    began = threading.Barrier(2)
    outcomes: list[str] = []

    async def enter() -> None:
        began.wait(SEAT_BELT_SECONDS)
        try:
            async with hub.lifespan():
                outcomes.append("entered")
                await until(lambda: len(outcomes) == 2)
        except RuntimeError as error:
            outcomes.append(str(error).partition(":")[0])

    def in_a_thread() -> None:
        in_a_loop_of_its_own(enter)

    threads = [threading.Thread(target=in_a_thread) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        await anyio.to_thread.run_sync(thread.join)

    assert sorted(outcomes) == ["entered", "the hub's lifespan is under way"]


async def test_a_position_that_is_not_known_is_asked_of_the_log(
    store: FakeStore, log: FakeLog
) -> None:
    store.say("c", 1, 2)
    async with one(log) as hub:
        channel = hub.channel("c")
        position = await channel.position()
        assert position == "e1.2"
        store.say("c", 3)

        await Ear(channel.subscribe(after=position)).has(3)

        assert await channel.position() == "e1.3"
        assert await channel.publish("4") == "e1.4"
        assert await channel.position() == "e1.4"
        with pytest.raises(ValueError, match="position"):
            channel.subscribe("")
        log.go_away()
        with pytest.raises(LogUnavailable):
            await hub.channel("other").position()


@pytest.mark.parametrize("how", ["cancelled", "failed", "refused at first"])
async def test_what_was_added_though_its_publisher_does_not_know_reaches_who_was_there(
    store: FakeStore, log: FakeLog, how: str
) -> None:
    """What is published after `subscribe` belongs to the subscription, if it's there."""
    store.say("c", "before")
    log.joining.shut()
    async with one(log) as hub:
        channel = hub.channel("c")
        ear = Ear(channel.subscribe())
        if how == "cancelled":
            log.appending.shut()
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(partial(channel.publish, "it", key="k"))
                await until(lambda: log.appending.waiting)
                tasks.cancel_scope.cancel()
            store.add("c", b"data: it\r\n\r\n", "k")
        else:

            def fail() -> None:
                store.on_append = lambda: None
                raise LogUnavailable("fake://", "no answer")

            store.on_append = fail
            if how == "failed":
                with pytest.raises(LogUnavailable):
                    await channel.publish("it", wait=0)
            else:
                assert await channel.publish("it") == "e1.2"
        store.say("c", "other")
        log.joining.open()

        await ear.has("it", "other")


@pytest.mark.parametrize("fails", ["before", "after"])
async def test_an_event_that_never_gets_through_keeps_nobody_from_beginning(
    store: FakeStore, log: FakeLog, monkeypatch: pytest.MonkeyPatch, fails: str
) -> None:
    async def fail(*_: object, **__: object) -> Position:
        await log.appending.passed()
        raise LogUnavailable("fake://", "no answer")

    monkeypatch.setattr(log, "append", fail)
    log.joining.shut()
    async with one(log) as hub, anyio.create_task_group() as tasks:
        channel = hub.channel("c")
        ear = Ear(channel.subscribe())
        with pytest.raises(LogUnavailable):
            await channel.publish("never", wait=0)
        if fails == "after":
            log.appending.shut()
        tasks.start_soon(partial(channel.publish, "never", wait=math.inf))
        await settled()
        log.joining.open()
        if fails == "after":
            await until(lambda: channel.epoch)
            await settled()
            assert ear.text == ""
            log.appending.open()

        await ear.begun()
        tasks.cancel_scope.cancel()


async def test_many_doubts_are_forgotten_from_the_oldest_on(
    store: FakeStore, log: FakeLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(newcomers_module, "_DOUBTS_LIMIT", 2)
    log.joining.shut()
    async with one(log) as hub:
        channel = hub.channel("c")
        ear = Ear(channel.subscribe())
        for number in range(4):

            def fail() -> None:
                raise LogUnavailable("fake://", "no answer")

            store.on_append = fail
            with pytest.raises(LogUnavailable):
                await channel.publish(number, wait=0)
        log.joining.open()

        await ear.has(2, 3)


async def test_doubts_of_a_history_that_was_lost_meanwhile_are_of_no_concern(
    store: FakeStore, log: FakeLog
) -> None:
    store.say("c", "before")
    log.joining.shut()
    log.appending.shut()
    async with one(log) as hub:
        channel = hub.channel("c")
        ear = Ear(channel.subscribe())
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(channel.publish, "it")
            await until(lambda: log.appending.waiting)
            log.joining.open()
            await until(lambda: channel.epoch)
            await settled()
            log.deaf = True
            store.flush()
            store.say("c", "anew")
            tasks.cancel_scope.cancel()

        await ear.begun()
        assert channel.last_event_id == f"{store.shelf('c').epoch}.1"


async def test_doubts_of_who_has_left_are_of_no_concern(store: FakeStore, log: FakeLog) -> None:
    log.joining.shut()
    log.appending.shut()
    async with one(log) as hub:
        channel = hub.channel("c", linger=0)
        ears = [Ear(channel.subscribe()) for _ in range(2)]
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(channel.publish, "it")
            tasks.start_soon(hub.channel("other").publish, "it")
            await until(lambda: log.appending.waiting == 2)
            log.joining.open()
            await until(lambda: channel.epoch)
            await settled()
            log.reading.shut()
            tasks.cancel_scope.cancel()
        await until(lambda: log.reading.waiting)
        for ear in ears:
            ear.leave()
        del ear, ears
        gc.collect()
        await anyio.sleep(0.01)
        tracks_of(hub).sweep()
        log.reading.open()
        await settled()

        assert channel.epoch == ""
        await Ear(channel.subscribe()).begun()


def aged(store: FakeStore, channel: str, *ages: float) -> None:
    """Add an event of each age: its data is its age."""
    store.say(channel, *(f"{age:g}" for age in ages))
    store.shelf(channel).times = [time.monotonic() - age for age in ages]


async def test_a_client_begins_in_the_log_at_a_time(store: FakeStore, log: FakeLog) -> None:
    aged(store, "c", 300, 200, 100)
    async with one(log) as hub:
        channel = hub.channel("c")

        async def told(age: float | timedelta, *data: object) -> None:
            ear = Ear(channel.subscribe(since=time.time() - age if type(age) is int else age))
            await ear.has(*data)
            ear.leave()

        await told(timedelta(seconds=150), 100)
        await told(150, 100)
        await told(timedelta(seconds=250), 200, 100)
        await told(timedelta(days=1), 300, 200, 100)
        await told(timedelta(seconds=50))
        store.say("c", "new")
        await told(timedelta(seconds=50), "new")
        store.trim("c", 2)
        await told(timedelta(seconds=150), "reset trimmed", 100, "new")


async def test_who_has_an_id_goes_on_from_there_whatever_time_is_asked_for(
    store: FakeStore, log: FakeLog
) -> None:
    aged(store, "c", 300, 200, 100)
    async with one(log) as hub:
        await Ear(hub.channel("c").subscribe("e1.2", since=timedelta(days=1))).has(100)
    assert not store.calls["seek"]


@pytest.mark.parametrize("known", [False, True], ids=["first", "later"])
async def test_what_is_published_while_the_log_is_asked_for_a_time_belongs_to_the_subscription(
    store: FakeStore, log: FakeLog, *, known: bool
) -> None:
    aged(store, "c", 300, 200)
    async with one(log) as hub:
        channel = hub.channel("c")
        if known:
            await Ear(channel.subscribe()).begun()
        log.reading.shut()
        # Both begin at a time that is still to come for the log, whose clock is another one.
        ears = [Ear(channel.subscribe(since=timedelta(seconds=-60))) for _ in range(2)]
        await channel.publish("new")
        log.reading.open()

        for ear in ears:
            await ear.has("new")


async def test_a_time_is_asked_for_anew_if_the_history_is_another_one(
    store: FakeStore, log: FakeLog
) -> None:
    aged(store, "c", 300, 200)
    async with one(log) as hub:
        channel = hub.channel("c")
        await Ear(channel.subscribe()).begun()
        log.deaf = True
        store.flush()
        aged(store, "c", 150, 50)
        first = Ear(channel.subscribe(since=timedelta(seconds=100)))
        await first.has(50)

        log.deaf = False
        log.seeking.shut()
        second = Ear(channel.subscribe(since=timedelta(seconds=100)))
        await until(lambda: log.seeking.waiting)
        store.flush()
        aged(store, "c", 90, 40)
        log.lose()
        await settled()
        log.seeking.open()

        await second.has(90, 40)


async def test_a_time_that_was_asked_for_in_vain_is_of_no_concern(
    store: FakeStore, log: FakeLog
) -> None:
    aged(store, "c", 300, 200)
    async with one(log) as hub:
        channel = hub.channel("c", linger=0)
        log.seeking.shut()
        ear = Ear(channel.subscribe(since=timedelta(seconds=250)))
        await until(lambda: log.seeking.waiting)
        ear.leave()
        tracks_of(hub).sweep()
        store.flush()
        log.seeking.open()
        await settled()

        await Ear(channel.subscribe()).begun()
        assert channel.last_event_id == f"{store.shelf('c').epoch}.0"


async def test_a_log_without_times_refuses_to_begin_at_one(
    store: FakeStore, log: FakeLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FakeLog, "keeps_times", False)
    async with one(log) as hub:
        with pytest.raises(ValueError, match=r"'c', a FakeLog, keeps no times .* use after"):
            hub.channel("c").subscribe(since=0)
        with pytest.raises(TypeError, match="FakeLog keeps no times"):
            await Backend.seek(log, "c", age=0, limits=Limits())


async def test_a_history_can_be_read_from_the_log_without_listening(
    store: FakeStore, log: FakeLog
) -> None:
    store.say("c", *range(1, 8))
    store.trim("c", 2)
    async with one(log) as hub:
        channel = hub.channel("c")

        events = await channel.history(limit=2)
        assert [(event.data, event.id, event.channel) for event in events] == [
            ("6", "e1.6", "c"),
            ("7", "e1.7", "c"),
        ]
        assert [event.data for event in await channel.history(after="e1.3", limit=2)] == ["4", "5"]
        assert [event.data for event in await channel.history()] == ["3", "4", "5", "6", "7"]
        assert await channel.history(after=7) == []
        with pytest.raises(HistoryGap, match="trimmed"):
            await channel.history(after="start")
        assert log.watched == {}


async def test_a_history_can_be_read_from_another_loop(store: FakeStore, log: FakeLog) -> None:
    store.say("c", 1, 2)
    async with one(log) as hub:

        async def elsewhere() -> list[str]:
            return [event.data for event in await hub.channel("c").history()]

        found = await anyio.to_thread.run_sync(in_a_loop_of_its_own, elsewhere)

    assert found == ["1", "2"]


async def test_a_history_that_is_lost_between_two_questions_is_not_read_on(
    store: FakeStore, log: FakeLog
) -> None:
    store.say("c", 1)
    async with one(log) as hub:
        channel = hub.channel("c")
        async with anyio.create_task_group() as tasks:

            async def read_it() -> None:
                with pytest.raises(HistoryGap) as caught:
                    await channel.history()
                assert caught.value.reason == "epoch"

            log.reading.shut()
            tasks.start_soon(read_it)
            await until(lambda: log.reading.waiting)
            store.flush()
            log.reading.open()


async def test_the_newest_events_of_a_log_that_has_trimmed_them_are_none(
    store: FakeStore, log: FakeLog
) -> None:
    store.say("c", 1, 2)
    store.trim("c", 2)
    async with one(log) as hub:
        assert await hub.channel("c").history() == []


async def test_who_takes_no_ids_stays_away_from_a_closed_channel_whose_events_it_has(
    store: FakeStore, log: FakeLog
) -> None:
    store.say("c", 1, 2)
    store.add("c", b"")
    async with one(log) as hub:
        channel = hub.channel("c")
        await Ear(channel.subscribe("e1.0")).ends()

        response = EventSourceResponse(channel.subscribe("e1.2", id_blocks=False))
        async with drive(response) as client:
            await client.returns()

    assert client.status == 204


async def test_an_id_of_the_other_channels_waits_until_those_are_known(
    store: FakeStore, log: FakeLog
) -> None:
    for name in "abc":
        store.say(name, 1)
    async with running(log, FakeLog(store)) as (hub, other):
        asked = (await Ear(other.subscribe(["b", "c"])).begun()).leave()
        known = await Ear(hub.channel("a").subscribe()).begun()
        log.joining.shut()
        ear = Ear(hub.subscribe(["a", "b", "c"], asked))
        await settled()
        assert ear.data == []
        log.joining.open()
        await settled()

        store.say("b", 2)
        await ear.has(2)
        store.say("a", 3)

        await ear.has(2, 3)
        assert known.data == ["3"]


async def test_reset_names_no_event_on_a_log_and_may_be_said_in_one(log: FakeLog) -> None:
    async with one(log) as hub:
        channel = hub.channel("c")
        with pytest.raises(ValueError, match="`reset`"):
            await channel.publish({"event": "reset", "data": "x"})

        assert await channel.publish("event: reset") == "e1.1"


async def test_a_first_subscriber_is_told_of_what_was_published_and_is_no_longer_kept(
    store: FakeStore, log: FakeLog
) -> None:
    log.joining.shut()
    async with one(log) as hub:
        channel = hub.channel("c", history=1)
        subscription = channel.subscribe()
        for number in range(3):
            await channel.publish(number)
        log.joining.open()

        ear = Ear(subscription)
        await until(lambda: ear.data)

        assert ear.data == ["reset trimmed"]
