"""Timers: those that are far off share one of the loop's."""

from __future__ import annotations

import math
from contextvars import Context
from typing import TYPE_CHECKING

from ..fork import call_in_child

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable


class AsyncioTimer:
    __slots__ = ("_fire", "_loop", "_set")

    def __init__(self, loop: asyncio.AbstractEventLoop, fire: Callable[[], None]) -> None:
        self._loop = loop
        self._fire = fire
        self._set: asyncio.TimerHandle | tuple[_TimerWheel, int] | None = None

    def set(self, when: float) -> None:
        self.stop()
        if when < self._loop.time() + _FAR_SECONDS:
            self._set = self._loop.call_at(when, self._fire)
        elif when < math.inf:
            self._set = _wheel_of(self._loop).set(self, when)

    def stop(self) -> None:
        if isinstance(self._set, tuple):
            wheel, tick = self._set
            wheel.stop(self, tick)
        elif self._set is not None:
            self._set.cancel()
        self._set = None

    def fire(self) -> None:
        self._set = None
        self._fire()


_FAR_SECONDS = 1.0
"""Timers as far off as this share one of the loop's, and fire up to a tick late."""
_TICK_SECONDS = 0.02
_RUNG_AT_ONCE = 100
"""After so many timers the loop gets its turn."""


class _TimerWheel:
    """
    Fires the timers of one loop that are far off, by one timer of the loop's.

    Ten thousand silent streams are as many timers. One of the loop's for each is a handle and a place in the
    loop's heap; here it is a place in the dict of those that fire at the same tick.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._alarms: dict[int, dict[AsyncioTimer, None]] = {}
        self._next: float = math.inf
        self._timer: asyncio.Handle | None = None

    def set(self, timer: AsyncioTimer, when: float) -> tuple[_TimerWheel, int]:
        tick = math.ceil(when / _TICK_SECONDS)
        self._alarms.setdefault(tick, {})[timer] = None
        if tick < self._next:
            self._wait_for(tick)
        return self, tick

    def stop(self, timer: AsyncioTimer, tick: int) -> None:
        timers = self._alarms[tick]
        del timers[timer]
        if not timers:
            del self._alarms[tick]
            if not self._alarms:
                self._end()

    def _wait_for(self, tick: int) -> None:
        self._stop_timer()
        self._next = tick
        # In nobody's context: it would be kept for all that come after.
        self._timer = self._loop.call_at(tick * _TICK_SECONDS, self._fire, context=Context())

    def _fire(self) -> None:
        # The timer may come a little early, as its loop rounds.
        until = max(self._next, self._loop.time() // _TICK_SECONDS)
        rung = 0
        for tick in sorted(one for one in self._alarms if one <= until):
            # Whoever fires may set and stop others.
            while timers := self._alarms.get(tick):
                if rung == _RUNG_AT_ONCE:
                    self._timer = self._loop.call_soon(self._fire, context=Context())
                    return
                rung += 1
                timer = next(iter(timers))
                del timers[timer]
                if not timers:
                    del self._alarms[tick]
                try:
                    timer.fire()
                except Exception as exc:
                    self._loop.call_exception_handler(
                        {"message": "a timer raised when its time had come", "exception": exc}
                    )
        if self._alarms:
            self._wait_for(min(self._alarms))
        else:
            self._end()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _end(self) -> None:
        self._stop_timer()
        if _WHEELS.get(self._loop) is self:
            del _WHEELS[self._loop]


_WHEELS: dict[asyncio.AbstractEventLoop, _TimerWheel] = {}
"""The wheel of each loop that has timers far off."""


def _wheel_of(loop: asyncio.AbstractEventLoop) -> _TimerWheel:
    wheel = _WHEELS.get(loop)
    if wheel is None:
        for other in list(_WHEELS):
            if other.is_closed():  # In mid-stream: nobody has stopped its timers.
                _WHEELS.pop(other, None)
        call_in_child(_WHEELS.clear)
        wheel = _WHEELS[loop] = _TimerWheel(loop)
    return wheel
