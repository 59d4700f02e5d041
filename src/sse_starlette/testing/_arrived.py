"""What a client has made of the bytes that arrived: events, comments, the cursor, and a story for the checks."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from ._checks import Arrival, Asked, Bug, gap_or_duplicate, wrong_ping
from ._failures import StreamFailure
from ._parser import Comment, Cursor, Event, EventStreamParser

if TYPE_CHECKING:
    from ._exchange import Exchange
    from ._socket import Chunk

_RECONNECTION_MS = 3_000
"""Chromium's reconnection time where the server names none."""


class Arrived:
    """All that has arrived at one client, over its connections."""

    def __init__(self, last_event_id: str) -> None:
        """
        Begin with nothing.

        Args:
            last_event_id: the first cursor.
        """
        self.events: list[Event] = []
        self.comments: list[Comment] = []
        self.unread: deque[tuple[int, Event]] = deque()
        """The events that `next` hasn't returned, and how many bytes are read by that."""
        self._story: list[Asked | Event | Cursor] = []
        """What has moved the cursor, in its order."""
        self._times: list[list[Arrival]] = []
        """When something arrived, for each connection."""
        self.retry_ms = _RECONNECTION_MS
        self._parser = EventStreamParser(last_event_id=last_event_id)
        self._exchange: Exchange
        self._writer: int | None = None

    @property
    def last_event_id(self) -> str:
        """The cursor."""
        return self._parser.last_event_id

    @property
    def unfinished(self) -> bool:
        """Whether the last event lacks its blank line."""
        return self._parser.unfinished

    def connect(self, exchange: Exchange) -> None:
        """From now on all comes from this exchange, which was asked for with the cursor."""
        cursor, retry_ms = self.last_event_id, self._parser.retry_ms
        self._exchange = exchange
        self._parser = EventStreamParser(last_event_id=cursor)
        self._parser.retry_ms = retry_ms
        self._writer = None
        self._story.append(Asked(cursor))
        self._times.append([Arrival(exchange.loop.time(), dispatches=False, comments=False)])

    def next(self) -> Event:
        """Return the next of the unread events."""
        size, event = self.unread.popleft()
        self._exchange.socket.has_read(size)
        return event

    def take(self, chunk: Chunk) -> None:
        """Read a chunk; what is wrong with it is noted in the exchange."""
        exchange, parser = self._exchange, self._parser
        if self._writer is not None and parser.unfinished and chunk.writer != self._writer:
            exchange.found(
                "two writers",
                f"another task wrote {chunk.data[:200]!r} in the middle of an event",
            )
        self._writer = chunk.writer
        try:
            parsed = parser.feed(chunk.data)
        except StreamFailure as failure:
            exchange.found(failure.bug, failure.details)
            exchange.socket.leave()
            return
        for bug, details in parser.faults:
            exchange.found(bug, details)
        parser.faults.clear()
        if parser.retry_ms is not None:
            self.retry_ms = parser.retry_ms
        comments = [one for one in parsed if isinstance(one, Comment)]
        events = [one for one in parsed if isinstance(one, Event)]
        self.comments += comments
        self.events += events
        self._story += [one for one in parsed if not isinstance(one, Comment)]
        self._times[-1].append(
            Arrival(chunk.at, dispatches=bool(events) or parser.unfinished, comments=bool(comments))
        )
        # The last event of a chunk stands for all its bytes; a chunk without one is read at once.
        self.unread += [(0, event) for event in events[:-1]]
        self.unread += [(len(chunk.data), event) for event in events[-1:]]
        if not events:
            exchange.socket.has_read(len(chunk.data))

    def gap_or_duplicate(self, reset_event: str) -> Bug | None:
        """Look for the first place where the ids are not what comes next."""
        return gap_or_duplicate(self._story, reset_event)

    def wrong_ping(self, every: float, tolerance: float) -> Bug | None:
        """Look for the first silence without a ping, or ping without a silence; see there."""
        exchange = self._exchange
        may_come = not exchange.finished and not exchange.socket.stalled
        nows = [None] * (len(self._times) - 1) + [exchange.loop.time() if may_come else None]
        found = (
            wrong_ping(times, now, every, tolerance)
            for times, now in zip(self._times, nows, strict=True)
        )
        return next(filter(None, found), None)
