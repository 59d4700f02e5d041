"""The MCP SDK: streamable HTTP and the older SSE transport, read with its own client."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from itertools import count
from typing import Any

import anyio
import httpx2
import pytest
from mcp import Client, MCPError
from mcp.client.sse import sse_client
from mcp.types import CallToolResult, ToolListChangedNotification
from tests.dependents.conftest import Dependent, Serve
from tests.dependents.streams import Reading, reading, stop
from tests.servers.serving import until

APP = "mcp_server:resumable"

VERSION = "2025-11-25"
ACCEPT = {"Accept": "application/json, text/event-stream"}

# Theirs, whoever streams. On its way down it can't send any more what a waiting call ended with ...
GAVE_UP = (
    r"WARNING: mcp\.shared\.jsonrpc_dispatcher: shutdown error response for request \S+ gave up.*"
)
# ... and the endpoint of the older transport answers once more when its stream has ended, which only a
# client that has left doesn't mind.
ANSWERED_TWICE = (
    r"ERROR: +Exception in ASGI application",
    r"RuntimeError: Unexpected ASGI message 'http\.response\.start' sent, after response already completed\.",
)
THEIRS = (GAVE_UP, *ANSWERED_TWICE)


def connect(server: Dependent, transport: str, **options: Any) -> Client:
    """A client of the SDK."""
    where = sse_client(f"{server.url}/sse") if transport == "sse" else f"{server.url}/mcp"
    # `legacy` is the protocol with sessions. The one without makes its streams without us.
    return Client(where, mode="legacy", **options)


@pytest.fixture(scope="module")
def sse_server(theirs: Sequence[str]) -> Iterator[Dependent]:
    with Dependent("mcp_server:legacy", theirs) as running:
        yield running
    assert running.complaints() == [], "\n".join(running.lines)


@pytest.fixture(params=["streamable", "sse"])
def transport(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def serving(request: pytest.FixtureRequest, transport: str) -> Dependent:
    """The server with this transport."""
    return request.getfixturevalue("sse_server" if transport == "sse" else "server")


def text_of(result: CallToolResult) -> str:
    assert not result.is_error, result
    return result.content[0].text


class Progress:
    """What a call reports on its way."""

    def __init__(self) -> None:
        self.steps: list[float] = []
        self.begun = anyio.Event()

    async def __call__(self, progress: float, total: float | None, message: str | None) -> None:
        self.steps.append(progress)
        self.begun.set()


class ToolsChanged:
    """Waits for the notification that there are other tools."""

    def __init__(self) -> None:
        self.came = anyio.Event()

    async def __call__(self, message: object) -> None:
        if isinstance(message, ToolListChangedNotification):
            self.came.set()


@pytest.mark.anyio
async def test_call_reports_its_progress_and_answers(serving: Dependent, transport: str) -> None:
    progress = Progress()

    async with connect(serving, transport) as client:
        result = await client.call_tool("add", {"a": 1, "b": 2}, progress_callback=progress)

    assert text_of(result) == "3"
    assert progress.steps == [1, 2, 3]


@pytest.mark.anyio
async def test_calls_of_one_session_run_side_by_side(serving: Dependent, transport: str) -> None:
    answers: list[str] = []

    async with connect(serving, transport) as client, anyio.create_task_group() as tasks:

        async def add(number: int) -> None:
            answers.append(text_of(await client.call_tool("add", {"a": number, "b": 0})))

        for number in range(10):
            tasks.start_soon(add, number)

    assert sorted(map(int, answers)) == list(range(10))


def streams_opened(server: Dependent) -> int:
    return sum(
        re.search(r'"GET /(mcp|sse) HTTP/1.1" 200', line) is not None for line in server.lines
    )


def until_more_are_opened(server: Dependent, than: int) -> None:
    assert until(lambda: streams_opened(server) > than), server.lines


@pytest.mark.anyio
async def test_server_notifies_the_client_unasked(serving: Dependent, transport: str) -> None:
    changed = ToolsChanged()
    opened = streams_opened(serving)

    async with connect(serving, transport, message_handler=changed) as client:
        # The server keeps nothing for a client whose stream isn't open yet.
        await anyio.to_thread.run_sync(until_more_are_opened, serving, opened)
        with anyio.fail_after(90):
            await client.call_tool("announce", {})
            await changed.came.wait()


@pytest.mark.anyio
async def test_client_comes_back_for_the_rest_of_a_call(server: Dependent) -> None:
    progress = Progress()

    async with connect(server, "streamable") as client:
        with anyio.fail_after(90):
            result = await client.call_tool("hang_up", {}, progress_callback=progress)

    assert text_of(result) == "all of it"
    assert progress.steps == [1, 2]


class Session:
    """A session of streamable HTTP whose requests are made by hand."""

    def __init__(self, server: Dependent) -> None:
        self.url = f"{server.url}/mcp"
        self._ids = count(1)
        hello = {
            "protocolVersion": VERSION,
            "capabilities": {},
            "clientInfo": {"name": "a test", "version": "1"},
        }
        with self._ask("initialize", hello, ACCEPT) as stream:
            stream.to_the_end()
            self.answer = stream.headers
        self.headers = {
            **ACCEPT,
            "Mcp-Session-Id": self.answer["mcp-session-id"],
            "MCP-Protocol-Version": VERSION,
        }
        note = {"jsonrpc": "2.0", "method": "notifications/initialized"}
        with httpx2.Client(trust_env=False) as client:
            assert client.post(self.url, json=note, headers=self.headers).status_code == 202

    def _ask(
        self, method: str, params: dict[str, Any], headers: dict[str, str]
    ) -> AbstractContextManager[Reading]:
        body = {"jsonrpc": "2.0", "id": next(self._ids), "method": method, "params": params}
        return reading("POST", self.url, json=body, headers=headers)

    def call(self, tool: str) -> AbstractContextManager[Reading]:
        """Call a tool, and read what comes."""
        params = {"name": tool, "arguments": {}, "_meta": {"progressToken": "token"}}
        return self._ask("tools/call", params, self.headers)

    def listen(self, last_event_id: str | None = None) -> AbstractContextManager[Reading]:
        """Open the stream of the session, or that of a call again."""
        again = {} if last_event_id is None else {"Last-Event-ID": last_event_id}
        return reading("GET", self.url, headers={**self.headers, **again})

    def end(self) -> None:
        with httpx2.Client(trust_env=False) as client:
            assert client.delete(self.url, headers=self.headers).status_code == 200


def messages(body: str) -> list[tuple[str, dict[str, Any]]]:
    """The messages in a body and their ids."""
    found = []
    for block in body.split("\r\n\r\n"):
        fields = dict(line.split(": ", 1) for line in block.split("\r\n") if ": " in line)
        if fields.get("data"):
            found.append((fields["id"], json.loads(fields["data"])))
    return found


def test_call_that_lost_its_client_is_resumed_where_it_was(server: Dependent) -> None:
    session = Session(server)

    with session.call("wait_for_release") as stream:
        [(last_event_id, first)] = messages(stream.until('"progress":1'))
    with session.call("release") as stream:
        stream.to_the_end()
    with session.listen(last_event_id) as stream:
        second, result = (message for _, message in messages(stream.until('"result"')))

    assert first["params"]["progress"] == 1
    assert second["params"]["progress"] == 2
    assert result["result"]["content"][0]["text"] == "released"


def test_ended_session_ends_its_stream_and_is_unknown_from_then_on(server: Dependent) -> None:
    session = Session(server)

    with session.listen() as stream:
        session.end()
        body = stream.to_the_end()

    assert messages(body) == []
    with httpx2.Client(trust_env=False) as client:
        assert client.get(session.url, headers=session.headers).status_code == 404


def test_stream_of_the_session_can_be_ended_and_opened_again(server: Dependent) -> None:
    session = Session(server)

    with session.listen() as stream:
        with session.call("hang_up_the_session") as call:
            call.to_the_end()
        stream.to_the_end()
    with session.listen() as stream:
        with session.call("announce") as call:
            call.to_the_end()
        body = stream.until("tools/list_changed")

    assert [each["method"] for _, each in messages(body)] == ["notifications/tools/list_changed"]


def test_client_that_leaves_makes_room_for_the_next(server: Dependent) -> None:
    """A session has one stream; the server has to notice that the client has gone."""
    session = Session(server)

    with session.listen():
        pass

    def is_free() -> bool:
        with httpx2.stream(
            "GET", session.url, headers=session.headers, trust_env=False
        ) as response:
            assert response.status_code in (200, 409)
            return response.status_code == 200

    assert until(is_free)


def test_streams_of_streamable_http_keep_their_own_headers(server: Dependent) -> None:
    session = Session(server)

    with session.listen() as stream, session.call("announce") as call:
        for headers in (session.answer, stream.headers, call.headers):
            assert headers["content-type"] == "text/event-stream"
            assert headers["cache-control"] == "no-cache, no-transform"
            assert "connection" not in headers  # It belongs to the server.
            assert headers["x-accel-buffering"] == "no"
            assert headers["mcp-session-id"] == session.headers["Mcp-Session-Id"]


def test_stream_of_the_sse_transport_has_the_headers_of_an_event_stream(
    sse_server: Dependent,
) -> None:
    with reading("GET", f"{sse_server.url}/sse") as stream:
        body = stream.until("\r\n\r\n")

    assert body.startswith("event: endpoint\r\ndata: /messages/?session_id=")
    assert stream.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert stream.headers["cache-control"] == "no-store"
    assert "connection" not in stream.headers  # It belongs to the server.
    assert stream.headers["x-accel-buffering"] == "no"


def test_server_goes_at_once_and_every_open_stream_is_complete(serve: Serve) -> None:
    server = serve("mcp_server:streamable")
    session = Session(server)

    with session.listen() as stream, session.call("wait_for_release") as call:
        call.until('"progress":1')
        stop(server)

        assert stream.to_the_end() == ""
        assert '"result"' not in call.to_the_end()


def test_sse_server_goes_at_once_and_the_open_stream_is_complete(serve: Serve) -> None:
    server = serve("mcp_server:legacy")

    with reading("GET", f"{server.url}/sse") as stream:
        stream.until("event: endpoint")
        stop(server)

        stream.to_the_end()


@pytest.mark.anyio
async def test_call_fails_when_its_server_goes(serve: Serve, transport: str) -> None:
    server = serve("mcp_server:legacy" if transport == "sse" else "mcp_server:streamable")
    progress = Progress()

    async def call(client: Client) -> None:
        with pytest.raises(MCPError):
            await client.call_tool("wait_for_release", {}, progress_callback=progress)

    with anyio.fail_after(90):
        async with connect(server, transport) as client, anyio.create_task_group() as tasks:
            tasks.start_soon(call, client)
            await progress.begun.wait()
            await anyio.to_thread.run_sync(stop, server)
