"""A subscription that is iterated: frames are taken from its feed one by one, and made into events.

Nothing of this is there for a subscription that is given to a response.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

import anyio

from .._runtime.loop import current_loop
from ..errors import SubscriberTooSlow
from ..event import parse_frame, split_frames

if TYPE_CHECKING:
    from ..event import ServerSentEvent
    from ._feed import SubscriptionFeed
    from ._opening import Opening


class Iteration:
    """The events of one feed, on the loop that it's made on."""

    def __init__(self, feed: SubscriptionFeed) -> None:
        """Open the feed."""
        self._feed = feed
        self._loop = current_loop()
        self._woken = self._loop.waker()
        self._events: deque[ServerSentEvent] = deque()
        # What comes first, as far as it has been made, and of that what isn't to be given out yet.
        self._opening: Opening | None = None
        self._ready: list[bytes] = []
        # One by one, so that each is known to be of its channel.
        feed.joins = False
        feed.open(self._woken.set)

    async def next(self) -> ServerSentEvent:
        """Wait for the next event; see `Subscription.__anext__`."""
        feed = self._feed
        while not self._events:
            if feed.stopped:
                raise StopAsyncIteration
            if feed.must_prepare:
                await self._prepare()
            frames, channel = feed.take_with_channel()
            if frames:
                # An id alone is for clients that may be cut off.
                for one in map(parse_frame, split_frames(frames)):
                    if one.data is not None or one.event:
                        one.channel = channel
                        self._events.append(one)
            elif feed.ended:
                feed.stop()
                if feed.error is not None:
                    raise feed.error
                if feed.close_reason == "lagging":
                    names = [channel.name for channel in feed.positions.channels]
                    raise SubscriberTooSlow(names, feed.last_event_id)
            elif not feed.must_prepare:
                await self._woken
        return self._events.popleft()

    async def aclose(self) -> None:
        """Give up what has been made."""
        self._events.clear()
        opening, self._opening = self._opening, None
        if opening is not None and not opening.busy:
            await opening.aclose()

    async def _prepare(self) -> None:
        """Make the next one of what comes first."""
        feed = self._feed
        if self._opening is None:
            self._opening = feed.opening(self._loop)
        opening = self._opening
        over, error = False, None
        try:
            # What is ready waits for what has to be made: if that's cancelled, all of it comes anew.
            while not opening.made:
                self._ready.append(await anext(opening))
            if not self._ready:
                self._ready.append(await anext(opening))
        except StopAsyncIteration:
            over = True
        except Exception as exc:
            over, error = True, exc
        except BaseException:
            # The wait was cancelled, and with it what was being made.
            self._opening = None
            self._ready.clear()
            with anyio.CancelScope(shield=True):
                await opening.aclose()
            raise
        ready, self._ready = self._ready, []
        if over:
            self._opening = None
            feed.prepared(ready, error)
        else:
            feed.prepared_in_part(ready)
        if feed.stopped:
            self._opening = None
            await opening.aclose()
