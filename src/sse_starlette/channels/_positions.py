"""Where a client is in each of its channels, and the id that says so.

A position is a ring and an offset in it: the id that a client is sent is always of one history in each channel.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .._wire.cursor import Cursor
from .._wire.frame import to_utf8
from ._ring import Ring

if TYPE_CHECKING:
    from ._options import SubscribeOptions
    from ._state import ChannelState

_NO_RING = Ring(events=1, bytes_=1, seconds=None)


class Positions:
    """The positions of one subscription; channels are named by their place in its list."""

    __slots__ = ("_name_channels", "channels", "cursor", "offsets", "rings", "told")

    def __init__(self, channels: list[ChannelState], options: SubscribeOptions) -> None:
        self.channels = channels
        self.rings: list[Ring] = [_NO_RING] * len(channels)
        self.offsets: list[int] = [0] * len(channels)
        self.cursor: Cursor | None = None
        """The id of several channels, once all positions are known; None: there's one."""
        self.told: bool = True
        """Whether the client has been sent an id since the positions were moved."""
        self._name_channels = options.name_channels

    def complete(self) -> None:
        """Take note that all positions are known."""
        if len(self.channels) > 1:
            self.cursor = Cursor(
                (ring.epoch, offset) for ring, offset in zip(self.rings, self.offsets, strict=True)
            )

    def move(self, place: int, offset: int) -> None:
        """Go on to another offset of the same history."""
        self.offsets[place] = offset
        if self.cursor is not None:
            self.cursor.move(place, self.rings[place].epoch, offset)

    def is_lost(self, place: int) -> bool:
        """Whether the next event of a channel isn't here any more."""
        return self.channels[place].read_each(self.rings[place], self.offsets[place], 1) is None

    @property
    def last_event_id(self) -> str:
        """The id with which the client would come back now."""
        if self.cursor is not None:
            return str(self.cursor)
        return f"{self.rings[0].epoch}.{self.offsets[0]}"

    def tell(self) -> bytes:
        """Return the line with the id, for the client has to have it now."""
        # An id without data moves the client's cursor and fires no event (WHATWG HTML 9.2.6).
        self.told = True
        return f"id: {self.last_event_id}\r\n".encode()

    def framed(self, place: int, frame: bytes) -> bytes:
        """Return the frame of a channel as the client is to get it: with all positions as its id."""
        if self.cursor is not None:
            frame = b"id: %b\r\n%b" % (str(self.cursor).encode(), frame[frame.index(b"\n") + 1 :])
        if self._name_channels:
            frame = _with_name(frame, to_utf8(self.channels[place].name))
        return frame


def _with_name(frame: bytes, channel: bytes) -> bytes:
    """Return the frame with the name of its channel in that of its event."""
    # At the beginning of a line this is the field, and not something in the data.
    name = frame.find(b"\r\nevent: ")
    if name >= 0:
        return b"%b%b:%b" % (frame[: name + 9], channel, frame[name + 9 :])
    data = frame.find(b"\r\ndata: ")
    if data < 0:
        return frame
    return b"%b\r\nevent: %b%b" % (frame[:data], channel, frame[data:])
