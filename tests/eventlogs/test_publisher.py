"""Publishing without an event loop: on Redis and SQLite, from threads and forks, without a lifespan."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import anyio
import pytest
from redis import Redis as SyncRedis
from redis.asyncio import Redis
from tests.eventlogs.stores import ON_EACH_LOG, another_process
from tests.servers.redis_servers import RedisServer

from sse_starlette import Hub, LogRefused, LogUnavailable
from sse_starlette.errors import ChannelClosed
from sse_starlette.eventlogs.redis import RedisLog
from sse_starlette.eventlogs.sqlite import _appending

pytestmark = pytest.mark.anyio


@ON_EACH_LOG
async def test_what_is_published_without_a_loop_reaches_who_listens(url: str) -> None:
    hub, other = Hub(url), Hub(url)
    async with hub.lifespan():
        subscription = hub.channel("prices").subscribe(replay=1)
        with ThreadPoolExecutor(1) as thread, other.publisher() as publisher:
            future = thread.submit(publisher.publish, "prices", {"data": {"px": 12.5}}, key="k")
            event = await anext(aiter(subscription))

            event_id = future.result()
            again = await hub.channel("prices").publish("not again", key="k")

    assert (event.data, event.id) == ('{"px":12.5}', event_id)
    assert again == event_id


def test_threads_share_a_publisher(url: str) -> None:
    publisher = Hub(url).publisher()

    with ThreadPoolExecutor(4) as threads:
        ids = list(threads.map(lambda number: publisher.publish("c", f"{number}"), range(40)))

    assert {int(each.partition(".")[2]) for each in ids} == set(range(1, 41))
    publisher.close()
    assert publisher.publish("c", "x").endswith(".41")
    publisher.close()
    publisher.close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system doesn't fork")
def test_a_child_of_a_fork_has_a_connection_of_its_own(url: str) -> None:
    program = """
import os, sys
from sse_starlette import Hub
publisher = Hub(sys.argv[1]).publisher()
publisher.publish("c", "parent")
child = os.fork()
for number in range(20):
    publisher.publish("c", f"{child} {number}")
if child:
    assert os.waitpid(child, 0)[1] == 0
    print(publisher.publish("c", "last").partition(".")[2])
"""
    command = [sys.executable, "-W", "ignore", "-c", program, url]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

    assert (done.stdout.strip(), done.stderr) == ("42", "")


def test_a_closed_channel_takes_nothing(url: str) -> None:
    async def close() -> None:
        hub = Hub(url)
        async with hub.lifespan():
            await hub.channel("c").aclose()

    anyio.run(close)
    with Hub(url).publisher() as publisher, pytest.raises(ChannelClosed):
        publisher.publish("c", "too late")


def test_script_that_the_server_has_forgotten_is_given_again(server: RedisServer) -> None:
    server.say("SCRIPT FLUSH")
    with Hub(server.url).publisher() as publisher:
        assert "." in publisher.publish("scripts", "x")


def test_who_may_not_tell_others_has_published_and_is_warned(
    own_server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    own_server.say("ACL SETUSER", "default", "-publish")
    with Hub(own_server.url).publisher() as publisher:
        event_id = publisher.publish("c", "x")

    assert event_id.endswith(".1")
    assert "is added to the log" in caplog.text
    assert "ACL SETUSER" in caplog.text


@pytest.mark.parametrize(
    ("log", "error", "said"),
    [
        ("redis://127.0.0.1:1", LogUnavailable, ""),
        ("redis+cluster://127.0.0.1:1", LogUnavailable, ""),
        ("redis+cluster://127.0.0.1:1,[::1]:1", LogUnavailable, ""),
        ("sqlite:////missing/events.db", LogRefused, "Make its folder"),
    ],
)
def test_what_is_out_of_reach_or_refused_is_told_apart(
    log: str, error: type[LogUnavailable], said: str
) -> None:
    with Hub(log).publisher() as publisher, pytest.raises(LogUnavailable) as caught:
        publisher.publish("c", "x", wait=0.5)

    assert type(caught.value) is error
    assert said in str(caught.value)


def test_a_file_that_another_process_writes_to_is_waited_for(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []

    def pause(seconds: float) -> None:
        pauses.append(seconds)
        other.execute("ROLLBACK")

    with Hub(f"sqlite:///{path}").publisher() as publisher, another_process(path) as other:
        publisher.publish("c", "1")
        other.execute("BEGIN IMMEDIATE")
        slow = SimpleNamespace(time=time.time, monotonic=time.monotonic, sleep=pause)
        monkeypatch.setattr(_appending, "time", slow)
        assert publisher.publish("c", "2").endswith(".2")

    assert len(pauses) == 1


def test_a_hub_without_a_url_says_why_it_has_no_publisher(server: RedisServer) -> None:
    with pytest.raises(TypeError, match="the URL of the server"):
        Hub(RedisLog(Redis(port=server.port))).publisher().publish("c", "x")


def test_a_publisher_that_has_not_connected_begins_anew_in_a_child(url: str) -> None:
    with Hub(url).publisher() as publisher:
        publisher.after_fork()

        assert publisher.publish("c", "x").endswith(".1")


def test_a_channel_that_is_something_else_is_refused_alone(empty_server: RedisServer) -> None:
    empty_server.say("SET", "{sse:c}:m", "of another program")
    with Hub(empty_server.url).publisher() as publisher:
        with pytest.raises(LogRefused) as caught:
            publisher.publish("c", "x")

        assert caught.value.channel == "c"
        assert publisher.publish("d", "x").endswith(".1")


def test_an_entry_that_the_script_refuses_is_told_for_its_channel(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(_: object, command: str, script: str, count: int, *asked: Any, **__: Any) -> Any:
        return asked[count] + b"\n\n!WRONGTYPE made up"

    monkeypatch.setattr(SyncRedis, "execute_command", refuse)
    with Hub("redis://127.0.0.1:1").publisher() as publisher, pytest.raises(LogRefused) as caught:
        publisher.publish("c", "x")

    assert caught.value.channel == "c"
