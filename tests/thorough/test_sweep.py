"""
Every await of a response and of a subscription is cut, once by each kind of ending, wherever it waits.

The list of awaits is read from the source (`sweeping.py`), and the sweep is complete only if each of them has been seen
waiting when it was cut, or stands among those that never wait, with the reason.
"""

from __future__ import annotations

import gc
import logging
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from tests.thorough.sweeping import Place, Served, all_places, served, waiting_now

from sse_starlette import EventSourceResponse, Hub, StreamPolicy, drain, sse, sync_source_limiter
from sse_starlette._shutdown.streams import current_streams, end_streams
from sse_starlette._stream.options import Patience, StreamOptions

MOST_TURNS = 16
"""Turns of the loop in which a scenario has shown all that it does."""


class World:
    """One response, its server and its client, and what has become of it."""

    def __init__(self) -> None:
        self.left = anyio.Event()
        self.broken: Exception | None = None
        self.deaf: Exception | None = None
        self.blocks = False
        self.counts: Counter[str] = Counter()
        self.body = b""
        self.body_sent = anyio.Event()
        self.scope: dict[str, Any] = {
            "type": "http",
            "method": "GET",
            "headers": [],
            "http_version": "1.1",
        }
        self.hub = Hub()
        self.policy = StreamPolicy(total=1)
        self.at_the_end: list[Callable[[], object]] = []
        self.at_once = 0

    async def receive(self) -> dict[str, Any]:
        if self.scope["headers"] and not self.body_sent.is_set():
            await anyio.lowlevel.checkpoint()
            self.body_sent.set()
            return {"type": "http.request", "body": b"x", "more_body": False}
        if self.at_once:
            self.at_once -= 1
            return {"type": "http.request", "body": b"", "more_body": False}
        await self.left.wait()
        if self.deaf is not None:
            raise self.deaf
        return {"type": "http.disconnect"}

    async def send(self, message: dict[str, Any]) -> None:
        for _ in range(2):
            await anyio.lowlevel.checkpoint()
        if self.blocks:
            await anyio.sleep(3600)
        if self.broken is not None:
            raise self.broken
        self.body += message.get("body", b"")

    # What happens to it.

    def break_send(self, failure: Exception) -> None:
        self.broken = failure

    def break_receive(self, failure: Exception) -> None:
        self.deaf = failure
        self.left.set()

    def block_send_and(self, then: Callable[[], object]) -> None:
        self.blocks = True
        then()

    # What sources and callbacks do.

    @contextmanager
    def counted(self) -> Iterator[None]:
        """Count a source that begins, and is closed."""
        self.counts["begun"] += 1
        try:
            yield
        finally:
            self.counts["closed"] += 1

    async def source(self) -> AsyncIterator[int]:
        try:
            with self.counted():
                for number in range(3):
                    yield number
                    await anyio.lowlevel.checkpoint()
                await anyio.sleep(3600)
        finally:
            await two_turns()
            self.counts["cleaned up"] += 1

    async def short(self, failure: Exception | None = None) -> AsyncIterator[str]:
        try:
            with self.counted():
                yield "one"
                if failure is not None:
                    await anyio.lowlevel.checkpoint()
                    raise failure
                yield "two"
        finally:
            await anyio.lowlevel.checkpoint()

    async def flood(self) -> AsyncIterator[str]:
        with self.counted():
            while True:
                yield "x" * 30_000

    async def late(self) -> AsyncIterator[str]:
        with self.counted():
            for _ in range(6):
                await anyio.lowlevel.checkpoint()
            yield "late"
            await anyio.sleep(3600)

    def numbers(self, many: int, *, pause: float = 0.0) -> Iterator[int]:
        with self.counted():
            for number in range(many):
                yield number
                time.sleep(pause)

    async def on_close(self, reason: str) -> None:
        self.counts["on_close"] += 1
        await anyio.lowlevel.checkpoint()

    async def on_left(self, message: object) -> None:
        await anyio.lowlevel.checkpoint()

    def asked(self, **scope: Any) -> World:
        self.scope |= scope
        return self

    def respond(self, source: Any, **options: Any) -> EventSourceResponse:
        return EventSourceResponse(
            source,
            on_close=self.on_close,
            client_close_handler_callable=self.on_left,
            policy=self.policy,
            listener="ann",
            **{"ping": 0, **options},
        )


async def two_turns(*_: object) -> str:
    await anyio.lowlevel.checkpoint()
    await anyio.lowlevel.checkpoint()
    return "sorry"


async def side_task() -> None:
    try:
        await anyio.sleep(3600)
    finally:
        await two_turns()


def without_a_thread(world: World) -> EventSourceResponse:
    """All threads that sync sources may use are in use."""
    limiter = sync_source_limiter()
    # A thread of an earlier run may be at its step still.
    limiter.total_tokens = limiter.borrowed_tokens + 1
    limiter.acquire_on_behalf_of_nowait(world)

    def give_back() -> None:
        limiter.release_on_behalf_of(world)
        limiter.total_tokens = 40

    world.at_the_end.append(give_back)
    return world.respond(iter(range(3)))


def memory_stream(world: World) -> EventSourceResponse:
    send_stream, receive_stream = anyio.create_memory_object_stream[str](2)

    async def feed() -> None:
        async with send_stream:
            for number in range(3):
                await send_stream.send(str(number))
                await anyio.lowlevel.checkpoint()
            await anyio.sleep(3600)

    def close() -> None:
        if world.counts["on_close"]:
            assert receive_stream.statistics().open_receive_streams == 0
        receive_stream.close()
        send_stream.close()

    world.at_the_end.append(close)
    return world.respond(receive_stream, data_sender_callable=feed)


class WithClose:
    """A source of another library's: it has an async `close` and no `aclose`."""

    def __init__(self, world: World) -> None:
        self.world = world

    def __aiter__(self) -> WithClose:
        self.world.counts["begun"] += 1
        return self

    async def __anext__(self) -> str:
        await anyio.lowlevel.checkpoint()
        return "x"

    async def close(self) -> None:
        await anyio.lowlevel.checkpoint()
        self.world.counts["closed"] += 1


class ClosesSlowly:
    """No generator: it takes its steps, and waits when it's closed."""

    def __init__(self, step: Callable[[], Awaitable[Any]]) -> None:
        self.step = step

    def __aiter__(self) -> ClosesSlowly:
        return self

    async def __anext__(self) -> Any:
        return await self.step()

    async def aclose(self) -> None:
        await two_turns()


def wrapped_body(world: World) -> EventSourceResponse:
    """As a middleware does it."""
    response = world.respond(world.source())
    body: Any = response.body_iterator
    response.body_iterator = ClosesSlowly(body.__anext__)
    return response


async def made(*events: str) -> AsyncIterator[str]:
    for event in events:
        await anyio.lowlevel.checkpoint()
        yield event


async def awaited() -> AsyncIterator[str]:
    await anyio.lowlevel.checkpoint()
    return made("snapshot")


async def closing_slowly() -> ClosesSlowly:
    left = ["made"] * 3

    async def step() -> str:
        await anyio.lowlevel.checkpoint()
        if not left:
            raise StopAsyncIteration
        return left.pop()

    await anyio.lowlevel.checkpoint()
    return ClosesSlowly(step)


def subscribed(world: World) -> EventSourceResponse:
    channel = world.hub.channel("news")
    channel.publish_nowait("one")
    subscription = channel.subscribe("another.5", snapshot=awaited, on_gap=lambda _: made("gap"))
    return world.respond(subscription, ping=0.001)


def iterated(world: World) -> EventSourceResponse:
    channel = world.hub.channel("news")
    channel.publish_nowait("one")

    async def beside() -> None:
        async with channel.subscribe("another.5", snapshot=closing_slowly) as subscription:
            async for _ in subscription:
                await anyio.lowlevel.checkpoint()

    return world.respond(world.source(), data_sender_callable=beside)


def asked_again(world: World) -> EventSourceResponse:
    world.policy = StreamPolicy(total=1, revalidate=two_turns)  # type: ignore[arg-type]
    return world.respond(world.source(), ping=0.001)


def server_answers_at_once(world: World) -> EventSourceResponse:
    world.at_once = 6
    return world.respond(world.source())


GENTLY: dict[str, Any] = {
    "shutdown_grace_period": 0.002,
    "farewell": "bye",
    "shutdown_retry_ms": (1_000, 2_000),
}
POST = {"method": "POST", "headers": [(b"content-length", b"1")]}
WEBSOCKET = {"type": "websocket", "extensions": {"websocket.http.response": {}}}
SCENARIOS: dict[str, Callable[[World], EventSourceResponse]] = {
    "plain": lambda world: world.respond(world.source(), ping=0.001),
    "ends by itself": lambda world: world.respond(world.short(), join_events=False),
    "fast source": lambda world: world.respond(world.flood()),
    "with side task": lambda world: world.respond(world.source(), data_sender_callable=side_task),
    "fails": lambda world: world.respond(world.short(LookupError()), on_error=two_turns),
    "first event is late": lambda world: world.respond(world.late(), first_event_timeout=60),
    "in threads": lambda world: world.respond(world.numbers(1_000_000)),
    "stuck in a thread": lambda world: world.respond(world.numbers(1_000, pause=0.02)),
    "without a thread": without_a_thread,
    "memory stream": memory_stream,
    "of another library": lambda world: world.respond(WithClose(world)),
    "wrapped body": wrapped_body,
    "subscribed": subscribed,
    "begins anew": lambda world: world.respond(
        world.hub.channel("news").subscribe(snapshot=awaited)
    ),
    "snapshot that closes slowly": lambda world: world.respond(
        world.hub.channel("news").subscribe(snapshot=closing_slowly)
    ),
    "iterated": iterated,
    "asked again": asked_again,
    "with body": lambda world: world.asked(**POST).respond(world.source()),
    "server answers at once": server_answers_at_once,
    "on websocket": lambda world: world.asked(**WEBSOCKET).respond(world.source()),
    "headers alone": lambda world: world.asked(method="HEAD").respond(world.source()),
    "goes down gently": lambda world: world.respond(world.source(), **GENTLY),
}
CLEANS_UP = {
    *("plain", "with side task", "wrapped body", "asked again", "with body", "on websocket"),
    "goes down gently",
}
"""Their sources wait in their cleanup, which nothing but the end of the whole loop cuts short."""
IN_THREADS = {"in threads", "stuck in a thread"}

ENDINGS: dict[str, Callable[[World, Served], object]] = {
    "client leaves": lambda world, _: world.left.set(),
    "server cancels": lambda _, served: served.cancel(),
    "scope cancels": lambda _, served: served.scope.cancel(),
    "server drains": lambda *_: drain(),
    "listener is revoked": lambda *_: end_streams("revoked", "ann"),
    "age is reached": lambda *_: end_streams("expired"),
    "send is refused": lambda world, _: world.break_send(OSError("the transport is closed")),
    "send raises": lambda world, _: world.break_send(ValueError("a mistake of the server's")),
    "receive raises": lambda world, _: world.break_receive(ValueError("a mistake of the server's")),
    # All tasks are cancelled, those of the response too.
    "loop ends": lambda _, served: served.cancel_all(),
    "send blocks and server drains": lambda world, _: world.block_send_and(drain),
    "send blocks and server cancels": lambda world, served: world.block_send_and(served.cancel),
}

CUT_ELSEWHERE = {
    "_confirmed": "tests/unit/test_receive.py: granian alone is asked again",
    "_noting_a_wait": "tests/unit/test_receive.py: granian alone is asked again",
    "await _confirmed(receive)": "tests/unit/test_receive.py: granian alone is asked again",
    "BodyIterator": "tests/unit/test_content.py: what others iterate isn't seen by the tasks of the response",
    "await self._late.pop()": "tests/unit/test_source.py: a step that comes too late",
    'await self._send_message({"type": "http.response.body", "body": b"", "more_body": True})': (
        "tests/unit/test_stream.py: older versions of Starlette need it"
    ),
}
"""Functions and awaits that this sweep can't come to, and where they are cut."""
ON_ASYNCIO_ALONE = {
    "await let_tasks_begin()",
    "await self._run_feed()",
    "await self._write_and_close(head=head)",
}
"""What is for tasks that are cancelled before their first step: those of trio always come to their first wait."""


async def cut(scenario: str, ending: str, turn: int, seen: set[Place]) -> bool:
    """Run a scenario and end it so in this turn; whether it was still under way."""
    world = World()
    response = SCENARIOS[scenario](world)
    was_hit = False
    turns = 0
    where = f"{scenario}, {ending} in turn {turn}"

    async def serve() -> None:
        await response(world.scope, world.receive, world.send)  # type: ignore[arg-type]

    async with served(serve) as serving:
        with anyio.move_on_after(60) as seat_belt:
            while not serving.done:
                if turns >= turn:
                    seen |= waiting_now()
                if turns == turn:
                    ENDINGS[ending](world, serving)
                    was_hit = True
                if turns == turn + 40:
                    # What waits for another send to fail would wait for ever.
                    world.left.set()
                turns += 1
                # A thread has no turn while the loop has one after the other.
                waits = scenario in IN_THREADS or turns >= turn + 60
                await anyio.sleep(0.001 if waits else 0)
        if seat_belt.cancelled_caught:
            pytest.fail(f"{where}: it hangs")
        for call in world.at_the_end:
            call()
        where = f"{where}: {serving.outcome!r}"
        for _ in range(2_000):
            # A step in a thread can't be interrupted.
            if scenario not in IN_THREADS or world.counts["begun"] == world.counts["closed"]:
                break
            await anyio.sleep(0.001)
        for _ in range(6):
            await anyio.lowlevel.checkpoint()
        assert world.counts["closed"] <= 1, where
        if scenario != "of another library":
            assert world.counts["begun"] == world.counts["closed"], where
        if scenario in CLEANS_UP and ending != "loop ends":
            assert world.counts["cleaned up"] == world.counts["begun"], where
        # Cancelled before its first step it was never called, as far as anybody can tell.
        assert world.counts["on_close"] == 1 or (turn == 0 and world.counts["on_close"] == 0), where
        assert world.policy.open == 0, where
        assert serving.tasks_left() == [], where
        assert current_streams() == [], where
        assert all(one.subscribers == 0 for one in world.hub.stats().channels.values()), where
        if not was_hit or turn == MOST_TURNS - 1:
            gc.collect()  # Once for all cuts of this kind: it takes as long as they do.
        assert serving.problems == [], where
    return was_hit


@pytest.fixture
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait milliseconds where a stream that is to end waits for a second."""
    patience = Patience(0.004, 0.004)
    monkeypatch.setitem(StreamOptions._field_defaults, "patience", patience)
    monkeypatch.setattr(sse, "StreamOptions", partial(StreamOptions, patience=patience))


@pytest.fixture
def _little_to_collect() -> Iterator[None]:
    """Keep the garbage collector from what is there by now: it then finds all that a cut has left, and quickly."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.mark.usefixtures("_impatient", "_little_to_collect")
@pytest.mark.parametrize("loop", ["asyncio", "trio"])
def test_each_await_is_cut_by_each_kind_of_ending(
    loop: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL)
    seen: dict[str, set[Place]] = {ending: set() for ending in ENDINGS}

    async def sweep() -> None:
        for ending in ENDINGS:
            for scenario in SCENARIOS:
                for turn in range(MOST_TURNS):
                    if not await cut(scenario, ending, turn, seen[ending]):
                        break

    anyio.run(sweep, backend=loop)

    everywhere = set().union(*seen.values())
    lacking = {
        place
        for place in all_places() - everywhere
        if place.text not in CUT_ELSEWHERE and place.function.partition(".")[0] not in CUT_ELSEWHERE
        if loop == "asyncio" or place.text not in ON_ASYNCIO_ALONE
    }
    assert lacking == set()
    # What happens only after one kind of ending can't be cut by another.
    assert min(map(len, seen.values())) > len(everywhere) / 2
