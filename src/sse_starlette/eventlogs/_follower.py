"""Keeps the channels of a hub in step with their log, and brings to the log what is published.

It lives in the hub's lifespan, on one loop; what any thread may call says so. What a change here must
keep:

- Nothing is handed to a channel but the entry after its head, of its epoch. Whatever else is heard
  only leads to a look into the log.
- One look at a time for a channel, whoever asks and however many.
- An entry is handed over in the stretch in which it was heard or read: no await comes between.
- A history that differs from what a channel has handed out is never carried on: it's given a new epoch.
- No task is started in the context of whoever asks. A request leaves none behind.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from concurrent.futures import Future, InvalidStateError
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Protocol, TypeVar

import anyio

from .._runtime.fork import tell_child
from .._runtime.lock import Lock
from .._runtime.loop import current_loop
from ..errors import ChannelClosed, LogRefused, LogUnavailable
from ._faults import Faults
from ._publish_queue import Job, PublishQueues

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping

    import anyio.abc

    from .._runtime.loop import Loop
    from ._publish_queue import Errand
    from .base import Backend, Beginning, Entry, Limits, Page, Position

logger = logging.getLogger("sse_starlette.hub")

T = TypeVar("T")

_PAGE = 500
"""Entries that are read at a time."""
_MOST_LOOKS = 8
"""Channels that are read at a time."""
_CHECKED_AT_A_TIME = 1_000
_SWEEP_SECONDS = 1.0
_FIRST_PAUSE_SECONDS = 0.05
_LONGEST_PAUSE_SECONDS = 2.0
_PARTS = 8
"""In how many the time is counted within which the log has to answer."""
_LATE_SECONDS = 0.02
"""How late the loop may be at the least, for a part to count."""
_LAST_JOBS_SECONDS = 2.0
"""How long the end of the lifespan waits for what is still to be appended."""


class Followed(Protocol):
    """What is kept in step: a channel."""

    name: str
    limits: Limits

    @property
    def epoch(self) -> str:
        """The history that the channel knows; empty: none yet."""

    @property
    def head(self) -> int:
        """The offset of the newest entry that it knows."""

    @property
    def asked(self) -> int:
        """How often somebody has wanted a look into the log; compare with what was `answered`."""

    @property
    def answered(self) -> int:
        """How many of these have had it."""

    def appends(self, append: object) -> None:
        """Take note that this process is about to add something; `append` stands for it."""

    def appended(
        self, append: object, position: Position | None, *, doubt: str | None = None
    ) -> None:
        """Take note of where that is; None: it failed, and may have been added with the key `doubt`."""

    def doubtful(self) -> tuple[int, dict[object, str]] | None:
        """Return the head that the channel began with, and what may have been added before, with its keys."""

    def cleared(self, appends: Mapping[object, str], entries: list[Entry]) -> None:
        """Take note of which of these are among the entries before that head."""

    def answer(self, asked: int) -> None:
        """Let those go on who had asked by then."""

    def begin_anew(self, epoch: str, head: int, *, closed: bool) -> None:
        """Go on with another history."""

    def emit(self, entries: list[Entry]) -> None:
        """Take the entries that come after the head."""

    def skip(self, to: int) -> None:
        """Go on after `to`; what comes before it can't be had."""

    def wanted(self) -> tuple[int, int] | None:
        """Return the stretch before what the channel has that somebody waits for: after, up to."""

    def sought(self) -> float | None:
        """Return a time, on the monotonic clock, at which somebody wants to begin."""

    def sought_is(self, when: float, found: Beginning) -> None:
        """Take where that is."""

    def fill(self, entries: list[Entry], after: int, upto: int) -> None:
        """Take what the log has between these two."""

    def look(self) -> None:
        """Have all subscriptions look."""

    def let_go_if_idle(self) -> bool:
        """Forget everything if nobody listens any more; say so."""

    def let_go(self) -> None:
        """Forget everything; those who listen end."""


@dataclass(eq=False)
class _Track:
    """A channel, and what is known of how it stands to the log."""

    channel: Followed
    joined: bool = False
    behind: bool = True
    """What the log has may be something else; until that's known, nothing that is heard is believed."""
    again: bool = False
    """There's news since the look that is under way."""
    due: bool = False
    """A worker has it, or will."""
    key: str | None = None
    """That of the entry at the channel's head, if it's known."""
    heard: deque[tuple[str, Entry]] = field(default_factory=lambda: deque(maxlen=_PAGE))
    """What was heard while it was behind."""


class Follower:
    """What a hub has of its log: a `Listener`, and the way for what is published."""

    def __init__(
        self, backend: Backend, *, publish_wait: float, expire: float | None, check_every: float
    ) -> None:
        """
        Do nothing yet.

        Args:
            backend: the log.
            publish_wait: seconds for which publishing is tried again, where nothing else is said.
            expire: seconds after which the log may forget a channel that nobody uses; None: nobody
                has said.
            check_every: seconds between two looks at where the channels are.
        """
        self.expire = expire
        self.away_since: str | None
        """Since when the log has been out of reach."""
        self.losses: int
        """How often the connection to the log was lost."""
        self.catch_ups: int
        """How often something had to be read from the log because it wasn't heard."""
        self._backend = backend
        self._publish_wait = publish_wait
        self._check_every = check_every
        self._entered_before_fork = False
        self._reset()
        tell_child(self)

    def _reset(self) -> None:
        self.away_since = None
        self.losses = self.catch_ups = 0
        self._loop: Loop | None = None
        self._run: object = None
        """Stands for the lifespan that is under way."""
        self._sent_on = anyio.Event()
        self._errands: deque[Errand] = deque()
        self._tracks: dict[str, _Track] = {}
        self._due: deque[_Track] = deque()
        self._workers = 0
        self._failed: list[_Track] = []
        self._pause = _FIRST_PAUSE_SECONDS
        # Held for moments, and never across an await.
        self._lock = Lock()
        self._entered = False
        self._faults = Faults()
        self._queues = PublishQueues(self._backend, self._faults, self._run_soon)

    # Any thread may call these.

    @property
    def running(self) -> bool:
        """Whether the hub's lifespan is under way."""
        return self._loop is not None

    def must_run(self) -> Loop:
        """Return the loop of the lifespan; raise RuntimeError outside of one."""
        if self._loop is None:
            if self._entered_before_fork:
                raise RuntimeError(
                    "the hub's lifespan was entered before this process was forked, and goes on in its "
                    "parent alone: enter it here too, `async with hub.lifespan():`, or fork first."
                )
            raise RuntimeError(
                "the hub isn't connected to its log: give its lifespan to the application, "
                "Starlette(lifespan=hub.lifespan), or use it within `async with hub.lifespan():`."
            )
        return self._loop

    def after_fork(self) -> None:
        """Begin anew in the child of a fork, as if the lifespan had never been entered."""
        self._entered_before_fork = self._loop is not None
        self._reset()
        self._backend.after_fork()

    @property
    def backend(self) -> Backend:
        """The log."""
        return self._backend

    @property
    def publish_wait(self) -> float:
        """Seconds for which publishing is tried again, where nothing else is said."""
        return self._publish_wait

    @property
    def reason(self) -> str:
        """What is wrong with the log, as far as is known; empty: nothing."""
        if self._loop is None:
            return "the hub's lifespan isn't under way"
        return self._faults.reason

    def tend(self, channel: Followed) -> None:
        """See soon what `channel` needs of the log; from now on it's kept in step."""
        self._call(partial(self._tend, channel))

    async def publish(
        self, channel: Followed, body: bytes, key: str | None, wait: float | None
    ) -> str:
        """Append `body` and return its id; see `Channel.publish`."""
        loop = self.must_run()
        job = self._job(channel, body, key, wait)
        if current_loop().key is loop.key:
            return await self._queues.publish(job)
        try:
            return await _outcome(self._queues.put(job))
        except BaseException:
            job.given_up = True
            raise

    def publish_in_line(
        self, channel: Followed, body: bytes, key: str | None = None, wait: float | None = None
    ) -> Future[str]:
        """Append `body` after all that is being appended to `channel`; an empty one closes it."""
        self.must_run()
        return self._queues.put(self._job(channel, body, key, wait))

    def _job(self, channel: Followed, body: bytes, key: str | None, wait: float | None) -> Job:
        if wait is None:
            wait = self._publish_wait
        return Job(channel, body, key, wait, time.monotonic() + wait)

    async def close(self, channel: Followed, wait: float | None) -> None:
        """Append the entry that closes `channel`, in line, and wait for it."""
        try:
            await _outcome(self.publish_in_line(channel, b"", None, wait))
        except ChannelClosed:
            pass

    async def look_up(self, channel: Followed, *, after: int, upto: int | None, most: int) -> Page:
        """Read from the log on behalf of who isn't subscribed; see `Backend.read`."""
        loop = self.must_run()
        read = partial(
            self._backend.read,
            channel.name,
            after=after,
            upto=upto,
            most=most,
            limits=channel.limits,
        )
        if current_loop().key is loop.key:
            return await read()
        future: Future[Page] = Future()
        self._call(partial(self._send_on, partial(_settle, future, read)))
        return await _outcome(future)

    async def ready(self, timeout: float) -> bool:  # noqa: ASYNC109  (a question that has an answer in any case)
        """Whether the log is being listened to, and answers within `timeout` seconds."""
        loop = self._loop
        if loop is None:
            return False
        ready = False
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_give_up, tasks.cancel_scope, timeout)
            if current_loop().key is loop.key:
                ready = await self._answers()
            else:
                future: Future[bool] = Future()
                self._call(partial(self._send_on, partial(_settle, future, self._answers)))
                ready = await _outcome(future)
            tasks.cancel_scope.cancel()
        return ready

    # What follows happens on the loop of the lifespan.

    @asynccontextmanager
    async def run(self, sweep: Callable[[], None]) -> AsyncIterator[None]:
        """
        Be connected for the time of the block.

        Args:
            sweep: called about once a second.
        """
        with self._lock:
            # Set before the first await: two threads, or two tasks, may come at the same moment.
            if self._entered:
                raise RuntimeError(
                    "the hub's lifespan is under way: it can be entered again after it"
                )
            self._entered = True
        failure: Exception | None = None
        mine = self._queues
        try:
            async with self._backend.open(), anyio.create_task_group() as tasks:
                self._loop = current_loop()
                self._run = run = object()
                self._entered_before_fork = False
                self._queues.begin()
                for keeper in (self._listen, self._check_now_and_then):
                    tasks.start_soon(keeper)
                tasks.start_soon(self._sweep_now_and_then, sweep)
                tasks.start_soon(self._dispatch, tasks)
                try:
                    yield
                    with anyio.move_on_after(_LAST_JOBS_SECONDS):
                        await self._queues.empty()
                except Exception as exc:
                    failure = exc  # Not one of a group, as it would be if it left the task group.
                finally:
                    # A run that was copied by a fork ends when it's thrown away; another one may be
                    # under way.
                    if self._run is run:
                        self._end()
                    tasks.cancel_scope.cancel()
        finally:
            if self._queues is mine:
                self._entered = False
        if failure is not None:
            raise failure

    def joined(self, channel: str) -> None:
        if self.away_since is not None:
            self._say_away(None)
        self._faults.mended("listen")
        track = self._tracks.get(channel)
        if track is not None:
            track.joined = True
            self._look_into_log(track)

    def heard(self, channel: str, epoch: str, entry: Entry) -> None:
        track = self._tracks.get(channel)
        if track is not None:
            if track.behind:
                track.heard.append((epoch, entry))
            else:
                self._take_heard(track, epoch, entry)

    def stirred(self, channel: str) -> None:
        track = self._tracks.get(channel)
        if track is not None:
            self._look_into_log(track)

    def lost(self, error: Exception) -> None:
        for track in self._tracks.values():
            track.joined = False
            track.behind = True
            track.heard.clear()
        self._faults.note("listen", error)
        if self.away_since is None:
            self.losses += 1
            if isinstance(error, LogUnavailable) and not isinstance(error, LogRefused):
                logger.warning("the log is out of reach: %s", error.reason)
            self._say_away(datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"))

    def sweep(self) -> None:
        """Let go of the channels that nobody listens to any more."""
        for name, track in list(self._tracks.items()):
            if track.channel.let_go_if_idle():
                del self._tracks[name]
                self._backend.unwatch(name)

    async def check_positions(self) -> None:
        """Look where the channels are: a connection may have died without a word."""
        if self.away_since is not None:
            await self._answers()
        self._faults.remind()
        tracks = [track for track in self._tracks.values() if track.joined and track.channel.epoch]
        for start in range(0, len(tracks), _CHECKED_AT_A_TIME):
            stretch = tracks[start : start + _CHECKED_AT_A_TIME]
            heads = [track.channel.head for track in stretch]
            try:
                positions = await self._backend.heads(
                    [track.channel.name for track in stretch], expire=self.expire
                )
            except LogUnavailable as exc:
                self._faults.note("positions", exc)
                return  # There is a next time.
            # Not a word on what else `ready` has tried.
            self._faults.mended("positions")
            for track, head in zip(stretch, heads, strict=True):
                found = positions.get(track.channel.name)
                if (
                    found is None
                    or found.epoch != track.channel.epoch
                    or not head <= found.offset <= track.channel.head
                ):
                    self._look_into_log(track)

    def _call(self, call: Callable[[], object]) -> None:
        loop = self._loop
        if loop is not None:
            if loop.is_current():
                call()
            else:
                loop.knock(call)

    def _send_on(self, errand: Errand) -> None:
        """Have `errand` run in a task of the lifespan."""
        self._errands.append(errand)
        self._sent_on.set()

    def _run_soon(self, errand: Errand) -> None:
        """Do what `_send_on` does, from any thread; RuntimeError if the loop has been closed."""
        self._call(partial(self._send_on, errand))

    async def _dispatch(self, tasks: anyio.abc.TaskGroup) -> None:
        while True:
            self._sent_on = anyio.Event()
            while self._errands:
                tasks.start_soon(self._do, self._errands.popleft())
            await self._sent_on.wait()

    async def _do(self, errand: Errand) -> None:
        try:
            await errand()
        except Exception as exc:
            # Nobody waits for it, and the lifespan doesn't end because of it.
            self._faults.note("errand", exc)

    def _end(self) -> None:
        self._loop = None
        self._errands.clear()
        self._faults.clear()
        self._due.clear()
        self._failed.clear()
        self._workers = 0
        self.away_since = None
        self._queues.end()
        tracks, self._tracks = self._tracks, {}
        for name, track in tracks.items():
            self._backend.unwatch(name)
            track.channel.let_go()

    async def _listen(self) -> None:
        while True:
            try:
                await self._backend.listen(self)
            except Exception as exc:
                self.lost(exc)
            await anyio.sleep(_LONGEST_PAUSE_SECONDS)

    async def _check_now_and_then(self) -> None:
        while True:
            await anyio.sleep(self._check_every)
            try:
                await self.check_positions()
            except Exception as exc:
                self._faults.note("check", exc)

    async def _sweep_now_and_then(self, sweep: Callable[[], None]) -> None:
        while True:
            await anyio.sleep(_SWEEP_SECONDS)
            try:
                sweep()
                self.sweep()
            except Exception as exc:
                self._faults.note("sweep", exc)
            else:
                self._faults.mended("sweep")

    def _say_away(self, since: str | None) -> None:
        self.away_since = since
        for track in self._tracks.values():
            track.channel.look()

    async def _answers(self) -> bool:
        if self.away_since is not None and self._tracks:
            return False
        try:
            await self._backend.check()
        except Exception as exc:
            self._faults.note("check", exc)
            return False
        for tried in ("check", "positions", "append", "read"):
            self._faults.mended(tried)
        if not self._tracks:
            self.away_since = None  # Nothing is watched, so nothing is joined that would say so.
        return self.away_since is None

    # Reading.

    def _tend(self, channel: Followed) -> None:
        if self._loop is None:
            channel.look()  # The lifespan has ended meanwhile, and nobody else will say so.
            return
        track = self._tracks.get(channel.name)
        if track is None:
            track = self._tracks[channel.name] = _Track(channel)
            self._backend.watch(channel.name)
        self._make_due(track)

    def _look_into_log(self, track: _Track) -> None:
        track.behind = track.again = True
        self._make_due(track)

    def _take_heard(self, track: _Track, epoch: str, entry: Entry) -> None:
        channel = track.channel
        head = channel.head
        if epoch == channel.epoch and entry.offset == head + 1:
            channel.emit([entry])
            track.key = entry.key
        elif (
            epoch != channel.epoch
            or entry.offset > head
            # Another one at the same place: the history has been written anew.
            or (entry.offset == head and track.key not in (None, entry.key))
        ):
            self._look_into_log(track)

    def _make_due(self, track: _Track) -> None:
        if track.due or not track.joined:
            return  # In the end its worker looks again; `joined` makes it due.
        track.due = True
        self._due.append(track)
        if self._workers < _MOST_LOOKS:
            self._workers += 1
            self._send_on(self._work)

    async def _work(self) -> None:
        while self._due:
            track = self._due.popleft()
            try:
                while self._follows(track) and await self._step(track):
                    self._pause = _FIRST_PAUSE_SECONDS
            except Exception as exc:
                self._faults.note("read", exc, track.channel.name)
                self._failed.append(track)
                if len(self._failed) == 1:
                    self._send_on(self._try_again)
            else:
                self._faults.mended("read", track.channel.name)
                track.due = False
        self._workers -= 1

    async def _try_again(self) -> None:
        await anyio.sleep(self._pause)
        self._pause = min(2 * self._pause, _LONGEST_PAUSE_SECONDS)
        failed, self._failed = self._failed, []
        for track in failed:
            track.due = False
            if self._follows(track):
                self._make_due(track)

    def _follows(self, track: _Track) -> bool:
        return track.joined and self._tracks.get(track.channel.name) is track

    async def _step(self, track: _Track) -> bool:
        """Do one thing that the channel needs; say whether there was any."""
        channel = track.channel
        if not channel.epoch:
            await self._attach(track)
        elif track.behind or channel.asked > channel.answered:
            await self._catch_up(track)
        elif (doubtful := channel.doubtful()) is not None:
            await self._clear_up(track, *doubtful)
        elif (when := channel.sought()) is not None:
            await self._seek(track, when)
        elif (stretch := channel.wanted()) is not None:
            await self._fill(track, *stretch)
        else:
            return False
        return True

    async def _attach(self, track: _Track) -> None:
        channel = track.channel
        asked = channel.asked
        page = await self._read(track, after=0, upto=None, most=0)
        if page is not None:
            self._begin_anew(track, page)
            channel.answer(asked)

    def _begin_anew(self, track: _Track, page: Page) -> None:
        track.channel.begin_anew(page.epoch, page.head, closed=page.closed)
        # For what has been added meanwhile, and for the key of the entry at the head.
        track.behind = True
        track.key = None

    async def _catch_up(self, track: _Track) -> None:
        channel = track.channel
        asked, epoch, head = channel.asked, channel.epoch, channel.head
        track.behind = True
        track.again = False
        # The one at the head is read too: is it the one that we know?
        page = await self._read(track, after=max(head - 1, 0), upto=None, most=_PAGE)
        if page is not None and page.epoch == epoch and _written_anew(page, head, track.key):
            logger.warning("the log has lost the newest events of channel %r", channel.name)
            await self._backend.renew(channel.name, epoch)
            return
        while page is not None:
            if page.epoch != epoch:
                self._begin_anew(track, page)
                channel.answer(asked)
                return
            if page.head < head:
                return  # It has been written anew since the first page.
            self._take(track, page)
            head = channel.head
            if head >= page.head:
                channel.answer(asked)
                self._in_step(track)
                return
            page = await self._read(track, after=head, upto=None, most=_PAGE)

    def _take(self, track: _Track, page: Page) -> None:
        channel = track.channel
        head = channel.head
        first = page.entries[0].offset if page.entries else page.head + 1
        entries = [entry for entry in page.entries if entry.offset > head]
        if page.head > head:
            self.catch_ups += 1
            if first > head + 1:
                channel.skip(first - 1)
                track.key = None
        if entries:
            channel.emit(entries)
        if page.entries and page.entries[-1].offset == channel.head:
            track.key = page.entries[-1].key

    def _in_step(self, track: _Track) -> None:
        if track.again:
            return
        track.behind = False
        heard = list(track.heard)
        track.heard.clear()
        for epoch, entry in heard:
            if not track.behind:
                self._take_heard(track, epoch, entry)

    async def _clear_up(self, track: _Track, origin: int, appends: Mapping[object, str]) -> None:
        channel = track.channel
        epoch = channel.epoch
        # Not further back: it was appended while somebody waited for the channel's begin.
        after = max(0, origin - _PAGE)
        page = await self._read(track, after=after, upto=origin, most=_PAGE)
        if page is None:
            return
        if page.epoch != epoch:
            self._look_into_log(track)
        else:
            channel.cleared(appends, page.entries)

    async def _seek(self, track: _Track, when: float) -> None:
        channel = track.channel
        found = await self._backend.seek(
            channel.name, age=time.monotonic() - when, limits=channel.limits
        )
        if found.epoch == channel.epoch:
            channel.sought_is(when, found)
        elif self._tracks.get(channel.name) is track:
            self._look_into_log(track)

    async def _fill(self, track: _Track, after: int, upto: int) -> None:
        channel = track.channel
        epoch = channel.epoch
        after = max(after, upto - _PAGE)
        page = await self._read(track, after=after, upto=upto, most=upto - after)
        if page is None:
            return
        if page.epoch != epoch or page.head < upto:
            self._look_into_log(track)
        else:
            channel.fill(page.entries, after, upto)

    async def _read(self, track: _Track, *, after: int, upto: int | None, most: int) -> Page | None:
        """Read a page; None if the channel has been let go meanwhile."""
        channel = track.channel
        page = await self._backend.read(
            channel.name, after=after, upto=upto, most=most, limits=channel.limits
        )
        return page if self._tracks.get(channel.name) is track else None


def _written_anew(page: Page, head: int, key: str | None) -> bool:
    """Whether the log has something else than what was handed out up to `head`, which ends with `key`."""
    if page.head < head:
        return True
    at_head = page.entries[0] if page.entries else None
    return at_head is not None and at_head.offset == head and key not in (None, at_head.key)


async def _settle(future: Future[T], call: Callable[[], Awaitable[T]]) -> None:
    result = await call()
    with suppress(InvalidStateError):  # Whoever asked may have gone.
        future.set_result(result)


async def _outcome(future: Future[T]) -> T:
    """Wait for what another task, perhaps on another loop, finds."""
    loop = current_loop()
    done = anyio.Event()

    def tell(_: Future[T]) -> None:
        try:
            loop.knock(done.set)
        except RuntimeError:
            pass  # That loop has been closed, so nobody waits.

    future.add_done_callback(tell)
    try:
        await done.wait()
    except BaseException:
        future.cancel()
        raise
    return future.result()


async def _give_up(scope: anyio.CancelScope, seconds: float) -> None:
    """Cancel `scope` after this time, of which only those parts count that the loop was free to look at."""
    left = _PARTS
    while left > 0:
        due = anyio.current_time() + seconds / _PARTS
        await anyio.sleep_until(due)
        if anyio.current_time() - due <= max(seconds / _PARTS, _LATE_SECONDS):
            left -= 1
    scope.cancel()
