"""What `loop` asks of trio, by way of anyio: events, a nursery, cancel scopes."""

from __future__ import annotations

import math
import types
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Self

import anyio
import anyio.abc

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Generator
    from types import TracebackType

    import trio.lowlevel

    from .steps import StepObserver


class TrioLoop:
    """The running loop of trio."""

    __slots__ = ("_token", "key")

    def __init__(self) -> None:
        import trio.lowlevel  # noqa: PLC0415  (whoever runs on asyncio needn't have it)

        self._token: trio.lowlevel.TrioToken = trio.lowlevel.current_trio_token()
        self.key: object = self._token

    def time(self) -> float:
        return anyio.current_time()

    def stopwatch(self) -> float:
        return anyio.current_time()

    def waker(self) -> TrioWaker:
        return TrioWaker()

    def eager_runner(self) -> TrioEagerRunner:
        return TrioEagerRunner()

    def timer(self, fire: Callable[[], None], starter: Any) -> TrioTimer:
        return TrioTimer(fire, starter)

    def task_group(self) -> TrioTaskGroup:
        return TrioTaskGroup()

    def cancel_scope(self) -> anyio.CancelScope:
        return anyio.CancelScope()

    def source_runner(self, cleanup_seconds: float | None) -> TrioSourceRunner:
        return TrioSourceRunner(cleanup_seconds)

    def call_soon(self, call: Callable[[], object]) -> None:
        # A run that is over calls what it had been asked to before; that may ask for more.
        with suppress(RuntimeError):
            self._token.run_sync_soon(call)

    def call_later(self, seconds: float, call: Callable[[], object]) -> None:  # noqa: ARG002  (soon)
        self.call_soon(call)

    @types.coroutine
    def run_noting_first_wait(
        self, coroutine: Coroutine[Any, Any, None], note: Callable[[], None]
    ) -> Generator[Any, Any, None]:
        try:
            try:
                wait = coroutine.send(None)
            finally:
                note()
            while True:
                try:
                    outcome = yield wait
                except GeneratorExit:
                    coroutine.close()  # Thrown away, perhaps before.
                    raise
                except BaseException as exc:  # It's for the coroutine: thrown there.
                    wait = coroutine.throw(exc)
                else:
                    wait = coroutine.send(outcome)
        except StopIteration:
            return

    def current_task(self) -> None:
        return None

    def is_current(self) -> bool:
        # Not worth asking: the next step, a knock, is what trio has for itself too.
        return False

    def call_soon_threadsafe(self, call: Callable[[], object]) -> None:
        self._token.run_sync_soon(call)


class TrioWaker:
    __slots__ = ("_event",)

    def __init__(self) -> None:
        self._event: anyio.Event | None = None

    def set(self) -> None:
        if self._event is not None:
            self._event.set()

    def __await__(self) -> Generator[Any, Any, None]:
        self._event = anyio.Event()
        return self._event.wait().__await__()


class TrioEagerRunner(TrioWaker):
    __slots__ = ()

    busy = False

    def run_eagerly(self, caller: object, run: object, argument: object) -> bool:  # noqa: ARG002  (asyncio can)
        return False


class TrioTimer:
    __slots__ = ("_fire", "_sleeping", "_starter")

    def __init__(self, fire: Callable[[], None], starter: Any) -> None:
        self._fire = fire
        self._starter = starter
        self._sleeping: anyio.CancelScope | None = None

    def set(self, when: float) -> None:
        self.stop()
        self._sleeping = anyio.CancelScope()
        self._starter.start_soon(self._sleep, when, self._sleeping)

    def stop(self) -> None:
        if self._sleeping is not None:
            self._sleeping.cancel()
            self._sleeping = None

    async def _sleep(self, when: float, sleeping: anyio.CancelScope) -> None:
        with sleeping:
            await anyio.sleep_until(when)
            self._fire()


class TrioTaskGroup:
    """Tasks that are over when the `async with` is."""

    def __init__(self) -> None:
        self._group: anyio.abc.TaskGroup = anyio.create_task_group()

    def start_soon(self, run: Callable[..., Coroutine[Any, Any, Any]], *args: Any) -> None:
        self._group.start_soon(run, *args)

    def cancel(self) -> None:
        self._group.cancel_scope.cancel()

    async def __aenter__(self) -> Self:
        await self._group.__aenter__()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
        /,
    ) -> bool | None:
        return await self._group.__aexit__(kind, exc, traceback)


class TrioSourceRunner:
    """How a source is run: cancelled once where it waits, and left alone after that until time is up."""

    def __init__(self, cleanup_seconds: float | None) -> None:
        self._cleanup_seconds = cleanup_seconds
        # Cancelled by `cancel` and by nothing else: a server that cancels the response reaches the
        # source through `cancel` too.
        self._cancelling = anyio.CancelScope(shield=True)
        # Stands between the source and `_cancelling`; a shield from the moment the cancellation has
        # reached the source, so that its cleanup may wait.
        self._cleanup = anyio.CancelScope()
        self._cleaning = False
        self.cut_short: bool = False

    def cancel(self) -> None:
        self._cancelling.cancel()

    def clean_up(self) -> None:
        self._cleanup.shield = True
        if not self._cleaning:
            self._cleaning = True
            if self._cleanup_seconds is not None:
                self._cleanup.deadline = anyio.current_time() + self._cleanup_seconds

    async def run(
        self, begin: Callable[[], Coroutine[Any, Any, None]], observer: StepObserver
    ) -> None:
        with self._cancelling, self._cleanup:
            await self._watch(begin(), observer)

    @types.coroutine
    def _watch(
        self, source: Coroutine[Any, Any, None], observer: StepObserver
    ) -> Generator[Any, Any, None]:
        """Run `source` as it is, and take note of the cancellation's arrival."""
        cancelled = anyio.get_cancelled_exc_class()
        resume: Callable[[Any], Any] = source.send
        outcome: Any = None
        # Whether the source has had a cancellation since `cancel`, and from within a scope of its own
        # that was cancelled in the same turn of the loop. Inside of that a shield would be wrong: the
        # scope would take the cancellation for its own and swallow it. Nurseries cancel their scope on
        # the way out, so the same is true of them.
        reached = within = False
        while True:
            observer.runs_since = observer.time()
            observer.just_woke = True
            try:
                wait = resume(outcome)
            except StopIteration:
                return
            if observer.notes_waits:
                observer.about_to_wait()
            if reached and _leaves_nursery():
                self._cleanup.shield = False
            elif self._cleaning:
                self._cleanup.shield = True
            elif reached:
                within = within and self._is_within_cancelled_scope()
                if not within:
                    self.clean_up()
            try:
                outcome = yield wait
                resume = source.send
            except BaseException as exc:  # It's for the source: thrown there.
                resume, outcome = source.throw, exc
            # A cancellation is sent in, as the outcome of the wait.
            if isinstance(getattr(outcome, "error", None), cancelled):
                if self._cleaning:
                    self.cut_short |= self._cleanup.cancel_called
                elif self._cancelling.cancel_called:
                    reached, within = True, self._is_within_cancelled_scope()

    def _is_within_cancelled_scope(self) -> bool:
        """Whether the source stands in a cancelled scope of its own; ours are further out."""
        self._cleanup.shield = True
        try:
            return anyio.current_effective_deadline() == -math.inf
        finally:
            self._cleanup.shield = False


def _leaves_nursery() -> bool:
    """Whether the calling task is on its way out of a nursery, or has to be."""
    import trio.lowlevel  # noqa: PLC0415  (see TrioLoop)

    nurseries = trio.lowlevel.current_task().child_nurseries
    return any(nursery.cancel_scope.cancel_called for nursery in nurseries)
