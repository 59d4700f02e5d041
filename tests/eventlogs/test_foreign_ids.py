"""No id, whosever it is and however it's put together, reads anything of a channel that the endpoint hasn't subscribed to."""

from __future__ import annotations

from contextlib import AsyncExitStack

import anyio
import pytest
from tests.fuzzing.inputs import Picks, RandomPicks, cursor_from
from tests.unit.driving import LOOPS, SEAT_BELT_SECONDS, on

from sse_starlette import Channel, Hub, ServerSentEvent
from sse_starlette.channels.channel import Subscription

pytestmark = pytest.mark.anyio

EVENTS = 4
IDS = 120
OFFSETS = ("0", "1", "2", "3", "4", "5", "9" * 18)
IN_EACH = pytest.mark.parametrize(
    ("anyio_backend", "url"),
    [
        *(on(loop, "memory", name="memory") for loop in LOOPS),
        *(on(loop, "sqlite", name="sqlite") for loop in LOOPS),
        *(on(loop, "redis", name="redis") for loop in ("asyncio", "uvloop")),
    ],
    indirect=True,
)


def hub_at(url: str) -> Hub:
    return Hub() if url == "memory" else Hub(url)


async def fill(channel: Channel, who: str) -> str:
    """Publish what is this listener's alone; return the epoch of the channel."""
    numbers = range(1, EVENTS + 1)
    ids = [await channel.publish(f"{who} {channel.name} {number}") for number in numbers]
    return ids[-1].partition(".")[0]


def id_from(picks: Picks, own: list[str], foreign: list[str]) -> str:
    """The id of somebody else, alone or among others, or one that has been put together from those of several."""
    epochs = [*own, *own, *foreign, "00000000"]
    if not picks.pick(range(8)):
        return cursor_from(picks, picks.pick(epochs))
    parts = [f"{picks.pick(epochs)}.{picks.pick(OFFSETS)}" for _ in range(picks.pick((1, 1, 2, 3)))]
    return "-".join(parts)


async def all_of(subscription: Subscription) -> list[ServerSentEvent]:
    with anyio.fail_after(SEAT_BELT_SECONDS):
        async with subscription:
            return [event async for event in subscription]


@IN_EACH
@pytest.mark.parametrize("own", [["ann"], ["ann", "ann's other"]], ids=["one", "several"])
async def test_no_id_reads_what_is_in_another_channel(url: str, own: list[str]) -> None:
    hub, elsewhere = hub_at(url), hub_at(url)
    async with AsyncExitStack() as running:
        for each in (hub, elsewhere):
            await running.enter_async_context(each.lifespan())
        channels = [hub.channel(name) for name in own]
        epochs = [await fill(channel, "ann") for channel in channels]
        foreign = [
            await fill(hub.channel("bob"), "bob"),
            await fill(elsewhere.channel("bob's other"), "bob"),
            await fill(Hub().channel("ann"), "bob"),
        ]
        picks = RandomPicks(19)
        ids = [id_from(picks, epochs, foreign) for _ in range(IDS)]
        subscriptions = [
            channels[0].subscribe(each) if len(own) == 1 else hub.subscribe(channels, each)
            for each in ids
        ]
        for channel in channels:
            await channel.aclose()

        found = [await all_of(subscription) for subscription in subscriptions]

    for came_with, events in zip(ids, found, strict=True):
        resets = [event for event in events if event.event == "reset"]
        data = [str(event.data).rsplit(" ", 1) for event in events if event.event != "reset"]
        assert len(resets) <= 1, came_with
        for channel in channels:
            # What it gets is its own, and what follows where it says that it was.
            got = [int(number) for whose, number in data if whose == f"ann {channel.name}"]
            assert got == list(range(EVENTS + 1 - len(got), EVENTS + 1)), came_with
        assert {whose for whose, _ in data} <= {f"ann {name}" for name in own}, came_with
        if not any(epoch in came_with for epoch in epochs):
            assert (len(resets), data) == (1, []), came_with
    # And many were good for what is their own.
    assert sum(event.event is None for events in found for event in events) > IDS / 2
