"""
Plays what happens to a stream, as a table tells it: word by word, and after each word all settle.

    +4.9        the clock moves            push:x      the feed has a frame
    leave       the client leaves          ready:x     it has one, and tells nobody
    block       it takes nothing           last:x      it will have one when it's stopped
    unblock     it reads again             end, fail   it ends, with an error or without
    cancel      the server cancels         ended       it ends, but isn't closed yet
    drain:d,g   a stream is to end         keep        it's slow to close, until `close`
    drain:auto  its server goes down       half, whole its event is unfinished, or is finished
    stop        somebody ends the stream

What is true at that time: `=x,y` the client has got this; `silent` not even the headers; `lives` nothing
ends the stream; `waits` the app hasn't returned; `open` the body isn't over; `running` the feed hasn't been
stopped; `told:n` how often its source was told to end; `sent:n`, `offered:n` frames that have been and
messages that were to be sent; `timers:n`, `waiting:n` timers that were made, and that are set.

How it ends: `returns`, `raises`, `cancelled`, `times-out`. Words with a `&` between them happen at once.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tests.unit.driving import DISCONNECT, Exchange, HandFeed, drive, settled
from tests.unit.hand_fed import FAREWELL, PING, SORRY, MadeUpError, Run

from sse_starlette.errors import SendTimeoutError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

NAMES = {"PING": PING, "FAREWELL": FAREWELL, "SORRY": SORRY}


def frames(text: str, separator: str | None = None) -> list[bytes]:
    return [NAMES.get(name, name.encode()) for name in text.split(separator) if name]


@dataclass(frozen=True)
class Scenario:
    """What happens to a stream, and what comes of it."""

    script: str
    got: str
    """What the client has got, message by message."""
    reason: str | None = None
    """Why the stream has ended; None: it hasn't."""
    options: dict[str, Any] = field(default_factory=dict)
    first: str = "1"
    """The frames that are ready from the beginning."""
    complete: bool | None = None
    """The body has ended as it should; None: unless its client has left or a send took too long."""

    async def play(self, way_to_cancel: str = "scope") -> None:
        run = Run(*frames(self.first), **self.options)
        words = self.script.split()
        blocked = words[:1] == ["block"]
        async with drive(run, blocked=blocked) as exchange:
            await settled()
            for word in words[blocked:]:
                for part in word.split("&"):
                    await _do(part, run, exchange, way_to_cancel)
                await settled()
            assert run.stream.life.reason == self.reason, self.script
        assert exchange.chunks == frames(self.got)
        # Whatever has happened:
        if self.reason is not None:
            taken = self.reason not in ("client", "timeout")
            assert exchange.complete == (taken if self.complete is None else self.complete)
            gone = DISCONNECT if self.reason == "client" else None
            assert run.stream.life.disconnected == gone
        assert run.feed.runs == 1
        assert run.feed.stops
        assert run.feed.closed
        assert run.loop.waiting == 0


def _is_ended(feed: HandFeed) -> None:
    feed.ended = True
    feed.push()


async def _do(word: str, run: Run, exchange: Exchange, way_to_cancel: str) -> None:
    name, _, value = word.partition(":")
    feed = run.feed
    facts: dict[str, Callable[[], object]] = {
        "silent": lambda: exchange.messages == [],
        "lives": lambda: run.stream.life.reason is None and not exchange.over,
        "waits": lambda: not exchange.over,
        "open": lambda: not exchange.complete,
        "running": lambda: feed.stops == 0,
        "told": lambda: run.told == int(value),
        "sent": lambda: feed.sents == int(value),
        "offered": lambda: len(exchange.offered) == int(value),
        "timers": lambda: run.loop.timers == int(value),
        "waiting": lambda: run.loop.waiting == int(value),
    }
    deeds: dict[str, Callable[[], object]] = {
        "leave": exchange.leave,
        "block": exchange.block,
        "unblock": exchange.unblock,
        "cancel": lambda: exchange.cancel_in(way_to_cancel),
        "push": lambda: feed.push(value.encode()),
        "ready": lambda: feed.ready.append(value.encode()),
        "last": lambda: feed.last_words.append(value.encode()),
        "end": feed.end,
        "fail": lambda: feed.end(MadeUpError()),
        "ended": lambda: _is_ended(feed),
        "close": feed.close,
        "stop": lambda: run.stream.end("timeout"),
        "keep": lambda: setattr(feed, "keep_open", True),
        "half": lambda: setattr(feed, "unfinished", True),
        "whole": lambda: setattr(feed, "unfinished", False),
    }
    endings: dict[str, Callable[[], Awaitable[object]]] = {
        "returns": exchange.returns,
        "raises": lambda: exchange.raises(MadeUpError),
        "cancelled": exchange.is_cancelled,
        "times-out": lambda: exchange.raises(SendTimeoutError),
    }
    if name in facts:
        assert facts[name](), f"not {word}"
    elif name in deeds:
        deeds[name]()
    elif name in endings:
        await endings[name]()
    elif name == "drain":
        times = [float(part) for part in value.split(",") if part and part != "auto"]
        run.drain(*times, automatic=value == "auto")
    elif name.startswith("="):
        assert exchange.chunks == frames(name[1:], ","), word
    else:
        await run.loop.advance(float(name.removeprefix("+")))
