"""Clients that come back to a channel on a log, and what is read for them."""

from __future__ import annotations

import pytest
from tests.unit.driving import until
from tests.unit.following import numbers, opened, read
from tests.unit.logs import FakeLog, FakeStore
from tests.unit.replicating import FakeClient, Process, one

from sse_starlette.channels.channel import state_of
from sse_starlette.event import ServerSentEvent

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("without_pauses")]


@pytest.mark.parametrize(
    ("came_with", "data", "looks"),
    [("e1.40", numbers(41, 100), 1), ("x{}.1", ["reset epoch"], 2)],
    ids=["an id", "an odd id"],
)
async def test_many_clients_that_come_together_cause_one_read_or_two_with_odd_ids(
    process: Process, came_with: str, data: list[str], looks: int
) -> None:
    process.say(*range(1, 101))
    await process.client()
    before = len(process.store.reads)

    clients = [FakeClient(process.channel.subscribe(came_with.format(n))) for n in range(200)]
    await until(lambda: all(client.data for client in clients))

    assert 1 <= len(process.store.reads) - before <= looks
    assert all(client.data == data for client in clients)


async def test_a_long_history_is_read_page_by_page(store: FakeStore, log: FakeLog) -> None:
    async with one(log, page=10) as hub:
        store.say("c", *range(1, 36))
        await FakeClient(hub.channel("c").subscribe("e1.2")).has(*range(3, 36))

    reads = [read[1:3] for read in store.reads[-4:]]
    assert reads == [(25, 35), (15, 25), (5, 15), (2, 5)]


async def test_no_more_is_read_than_history_bytes_says(process: Process) -> None:
    process.say(*("x" * 100 for _ in range(30)))
    channel = process.hub.channel("c", history_bytes=1_000)
    await FakeClient(channel.subscribe("e1.2")).has("reset trimmed")

    assert 800 < channel.stats().kept_bytes <= 1_000
    assert len((await process.client(replay=30)).data) == 8


async def test_a_slow_client_is_dealt_with_as_in_memory_and_resumes_from_the_log(
    process: Process,
) -> None:
    channel = process.hub.channel("c", history=5)
    client = await process.client()
    feed = client.subscription._feed
    feed.joins = True
    client._woken = False
    process.say(*range(1, 8))
    await until(lambda: channel.head == 7)

    assert feed.take() == b""
    assert feed.close_reason == "lagging"
    await FakeClient(channel.subscribe("e1.2")).has(*range(3, 8))


async def test_the_newest_event_of_every_key_is_known_from_the_log_too(process: Process) -> None:
    process.say(*(f"{number % 3}:{number}" for number in range(1, 6)))
    channel = process.hub.channel(
        "c", history=6, slow="latest", latest_by=lambda event: event.data.partition(":")[0]
    )
    await process.client()
    process.say("0:6")
    await until(lambda: channel.head == 6)
    client = await process.client("e1.1")
    assert client.data == ["2:2", "0:3", "1:4", "2:5", "0:6"]
    slow = opened(channel.subscribe("e1.1"))
    process.say("0:7", "0:8", "0:9")
    await until(lambda: channel.head == 9)

    assert [one.data for one in read(slow)][1:] == ["1:4", "2:5", "0:9"]


async def test_an_event_whose_key_can_not_be_found_is_delivered_and_kept_without(
    process: Process, caplog: pytest.LogCaptureFixture
) -> None:
    def key(event: ServerSentEvent) -> object:
        return 1 / int(event.data)

    channel = process.hub.channel("c", slow="latest", latest_by=key)
    client = await process.client()

    process.say(0, 1)

    await client.has(0, 1)
    latest = state_of(channel)._latest
    assert latest is not None
    assert len(latest.frames) == 1
    with pytest.raises(ZeroDivisionError):
        await channel.publish("0")
    assert caplog.text.count("latest_by failed for an event of channel 'c'") == 1
