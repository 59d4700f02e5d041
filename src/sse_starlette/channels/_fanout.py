"""Who is to be called when something has been published: the subscriptions on one loop."""

from __future__ import annotations

import logging
import weakref
from enum import Enum
from functools import partial
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from .._runtime.loop import Loop
    from .._stream.feed import Offer
    from ._ring import Ring

logger = logging.getLogger("sse_starlette.channel")

_LONGEST_PAUSE_SECONDS = 0.1
"""However long something else had the loop meanwhile, nobody waits longer than this for an event."""
_CALLED_AT_ONCE = 100
"""After so many subscribers, some two milliseconds of sending, the loop gets its turn."""
_QUIET_SHARE = 3
"""Whoever publishes later than this part of a pause finds the channel quiet."""


class Stand(Protocol):
    """Where a client is in the history of one channel, or of several; see `Positions`."""

    offsets: list[int]


class Subscriber(Protocol):
    """What is called: a subscription, or its place in one of several channels."""

    @property
    def stands(self) -> Ring | None:
        """In what it may be offered all that follows its position, for it takes that as it is; None: in nothing."""

    @property
    def positions(self) -> Stand:
        """Where its client is."""

    @property
    def offer(self) -> Offer:
        """Have frames sent at once; False: it has to be called."""

    def call(self) -> None:
        """Look for something new; on the loop of the fan-out."""

    def newest(self) -> int:
        """Return the offset of the newest event that was taken."""


class Readable(Protocol):
    """What the fan-out needs of its channel."""

    def follow(self, ring: Ring, after: int) -> tuple[bytes | None, int]:
        """
        Return all that follows an offset in a ring, and the offset that this leads to.

        None where the channel has another ring, or is closed, or that can't be sent at once.
        """

    def count_delivered(self, events: int) -> None:
        """Count events that went to a client."""

    def on_loop_closed(self, fanout: Fanout) -> None:
        """Take note that the loop of a fan-out has turned out to be closed."""


class _Round(Enum):
    """How far a round has come."""

    NONE = 0
    """Nobody is to be called."""
    PAUSES = 1
    """It begins when the pause is over."""
    CALLS = 2
    """It begins with the next turn of the loop, or has begun."""


_NONE, _PAUSES, _CALLS = _Round  # A member's name is looked up each time.


class Fanout:
    """
    The open subscriptions of one channel on one loop, called together.

    What follows the position of one is read once for all that stand there, and offered to each. Whoever can't
    take it at once is called, and reads for itself. What is published while they're being called goes to those
    whose turn is still to come, so each waits for one round at most.

    A round begins when the loop turns, unless the last one has ended just now: what is published before a
    third of its time has passed waits until it has passed once. So a quiet channel delivers without delay, and
    a busy one joins what was published meanwhile and leaves the loop half of its time, unless so much is
    published that the ring would run over before they look. A channel that prefers latency makes no pause.
    """

    def __init__(
        self, channel: Readable, loop: Loop, most_waiting: int = 250, *, pauses: bool = True
    ) -> None:
        """
        Begin without subscribers.

        Args:
            channel: the channel.
            loop: where the subscribers are called.
            most_waiting: how many calls may come together in a pause before it's cut short, so that
                the channel doesn't forget what the subscribers haven't seen yet.
            pauses: whether the loop has half of its time for others.
        """
        # Not a WeakSet: whoever goes through one may find that another thread has changed it.
        self._subscribers: set[weakref.ref[Subscriber]] = set()
        self._loop = loop
        self._channel = channel
        self._pauses = pauses
        # Whether those who have everything are to look for something else, in this round and in the next.
        self._all_look = False
        self._all_look_next = False
        self._knocked = False
        self._round = _NONE
        # Whether something was published since the round was begun.
        self._again = False
        self._waiting = 0
        self._most_waiting = most_waiting
        self._began = 0.0
        self._took = 0.0
        self._ended = 0.0

    def __bool__(self) -> bool:
        return bool(self._subscribers)

    def subscribers(self) -> list[Subscriber]:
        """Those who are called; any thread may ask."""
        return [one for subscriber in list(self._subscribers) if (one := subscriber()) is not None]

    def add(self, subscriber: Subscriber) -> None:
        """Call `subscriber` too, as long as somebody else holds on to it."""
        self._subscribers.add(weakref.ref(subscriber, self._subscribers.discard))

    def discard(self, subscriber: Subscriber) -> None:
        """Don't call `subscriber` any more."""
        self._subscribers.discard(weakref.ref(subscriber))

    def call(self, *, knock: bool = False, events: bool = False) -> None:
        """
        Call the subscribers soon; from any thread.

        With `knock`, also from a signal handler that has interrupted the loop while it was waiting. With `events`,
        that's all there is: whoever has them needn't look.
        """
        if not knock and self._loop.is_current():
            if not events:
                self._all_look_next = True
            self._call_here()
        elif not self._knocked:
            self._knocked = True
            try:
                self._loop.call_soon_threadsafe(self._answer)
            except RuntimeError:
                self._channel.on_loop_closed(self)  # The loop has been closed in mid-stream.

    def _answer(self) -> None:
        # First, so that whatever is published from now on knocks again.
        self._knocked = False
        self._all_look_next = True
        self._call_here()

    def _call_here(self) -> None:
        if self._round is not _NONE:
            self._again = True
            self._waiting += 1
            if self._round is _PAUSES and self._waiting >= self._most_waiting:
                self._call_all_soon()
            return
        since = self._loop.time() - self._ended
        if self._pauses and since < self._took / _QUIET_SHARE:
            self._round = _PAUSES
            self._loop.call_later(self._took - since, self._end_pause)
        else:
            self._call_all_soon()

    def _end_pause(self) -> None:
        # Unless it has been cut short, and perhaps another one has begun, which this then cuts short.
        if self._round is _PAUSES:
            self._round = _CALLS
            self._call_all()

    def _call_all_soon(self) -> None:
        # Not at once: whoever publishes doesn't wait for the writers, which may run in the call.
        self._round = _CALLS
        self._loop.call_soon(self._call_all)

    def _call_all(self) -> None:
        self._again = False
        self._waiting = 0
        self._began = self._loop.time()
        self._all_look, self._all_look_next = self._all_look_next, False
        self._call_some(self.subscribers(), 0)

    def _call_some(self, subscribers: list[Subscriber], begin: int) -> None:
        end = begin + _CALLED_AT_ONCE
        now, took = self._loop.time(), 0
        # Where the last one stood, what follows there, and where that leads to.
        ring: Ring | None = None
        after = head = -1
        frames: bytes | None = None
        for subscriber in subscribers[begin:end]:
            try:
                stands = subscriber.stands
                if stands is not None:
                    offsets = subscriber.positions.offsets
                    if offsets[0] != after or stands is not ring:
                        frames, head = self._channel.follow(stands, offsets[0])
                        ring, after = stands, offsets[0]
                    if frames:
                        # First, for it's asked for what was sent.
                        offsets[0] = head
                        if subscriber.offer(frames, now, None) is not False:
                            took += head - after
                            continue
                        offsets[0] = after
                    elif frames is not None and not self._all_look:
                        continue
                subscriber.call()
            except Exception:
                # The others are called all the same, now and from now on.
                logger.exception(
                    "a subscriber could not be told of news; it's left out this time",
                    extra={"sse_event": "subscriber_failed"},
                )
        if took:
            self._channel.count_delivered(took)
        # Comes after the turns of all writers that have been woken.
        more = end < len(subscribers)
        self._loop.call_soon(
            partial(self._call_some, subscribers, end) if more else self._all_called
        )

    def _all_called(self) -> None:
        self._ended = self._loop.time()
        self._took = min(self._ended - self._began, _LONGEST_PAUSE_SECONDS)
        self._round = _NONE
        if self._again:
            self._call_here()
