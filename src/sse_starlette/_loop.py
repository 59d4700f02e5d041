"""What we ask of an event loop beside anyio: the time, a wake-up, an alarm, a call later.

Every stream waits, wakes and pings through these, so they are as light as the loop allows: a bare
future and a timer handle on asyncio. Nothing here knows what a stream is, and nothing outlives the
stream that asked for it.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from typing import TYPE_CHECKING, Protocol

import anyio
import anyio.abc

if TYPE_CHECKING:
    import trio.lowlevel


class WakeUp(Protocol):
    """One task waits here; anything on the same loop may wake it. A wake-up nobody waits for is lost."""

    def set(self) -> None:
        """Wake the waiting task, if there is one."""

    def wait(self) -> Awaitable[None]:
        """Wait for the next `set`. May return although nothing happened: look again, then wait again."""


class Loop(Protocol):
    """What a stream needs of the loop it runs on."""

    key: object
    """The loop itself: the same object for whatever runs on it."""

    def time(self) -> float:
        """The loop's clock, in seconds."""

    def wake_up(self) -> WakeUp:
        """A new wake-up, for one waiting task."""

    def alarm(self, ring: Callable[[], None], beside: anyio.abc.TaskGroup) -> Alarm:
        """A new alarm that calls `ring`; where the loop has no timers its task runs in `beside`."""

    def soon(self, call: Callable[[], object], /) -> object:
        """Have the loop call `call` after all that is ready to run now."""

    def later(self, seconds: float, call: Callable[[], object], /) -> object:
        """Have the loop call `call` in so many seconds; a loop without timers does it soon."""

    def is_current(self) -> bool:
        """Whether the calling thread runs this loop. Any thread may ask."""

    def knock(self, call: Callable[[], object]) -> None:
        """Have the loop call `call` soon, from any thread; RuntimeError if it has been closed."""


class Alarm(Protocol):
    """Rings at one time at the most; setting it again moves it."""

    def set(self, when: float) -> None:
        """Ring at `when`, on the loop's clock."""

    def stop(self) -> None:
        """Don't ring. May be called twice."""


stand_in: ContextVar[Loop | None] = ContextVar("sse_starlette_stand_in", default=None)
"""What `current_loop` answers instead. The testing kit sets it in the context it runs an app in."""


def current_loop() -> Loop:
    """The loop that runs the calling task."""
    if (loop := stand_in.get()) is not None:
        return loop
    try:
        task = asyncio.current_task()
    except RuntimeError:
        task = None
    # A trio program that is a guest of an asyncio loop has that loop, but no asyncio task.
    return _Trio() if task is None else _Asyncio(asyncio.get_running_loop())


class _Asyncio:
    __slots__ = ("_loop", "key", "later", "soon", "time")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self.key: object = loop
        # The same clock, without a call in between.
        own = getattr(type(loop), "time", None) is asyncio.BaseEventLoop.time
        self.time: Callable[[], float] = time.monotonic if own else loop.time
        self.soon: Callable[[Callable[[], object]], object] = loop.call_soon
        self.later: Callable[[float, Callable[[], object]], object] = loop.call_later

    def wake_up(self) -> WakeUp:
        return _AsyncioWakeUp(self._loop)

    def alarm(self, ring: Callable[[], None], beside: anyio.abc.TaskGroup) -> Alarm:  # noqa: ARG002  (trio needs it)
        return _AsyncioAlarm(self._loop, ring)

    def is_current(self) -> bool:
        try:
            return asyncio.get_running_loop() is self._loop
        except RuntimeError:
            return False

    def knock(self, call: Callable[[], object]) -> None:
        self._loop.call_soon_threadsafe(call)


class _AsyncioWakeUp:
    # anyio.Event costs some three times as much as a bare future, and a stream waits for every event.
    __slots__ = ("_loop", "_waiter")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._waiter: asyncio.Future[None] | None = None

    def set(self) -> None:
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    def wait(self) -> Awaitable[None]:
        self._waiter = waiter = self._loop.create_future()
        return waiter


class _AsyncioAlarm:
    __slots__ = ("_handle", "_loop", "_ring")

    def __init__(self, loop: asyncio.AbstractEventLoop, ring: Callable[[], None]) -> None:
        self._loop = loop
        self._ring = ring
        self._handle: asyncio.TimerHandle | None = None

    def set(self, when: float) -> None:
        self.stop()
        if when < math.inf:
            self._handle = self._loop.call_at(when, self._ring)

    def stop(self) -> None:
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None


class _Trio:
    __slots__ = ("_token", "key")

    def __init__(self) -> None:
        import trio.lowlevel  # noqa: PLC0415  (whoever runs on asyncio needn't have it)

        self._token: trio.lowlevel.TrioToken = trio.lowlevel.current_trio_token()
        self.key: object = self._token

    def time(self) -> float:
        return anyio.current_time()

    def wake_up(self) -> WakeUp:
        return _TrioWakeUp()

    def alarm(self, ring: Callable[[], None], beside: anyio.abc.TaskGroup) -> Alarm:
        return _TrioAlarm(ring, beside)

    def soon(self, call: Callable[[], object]) -> None:
        self._token.run_sync_soon(call)

    def later(self, seconds: float, call: Callable[[], object]) -> None:  # noqa: ARG002  (soon)
        self._token.run_sync_soon(call)

    def is_current(self) -> bool:
        # Not worth asking: the next step, a knock, is what trio has for itself too.
        return False

    def knock(self, call: Callable[[], object]) -> None:
        self._token.run_sync_soon(call)


class _TrioWakeUp:
    __slots__ = ("_event",)

    def __init__(self) -> None:
        self._event: anyio.Event | None = None

    def set(self) -> None:
        if self._event is not None:
            self._event.set()

    async def wait(self) -> None:
        self._event = anyio.Event()
        await self._event.wait()


class _TrioAlarm:
    __slots__ = ("_beside", "_ring", "_sleeping")

    def __init__(self, ring: Callable[[], None], beside: anyio.abc.TaskGroup) -> None:
        self._ring = ring
        self._beside = beside
        self._sleeping: anyio.CancelScope | None = None

    def set(self, when: float) -> None:
        self.stop()
        self._sleeping = anyio.CancelScope()
        self._beside.start_soon(self._sleep, when, self._sleeping)

    def stop(self) -> None:
        if self._sleeping is not None:
            self._sleeping.cancel()
            self._sleeping = None

    async def _sleep(self, when: float, sleeping: anyio.CancelScope) -> None:
        with sleeping:
            await anyio.sleep_until(when)
            self._ring()
