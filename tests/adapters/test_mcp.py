"""The MCP SDK's server on a hub, read with its own client."""

from __future__ import annotations

import importlib
import logging
import sys
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import anyio
import httpx2
import pytest
from mcp import Client
from mcp.client.streamable_http import streamable_http_client
from mcp.server.mcpserver import Context, MCPServer
from mcp.server.streamable_http import EventMessage
from mcp.server.subscriptions import (
    PromptsListChanged,
    ResourcesListChanged,
    ResourceUpdated,
    ServerEvent,
    ToolsListChanged,
)
from mcp_types import JSONRPCMessage, JSONRPCNotification, JSONRPCResponse
from starlette.types import ASGIApp, Receive, Scope, Send
from tests.unit.logs import FakeLog, FakeStore

from sse_starlette import Hub
from sse_starlette.adapters.mcp import HubEventStore, HubSubscriptionBus
from sse_starlette.testing import StreamingASGITransport

pytestmark = pytest.mark.anyio
# The SDK's client leaves the iterator of a stream that was cut to the garbage collector, which trio complains of.
with_their_client = pytest.mark.parametrize("anyio_backend", ["asyncio"])

ANYTHING = (ToolsListChanged(), PromptsListChanged(), ResourcesListChanged())


class Listener:
    """Keeps what a bus calls it with."""

    def __init__(self) -> None:
        self._sender, self._receiver = anyio.create_memory_object_stream[ServerEvent](100)

    def __call__(self, event: ServerEvent) -> None:
        self._sender.send_nowait(event)

    async def next(self) -> ServerEvent:
        return await self._receiver.receive()

    def waiting(self) -> int:
        return self._receiver.statistics().current_buffer_used

    def close(self) -> None:
        self._sender.close()
        self._receiver.close()


@pytest.fixture
def listener() -> Listener:
    return Listener()


@pytest.fixture(autouse=True)
def closed(listener: Listener) -> Iterator[None]:
    yield
    listener.close()


# --- HubSubscriptionBus ---------------------------------------------------------------


@pytest.mark.parametrize("event", [*ANYTHING, ResourceUpdated("file:///a b\nc")])
async def test_event_reaches_the_listeners_of_another_process(
    event: ServerEvent, listener: Listener
) -> None:
    store = FakeStore()
    here, there = Hub(FakeLog(store)), Hub(FakeLog(store))
    async with here.lifespan(), there.lifespan(), HubSubscriptionBus(there) as listening:
        listening.subscribe(listener)

        await HubSubscriptionBus(here).publish(event)

        assert await listener.next() == event


async def test_each_listener_gets_each_event_until_it_unsubscribes(listener: Listener) -> None:
    other = Listener()
    async with HubSubscriptionBus(Hub()) as bus:
        unsubscribe = bus.subscribe(other)
        bus.subscribe(listener)

        await bus.publish(ToolsListChanged())
        assert await listener.next() == await other.next() == ToolsListChanged()

        unsubscribe()
        unsubscribe()
        await bus.publish(PromptsListChanged())
        assert await listener.next() == PromptsListChanged()
        assert other.waiting() == 0
    other.close()


def broken(event: ServerEvent) -> None:
    raise LookupError("broken on purpose")


async def test_listener_that_raises_and_event_of_somebody_else_are_logged_and_others_go_on(
    listener: Listener, caplog: pytest.LogCaptureFixture
) -> None:
    hub = Hub()
    async with HubSubscriptionBus(hub, channel="shared") as bus:
        bus.subscribe(broken)
        bus.subscribe(listener)
        await hub.channel("shared").publish({"event": "tick", "data": "1"})

        await bus.publish(ToolsListChanged())

        assert await listener.next() == ToolsListChanged()
    assert "broken on purpose" in caplog.text
    assert "an event named 'tick'" in caplog.text


async def test_listeners_are_told_that_anything_may_have_changed_when_events_were_missed(
    listener: Listener,
) -> None:
    hub = Hub()
    async with HubSubscriptionBus(hub, channel="small") as bus:
        bus.subscribe(listener)
        # More than the channel keeps, at once.
        for _ in range(1_100):
            hub.channel("small").publish_nowait({"event": "ToolsListChanged", "data": ""})

        heard = [await listener.next() for _ in range(3)]

    assert tuple(heard) == ANYTHING


async def test_bus_may_be_entered_before_the_event_log_is_there(
    store: FakeStore, log: FakeLog, listener: Listener
) -> None:
    store.down = True
    hub = Hub(log, publish_wait=0)
    async with hub.lifespan(), HubSubscriptionBus(hub) as bus:
        bus.subscribe(listener)
        store.down = False
        await anyio.wait_all_tasks_blocked()
        while not listener.waiting():
            await bus.publish(ToolsListChanged())
            await anyio.wait_all_tasks_blocked()


async def test_closed_channel_is_told(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "sse_starlette")
    hub = Hub()
    async with HubSubscriptionBus(hub, channel="to close"):
        hub.channel("to close").close()
        await anyio.wait_all_tasks_blocked()
    assert "channel 'to close' has been closed" in caplog.text


def test_subscribing_to_a_bus_that_does_not_listen_says_what_to_write(listener: Listener) -> None:
    with pytest.raises(RuntimeError, match=r"async with hub\.lifespan\(app\), bus"):
        HubSubscriptionBus(Hub()).subscribe(listener)


async def test_bus_is_entered_once_at_a_time() -> None:
    async with HubSubscriptionBus(Hub()) as bus:
        with pytest.raises(RuntimeError, match="enter it once"):
            await bus.__aenter__()
    await bus.__aexit__(None, None, None)
    async with bus:
        pass


async def test_clients_of_the_sdk_hear_of_changes(listener: Listener) -> None:
    async with HubSubscriptionBus(Hub()) as bus:
        server = MCPServer("a shop", subscriptions=bus)
        async with (
            Client(server) as client,
            client.listen(tools_list_changed=True, resource_subscriptions=["shop://1"]) as heard,
        ):
            await bus.publish(PromptsListChanged())  # Nobody asked for that.
            await bus.publish(ResourceUpdated("shop://1"))

            assert await anext(heard) == ResourceUpdated("shop://1")


# --- HubEventStore --------------------------------------------------------------------


class Begun(defaultdict[int, anyio.Event]):
    """Tells a tool that its client has had the first message of a call of so many steps."""

    def __init__(self) -> None:
        super().__init__(anyio.Event)


def resumable_server(begun: Begun) -> MCPServer:
    server = MCPServer("resumable", log_level="WARNING")

    @server.tool()
    async def hang_up(ctx: Context, steps: int) -> str:
        """End the stream of this request in the middle; the client comes back for the rest."""
        await ctx.report_progress(1)
        await begun[steps].wait()
        await ctx.close_sse_stream()
        for step in range(2, steps + 1):
            await ctx.report_progress(step)
        return "all of it"

    return server


class Watched(HubEventStore):
    """Tells when all calls have been answered."""

    def __init__(self, hub: Hub, calls: int) -> None:
        super().__init__(hub)
        self.answered = anyio.Event()
        self._open = calls

    async def store_event(self, stream_id: str, message: JSONRPCMessage | None) -> str:
        event_id = await super().store_event(stream_id, message)
        if isinstance(message, JSONRPCResponse) and message.result.get("structuredContent"):
            self._open -= 1
            if not self._open:
                self.answered.set()
        return event_id


class ComesBackLate(StreamingASGITransport):
    """A client that is back when all is there: the SDK loses messages that come while it replays others."""

    def __init__(self, app: ASGIApp, store: Watched) -> None:
        super().__init__(app, lifespan=True)
        self._store = store

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        if "last-event-id" in request.headers:
            await self._store.answered.wait()
        return await super().handle_async_request(request)


@asynccontextmanager
async def serving(begun: Begun, calls: int = 1) -> AsyncIterator[httpx2.AsyncClient]:
    server, store = resumable_server(begun), Watched(Hub(), calls)
    app = store.sessions(server.streamable_http_app(event_store=store, retry_interval=1))
    async with httpx2.AsyncClient(transport=ComesBackLate(app, store)) as http:
        yield http


@asynccontextmanager
async def connected(http: httpx2.AsyncClient) -> AsyncIterator[Client]:
    # `legacy` is the protocol with sessions, whose streams resume.
    where = streamable_http_client("http://127.0.0.1:8000/mcp", http_client=http)
    async with Client(where, mode="legacy") as client:
        yield client


async def call(client: Client, steps: int, begun: Begun) -> list[float]:
    got: list[float] = []

    async def on_progress(progress: float, total: float | None, message: str | None) -> None:
        got.append(progress)
        begun[steps].set()

    result = await client.call_tool("hang_up", {"steps": steps}, progress_callback=on_progress)
    assert result.structured_content == {"result": "all of it"}
    return got


@with_their_client
async def test_client_that_comes_back_gets_the_rest_of_its_call() -> None:
    begun = Begun()
    async with serving(begun) as http, connected(http) as client:
        assert await call(client, 5, begun) == [1, 2, 3, 4, 5]


@with_their_client
async def test_sessions_whose_requests_have_the_same_ids_do_not_get_each_others_messages() -> None:
    begun = Begun()
    async with (
        serving(begun, calls=2) as http,
        connected(http) as one,
        connected(http) as other,
        anyio.create_task_group() as tasks,
    ):
        got: dict[str, list[float]] = {}

        async def calling(name: str, client: Client, steps: int) -> None:
            got[name] = await call(client, steps, begun)

        tasks.start_soon(calling, "one", one, 5)
        tasks.start_soon(calling, "other", other, 8)

    assert got == {"one": [1, 2, 3, 4, 5], "other": [1, 2, 3, 4, 5, 6, 7, 8]}


NOTIFICATION = JSONRPCNotification(jsonrpc="2.0", method="notifications/message")


class Session:
    """Calls a store as the SDK does, within the context of a session."""

    def __init__(self, store: HubEventStore, session_id: str = "") -> None:
        self._store = store
        headers = [(b"mcp-session-id", session_id.encode())] if session_id else []
        self._scope = {"type": "http", "headers": headers}

    async def run(self, *stream_ids: str, after: str | None = None) -> list[object]:
        """Store a message in each of these streams, then replay; return the ids, and what was replayed."""
        done: list[object] = []

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            done.extend([await self._store.store_event(each, NOTIFICATION) for each in stream_ids])
            if after is not None:
                replayed: list[EventMessage] = []

                async def keep(message: EventMessage) -> None:
                    replayed.append(message)

                stream_id = await self._store.replay_events_after(after, keep)
                done.append((stream_id, [each.event_id for each in replayed]))
            await send({"type": "http.response.start", "headers": [(b"MCP-Session-Id", b"7")]})
            await send({"type": "http.response.body"})

        async def taken(message: object) -> None:
            pass

        await self._store.sessions(app)(self._scope, None, taken)  # type: ignore[arg-type]
        return done


@pytest.mark.parametrize("stream_id", ["1", "a\r\nid: b", "~", "ü/%"])
async def test_any_id_of_a_request_is_fit_for_an_event_stream(stream_id: str) -> None:
    store = HubEventStore(Hub())

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        begun = await store.store_event(stream_id, None)
        ids: list[str | None] = [await store.store_event(stream_id, NOTIFICATION) for _ in range(2)]
        assert all(str(each).isascii() and str(each).isprintable() for each in ids)
        for after, expected in ((begun, ids), (ids[0], ids[1:]), (ids[1], [])):
            replayed: list[str | None] = []

            async def keep(message: EventMessage, replayed: list[str | None] = replayed) -> None:
                assert message.message == NOTIFICATION
                replayed.append(message.event_id)

            assert await store.replay_events_after(str(after), keep) == stream_id
            assert replayed == expected

    await store.sessions(app)({"type": "http", "headers": []}, None, None)  # type: ignore[arg-type]


@pytest.mark.parametrize("forged", ["", "~", "no id", "0.0~1", "9.9"])
async def test_id_that_is_not_known_replays_nothing(
    forged: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "sse_starlette")

    _, replayed = await Session(HubEventStore(Hub())).run("1", after=forged)

    assert replayed == (None, [])
    assert "can't get what it has missed" in caplog.text


async def test_id_of_another_session_replays_nothing_of_it() -> None:
    store = HubEventStore(Hub())
    first, *_ = await Session(store).run("1", "1")

    *_, replayed = await Session(store).run(after=str(first))

    assert replayed == (None, [])


async def test_message_that_the_event_log_did_not_take_is_logged_and_the_session_goes_on(
    store: FakeStore, log: FakeLog, caplog: pytest.LogCaptureFixture
) -> None:
    hub = Hub(log, publish_wait=0)
    async with hub.lifespan():
        store.down = True

        (event_id,) = await Session(HubEventStore(hub)).run("1")

    assert event_id == "0.0~1"
    assert "could not be kept" in caplog.text


async def test_store_that_does_not_know_the_session_says_what_to_write() -> None:
    with pytest.raises(RuntimeError, match=r"store\.sessions\(mcp\.streamable_http_app"):
        await HubEventStore(Hub()).store_event("1", NOTIFICATION)


async def test_what_comes_after_a_request_is_not_of_its_session() -> None:
    store = HubEventStore(Hub())
    assert await Session(store).run("1") != []

    with pytest.raises(RuntimeError, match="doesn't know the session of a message"):
        await store.store_event("1", NOTIFICATION)


def test_missing_sdk_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "sse_starlette.adapters.mcp")
    monkeypatch.setitem(sys.modules, "mcp.server.streamable_http", None)

    with pytest.raises(ImportError, match=r"pip install '\.\[mcp\]'"):
        importlib.import_module("sse_starlette.adapters.mcp")
