"""What a client gets before the channels' events: resets, and the events that the application makes.

An opening is a source like any other: it's driven from its first step to its close in one task, one event
at a time, and closes whatever it was at.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable
from dataclasses import dataclass
from inspect import isawaitable
from typing import TYPE_CHECKING, TypeAlias

from .._stream.content import is_iterable, is_one_event, iterate
from ..event import (
    Event,
    encode_body,
)

if TYPE_CHECKING:
    from .._runtime.loop import Loop
    from .._wire.values import Serializer

Events: TypeAlias = Iterable[Event] | AsyncIterable[Event]

_logger = logging.getLogger("sse_starlette.channel")


@dataclass(frozen=True, slots=True)
class Step:
    """
    Something of the application's that makes events.

    Attributes:
        call: what makes them.
        instead: makes the frame that goes out if that fails; None: the stream fails.
    """

    call: Callable[[], Events | Awaitable[Events]]
    instead: Callable[[Exception], bytes] | None = None


class Opening(AsyncIterator[bytes]):
    """The frames of an opening, one at a time."""

    def __init__(
        self, steps: Iterable[bytes | Step], loop: Loop, serializer: Serializer | None
    ) -> None:
        """
        Do nothing yet.

        Args:
            steps: frames that are ready, and what makes others.
            loop: the loop that it's iterated on.
            serializer: makes JSON of the data; see `Hub`.
        """
        self.busy: bool = False
        """Whether somebody waits for the next frame."""
        self.made: bool = False
        """Whether something has been made, and not only what was ready."""
        self._steps = iter(steps)
        self._loop = loop
        self._serializer = serializer
        self._step: Step | None = None
        # What the application has returned, and what iterates that.
        self._made: object = None
        self._iterator: AsyncIterator[object] | None = None

    async def __anext__(self) -> bytes:
        self.busy = True
        try:
            return await self._next_frame()
        finally:
            self.busy = False

    async def _next_frame(self) -> bytes:
        while True:
            step = self._step
            if step is None:
                try:
                    found = next(self._steps)
                except StopIteration:
                    raise StopAsyncIteration from None
                if isinstance(found, bytes):
                    return found
                self._step = step = found
            try:
                if self._iterator is None:
                    await self._begin(step)
                if (frame := await self._next()) is not None:
                    self.made = True
                    return frame
            except Exception as exc:
                await self.aclose()
                if step.instead is None:
                    raise
                return step.instead(exc)
            await self.aclose()

    async def _begin(self, step: Step) -> None:
        self._made = made = step.call()
        if isawaitable(made):
            # Closed or not, an awaitable that was never begun would complain.
            self._made = made = await made
        if is_one_event(made):
            made = [made]
        elif not isinstance(made, AsyncIterable) and not is_iterable(made):
            raise TypeError(
                f"{step.call!r} has returned {type(made).__name__}: a snapshot and on_gap return an event, "
                "or an async or sync iterable of events, [] for none."
            )
        self._iterator = iterate(made, self._loop)

    async def _next(self) -> bytes | None:
        assert self._iterator is not None  # noqa: S101  (it has been begun)
        try:
            return encode_body(await self._iterator.__anext__(), self._serializer)
        except StopAsyncIteration:
            return None

    async def aclose(self) -> None:
        """Close what it's at."""
        owned = [self._iterator, *([self._made] if self._made is not self._iterator else [])]
        self._step = self._made = self._iterator = None
        for one in owned:
            close = getattr(one, "aclose", None)
            if close is None and isinstance(one, AsyncIterable):
                close = getattr(one, "close", None)
            if close is not None:
                try:
                    if isawaitable(closing := close()):
                        await closing
                except Exception:
                    _logger.exception(
                        "error in the cleanup of %r", one, extra={"sse_event": "cleanup_failed"}
                    )
