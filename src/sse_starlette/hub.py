"""Hub: what an application opens once, for its channels.

Holds what the caller asked for, checks it, and hands it to the rooms below. A hub has its channels in this
process alone, or keeps them in step with an event log that it shares with others; which kind of event log it
is, is no business of its own.
"""

from __future__ import annotations

from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, Unpack

import anyio.lowlevel

from ._arguments import check_callable
from ._wire.values import check_serializer
from .channels._checks import check_seconds
from .channels._options import channel_options, subscribe_options
from .channels._registry import RESERVED, ChannelRegistry, check_not_reserved
from .channels._revocations import Revocations
from .channels._stats import HubStats
from .channels.subscription import Subscription
from .endpoint import channel_endpoint
from .eventlogs._options import LogOptions
from .eventlogs._replicator import Replicator
from .eventlogs._schemes import backend_for
from .eventlogs.base import DEFAULT_EXPIRE, Backend
from .eventlogs.publisher import Publisher
from .runs._keeper import RunKeeper
from .runs._options import RunArguments, RunOptions
from .runs.run import Run
from .status._app import status_app

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
    from types import UnionType

    from starlette.applications import Starlette
    from starlette.requests import HTTPConnection

    from ._wire.values import Serializer
    from .channels._opening import Events
    from .channels._options import Gap, Preference, Since, Slow, Snapshot
    from .channels.channel import Channel, DataT
    from .endpoint import Check, EventSourceEndpoint
    from .event import ServerSentEvent

__all__ = ["Hub", "HubStats"]


class Hub:
    """
    The channels of an application, by name: in this process, or on a log that many processes share.

    ```python
    hub = Hub()
    prices = hub.channel("prices", history=1_000)


    async def stream(request):
        return EventSourceResponse(prices.subscribe(request))


    async def tick(request):
        return JSONResponse({"id": await prices.publish({"event": "tick", "data": 12.5})})
    ```

    It may be a module's variable, and be used from any thread. In memory it needs no loop and no start. On a log it
    needs its lifespan:

    ```python
    hub = Hub("sqlite:///events.db")  # or "redis://…", for many hosts
    app = Starlette(lifespan=hub.lifespan)
    ```
    """

    def __init__(
        self,
        log: str | Backend | None = None,
        *,
        linger: float = 30.0,
        publish_wait: float = 5.0,
        expire: float | None = None,
        check_every: float = 30.0,
        serializer: Serializer | None = None,
    ) -> None:
        """
        Make a hub without channels.

        Args:
            log: where the channels are kept: a URL, or a `Backend`. `redis://`, `rediss://`, `unix://` (a socket of
                Redis), `redis+cluster://` and `rediss+cluster://` are for many hosts, `sqlite://` is for the
                processes of one; other packages may add schemes. None: in this process alone.
            linger: seconds that a channel nobody holds on to is remembered after it was last used, so that clients
                that reload their page find its history. See `channel`. On a log, seconds for which it's listened to
                after its last subscriber has left.
            publish_wait: seconds for which publishing is tried again while the log is out of reach; 0: not at all.
            expire: seconds after which the log may forget a channel that nobody has published or listened to.
                Default: what another process has said, or a day.
            check_every: seconds between two looks whether anything was added to the log that has not been heard
                here, as when a connection has died without a word.
            serializer: makes JSON (str or bytes) of data that is neither text nor a number, when an event is
                published or a snapshot read: `orjson.dumps`, `msgspec.json.encode`, or a function that knows your
                types. What it raises, `publish` raises. None: see `ServerSentEvent`.

        Raises:
            ImportError: the log needs an extra that isn't installed.
            ValueError: a number is out of range, or there's no log of this scheme.
        """
        self._parts = _Parts(log, linger, LogOptions(publish_wait, expire, check_every), serializer)

    def __repr__(self) -> str:
        backend = self._parts.backend
        return f"<Hub {'in memory' if backend is None else f'on {backend!r}'}>"

    @property
    def log(self) -> str | None:
        """The kind of its event log, `"RedisLog"` for example; None in memory."""
        return None if self._parts.backend is None else type(self._parts.backend).__name__

    def channel(
        self,
        name: str,
        *,
        history: int | None = None,
        history_bytes: int | None = None,
        history_seconds: float | None = None,
        slow: Slow | None = None,
        latest_by: Callable[[ServerSentEvent], object] | None = None,
        linger: float | None = None,
        type: type[DataT] | UnionType | None = None,  # noqa: A002  (the usual word)
        prefer: Preference | None = None,
    ) -> Channel[DataT]:
        """
        Return the channel of this name; the first call makes it.

        A channel is forgotten, with its history, when it has no subscriber, nothing has been published for its
        linger time, and the application holds no reference to it. After that the name stands for a new channel, and
        clients of the old one are told (`reset`). On a log only what this process has of it is forgotten; the log
        keeps it, see `expire`.

        Args:
            name: any text, but for what begins with `sse_starlette:`.
            history: events that are kept for clients that come back, and that a connected client may be behind.
                Default: 1,000; at least 1.
            history_bytes: bytes that these may take together. Default: 16 MiB. The newest event is always kept.
            history_seconds: seconds that an event is kept. Default: as long as there's room.
            slow: what becomes of a client that lags further than that; see `Slow`. Default: `"disconnect"`.
            latest_by: for `slow="latest"`: the key of an event. The newest of each of `history` keys is kept.
            linger: seconds for this channel instead of those of the hub.
            type: what is published is validated by pydantic as this type, and sent as JSON of it (text as a JSON
                string, too); what is not of it, `publish` refuses. Snapshots are not. None: anything may be published.
            prefer: what counts for more when it's busy, its delays or CPU time; see `Preference`. Default: `"cpu"`.

        Raises:
            ImportError: `type` needs pydantic, which isn't installed.
            TypeError: pydantic can't validate this type.
            ValueError: an argument is out of range, or the channel exists with other options.
        """
        check_not_reserved(name)
        options = channel_options(
            history, history_bytes, history_seconds, slow, latest_by, linger, type, prefer
        )
        return self._parts.registry.channel(name, options)

    def subscribe(
        self,
        channels: Iterable[Channel | str],
        request: HTTPConnection | str | None = None,
        *,
        filter: Callable[[ServerSentEvent], object] | None = None,  # noqa: A002  (the usual word)
        on_gap: Callable[[Gap], Events | Awaitable[Events]] | None = None,
        snapshot: Snapshot | None = None,
        replay: int = 0,
        after: str | None = None,
        since: Since | None = None,
        id_blocks: bool = True,
        name_channels: bool = False,
    ) -> Subscription:
        """
        Subscribe to several channels on one stream.

        Its ids hold the position in each channel, so a client that comes back gets what it missed in each. A channel
        that its id doesn't name begins anew. Events of one channel keep their order; there's none between channels.

        Args:
            channels: the channels, or their names; 200 at the most.
            request: as for `Channel.subscribe`, and so are the others.
            filter: see there; `event.channel` is the name of the channel.
            on_gap: see there; called for each channel that has a gap.
            snapshot: see there.
            replay: see there; of each channel.
            after: see there; the id of a subscription to several channels, or `"start"`.
            since: see there.
            id_blocks: see there.
            name_channels: see there.

        Raises:
            TypeError: `channels` is one name, or something else than channels and their names; or as for
                `Channel.subscribe`.
            ValueError: there's no channel, too many, or one is named twice; or as for `Channel.subscribe`.
            RuntimeError: the hub has a log, and its lifespan isn't under way.
        """
        options = subscribe_options(
            filter, on_gap, snapshot, replay, after, since, id_blocks, name_channels
        )
        return Subscription(self._parts.registry.states_of(channels), request, options)

    async def run(
        self, key: str, source: Callable[[], Any], **options: Unpack[RunArguments]
    ) -> Run:
        """
        Start the run of this key, a generation that goes on whoever reads it; or join it, if there is one.

        Across all processes on the event log, one of those who call it at the same time starts it. The source
        is driven in a task of the hub's lifespan: no request's end or context has to do with it.

        Args:
            key: names the run, such as the id of a message; whoever knows it may read it.
            source: called without an argument if this call starts the run; it returns an async iterable of
                events, a sync one, or an awaitable of either: `partial(answer, prompt)`.
            **options: see `RunArguments`.

        Raises:
            TypeError, ValueError: an argument isn't what it should be, or the run has other options.
            LogUnavailable: the event log is out of reach, for as long as `publish_wait` says.
            RuntimeError: the hub's lifespan isn't under way.
        """
        entry, started = await self._parts.runs.start(key, source, RunOptions.of(options))
        return Run(self._parts.runs, entry, started=started)

    async def find_run(self, key: str) -> Run | None:
        """
        Return the run of this key, made by whichever process, or None: none was started, or its `ttl` is over.

        Raises:
            LogUnavailable, RuntimeError: as for `run`.
        """
        entry = await self._parts.runs.find(key)
        return None if entry is None else Run(self._parts.runs, entry, started=False)

    def publisher(self) -> Publisher:
        """
        Return a way to publish from code without an event loop: Celery, Django, cron, scripts.

        It needs no lifespan. Keys, limits and what clients get are as with `Channel.publish`; the limits are those
        given to `hub.channel` in this process, or by anybody else.

        Raises:
            RuntimeError: the hub has no log, so nobody outside of its process hears of anything.
        """
        return self._parts.publisher()

    async def revoke(self, listener: str) -> None:
        """
        End the streams of a listener, now, in this process and in all that share the event log.

        These are all streams whose responses (or policies) name this `listener`, with a channel or without. They
        get nothing more but the event `revoked`, and end with that reason. A client that comes back is a new
        request: the endpoint says whether it's let in.

        Args:
            listener: the name, as it was given to the response.

        Raises:
            LogUnavailable: the event log was out of reach. The streams of this process have been ended.
            RuntimeError: the hub has an event log, and its lifespan isn't under way.
            TypeError, ValueError: it's no name.
        """
        await self._parts.revocations.revoke(listener)

    def endpoint(
        self,
        *channels: Channel[Any] | str,
        check: Check | None = None,
        methods: Iterable[str] = ("GET",),
        **options: Any,
    ) -> EventSourceEndpoint:
        """
        Return an ASGI application that streams channels, `Route("/prices", hub.endpoint("prices"))`.

        A function that returns a response takes more memory for each client; see `EventSourceEndpoint`,
        which is for names of channels that the request holds, too.

        Args:
            channels: the channels, or their names; several share one stream, as in `subscribe`.
            check: called with each request, on the event loop; plain or async. Raises Starlette's
                `HTTPException` for those who may not listen; returns None, or a dict of further options for
                this client, `{"filter": user.may_see}`.
            methods: the methods that are answered, with GET also HEAD. Others get status 405.
            options: those of `subscribe` and of `EventSourceResponse`, by name.

        Raises:
            TypeError: `check` can't be called with a request, or there's no such option.
            ValueError: there's no channel, or an option is out of its range.
        """
        return channel_endpoint(self.subscribe, channels, check, methods, options)

    def stats(self) -> HubStats:
        """The figures of each channel that has not been forgotten."""
        return self._parts.stats()

    def app(
        self, *, allow: Callable[[HTTPConnection], bool | Awaitable[bool]] | None = None
    ) -> Starlette:
        """
        Return an application that shows how the hub and the streams of this process stand.

        Mount it, `Mount("/status", hub.app(allow=is_operator))`, or run it on a port of its own. Its paths:
        `/health` and `/ready`, for probes, open to everybody and without figures; `/`, a live page; `/figures`, the
        same as JSON; `/events`, as an event stream. Of several worker processes it shows the one that answers.

        Args:
            allow: who may see the figures, which name channels and listeners: a function of the request, plain
                or async, asked again and again while somebody watches. None: nobody.

        Raises:
            TypeError: `allow` can't be called with a request.
        """
        if allow is not None:
            check_callable("allow", allow, "the request", waits=True)
        return status_app(self, allow)

    async def ready(self, *, timeout: float = 1.0) -> bool:  # noqa: ASYNC109  (there's an answer in any case)
        """
        Whether channels can be used now: for the readiness probe of a service.

        In memory they always can. On a log: whether the lifespan is under way, and the log is listened to, answers and
        refuses nothing that channels need. If not, `stats().reason` says why. One channel's troubles don't count.

        Args:
            timeout: seconds within which the log has to answer.
        """
        return await self._parts.ready(timeout)

    @asynccontextmanager
    async def lifespan(self, app: object = None) -> AsyncIterator[None]:  # noqa: ARG002  (Starlette passes it)
        """
        Keep the hub for as long as the application runs: `Starlette(lifespan=hub.lifespan)`.

        Or `async with hub.lifespan():`, in a lifespan of your own or in a script. A hub in memory does without. One
        on a log is connected to it meanwhile; whether the log is in reach at the beginning doesn't matter. Streams
        that are still open at the end of it, end. After that it may be entered again, on another loop, too.

        Raises:
            RuntimeError: it has been entered already, and not left.
        """
        async with self._parts.kept():
            yield


class _Parts:
    """What a hub is made of, put together once."""

    def __init__(
        self,
        log: str | Backend | None,
        linger: float,
        options: LogOptions,
        serializer: Serializer | None,
    ) -> None:
        """Check the arguments of `Hub`, and do nothing else yet."""
        check_seconds("linger", linger)
        check_seconds("publish_wait", options.publish_wait)
        check_seconds("check_every", options.check_every, above=0)
        _check_expire(options.expire, options.check_every)
        if serializer is not None:
            check_serializer(serializer)
        self.replicator = replicator = (
            None if log is None else Replicator(backend_for(log), options)
        )
        self.serializer = serializer
        self.registry = ChannelRegistry(linger=linger, serializer=serializer, replicator=replicator)
        self.revocations = Revocations(
            partial(self.registry.channel, options={}), shared=replicator is not None
        )
        self.runs = RunKeeper(self.registry, replicator, serializer)

    @property
    def backend(self) -> Backend | None:
        """The event log; None in memory."""
        return None if self.replicator is None else self.replicator.backend

    def publisher(self) -> Publisher:
        """Return what `Hub.publisher` returns, or raise if nobody could hear of it."""
        replicator = self.replicator
        if replicator is None:
            raise RuntimeError(
                "a hub in memory has its clients in its own process, so there's nobody to publish to "
                "from another one: give the hub a log, Hub('redis://…') or Hub('sqlite:///…'). From "
                "another thread of this process use channel.publish_threadsafe(…)."
            )
        return Publisher(
            replicator.backend,
            limits_of=self.registry.limits_of,
            typed=self.registry.typed,
            publish_wait=replicator.options.publish_wait,
            serializer=self.serializer,
        )

    def stats(self) -> HubStats:
        """Return what `Hub.stats` returns."""
        figures = self.registry.stats()
        replicator = self.replicator
        if replicator is None:
            return HubStats(figures)
        told = replicator.tracks.figures
        connected = replicator.running and told.away_since is None
        return HubStats(figures, connected, told.losses, told.catch_ups, replicator.reason)

    async def ready(self, timeout: float) -> bool:  # noqa: ASYNC109  (there's an answer in any case)
        """Return what `Hub.ready` returns."""
        if self.replicator is None:
            await anyio.lowlevel.checkpoint()
            return True
        return await self.replicator.ready(timeout)

    @asynccontextmanager
    async def kept(self) -> AsyncIterator[None]:
        """Keep in step with the log, hear of revocations and make runs, until the context is left."""
        async with AsyncExitStack() as stack:
            if self.replicator is not None:
                await stack.enter_async_context(self.replicator.run(self.registry.sweep))
                stack.enter_context(self.revocations.followed())
            await stack.enter_async_context(self.runs.open())
            yield


def _check_expire(expire: object, check_every: float) -> None:
    given = DEFAULT_EXPIRE if expire is None else expire
    if isinstance(given, bool) or not isinstance(given, (int, float)):
        raise TypeError(f"expire must be a number of seconds, got: {expire!r}")
    if not given > check_every:
        # With each look it's said that somebody listens.
        raise ValueError(f"expire must be > check_every={check_every} seconds, got: {expire}")


def own_channel(hub: Hub, name: str) -> Channel:
    """Return a channel of the library's own, which no client can name."""
    return hub._parts.registry.channel(f"{RESERVED}{name}", {})  # noqa: SLF001  (private to users, not to this module)
