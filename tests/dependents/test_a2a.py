"""The A2A SDK: streams of an agent in both bindings and both versions, read with its own client."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import httpx
import pytest
from a2a.client import Client, ClientConfig, ClientFactory
from a2a.helpers import get_artifact_text, new_text_message
from a2a.types import (
    AgentCapabilities,
    AgentCard,
    AgentInterface,
    Role,
    SendMessageRequest,
    StreamResponse,
    TaskState,
)
from tests.dependents.conftest import Dependent, Serve
from tests.dependents.streams import stop

APP = "a2a_agent:patient"

ENDPOINTS = {"JSONRPC": "rpc", "HTTP+JSON": "rest"}
# Version 0.3 calls its streaming method `message/stream`.
VARIANTS = [(binding, version) for binding in ENDPOINTS for version in ("1.0", "0.3")]


@pytest.fixture
def awaited(tmp_path: anyio.Path) -> anyio.Path:
    """The file that an agent waits for."""
    return anyio.Path(tmp_path / "awaited")


@asynccontextmanager
async def client(server: Dependent, binding: str, version: str) -> AsyncIterator[Client]:
    """A client of the SDK, all of whose answers must have the headers of an event stream."""
    url = f"{server.url}/{ENDPOINTS[binding]}"
    interface = AgentInterface(url=url, protocol_binding=binding, protocol_version=version)
    card = AgentCard(
        name="an agent",
        supported_interfaces=[interface],
        capabilities=AgentCapabilities(streaming=True),
    )
    headers: list[httpx.Headers] = []

    async def keep_headers(response: httpx.Response) -> None:
        headers.append(response.headers)

    hooks = {"response": [keep_headers]}
    async with httpx.AsyncClient(trust_env=False, timeout=90, event_hooks=hooks) as http:
        config = ClientConfig(httpx_client=http, supported_protocol_bindings=[binding])
        yield ClientFactory(config).create(card)
    for each in headers:
        assert each["content-type"] == "text/event-stream; charset=utf-8"
        assert each["cache-control"] == "no-store"
        assert each["x-accel-buffering"] == "no"
    assert headers


def request_to_wait_for(path: anyio.Path) -> SendMessageRequest:
    return SendMessageRequest(message=new_text_message(str(path), role=Role.ROLE_USER))


def told(events: list[StreamResponse]) -> list[str]:
    """What an agent has said, and how far its task has got."""
    found = []
    for event in events:
        if event.HasField("artifact_update"):
            found.append(get_artifact_text(event.artifact_update.artifact))
        elif event.HasField("status_update"):
            found.append(TaskState.Name(event.status_update.status.state))
    return found


@pytest.mark.parametrize(("binding", "version"), VARIANTS)
@pytest.mark.anyio
async def test_what_the_agent_says_arrives_as_it_says_it(
    server: Dependent, awaited: anyio.Path, binding: str, version: str
) -> None:
    before: list[StreamResponse] = []
    after: list[StreamResponse] = []

    async with client(server, binding, version) as agent:
        async for event in agent.send_message(request_to_wait_for(awaited)):
            (after if await awaited.exists() else before).append(event)
            if event.HasField("artifact_update"):
                await awaited.touch()

    assert told(before) == ["TASK_STATE_WORKING", "first"]
    assert told(after) == ["second", "TASK_STATE_COMPLETED"]


class Listener:
    """Sends a message in each variant and keeps what it is told."""

    def __init__(self, server: Dependent, awaited: anyio.Path) -> None:
        self._server = server
        self._awaited = awaited
        self._begun = anyio.Semaphore(0)
        self.told: dict[tuple[str, str], list[str]] = {variant: [] for variant in VARIANTS}

    async def listen(self, binding: str, version: str) -> None:
        """Read to the end of the body; the SDK raises if it's cut off."""
        words = self.told[binding, version]
        async with client(self._server, binding, version) as agent:
            async for event in agent.send_message(request_to_wait_for(self._awaited)):
                words += told([event])
                if words[-1:] == ["first"]:
                    self._begun.release()

    async def all_have_begun(self) -> None:
        for _ in VARIANTS:
            await self._begun.acquire()


@pytest.mark.anyio
async def test_agent_finishes_within_its_grace_period(serve: Serve, awaited: anyio.Path) -> None:
    server = serve("a2a_agent:patient")
    listener = Listener(server, awaited)

    with anyio.fail_after(90):
        async with anyio.create_task_group() as tasks:
            for variant in VARIANTS:
                tasks.start_soon(listener.listen, *variant)
            await listener.all_have_begun()
            tasks.start_soon(anyio.to_thread.run_sync, stop, server)
            await anyio.to_thread.run_sync(server.wait_for_line, "Shutting down")
            await awaited.touch()

    for variant in VARIANTS:
        everything = ["TASK_STATE_WORKING", "first", "second", "TASK_STATE_COMPLETED"]
        assert listener.told[variant] == everything


@pytest.mark.anyio
async def test_server_goes_at_once_without_a_grace_period(
    serve: Serve, awaited: anyio.Path
) -> None:
    server = serve("a2a_agent:at_once")
    listener = Listener(server, awaited)

    with anyio.fail_after(90):
        async with anyio.create_task_group() as tasks:
            for variant in VARIANTS:
                tasks.start_soon(listener.listen, *variant)
            await listener.all_have_begun()
            await anyio.to_thread.run_sync(stop, server)

    for variant in VARIANTS:
        assert listener.told[variant] == ["TASK_STATE_WORKING", "first"]
