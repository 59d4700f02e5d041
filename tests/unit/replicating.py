"""What the tests of channels on a log share: hubs that are connected, and a client that reads."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import fields
from functools import partial
from inspect import signature
from typing import Any

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest
from tests.unit.driving import SEAT_BELT_SECONDS, settled, until
from tests.unit.following import Client
from tests.unit.logs import FakeLog

from sse_starlette import hub as hub_module
from sse_starlette.channels.channel import Channel, Subscription
from sse_starlette.eventlogs._options import LogOptions
from sse_starlette.eventlogs._replicator import Replicator
from sse_starlette.eventlogs._tracks import Tracks
from sse_starlette.hub import Hub

BY_ITSELF = {field.name for field in fields(LogOptions)} - {*signature(Hub).parameters}
"""What a hub does by itself, and only tests say otherwise."""


def hub_on(log: FakeLog, **options: Any) -> Hub:
    """Make a hub with the options of `Hub`, and with those of `LogOptions`."""
    by_itself = {name: options.pop(name) for name in BY_ITSELF & {*options}}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            hub_module, "LogOptions", partial(vars(hub_module)["LogOptions"], **by_itself)
        )
        return Hub(log, **options)


@asynccontextmanager
async def running(*logs: FakeLog, **options: Any) -> AsyncIterator[list[Hub]]:
    """Hubs that are connected, one on each of these logs; options as for `hub_on`."""
    with anyio.fail_after(SEAT_BELT_SECONDS):
        async with AsyncExitStack() as stack:
            hubs = [hub_on(log, **options) for log in logs]
            for hub in hubs:
                await stack.enter_async_context(hub.lifespan())
            yield hubs


@asynccontextmanager
async def one(log: FakeLog, **options: Any) -> AsyncIterator[Hub]:
    async with running(log, **options) as (hub,):
        yield hub


class Process:
    """One process on a log: its hub, and a channel that tests are about."""

    def __init__(self, hub: Hub, log: FakeLog) -> None:
        self.hub = hub
        self.log = log
        self.store = log.store

    @property
    def channel(self) -> Channel:
        return self.hub.channel("c")

    @property
    def tracks(self) -> Tracks:
        return tracks_of(self.hub)

    def say(self, *data: object) -> None:
        """Publish on the channel as another process does."""
        self.store.say("c", *data)

    async def client(self, *cursor: str, **options: Any) -> FakeClient:
        """A client of the channel, when it's known where it begins."""
        return await FakeClient(self.channel.subscribe(*cursor, **options)).begun()


def raising(error: Exception) -> Callable[..., Awaitable[Any]]:
    """A method of a log that fails."""

    async def fail(*_: Any, **__: Any) -> Any:
        raise error

    return fail


def replicator_of(hub: Hub) -> Replicator:
    assert hub._parts.replicator is not None
    return hub._parts.replicator


def tracks_of(hub: Hub) -> Tracks:
    return replicator_of(hub).tracks


class FakeClient:
    """A client whose connection takes everything at once, but looks only when it's woken."""

    def __init__(self, subscription: Subscription, client: Client | None = None) -> None:
        self.client = client or Client()
        self.subscription = subscription
        self.raw = b""
        self._woken = True
        subscription._feed.open(self._wake)

    def _wake(self) -> None:
        self._woken = True

    def look(self) -> None:
        while self._woken:
            self._woken = False
            while frames := self.subscription._feed.take():
                self.raw += frames
                self.client.read(frames)

    @property
    def data(self) -> list[str]:
        """The data of all events, and the reason of each reset."""
        self.look()
        return [
            f"reset {one.reset['reason']}" if one.event == "reset" else one.data
            for one in self.client.got
        ]

    @property
    def text(self) -> str:
        self.look()
        return self.raw.decode()

    async def has(self, *data: object) -> None:
        """Wait until exactly this has come."""
        expected = [str(one) for one in data]
        await until(lambda: len(self.data) >= len(expected))
        await settled()
        assert self.data == expected

    async def begun(self) -> FakeClient:
        """Wait until it's known where it begins, and all that can be done has been."""
        await until(lambda: "id: " in self.text)
        await settled()
        return self

    async def reads(self, text: str) -> None:
        """Wait for this text, which may be no event."""
        await until(lambda: text in self.text)

    async def ends(self) -> None:
        """Wait for the end of the stream, and leave."""
        await until(lambda: self.data is not None and self.subscription._feed.ended)
        self.leave()

    def leave(self) -> str:
        """Break the connection; return the id to come back with."""
        self.subscription._feed.stop()
        return self.client.cut()


def in_a_loop_of_its_own(function: Callable[[], Awaitable[Any]]) -> Any:
    async def run() -> Any:
        with anyio.fail_after(SEAT_BELT_SECONDS):
            return await function()

    return anyio.run(run)
