"""
What the tests of channels share: a loop that turns when the test says so, and a strict client.

The client knows the event stream as the WHATWG has it and the ids as the documentation has them; it
has nothing of our code in it.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, TypeVar

import pytest
from tests.unit.driving import StillLoop

from sse_starlette import channels
from sse_starlette._runtime.loop import loop_override
from sse_starlette.channels.channel import Channel, Subscription
from sse_starlette.eventlogs import _faults


class ManualLoop:
    """A loop without tasks, threads or time: it turns when the test says so."""

    def __init__(self) -> None:
        self.key: object = self
        self.now = 1_000.0
        self.current = True
        """Whether the calling thread is to be taken for the one of this loop."""
        self.closed = False
        self.wake_ups = 0
        self.calls: list[Callable[[], object]] = []
        self.timers: list[tuple[float, Callable[[], object]]] = []

    def time(self) -> float:
        return self.now

    def stopwatch(self) -> float:
        return self.now

    def waker(self) -> Any:
        """One for which nothing ever waits."""
        return asyncio.Event()

    def _responses_ask_for(self, *_: Any, **__: Any) -> Any:
        raise NotImplementedError

    eager_runner = timer = task_group = cancel_scope = source_runner = _responses_ask_for
    run_noting_first_wait = current_task = _responses_ask_for

    def call_soon(self, call: Callable[[], object], /) -> None:
        self.calls.append(call)

    def call_later(self, seconds: float, call: Callable[[], object], /) -> None:
        self.timers.append((self.now + seconds, call))

    def is_current(self) -> bool:
        return self.current

    def call_soon_threadsafe(self, call: Callable[[], object]) -> None:
        if self.closed:
            raise RuntimeError("Event loop is closed")
        self.wake_ups += 1
        self.calls.append(call)

    def turn(self) -> None:
        """Call what is ready now."""
        calls, self.calls = self.calls, []
        for call in calls:
            call()

    def settle(self) -> None:
        """Turn until nothing is ready."""
        while self.calls:
            self.turn()

    def advance(self, seconds: float) -> None:
        """Move the clock, and settle."""
        self.now += seconds
        due = [timer for timer in self.timers if timer[0] <= self.now]
        self.timers = [timer for timer in self.timers if timer[0] > self.now]
        self.calls += [call for _, call in due]
        self.settle()


L = TypeVar("L", ManualLoop, StillLoop)


@contextmanager
def on_loop(loop: L) -> Iterator[L]:
    """Let `loop` stand in for the running one."""
    token = loop_override.set(loop)
    try:
        yield loop
    finally:
        loop_override.reset(token)


class FakeClock:
    """The clock of a clock that channels and hubs look at."""

    def __init__(self) -> None:
        self.now = 50_000.0

    def monotonic(self) -> float:
        return self.now


def stop_the_clock(monkeypatch: pytest.MonkeyPatch) -> FakeClock:
    """Stop the clock of channels, hubs and their faults until the test moves it."""
    clock = FakeClock()
    time = SimpleNamespace(monotonic=clock.monotonic)
    of_channels = (channels._memory, channels._replica, channels._state, channels._registry)
    for module in (*of_channels, _faults):
        monkeypatch.setattr(module, "time", time)
    return clock


@dataclass(frozen=True)
class Got:
    """An event as a client's listener gets it."""

    event: str
    data: str
    id: str

    @property
    def reset(self) -> dict[str, str]:
        assert self.event == "reset"
        told: dict[str, str] = json.loads(self.data)
        assert set(told) - {"gaps"} == {"reason", "channel", "cursor"}
        return told

    @property
    def gaps(self) -> dict[str, str]:
        """Why the client is told that it misses something, by channel."""
        told: dict[str, Any] = json.loads(self.data)
        first = {told["channel"]: told["reason"]}
        if "gaps" not in told:
            return first
        gaps = {name: reason for reason, names in told["gaps"].items() for name in names}
        assert len(gaps) == sum(map(len, told["gaps"].values())) > 1
        assert first.items() <= gaps.items()
        return gaps


FIELDS = {b"data", b"event", b"id", b"retry", b""}


class Client:
    """Reads what it's given, remembers the last id, and forgets half events when it's cut off."""

    def __init__(self) -> None:
        self.last_event_id = ""
        self.got: list[Got] = []
        self.blocks = 0
        self._rest = b""

    @property
    def data(self) -> list[str]:
        return [one.data for one in self.got]

    def read(self, piece: bytes) -> list[Got]:
        """Take what has come in; return the events that it completes."""
        before = len(self.got)
        *blocks, self._rest = (self._rest + piece).split(b"\r\n\r\n")
        for block in blocks:
            self._block(block)
        return self.got[before:]

    def cut(self) -> str:
        """Lose the connection; return the id to come back with."""
        # The second CR has ended the empty line, whether or not its LF comes.
        if self._rest.endswith(b"\r\n\r"):
            self._block(self._rest[:-3])
        self._rest = b""
        return self.last_event_id

    def _block(self, block: bytes) -> None:
        self.blocks += 1
        event, data = "message", []
        for line in block.split(b"\r\n"):
            assert b"\r" not in line
            assert b"\n" not in line
            name, colon, value = line.partition(b":")
            assert name in FIELDS
            assert colon
            text = value.removeprefix(b" ").decode()
            if name == b"event":
                event = text
            elif name == b"data":
                data.append(text)
            elif name == b"id":
                self.last_event_id = text
        if data:
            self.got.append(Got(event, "\n".join(data), self.last_event_id))


def taken(subscription: Subscription) -> bytes:
    """Take all that is ready."""
    frames = b""
    while more := subscription._feed.take():
        frames += more
    return frames


def opened(subscription: Subscription, wake: Callable[[], None] = lambda: None) -> Subscription:
    """Open a subscription as the writer of a response does."""
    subscription._feed.open(wake)
    return subscription


def read(subscription: Subscription, client: Client | None = None) -> list[Got]:
    """Let a client read all that is ready."""
    return (client or Client()).read(taken(subscription))


def fill(channel: Channel, first: int, last: int, **fields: Any) -> None:
    """Publish these numbers."""
    for number in range(first, last + 1):
        channel.publish_nowait({"data": str(number), **fields})


def numbers(first: int, last: int) -> list[str]:
    """The data of these numbers."""
    return [str(number) for number in range(first, last + 1)]
