"""Sends the opening of a subscription to a response: what the application makes may wait, so that takes a task.

A subscription without a snapshot and without an `on_gap` has none of this.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import anyio

from .._stream.source import SourceFeed

if TYPE_CHECKING:
    from collections.abc import Callable

    from .._runtime.loop import Loop
    from ._opening import Opening


class Opened(Protocol):
    """What it asks of a subscription's feed."""

    joins: bool
    cleanup_timeout: float | None
    ended: bool
    call: Callable[[], None]

    @property
    def stopped(self) -> bool:
        """Whether nobody wants it any more."""

    @property
    def must_prepare(self) -> bool:
        """Whether an opening is to be sent now."""

    def opening(self, loop: Loop) -> Opening:
        """Make the opening."""

    def prepared(self, frames: list[bytes], error: Exception | None = None) -> None:
        """Take the rest of an opening that has been sent."""


class OpeningSender:
    """Sends an opening each time that its subscription needs one, as any source is sent."""

    __slots__ = ("_feed", "_loop", "_source", "_waker")

    def __init__(self, feed: Opened, loop: Loop) -> None:
        """Wait for `run`."""
        self._feed = feed
        self._loop = loop
        self._waker = loop.waker()
        # The opening that is being sent.
        self._source: SourceFeed | None = None

    async def run(self) -> None:
        """Send what is to be sent, until the subscription is over."""
        feed = self._feed
        while not feed.ended and not feed.stopped:
            if feed.must_prepare:
                await self._send()
                feed.call()
            else:
                with anyio.CancelScope(shield=True):
                    await self._waker

    async def _send(self) -> None:
        feed = self._feed
        source = SourceFeed(
            feed.opening(self._loop),
            _as_it_is,
            self._loop,
            sep="\r\n",
            cleanup_timeout=feed.cleanup_timeout,
            joins=feed.joins,
        )
        source.open(feed.call)
        self._source = source
        await source.run()
        self._source = None
        rest = source.take()
        feed.prepared([rest] if rest else [], source.error)

    def wake(self) -> None:
        """Look whether there's something to do."""
        self._waker.set()

    @property
    def sending(self) -> bool:
        """Whether frames of an opening are to be taken, and nothing else."""
        return self._source is not None

    def take(self) -> bytes:
        """Take of the opening that is being sent; see `Feed.take`."""
        source = self._source
        assert source is not None  # noqa: S101  (it's sending)
        source.sent()  # Nobody takes more before that.
        return source.take()

    def sent(self) -> None:
        """What was taken has been sent."""
        if self._source is not None:
            self._source.sent()

    def stop(self) -> None:
        """Make no more: nobody wants it."""
        if self._source is not None:
            self._source.stop()
        self._waker.set()


def _as_it_is(frame: object) -> bytes:
    """Encode what is encoded already."""
    assert isinstance(frame, bytes)  # noqa: S101  (an opening makes nothing else)
    return frame
