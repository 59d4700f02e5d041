"""How a source keeps step with its writer and with the others on its loop, from one wait to the next."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .batching import Batching
from .feed import JOINED_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable

    from .._runtime.loop import Loop
    from .outbox import Outbox


class Pace:
    """When one source runs and waits, what it makes meanwhile, and the turns that it leaves the loop."""

    __slots__ = (
        "_loop",
        "_outbox",
        "_pushed",
        "_turn_due",
        "batching",
        "just_woke",
        "notes_waits",
        "on_first_wait",
        "room",
        "runs_since",
        "time",
    )

    def __init__(self, loop: Loop, outbox: Outbox, *, joins: bool) -> None:
        """
        Know nothing of the source yet.

        Args:
            loop: the loop that it runs on.
            outbox: what it puts its frames in.
            joins: whether they may wait for each other at all.
        """
        self._loop = loop
        self._outbox = outbox
        self.batching = Batching(on=joins)
        # What the loop tells of the source's steps; see `StepObserver`.
        self.time: Callable[[], float] = loop.stopwatch
        self.runs_since = 0.0
        self.just_woke = False
        self.notes_waits = True
        self.on_first_wait: Callable[[], None] | None = None
        """Called once, when the source first waits, or has ended without."""
        self.room = JOINED_BYTES
        """Bytes that the source may still make before it waits."""
        # Frames since it last waited of its own accord.
        self._pushed = 0
        self._turn_due = 0.0

    def count(self, frames: int) -> None:
        """Count frames that go to the writer."""
        self._pushed += frames
        self.batching.sent += frames
        self.notes_waits = True

    def about_to_wait(self) -> None:
        """See `StepObserver`."""
        self.note_first_wait()
        if self._outbox.frames:
            self._outbox.tell_writer()
        if self._pushed:
            self.room = JOINED_BYTES
            self.batching.waits(self._pushed, self.time() - self.runs_since)
            self._pushed = 0
            self._ask_for_a_turn()
        self.notes_waits = False

    def note_first_wait(self) -> None:
        """Say, once, that the source has come to its first wait."""
        note, self.on_first_wait = self.on_first_wait, None
        if note is not None:
            note()

    async def pause(self) -> None:
        """Let the writer take what there is, and the others on this loop have their turn."""
        outbox = self._outbox
        outbox.blocks = bool(outbox.frames) or outbox.sending
        if outbox.blocks:
            while outbox.frames or outbox.sending:
                await outbox.room
            outbox.blocks = False
        else:
            self._ask_for_a_turn()
            await outbox.room
        self.just_woke = False

    def _ask_for_a_turn(self) -> None:
        """Have the loop make a call: how late it is with that tells how late it is with everything."""
        if not self._turn_due:
            self._turn_due = self.time()
            self._loop.call_soon(self._on_turn)

    def _on_turn(self) -> None:
        self.batching.had_a_turn(self.time() - self._turn_due)
        self._turn_due = 0.0
        if not self._outbox.blocks:
            self._outbox.room.set()
