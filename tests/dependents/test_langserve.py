"""LangServe: streams of a runnable, read with its own `RemoteRunnable`."""

from __future__ import annotations

from contextlib import AbstractContextManager

import httpx
import pytest
from langserve import RemoteRunnable
from tests.dependents.conftest import Dependent, Serve
from tests.dependents.streams import Reading, reading, stop

APP = "langserve_chain:application"


def runnable(server: Dependent) -> RemoteRunnable[str, str]:
    return RemoteRunnable(f"{server.url}/spell", client_kwargs={"trust_env": False})


def ask(server: Dependent, endpoint: str, text: str) -> AbstractContextManager[Reading]:
    return reading("POST", f"{server.url}/spell/{endpoint}", json={"input": text})


def test_stream_yields_what_the_runnable_yields(server: Dependent) -> None:
    assert list(runnable(server).stream("to be ☃")) == ["to ", "be ", "☃ "]


@pytest.mark.anyio
async def test_astream_yields_what_the_runnable_yields(server: Dependent) -> None:
    chunks = [chunk async for chunk in runnable(server).astream("to be ☃")]

    assert chunks == ["to ", "be ", "☃ "]


@pytest.mark.anyio
async def test_astream_events_tells_of_the_start_each_chunk_and_the_end(server: Dependent) -> None:
    events = [event async for event in runnable(server).astream_events("to be")]

    of_the_chain = [event for event in events if event["name"] == "/spell"]
    assert [event["event"] for event in of_the_chain] == [
        "on_chain_start",
        "on_chain_stream",
        "on_chain_stream",
        "on_chain_end",
    ]
    assert [event["data"].get("chunk") for event in of_the_chain[1:3]] == ["to ", "be "]
    assert of_the_chain[-1]["data"]["output"] == "to be "


@pytest.mark.anyio
async def test_astream_log_adds_up_to_the_output(server: Dependent) -> None:
    patches = [patch async for patch in runnable(server).astream_log("to be")]

    whole = patches[0]
    for patch in patches[1:]:
        whole = whole + patch
    assert whole.state["final_output"] == "to be "


@pytest.mark.parametrize("endpoint", ["stream", "stream_events", "stream_log"])
def test_every_stream_has_the_headers_of_an_event_stream(server: Dependent, endpoint: str) -> None:
    with ask(server, endpoint, "to be") as stream:
        body = stream.to_the_end()

    assert stream.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert stream.headers["cache-control"] == "no-store"
    assert stream.headers["x-accel-buffering"] == "no"
    assert body.endswith("event: end\r\n\r\n")


def test_runnable_is_cancelled_when_the_client_leaves(server: Dependent) -> None:
    chunks = runnable(server).stream("one wait two")
    assert next(chunks) == "one "

    chunks.close()

    server.wait_for_line("the spelling of 'one wait two' has ended")


def test_failure_of_the_runnable_reaches_the_client_and_the_log(serve: Serve) -> None:
    server = serve(APP)

    chunks = runnable(server).stream("one fail two")
    assert next(chunks) == "one "
    with pytest.raises(httpx.HTTPStatusError, match="Internal Server Error"):
        next(chunks)
    with ask(server, "stream", "fail again") as stream:
        body = stream.to_the_end()

    assert "event: error\r\n" in body
    server.wait_for_line("RuntimeError: this word can't be spelled")


def test_server_goes_at_once_and_every_open_stream_is_complete(serve: Serve) -> None:
    server = serve(APP)

    with (
        ask(server, "stream", "one wait") as words,
        ask(server, "stream_events", "2 wait") as events,
    ):
        words.until('data: "one "\r\n\r\n')
        events.until('"chunk":"2 "')
        stop(server)

        words.to_the_end()
        events.to_the_end()

    for text in ("one wait", "2 wait"):
        assert f"the spelling of '{text}' has ended" in server.lines
