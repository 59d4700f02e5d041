"""The run as the application holds it: read it, ask how it stands, stop it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..channels._options import SubscribeOptions
from ..channels.channel import state_of
from ..channels.subscription import Subscription

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.requests import HTTPConnection

    from ..event import ServerSentEvent
    from ._entry import RunEntry
    from ._keeper import RunKeeper
    from ._options import RunStatus

__all__ = ["Run"]


class Run:
    """
    A generation that goes on whoever reads it; made by `Hub.run` and `Hub.find_run`.

    ```python
    async def ask(request):
        run = await hub.run(request.path_params["id"], partial(answer, await request.body()))
        return EventSourceResponse(run.subscribe(request))


    async def come_back(request):
        run = await hub.find_run(request.path_params["id"])
        if run is None:
            return Response(status_code=404)
        return EventSourceResponse(run.subscribe(request))
    ```
    """

    def __init__(self, keeper: RunKeeper, entry: RunEntry, *, started: bool) -> None:
        """Hold what the hub knows of it."""
        self._keeper = keeper
        self._entry = entry
        self.started: bool = started
        """Whether this call has started it; False: it has joined one."""

    def __repr__(self) -> str:
        return f"<Run {self.key!r}>"

    @property
    def key(self) -> str:
        """The key by which it's found."""
        return self._entry.key

    def subscribe(
        self,
        request: HTTPConnection | str | None = None,
        *,
        after: str | int = "start",
        filter: Callable[[ServerSentEvent], object] | None = None,  # noqa: A002  (the usual word)
        id_blocks: bool = True,
    ) -> Subscription:
        """
        Read it: from the beginning or from where the client left off, then live, to the end.

        Give it to an `EventSourceResponse`, or iterate it. An automatic reconnect after the end is answered
        with 204, which tells `EventSource` to stay away. If the run was started again meanwhile, the client
        gets a `reset` event, and all of the new one. A client's leaving doesn't stop a run.

        Args:
            request: the request, for its `Last-Event-ID`; or that id itself; None for a client that has
                nothing yet.
            after: where a client begins that has no id: after the event of this id, or after so many events.
            filter: as for `Channel.subscribe`.
            id_blocks: as for `Channel.subscribe`.

        Raises:
            TypeError, ValueError: an argument isn't what it should be; the error says what to write.
            RuntimeError: the hub's lifespan isn't under way.
        """
        options = SubscribeOptions(filter=filter, after=after, id_blocks=id_blocks, whole=True)
        self._entry.touch()
        return Subscription([state_of(self._entry.channel)], request, options)

    async def status(self) -> RunStatus:
        """
        How it stands, whichever process makes it.

        If its producer has given no sign of life for longer than its `lease`, that takes as long again: then
        it's known whether it's `LOST`.

        Raises:
            RunNotFound: its `ttl` is over.
            LogUnavailable: the event log is out of reach.
        """
        return await self._keeper.status(self._entry)

    async def stop(self) -> RunStatus:
        """
        Stop it, from any process; return what it has ended as.

        All clients are told at once. From then on nothing is added to it, and its source is cancelled: at once
        if it's in this process, else within a second or at its next event. A run that has ended is left as it
        is.

        Raises:
            RunNotFound: its `ttl` is over.
            LogUnavailable: the event log is out of reach; try it again.
        """
        return await self._keeper.stop(self._entry)

    async def wait(self) -> RunStatus:
        """
        Wait for its end, and return how it has ended. If the wait is cancelled, the run goes on.

        Who waits counts as a reader.

        Raises:
            RunNotFound: its `ttl` is over.
            LogUnavailable: the event log is out of reach.
        """
        position = await self._entry.channel.position()
        async with self.subscribe(after=position) as events:
            async for _ in events:
                pass
        return await self.status()

    async def events(self) -> list[ServerSentEvent]:
        """
        Return all its events so far, in order and with their ids, the last one among them: for saving them.

        Raises:
            HistoryGap: somebody has taken some out of the event log.
            LogUnavailable: the event log is out of reach.
        """
        return await self._entry.channel.history(after="start")
