"""Channels as dependencies of FastAPI's endpoints: subscribed before the response, closed after it."""

# No `from __future__ import annotations`: FastAPI reads these annotations, which name local values.

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Annotated, Any

from fastapi import Depends, Header, Query, Request

from .._wire.cursor import last_event_id as id_of
from ..channels._opening import Events
from ..channels._options import Gap, Since, Snapshot, SubscribeOptions
from ..channels.channel import Channel
from ..channels.subscription import Subscription
from ..event import ServerSentEvent

__all__ = ["LastEventID", "Subscribe"]

_Header = Annotated[
    str | None,
    Header(
        alias="Last-Event-ID",
        description="The id of the last event that the client got; `EventSource` sends it when it comes back.",
    ),
]
_Query = Annotated[
    str | None,
    Query(
        alias="last_event_id",
        description="The same, for clients that can't set the header, which wins.",
    ),
]


def _last_event_id(request: Request, header: _Header = None, query: _Query = None) -> str | None:  # noqa: ARG001  (for OpenAPI)
    return id_of(request)


LastEventID = Annotated[str | None, Depends(_last_event_id)]
"""
The id with which a client comes back, from the header or the query; None: it begins anew.

```python
async def items(last_event_id: LastEventID) -> AsyncIterable[ServerSentEvent[Item]]: ...
```
"""


def Subscribe(  # noqa: N802  (named like FastAPI's Depends)
    channel: Channel[Any] | Callable[..., Any],
    *,
    filter: Callable[[ServerSentEvent], object] | None = None,  # noqa: A002  (the usual word)
    on_gap: Callable[[Gap], Events | Awaitable[Events]] | None = None,
    snapshot: Snapshot | None = None,
    replay: int = 0,
    after: str | int | None = None,
    since: Since | None = None,
    id_blocks: bool = True,
    name_channels: bool = False,
) -> Any:
    """
    Have an endpoint get a subscription to a channel.

    ```python
    @app.get("/prices", response_class=EventSourceResponse)
    async def stream(
        subscription: Annotated[Subscription[Price], Subscribe(prices)],
    ) -> Subscription[Price]:
        return subscription
    ```

    It reads `Last-Event-ID`, which OpenAPI is told of, and the subscription is closed in every ending. What
    depends on the request is a dependency of its own, which returns the channel, or raises:

    ```python
    def room(name: str, user: Annotated[User, Depends(current_user)]) -> Channel[Message]:
        if name not in user.rooms:
            raise HTTPException(403)
        return hub.channel(f"room-{name}")


    Messages = Annotated[Subscription[Message], Subscribe(room)]
    ```

    Args:
        channel: the channel; or a dependency that returns it, or a subscription of its own making
            (`hub.subscribe([…], request)`), for which the other arguments don't count.
        filter: see `Channel.subscribe`, and for the others, too.
        on_gap: see there.
        snapshot: see there.
        replay: see there.
        after: see there.
        since: see there.
        id_blocks: see there.
        name_channels: see there.

    Raises:
        TypeError, ValueError: an argument isn't what it should be.
    """
    if not isinstance(channel, Channel) and not callable(channel):
        raise TypeError(
            f"Subscribe needs a channel, or a dependency that returns one, got: {channel!r:.80}. Write "
            'Subscribe(hub.channel("name")).'
        )
    options: dict[str, Any] = {
        "filter": filter,
        "on_gap": on_gap,
        "snapshot": snapshot,
        "replay": replay,
        "after": after,
        "since": since,
        "id_blocks": id_blocks,
        "name_channels": name_channels,
    }
    SubscribeOptions(**options)
    find: Callable[..., Any] = (lambda: channel) if isinstance(channel, Channel) else channel

    async def subscribed(
        request: Request,
        found: Annotated[Any, Depends(find)],
        last_event_id: LastEventID,  # noqa: ARG001  (for OpenAPI)
    ) -> AsyncIterator[Subscription[Any]]:
        if isinstance(found, Channel):
            subscription = found.subscribe(request, **options)
        elif isinstance(found, Subscription):
            subscription = found
        else:
            raise TypeError(
                f"Subscribe({getattr(find, '__name__', find)}) needs a Channel or a Subscription from it, got: "
                f"{found!r:.80}"
            )
        try:
            yield subscription
        finally:
            await subscription.aclose()

    return Depends(subscribed)
