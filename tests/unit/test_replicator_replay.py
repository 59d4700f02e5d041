"""Clients that come back to a channel on a log, and what is read for them."""

from __future__ import annotations

import pytest
from tests.unit.driving import settled, until
from tests.unit.following import Client, numbers
from tests.unit.logs import FakeLog, FakeStore
from tests.unit.replicating import FakeClient, one, tracks_of

from sse_starlette.channels.channel import state_of
from sse_starlette.event import ServerSentEvent
from sse_starlette.eventlogs import _track

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("without_pauses")]


async def test_many_clients_that_come_back_cause_one_read(store: FakeStore, log: FakeLog) -> None:
    store.say("c", *range(1, 101))
    async with one(log) as hub:
        await FakeClient(hub.channel("c").subscribe()).begun()
        before = len(store.reads)

        clients = [FakeClient(hub.channel("c").subscribe("e1.40")) for _ in range(200)]
        await until(lambda: all(client.data for client in clients))

        assert len(store.reads) == before + 1
        assert all(client.data == numbers(41, 100) for client in clients)


async def test_what_was_read_for_one_is_there_for_the_next(store: FakeStore, log: FakeLog) -> None:
    store.say("c", *range(1, 11))
    async with one(log) as hub:
        await FakeClient(hub.channel("c").subscribe("e1.3")).has(*range(4, 11))
        reads = len(store.reads)

        await FakeClient(hub.channel("c").subscribe("e1.5")).has(*range(6, 11))
        assert len(store.reads) == reads
        await FakeClient(hub.channel("c").subscribe("e1.1")).has(*range(2, 11))

        assert store.reads[reads:] == [("c", 1, 3, 2)]


async def test_a_long_history_is_read_page_by_page(
    store: FakeStore, log: FakeLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_track, "_PAGE", 10)
    store.say("c", *range(1, 36))
    async with one(log) as hub:
        await FakeClient(hub.channel("c").subscribe("e1.2")).has(*range(3, 36))

    assert [read[1:3] for read in store.reads[-4:]] == [(25, 35), (15, 25), (5, 15), (2, 5)]


async def test_what_is_published_while_the_history_is_read_follows_it_once(
    store: FakeStore, log: FakeLog
) -> None:
    store.say("c", *range(1, 6))
    async with one(log) as hub:
        await FakeClient(hub.channel("c").subscribe()).begun()
        log.reading.shut()
        client = FakeClient(hub.channel("c").subscribe("e1.2"))
        await until(lambda: log.reading.waiting)
        store.say("c", 6, 7)
        await settled()
        assert client.data == []

        log.reading.open()

        await client.has(3, 4, 5, 6, 7)


async def test_what_the_log_no_longer_has_is_a_gap(store: FakeStore, log: FakeLog) -> None:
    store.say("c", *range(1, 11))
    store.trim("c", 5)
    async with one(log) as hub:
        late = FakeClient(hub.channel("c").subscribe("e1.4"))
        await late.has("reset trimmed")
        assert late.client.last_event_id == "e1.10"

        await FakeClient(hub.channel("c").subscribe("e1.5")).has(*range(6, 11))
        reads = len(store.reads)

        await FakeClient(hub.channel("c").subscribe("e1.3")).has("reset trimmed")
        assert len(store.reads) == reads
        assert hub.channel("c").stats().resets == {"trimmed": 2}


async def test_what_is_trimmed_while_it_is_being_read_is_a_gap(
    store: FakeStore, log: FakeLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_track, "_PAGE", 10)
    store.say("c", *range(1, 31))
    async with one(log) as hub:
        await FakeClient(hub.channel("c").subscribe()).begun()
        log.reading.shut()
        client = FakeClient(hub.channel("c").subscribe("e1.2"))
        await until(lambda: log.reading.waiting)
        store.trim("c", 15)

        log.reading.open()

        await client.has("reset trimmed")
        await FakeClient(hub.channel("c").subscribe("e1.15")).has(*range(16, 31))


async def test_a_log_that_has_nothing_left_of_it_is_a_gap(store: FakeStore, log: FakeLog) -> None:
    store.say("c", *range(1, 11))
    store.trim("c", 10)
    async with one(log) as hub:
        await FakeClient(hub.channel("c").subscribe("e1.7")).has("reset trimmed")
        await FakeClient(hub.channel("c").subscribe(replay=3)).begun()


async def test_no_more_is_read_than_history_says(store: FakeStore, log: FakeLog) -> None:
    store.say("c", *range(1, 31))
    async with one(log) as hub:
        channel = hub.channel("c", history=10)
        await FakeClient(channel.subscribe("e1.19")).has("reset trimmed")
        await FakeClient(channel.subscribe("e1.20")).has(*range(21, 31))

        assert channel.stats().kept_events == 10


async def test_no_more_is_read_than_history_bytes_says(store: FakeStore, log: FakeLog) -> None:
    store.say("c", *("x" * 100 for _ in range(30)))
    async with one(log) as hub:
        channel = hub.channel("c", history_bytes=1_000)
        await FakeClient(channel.subscribe("e1.2")).has("reset trimmed")

        assert 800 < channel.stats().kept_bytes <= 1_000
        assert len((await FakeClient(channel.subscribe(replay=30)).begun()).data) == 8


async def test_what_is_forgotten_while_older_events_are_read_is_a_gap(
    store: FakeStore, log: FakeLog
) -> None:
    store.say("c", *range(1, 11))
    async with one(log) as hub:
        channel = hub.channel("c", history=10)
        await FakeClient(channel.subscribe()).begun()
        log.reading.shut()
        client = FakeClient(channel.subscribe("e1.2"))
        await until(lambda: log.reading.waiting)
        store.say("c", *range(11, 26))
        await settled()

        log.reading.open()

        await client.has("reset trimmed")


@pytest.mark.parametrize(("replay", "first"), [(0, 11), (3, 8), (10, 1), (50, 1)])
async def test_a_new_client_can_have_the_newest_events_of_the_log_first(
    store: FakeStore, log: FakeLog, replay: int, first: int
) -> None:
    store.say("c", *range(1, 11))
    async with one(log) as hub:
        client = await FakeClient(hub.channel("c").subscribe(replay=replay)).begun()
        store.say("c", 11)

        await client.has(*range(first, 12))


async def test_an_id_that_another_process_knows_already_is_none_from_the_future(
    store: FakeStore, log: FakeLog
) -> None:
    async with one(log) as hub:
        await FakeClient(hub.channel("c").subscribe()).begun()
        log.deaf = True
        store.say("c", 1, 2, 3)

        client = FakeClient(hub.channel("c").subscribe("e1.2"))

        await client.has(3)


async def test_an_epoch_that_another_process_knows_already_is_none_that_is_lost(
    store: FakeStore, log: FakeLog
) -> None:
    async with one(log) as hub:
        old = await FakeClient(hub.channel("c").subscribe()).begun()
        log.deaf = True
        store.flush()
        store.say("c", 1, 2, 3)

        client = FakeClient(hub.channel("c").subscribe("e2.1"))

        await client.has(2, 3)
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
            client = FakeClient(hub.channel("c").subscribe(asked))
            await client.has(f"reset {reason}")
            store.say("c", "live")
            await client.has(f"reset {reason}", "live")
            client.leave()
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
        await FakeClient(hub.channel("c").subscribe()).begun()
        before = len(store.reads)

        clients = [FakeClient(hub.channel("c").subscribe(f"x{number}.1")) for number in range(200)]
        await until(lambda: all(client.data for client in clients))

        assert len(store.reads) <= before + 2


async def test_a_slow_client_is_dealt_with_as_in_memory_and_resumes_from_the_log(
    store: FakeStore, log: FakeLog
) -> None:
    async with one(log) as hub:
        channel = hub.channel("c", history=5)
        subscription = channel.subscribe()
        client = await FakeClient(subscription).begun()
        subscription.joins = True
        client._woken = False
        store.say("c", *range(1, 8))
        await until(lambda: channel.head == 7)

        assert subscription.take() == b""
        assert subscription.close_reason == "lagging"
        await FakeClient(channel.subscribe("e1.2")).has(*range(3, 8))


async def test_the_newest_event_of_every_key_is_known_from_the_log_too(
    store: FakeStore, log: FakeLog
) -> None:
    for number in range(1, 6):
        store.say("c", f"{number % 3}:{number}")
    async with one(log) as hub:
        channel = hub.channel(
            "c", history=6, slow="latest", latest_by=lambda event: event.data.partition(":")[0]
        )
        await FakeClient(channel.subscribe()).begun()
        store.say("c", "0:6")
        await until(lambda: channel.head == 6)
        client = await FakeClient(channel.subscribe("e1.1")).begun()
        assert client.data == ["2:2", "0:3", "1:4", "2:5", "0:6"]
        slow = channel.subscribe("e1.1")
        slow.open(lambda: None)
        store.say("c", "0:7", "0:8", "0:9")
        await until(lambda: channel.head == 9)
        slow_client = Client()
        while frames := slow.take():
            slow_client.read(frames)

        assert slow_client.data[1:] == ["1:4", "2:5", "0:9"]


async def test_an_event_whose_key_can_not_be_found_is_delivered_and_kept_without(
    store: FakeStore, log: FakeLog, caplog: pytest.LogCaptureFixture
) -> None:
    def key(event: ServerSentEvent) -> object:
        return 1 / int(event.data)

    async with one(log) as hub:
        channel = hub.channel("c", slow="latest", latest_by=key)
        client = await FakeClient(channel.subscribe()).begun()

        store.say("c", 0, 1)

        await client.has(0, 1)
        latest = state_of(channel)._latest
        assert latest is not None
        assert len(latest.frames) == 1
        with pytest.raises(ZeroDivisionError):
            await channel.publish("0")
    assert caplog.text.count("latest_by failed for an event of channel 'c'") == 1
