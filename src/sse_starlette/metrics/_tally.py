"""What is counted, whoever collects it. Knows no product.

Figures of streams grow where these are sent, and are summed up when they are asked for. Those of channels are asked
of the hub: a channel that has been forgotten in the meantime mustn't make a counter go back.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from threading import Lock
from typing import TYPE_CHECKING, NamedTuple

from .._runtime.fork import tell_child
from ..observe import Observer, StreamRecord

if TYPE_CHECKING:
    from ..channels._stats import ChannelStats
    from ..hub import Hub


@dataclass(slots=True)
class Sent:
    """What the streams of one endpoint have sent."""

    sends: int = 0
    sent_bytes: int = 0
    events: int = 0

    def add(self, stream: StreamRecord) -> None:
        """Add what one of them has sent."""
        self.sends += stream.sends
        self.sent_bytes += stream.sent_bytes
        self.events += stream.events


class HubFigures(NamedTuple):
    """What a hub has to tell."""

    connected: bool
    losses: int
    catch_ups: int
    channels: dict[str, ChannelStats]
    published: int
    """Events that were added to channels; those that have been forgotten since, count."""
    delivered: int
    """The same of those that were handed to clients' connections."""


class Tally(Observer):
    """Counts what happens to streams, until it's asked."""

    def __init__(self, hub: Hub | None = None) -> None:
        self._hub = hub
        self._seen: dict[str, tuple[int, int]] = {}
        self.after_fork()
        tell_child(self)

    def after_fork(self) -> None:
        """Begin at 0, in the child of a fork too: what was counted before is the parent's to tell."""
        self._lock = Lock()
        self._open: dict[int, StreamRecord] = {}
        self._sent: dict[str, Sent] = {}
        self._published = 0
        self._delivered = 0
        self.ended: Counter[tuple[str, str]] = Counter()
        """Streams that have ended, by endpoint and reason."""
        self.lagged: Counter[bool] = Counter()
        """Clients that were too slow, by whether their streams ended for that."""
        self.dropped: int = 0
        """Events that they never get."""
        self.gaps: Counter[str] = Counter()
        """Gaps that clients were told of, by reason."""

    def stream_began(self, stream: StreamRecord) -> None:
        with self._lock:
            self._open[id(stream)] = stream

    def stream_ended(self, stream: StreamRecord) -> None:
        with self._lock:
            # One that began before this was told of it isn't there.
            if self._open.pop(id(stream), None) is not None:
                endpoint = stream.endpoint
                if (sent := self._sent.get(endpoint)) is None:
                    sent = self._sent[endpoint] = Sent()
                sent.add(stream)
                self.ended[endpoint, stream.reason or "error"] += 1

    def subscriber_lagged(self, channel: str, dropped: int, *, ended: bool) -> None:  # noqa: ARG002  (a label with no bound)
        with self._lock:
            self.lagged[ended] += 1
            self.dropped += dropped

    def gap_told(self, channel: str, reason: str) -> None:  # noqa: ARG002  (as above)
        with self._lock:
            self.gaps[reason] += 1

    def open_by_endpoint(self) -> dict[str, int]:
        """Streams that are open; an endpoint that had some stays, with 0."""
        with self._lock:
            found = Counter(stream.endpoint for stream in self._open.values())
            return {endpoint: found[endpoint] for endpoint in {*found, *self._sent}}

    def sent_by_endpoint(self) -> dict[str, Sent]:
        """What was sent, by streams that are open and by those that were."""
        with self._lock:
            sums = {endpoint: replace(sent) for endpoint, sent in self._sent.items()}
            for stream in self._open.values():
                if (sent := sums.get(stream.endpoint)) is None:
                    sent = sums[stream.endpoint] = Sent()
                sent.add(stream)
            return sums

    def hub_figures(self) -> HubFigures | None:
        """What the hub has to tell; None: there's none."""
        if self._hub is None:
            return None
        stats = self._hub.stats()
        with self._lock:
            for name, one in stats.channels.items():
                # What a log has held before is nobody's news.
                first = (0 if self._hub.log is None else one.published, 0)
                published, delivered = self._seen.get(name, first)
                # What is less than before is another channel of the same name.
                self._published += one.published - (published if one.published >= published else 0)
                self._delivered += one.delivered - (delivered if one.delivered >= delivered else 0)
            self._seen = {
                name: (one.published, one.delivered) for name, one in stats.channels.items()
            }
            return HubFigures(
                stats.connected,
                stats.losses,
                stats.catch_ups,
                stats.channels,
                self._published,
                self._delivered,
            )
