"""Ends the streams of listeners that may not listen any more, in all processes that share an event log.

What one process says, the others read from a channel of their own name, which clients can't subscribe to. It's followed
from when a process has its first stream that says who listens; until then it costs nothing.
"""

from __future__ import annotations

import json
import logging
import secrets
import time
from contextlib import contextmanager
from contextvars import copy_context
from typing import TYPE_CHECKING

from .._arguments import check_listener
from .._runtime.loop import current_loop, loop_override
from .._runtime.workers import warn_of_other_workers
from .._shutdown.streams import end_streams, on_listener
from ..event import parse_frame, split_frames
from ._feed import SubscriptionFeed
from ._options import SubscribeOptions
from ._registry import RESERVED
from .channel import state_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from .._runtime.loop import Loop
    from .channel import Channel

logger = logging.getLogger("sse_starlette.hub")

_NAME = f"{RESERVED}revoked"
_LOOK_BACK = 100
"""Revocations that are looked at when following begins: one may have come just before."""
_CLOCKS_DIFFER = 30.0
"""Seconds that the clocks of two hosts may differ by."""


class Revocations:
    """What one hub says and hears of listeners that have lost their right."""

    def __init__(self, channel: Callable[[str], Channel], *, shared: bool) -> None:
        """
        Follow nothing yet.

        Args:
            channel: returns the channel of a name.
            shared: whether there's an event log, and other processes on it.
        """
        self._channel = channel
        self._shared = shared
        self._clock = secrets.token_urlsafe(9)
        """Goes with what this process says, whose times are on its own clock."""
        self._loop: Loop | None = None
        self._since: float | None = None
        self._subscription: SubscriptionFeed | None = None

    async def revoke(self, listener: str) -> None:
        """End the streams of `listener`: here at once, elsewhere as soon as they hear of it."""
        check_listener("listener", listener)
        if not listener:
            raise ValueError(
                "listener is empty, and streams with an empty name are nobody's in particular: name who "
                "may not listen any more, as the response or its policy does."
            )
        end_streams("revoked", listener)
        if self._shared:
            said = json.dumps({"listener": listener, "at": time.time(), "clock": self._clock})
            await self._channel(_NAME).publish({"data": said})
        else:
            warn_of_other_workers(
                "its hub is in memory: `revoke` ends the streams of this process, and no others",
                'Give the hub an event log, as in Hub("redis://localhost") or Hub("sqlite:///channels.db")',
            )

    @contextmanager
    def followed(self) -> Iterator[None]:
        """Hear of what others revoke meanwhile, once there's a stream that it may concern."""
        self._loop = current_loop()
        forget = on_listener(self._listener_came)
        try:
            yield
        finally:
            forget()
            self._loop = self._since = None
            subscription, self._subscription = self._subscription, None
            if subscription is not None:
                subscription.stop()

    def _listener_came(self) -> None:
        """Follow from now on; any thread may call it, for each stream."""
        if self._since is None and self._loop is not None:
            self._since = time.time()
            self._loop.call_soon_threadsafe(self._follow)

    def _follow(self) -> None:
        if self._loop is None:
            return  # The lifespan has ended meanwhile.
        channel = self._channel(_NAME)
        self._subscription = SubscriptionFeed(
            [state_of(channel)],
            None,
            SubscribeOptions(replay=_LOOK_BACK),
        )
        # On trio no task runs here, which would tell what loop it's on.
        context = copy_context()
        context.run(loop_override.set, self._loop)
        context.run(self._subscription.open, self._look_soon)
        self._look()

    def _look_soon(self) -> None:
        # Not within the call of whoever publishes.
        if self._loop is not None:
            self._loop.call_soon(self._look)

    def _look(self) -> None:
        subscription, since = self._subscription, self._since
        while subscription is not None and since is not None and (frames := subscription.take()):
            subscription.sent()
            for frame in split_frames(frames):
                event = parse_frame(frame)
                if event.event == "reset":
                    # Nobody knows who was named in what was missed: all come back, and are asked who they are.
                    end_streams("expired")
                elif event.data is not None:
                    self._obey(str(event.data), since)

    def _obey(self, data: str, since: float) -> None:
        try:
            said = json.loads(data)
            at, listener, is_ours = said["at"], said["listener"], said.get("clock") == self._clock
            is_news, is_older = at >= since, at < since - _CLOCKS_DIFFER
        except (ValueError, TypeError, KeyError):
            # Nobody knows who was named in it.
            logger.error(  # noqa: TRY400  (there's nothing to be seen in it)
                "what was published to channel %r is no revocation: clients must not publish there",
                _NAME,
                extra={"sse_event": "revocation_unreadable", "sse_channel": _NAME},
            )
            end_streams("expired")
            return
        # What is older was said before any of our streams began.
        if is_news:
            end_streams("revoked", str(listener))
        elif not is_ours and not is_older:
            # By the clock of another it's hard to say. Who comes back is asked who it is.
            end_streams("expired", str(listener))
