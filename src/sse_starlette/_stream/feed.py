"""What one client still has to be sent: the seam between producers and the one writer.

The writer (`run`) asks a feed only for what stands here; how frames come to be, and who else gets
them, is the feed's own business. A feed never sends.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Literal, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from .._runtime.loop import Loop

JOINED_BYTES = 65_536
"""Where a feed stops joining: about what one write to a socket takes without waiting."""


Offer: TypeAlias = "Callable[[bytes, float, object], bool | None]"
"""Takes a frame, the loop's time, and the loop's `current_task`; see `Feed.offer`."""


def offer_nobody(_: bytes, __: float, ___: object) -> bool:
    """Stand in for the writer's `offer`."""
    return False


class FedContent:
    """Content of a response that has a feed of its own."""

    __slots__ = ("__weakref__", "_feed")

    _feed: Feed


def feed_of(content: object) -> Feed | None:
    """Return the feed that content has, or is; None: one has to be made."""
    if isinstance(content, FedContent):
        return content._feed  # noqa: SLF001  (it's not for those who hold the content)
    return content if isinstance(content, Feed) else None


class Feed(ABC):
    """
    Frames on their way to one client.

    The writer calls `open` once, starts `run` beside itself, then takes and sends until the feed has
    ended. Whatever happens, `stop` is called and `run` comes to its end: there a feed gives back all
    that it holds, and `wake` with it, so that a stream that is over goes without the garbage collector.
    """

    ended: bool = False
    """No frame will follow those that `take` still gives."""

    error: Exception | None = None
    """Why the feed ended, if it was not of its own accord. Set no later than `ended`."""

    close_reason: Literal["lagging"] | None = None
    """A better word than "end" for why the feed ended of its own accord."""

    joins: bool = True
    """Whether `take` may join frames. Set by the writer before it opens the feed."""

    cleanup_timeout: float | None = 30.0
    """Seconds that the application's part of the feed has to clean up. Set like `joins`."""

    offer: Offer = staticmethod(offer_nobody)
    """
    Sends a frame at once that comes alone, in place of `take`. The writer's, as long as it writes.

    Only while there's nothing to take. True: it's sent. None: its send waits, and `sent` will be called, or has
    failed. False: nothing was done.
    """

    events: int = 0
    """Events of a source that were taken, as far as a feed counts them; any thread may ask, and it never goes back."""

    drained: bool = False
    """Whether `take` would give nothing now: `wake` is called before it does. False: that's not known."""

    has_work: bool = True
    """Whether `run` is needed at all. What has none must be done when `stop` returns."""

    has_begun: bool = True
    """Whether what makes the frames has come to its first one, or makes none."""

    @property
    def unfinished(self) -> bool:
        """Whether what `take` gave last ends within an event: a ping would become a part of it."""
        return False

    @property
    def thread(self) -> str | None:
        """The name of the thread that does what can't be interrupted now; None: nothing is such."""
        return None

    def is_over(self) -> bool:
        """Whether there's nothing to send and never will be; asked before the feed is opened."""
        return False

    @abstractmethod
    def open(self, wake: Callable[[], None]) -> None:
        """From now on call `wake` when there is something to take, and when the feed has ended."""

    @abstractmethod
    async def run(self) -> None:
        """Do what the feed needs a task for; return when it has ended and everything is given back."""

    def run_noting_first_wait(self, loop: Loop, note: Callable[[], None]) -> Awaitable[None]:
        """Await `run`; call `note` once, when it first waits, or has ended without."""
        return loop.run_noting_first_wait(self.run(), note)

    @abstractmethod
    def stop(self) -> None:
        """End as soon as possible: what was not taken is not wanted any more. May be called twice."""

    @abstractmethod
    def take(self) -> bytes:
        """All frames that are ready, joined up to about `JOINED_BYTES`; empty when there are none."""

    @abstractmethod
    def sent(self) -> None:
        """What `take` gave last has been sent."""

    def release(self) -> None:  # noqa: B027  (most feeds have nothing of the kind)
        """Don't wait any longer for what can't be interrupted, so that `run` may return."""

    def finish_event(self) -> bytes:
        """Return what has to come before something that isn't the feed's; empty unless `unfinished`."""
        return b""

    def ping(self) -> bytes:
        """Whatever should go out together with a ping."""
        return b""
