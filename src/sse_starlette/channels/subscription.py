"""The subscription as the application holds it: given to a response, or iterated.

It's a feed (`_feed.py`), and that's all a response knows of it. Iterated, it takes frames from the feed one by one and
makes events of them.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any, Generic, Self

import anyio
from starlette.requests import HTTPConnection

from .._runtime.loop import current_loop
from .._wire.cursor import MOST_CHANNELS, last_event_id
from ..errors import SubscriberTooSlow
from ..event import check_field, parse_frame, split_frames
from ._feed import SubscriptionFeed
from ._opening import Opening
from ._options import Gap, check_request

if TYPE_CHECKING:
    from collections.abc import Sequence

    from typing_extensions import TypeVar  # Type checkers bring it themselves.

    from .._runtime.loop import Loop, Waker
    from ..event import ServerSentEvent
    from ._options import SubscribeOptions
    from ._state import ChannelState

    DataT_co = TypeVar("DataT_co", covariant=True, default=Any)
else:
    from typing import TypeVar

    DataT_co = TypeVar("DataT_co", covariant=True)

__all__ = ["Gap", "Subscription"]


class Subscription(SubscriptionFeed, Generic[DataT_co]):
    """
    One client's way through one or several channels; made by `Channel.subscribe`.

    `Subscription[Price]` is one to a `Channel[Price]`: for type checkers, and for OpenAPI.

    Give it to an `EventSourceResponse`. Or iterate it: it yields `ServerSentEvent`s with their ids and
    the names of their channels, `reset` events among them, ends when the channels are closed, and should
    be closed (`aclose`, or `async with`) if it's left before. It can be used once.
    """

    def __init__(
        self,
        channels: Sequence[ChannelState],
        request: HTTPConnection | str | None,
        options: SubscribeOptions,
    ) -> None:
        """Take the positions; see `Channel.subscribe`."""
        _check_channels(channels, request, options)
        came_with = last_event_id(request) if isinstance(request, HTTPConnection) else request
        self._woken: Waker | None = None
        self._events: deque[ServerSentEvent] = deque()
        # What comes first, as far as it has been made, and of that what isn't to be given out yet.
        self._opening: Opening | None = None
        self._ready: list[bytes] = []
        super().__init__(list(channels), came_with, options)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> ServerSentEvent:
        """
        Wait for the next event.

        If the wait is cancelled, no event is lost; one for the snapshot has it made anew.

        Raises:
            SubscriberTooSlow: the channel has forgotten the next event (`slow="disconnect"`).
            StopAsyncIteration: the channels have been closed, or the subscription has.
        """
        loop = self._loop
        if self._woken is None or loop is None:
            if self._stopped:
                raise StopAsyncIteration
            loop = current_loop()
            woken = loop.waker()
            # One by one, so that each is known to be of its channel.
            self.joins = False
            self.open(woken.set)
            self._woken = woken
        while not self._events:
            if self._stopped:
                raise StopAsyncIteration
            if not self._before and self._to_prepare and self._pending is None:
                await self._prepare_next(loop)
            self._reader.channel = None
            if frames := self.take():
                # An id alone is for clients that may be cut off.
                for one in map(parse_frame, split_frames(frames)):
                    if one.data is not None or one.event:
                        one.channel = self._reader.channel
                        self._events.append(one)
            elif self.ended:
                self.stop()
                if self.error is not None:
                    raise self.error
                if self.close_reason == "lagging":
                    raise SubscriberTooSlow(
                        [channel.name for channel in self._channels], self.last_event_id
                    )
            elif not self._to_prepare or self._pending is not None:
                await self._woken
        return self._events.popleft()

    async def aclose(self) -> None:
        """Give up the subscription, also while another task waits for it; may be called twice."""
        self.ended = True
        wake = self._wake
        self.stop()
        self._events.clear()
        opening, self._opening = self._opening, None
        if opening is not None and not opening.busy:
            await opening.aclose()
        wake()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def _prepare_next(self, loop: Loop) -> None:
        """Make the next one of what comes first."""
        if self._opening is None:
            steps = self._preface.steps()
            self._opening = Opening(steps, loop, self._channels[0].serializer)
        opening = self._opening
        try:
            # What is ready waits for what has to be made: if that's cancelled, all of it comes anew.
            while not opening.made:
                self._ready.append(await anext(opening))
            if not self._ready:
                self._ready.append(await anext(opening))
        except StopAsyncIteration:
            self._opening = None
            self._prepared()
        except Exception as exc:
            self._opening = None
            self._prepared(exc)
        except BaseException:
            # The wait was cancelled, and with it what was being made.
            self._opening = None
            self._ready.clear()
            with anyio.CancelScope(shield=True):
                await opening.aclose()
            raise
        self._before.extend(self._ready)
        self._ready.clear()
        if self._stopped:
            self._opening = None
            await opening.aclose()


def _check_channels(
    channels: Sequence[ChannelState],
    request: HTTPConnection | str | None,
    options: SubscribeOptions,
) -> None:
    check_request(request)
    if len(channels) > MOST_CHANNELS:
        raise ValueError(
            f"a stream can have {MOST_CHANNELS} channels, got {len(channels)}: its ids hold a position for "
            "each, and servers and proxies refuse longer ones when the client comes back. Use several "
            "streams, or one channel for what belongs together, with a filter."
        )
    if isinstance(options.after, int) and len(channels) > 1:
        raise TypeError(
            f"after={options.after} is an offset in one channel, got {len(channels)} channels: give an id, "
            'such as the last_event_id of a subscription to them, or "start".'
        )
    if options.name_channels:
        for channel in channels:
            check_field("the name of a channel, for name_channels,", channel.name)
    if request == "" and any(channel.replicator is not None for channel in channels):
        raise ValueError(
            "the id is empty: where the channel is isn't known here. Ask for it, "
            "`await channel.position()`, or give None for a client that begins anew."
        )
    if options.since is not None:
        for channel in channels:
            if channel.replicator is not None and not channel.replicator.backend.keeps_times:
                raise ValueError(
                    f"the event log of channel {channel.name!r}, a "
                    f"{type(channel.replicator.backend).__name__}, keeps no times that can be asked for: use "
                    "after, with an id or an offset, instead of since."
                )
