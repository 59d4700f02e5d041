"""Hub: the channels of an application by name, and for how long a name stands for the same channel."""

from __future__ import annotations

import threading
import time
import weakref
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .channel import Channel, ChannelStats, Subscription

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterable

    from starlette.requests import HTTPConnection

    from .channel import Events, Gap, Slow, Snapshot
    from .event import ServerSentEvent

__all__ = ["Hub", "HubStats"]


@dataclass(frozen=True, slots=True)
class HubStats:
    """
    The channels of a hub that are in use.

    Attributes:
        channels: the figures of each channel, by its name.
    """

    channels: dict[str, ChannelStats]

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


class Hub:
    """
    The channels of an application, by name, in this process.

    ```python
    hub = Hub()
    prices = hub.channel("prices", history=1_000)


    async def stream(request):
        return EventSourceResponse(prices.subscribe(request))


    async def tick(request):
        return JSONResponse({"id": await prices.publish({"event": "tick", "data": 12.5})})
    ```

    It needs no loop and no start; it may be a module's variable, and be used from any thread.
    """

    def __init__(self, *, linger: float = 30.0) -> None:
        """
        Make a hub without channels.

        Args:
            linger: seconds that a channel nobody holds on to is remembered after it was last used,
                so that clients that reload their page find its history. See `channel`.

        Raises:
            ValueError: `linger` is negative.
        """
        if not linger >= 0:
            raise ValueError(f"linger must be >= 0 seconds, got: {linger}")
        self._linger = linger
        self._lock = threading.Lock()
        # A channel that the application holds on to is never replaced by a namesake.
        self._channels: weakref.WeakValueDictionary[str, Channel] = weakref.WeakValueDictionary()
        self._lingering: dict[str, Channel] = {}
        self._swept = time.monotonic()

    def channel(
        self,
        name: str,
        *,
        history: int | None = None,
        history_bytes: int | None = None,
        history_seconds: float | None = None,
        slow: Slow | None = None,
        latest_by: Callable[[ServerSentEvent], object] | None = None,
        linger: float | None = None,
    ) -> Channel:
        """
        Return the channel of this name; the first call makes it.

        A channel is forgotten, with its history, when it has no subscriber, nothing has been
        published for its linger time, and the application holds no reference to it. After that the
        name stands for a new channel, and clients of the old one are told (`reset`).

        Args:
            name: any text.
            history: events that are kept for clients that come back, and that a connected client
                may be behind. Default: 1,000; at least 1.
            history_bytes: bytes that these may take together. Default: 16 MiB. The newest event is
                kept, however large.
            history_seconds: seconds that an event is kept. Default: as long as there's room.
            slow: what becomes of a client that falls behind further than that; see `Slow`.
                Default: `"disconnect"`.
            latest_by: for `slow="latest"`: the key of an event. Of each key the newest event is
                kept, of as many keys as `history` says.
            linger: seconds for this channel instead of those of the hub.

        Raises:
            ValueError: an argument is out of range, or the channel exists with other options.
        """
        given: dict[str, Any] = {
            "history": history,
            "history_bytes": history_bytes,
            "history_seconds": history_seconds,
            "slow": slow,
            "latest_by": latest_by,
            "linger": linger,
        }
        options = {option: value for option, value in given.items() if value is not None}
        with self._lock:
            self._sweep()
            channel = self._channels.get(name)
            if channel is None:
                channel = Channel(name, **{"linger": self._linger, **options})
                self._channels[name] = self._lingering[name] = channel
            else:
                for option, value in options.items():
                    if channel.options[option] != value:
                        raise ValueError(
                            f"channel {name!r} has {option}={channel.options[option]!r} already, "
                            f"so it can't get {option}={value!r}: give its options in one place, and "
                            "only the name elsewhere."
                        )
                self._lingering[name] = channel
                channel.touch()
            return channel

    def subscribe(
        self,
        channels: Iterable[Channel | str],
        request: HTTPConnection | str | None = None,
        *,
        filter: Callable[[ServerSentEvent], object] | None = None,  # noqa: A002  (the usual word)
        on_gap: Callable[[Gap], Events | Awaitable[Events]] | None = None,
        snapshot: Snapshot | None = None,
        replay: int = 0,
    ) -> Subscription:
        """
        Subscribe to several channels on one stream.

        Its ids hold the position in each channel, so a client that comes back gets what it missed in
        each. Events of one channel keep their order; there's none between channels.

        Args:
            channels: the channels, or their names.
            request: as for `Channel.subscribe`, and so are the others.
            filter: see there.
            on_gap: see there; called for each channel that has a gap.
            snapshot: see there.
            replay: see there; of each channel.

        Raises:
            TypeError: `channels` is one name.
            ValueError: there's no channel, or one is named twice.
        """
        if isinstance(channels, str):
            raise TypeError(f"channels is one name, {channels!r}: give a list, [{channels!r}]")
        found = [self.channel(one) if isinstance(one, str) else one for one in channels]
        if not found or len({id(one) for one in found}) < len(found):
            raise ValueError(
                f"subscribe needs different channels, at least one, got: {[one.name for one in found]}"
            )
        return Subscription(found, request, filter, on_gap, snapshot, replay)

    def stats(self) -> HubStats:
        """The figures of each channel that has not been forgotten."""
        with self._lock:
            self._sweep()
            channels = dict(self._channels.items())
        return HubStats({name: channel.stats() for name, channel in sorted(channels.items())})

    @asynccontextmanager
    async def lifespan(self, app: object = None) -> AsyncIterator[None]:  # noqa: ARG002  (Starlette passes it)
        """
        Keep the hub for as long as the application runs: `Starlette(lifespan=hub.lifespan)`.

        A hub in memory does without; one that is connected to others needs it.
        """
        yield

    def _sweep(self) -> None:
        now = time.monotonic()
        if now - self._swept < min(1.0, self._linger / 2):
            return
        self._swept = now
        for name, channel in list(self._lingering.items()):
            if channel.idle_since(now):
                del self._lingering[name]
