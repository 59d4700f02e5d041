"""Clients that come back to a channel on a log, and what is read for them."""

from __future__ import annotations

import pytest
from tests.unit.driving import until
from tests.unit.following import Client, numbers
from tests.unit.logs import FakeLog, FakeStore
from tests.unit.replicating import FakeClient, one

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


async def test_a_long_history_is_read_page_by_page(
    store: FakeStore, log: FakeLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_track, "_PAGE", 10)
    store.say("c", *range(1, 36))
    async with one(log) as hub:
        await FakeClient(hub.channel("c").subscribe("e1.2")).has(*range(3, 36))

    assert [read[1:3] for read in store.reads[-4:]] == [(25, 35), (15, 25), (5, 15), (2, 5)]


async def test_no_more_is_read_than_history_bytes_says(store: FakeStore, log: FakeLog) -> None:
    store.say("c", *("x" * 100 for _ in range(30)))
    async with one(log) as hub:
        channel = hub.channel("c", history_bytes=1_000)
        await FakeClient(channel.subscribe("e1.2")).has("reset trimmed")

        assert 800 < channel.stats().kept_bytes <= 1_000
        assert len((await FakeClient(channel.subscribe(replay=30)).begun()).data) == 8


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
        subscription._feed.joins = True
        client._woken = False
        store.say("c", *range(1, 8))
        await until(lambda: channel.head == 7)

        assert subscription._feed.take() == b""
        assert subscription._feed.close_reason == "lagging"
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
        slow._feed.open(lambda: None)
        store.say("c", "0:7", "0:8", "0:9")
        await until(lambda: channel.head == 9)
        slow_client = Client()
        while frames := slow._feed.take():
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
