"""What the parts of one stream have in common."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .lifecycle import Lifecycle

if TYPE_CHECKING:
    from .._runtime.loop import Loop
    from .feed import Feed
    from .options import StreamOptions


class StreamContext:
    """One stream, as each of its parts knows it; nobody changes it."""

    __slots__ = ("feed", "life", "loop", "options", "tasks")

    def __init__(self, feed: Feed, options: StreamOptions, loop: Loop) -> None:
        """
        Begin a life.

        Args:
            feed: what the stream sends.
            options: what its caller asked for.
            loop: the loop it runs on.
        """
        self.feed = feed
        self.life = Lifecycle()
        """What has become of it."""
        self.options = options
        self.loop = loop
        self.tasks = loop.task_group()
        """Where its tasks run."""
