"""The subscription as the application holds it: given to a response, or iterated.

A response takes its feed (`_feed.py`), and knows no more of it; whoever iterates it gets the events of that feed
(`_iteration.py`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, Self

from starlette.requests import HTTPConnection

from .._stream.feed import FedContent
from .._wire.cursor import last_event_id
from ..event import check_field
from ._feed import SubscriptionFeed
from ._iteration import Iteration
from ._options import Gap, check_request

if TYPE_CHECKING:
    from collections.abc import Sequence

    from typing_extensions import TypeVar  # Type checkers bring it themselves.

    from ..event import ServerSentEvent
    from ._options import SubscribeOptions
    from ._state import ChannelState

    DataT_co = TypeVar("DataT_co", covariant=True, default=Any)
else:
    from typing import TypeVar

    DataT_co = TypeVar("DataT_co", covariant=True)

__all__ = ["Gap", "Subscription"]


class Subscription(FedContent, Generic[DataT_co]):
    """
    One client's way through one or several channels; made by `Channel.subscribe`.

    `Subscription[Price]` is one to a `Channel[Price]`: for type checkers, and for OpenAPI.

    Give it to an `EventSourceResponse`. Or iterate it: it yields `ServerSentEvent`s with their ids and
    the names of their channels, `reset` events among them, ends when the channels are closed, and should
    be closed (`aclose`, or `async with`) if it's left before. It can be used once.
    """

    __slots__ = ("_iteration",)

    _feed: SubscriptionFeed

    def __init__(
        self,
        channels: Sequence[ChannelState],
        request: HTTPConnection | str | None,
        options: SubscribeOptions,
    ) -> None:
        """Take the positions; see `Channel.subscribe`."""
        _check_channels(channels, request, options)
        came_with = last_event_id(request) if isinstance(request, HTTPConnection) else request
        self._feed = SubscriptionFeed(list(channels), came_with, options)
        self._iteration: Iteration | None = None

    @property
    def last_event_id(self) -> str:
        """The id with which the client would come back now."""
        return self._feed.last_event_id

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
        if self._iteration is None:
            if self._feed.stopped:
                raise StopAsyncIteration
            self._iteration = Iteration(self._feed)
        return await self._iteration.next()

    async def aclose(self) -> None:
        """Give up the subscription, also while another task waits for it; may be called twice."""
        feed = self._feed
        feed.ended = True
        call = feed.call
        feed.stop()
        if self._iteration is not None:
            await self._iteration.aclose()
        call()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()


def _check_channels(
    channels: Sequence[ChannelState],
    request: HTTPConnection | str | None,
    options: SubscribeOptions,
) -> None:
    check_request(request)
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
