"""Histories that a log has lost, trimmed or written anew: clients are told."""

from __future__ import annotations

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest
from tests.unit.driving import until
from tests.unit.logs import FakeLog, FakeStore
from tests.unit.replicating import FakeClient, one

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("without_pauses")]


async def test_only_the_channel_that_was_lost_is_reset(store: FakeStore, log: FakeLog) -> None:
    async with one(log) as hub:
        client = await FakeClient(hub.subscribe(["a", "b"])).begun()
        store.say("a", "a1")
        store.say("b", "b1")
        # Between channels there's no order.
        await until(lambda: len(client.data) == 2)

        store.flush("b")
        log.lose()
        await until(lambda: len(client.data) == 3)
        store.say("a", "a2")
        store.say("b", "b2")

        await until(lambda: len(client.data) == 5)
        assert sorted(client.data[:2]) == ["a1", "b1"]
        assert client.data[2] == "reset epoch"
        assert sorted(client.data[3:]) == ["a2", "b2"]
        assert client.client.got[2].reset["channel"] == "b"
        asked = client.leave()
        epochs = [hub.channel(name).epoch for name in "ab"]
        assert asked == f"{epochs[0]}.2-{epochs[1]}.1"


async def test_an_event_of_the_old_history_is_not_taken_for_one_of_the_new(
    store: FakeStore, log: FakeLog
) -> None:
    async with one(log) as hub:
        client = await FakeClient(
            hub.channel("c").subscribe(filter=lambda event: event.data != "no")
        ).begun()
        store.say("c", "old")
        await client.has("old")
        store.flush()
        log.lose()
        await client.has("old", "reset epoch")

        store.say("c", "no")
        store.say("c", "new")

        await client.has("old", "reset epoch", "new")


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
