"""
Several processes on one log, and everything that can go wrong between them, in whatever order.

The log, its hubs and its clients live in one process and do what a seeded random number says. Each
client believes nothing and holds what it gets to these rules:

- The next event is that of the next offset of the same epoch, or the client was told before.
- What it gets is what was added to the log there, and none comes twice.
- It's told of a gap only where the log really had lost or forgotten what comes next.
- In the end it has come as far as the log.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from random import Random
from typing import Any

import anyio
import pytest
from tests.unit.driving import SEAT_BELT_SECONDS, settled, turns, until
from tests.unit.following import Client, Got
from tests.unit.logs import FakeLog, FakeStore
from tests.unit.replicating import hub_on, tracks_of

from sse_starlette.channels.channel import Subscription
from sse_starlette.errors import LogUnavailable
from sse_starlette.eventlogs.base import Entry
from sse_starlette.hub import Hub

pytestmark = pytest.mark.anyio

CHANNELS = ("a", "b")
HISTORY = 60
STEPS = 250


IN_SMALL_STEPS: Any = {"read_pauses": (0.0, 0.0), "listen_again": 0.0, "page": 7}
"""Try again at once, and read so little at a time that there are many pages."""


class KnowingStore(FakeStore):
    """A log that remembers everything that was ever added to it."""

    def __init__(self) -> None:
        super().__init__()
        self.added: dict[str, dict[int, set[str]]] = {}
        """What was added, by epoch and offset; more than one thing, if the log has been rewritten."""
        self.trimmed: dict[str, int] = {}
        """Up to where each epoch has been trimmed, by hand or by its limits."""
        self.publications: Counter[tuple[str, str]] = Counter()
        """How often each text was added in each epoch."""

    def add(
        self, channel: str, body: bytes, key: str | None = None, until: float = math.inf
    ) -> Entry:
        epoch = self.shelf(channel).epoch
        entry = super().add(channel, body, key, until)
        text = body.decode().removeprefix("data: ").strip()
        self.added.setdefault(epoch, {}).setdefault(entry.offset, set()).add(text)
        self.publications[epoch, text] += 1
        self.trimmed[epoch] = max(self.trimmed.get(epoch, 0), entry.offset - HISTORY)
        return entry

    def trim(self, channel: str, until: int) -> None:
        super().trim(channel, until)
        epoch = self.shelf(channel).epoch
        self.trimmed[epoch] = max(self.trimmed.get(epoch, 0), until)

    def is_lost(self, epoch: str) -> bool:
        return all(shelf.epoch != epoch for shelf in self.shelves.values())


class Follower:
    """One client that believes nothing, over all its connections."""

    def __init__(self, store: KnowingStore, channel: str) -> None:
        self.store = store
        self.channel = channel
        self.client = Client()
        self.subscription: Subscription | None = None
        self.at: tuple[str, int] | None = None
        """Epoch and offset of what it got last, or was told."""
        self.checked = 0
        self.began = ("", 0)
        """Where the channel was when it subscribed."""
        self.hub: Hub | None = None
        self._woken = False

    def connect(self, hub: Hub) -> None:
        self.hub = hub
        shelf = self.store.shelf(self.channel)
        self.began = (shelf.epoch, shelf.head)
        self.subscription = hub.channel(self.channel, history=HISTORY).subscribe(
            self.client.last_event_id or None
        )
        self.subscription._feed.open(self._wake)
        self._woken = True

    def _wake(self) -> None:
        self._woken = True

    def look(self, most: float = 1.0) -> None:
        """Take what there is, if woken, and get only so much of it."""
        subscription = self.subscription
        while subscription is not None and self._woken:
            frames = subscription._feed.take()
            if not frames:
                self._woken = False
                if subscription._feed.ended:
                    self.leave()
                    assert subscription._feed.close_reason == "lagging"
                return
            self.client.read(frames[: round(len(frames) * most)])
            self.check_all()
            if most < 1:
                self.leave()
                return

    def check_all(self) -> None:
        """Check what it has got since it was asked last."""
        for event in self.client.got[self.checked :]:
            self.check(event)
        self.checked = len(self.client.got)
        self.move(self.client.last_event_id)

    def leave(self) -> None:
        if self.subscription is not None:
            self.subscription._feed.stop()
            self.subscription = None
            self.client.cut()
            self.check_all()

    def check(self, event: Got) -> None:
        epoch, _, digits = event.id.rpartition(".")
        offset = int(digits)
        if event.event == "reset":
            self.check_reset(event.reset["reason"])
            assert event.reset["cursor"] == event.id
        else:
            assert self.at == (epoch, offset - 1), f"{self.at} is followed by {event.id}"
            assert event.data in self.store.added[epoch][offset]
        self.at = (epoch, offset)

    def check_reset(self, reason: str) -> None:
        if self.at is None:
            # It was new, and what was added since it has subscribed is no longer there.
            assert reason == "trimmed"
        epoch, offset = self.at or self.began
        match reason:
            case "epoch" | "future":
                assert self.store.is_lost(epoch)
            case "trimmed":
                # What follows was trimmed, or nothing that follows is known any more.
                assert offset < self.store.trimmed.get(epoch, 0) or self.store.is_lost(epoch)
            case _:
                raise AssertionError(reason)

    def move(self, event_id: str) -> None:
        """An id alone may only say where a client begins."""
        if event_id:
            epoch, _, digits = event_id.rpartition(".")
            if self.at is None:
                self.at = (epoch, int(digits))
            assert self.at == (epoch, int(digits))

    def is_up_to_date(self) -> bool:
        if self.subscription is None and self.hub is not None:
            self.connect(self.hub)  # It has been disconnected, for lagging.
        self.look()
        shelf = self.store.shelf(self.channel)
        return self.at == (shelf.epoch, shelf.head)


class Schedule:
    """What happens, in an order that a number decides."""

    def __init__(self, random: Random, tasks: Any) -> None:
        self.random = random
        self.tasks = tasks
        self.store = KnowingStore()
        self.logs = [FakeLog(self.store) for _ in range(3)]
        self.hubs = [hub_on(log, linger=0, publish_wait=60, **IN_SMALL_STEPS) for log in self.logs]
        self.followers = [Follower(self.store, CHANNELS[n % 2]) for n in range(8)]
        # Somebody has to know what was there, or nobody could tell that it's something else now.
        self.references = [Follower(self.store, channel) for channel in CHANNELS]
        self.published = 0
        self.publishing = 0
        self.rewritten = 0

    def steps(self) -> list[tuple[int, Callable[[], Any]]]:
        """What may happen next, and how often it does."""
        one, store = self.random.choice, self.store
        return [
            (40, self.publish),
            (40, lambda: one(self.followers).look()),
            (12, self.come_or_go),
            (6, lambda: one(self.logs).lose()),
            (5, lambda: one(self.logs).go_away()),
            (10, lambda: one(self.logs).come_back()),
            (3, self.deafen),
            (6, self.check),
            (6, lambda: one(self.gates()).shut()),
            (14, lambda: one(self.gates()).open()),
            (3, self.trim),
            (2, lambda: store.flush(one(CHANNELS))),
            (1, self.rewrite),
            (3, self.fail_an_answer),
            (3, lambda: setattr(store, "stirs", not store.stirs)),
            (5, self.sweep),
        ]

    async def step(self) -> None:
        weights, steps = zip(*self.steps(), strict=True)
        (step,) = self.random.choices(steps, weights)
        result = step()
        if result is not None:
            await result
        await turns(self.random.choice((0, 0, 1, 2, 5, 20)))
        for one in self.references:
            one.look()

    def publish(self) -> None:
        if self.publishing < 20:
            hub, channel = self.random.choice(self.hubs), self.random.choice(CHANNELS)
            for _ in range(self.random.choice((1, 1, 2, 15))):
                self.published += 1
                self.publishing += 1
                self.tasks.start_soon(self.publish_one, hub, channel, self.published)

    async def publish_one(self, hub: Hub, channel: str, number: int) -> None:
        await hub.channel(channel, history=HISTORY).publish(f"{channel}{number}")
        self.publishing -= 1

    def come_or_go(self) -> None:
        one = self.random.choice(self.followers)
        if one.subscription is None:
            one.connect(self.random.choice(self.hubs))
        else:
            one.look(self.random.random())
            one.leave()

    def deafen(self) -> None:
        log = self.random.choice(self.logs)
        log.deaf = not log.deaf

    async def check(self) -> None:
        for hub in self.hubs:
            await tracks_of(hub).check_positions()

    def gates(self) -> list[Any]:
        names = ("reading", "joining", "hearing", "appending")
        return [getattr(log, name) for log in self.logs for name in names]

    def trim(self) -> None:
        channel = self.random.choice(CHANNELS)
        self.store.trim(channel, self.store.shelf(channel).head - self.random.randrange(30))

    async def rewrite(self) -> None:
        """A server takes over that lacks the newest events; those who had them find out."""
        await self.heal()
        follower = self.random.choice(self.references)
        await until(lambda: self.publishing == 0 and follower.is_up_to_date())
        assert follower.at is not None
        shelf = self.store.shelf(follower.channel)
        epoch = shelf.epoch
        self.store.fall_back(follower.channel, max(shelf.head - self.random.randrange(1, 9), 0))
        if shelf.head == follower.at[1]:
            return
        for _ in range(self.random.randrange(12)):
            self.rewritten += 1
            self.store.say(follower.channel, f"other {self.rewritten}")
        self.store.lose_all()
        await until(lambda: self.store.shelf(follower.channel).epoch != epoch)

    def fail_an_answer(self) -> None:
        def fail() -> None:
            self.store.on_append = lambda: None
            raise LogUnavailable("fake://", "reset by peer")

        self.store.on_append = fail

    def sweep(self) -> None:
        for hub in self.hubs:
            tracks_of(hub).sweep()

    async def heal(self) -> None:
        for gate in self.gates():
            gate.open()
        for log in self.logs:
            log.deaf = False
            log.come_back()
            log.lose()
        for follower in self.references:
            if follower.subscription is None:
                follower.connect(self.hubs[0])
        await settled()

    async def run(self) -> None:
        for follower in self.references:
            follower.connect(self.hubs[0])
        for _ in range(STEPS):
            await self.step()
        await self.heal()
        await until(lambda: self.publishing == 0)
        for one in self.followers:
            if one.subscription is None:
                one.connect(self.random.choice(self.hubs))
        everyone = [*self.followers, *self.references]
        for one in everyone:
            await until(one.is_up_to_date)
        for channel in CHANNELS:
            await self.hubs[0].channel(channel, history=HISTORY).publish("the last")
        for one in everyone:
            await until(one.is_up_to_date)


@pytest.mark.parametrize("seed", range(40))
async def test_whatever_happens_to_the_log_a_client_has_everything_once_or_was_told(
    seed: int, anyio_backend: tuple[str, dict[str, Any]]
) -> None:
    with anyio.fail_after(SEAT_BELT_SECONDS):
        async with anyio.create_task_group() as tasks:
            schedule = Schedule(Random(seed), tasks)
            first, second, third = schedule.hubs
            async with first.lifespan(), second.lifespan(), third.lifespan():
                await schedule.run()

    assert schedule.published > 0
    # What was tried again was added once, unless the log had lost what it knew.
    assert set(schedule.store.publications.values()) == {1}
