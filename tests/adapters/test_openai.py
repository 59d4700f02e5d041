"""Background responses, read with OpenAI's own client."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import anyio
import httpx2
import openai
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from sse_starlette import Hub
from sse_starlette.adapters.openai import BackgroundResponses
from sse_starlette.testing import StreamingASGITransport

pytestmark = pytest.mark.anyio

WORDS = ["The", " answer", " is", " 42"]


class Model:
    """Answers word by word, when it's let."""

    def __init__(self, *, fails: bool = False) -> None:
        self.may_end = anyio.Event()
        self.asked = 0
        self._fails = fails

    async def answer(self, response_id: str) -> AsyncIterator[dict[str, Any]]:
        self.asked += 1
        response = {"id": response_id, "object": "response", "status": "in_progress", "output": []}
        yield {"type": "response.created", "response": response}
        for word in WORDS[:2]:
            yield {"type": "response.output_text.delta", "item_id": "m", "delta": word}
        await self.may_end.wait()
        if self._fails:
            raise ConnectionError("a secret of the model's server")
        for word in WORDS[2:]:
            yield {"type": "response.output_text.delta", "item_id": "m", "delta": word}
        yield {"type": "response.completed", "response": {**response, "status": "completed"}}


@asynccontextmanager
async def serving(
    model: Model, **options: Any
) -> AsyncIterator[tuple[openai.AsyncOpenAI, httpx2.AsyncClient]]:
    hub = Hub()
    responses = BackgroundResponses(hub, **options)

    async def create(request: Request) -> Response:
        body = await request.json()
        made, streams = body["metadata"]["id"], body.get("stream", False)
        return await responses.create(made, partial(model.answer, made), stream=streams)

    async def retrieve(request: Request) -> Response:
        return await responses.retrieve(request, request.path_params["id"])

    async def cancel(request: Request) -> Response:
        return await responses.cancel(request.path_params["id"])

    app = Starlette(
        routes=[
            Route("/v1/responses", create, methods=["POST"]),
            Route("/v1/responses/{id}", retrieve),
            Route("/v1/responses/{id}/cancel", cancel, methods=["POST"]),
        ],
        lifespan=hub.lifespan,
    )
    transport, url = StreamingASGITransport(app, lifespan=True), "http://127.0.0.1/v1"
    async with httpx2.AsyncClient(transport=transport, base_url=url) as http:
        sending: Any = {"base_url": url, "http_client": http, "max_retries": 0}
        yield openai.AsyncOpenAI(api_key="none", **sending), http


async def asked(client: openai.AsyncOpenAI, response_id: str, *, stream: bool = True) -> Any:
    more: Any = {"background": True, "stream": stream, "metadata": {"id": response_id}}
    return await client.responses.create(model="m", input="?", **more)


async def all_of(events: Any) -> list[Any]:
    return [event async for event in events]


def text_of(events: list[Any]) -> str:
    return "".join(each.delta for each in events if each.type == "response.output_text.delta")


async def test_client_that_comes_back_goes_on_after_the_number_it_has() -> None:
    model = Model()
    async with serving(model) as (client, _):
        async with await asked(client, "resp_1") as stream:
            events: Any = aiter(stream)
            got = [await anext(events), await anext(events)]
            await events.aclose()  # The train enters a tunnel.
        model.may_end.set()
        async with await client.responses.retrieve(
            "resp_1", stream=True, starting_after=got[-1].sequence_number
        ) as stream:
            got += await all_of(stream)

    assert [event.sequence_number for event in got] == list(range(6))
    assert text_of(got) == "".join(WORDS)
    assert got[-1].type == "response.completed"
    assert model.asked == 1


async def test_response_can_be_asked_for_while_it_is_made_and_after() -> None:
    model = Model()
    async with serving(model) as (client, _):
        made = await asked(client, "resp_2", stream=False)
        assert (made.id, made.status) == ("resp_2", "in_progress")

        async with await client.responses.retrieve("resp_2", stream=True) as stream:
            model.may_end.set()
            whole = await all_of(stream)

        assert text_of(whole) == "".join(WORDS)
        assert (await client.responses.retrieve("resp_2")).status == "completed"
        # A create that is sent again is answered with what there is.
        async with await asked(client, "resp_2") as stream:
            assert text_of(await all_of(stream)) == "".join(WORDS)
    assert model.asked == 1


async def test_cancelled_response_ends_for_all_and_says_so() -> None:
    async with serving(Model()) as (client, _), await asked(client, "resp_3") as stream:
        first = await anext(stream)
        assert (await client.responses.cancel("resp_3")).status == "cancelled"
        rest = await all_of(stream)

    assert first.type == "response.created"
    assert rest[-1].type == "response.failed"
    assert rest[-1].response.status == "cancelled"


async def test_failed_response_says_nothing_of_the_exception() -> None:
    model = Model(fails=True)
    model.may_end.set()
    async with serving(model) as (client, http), await asked(client, "resp_4") as stream:
        *_, last = await all_of(stream)
        whole = await http.get("/responses/resp_4")

    assert last.response.error.message == "The response could not be completed."
    assert whole.json()["status"] == "failed"
    assert "secret" not in whole.text


AFTER = "/responses/resp_5?stream=true&starting_after="


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/responses/none", 404),
        ("/responses/none?stream=true", 404),
        (AFTER + "-1", 400),
        (AFTER + "9" * 20, 400),
        (AFTER + "%D9%A3", 400),
    ],
)
async def test_request_for_what_is_not_there_is_refused(path: str, status: int) -> None:
    async with serving(Model()) as (_, http):
        await http.post("/responses", json={"metadata": {"id": "resp_5"}})

        assert (await http.get(path)).status_code == status


async def test_response_without_an_object_yet_is_in_progress() -> None:
    class Late(Model):
        async def answer(self, response_id: str) -> AsyncIterator[dict[str, Any]]:
            yield {"type": "response.queued"}
            await self.may_end.wait()

    async with serving(Late()) as (_, http):
        answer = await http.post("/responses", json={"metadata": {"id": "resp_6"}})

    assert answer.json() == {"id": "resp_6", "object": "response", "status": "in_progress"}


def test_options_that_are_its_own_are_refused() -> None:
    with pytest.raises(TypeError, match=r"leave out \['end_event'\]"):
        BackgroundResponses(Hub(), end_event="x")
