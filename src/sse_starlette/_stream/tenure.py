"""How long one stream may go on: until it's of age, and as long as its client may still listen.

Tells when that's over; what then becomes of the stream is not decided here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio

from .lifecycle import ENDING

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from .context import StreamContext
    from .lifecycle import CloseReason


class Tenure:
    """The age of a stream, and what is asked again and again while it's open."""

    __slots__ = ("_check", "_end", "_every", "_life", "_loop", "_tasks", "_timers")

    def __init__(
        self, context: StreamContext, end: Callable[[CloseReason, Exception | None], None]
    ) -> None:
        """
        Begin now.

        Args:
            context: of the stream, whose options say what it was granted.
            end: ends the stream.
        """
        grant = context.options.grant
        self._life = context.life
        self._loop = context.loop
        self._tasks = context.tasks
        self._check = grant.revalidate
        self._every = grant.revalidate_interval
        self._end = end
        self._timers = []
        if grant.max_age is not None:
            timer = self._loop.timer(self._on_age, self._tasks)
            timer.set(self._loop.time() + grant.max_age)
            self._timers.append(timer)
        if self._check is not None:
            self._timers.append(self._loop.timer(self._on_tick, self._tasks))
            self._ask_later()

    def close(self) -> None:
        """Stop the timers."""
        for timer in self._timers:
            timer.stop()

    def _on_age(self) -> None:
        self._end("expired", None)

    def _ask_later(self) -> None:
        self._timers[-1].set(self._loop.time() + self._every)

    def _on_tick(self) -> None:
        if self._life.phase < ENDING and self._check is not None:
            self._tasks.start_soon(self._ask, self._check)

    async def _ask(self, check: Callable[[], Awaitable[object]]) -> None:
        try:
            with anyio.fail_after(self._every):
                may_go_on = await check()
        except TimeoutError as exc:
            exc.add_note(f"revalidate had {self._every:g} s, the interval in which it's asked")
            self._end("error", exc)
        except Exception as exc:
            self._end("error", exc)
        else:
            if may_go_on:
                self._ask_later()
            else:
                self._end("revoked", None)
