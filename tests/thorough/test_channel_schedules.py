"""
Whatever happens in whatever order: a client has every event once, or was told that it hasn't.

A `Follower` knows what was published and believes nothing. It reads the bytes that its client gets,
up to wherever the connection is cut, and holds them to these rules:

- The next event is the next one of its channel that the client wants; none comes twice; none is of
  a channel that was not asked for.
- An id never claims more than the client has got, or was told that it won't get.
- A `reset` comes when it must, for the reason that is true, and at no other time.
"""

from __future__ import annotations

import re
from functools import partial
from random import Random
from typing import Any

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from tests.unit.driving import SEAT_BELT_SECONDS, drive, turns
from tests.unit.following import Client, Got, ManualLoop, fill, numbers, on_loop, stop_the_clock
from tests.unit.subscribing import reading

from sse_starlette.channels._feed import SubscriptionFeed
from sse_starlette.channels.channel import Channel, Subscription
from sse_starlette.errors import ChannelClosed
from sse_starlette.event import ServerSentEvent
from sse_starlette.hub import Hub
from sse_starlette.sse import EventSourceResponse

pytestmark = pytest.mark.anyio

CURSOR = re.compile(r"[0-9a-zA-Z]{8}\.\d+(-[0-9a-zA-Z]{8}\.\d+)*", re.ASCII)
MARKED = re.compile(r"[g-zA-Z].{7}", re.ASCII)
"""An epoch that begins with the two letters of its channel."""
KEYS = 3


def positions_of(event_id: str) -> dict[str, int]:
    assert CURSOR.fullmatch(event_id)
    return {
        epoch: int(offset) for epoch, offset in (part.split(".") for part in event_id.split("-"))
    }


class Shelf:
    """A channel, and all that was ever published in it."""

    def __init__(self, name: str, **options: Any) -> None:
        self.channel = Channel(name, **options)
        self.epoch = self.channel.epoch
        self.slow = options.get("slow", "disconnect")
        self.data: list[str] = []

    def publish(self) -> None:
        self.data.append(f"{self.epoch} {len(self.data) + 1}")
        event_id = self.channel.publish_nowait({"data": self.data[-1]})
        assert event_id == f"{self.epoch}.{len(self.data)}"

    @property
    def head(self) -> int:
        return len(self.data)

    @property
    def oldest(self) -> int:
        return self.head + 1 - self.channel.stats().kept_events

    def gap(self, asked: str, others: set[str]) -> str | None:
        """Why a client with this id can't be given all that it missed, of this beside others."""
        if not CURSOR.fullmatch(asked):
            return "unknown"
        positions = positions_of(asked)
        offset = positions.get(self.epoch)
        if offset is None:
            # If all that it names is something else's, the client has come to this channel anew.
            of_this = {
                epoch
                for epoch in positions.keys() - others
                if epoch[:2] == self.epoch[:2] or not MARKED.fullmatch(epoch)
            }
            return "epoch" if of_this or not positions.keys() & others else None
        if offset > self.head:
            return "future"
        return "trimmed" if offset < self.oldest - 1 else None


def offset_of(event: ServerSentEvent) -> int:
    return int(event.data.split()[1])


def key_of(event: ServerSentEvent) -> object:
    return offset_of(event) % KEYS


class Follower:
    """One client that believes nothing, over all its connections."""

    def __init__(self, shelves: list[Shelf], *, picky: bool = False, joins: bool = True) -> None:
        self.client = Client()
        self.shelves = {shelf.epoch: shelf for shelf in shelves}
        self.picky = picky
        self.joins = joins
        self.subscription: Subscription | None = None
        self.for_good = False
        """It was told to stay away."""
        self.resets = 0
        self.came_with = ""
        self.seen: set[str] = set()
        self.at: dict[str, int | None] = {}
        """How far the client has come in each channel; None: it has to be told first."""
        self.gaps: dict[str, str] = {}
        """What it has to be told."""
        self.newest: dict[str, tuple[int, list[int]]] = {}
        """What it's to get after a reset: the cursor it was told, and the offsets up to there."""

    @property
    def feed(self) -> SubscriptionFeed:
        assert self.subscription is not None
        return self.subscription._feed

    def wants(self, offset: int) -> bool:
        return not self.picky or offset % 2 == 0

    def subscribe(self, asked: str | None = None) -> Subscription:
        """Come back, with the id the client has or with another."""
        if asked is None:
            asked = self.client.last_event_id
        self.client.last_event_id = self.came_with = asked
        self.newest = {}
        self.gaps = {
            shelf.epoch: gap
            for shelf in self.shelves.values()
            if asked and (gap := shelf.gap(asked, self.shelves.keys() - {shelf.epoch})) is not None
        }
        positions = positions_of(asked) if CURSOR.fullmatch(asked) else {}
        self.at = {
            epoch: None if epoch in self.gaps else positions.get(epoch, shelf.head)
            for epoch, shelf in self.shelves.items()
        }
        filter_ = (lambda event: self.wants(offset_of(event))) if self.picky else None
        self.subscription = Hub().subscribe(
            [shelf.channel for shelf in self.shelves.values()], asked or None, filter=filter_
        )
        self.subscription._feed.joins = self.joins
        return self.subscription

    def read(self, piece: bytes) -> None:
        for event in self.client.read(piece):
            self.check(event)
        self.check_id(self.client.last_event_id)

    def cut(self) -> None:
        before = len(self.client.got)
        self.client.cut()
        for event in self.client.got[before:]:
            self.check(event)
        self.subscription = None

    def check(self, event: Got) -> None:
        if event.event == "reset":
            self.resets += 1
            cursors = positions_of(event.reset["cursor"])
            for name, reason in event.gaps.items():
                self.check_gap(name, reason, cursors)
            return
        epoch, offset = event.data.split()[0], int(event.data.split()[1])
        shelf = self.shelves[epoch]  # Fails for an event of a channel that wasn't asked for.
        assert event.data == shelf.data[offset - 1]
        assert event.data not in self.seen
        assert self.wants(offset)
        self.seen.add(event.data)
        cursor, expected = self.newest.get(epoch, (0, []))
        if offset <= cursor:
            assert offset == expected.pop(0)
        else:
            assert expected == []
            self.newest.pop(epoch, None)
            self.advance(epoch, offset - 1)
            self.at[epoch] = offset
        assert positions_of(event.id)[epoch] == offset
        self.check_id(event.id)

    def check_gap(self, name: str, reason: str, cursors: dict[str, int]) -> None:
        (shelf,) = (one for one in self.shelves.values() if one.channel.name == name)
        cursor = cursors[shelf.epoch]
        assert cursor <= shelf.head
        if reason == "lagging":
            at = self.at[shelf.epoch]
            assert shelf.slow != "disconnect"
            assert at is not None
            assert at < shelf.oldest - 1
            if shelf.slow == "latest":
                newest = {offset % KEYS: offset for offset in range(at + 1, cursor + 1)}
                expected = sorted(filter(self.wants, newest.values()))
                self.newest[shelf.epoch] = (cursor, expected)
        else:
            assert reason == self.gaps.pop(shelf.epoch)
        self.at[shelf.epoch] = cursor

    def check_id(self, event_id: str) -> None:
        if self.gaps or event_id == self.came_with:
            return
        positions = positions_of(event_id)
        assert positions.keys() == self.shelves.keys() or self.client.blocks == 0
        for epoch, offset in positions.items():
            if epoch in self.newest:
                cursor, expected = self.newest[epoch]
                if offset < cursor or expected:
                    assert offset <= cursor
                    continue
                del self.newest[epoch]
            if epoch in self.shelves:
                self.advance(epoch, offset)

    def advance(self, epoch: str, to: int) -> None:
        """Count what the client doesn't want as got; there must be nothing else up to `to`."""
        at = self.at[epoch]
        assert at is not None
        assert not any(self.wants(offset) for offset in range(at + 1, to + 1))
        self.at[epoch] = max(at, to)

    def check_up_to_date(self) -> None:
        """There's nothing left to take: the client has all there is, or has been told."""
        assert self.gaps == {}
        assert self.newest == {}
        for epoch, shelf in self.shelves.items():
            self.advance(epoch, shelf.head)


# --- The seam


async def run_the_seam(random: Random) -> list[str]:
    channel = Channel("c")
    fill(channel, 1, 4)
    data: list[str] = []

    async def publish() -> None:
        for number in range(5, 21):
            roll = random.random()
            if roll < 0.3:
                await channel.publish(number)
            else:
                await turns(roll < 0.5)
                channel.publish_nowait(number)

    async def come_back() -> None:
        await turns(random.randrange(10))
        subscription = channel.subscribe(f"{channel.epoch}.4")
        await turns(random.randrange(4))
        if random.random() < 0.1:
            async with drive(EventSourceResponse(subscription)) as exchange:
                await exchange.contains("data: 20\r\n\r\n")
            data.extend(reading(exchange).data)
        else:
            async with subscription:
                while not data or data[-1] != "20":
                    data.append((await anext(subscription)).data)

    async with anyio.create_task_group() as tasks:
        first, second = random.sample([publish, come_back], 2)
        tasks.start_soon(first)
        tasks.start_soon(second)
    return data


async def test_reconnect_at_the_seam_receives_exactly_what_was_missed(
    anyio_backend: tuple[str, dict[str, Any]],
) -> None:
    random = Random(str(anyio_backend))
    runs = 100 if anyio_backend[1].get("use_uvloop") else 1_000

    got: list[list[str]] = []

    async def run() -> None:
        got.append(await run_the_seam(random))

    with anyio.fail_after(4 * SEAT_BELT_SECONDS):
        for _ in range(runs // 50):
            # Many at a time, which takes a fraction of the loop's turns.
            async with anyio.create_task_group() as tasks:
                for _ in range(50):
                    tasks.start_soon(run)

    assert len(got) == runs
    assert [one for one in got if one != numbers(5, 20)] == []


async def test_the_seam_holds_when_a_thread_publishes() -> None:
    with anyio.fail_after(SEAT_BELT_SECONDS):
        for _ in range(5):
            channel = Channel("c", history=5_000)
            fill(channel, 1, 4)
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(anyio.to_thread.run_sync, partial(fill, channel, 5, 1_000))
                await anyio.lowlevel.checkpoint()
                subscription = channel.subscribe(f"{channel.epoch}.4")
                async with drive(EventSourceResponse(subscription)) as exchange:
                    await exchange.contains("data: 1000\r\n\r\n")
            assert reading(exchange).data == numbers(5, 1_000)


# --- Any order


class AnyOrder(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.patch = pytest.MonkeyPatch()
        self.clock = stop_the_clock(self.patch)
        self.loop = on_loop(ManualLoop())
        self.hand_loop = self.loop.__enter__()
        self.followers: list[Follower] = []
        self.shelves: dict[str, Shelf] = {}

    def teardown(self) -> None:
        try:
            for follower in self.followers:
                self.drain(follower)
        finally:
            self.loop.__exit__(None, None, None)
            self.patch.undo()

    def shelf(self, name: str) -> Shelf:
        options: dict[str, dict[str, Any]] = {
            "a": {"history": 6, "history_seconds": 60},
            "b": {"history": 4, "slow": "reset"},
            "c": {"history": 5, "slow": "latest", "latest_by": key_of},
        }
        return Shelf(name, **options[name])

    @initialize()
    def begin(self) -> None:
        self.shelves = {name: self.shelf(name) for name in "abc"}

    @property
    def connected(self) -> list[Follower]:
        return [one for one in self.followers if one.subscription is not None]

    @property
    def away(self) -> list[Follower]:
        return [one for one in self.followers if one.subscription is None and not one.for_good]

    @rule(
        names=st.sets(st.sampled_from("abc"), min_size=1), picky=st.booleans(), joins=st.booleans()
    )
    @precondition(lambda self: len(self.followers) < 5)
    def new_client(self, names: set[str], picky: bool, joins: bool) -> None:
        shelves = [self.shelves[name] for name in sorted(names)]
        self.followers.append(Follower(shelves, picky=picky, joins=joins))
        self.connect(self.followers[-1], None)

    @rule(data=st.data(), honest=st.booleans())
    @precondition(lambda self: self.away)
    def come_back(self, data: st.DataObject, honest: bool) -> None:
        follower = data.draw(st.sampled_from(self.away))
        if honest:
            self.connect(follower, None)
            return
        epochs = [*(shelf.epoch for shelf in self.shelves.values()), "00000000"]
        offsets = st.integers(0, 60)
        parts = st.builds("{}.{}".format, st.sampled_from(epochs), offsets)
        # No epoch twice: that is no id of ours, and any of its offsets would do.
        ids = st.lists(parts, min_size=1, unique_by=lambda part: part[:8]).map("-".join)
        odd = data.draw(st.sampled_from(["x", "\0", "1", "x" * 9_000]) | ids)
        # Who claims to be elsewhere gets what it had once more.
        follower.seen.clear()
        self.connect(follower, odd)

    def connect(self, follower: Follower, asked: str | None) -> None:
        # The names stand for new channels since, if the old ones have been lost.
        follower.shelves = {
            (shelf := self.shelves[one.channel.name]).epoch: shelf
            for one in follower.shelves.values()
        }
        subscription = follower.subscribe(asked)
        if subscription._feed.is_over():
            assert all(shelf.channel.closed for shelf in follower.shelves.values())
            follower.check_up_to_date()
            follower.for_good = True
            subscription._feed.open(lambda: None)
            subscription._feed.stop()
            assert subscription._feed.take() == b""
            follower.cut()
        else:
            subscription._feed.open(lambda: None)

    @rule(name=st.sampled_from("abc"), count=st.integers(1, 9))
    def publish(self, name: str, count: int) -> None:
        shelf = self.shelves[name]
        if shelf.channel.closed:
            with pytest.raises(ChannelClosed):
                shelf.channel.publish_nowait("too 0 late")
        else:
            for _ in range(count):
                shelf.publish()
        self.hand_loop.settle()

    @rule(data=st.data(), how_much=st.sampled_from(["a piece", "all, and a ping"]))
    @precondition(lambda self: self.connected)
    def take(self, data: st.DataObject, how_much: str) -> None:
        follower = data.draw(st.sampled_from(self.connected))
        if how_much == "a piece":
            self.take_from(follower)
        else:  # The writer pings when there's nothing to take.
            self.drain(follower)

    @rule(data=st.data(), how_much=st.floats(0, 1))
    @precondition(lambda self: self.connected)
    def cut(self, data: st.DataObject, how_much: float) -> None:
        follower = data.draw(st.sampled_from(self.connected))
        frames = follower.feed.take()
        follower.read(frames[: round(len(frames) * how_much)])
        follower.feed.stop()
        follower.cut()

    @rule(seconds=st.sampled_from([10, 61]))
    def time_passes(self, seconds: int) -> None:
        self.clock.now += seconds

    @rule(name=st.sampled_from("abc"))
    def close(self, name: str) -> None:
        self.shelves[name].channel.close()
        self.hand_loop.settle()

    @rule(name=st.sampled_from("abc"))
    def lose(self, name: str) -> None:
        self.shelves[name] = self.shelf(name)

    def take_from(self, follower: Follower) -> bool:
        frames = follower.feed.take()
        follower.read(frames)
        if not frames and follower.feed.ended:
            follower.feed.stop()
            if follower.feed.close_reason == "lagging":
                assert any(
                    shelf.slow == "disconnect" and (follower.at[epoch] or 0) < shelf.oldest - 1
                    for epoch, shelf in follower.shelves.items()
                )
            else:
                assert all(shelf.channel.closed for shelf in follower.shelves.values())
                follower.check_up_to_date()
            follower.cut()
        return bool(frames)

    def drain(self, follower: Follower) -> None:
        if follower.subscription is None:
            return
        while self.take_from(follower):
            pass
        if follower.subscription is not None:
            follower.check_up_to_date()
            follower.read(follower.feed.ping())
            heads = {epoch: shelf.head for epoch, shelf in follower.shelves.items()}
            assert positions_of(follower.client.last_event_id) == heads

    @invariant()
    def only_the_connected_are_counted(self) -> None:
        for shelf in self.shelves.values():
            stats = shelf.channel.stats()
            mine = [one for one in self.connected if shelf.epoch in one.shelves]
            assert stats.subscribers == len(mine)
            assert stats.published == shelf.head


def test_in_any_order_a_client_has_everything_once_or_was_told() -> None:
    run_state_machine_as_test(
        AnyOrder,
        settings=settings(
            max_examples=40, stateful_step_count=40, deadline=None, derandomize=True, database=None
        ),
    )


# --- Through responses


@pytest.mark.parametrize("slow", ["disconnect", "reset", "latest"])
async def test_clients_that_are_cut_at_random_have_everything_once_or_were_told(
    slow: str, anyio_backend: tuple[str, dict[str, Any]]
) -> None:
    random = Random(f"{slow} {anyio_backend}")
    latest_by = {"latest_by": key_of} if slow == "latest" else {}
    shelves = [Shelf(name, history=15, slow=slow, **latest_by) for name in "ab"]
    followers = [
        Follower(
            random.choice([shelves, shelves[:1]]), picky=number % 3 == 0, joins=number % 2 == 0
        )
        for number in range(6)
    ]

    async def connect(follower: Follower, budget: int) -> int:
        """Stream until the client has got so many bytes; return the status."""

        async def slowly(message: Any) -> None:
            await turns(random.choice((0, 0, 0, 1, 40)))

        response = EventSourceResponse(follower.subscribe(), ping=0)
        async with drive(response, on_send=slowly) as exchange:
            await exchange.until(lambda: exchange.over or len(exchange.body) >= budget)
        follower.read(exchange.body[:budget])
        follower.cut()
        return exchange.status

    async def follow(follower: Follower) -> None:
        status = 200
        while status == 200:
            closed = shelves[0].channel.closed
            status = await connect(follower, 1 << 30 if closed else random.randrange(1, 900))
            await turns(random.choice((0, 5, 50)))

    async def publish() -> None:
        for _ in range(250):
            random.choice(shelves).publish()
            await turns(random.choice((0, 0, 0, 1, 2, 8)))
        for shelf in shelves:
            shelf.channel.close()

    with anyio.fail_after(SEAT_BELT_SECONDS):
        async with anyio.create_task_group() as tasks:
            for follower in followers:
                tasks.start_soon(follow, follower)
            tasks.start_soon(publish)

    for follower in followers:
        follower.check_up_to_date()
        assert follower.seen
    assert [shelf.channel.stats().subscribers for shelf in shelves] == [0, 0]
