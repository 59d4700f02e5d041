"""What a source has made and its writer has not sent yet; each waits here for the other."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from .._runtime.loop import Waker


class Outbox:
    """The frames of one source on their way to its writer; how many there may be is the source's affair."""

    __slots__ = ("_told", "blocks", "frames", "room", "sending", "wake")

    def __init__(self, room: Waker) -> None:
        """
        Begin empty.

        Args:
            room: what the source waits for, for room or for its next turn.
        """
        self.frames: list[bytes] = []
        """What can be taken."""
        self.sending = False
        """Whether what was taken has not been sent yet."""
        self.blocks = False
        """Whether the source waits until all is sent."""
        self.room = room
        self.wake: Callable[[], None] = _wake_nobody
        """Calls the writer."""
        self._told = False

    def tell_writer(self) -> None:
        """Have the writer take what there is; where the loop can do that, it's sent in the call."""
        if not self._told:
            self._told = True
            self.wake()

    def take(self) -> bytes:
        """Return all frames, joined."""
        frames = self.frames
        self._told = False
        joined = frames[0] if len(frames) == 1 else b"".join(frames)
        frames.clear()
        if joined:
            self.sending = True
        elif self.blocks:
            # Frames without a byte: nobody will say that they have been sent.
            self.room.set()
        return joined

    def sent(self) -> None:
        """Take note that what was taken has been sent."""
        self.sending = False
        if self.blocks and not self.frames:
            self.room.set()

    def close(self) -> None:
        """Tell the writer that nothing more will come."""
        self.wake()
        self.wake = _wake_nobody


def _wake_nobody() -> None:
    """Stand in for the writer until there is one."""
