"""
Loops whose clock jumps to the next timer when there's nothing else to do: hours pass in no time.

What waits for a thread or a socket doesn't go together with them.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import anyio
import pytest
from trio.testing import MockClock

from sse_starlette.runs import _entry, _keeper, _ledger, _memory, _watch


class JumpingLoop(asyncio.SelectorEventLoop):
    """asyncio's loop with such a clock."""

    def __init__(self) -> None:
        self._now = 1_000.0
        super().__init__(JumpingSelector(self.jump))

    def time(self) -> float:
        return self._now

    def jump(self, seconds: float) -> None:
        self._now += seconds


class JumpingSelector(selectors.DefaultSelector):
    """Has the clock jump instead of waiting."""

    def __init__(self, jump: Callable[[float], None]) -> None:
        super().__init__()
        self._jump = jump

    def select(self, timeout: float | None = None) -> list[Any]:
        if timeout is not None:
            self._jump(max(timeout, 0))
        return super().select(None if timeout is None else 0)


def backend_that_jumps(loop: str) -> tuple[str, dict[str, Any]]:
    """A loop as anyio's plugin wants to be told of it."""
    if loop == "trio":
        return "trio", {"clock": MockClock(autojump_threshold=0)}
    return "asyncio", {"loop_factory": JumpingLoop}


def clock_of_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have runs look at the clock of the loop they are on."""
    for module in (_entry, _keeper, _ledger, _memory, _watch):
        monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=anyio.current_time))


async def comes(fact: Callable[[], object]) -> None:
    """Let time pass until `fact` holds."""
    while not fact():  # noqa: ASYNC110  (time is what is to pass)
        await anyio.sleep(0.01)
