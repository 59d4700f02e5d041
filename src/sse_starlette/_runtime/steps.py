"""What leads a source, and what is told of its steps: the seam between sources and the event loops."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable


class StepObserver(Protocol):
    """Who wants to know when a task runs and when it waits."""

    time: Callable[[], float]
    """The clock by which."""

    runs_since: float
    """Set to the time each time the task begins or goes on."""

    just_woke: bool
    """Set to True with it."""

    notes_waits: bool
    """Whether `about_to_wait` is to be called: that takes as long as all the rest of a step."""

    def about_to_wait(self) -> None:
        """Do what has to be done before the task waits; it still runs."""
