"""
Plays what happens to a channel on an event log, as a table tells it: word by word, and after each all settle.

    A           client A comes, and its place is known      say:1,2     another process publishes
    A:e1.4      it comes with this id                       publish:x   this process does
    A+          it comes, and its place isn't known yet     lose        the connection breaks, and is back
    A-          it leaves                                   away, back  it breaks, and comes back later
    A+again     it comes back                               deaf, hears nothing is heard, though it looks fine
    B...        it comes to another process                 flush       the log has lost everything
    A.sleeps    it doesn't look, until `A.looks`            fall:1      it has lost what is after this offset
    A=1,2       it has got this, and nothing else           trim:5      it no longer has what is up to this one
    A~x         it has got this, beside other things        check       positions are compared
    A.id=e1.4   its place                                   shut:g, open:g  a gate of the log; g waits at it
    A.ends      its stream ends                             cut, mend   the log can't be asked, but is heard
    A.stays     who comes back with its id stays away       forget      the answer to an append is lost
    appends:4   that many are tried                         publish*:x  this process does so meanwhile
    waiting=1   at the gate of appends                      close, close...  this process closes it, or another
    appended=2  that many were tried                        late        it's closed to who publishes
    added=2     the log has so many                         opened      the channel isn't closed any more
    reads=1     looks since `mark`                          epoch=e2, head=5, kept=3  what the channel knows
    later:29    so many seconds pass                        sweep       what nobody listens to is let go

`3-9` are the numbers from 3 to 9, `!epoch` a reset and its reason.
"""

from __future__ import annotations

from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import anyio
import pytest
from tests.unit.driving import drive, settled, until
from tests.unit.following import FakeClock, stop_the_clock
from tests.unit.logs import FakeLog, FakeStore
from tests.unit.replicating import FakeClient, running, tracks_of

from sse_starlette.errors import ChannelClosed, LogUnavailable
from sse_starlette.sse import EventSourceResponse

if TYPE_CHECKING:
    from collections.abc import Callable

    from sse_starlette.channels.channel import Channel


def told(text: str) -> list[str]:
    """Spell out data: `1,4-6,!epoch` is 1, 4, 5, 6 and a reset."""
    found: list[str] = []
    for part in text.split(",") if text else []:
        first, dash, last = part.partition("-")
        if dash and first.isdigit():
            found += [str(number) for number in range(int(first), int(last) + 1)]
        else:
            found.append(part.replace("!", "reset "))
    return found


@dataclass(frozen=True)
class LogScenario:
    """What happens, and with what history."""

    script: str
    options: dict[str, Any] = field(default_factory=dict)
    """Of the channel."""
    hub: dict[str, Any] = field(default_factory=dict)
    """The options of each hub, see `hub_on`."""

    async def play(self) -> None:
        store = FakeStore()
        log = FakeLog(store)
        with pytest.MonkeyPatch.context() as patch:
            clock = stop_the_clock(patch)
            async with (
                running(log, FakeLog(store), **self.hub) as (hub, other),
                anyio.create_task_group() as tasks,
            ):
                channel = hub.channel("c", **self.options)
                play = _Play(store, log, channel, other.channel("c"))
                play.check, play.sweep = tracks_of(hub).check_positions, tracks_of(hub).sweep
                play.clock = clock
                play.start = tasks.start_soon
                for word in self.script.split():
                    await play.do(word)


class _Play:
    check: Callable[[], Any]
    sweep: Callable[[], None]
    clock: FakeClock
    start: Callable[..., object]

    def __init__(self, store: FakeStore, log: FakeLog, channel: Channel, other: Channel) -> None:
        self.store = store
        self.log = log
        self.channel = channel
        self.other = other
        self.clients: dict[str, FakeClient] = {}
        self.ids: dict[str, str] = {}
        self.mark = 0

    def forget(self) -> None:
        """Have the log take the next event without saying so."""

        def lose_answer() -> None:
            self.store.on_append = lambda: None
            raise LogUnavailable("fake://", "reset by peer")

        self.store.on_append = lose_answer

    async def publish(self, text: str) -> None:
        for one in told(text):
            await self.channel.publish(one)

    async def late(self, channel: Channel) -> None:
        with pytest.raises(ChannelClosed):
            await channel.publish("too late")

    async def do(self, word: str) -> None:
        if word[0].isupper():
            await self.client(word[0], word[1:])
            return
        name, _, value = word.partition("=" if "=" in word else ":")
        store, log = self.store, self.log
        channel = self.other if name.endswith("...") else self.channel
        deeds: dict[str, Callable[[], Any]] = {
            "say": lambda: store.say("c", *told(value)),
            "end": lambda: store.add("c", b""),
            "lose": log.lose,
            "away": log.go_away,
            "back": log.come_back,
            "cut": lambda: setattr(log, "cut", True),
            "mend": lambda: setattr(log, "cut", False),
            "deaf": lambda: setattr(log, "deaf", True),
            "hears": lambda: setattr(log, "deaf", False),
            "stirs": lambda: setattr(store, "stirs", True),
            "flush": store.flush,
            "fall": lambda: store.fall_back("c", int(value)),
            "trim": lambda: store.trim("c", int(value)),
            "forget": self.forget,
            "shut": lambda: getattr(log, value).shut(),
            "open": lambda: getattr(log, value).open(),
            "mark": lambda: setattr(self, "mark", len(store.reads)),
            "check": self.check,
            "later": lambda: setattr(self.clock, "now", self.clock.now + int(value)),
            "sweep": self.sweep,
            "publish": lambda: self.publish(value),
            "publish*": lambda: [self.start(self.publish, one) for one in told(value)],
            "close": channel.aclose,
            "close*": lambda: self.start(channel.aclose),
            "late": lambda: self.late(channel),
        }
        facts: dict[str, Callable[[], object]] = {
            "waits": lambda: getattr(log, value).waiting,
            "epoch": lambda: channel.epoch == value,
            "head": lambda: channel.head == int(value),
            "opened": lambda: not channel.closed,
            "appends": lambda: store.calls["append"] >= int(value),
        }
        claims: dict[str, Callable[[], object]] = {
            "reads": lambda: len(store.reads) - self.mark,
            "renewed": lambda: store.calls["renew"],
            "appended": lambda: store.calls["append"],
            "added": lambda: store.shelf("c").head,
            "waiting": lambda: log.appending.waiting,
            "kept": lambda: channel.stats().kept_events,
            "watched": lambda: ",".join(log.watched),
            "resets": lambda: ",".join(f"{one}:{n}" for one, n in channel.stats().resets.items()),
        }
        name = name.removesuffix("...")
        if name in deeds:
            done = deeds[name]()
            if isinstance(done, Coroutine):
                await done
        elif name in facts:
            await until(facts[name])
        else:
            assert str(claims[name]()) == value, word
        await settled()

    async def client(self, name: str, what: str) -> None:
        if what in ("", "+", "...") or what.startswith((":", "+replay")):
            channel = self.other if what == "..." else self.channel
            if what.startswith("+replay"):
                subscription = channel.subscribe(replay=int(what.removeprefix("+replay")))
            else:
                subscription = channel.subscribe(*([what[1:]] if what[:1] == ":" else []))
            self.clients[name] = FakeClient(subscription)
            if what in ("", "...") or what.startswith("+replay"):
                await self.clients[name].begun()
            return
        client = self.clients[name]
        if what == "-":
            self.ids[name] = client.leave()
        elif what in ("+again", "+again..."):
            channel = self.other if what.endswith(".") else self.channel
            self.clients[name] = FakeClient(channel.subscribe(self.ids[name]), client.client)
        elif what == ".sleeps":
            client.subscription._feed.call = lambda: None
        elif what == ".looks":
            client._woken = True
        elif what == ".ends":
            await client.ends()
        elif what in (".stays", ".stays..."):
            channel = self.other if what.endswith("...") else self.channel
            assert channel.closed
            again = channel.subscribe(client.client.last_event_id)
            async with drive(EventSourceResponse(again)) as http:
                await http.returns()
            assert http.status == 204
        elif what.startswith("="):
            await client.has(*told(what[1:]))
        elif what.startswith("~"):
            await until(lambda: told(what[1:])[0] in client.data)
        elif what.startswith(".cursor="):
            assert client.client.got[-1].reset["cursor"] == what[8:]
        else:
            assert what.startswith(".id="), what
            assert client.client.last_event_id == what[4:]
        await settled()
