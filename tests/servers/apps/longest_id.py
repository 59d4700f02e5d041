"""One event with an id as long as that of a stream of as many channels as there may be."""

from __future__ import annotations

from collections.abc import AsyncIterator

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from streams import (  # type: ignore[import-not-found,unused-ignore]  # found beside this file
    blank,
    journal,
    read_journal,
)

from sse_starlette import EventSourceResponse
from sse_starlette._wire.cursor import (
    MOST_CHANNELS,
    last_event_id,
    new_epoch,
    parse_cursor,
)

LONGEST = "-".join(f"{new_epoch(str(number))}.9999999999" for number in range(MOST_CHANNELS))


async def once(request: Request) -> Response:
    """Send it to a client without an id; a client that comes back is told to stay away."""
    given = last_event_id(request)
    positions = parse_cursor(given or "")
    journal.note("came", same=given == LONGEST, positions=len(positions or ()), length=len(LONGEST))
    if given is not None:
        return Response(status_code=204)

    async def events() -> AsyncIterator[dict[str, object]]:
        yield {"id": LONGEST, "data": "", "retry": 50}

    return EventSourceResponse(events())


app = Starlette(
    routes=[Route("/blank", blank), Route("/journal", read_journal), Route("/once", once)]
)
