"""Channels on a log: many processes, one history."""

from __future__ import annotations

import pytest
from tests.unit.driving import settled
from tests.unit.logs import FakeLog, FakeStore
from tests.unit.replicating import FakeClient, one, tracks_of

from sse_starlette.eventlogs.base import Entry

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("without_pauses")]


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
