"""OpenAI's background responses as runs: `sequence_number`, `?starting_after=`, retrieve and cancel.

Owns how a run's events are numbered and its state is told as a response object. Knows nothing of models, and needs
no package of OpenAI's.
"""

from __future__ import annotations

import json
from functools import partial
from itertools import count
from typing import TYPE_CHECKING, Any

from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

from ..event import JSONServerSentEvent
from ..runs import RunStatus
from ..sse import EventSourceResponse
from ._runs import check_run_options, mapped, told_of_end

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.requests import HTTPConnection
    from starlette.responses import Response

    from ..event import Event, ServerSentEvent
    from ..hub import Hub
    from ..runs import Run, RunEnd

__all__ = ["BackgroundResponses"]


class BackgroundResponses:
    """
    Answers the requests for background responses of OpenAI's API: create, retrieve and stream, cancel.

    ```python
    responses = BackgroundResponses(hub)


    async def create(request):  # POST /v1/responses, with "background" and "stream"
        response_id = f"resp_{uuid4().hex}"
        return await responses.create(
            response_id, partial(answer, response_id, await request.json())
        )


    async def retrieve(request):  # GET /v1/responses/{id}, also with ?stream=true&starting_after=7
        return await responses.retrieve(request, request.path_params["id"])


    async def cancel(request):  # POST /v1/responses/{id}/cancel
        return await responses.cancel(request.path_params["id"])
    ```

    Whether somebody may see a response is the application's to check, before it calls these.
    """

    def __init__(self, hub: Hub, *, prefix: str = "openai", **run_options: Any) -> None:
        """
        Make the responses.

        Args:
            hub: in memory, or on an event log: then any process answers any request.
            prefix: what the keys of their runs begin with.
            **run_options: as for `Hub.run`, such as `ttl` and `on_abandon`. `end_event` and `last_event` are
                this adapter's own.

        Raises:
            TypeError: an option is one of those.
        """
        check_run_options(self, {"end_event", "last_event"}, run_options)
        self._hub = hub
        self._prefix = prefix
        self._options = run_options

    async def create(
        self, response_id: str, source: Callable[[], Any], *, stream: bool = True
    ) -> Response:
        """
        Start a response, or join it if it was started before, and stream it or tell how it stands.

        Args:
            response_id: its id.
            source: called without an argument; it returns an iterable of the API's events, dicts with a `type`
                and without a `sequence_number`. The last is `response.completed`, with the response object.
            stream: whether the answer is the stream.

        Raises:
            LogUnavailable: the event log is out of reach.
        """
        numbers = count()

        def numbered(event: dict[str, Any]) -> ServerSentEvent:
            return _sse({**event, "sequence_number": next(numbers)})

        run = await self._hub.run(
            self._key(response_id),
            mapped(source, numbered),
            last_event=partial(_last_event, response_id),
            **self._options,
        )
        return _stream(run) if stream else await self._told(response_id, run)

    async def retrieve(self, request: HTTPConnection, response_id: str) -> Response:
        """
        Answer a GET for a response: as an object, or with `?stream=true` as a stream, after `starting_after` if given.

        Raises:
            HTTPException: 404, there is no such response; 400, `starting_after` isn't a number.
            LogUnavailable: the event log is out of reach.
        """
        run = await self._found(response_id)
        if request.query_params.get("stream") != "true":
            return await self._told(response_id, run)
        after = request.query_params.get("starting_after")
        if after is not None and not (after.isascii() and after.isdigit() and len(after) < 16):
            raise HTTPException(400, "starting_after must be the sequence_number of an event")
        # An event's number is 0 for the first, and counts all of them.
        return _stream(run, after=0 if after is None else int(after) + 1)

    async def cancel(self, response_id: str) -> Response:
        """
        Answer a POST to cancel a response, made in whichever process, with the response object.

        Raises:
            HTTPException: 404, there is no such response.
            LogUnavailable: the event log is out of reach.
        """
        run = await self._found(response_id)
        await run.stop()
        return await self._told(response_id, run)

    def _key(self, response_id: str) -> str:
        return f"{self._prefix}.{response_id}"

    async def _found(self, response_id: str) -> Run:
        run = await self._hub.find_run(self._key(response_id))
        if run is None:
            raise HTTPException(404, f"there is no response {response_id!r}")
        return run

    async def _told(self, response_id: str, run: Run) -> Response:
        """Return the response object: that of the last event which has one."""
        response: dict[str, Any] = {
            "id": response_id,
            "object": "response",
            "status": "in_progress",
        }
        for event in reversed(await run.events()):
            found = json.loads(str(event.data)).get("response")
            if isinstance(found, dict):
                return JSONResponse({**response, **found})
        return JSONResponse(response)


def _stream(run: Run, after: int = 0) -> EventSourceResponse:
    # Clients of the API resume by `starting_after`, and take each block for an event.
    return EventSourceResponse(run.subscribe(after=after or "start", id_blocks=False))


def _sse(event: dict[str, Any]) -> ServerSentEvent:
    return JSONServerSentEvent(event, event=event["type"])


def _last_event(response_id: str, end: RunEnd) -> Event:
    if end.status is RunStatus.DONE:
        return None
    cancelled = end.status is RunStatus.STOPPED
    response = {
        "id": response_id,
        "object": "response",
        "status": "cancelled" if cancelled else "failed",
        "error": None
        if cancelled
        else {"code": "server_error", "message": told_of_end("The response", end)},
    }
    # Which number it has, a process that tells of another's end doesn't know.
    return _sse({"type": "response.failed", "response": response})
