"""The channel as the application holds it: publish once, every subscriber gets it.

All that is for users is here, and nothing else; what the other rooms and the subscriptions need of a channel
is its state (`_state.py`), in memory (`_memory.py`) or on a log (`_replica.py`).
"""

from __future__ import annotations

from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, Generic

from .._arguments import check_key
from .._wire.cursor import last_event_id
from ..eventlogs.base import DEFAULT_BYTES, DEFAULT_EVENTS, Limits
from ._checks import check_count, check_name, check_seconds
from ._memory import MemoryChannel
from ._options import ChannelOptions, Gap, SubscribeOptions, subscribe_options
from ._replica import ReplicatedChannel
from ._stats import ChannelStats
from .subscription import Subscription

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from starlette.requests import HTTPConnection
    from typing_extensions import TypeVar  # Type checkers bring it themselves.

    from .._wire.values import Serializer
    from ..event import ServerSentEvent
    from ..eventlogs._replicator import Replicator
    from ._opening import Events
    from ._options import Preference, Since, Slow, Snapshot
    from ._state import ChannelState

    DataT = TypeVar("DataT", default=Any)
else:
    from typing import TypeVar

    DataT = TypeVar("DataT")

__all__ = [
    "Channel",
    "ChannelStats",
    "Gap",
    "Subscription",
    "last_event_id",
]


class Channel(Generic[DataT]):
    """
    One stream of events with many subscribers; made by `Hub.channel`.

    `Channel[Price]` tells type checkers that it takes a `Price`, or a `ServerSentEvent` with one as data.

    The ids of its events are `epoch.offset`: the offset counts from 1 without a gap, the epoch is
    the channel's own.
    """

    _state: ChannelState

    def __init__(
        self,
        name: str,
        *,
        history: int | None = None,
        history_bytes: int | None = None,
        history_seconds: float | None = None,
        slow: Slow = "disconnect",
        latest_by: Callable[[ServerSentEvent], object] | None = None,
        linger: float = 30.0,
        type: Any = None,  # noqa: A002  (the usual word)
        prefer: Preference = "cpu",
        replicator: Replicator | None = None,
        serializer: Serializer | None = None,
    ) -> None:
        """
        Make a channel that nobody else finds; the arguments are those of `Hub.channel`.

        A hub gives its `serializer`, and its `replicator` if it has a log.
        """
        check_name(name)
        options = ChannelOptions(
            DEFAULT_EVENTS if history is None else history,
            DEFAULT_BYTES if history_bytes is None else history_bytes,
            history_seconds,
            slow,
            latest_by,
            linger,
            type,
            prefer,
        )
        if replicator is None:
            self._state = MemoryChannel(name, options, serializer)
        else:
            # On a log, what nobody has said counts as somebody else has said it.
            limits = Limits(history, history_seconds, replicator.options.expire, history_bytes)
            self._state = ReplicatedChannel(name, options, serializer, replicator, limits)

    def __repr__(self) -> str:
        return f"<Channel {self.name!r} at {self.last_event_id}>"

    @property
    def name(self) -> str:
        """The name that the hub has it by."""
        return self._state.name

    @property
    def closed(self) -> bool:
        """Whether `close` has been called; on a log, by any process, as far as this one knows."""
        return self._state.closed

    @property
    def epoch(self) -> str:
        """
        Names this channel's history; part of its ids.

        On a log it's known while somebody in this process listens to the channel; empty otherwise.
        """
        return self._state.epoch

    @property
    def head(self) -> int:
        """The offset of the newest event; 0 before the first."""
        return self._state.head

    @property
    def last_event_id(self) -> str:
        """
        The id of the newest event, or the one before the first: where a new client begins.

        On a log it's known while somebody in this process listens to the channel; empty otherwise.
        """
        return self._state.last_event_id

    async def publish(
        self,
        event: DataT | ServerSentEvent[DataT],
        *,
        key: str | None = None,
        wait: float | None = None,
    ) -> str:
        """
        Send `event` to every subscriber and return its id.

        Other tasks get a turn. If the call is cancelled, the event has not been published. On a log
        it may have been; publish it again with the same `key`.

        Args:
            event: what a source may yield, with no id of its own; if the channel has a type, data of that
                type, or a `ServerSentEvent` with such data.
            key: makes it safe to try again: an event with the same key that was published within
                the last 120 seconds is not published again, and its id is returned.
            wait: seconds for which it's tried again while the log is out of reach; 0: not at all.
                None: as the hub's `publish_wait` says.

        Raises:
            ChannelClosed: the channel has been closed.
            LogUnavailable: the log was out of reach all the time; nobody knows whether the event was
                added. With the same `key` it's safe to publish it again.
            TypeError, ValueError: the event can't be encoded, has an id, or a name that an event
                stream can't carry, or isn't of the channel's type.
            RuntimeError: the channel is on a log, and its hub's lifespan isn't under way.
        """
        _check_publish(key, wait)
        return await self._state.publish(event, key, wait)

    def publish_threadsafe(
        self, event: DataT | ServerSentEvent[DataT], *, key: str | None = None
    ) -> Future[str]:
        """
        Do what `publish` does, from any thread, without waiting.

        On a log, what one thread publishes so is added in its order.

        Returns:
            A future of the id. What `publish` raises, it raises when asked for its result, too.
        """
        try:
            _check_publish(key, None)
            return self._state.publish_threadsafe(event, key)
        except Exception as exc:
            future: Future[str] = Future()
            future.set_exception(exc)
            return future

    def publish_nowait(
        self, event: DataT | ServerSentEvent[DataT], *, key: str | None = None
    ) -> str:
        """
        Do what `publish` does without letting go of the loop; any thread may call it.

        Raises:
            ChannelClosed, TypeError, ValueError: as for `publish`.
            RuntimeError: the channel is on a log, which has to be waited for.
        """
        return self._state.publish_nowait(event, key)

    def subscribe(
        self,
        request: HTTPConnection | str | None = None,
        *,
        filter: Callable[[ServerSentEvent], object] | None = None,  # noqa: A002  (the usual word)
        on_gap: Callable[[Gap], Events | Awaitable[Events]] | None = None,
        snapshot: Snapshot | None = None,
        replay: int = 0,
        after: str | int | None = None,
        since: Since | None = None,
        id_blocks: bool = True,
        name_channels: bool = False,
    ) -> Subscription[DataT]:
        """
        Subscribe from where the client left off, or from now on.

        What is published after this call is part of the subscription, however late it's streamed:
        give it to an `EventSourceResponse`, or iterate it.

        Args:
            request: the request, for its `last_event_id`; or that id itself; None for a client
                that begins anew.
            filter: a plain function, called with each event (its data as text); those for which it
                returns something false are left out. It doesn't make gaps: what was left out counts as
                got. An event for which it raises is left out too; that's logged, and counted.
            on_gap: called when the client can't get all that it missed; the events that it returns
                (a list, an async generator...) are sent instead of the `reset` event. If it raises,
                that's logged, and the `reset` event is sent.
            snapshot: called when a client begins anew, and after a `reset` event; the events that it
                returns (a list, an async generator...) are sent before the channel's. Whatever is
                published while it's at work follows, so nothing falls between. With one parameter it's
                called with the names of the channels that it's needed for.
            replay: how many of the newest events that are kept a client gets first that begins anew.
            after: where a client begins that has no id: after the event of this id (see `position`) or
                this offset, or at the `"start"`, with all that is kept. If some of that is no longer
                kept, it's told as any gap is. A client that has an id goes on from there.
            since: the same by time: a `datetime` with a time zone, a `timedelta` (so long ago) or a Unix
                timestamp. How old an event is, is told by the clock of Redis, or of the host of the file.
            id_blocks: whether the stream begins with a block that has nothing but an id, and pings carry
                one along. False for clients that take such a block for an event; they are told of a gap,
                or begin anew, where they have nothing yet to come back with.
            name_channels: whether events are named after their channels: `event: prices` if the event
                has no name of its own, `event: prices:tick` if it has.

        Raises:
            TypeError, ValueError: an argument isn't what it should be; the error says what to write.
            RuntimeError: the channel is on a log, and its hub's lifespan isn't under way.
        """
        options = subscribe_options(
            filter, on_gap, snapshot, replay, after, since, id_blocks, name_channels
        )
        return Subscription([self._state], request, options)

    async def position(self) -> str:
        """
        The id of the newest event, for a page that is rendered now and subscribes later.

        Read it before the state that the page shows, and begin there: `subscribe(request, after=…)`.
        On a log that nobody in this process listens to, the log is asked.

        Raises:
            LogUnavailable: the log is out of reach, and the position isn't known.
            RuntimeError: the channel is on a log, and its hub's lifespan isn't under way.
        """
        return await self._state.position()

    async def history(
        self, *, after: str | int | None = None, limit: int | None = None
    ) -> list[ServerSentEvent]:
        """
        Return events that are kept, in order and with their ids, without subscribing.

        Args:
            after: the events after the one of this id or offset; `"start"`: all from the beginning.
                None: the newest that are kept.
            limit: the most events that are returned: with `after` the first ones, without it the newest.
                None: all.

        Raises:
            HistoryGap: not all that came after `after` is kept, or it's of no known history.
            LogUnavailable: the log is out of reach.
            RuntimeError: the channel is on a log, and its hub's lifespan isn't under way.
        """
        SubscribeOptions(after=after)
        if limit is not None:
            check_count("limit", limit, 1, "at least 1 event")
        return await self._state.history(after, limit)

    def close(self) -> None:
        """
        End the channel for good; nothing can be published any more.

        Streams end when they have sent what was published before. A client that comes back is
        answered with 204, which tells `EventSource` to stay away (WHATWG HTML 9.2.2). That is
        remembered for the linger time. May be called twice, and from any thread.

        On a log the channel is closed for all processes, once all that was published here before has
        been added. `aclose` waits for that.

        Raises:
            RuntimeError: the channel is on a log, and its hub's lifespan isn't under way.
        """
        self._state.close()

    async def aclose(self, *, wait: float | None = None) -> None:
        """
        Do what `close` does, and return when it's done.

        Args:
            wait: as for `publish`.

        Raises:
            LogUnavailable: the log was out of reach all the time. Try it again.
            RuntimeError: as for `close`.
        """
        _check_publish(None, wait)
        await self._state.aclose(wait)

    def stats(self) -> ChannelStats:
        """How the channel stands."""
        return self._state.stats()


def state_of(channel: Channel) -> ChannelState:
    """Return what the other rooms need of a channel."""
    return channel._state  # noqa: SLF001  (private to users, not to this room)


def channel_of(state: ChannelState) -> Channel:
    """Return a new `Channel` of this state."""
    channel: Channel = Channel.__new__(Channel)
    channel._state = state  # noqa: SLF001  (see `state_of`)
    return channel


def _check_publish(key: str | None, wait: float | None) -> None:
    if key is not None:
        check_key(key)
    if wait is not None:
        check_seconds("wait", wait)
