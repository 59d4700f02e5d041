"""The startup and shutdown of an app in memory: the server's side of ASGI's lifespan."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import anyio

from sse_starlette._runtime.loop import loop_override

from ._app_task import Changes, spawn

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message

    from ._clock import ServedLoop


class Lifespan:
    """The startup and shutdown of an app. Its task begins in `startup`, and has ended after `shutdown`."""

    def __init__(self, app: ASGIApp, loop: ServedLoop) -> None:
        self.state: dict[str, Any] = {}
        """What the app hands on to its requests."""
        self._app = app
        self._loop = loop
        self._changes = Changes()
        self._scope_of_app = anyio.CancelScope()
        self._task: object = None
        self._answer: Message | None = None
        self._error: BaseException | None = None
        self._over = False
        self._asked = 0
        self._told = 0

    async def startup(self) -> None:
        """
        Start the app up. If that fails or is cancelled, its task ends.

        Raises:
            RuntimeError: the app says that it failed, or has no lifespan.
            Exception: what it raised.
        """
        self._task = spawn(self._run)
        try:
            await self._ask("startup")
        except BaseException:
            with anyio.CancelScope(shield=True):
                self._scope_of_app.cancel()
                await self._changes.until(lambda: self._over)
            raise

    async def shutdown(self) -> None:
        """Shut the app down; raises as `startup` does. Not cancellable."""
        with anyio.CancelScope(shield=True):
            await self._ask("shutdown")
            await self._end()

    async def _ask(self, what: str) -> None:
        self._answer = None
        self._asked += 1
        self._changes.tell()
        await self._changes.until(lambda: self._answer is not None or self._over)
        if self._answer is None or self._answer["type"] != f"lifespan.{what}.complete":
            # A framework says that it failed, and then raises why.
            await self._end()
            raise RuntimeError(f"the app's lifespan {what} failed: it answered {self._answer}")

    async def _end(self) -> None:
        await self._changes.until(lambda: self._over)
        if self._error is not None:
            raise self._error

    async def _run(self) -> None:
        loop_override.set(self._loop)
        scope = {"type": "lifespan", "asgi": {"version": "3.0", "spec_version": "2.0"}}
        try:
            with self._scope_of_app:
                await self._app({**scope, "state": self.state}, self._receive, self._send)
        except anyio.get_cancelled_exc_class():
            raise
        except BaseException as exc:
            self._error = exc
        finally:
            self._over = True
            self._changes.tell()

    async def _receive(self) -> Message:
        await self._changes.until(lambda: self._told < self._asked)
        self._told += 1
        return {"type": "lifespan.startup" if self._told == 1 else "lifespan.shutdown"}

    async def _send(self, message: Message) -> None:
        self._answer = message
        self._changes.tell()
