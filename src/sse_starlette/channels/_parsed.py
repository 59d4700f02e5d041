"""The events of frames, parsed once for all filters that look at them soon."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..event import parse_frame

if TYPE_CHECKING:
    from ..event import ServerSentEvent

_EVENTS_LIMIT = 256
_BYTES_LIMIT = 1024 * 1024


def event_of(frame: bytes, channel: str) -> ServerSentEvent:
    """Return the event of a frame of this channel."""
    event = parse_frame(frame)
    event.channel = channel
    return event


class ParsedEvents:
    """The last events of one channel that were asked for."""

    def __init__(self, channel: str) -> None:
        self._channel = channel
        self._events: dict[int, tuple[bytes, ServerSentEvent]] = {}
        self._bytes = 0

    def event(self, offset: int, frame: bytes) -> ServerSentEvent:
        """Return the event of the frame at this offset. Any thread may ask."""
        parsed = self._events.get(offset)
        # Another history may have had another event at this offset.
        if parsed is None or parsed[0] is not frame:
            parsed = frame, event_of(frame, self._channel)
            if len(self._events) >= _EVENTS_LIMIT or self._bytes > _BYTES_LIMIT:
                self._events.clear()
                self._bytes = 0
            self._events[offset] = parsed
            self._bytes += len(frame)
        return parsed[1]
