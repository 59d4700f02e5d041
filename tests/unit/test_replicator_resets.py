"""Histories that a log has lost, trimmed or written anew: clients are told."""

from __future__ import annotations

import anyio
import pytest
from tests.unit.driving import until
from tests.unit.replicating import FakeClient, Process

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("without_pauses")]


async def test_only_the_channel_that_was_lost_is_reset(process: Process) -> None:
    hub, store = process.hub, process.store
    client = await FakeClient(hub.subscribe(["a", "b"])).begun()
    for name in "ab":
        store.say(name, f"{name}1")
    # Between channels there's no order.
    await until(lambda: len(client.data) == 2)

    store.flush("b")
    process.log.lose()
    await until(lambda: len(client.data) == 3)
    for name in "ab":
        store.say(name, f"{name}2")

    await until(lambda: len(client.data) == 5)
    assert sorted(client.data[:2]) == ["a1", "b1"]
    assert client.data[2] == "reset epoch"
    assert sorted(client.data[3:]) == ["a2", "b2"]
    assert client.client.got[2].reset["channel"] == "b"
    assert client.leave() == f"{hub.channel('a').epoch}.2-{hub.channel('b').epoch}.1"


async def test_an_event_of_the_old_history_is_not_taken_for_one_of_the_new(
    process: Process,
) -> None:
    client = await process.client(filter=lambda event: event.data != "no")
    process.say("old")
    await client.has("old")
    process.store.flush()
    process.log.lose()
    await client.has("old", "reset epoch")

    process.say("no", "new")

    await client.has("old", "reset epoch", "new")


async def test_the_application_is_asked_when_a_history_breaks(process: Process) -> None:
    subscription = process.channel.subscribe(snapshot=lambda: ["snapshot"])
    got: list[str] = []

    async def follow() -> None:
        async for event in subscription:
            got.append(str(event.event or event.data))  # noqa: PERF401

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(follow)
        await until(lambda: got == ["snapshot"])
        process.store.flush()
        process.log.lose()
        await until(lambda: got == ["snapshot", "reset", "snapshot"])
        process.say(1)
        await until(lambda: got[-1] == "1")
        await subscription.aclose()
