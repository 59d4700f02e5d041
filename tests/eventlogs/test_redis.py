"""The log in Redis, on a real one: how it fails, and how it comes back."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest
import redis
from redis.asyncio import Redis
from redis.asyncio.cluster import RedisCluster
from redis.asyncio.sentinel import Sentinel
from redis.exceptions import AuthenticationError, InvalidResponse
from tests.eventlogs.stores import failed_appends, listening_in_vain
from tests.servers.redis_servers import ClusterNode, RedisServer
from tests.servers.serving import free_port, until
from tests.unit.driving import SEAT_BELT_SECONDS, on
from tests.unit.driving import until as until_on_loop
from tests.unit.jumping import backend_that_jumps
from tests.unit.test_fork import run_program

from sse_starlette import Hub
from sse_starlette.errors import LogRefused, LogUnavailable
from sse_starlette.eventlogs.base import Limits
from sse_starlette.eventlogs.redis import RedisLog
from sse_starlette.eventlogs.redis._commands import Commands, answer_within
from sse_starlette.eventlogs.redis._protocol import Names
from sse_starlette.eventlogs.redis._pubsub import PubSubConnection
from sse_starlette.testing.eventlogs import (
    EventLogContract,
    LeaseContract,
    MakeLog,
    RecordingListener,
    append,
    listening,
    offsets,
    opened,
    read,
)

pytestmark = pytest.mark.anyio


@pytest.fixture(params=[on("asyncio"), on("uvloop")])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    backend: tuple[str, dict[str, Any]] = request.param
    return backend


class ServedLog(RedisLog):
    """A log, with the server at hand that it's on."""

    def __init__(self, server: RedisServer) -> None:
        super().__init__(server.url)
        self.server = server


@pytest.fixture
def log(empty_server: RedisServer) -> ServedLog:
    return ServedLog(empty_server)


@pytest.fixture
def own_log(own_server: RedisServer) -> ServedLog:
    """One whose server a test may break."""
    return ServedLog(own_server)


@pytest.fixture
def node(tmp_path: Path) -> Iterator[RedisServer]:
    """A cluster of one, which for its first two seconds is not ready for more than listening."""
    with ClusterNode(tmp_path) as server:
        server.say("CLUSTER ADDSLOTS", *range(16384))
        yield server


@pytest.fixture
def prefix() -> str:
    """What no other test has in its keys."""
    return secrets.token_hex(4)


class TestContract(EventLogContract, LeaseContract):
    @pytest.fixture
    def make_log(self, server: RedisServer, prefix: str) -> MakeLog:
        return lambda: RedisLog(server.url, prefix=prefix)


@asynccontextmanager
async def closed_at_the_end(client: Any) -> AsyncIterator[None]:
    try:
        yield
    finally:
        await client.aclose()


# --- What it is made with -------------------------------------------------------------

AT_HOME = "redis://localhost"


@pytest.mark.parametrize(
    ("url", "options", "said"),
    [
        ("http://localhost", {}, "begins with one of redis://, rediss://, .*, not 'http'"),
        ("localhost:6379", {}, "begins with one of"),
        ("redis://localhost:port", {}, "can't be understood"),
        ("redis://[::1:6379", {}, "can't be understood"),
        ("redis://user:pass/word@localhost", {}, "can't be understood"),
        ("redis://localhost/0?colour=red", {}, "can't be understood: .*colour"),
        ("redis+cluster://one:6379,two:port", {}, "can't be understood"),
        ("redis://localhost/abc", {}, "can't be understood: its path is the number of a database"),
        ("redis://localhost/0/1", {}, "can't be understood: its path is the number of a database"),
        ("redis+cluster://", {}, "can't be understood: it names no node of the cluster"),
        ("redis+cluster://one:6379,:6380", {}, "it names no node of the cluster, or one without"),
        (AT_HOME, {"prefix": ""}, "prefix"),
        (AT_HOME, {"prefix": "a:b"}, "prefix"),
        (AT_HOME, {"prefix": "{"}, "prefix"),
        (AT_HOME, {"timeout": 0}, "timeout must be > 0 seconds, got: 0"),
        (AT_HOME, {"probe": float("nan")}, "probe must be > 0"),
    ],
)
def test_urls_that_cannot_be_understood_and_options_out_of_range_are_refused(
    url: str, options: dict[str, Any], said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        RedisLog(url, **options)


@pytest.mark.parametrize("client", [redis.Redis(), None, 5, b"redis://localhost"])
def test_what_is_neither_a_url_nor_a_client_is_refused(client: Any) -> None:
    with pytest.raises(TypeError, match=r"a URL or a client of redis\.asyncio is needed"):
        RedisLog(client)


@pytest.mark.parametrize("url", ["redis://u:secret@127.0.0.1:1/3", "unix://u:secret@/no/such?db=3"])
async def test_log_is_named_without_its_password(url: str) -> None:
    log = RedisLog(url)

    async with opened(log):
        with pytest.raises(LogUnavailable) as caught:
            await log.check()

    assert "secret" not in str(caught.value)
    assert caught.value.log == url.replace("u:secret@", "").partition("?")[0]
    assert isinstance(caught.value.__cause__, redis.ConnectionError)


async def test_clients_of_the_users_own_are_named_by_where_they_lead() -> None:
    clients: dict[str, Redis | RedisCluster] = {
        "redis://127.0.0.1:1": Redis(host="127.0.0.1", port=1, password="secret"),
        "unix:///no/such": Redis(unix_socket_path="/no/such"),
        "events (by Sentinel)": Sentinel([("127.0.0.1", 1)]).master_for("events"),  # type: ignore[no-untyped-call]
        "redis+cluster://127.0.0.1:1": RedisCluster("127.0.0.1", 1),
    }

    for named, client in clients.items():
        log = RedisLog(client, timeout=0.05)
        async with closed_at_the_end(client), opened(log):
            with pytest.raises(LogUnavailable) as caught:
                await log.check()
        assert caught.value.log == named


def test_trio_is_refused() -> None:
    async def main() -> None:
        with pytest.raises(RuntimeError, match="RedisLog needs asyncio"):
            async with RedisLog(AT_HOME).open():
                raise AssertionError

    anyio.run(main, backend="trio")


async def test_guest_of_asyncio_that_has_no_task_is_refused() -> None:
    """As trio is, when it's a guest of asyncio's loop."""
    entering: Any = RedisLog(AT_HOME).open().__aenter__()
    said: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    def step() -> None:
        try:
            entering.send(None)
        except RuntimeError as error:
            said.set_result(str(error))

    asyncio.get_running_loop().call_soon(step)

    assert "needs asyncio" in await said


async def test_server_is_reached_by_its_socket_too(server: RedisServer, prefix: str) -> None:
    by_socket = RedisLog(f"unix://{server.socket}", prefix=prefix)
    by_port = RedisLog(server.url, prefix=prefix)

    async with opened(by_socket, by_port), listening(by_socket, "a") as listener:
        await append(by_port, "a")
        await listener.until(lambda: listener.offsets("a") == [1])


@pytest.mark.parametrize("options", [{"decode_responses": True}, {"protocol": 3}, {}])
async def test_client_of_the_users_own_is_used_as_it_is_and_left_open(
    server: RedisServer, prefix: str, options: dict[str, Any]
) -> None:
    client = Redis(port=server.port, **options)
    log = RedisLog(client, prefix=prefix)
    body = bytes(range(256))

    async with closed_at_the_end(client):
        async with opened(log), listening(log, "a") as listener:
            position = await append(log, "a", body, key="\N{SNOWMAN}")
            page = await read(log, "a")
            heads = await log.heads(["a"], expire=60)
            await listener.until(lambda: listener.entries)

        assert page.entries == [(1, "\N{SNOWMAN}", body)]
        assert listener.entries == [("a", position.epoch, page.entries[0])]
        assert heads == {"a": position}
        assert await client.ping()


async def test_databases_of_one_server_know_nothing_of_each_other(
    server: RedisServer, prefix: str
) -> None:
    """What is published in one is heard in all of them."""
    first = RedisLog(server.url, prefix=prefix)
    second = RedisLog(server.url[:-1] + "1", prefix=prefix)

    async with opened(first, second), listening(first, "a") as listener:
        other = await append(second, "a")
        position = await append(first, "a")
        await listener.until(lambda: listener.entries)

    assert other.epoch != position.epoch
    assert [epoch for _, epoch, _ in listener.entries] == [position.epoch]


# --- Out of reach ---------------------------------------------------------------------


async def test_log_out_of_reach_is_told_once_and_joined_when_it_is_there(
    own_log: ServedLog,
) -> None:
    own_log.server.stop()
    async with opened(own_log), listening_in_vain(own_log) as listener:
        with pytest.raises(
            LogUnavailable, match=f"the log at {own_log.server.url} can't be reached"
        ):
            await append(own_log, "a")
        await anyio.sleep(0.1)
        own_log.server.start()
        await listener.until(lambda: listener.subscriptions)
        position = await append(own_log, "a")
        await listener.until(lambda: listener.entries)

    assert position.offset == 1
    (error,) = listener.losses
    assert isinstance(error, LogUnavailable)
    assert isinstance(error.__cause__, redis.ConnectionError)


@pytest.mark.parametrize("anyio_backend", [backend_that_jumps("asyncio")], ids=["asyncio"])
async def test_who_listens_in_vain_waits_twice_as_long_each_time_up_to_two_seconds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    times: list[float] = []

    async def refuse(*_: object, **__: object) -> None:
        times.append(anyio.current_time())
        # Without pauses the clock would stand still.
        await (anyio.sleep_forever() if len(times) > 1_000 else anyio.lowlevel.checkpoint())
        raise redis.ConnectionError

    monkeypatch.setattr("sse_starlette.eventlogs.redis.open_connection", refuse)
    log = RedisLog("redis://localhost")
    with anyio.move_on_after(60):
        async with opened(log), listening_in_vain(log):
            await anyio.sleep_forever()

    pauses = [after - before for before, after in pairwise(times)]
    longest = [0.05, 0.1, 0.2, 0.4, 0.8, 1.6, *[2.0] * (len(pauses) - 6)]
    assert len(pauses) > 30
    # A part of each is left to chance.
    assert all(most / 2 <= pause <= most for pause, most in zip(pauses, longest, strict=True))


async def test_silent_connection_is_tried_again_and_again(own_server: RedisServer) -> None:
    """However long an answer may take: the next try comes after `probe` seconds of silence."""
    log = RedisLog(own_server.url, timeout=60, probe=0.02)

    def tried_often() -> bool:
        tries: dict[str, int] = own_server.say("INFO", "commandstats").get("cmdstat_ping", {})
        return tries.get("calls", 0) > 3

    async with opened(log), listening(log, "a") as listener:
        assert await anyio.to_thread.run_sync(partial(until, tried_often))
        await append(log, "a")
        await listener.until(lambda: listener.offsets("a") == [1])

    assert listener.losses == []


async def test_subscription_that_is_not_acknowledged_is_noticed(own_server: RedisServer) -> None:
    log = RedisLog(own_server.url, timeout=0.1)

    async with opened(log), listening(log, "a") as listener:
        own_server.freeze()
        log.watch("b")
        await listener.until(lambda: listener.losses)
        own_server.thaw()
        await listener.until(lambda: sorted(listener.subscriptions) == ["a", "a", "b"])


async def test_lost_history_has_another_epoch(log: ServedLog) -> None:
    async with opened(log), listening(log, "a") as listener:
        before = await append(log, "a")
        log.server.say("FLUSHALL")
        assert await log.heads(["a"], expire=60) == {}
        empty = await read(log, "a", 1)
        after = await append(log, "a")
        log.server.say("FLUSHALL")
        # The other script comes first this time.
        again = await append(log, "a")
        await listener.until(lambda: len(listener.entries) == 3)

    assert (empty.head, empty.entries) == (0, [])
    assert after == (empty.epoch, 1)
    assert len({before.epoch, after.epoch, again.epoch}) == 3
    assert [epoch for _, epoch, _ in listener.entries] == [before.epoch, after.epoch, again.epoch]
    assert listener.losses == []


async def test_scripts_that_the_server_has_forgotten_are_given_again(log: ServedLog) -> None:
    async with opened(log):
        for offset in range(1, 4):
            assert (await append(log, "a")).offset == offset
            log.server.say("SCRIPT FLUSH")
            assert (await read(log, "a")).head == offset
            log.server.say("SCRIPT FLUSH")


async def test_history_whose_head_was_evicted_is_not_read(log: ServedLog) -> None:
    async with opened(log):
        for name in "ab":
            for _ in range(5):
                await append(log, name)
            log.server.say("DEL", f"{{sse:{name}}}:m")
        page = await read(log, "a")
        position = await append(log, "b")
        other = await read(log, "b")

    assert (page.head, page.entries) == (0, [])
    assert (position.offset, offsets(other)) == (1, [1])


# --- What the server says -------------------------------------------------------------


async def test_replica_is_left_for_whoever_is_the_master_now(own_log: ServedLog) -> None:
    async with opened(own_log):
        before = await append(own_log, "a")
        connected = own_log.server.connections()
        own_log.server.say("CONFIG SET", "replica-serve-stale-data", "yes")
        own_log.server.say("REPLICAOF", "127.0.0.1", free_port())
        with pytest.raises(LogUnavailable):
            await append(own_log, "a", key="k")
        left = own_log.server.connections()
        own_log.server.say("REPLICAOF", "NO", "ONE")
        after = await append(own_log, "a", key="k")

    assert (len(connected), len(left)) == (1, 0)
    assert after == (before.epoch, 2)


async def test_full_server_is_unavailable_until_it_has_room(own_log: ServedLog) -> None:
    async with opened(own_log):
        await append(own_log, "a")
        own_log.server.say("CONFIG SET", "maxmemory", 1)
        # Whether it's a new channel, one that was just added to, or one whose time to live is to be told.
        for channel, expire in (("b", 3_600), ("a", 3_600), ("a", 1_000)):
            with pytest.raises(LogUnavailable, match="maxmemory"):
                await append(own_log, channel, limits=Limits(expire=expire))
        with pytest.raises(LogRefused, match="maxmemory"):
            await own_log.check()
        own_log.server.say("CONFIG SET", "maxmemory", 0)
        await own_log.check()
        position = await append(own_log, "a")

    assert position.offset == 2


async def test_key_of_somebody_else_concerns_its_channel_alone(log: ServedLog) -> None:
    log.server.say("SET", "{sse:a}:s", "mine")

    async with opened(log):
        await read(log, "b")
        log.server.say("SET", "{sse:b}:s", "mine")
        with pytest.raises(LogRefused, match="wrong kind") as caught:
            await append(log, "b")
        assert caught.value.channel == "b"
        await append(log, "c")
        # Nothing was counted that isn't there.
        log.server.say("DEL", "{sse:b}:s")
        position = await append(log, "b")

    assert position.offset == 1


async def test_wrong_password_is_refused_and_listening_goes_on_trying(
    own_server: RedisServer,
) -> None:
    log = RedisLog(own_server.url.replace("//", "//:wrong@"))
    own_server.say("CONFIG SET", "requirepass", "right")

    async with opened(log), listening_in_vain(log) as listener:
        with pytest.raises(LogRefused, match="Correct the user name and the password"):
            await append(log, "a")
        with redis.Redis(port=own_server.port, password="right") as client:
            client.config_set("requirepass", "wrong")
        await listener.until(lambda: listener.subscriptions)

    (error,) = listener.losses
    assert isinstance(error, LogRefused)
    assert isinstance(error.__cause__, AuthenticationError)
    assert str(error).startswith("the log at redis://127.0.0.1")
    assert "wrong@" not in str(error)


async def test_whoever_may_not_listen_is_told_so(own_server: RedisServer) -> None:
    own_server.say("ACL SETUSER", "deaf", "on", ">x", "~*", "+@all", "resetchannels")
    log = RedisLog(own_server.url.replace("//", "//deaf:x@"))

    async with opened(log), listening_in_vain(log) as listener:
        own_server.say("ACL SETUSER", "deaf", "allchannels")
        await listener.until(lambda: listener.subscriptions)

    assert isinstance(listener.losses[0], LogRefused)
    assert "no permissions" in str(listener.losses[0])


async def test_what_others_publish_there_is_looked_up(log: ServedLog) -> None:
    async with opened(log), listening(log, "a") as listener:
        for payload in ("", "hello", "e 1 x y", "e x 1 y"):
            log.server.say("PUBLISH", "{sse:a}:p0", payload)
        await listener.until(lambda: len(listener.notifications) == 4)

    assert listener.entries == []


async def test_flood_of_events_leaves_the_loop_to_others(log: ServedLog) -> None:
    async with opened(log), listening(log, "a") as listener:
        with redis.Redis(port=log.server.port) as client, client.pipeline() as pipeline:
            for number in range(1, 501):
                pipeline.publish("{sse:a}:p0", f"e {number} 1 kx")
            pipeline.execute()
        # Nothing has been read yet; then it's there all at once.
        await listener.until(lambda: listener.entries)
        first = len(listener.entries)
        await listener.until(lambda: len(listener.entries) == 500)

    assert first <= 64


async def test_what_comes_after_a_channel_was_unwatched_is_not_passed_on(log: ServedLog) -> None:
    async with opened(log), listening(log, "a", "b") as listener:
        for channel in "ab":
            log.server.say("PUBLISH", f"{{sse:{channel}}}:p0", "e 1 1 kx")
        log.unwatch("a")
        await listener.until(lambda: listener.entries)

    assert [channel for channel, _, _ in listener.entries] == ["b"]


async def test_channel_that_goes_before_it_was_joined_is_not_joined(own_log: ServedLog) -> None:
    async with opened(own_log), listening(own_log, "a") as listener:
        own_log.server.freeze()
        own_log.watch("b")
        own_log.watch("c")
        await anyio.wait_all_tasks_blocked()
        own_log.unwatch("b")
        own_log.server.thaw()
        await listener.until(lambda: "c" in listener.subscriptions)
        own_log.watch("d")
        await listener.until(lambda: "d" in listener.subscriptions)

        assert listener.subscriptions == ["a", "c", "d"]
        assert own_log.server.connections("pubsub")[0]["sub"] == "3"


async def test_waiting_for_a_turn_counts_as_waiting(own_server: RedisServer) -> None:
    log = RedisLog(own_server.url, timeout=0.1)

    async with opened(log):
        own_server.freeze()
        failed = await failed_appends(log)
        own_server.thaw()

    assert len(failed) == 50


# --- A cluster ------------------------------------------------------------------------


async def test_cluster_that_is_down_is_unavailable(node: RedisServer) -> None:
    log = RedisLog(f"redis+cluster://127.0.0.1:{node.port},127.0.0.1:1")

    async with opened(log), listening(log, "a") as listener:
        node.say("CLUSTER DELSLOTS", 0)
        with pytest.raises(LogUnavailable):
            await append(log, "a")
        node.say("PUBLISH", "{sse:a}:p0", "e 1 1 kx")
        await listener.until(lambda: listener.entries)


def test_a_publisher_finds_a_cluster_by_whichever_node_is_up(node: RedisServer) -> None:
    with Hub(f"redis+cluster://127.0.0.1:1,127.0.0.1:{node.port}").publisher() as publisher:
        assert publisher.publish("c", "x", wait=SEAT_BELT_SECONDS).endswith(".1")


async def test_listening_finds_the_cluster_again(node: RedisServer) -> None:
    log = RedisLog(f"redis+cluster://127.0.0.1:{node.port}", timeout=60)

    async with opened(log), listening(log, "a") as listener:
        node.stop()
        await listener.until(lambda: listener.losses)
        await anyio.sleep(0.1)
        node.start()
        await listener.until(lambda: listener.subscriptions == ["a", "a"])

    assert [type(error) for error in listener.losses] == [LogUnavailable]


FORKED_WITH_REDIS = """
import multiprocessing
from sse_starlette import Hub
from sse_starlette.eventlogs.redis import RedisLog
from redis.asyncio import Redis

hub = Hub({log})
# More than the parent publishes in all the time that the program has: the first event stays.
channel = hub.channel("c", history=100_000)
running, over = threading.Event(), threading.Event()

async def keep():
    async with hub.lifespan():
        async with channel.subscribe() as subscription:
            await channel.publish("first")
            assert (await anext(subscription)).data == "first"
            running.set()
            while not over.is_set():
                await asyncio.sleep(0.02)
                await channel.publish("tick")
                assert (await anext(subscription)).data in ("tick", "from the child")

thread = threading.Thread(target=lambda: asyncio.run(keep()), daemon=True)
thread.start()
running.wait()

async def again():
    async with hub.lifespan():
        async with channel.subscribe(replay=100_000) as subscription:
            assert (await anext(subscription)).data == "first"
            await channel.publish("from the child")
            async for event in subscription:
                if event.data == "from the child":
                    break

def child():
    try:
        channel.publish_threadsafe("x").result()
    except RuntimeError as error:
        assert "before this process was forked" in str(error), error
    else:
        assert False
    asyncio.run(again())

for _ in range(3):
    in_child(child)
workers = [multiprocessing.get_context("fork").Process(target=child) for _ in range(4)]
for worker in workers:
    worker.start()
for worker in workers:
    worker.join()
assert [worker.exitcode for worker in workers] == [0] * 4
over.set()
thread.join()
"""


@pytest.mark.parametrize("log", ["{url!r}", "RedisLog(Redis.from_url({url!r}))"])
def test_children_of_a_fork_and_their_parent_publish_and_listen_side_by_side(
    empty_server: RedisServer, tmp_path: Path, log: str
) -> None:
    program = FORKED_WITH_REDIS.format(log=log.format(url=empty_server.url))

    run_program(program, tmp_path)


async def test_a_cluster_client_that_was_in_use_at_the_fork_is_refused_in_the_child() -> None:
    log = RedisLog(RedisCluster(host="127.0.0.1", port=1))
    async with log.open():
        log.after_fork()

    with pytest.raises(RuntimeError, match="when this process was forked"):
        async with log.open():
            pass


async def test_a_client_that_was_open_at_a_fork_is_used_again_with_other_connections(
    empty_server: RedisServer,
) -> None:
    client = Redis.from_url(empty_server.url)
    log = RedisLog(client)
    log.after_fork()
    async with closed_at_the_end(client):
        async with log.open():
            log.after_fork()
            with pytest.raises(RuntimeError, match="isn't open"):
                await append(log, "a")
        async with opened(log):
            assert (await append(log, "a")).offset == 1


# --- Waiting and answers --------------------------------------------------------------


async def all_turns_of(log: ServedLog) -> Commands:
    """Have every turn, so that what is asked of the log waits for one."""
    commands = log._opened()
    for _ in range(4):
        await commands._turns.acquire()
    return commands


async def test_who_gives_up_before_its_turn_appends_nothing(own_log: ServedLog) -> None:
    async with opened(own_log):
        async with asyncio.TaskGroup() as tasks:
            commands = await all_turns_of(own_log)
            given_up = tasks.create_task(append(own_log, "a"))
            await until_on_loop(lambda: commands._waiting)
            given_up.cancel()
        assert not commands._waiting
        for _ in range(4):
            commands._turns.release()

        assert (await append(own_log, "a")).offset == 1


async def test_turn_that_finds_its_entry_sent_by_another_waits_for_the_answer(
    own_log: ServedLog,
) -> None:
    """It must not look for work again and again: the loop would never come to the answer."""
    async with opened(own_log):
        await append(own_log, "a")  # It's connected.
        commands = await all_turns_of(own_log)
        appending = [asyncio.create_task(append(own_log, channel)) for channel in "ab"]
        await until_on_loop(lambda: len(commands._waiting) == 2)
        own_log.server.freeze()
        commands._turns.release()
        await until_on_loop(lambda: not commands._waiting)  # The first takes both.
        commands._turns.release()
        await anyio.wait_all_tasks_blocked()
        own_log.server.thaw()

        assert [position.offset for position in await asyncio.gather(*appending)] == [2, 1]
        for _ in range(2):
            commands._turns.release()


async def test_what_waits_for_its_turn_when_the_log_is_closed_is_told_so(log: ServedLog) -> None:
    async with opened(log):
        commands = await all_turns_of(log)
        waiting = [asyncio.create_task(call) for call in (append(log, "a"), read(log, "a"))]
        await asyncio.sleep(0)
    for _ in range(4):
        commands._turns.release()

    for outcome in await asyncio.gather(*waiting, return_exceptions=True):
        assert isinstance(outcome, RuntimeError)
        assert "isn't open" in str(outcome)


class Acknowledging:
    """A connection on which the server acknowledges what nobody has asked for."""

    async def read_response(self, **_: Any) -> list[Any]:
        return [b"subscribe", b"another topic", 1]

    async def disconnect(self, **_: Any) -> None:
        pass


async def test_an_acknowledgement_of_what_was_not_asked_for_ends_the_connection() -> None:
    raw: Any = Acknowledging()
    names = Names("sse", 0)
    connection = PubSubConnection(raw, RecordingListener(), set(), names, timeout=5, probe=15)

    assert isinstance(await connection.run(), InvalidResponse)


async def test_time_in_which_the_loop_was_busy_is_not_counted_against_the_server() -> None:
    async with answer_within(0.08):
        for _ in range(10):
            time.sleep(0.03)  # noqa: ASYNC251  (the loop is to be late)
            await asyncio.sleep(0)
