"""
Plays what happens to channels of one process and their clients, word by word, as a table tells it.

The channels are `a`, `b` and `c`; those clients whose channels aren't named have all that the scenario
names, or `a` alone. Options are those of `a` and of the subscriptions; those of `b` are given as `b={…}`.

    a+1-3       these are published to a             A           a client comes, to get what is published now
    a+x1        so is 1 as an event named x          A:a.3       one comes with this id
    lose:b      its history is lost                  A/ab:a.3    it wants these channels
    +30         the clock moves                      A-  A+      it loses the connection, comes back
    a.NAME=5    this is its figure of this name      A+/abc      it comes back for other channels

    A>          it takes one piece                   A.data=1,2  it has got this up to now
    A*          it takes all that is ready           A.NAME=5    so it is with its id, its blocks, its feed
    A=1,2       so it does, and then has got this    A.ping      its writer pings

Of a `reset` it's told which reason there is: `!trimmed` for a, `!b:epoch` for another, `!a:epoch&b:epoch`
for two. Each event must have the id that was given out for it, and each reset the cursor that it tells.
"""

from __future__ import annotations

import re
from typing import Any

from tests.unit.following import Client, FakeClock, Got, opened, taken

from sse_starlette.channels.channel import Channel, Subscription, state_of
from sse_starlette.hub import Hub

OF_SUBSCRIPTIONS = {"filter", "replay", "name_channels", "id_blocks"}


def expanded(text: str) -> list[str]:
    """The words of a list: `1-3,x` is 1, 2, 3 and x."""
    found: list[str] = []
    for part in filter(None, text.split(",")):
        first, dash, last = part.partition("-")
        found += map(str, range(int(first), int(last) + 1)) if dash else [part]
    return found


def shown(one: Got) -> str:
    if one.event != "reset":
        return one.data if one.event == "message" else one.event + one.data
    gaps = one.gaps
    reasons = [f"{name}:{reason}" for name, reason in gaps.items()]
    return f"!{gaps['a']}" if gaps.keys() == {"a"} else f"!{'&'.join(reasons)}"


class ChannelScenario:
    """What happens, to which channels."""

    def __init__(self, script: str, b: dict[str, Any] | None = None, **options: Any) -> None:
        self._words = script.split()
        self._of_subscriptions = {
            name: options.pop(name) for name in OF_SUBSCRIPTIONS & options.keys()
        }
        self._of_channels = {"a": options, "b": b or {}, "c": {}}
        self._keeps_newest = any("latest_by" in one for one in self._of_channels.values())
        self._named = sorted(
            set(re.findall(r"(?<!\w)[abc](?=[+.])|(?<=lose:)[abc]", script)) | {"a"}
        )

    def play(self, clock: FakeClock) -> None:
        self._clock = clock
        self._hub = Hub()
        self._channels = {
            name: self._hub.channel(name, **options) for name, options in self._of_channels.items()
        }
        self._published: dict[str, str] = {}
        self._clients: dict[str, tuple[Client, Subscription]] = {}
        for word in self._words:
            if word[0].isupper():
                self._client(word[0], word[1:])
            elif word[0] == "+":
                self._clock.now += float(word)
            elif word.startswith("lose:"):
                state_of(self._channels[word[5:]]).after_fork()
            elif word[1] == "+":
                self._publish(self._channels[word[0]], word[2:])
            else:
                figure, _, expected = word[2:].partition("=")
                assert self._figure(word[0], figure) == expected, word

    def _publish(self, channel: Channel, what: str) -> None:
        for one in expanded(what):
            event = {"data": one} if one.isdigit() else {"event": one[0], "data": one[1:]}
            self._published[channel.publish_nowait(event)] = one

    def _figure(self, channel: str, name: str) -> str:
        value = getattr(self._channels[channel].stats(), name)
        if isinstance(value, dict):
            return ",".join(f"{reason}:{count}" for reason, count in value.items())
        return str(value)

    def _client(self, name: str, what: str) -> None:
        if what[:1] in ("", ":", "/"):
            self._comes(name, what, Client())
            return
        client, subscription = self._clients[name]
        if what[0] == "+":
            self._comes(name, f"{what[1:]}:{client.last_event_id}", client)
        elif what == "-":
            subscription._feed.stop()
            client.cut()
        elif what == ".ping":
            self._reads(client, subscription._feed.ping())
        elif what == ">":
            self._reads(client, subscription._feed.take())
        else:
            if what[0] in "*=":
                self._reads(client, taken(subscription))
            attribute, _, expected = what.partition("=")
            if attribute in ("", ".data"):
                got = [shown(one) for one in client.got]
                assert got == expanded(expected), f"{name}{what}: {got}"
            elif attribute == ".id":
                assert client.last_event_id == self._id(expected)
            elif attribute == ".blocks":
                assert client.blocks == int(expected)
            elif attribute != "*":
                assert str(getattr(subscription._feed, attribute[1:])) == expected, what

    def _comes(self, name: str, what: str, client: Client) -> None:
        names, _, asked = what.partition(":")
        subscription = self._hub.subscribe(
            [self._channels[one] for one in names[1:] or self._named],
            self._id(asked) if asked or ":" in what else None,
            **self._of_subscriptions,
        )
        self._clients[name] = client, opened(subscription)

    def _id(self, text: str) -> str:
        """An id as the channels give it out: `a.3` stands for the third event of a."""
        return re.sub(
            r"\b([abc])(?=\.\d+(-|$))", lambda match: self._channels[match[0]].epoch, text
        )

    def _reads(self, client: Client, piece: bytes) -> None:
        for one in client.read(piece):
            if one.event != "reset":
                own = [self._published.get(part) for part in one.id.split("-")]
                assert shown(one) in own, f"{one} hasn't the id that was given out for it"
            elif not self._keeps_newest:
                assert one.id == one.reset["cursor"]
