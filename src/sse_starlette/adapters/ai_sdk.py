"""The Vercel AI SDK's UI message streams as runs: `useChat` with `resume`, in any process.

Owns which run belongs to which chat, and how a run's end is said in the SDK's chunks. Knows nothing of models.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from starlette.responses import Response

from ..event import JSONServerSentEvent, ServerSentEvent
from ..runs import RunStatus
from ..sse import EventSourceResponse
from ._runs import check_run_options, mapped, told_of_end

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, AsyncIterator, Callable, Mapping

    from ..channels.channel import Channel
    from ..event import Event
    from ..hub import Hub
    from ..runs import Run, RunEnd

__all__ = ["ChatStreams", "text_chunks"]

# By this header the SDK's clients know the protocol and its version.
_HEADERS = {"x-vercel-ai-ui-message-stream": "v1"}
_ENDED = tuple(status for status in RunStatus if status is not RunStatus.RUNNING)


class ChatStreams:
    """
    Answers the three requests of a chat of the AI SDK: to send a message, to resume, to stop.

    ```python
    chats = ChatStreams(hub)


    async def send(request):  # POST /api/chat
        body = await request.json()
        return await chats.send(body, partial(answer, body["messages"]))


    async def resume(request):  # GET /api/chat/{id}/stream
        return await chats.resume(request.path_params["id"])


    async def stop(request):  # POST /api/chat/{id}/stop; the SDK leaves the path to you
        return await chats.stop(request.path_params["id"])
    ```

    The answer goes on when the page is reloaded, and is made once however often a message is sent. Whether a
    person may see a chat is the application's to check, before it calls these.
    """

    def __init__(self, hub: Hub, *, prefix: str = "ai_sdk", **run_options: Any) -> None:
        """
        Make the streams of all chats.

        Args:
            hub: in memory, or on an event log: then any process answers any request.
            prefix: what the names of their runs and channels begin with.
            **run_options: as for `Hub.run`, such as `ttl` and `on_abandon`. `restart`, `end_event` and
                `last_event` are this adapter's own.

        Raises:
            TypeError: an option is one of those.
        """
        check_run_options(self, {"restart", "end_event", "last_event"}, run_options)
        self._hub = hub
        self._prefix = prefix
        self._options = run_options

    async def send(self, body: Mapping[str, Any], source: Callable[[], Any]) -> EventSourceResponse:
        """
        Answer a message: start the run of its answer, or join it if the message was sent before.

        Args:
            body: what the SDK has posted, as a dict.
            source: called without an argument for the answer; it returns an iterable of the SDK's chunks
                (dicts with a `type`), such as `text_chunks` makes of a model's text.

        Raises:
            ValueError: the body isn't one of the SDK's.
            LogUnavailable: the event log is out of reach.
        """
        chat_id, message_id, anew = _told_by(body)
        # Both are the client's: without a dot in the first, no two pairs have the same key.
        chat = chat_id.replace("%", "%25").replace(".", "%2E")
        key = f"{self._prefix}.{chat}.{message_id}"
        # Before the run, so that it's found as soon as it's there.
        await self._chat(chat_id).publish(ServerSentEvent(key))
        run = await self._hub.run(
            key,
            mapped(source, JSONServerSentEvent),
            last_event=_last_chunk,
            restart=_ENDED if anew else (),
            **self._options,
        )
        return _response(run)

    async def resume(self, chat_id: str) -> Response:
        """
        Answer a page that was loaded anew: with all of the answer that is being made, or 204 if none is.

        An answer that is complete belongs to the messages that the application keeps, and isn't sent again.

        Raises:
            LogUnavailable: the event log is out of reach.
        """
        run = await self._running(chat_id)
        return Response(status_code=204) if run is None else _response(run)

    async def stop(self, chat_id: str) -> Response:
        """
        Stop the answer that is being made, in whichever process; 204 in any case.

        Raises:
            LogUnavailable: the event log is out of reach.
        """
        run = await self._running(chat_id)
        if run is not None:
            await run.stop()
        return Response(status_code=204)

    def _chat(self, chat_id: str) -> Channel[Any]:
        """Return the channel that says which run a chat's newest answer is."""
        # In memory, where it isn't held by anything else.
        linger = self._options.get("ttl", 3_600.0)
        return self._hub.channel(f"{self._prefix}.{chat_id}", history=1, linger=linger)

    async def _running(self, chat_id: str) -> Run | None:
        for event in await self._chat(chat_id).history(limit=1):
            run = await self._hub.find_run(str(event.data))
            if run is not None and await run.status() is RunStatus.RUNNING:
                return run
        return None


async def text_chunks(
    text: AsyncIterable[str], *, message_id: str | None = None
) -> AsyncIterator[dict[str, Any]]:
    """
    Make the SDK's chunks of a text, piece by piece.

    Args:
        text: the pieces, such as a model's tokens.
        message_id: the id of the answer's message; None: the client makes one.
    """
    yield {"type": "start"} if message_id is None else {"type": "start", "messageId": message_id}
    yield {"type": "text-start", "id": "0"}
    async for piece in text:
        yield {"type": "text-delta", "id": "0", "delta": piece}
    yield {"type": "text-end", "id": "0"}
    yield {"type": "finish"}


def _response(run: Run) -> EventSourceResponse:
    # The SDK's parser knows data only: each block is a chunk.
    return EventSourceResponse(run.subscribe(id_blocks=False), headers=_HEADERS)


def _told_by(body: Mapping[str, Any]) -> tuple[str, str, bool]:
    """Return the chat, what of it is to be answered, and whether it's to be answered anew."""
    try:
        chat_id, messages = body["id"], body["messages"]
        # A message that is answered anew is told by its id, a new one is the last.
        anew = body.get("trigger") == "regenerate-message"
        message_id = (anew and body.get("messageId")) or messages[-1]["id"]
    except (AttributeError, IndexError, KeyError, TypeError) as exc:
        raise ValueError(
            'the body has no "id" and "messages" as the AI SDK posts them: give the parsed JSON of its request, '
            "and leave what `prepareSendMessagesRequest` changes in place"
        ) from exc
    return str(chat_id), str(message_id), anew


def _last_chunk(end: RunEnd) -> Event:
    if end.status is RunStatus.DONE:
        return ServerSentEvent("[DONE]")
    if end.status is RunStatus.STOPPED:
        return JSONServerSentEvent({"type": "abort"})
    return JSONServerSentEvent({"type": "error", "errorText": told_of_end("The answer", end)})
