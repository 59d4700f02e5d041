"""The contract of a log: where the events of channels are kept beyond one process.

A log numbers the events of each channel from 1 without a gap, under an epoch that changes when the
history is lost. Everyone who appends and everyone who follows meets there. A log knows no client, no
frame and no stream; what a change here must keep:

- `append` decides the offset and stores the entry in one step, so offsets have no gap and no double.
- A key that was seen before appends nothing, so an attempt whose outcome is unknown can be repeated.
- The epoch exists from the first look on, not from the first entry on: who waits for the first entry
  is told the position it comes after.
- Once `Listener.subscribed` has been called for a channel, each entry appended since is received, in order,
  or `Listener.lost` is called.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, ClassVar, NamedTuple, Protocol

from ..errors import LogUnavailable

if TYPE_CHECKING:
    from collections.abc import Sequence


_EPOCH = re.compile(r"[0-9A-Za-z_]{1,64}")


def checked_epoch(found: bytes) -> str:
    """The epoch that a log has stored; ValueError if it can't be part of an id."""
    epoch = found.decode()
    if not _EPOCH.fullmatch(epoch):
        raise ValueError("its epoch can't be part of an id")
    return epoch


class Position(NamedTuple):
    """A place in the history of a channel: after the entry of this offset; 0 is before the first."""

    epoch: str
    offset: int


class Entry(NamedTuple):
    """One event in the log."""

    offset: int
    key: str
    """What it was appended with: tells a history that was written anew from the one before."""
    body: bytes
    """A frame without its id; empty: the channel was closed here, nothing follows."""


class NewEntry(NamedTuple):
    """What is to be appended."""

    body: bytes
    """A frame without its id; empty closes the channel."""
    key: str
    """An entry with the same key, appended within `key_seconds`, is not appended again."""
    key_seconds: float
    """How long the key is remembered."""
    writer: str = ""
    """Who appends it, if nobody else knows its key; then `turn` is enough to recognize it by."""
    turn: int = 0
    """Grows from entry to entry of a writer, in the order in which they are appended to a channel. What
    isn't greater than the last that was appended has been appended before."""


class Page(NamedTuple):
    """What a look into the log has found."""

    epoch: str
    head: int
    """The offset of the newest entry, whether it's still kept or not; 0 before the first."""
    closed: bool
    """Whether the newest entry is the one that closed the channel."""
    entries: list[Entry]
    """In order and without a gap. The first may be later than asked for: then what was asked for is
    no longer kept."""


class ChannelFigures(NamedTuple):
    """What a log has of a channel."""

    channel: str
    epoch: str
    head: int
    """The offset of the newest entry; 0 before the first."""
    closed: bool
    """Whether the channel has been closed."""
    kept: int
    """Entries that are stored; some may be too old to be read."""
    kept_bytes: int
    """Bytes that their bodies take, as far as the log knows."""


class Beginning(NamedTuple):
    """Where the entries begin that were appended since a time."""

    epoch: str
    offset: int
    """They come after this one."""
    complete: bool
    """Whether all of them are still kept. If all that is kept is so new, that isn't known."""


def last_stretch(entries: list[Entry]) -> list[Entry]:
    """What comes after the last gap. There is none, unless somebody else has taken entries out."""
    for index in range(len(entries) - 1, 0, -1):
        if entries[index - 1].offset + 1 != entries[index].offset:
            return entries[index:]
    return entries


DEFAULT_EVENTS = 1_000
DEFAULT_BYTES = 16 * 1024 * 1024
DEFAULT_EXPIRE = 86_400.0


class Limits(NamedTuple):
    """
    How much of a channel is kept, and for how long.

    None: nobody has said so here. What somebody has said is kept with the channel, and counts for all
    who say nothing; where nobody has, the defaults do.
    """

    events: int | None = None
    """Entries that can be read at the least, as long as the others allow it; at least 1. Default: 1,000."""
    seconds: float | None = None
    """Age at which an entry may no longer be read. Default: any."""
    expire: float | None = None
    """Seconds after which a channel that nobody has appended to or looked at is forgotten. Default: a day."""
    bytes: int | None = None
    """Bytes that the bodies may take together; the newest is kept in any case. Default: 16 MiB."""


class Listener(Protocol):
    """Who follows the log; called on the loop that runs `Backend.listen`. None of these waits."""

    def subscribed(self, channel: str) -> None:
        """From now on everything appended to `channel` is received. Comes anew after each `lost`."""

    def received(self, channel: str, epoch: str, entry: Entry) -> None:
        """Something was appended to `channel`. May come twice, and before `subscribed`."""

    def notified(self, channel: str) -> None:
        """Something was appended to `channel`, but it has to be read from the log."""

    def lost(self, error: Exception) -> None:
        """Nothing is received until `subscribed` comes again for each channel that is watched."""


class BlockingAppender(Protocol):
    """A way to append without an event loop; any thread may use it."""

    def append(self, channel: str, entry: NewEntry, limits: Limits) -> Position:
        """Do what `Backend.append` does, and block meanwhile."""

    def close(self) -> None:
        """Give back what it holds."""


class Backend(ABC):
    """
    A log of many channels, reached from one process.

    Whatever waits may be cancelled, and raises `LogUnavailable` when the log can't be reached or
    doesn't answer in time, and `LogRefused` when only an operator can mend what is wrong, with the
    channel if others are not concerned. All of it is called on the loop in which `open` was entered, `watch` and
    `unwatch` too.
    """

    @abstractmethod
    def open(self) -> AbstractAsyncContextManager[None]:
        """
        Hold what the process needs to reach the log; given back at the end.

        It doesn't fail when the log is out of reach: `listen` says so, and goes on trying.
        """

    @abstractmethod
    async def append(
        self, channel: str, body: bytes, *, key: str, key_seconds: float, limits: Limits
    ) -> Position:
        """
        Add an entry and return its position.

        Args:
            channel: the name of the channel.
            body: a frame without its id; empty closes the channel.
            key: an entry appended with the same key within `key_seconds` is not appended again, and
                its position is returned.
            key_seconds: how long `key` is remembered.
            limits: what is kept from now on.

        Raises:
            ChannelClosed: the channel has been closed (and `key` is a new one).
            LogUnavailable: nobody knows whether the entry was added. Repeat it with the same key.
        """

    async def append_many(
        self, channel: str, entries: Sequence[NewEntry], *, limits: Limits
    ) -> Sequence[Position | Exception]:
        """
        Add entries in this order; return what `append` would have returned or raised for each.

        One call at a time for a channel. An entry is not added if one before it failed because the log
        was out of reach. This here adds one after the other; a log that can do better, does.
        """
        outcomes: list[Position | Exception] = []
        for entry in entries:
            try:
                position = await self.append(
                    channel,
                    entry.body,
                    key=entry.key,
                    key_seconds=entry.key_seconds,
                    limits=limits,
                )
            except LogUnavailable as error:
                return outcomes + [error] * (len(entries) - len(outcomes))
            except Exception as error:
                outcomes.append(error)
            else:
                outcomes.append(position)
        return outcomes

    @abstractmethod
    async def read(
        self, channel: str, *, after: int, until: int | None, limit: int, limits: Limits
    ) -> Page:
        """
        Look into the log; the channel gets its epoch with the first look.

        Args:
            channel: the name of the channel.
            after: the offset after which to read.
            until: the last offset wanted; None: the newest.
            limit: entries that are returned at the most; 0: none, for the head alone.
            limits: as for `append`.
        """

    keeps_times: ClassVar[bool] = False
    """Whether `seek` can be asked."""

    async def seek(  # a log without times refuses whatever it's asked
        self,
        channel: str,  # noqa: ARG002
        *,
        age: float,  # noqa: ARG002
        limits: Limits,  # noqa: ARG002
    ) -> Beginning:
        """
        Find where the entries begin that are no older than `age`, without reading all of them.

        The clock is that of the log. A log that has `keeps_times` has this.

        Args:
            channel: the name of the channel; it gets its epoch, as with `read`.
            age: seconds; less than 0: none is so young.
            limits: as for `append`.
        """
        raise TypeError(f"{type(self).__name__} keeps no times that can be asked for")

    @abstractmethod
    async def heads(self, channels: Sequence[str], *, expire: float | None) -> dict[str, Position]:
        """Where `channels` are, those of them that the log knows; they count as looked at."""

    async def figures(self, channels: Sequence[str] | None = None) -> list[ChannelFigures]:  # noqa: ARG002
        """
        Look on: what the log has of `channels`, or of all it knows, in the order of their names.

        Unlike all other looks it makes nothing, renews nothing and has no channel live longer. It takes
        time for each channel there is: for people, not for applications.
        """
        raise TypeError(f"{type(self).__name__} doesn't tell which channels it has")

    @abstractmethod
    async def renew(self, channel: str, epoch: str) -> None:
        """
        Forget the history of `channel` if it's still that of `epoch`: it has been told falsely.

        Keys that were seen are remembered nevertheless: those who listened have had these events.
        """

    @abstractmethod
    async def listen(self, listener: Listener) -> None:
        """
        Tell `listener` of what is appended to the channels that are watched, until cancelled.

        A lost connection is made again, for as long as it takes.
        """

    @abstractmethod
    def watch(self, channel: str) -> None:
        """Listen to `channel` too; `subscribed` follows. Watched twice is watched once."""

    @abstractmethod
    def unwatch(self, channel: str) -> None:
        """Don't listen to `channel` any more."""

    @abstractmethod
    async def check(self) -> None:
        """Return if all that is done with the log can be done now."""

    def blocking(self) -> BlockingAppender:
        """Return a way to append without an event loop; `open` need not be entered."""
        raise TypeError(f"{type(self).__name__} can't be published to without an event loop")

    def after_fork(self) -> None:  # noqa: B027  (most have nothing of the kind)
        """
        Begin anew, for this process is the child of one that was forked, perhaps while it was open.

        Called in the child, on no loop. What the parent has open must not be used, nor closed, for it
        may be closed there, too. `open` may be entered again.
        """


class BatchingBackend(Backend):
    """A log that adds several entries as easily as one: `append_many` is what it has to be given."""

    async def append(
        self, channel: str, body: bytes, *, key: str, key_seconds: float, limits: Limits
    ) -> Position:
        entry = NewEntry(body, key, key_seconds)
        (outcome,) = await self.append_many(channel, [entry], limits=limits)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    @abstractmethod
    async def append_many(
        self, channel: str, entries: Sequence[NewEntry], *, limits: Limits
    ) -> Sequence[Position | Exception]:
        """Add entries in this order; see `Backend.append_many`."""
