"""The figures of channels and hubs: what is counted, and what `stats()` returns."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ._ring import Ring
    from ._start import GapReason


@dataclass(frozen=True, slots=True)
class ChannelStats:
    """
    What has happened to a channel so far, and how it stands.

    Attributes:
        subscribers: streams that are open now.
        published: events since the channel was made; on a log, since its history began, as far as
            this process knows.
        delivered: events that were handed to a client's connection, all clients together.
        dropped: events that clients did not get because they read too slowly.
        disconnected: streams that were ended because their clients read too slowly.
        resets: how often clients were told of a gap, by reason.
        lag: how many events the slowest open stream is behind.
        kept_events: how many events can be replayed.
        kept_bytes: how much memory these take.
        failures: how often a filter or `on_gap` raised; the event was left out for that client, or it
            got the event `reset`.
    """

    subscribers: int
    published: int
    delivered: int
    dropped: int
    disconnected: int
    resets: dict[GapReason, int]
    lag: int
    kept_events: int
    kept_bytes: int
    failures: int = 0


@dataclass(slots=True)
class Counts:
    """What a channel counts; the fields are those of `ChannelStats`."""

    delivered: int = 0
    dropped: int = 0
    disconnected: int = 0
    failures: int = 0
    resets: Counter[GapReason] = field(default_factory=Counter)

    def stats(self, ring: Ring, taken: list[int]) -> ChannelStats:
        """Return the figures of a channel with this ring; `taken`: how far each open stream has come."""
        return ChannelStats(
            subscribers=len(taken),
            published=ring.head,
            delivered=self.delivered,
            dropped=self.dropped,
            disconnected=self.disconnected,
            resets=dict(self.resets),
            lag=max([0, *(ring.head - offset for offset in taken)]),
            kept_events=len(ring),
            kept_bytes=ring.size,
            failures=self.failures,
        )


@dataclass(frozen=True, slots=True)
class HubStats:
    """
    The channels of a hub that are in use.

    Attributes:
        channels: the figures of each channel, by its name.
        connected: whether the log is in reach, as far as is known; always, if there's none.
        losses: how often the log has been out of reach.
        catch_ups: how often a channel has read from the log what it had not heard.
        reason: what is wrong with the log, as far as is known, and what to do about it; of a channel
            alone, if there's no more. Empty: nothing.
    """

    channels: dict[str, ChannelStats]
    connected: bool = True
    losses: int = 0
    catch_ups: int = 0
    reason: str = ""

    @property
    def subscribers(self) -> int:
        """Streams that are open now; one of several channels counts in each."""
        return sum(one.subscribers for one in self.channels.values())

    @property
    def published(self) -> int:
        """Events that were published."""
        return sum(one.published for one in self.channels.values())

    @property
    def delivered(self) -> int:
        """Events that were handed to clients' connections."""
        return sum(one.delivered for one in self.channels.values())
