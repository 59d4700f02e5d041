"""The runs of one hub: starts them, joins them, stops them, and ends its own with the lifespan.

It lives in the hub's lifespan, on one loop, and whatever it does is done in tasks of the lifespan: a request that
starts a run leaves nothing of its own behind, and may be cancelled at any time. Calls may come from other loops.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import Future, InvalidStateError
from contextlib import asynccontextmanager, suppress
from contextvars import Context, copy_context
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import anyio

from .._runtime.fork import tell_child
from .._runtime.loop import current_loop
from ..channels._checks import check_function
from ..channels._options import SubscribeOptions
from ..channels._registry import OF_RUNS
from ..channels.channel import Channel, state_of
from ..channels.subscription import Subscription
from ..errors import RunNotFound
from ..event import encode_published
from ..eventlogs._side_tasks import outcome
from ..eventlogs.leases import Leases
from ._entry import RunEntry
from ._ledger import RunLedger
from ._memory import MemoryLeases
from ._options import RunEnd, RunNote, RunStatus, note_of
from ._producer import Producer
from ._rules import LOOK_SECONDS, may_start, status_of
from ._watch import Watch

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import anyio.abc

    from .._runtime.loop import Loop
    from .._wire.values import Serializer
    from ..channels._registry import ChannelRegistry
    from ..event import Event
    from ..eventlogs._replicator import Replicator
    from ..eventlogs.leases import Lease
    from ._options import RunOptions

logger = logging.getLogger("sse_starlette.runs")

T = TypeVar("T")

_NO_POSITION = "none.0"
"""An id of no history: the event log has to be looked at before it's answered."""
_LAST_APPENDS_SECONDS = 2.0
"""How long the end of the lifespan waits for the last events of its runs."""


class _Lifespan:
    """What there is while a lifespan is under way."""

    def __init__(self, tasks: anyio.abc.TaskGroup, ledger: RunLedger) -> None:
        self.tasks = tasks
        self.ledger = ledger
        self.loop: Loop = current_loop()
        self.context: Context = copy_context()
        """In which its tasks are started, whoever asks for them."""
        self.entries: dict[str, RunEntry] = {}
        self.producers: set[Producer] = set()
        """Those that are here, until their sources are closed."""
        self._asked: deque[tuple[Future[Any], Callable[[], Awaitable[Any]]]] = deque()
        self._news = anyio.Event()
        self._over = False

    async def answer_other_loops(self) -> None:
        """Start a task for each call that comes from another loop, until cancelled."""
        while True:
            while self._asked:
                self.start_soon(_settle, *self._asked.popleft())
            self._news = anyio.Event()
            await self._news.wait()

    def end(self) -> None:
        """Refuse the calls that have no task yet, and all that come."""
        self._over = True
        while self._asked:
            future, _ = self._asked.popleft()
            _refuse(future)

    def ask(self, future: Future[T], call: Callable[[], Awaitable[T]]) -> None:
        """Have `call` made; on the loop, but in no task of it, where anyio starts none."""
        if self._over:
            _refuse(future)
        else:
            self._asked.append((future, call))
            self._news.set()

    def start_soon(self, call: Callable[..., Coroutine[Any, Any, object]], *args: Any) -> None:
        """Start a task of the lifespan."""
        self.context.copy().run(partial(self.tasks.start_soon, call, *args))


class RunKeeper:
    """The runs of one hub, as far as this process knows of them."""

    def __init__(
        self,
        registry: ChannelRegistry,
        replicator: Replicator | None,
        serializer: Serializer | None,
    ) -> None:
        """Know of none yet; the arguments are the hub's."""
        self._registry = registry
        self._replicator = replicator
        self._encode: Callable[[Event], bytes] = partial(encode_published, serializer=serializer)
        self._memory = MemoryLeases(self._channel_of)
        self._lifespan: _Lifespan | None = None
        tell_child(self)

    def after_fork(self) -> None:
        """Begin anew in the child of a fork, as if the lifespan had never been entered."""
        self._lifespan = None
        self._memory = MemoryLeases(self._channel_of)

    # Any task may call these.

    async def start(
        self, key: str, source: Callable[[], Any], options: RunOptions
    ) -> tuple[RunEntry, bool]:
        """Start the run of this key, or join it; say whether it was started."""
        _check_run_key(key)
        check_function("source", source, "", may_wait=True, limit=0)
        note = note_of(options, self._encode)
        return await self._in_lifespan(partial(self._start, key, source, options, note))

    async def find(self, key: str) -> RunEntry | None:
        """The run of this key, wherever it's made; None: there's none."""
        _check_run_key(key)
        return await self._in_lifespan(partial(self._find, key))

    async def status(self, entry: RunEntry) -> RunStatus:
        """How a run stands; see `Run.status`."""
        return await self._in_lifespan(partial(self._status, entry))

    async def stop(self, entry: RunEntry) -> RunStatus:
        """Stop a run, wherever it's made; see `Run.stop`."""
        return await self._in_lifespan(partial(self._stop, entry))

    async def _in_lifespan(self, call: Callable[[_Lifespan], Awaitable[T]]) -> T:
        """Have `call` made in a task of the lifespan: it goes on if the caller is cancelled."""
        self._leases()
        lifespan = self._lifespan
        if lifespan is None:
            if self._replicator is not None:
                self._replicator.must_run()
            raise RuntimeError(
                "a run belongs to the lifespan of its hub, which isn't under way: give it to the application, "
                "Starlette(lifespan=hub.lifespan), or use it within `async with hub.lifespan():`."
            )
        future: Future[T] = Future()
        made = partial(call, lifespan)
        if current_loop().key is lifespan.loop.key:
            lifespan.start_soon(_settle, future, made)
        else:
            lifespan.loop.call_soon_threadsafe(partial(lifespan.ask, future, made))
        return await outcome(future)

    def _leases(self) -> Leases:
        if self._replicator is None:
            return self._memory
        backend = self._replicator.backend
        if not isinstance(backend, Leases):
            raise TypeError(
                f"the event log of this hub, a {type(backend).__name__}, keeps no leases, so two processes could "
                "make the same run: use redis:// or sqlite://, or have it implement "
                "sse_starlette.eventlogs.leases.Leases."
            )
        return backend

    def _channel_of(self, name: str, note: RunNote) -> Channel:
        options = note.channel_options
        if self._replicator is None:
            options["linger"] = 0.0  # It's kept as long as its lease.
        return self._registry.channel(name, options)

    # What follows happens on the loop of the lifespan.

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        """Keep runs for the time of the block; those that are made here end with it."""
        if self._lifespan is not None:
            raise RuntimeError("the hub's lifespan is under way: it can be entered again after it")
        failure: Exception | None = None
        wait = 0.0 if self._replicator is None else self._replicator.options.publish_wait
        async with anyio.create_task_group() as tasks:
            lifespan = None
            if self._replicator is None or isinstance(self._replicator.backend, Leases):
                lifespan = _Lifespan(tasks, RunLedger(self._leases(), wait))
                watch = Watch(lifespan.entries, lifespan.ledger, lifespan)
                lifespan.start_soon(watch.run)
                lifespan.start_soon(lifespan.answer_other_loops)
                if self._replicator is None:
                    lifespan.start_soon(self._memory.sweep_now_and_then)
            self._lifespan = lifespan
            try:
                yield
                await _let_finish(lifespan)
            except Exception as exc:
                failure = exc  # Not one of a group, as it would be if it left the task group.
            finally:
                with anyio.CancelScope(shield=True):
                    await _end_all(lifespan)
                # One that was copied by a fork ends when it's thrown away; another may be under way.
                if self._lifespan is lifespan:
                    self._lifespan = None
                if lifespan is not None:
                    lifespan.end()
                tasks.cancel_scope.cancel()
        if failure is not None:
            raise failure

    def _entry(self, lifespan: _Lifespan, key: str, note: RunNote) -> RunEntry:
        entry = lifespan.entries.get(key)
        if entry is None or entry.note != note:
            entry = RunEntry(key, self._channel_of(OF_RUNS + key, note), note)
            lifespan.entries[key] = entry
        entry.touch()
        return entry

    async def _start(
        self,
        key: str,
        source: Callable[[], Any],
        options: RunOptions,
        note: RunNote,
        lifespan: _Lifespan,
    ) -> tuple[RunEntry, bool]:
        while True:
            lease = await lifespan.ledger.look(OF_RUNS + key)
            if lease is not None and not may_start(lease, options.restart):
                found = RunNote.decode(lease.note)
                _check_same(key, found, note)
                entry = self._entry(lifespan, key, found)
                await self._bring(entry, lease, lifespan)
                if RunStatus.LOST in options.restart and not entry.ended:
                    entry.restarter = partial(self._take, lifespan, key, source, options, note)
                return entry, False
            started = await self._take(lifespan, key, source, options, note, lease)
            if started is not None:
                return started, True

    async def _take(
        self,
        lifespan: _Lifespan,
        key: str,
        source: Callable[[], Any],
        options: RunOptions,
        note: RunNote,
        seen: Lease | None,
    ) -> RunEntry | None:
        """Take the lease as it was seen, and start the producer; None: somebody else was faster."""
        entry = self._entry(
            lifespan, key, note
        )  # If it can't have these options, nothing is changed.
        taken = await lifespan.ledger.take(entry.name, seen, note, anew=seen is not None)
        if taken is None:
            return None
        entry = self._entry(
            lifespan, key, note
        )  # That took its time, and it may have been forgotten.
        await self._bring(entry, taken, lifespan)
        entry.restarter, entry.sighting = None, None
        entry.producer = producer = Producer(
            state_of(entry.channel), taken, lifespan.ledger.leases, source, options, note
        )
        lifespan.producers.add(producer)
        lifespan.start_soon(self._produce, entry, producer, lifespan)
        return entry

    async def _produce(self, entry: RunEntry, producer: Producer, lifespan: _Lifespan) -> None:
        try:
            await producer.run(current_loop())
        except Exception:
            # Whatever it was, the lifespan goes on, and the watch tells the clients.
            logger.exception(
                "the producer of run %r has failed",
                entry.key,
                extra={"sse_event": "run_failed", "sse_run": entry.key},
            )
        finally:
            lifespan.producers.discard(producer)
            if entry.producer is producer:
                entry.producer = None
            entry.touch()

    async def _find(self, key: str, lifespan: _Lifespan) -> RunEntry | None:
        lease = await lifespan.ledger.look(OF_RUNS + key)
        if lease is None:
            return None
        entry = self._entry(lifespan, key, RunNote.decode(lease.note))
        await self._bring(entry, lease, lifespan)
        return entry

    async def _bring(self, entry: RunEntry, lease: Lease, lifespan: _Lifespan) -> None:
        """Have this process know the history that the lease is of; of one that has ended, its end, too."""
        state = state_of(entry.channel)
        known, entry.token, entry.ended = entry.token, lease.token, bool(lease.closed_by)
        if self._replicator is None:
            return
        # What it has may be of the history before. Who has all of one that has ended is answered with 204.
        if entry.ended or (state.epoch and known != lease.token):
            with anyio.move_on_after(lifespan.ledger.wait):
                async with Subscription([state], _NO_POSITION, SubscribeOptions()) as look:
                    await anext(look)

    async def _status(self, entry: RunEntry, lifespan: _Lifespan) -> RunStatus:
        while True:
            lease = await lifespan.ledger.look(entry.name)
            if lease is None:
                raise RunNotFound(entry.key)
            known = lifespan.entries.setdefault(entry.key, entry)
            known.touch()
            status = status_of(lease)
            if status is not RunStatus.RUNNING or known.made_here or lease.age < entry.note.lease:
                return status
            # It looks dead, which has to be watched for a while.
            await anyio.sleep(LOOK_SECONDS)

    async def _stop(self, entry: RunEntry, lifespan: _Lifespan) -> RunStatus:
        while True:
            lease = await lifespan.ledger.look(entry.name)
            if lease is None:
                raise RunNotFound(entry.key)
            status = status_of(lease)
            if status is not RunStatus.RUNNING:
                return status
            known = lifespan.entries.get(entry.key)
            if known is not None and known.producer is not None and known.made_here:
                known.producer.end(RunEnd(RunStatus.STOPPED, "stop"))
                # If that can't be appended, the next look says why.
                with anyio.move_on_after(max(LOOK_SECONDS, lifespan.ledger.wait)):
                    await known.producer.over.wait()
            else:
                await lifespan.ledger.end_for_another(
                    entry.name, lease, entry.note, RunStatus.STOPPED, renewed=True
                )


async def _settle(future: Future[T], call: Callable[[], Awaitable[T]]) -> None:
    """Tell `future` what becomes of `call`; whoever asked may have gone."""
    tell: Callable[[], None] = partial(_refuse, future)
    try:
        tell = partial(future.set_result, await call())
    except Exception as exc:
        tell = partial(future.set_exception, exc)
    finally:
        with suppress(InvalidStateError):
            tell()


def _refuse(future: Future[Any]) -> None:
    with suppress(InvalidStateError):
        future.set_exception(RuntimeError("the hub's lifespan has ended meanwhile"))


def _producers(lifespan: _Lifespan | None) -> list[Producer]:
    return [] if lifespan is None else list(lifespan.producers)


async def _let_finish(lifespan: _Lifespan | None) -> None:
    """Wait for the runs that may go on for a while."""
    began = time.monotonic()
    for producer in _producers(lifespan):
        with anyio.move_on_after(producer.options.shutdown_grace - (time.monotonic() - began)):
            await producer.over.wait()


async def _end_all(lifespan: _Lifespan | None) -> None:
    """End the runs that are made here, so that clients elsewhere are told at once."""
    producers = _producers(lifespan)
    for producer in producers:
        producer.end(RunEnd(RunStatus.LOST, "shutdown"))
        producer.release()
    with anyio.move_on_after(_LAST_APPENDS_SECONDS):
        for producer in producers:
            await producer.over.wait()
    for producer in producers:
        producer.give_up()
    for producer in producers:
        await producer.closed.wait()


def _check_run_key(key: object) -> None:
    """Make sure that `key` may name a run."""
    if not isinstance(key, str):
        raise TypeError(f"the key of a run must be a str, got: {key!r} ({type(key).__name__})")
    if not key:
        raise ValueError(
            "the key of a run is empty: give it the id of the message, say, that it makes."
        )


def _check_same(key: str, found: RunNote, given: RunNote) -> None:
    """Make sure that who joins a run has given the options that it has."""
    for option in ("ttl", "on_abandon", "max_events", "max_bytes", "lease"):
        has, wants = getattr(found, option), getattr(given, option)
        if has != wants:
            raise ValueError(
                f"run {key!r} has {option}={has!r} already, so it can't get {option}={wants!r}: give the same "
                "options wherever it may be started, or join it with `await hub.find_run(key)`."
            )
