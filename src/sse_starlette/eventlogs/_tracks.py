"""The channels that are followed: what the log tells is passed to them, and those that need it are read.

What a change here must keep: one look at a time for a channel, whoever asks and however many; a few for all.
"""

from __future__ import annotations

import logging
from collections import deque
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import anyio

from ..errors import LogRefused, LogUnavailable
from ..observe import tell
from ._track import Figures, Track

if TYPE_CHECKING:
    from collections.abc import Callable

    from ._faults import Faults
    from ._options import LogOptions
    from ._replica import Replica
    from ._side_tasks import TaskFunction
    from .base import Backend, Entry

logger = logging.getLogger("sse_starlette.hub")

_MOST_LOOKS = 8
"""Channels that are read at a time."""
_CHECKED_AT_A_TIME = 1_000


class Tracks:
    """The tracks of all channels of a hub; a `Listener` of the log. On the loop of the lifespan."""

    def __init__(
        self,
        backend: Backend,
        faults: Faults,
        start: Callable[[TaskFunction], None],
        options: LogOptions,
    ) -> None:
        self.figures: Figures = Figures()
        self._backend = backend
        self._faults = faults
        self._start = start
        self._options = options
        self._tracks: dict[str, Track] = {}
        self._due: deque[Track] = deque()
        self._workers = 0
        self._failed: list[Track] = []
        self._pause = self._options.read_pauses[0]

    def ensure_following(self, channel: Replica) -> None:
        """See soon what `channel` needs of the log; from now on it's kept in step."""
        track = self._tracks.get(channel.name)
        if track is None:
            track = Track(
                channel, self._backend, self.figures, self._make_due, page=self._options.page
            )
            self._tracks[channel.name] = track
            self._backend.watch(channel.name)
        self._make_due(track)

    def subscribed(self, channel: str) -> None:
        if self.figures.away_since is not None:
            self._say_away(None)
        self._faults.mended("listen")
        track = self._tracks.get(channel)
        if track is not None:
            track.subscribed = True
            track.refresh()

    def received(self, channel: str, epoch: str, entry: Entry) -> None:
        track = self._tracks.get(channel)
        if track is not None:
            track.receive(epoch, entry)

    def notified(self, channel: str) -> None:
        track = self._tracks.get(channel)
        if track is not None:
            track.refresh()

    def lost(self, error: Exception) -> None:
        for track in self._tracks.values():
            track.lose()
        self._faults.note("listen", error)
        if self.figures.away_since is None:
            self.figures.losses += 1
            if isinstance(error, LogUnavailable) and not isinstance(error, LogRefused):
                logger.warning(
                    "the log is out of reach: %s", error.reason, extra={"sse_event": "log_lost"}
                )
            self._say_away(datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"))
            tell("log_lost", type(self._backend).__name__, getattr(error, "reason", str(error)))

    def sweep(self) -> None:
        """Let go of the channels that nobody listens to any more."""
        for name, track in list(self._tracks.items()):
            if track.channel.release_if_idle():
                del self._tracks[name]
                track.dropped = True
                self._backend.unwatch(name)

    async def check_positions(self) -> None:
        """Look where the channels are: a connection may have died without a word."""
        if self.figures.away_since is not None:
            await self.answers()
        self._faults.remind()
        tracks = [
            track for track in self._tracks.values() if track.subscribed and track.channel.epoch
        ]
        for start in range(0, len(tracks), _CHECKED_AT_A_TIME):
            stretch = tracks[start : start + _CHECKED_AT_A_TIME]
            heads = [track.channel.head for track in stretch]
            try:
                positions = await self._backend.heads(
                    [track.channel.name for track in stretch], expire=self._options.expire
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
                    track.refresh()

    async def answers(self) -> bool:
        """Whether the log is being listened to, and does what is asked of it."""
        if self.figures.away_since is not None and self._tracks:
            return False
        try:
            await self._backend.check()
        except Exception as exc:
            self._faults.note("check", exc)
            return False
        for tried in ("check", "positions", "append", "read"):
            self._faults.mended(tried)
        if not self._tracks and self.figures.away_since is not None:
            # Nothing is watched, so no subscription would say so.
            self._say_away(None)
        return self.figures.away_since is None

    def end(self) -> None:
        """Let go of all channels."""
        self._due.clear()
        self._failed.clear()
        self._workers = 0
        self.figures.away_since = None
        tracks, self._tracks = self._tracks, {}
        for name, track in tracks.items():
            track.dropped = True
            self._backend.unwatch(name)
            track.channel.release()

    def _say_away(self, since: str | None) -> None:
        self.figures.away_since = since
        if since is None:
            tell("log_found", type(self._backend).__name__)
        for track in self._tracks.values():
            track.channel.look()

    def _make_due(self, track: Track) -> None:
        if track.due or not track.subscribed:
            return  # In the end its worker looks again; `subscribed` makes it due.
        track.due = True
        self._due.append(track)
        if self._workers < _MOST_LOOKS:
            self._workers += 1
            self._start(self._work)

    async def _work(self) -> None:
        while self._due:
            track = self._due.popleft()
            try:
                while self._follows(track) and await track.step():
                    self._pause = self._options.read_pauses[0]
            except Exception as exc:
                self._faults.note("read", exc, track.channel.name)
                self._failed.append(track)
                if len(self._failed) == 1:
                    self._start(self._try_again)
            else:
                self._faults.mended("read", track.channel.name)
                track.due = False
        self._workers -= 1

    async def _try_again(self) -> None:
        await anyio.sleep(self._pause)
        self._pause = min(2 * self._pause, self._options.read_pauses[1])
        failed, self._failed = self._failed, []
        for track in failed:
            track.due = False
            if self._follows(track):
                self._make_due(track)

    def _follows(self, track: Track) -> bool:
        return track.subscribed and not track.dropped
