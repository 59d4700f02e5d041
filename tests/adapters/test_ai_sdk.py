"""Chats of the AI SDK, in memory; tests/servers/test_ai_sdk.py has the SDK's own client."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import httpx2
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from sse_starlette import Hub
from sse_starlette.adapters.ai_sdk import ChatStreams, _told_by, text_chunks
from sse_starlette.testing import StreamingASGITransport

pytestmark = pytest.mark.anyio


class Model:
    """Answers with two words, and when it's let, with two more."""

    def __init__(self) -> None:
        self.may_end = anyio.Event()
        self.asked = 0
        self.closed = anyio.Event()
        self.fails = False

    async def words(self) -> AsyncIterator[str]:
        self.asked += 1
        try:
            yield "The"
            yield " answer"
            await self.may_end.wait()
            if self.fails:
                raise ConnectionError("a secret of the model's server")
            yield " is"
            yield f" {self.asked}"
        finally:
            self.closed.set()

    def answer(self) -> Any:
        return text_chunks(self.words(), message_id=f"answer {self.asked + 1}")


@asynccontextmanager
async def serving(model: Model, source: Any = None) -> AsyncIterator[httpx2.AsyncClient]:
    hub = Hub()
    chats = ChatStreams(hub, ttl=60)

    async def send(request: Request) -> Response:
        return await chats.send(await request.json(), source or model.answer)

    async def resume(request: Request) -> Response:
        return await chats.resume(request.path_params["id"])

    async def stop(request: Request) -> Response:
        return await chats.stop(request.path_params["id"])

    app = Starlette(
        routes=[
            Route("/api/chat", send, methods=["POST"]),
            Route("/api/chat/{id}/stream", resume),
            Route("/api/chat/{id}/stop", stop, methods=["POST"]),
        ],
        lifespan=hub.lifespan,
    )
    transport = StreamingASGITransport(app, lifespan=True)
    async with httpx2.AsyncClient(transport=transport, base_url="http://127.0.0.1/api") as http:
        yield http


def message(number: int = 1, **more: Any) -> dict[str, Any]:
    return {"id": "chat", "messages": [{"id": f"m{number}", "role": "user"}], **more}


async def chunks(response: httpx2.Response) -> list[Any]:
    """What the response says from here on; the SDK's parser takes each block for a chunk."""
    text = (await response.aread()).decode()
    data = [line.removeprefix("data: ") for line in text.splitlines() if line.startswith("data: ")]
    return [each if each == "[DONE]" else json.loads(each) for each in data]


def text_of(got: list[Any]) -> str:
    return "".join(each.get("delta", "") for each in got if each != "[DONE]")


async def answer_to(http: httpx2.AsyncClient, sent: dict[str, Any]) -> list[Any]:
    async with http.stream("POST", "/chat", json=sent) as response:
        return await chunks(response)


@pytest.fixture
def model() -> Model:
    """One that isn't kept from its end."""
    model = Model()
    model.may_end.set()
    return model


async def test_page_that_is_loaded_anew_gets_all_of_the_answer_that_is_being_made() -> None:
    model = Model()
    async with serving(model) as http:
        async with http.stream("POST", "/chat", json=message()) as left:
            assert left.headers["x-vercel-ai-ui-message-stream"] == "v1"
            pieces: Any = left.aiter_bytes()
            await anext(pieces)
            await pieces.aclose()
        async with http.stream("GET", "/chat/chat/stream") as back:
            model.may_end.set()
            got = await chunks(back)

    assert got[0] == {"type": "start", "messageId": "answer 1"}
    assert text_of(got) == "The answer is 1"
    assert got[-2:] == [{"type": "finish"}, "[DONE]"]
    assert model.asked == 1


async def test_nothing_to_resume_is_204(model: Model) -> None:
    async with serving(model) as http:
        assert (await http.get("/chat/chat/stream")).status_code == 204
        await http.post("/chat", json=message())
        # It's complete, and belongs to the messages that the application keeps.
        assert (await http.get("/chat/chat/stream")).status_code == 204
        assert (await http.post("/chat/chat/stop")).status_code == 204


async def test_message_that_is_sent_again_is_answered_once_and_the_next_one_anew(
    model: Model,
) -> None:
    async with serving(model) as http:
        for _ in range(2):
            assert text_of(await answer_to(http, message())) == "The answer is 1"
        assert text_of(await answer_to(http, message(2))) == "The answer is 2"


async def test_ids_of_clients_are_not_taken_for_each_other(model: Model) -> None:
    async with serving(model) as http:
        for number, (chat, id_) in enumerate(
            [("a.b", "c"), ("a", "b.c"), ("a%2Eb", "c"), ("a%b", "c")], start=1
        ):
            body = {"id": chat, "messages": [{"id": id_}]}
            assert text_of(await answer_to(http, body)) == f"The answer is {number}"


@pytest.mark.parametrize("message_id", [None, "answer 1"])
async def test_answer_that_is_wanted_again_is_made_again(
    message_id: str | None, model: Model
) -> None:
    again = message(trigger="regenerate-message", messageId=message_id)
    async with serving(model) as http:
        await http.post("/chat", json=message())
        for expected in ("The answer is 2", "The answer is 3"):
            assert text_of(await answer_to(http, again)) == expected


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ({}, ("chat", "last", False)),
        ({"messageId": "first"}, ("chat", "last", False)),
        ({"trigger": "regenerate-message"}, ("chat", "last", True)),
        ({"trigger": "regenerate-message", "messageId": "first"}, ("chat", "first", True)),
    ],
)
def test_message_that_is_to_be_answered_is_the_last_unless_another_is_anew(
    more: dict[str, str], told: tuple[str, str, bool]
) -> None:
    body = {"id": "chat", "messages": [{"id": "first"}, {"id": "last"}], **more}

    assert _told_by(body) == told


async def test_stop_ends_the_source_and_tells_the_page() -> None:
    model = Model()
    async with serving(model) as http, http.stream("POST", "/chat", json=message()) as response:
        await http.post("/chat/chat/stop")
        await model.closed.wait()

        assert (await chunks(response))[-1] == {"type": "abort"}


async def test_error_is_told_without_the_exception(model: Model) -> None:
    model.fails = True
    async with serving(model) as http:
        got = await answer_to(http, message())

    assert got[-1] == {"type": "error", "errorText": "The answer could not be completed."}


class Items:
    """An async iterable that can't be closed."""

    def __init__(self) -> None:
        self._left = 2

    def __aiter__(self) -> Items:
        return self

    async def __anext__(self) -> dict[str, str]:
        if not self._left:
            raise StopAsyncIteration
        self._left -= 1
        return {"type": "text-delta", "delta": "x"}


async def later() -> Iterator[dict[str, str]]:
    return iter([{"type": "text-delta", "delta": "x"}] * 2)


@pytest.mark.parametrize("source", [Items, later], ids=["async iterator", "awaitable of sync"])
async def test_any_kind_of_source_will_do(source: Any) -> None:
    async with serving(Model(), source) as http:
        assert text_of(await answer_to(http, message())) == "xx"


async def test_text_needs_no_id(model: Model) -> None:

    got = [each async for each in text_chunks(model.words())]

    assert got[:2] == [{"type": "start"}, {"type": "text-start", "id": "0"}]
    assert [each["delta"] for each in got[2:-2]] == ["The", " answer", " is", " 1"]
    assert got[-2:] == [{"type": "text-end", "id": "0"}, {"type": "finish"}]


@pytest.mark.parametrize("body", [[], {}, {"id": "c", "messages": []}, {"id": "c", "messages": 5}])
async def test_body_that_is_not_the_sdks_is_refused(body: Any) -> None:
    with pytest.raises(ValueError, match="parsed JSON of its request"):
        await ChatStreams(Hub()).send(body, list)


def test_options_that_are_its_own_are_refused() -> None:
    with pytest.raises(TypeError, match=r"leave out \['restart'\]"):
        ChatStreams(Hub(), restart=["lost"])
