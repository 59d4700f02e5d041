"""A clock that stands still until the test moves it, and the loop that an app in the kit sees.

Owns no task. Only what asks `_loop` for the time follows this clock: pings, drain delays. What asks
the event loop itself (`anyio.sleep`, `send_timeout`, `cleanup_timeout`) goes on in real time.
"""

from __future__ import annotations

import heapq
from itertools import count
from typing import TYPE_CHECKING

import anyio
import anyio.lowlevel

from sse_starlette._runtime.loop import current_loop

if TYPE_CHECKING:
    from collections.abc import Callable

    from sse_starlette._runtime.loop import Loop, TaskStarter, Timer

_TURNS = 40
"""How often the loop turns before anybody asks whether all tasks wait: more than a reaction takes."""
_BUSY_SECONDS = 0.5
"""When tasks that never wait are not waited for any longer."""


async def settled() -> None:
    """Let all others run until each of them waits for something."""
    for _ in range(_TURNS):
        await anyio.lowlevel.checkpoint()
    with anyio.move_on_after(_BUSY_SECONDS):
        await anyio.wait_all_tasks_blocked()


class Clock:
    """
    A clock that only the test moves: 15 seconds until a ping take no time.

    It begins at 0. Give it to `connect` or to a `StreamingASGITransport`: the pings and the drain
    delays of the streams of this package then go by it. What an app of yours does at intervals goes
    by it too if it calls this clock's `sleep` and `time`; `anyio.sleep` knows nothing of it. The same
    is true of `send_timeout`, `first_event_timeout` and `cleanup_timeout`: real seconds.

    ```python
    clock = Clock()
    async with connect(app, "/events", clock=clock) as stream:
        await clock.advance(15)
        assert len(stream.comments) == 1
    ```
    """

    def __init__(self) -> None:
        self._now = 0.0
        self._order = count()
        self._due: list[tuple[float, int, _ClockTimer]] = []

    def time(self) -> float:
        """Seconds on this clock."""
        return self._now

    async def sleep(self, seconds: float) -> None:
        """Wait until the clock has moved by so many seconds; for apps that are to follow it."""
        awake = anyio.Event()
        timer = self.timer(awake.set)
        timer.set(self._now + seconds)
        try:
            await awake.wait()
        finally:
            timer.stop()

    async def advance(self, seconds: float) -> None:
        """
        Move the clock on. Whatever becomes due on the way happens at its own time and in order.

        Returns when everybody has reacted and waits again. If it is cancelled, the clock stands where
        it had come to.

        Args:
            seconds: by how much.

        Raises:
            ValueError: `seconds` is negative: no clock goes back.
        """
        if not seconds >= 0:
            raise ValueError(f"seconds must be >= 0, got: {seconds}")
        then = self._now + seconds
        await settled()
        while self._due and self._due[0][0] <= then:
            when, _, timer = heapq.heappop(self._due)
            if timer.when == when:
                self._now = max(self._now, when)
                timer.when = None
                timer.fire()
                await settled()
        self._now = then

    def timer(self, fire: Callable[[], None]) -> Timer:
        """Return a timer that calls `fire` at the time on this clock to which it's set."""
        return _ClockTimer(self._put, fire)

    def _put(self, when: float, timer: _ClockTimer) -> None:
        heapq.heappush(self._due, (when, next(self._order), timer))


class _ClockTimer:
    __slots__ = ("_put", "fire", "when")

    def __init__(self, put: Callable[[float, _ClockTimer], None], fire: Callable[[], None]) -> None:
        self._put = put
        self.fire: Callable[[], None] = fire
        self.when: float | None = None

    def set(self, when: float) -> None:
        self.when = when
        self._put(when, self)

    def stop(self) -> None:
        self.when = None


class ServedLoop:
    """The running loop as an app in the kit sees it: with the kit's clock, and a server it belongs to."""

    def __init__(self, server: object, clock: Clock | None) -> None:
        self._real: Loop = current_loop()
        self._clock = clock
        self.server = server
        """Whose streams run here."""
        self.key: object = self._real.key
        self.call_soon = self._real.call_soon
        self.call_later = self._real.call_later
        self.is_current = self._real.is_current
        self.waker = self._real.waker
        self.eager_runner = self._real.eager_runner
        self.task_group = self._real.task_group
        self.cancel_scope = self._real.cancel_scope
        self.source_runner = self._real.source_runner
        self.current_task = self._real.current_task
        self.run_noting_first_wait = self._real.run_noting_first_wait
        self.call_soon_threadsafe = self._real.call_soon_threadsafe

    def time(self) -> float:
        return self._real.time() if self._clock is None else self._clock.time()

    def stopwatch(self) -> float:
        return self.time()

    def timer(self, fire: Callable[[], None], starter: TaskStarter) -> Timer:
        if self._clock is None:
            return self._real.timer(fire, starter)
        return self._clock.timer(fire)
