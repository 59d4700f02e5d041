"""Channels on a log: many processes, one history."""

from __future__ import annotations

import pytest
from tests.unit.driving import settled, until
from tests.unit.logs import FakeLog, FakeStore
from tests.unit.replicating import FakeClient, one, running, tracks_of

from sse_starlette.eventlogs import _track
from sse_starlette.eventlogs.base import Entry

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("without_pauses")]


async def test_what_one_process_publishes_reaches_the_clients_of_all(store: FakeStore) -> None:
    async with running(*(FakeLog(store) for _ in range(3))) as hubs:
        clients = [await FakeClient(hub.channel("c").subscribe()).begun() for hub in hubs]

        ids = [await hub.channel("c").publish({"data": number}) for number, hub in enumerate(hubs)]

        for client in clients:
            await client.has(0, 1, 2)
            assert [one.id for one in client.client.got] == ids == ["e1.1", "e1.2", "e1.3"]


async def test_a_client_that_waits_for_the_first_event_gets_it(store: FakeStore) -> None:
    """The epoch is made with the first look: made with the first event, it would reset everyone."""
    async with running(FakeLog(store), FakeLog(store)) as (hub, other):
        client = await FakeClient(hub.channel("c").subscribe()).begun()
        assert client.text == "id: e1.0\r\n\r\n"

        await other.channel("c").publish("first")

        await client.has("first")


async def test_the_log_is_looked_at_after_it_is_known_to_be_heard(
    store: FakeStore, log: FakeLog
) -> None:
    log.joining.shut()
    async with one(log) as hub:
        client = FakeClient(hub.channel("c").subscribe("e1.0"))
        await settled()
        assert store.reads == []
        store.say("c", "missed")

        log.joining.open()

        await client.has("missed")


async def test_what_is_published_during_the_first_look_comes_once(
    store: FakeStore, log: FakeLog
) -> None:
    store.say("c", "before")
    log.reading.shut()
    async with one(log) as hub:
        client = FakeClient(hub.channel("c").subscribe())
        await until(lambda: log.reading.waiting)
        store.say("c", 1, 2)
        await settled()

        log.reading.open()

        await client.has(1, 2)


async def test_what_is_heard_before_the_first_look_is_done_is_looked_for(
    store: FakeStore, log: FakeLog
) -> None:
    async with one(log) as hub:
        log.hearing.shut()
        client = await FakeClient(hub.channel("c").subscribe()).begun()
        store.say("c", 1)
        await settled()
        store.say("c", 2)

        log.hearing.open()

        await client.has(1, 2)


async def test_who_comes_to_another_process_gets_exactly_what_it_missed(store: FakeStore) -> None:
    async with running(FakeLog(store), FakeLog(store)) as (hub, other):
        client = await FakeClient(hub.channel("c").subscribe()).begun()
        store.say("c", 1, 2)
        await client.has(1, 2)
        asked = client.leave()
        store.say("c", 3, 4)

        again = FakeClient(other.channel("c").subscribe(asked), client.client)

        await again.has(1, 2, 3, 4)
        store.say("c", 5)
        await again.has(1, 2, 3, 4, 5)


async def test_who_has_everything_is_sent_nothing_first(store: FakeStore, log: FakeLog) -> None:
    store.say("c", 1, 2)
    async with one(log) as hub:
        client = FakeClient(hub.channel("c").subscribe("e1.2"))
        await settled()
        assert client.text == ""
        assert client.subscription.last_event_id == "e1.2"

        store.say("c", 3)

        await client.has(3)


async def test_what_is_heard_twice_comes_once(store: FakeStore, log: FakeLog) -> None:
    async with one(log) as hub:
        client = await FakeClient(hub.channel("c").subscribe()).begun()
        entry = store.add("c", b"data: 1\r\n\r\n")
        for _ in range(2):
            log.tell("c", "e1", entry)
        store.say("c", 2)

        await client.has(1, 2)


async def test_what_is_heard_of_other_channels_is_nobodys_business(log: FakeLog) -> None:
    async with one(log) as hub:
        tracks = tracks_of(hub)

        tracks.subscribed("other")
        tracks.received("other", "e", Entry(1, "k", b"x"))
        tracks.notified("other")


async def test_what_must_be_read_from_the_log_is_read(store: FakeStore, log: FakeLog) -> None:
    store.stirs = True
    async with one(log) as hub:
        client = await FakeClient(hub.channel("c").subscribe()).begun()

        store.say("c", 1, 2)
        await client.has(1, 2)
        store.say("c", 3)

        await client.has(1, 2, 3)


async def test_what_stirs_during_a_look_is_looked_for_once_more(
    store: FakeStore, log: FakeLog
) -> None:
    store.stirs = True
    async with one(log) as hub:
        client = await FakeClient(hub.channel("c").subscribe()).begun()
        log.reading.shut()
        store.say("c", 1)
        await until(lambda: log.reading.waiting)
        store.say("c", 2)
        await settled()

        log.reading.open()

        await client.has(1, 2)


async def test_a_hole_in_what_is_heard_is_filled_from_the_log(
    store: FakeStore, log: FakeLog
) -> None:
    async with one(log) as hub:
        client = await FakeClient(hub.channel("c").subscribe()).begun()
        log.deaf = True
        store.say("c", 1, 2)
        log.deaf = False

        store.say("c", 3)

        await client.has(1, 2, 3)
        assert hub.stats().catch_ups == 1


async def test_what_is_heard_while_a_hole_is_filled_comes_in_order(
    store: FakeStore, log: FakeLog
) -> None:
    async with one(log) as hub:
        client = await FakeClient(hub.channel("c").subscribe()).begun()
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

        await client.has(1, 2, 3, 4)
        assert len(store.reads) == looks


async def test_much_that_is_heard_while_a_hole_is_filled_is_read(
    store: FakeStore, log: FakeLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_track, "_PAGE", 3)
    async with one(log) as hub:
        client = await FakeClient(hub.channel("c").subscribe()).begun()
        log.reading.shut()
        log.deaf = True
        store.say("c", 1)
        log.deaf = False
        store.say("c", 2)
        await until(lambda: log.reading.waiting)
        store.say("c", *range(3, 13))
        await settled()

        log.reading.open()

        await client.has(*range(1, 13))
