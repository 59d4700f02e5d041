"""The socket between an app in memory and its client: what has arrived, who reads it, and who is still there.

Knows bytes and times; knows nothing of ASGI, tasks or events.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SOCKET_BYTES = 65_536
"""What a client may leave unread before sends block: about what uvicorn buffers."""

_SHOWN_CHUNKS = 40
_SHOWN_BYTES = 400


@dataclass(frozen=True)
class Chunk:
    """A piece of a body."""

    at: float
    """When it arrived, on the app's clock, in seconds."""
    data: bytes
    writer: int
    """The task that sent it."""


class Socket:
    """What an app has sent to one client."""

    def __init__(self, changed: Callable[[], None]) -> None:
        """
        Connect.

        Args:
            changed: called whenever anything below has changed.
        """
        self.left = False
        """The client has gone."""
        self.stalled = False
        """The client does not read."""
        self.unread = 0
        """Bytes that the client has not read yet."""
        self.limit: float = SOCKET_BYTES
        """How many there may be before sends block."""
        self._changed = changed
        self._chunks: deque[Chunk] = deque()
        self._listener: Callable[[Chunk], None] | None = None
        self._shown: deque[Chunk] = deque(maxlen=_SHOWN_CHUNKS)
        self._count = 0

    @property
    def full(self) -> bool:
        """Whether a send has to wait."""
        return not self.left and (self.stalled or self.unread >= self.limit)

    @property
    def readable(self) -> bool:
        """Whether there's a chunk to `take`."""
        return bool(self._chunks)

    def deliver(self, chunk: Chunk) -> None:
        """Have a chunk arrive."""
        self._shown.append(chunk)
        self._count += 1
        self.unread += len(chunk.data)
        if self._listener is None:
            self._chunks.append(chunk)
        else:
            self._listener(chunk)

    def listen(self, listener: Callable[[Chunk], None]) -> None:
        """Hand each chunk to `listener` as it arrives, in place of `take`; first what is here."""
        self._listener = listener
        while self._chunks:
            listener(self._chunks.popleft())

    def take(self) -> bytes:
        """Read the next chunk."""
        data = self._chunks.popleft().data
        self.has_read(len(data))
        return data

    def has_read(self, size: int) -> None:
        """Make room for further bytes."""
        self.unread -= size
        self._changed()

    def read_on(self) -> None:
        """Make room for whatever comes."""
        self.limit = float("inf")
        self._changed()

    def leave(self) -> None:
        """Let the client go away, without a word."""
        self.left = True
        self._changed()

    def stall(self, *, stalled: bool) -> None:
        """Read nothing from now on, or go on reading."""
        self.stalled = stalled
        self._changed()

    def shown(self, began: float) -> Iterator[str]:
        """Show what has arrived, in seconds since `began`."""
        yield "what arrived (seconds, bytes):"
        if self._count > len(self._shown):
            yield f"    ... {self._count - len(self._shown)} before these"
        for chunk in self._shown:
            more = len(chunk.data) - _SHOWN_BYTES
            text = f"{chunk.data[:_SHOWN_BYTES]!r}" + (f" ... {more} more" if more > 0 else "")
            yield f"{chunk.at - began:9.3f}  {text}"
        if not self._shown:
            yield "    nothing"
