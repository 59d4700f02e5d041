"""What a worker of several has for itself alone, and is warned of."""

from __future__ import annotations

import logging
import sys
from multiprocessing import process
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from starlette.requests import Request

from sse_starlette import Channel, Hub
from sse_starlette._runtime import workers
from sse_starlette._runtime.workers import count_workers, given_to_worker, warn_of_other_workers
from sse_starlette.tickets import Tickets

Patch = pytest.MonkeyPatch


def be_worker_of(patch: Patch, module: str, given: dict[str, Any]) -> None:
    """Be what a server starts by multiprocessing."""
    target = SimpleNamespace(__module__=module)
    worker = SimpleNamespace(_target=target, _kwargs=given)
    patch.setattr(process, "current_process", lambda: worker)


def be_started_by(patch: Patch, command: str, **variables: str) -> None:
    """Be what a command line has started."""
    patch.setattr(sys, "argv", command.split())
    for name in ("WEB_CONCURRENCY", "GUNICORN_CMD_ARGS", "GRANIAN_WORKERS"):
        patch.delenv(name, raising=False)
    for name, value in variables.items():
        patch.setenv(name, value)


@pytest.mark.parametrize(
    ("command", "variables", "count"),
    [
        ("/bin/gunicorn app:app -w 4", {}, 4),
        ("/bin/gunicorn -w4 app:app", {}, 4),
        ("/bin/gunicorn --workers=4 app:app", {}, 4),
        ("/lib/gunicorn/__main__.py --workers 4 app:app", {}, 4),
        ("/bin/gunicorn app:app -w 2 -w 4", {}, 4),
        ("/bin/gunicorn app:app -w two", {}, 1),
        ("/bin/gunicorn app:app", {"WEB_CONCURRENCY": "3"}, 3),
        ("/bin/gunicorn app:app -w 2", {"WEB_CONCURRENCY": "3"}, 2),
        ("/bin/gunicorn app:app", {"GUNICORN_CMD_ARGS": "--bind=:80 --workers=5"}, 5),
        ("/bin/gunicorn app:app", {"WEB_CONCURRENCY": "3", "GUNICORN_CMD_ARGS": "-w 5"}, 5),
        ("/bin/granian --workers 2 app:app", {}, 2),
        ("/bin/granian app:app", {"GRANIAN_WORKERS": "2"}, 2),
        ("/bin/granian app:app", {"WEB_CONCURRENCY": "2"}, 1),
        ("/bin/gunicorn app:app", {"WEB_CONCURRENCY": "auto"}, 1),
        ("/bin/gunicorn app:app -w", {}, 1),
        ("/bin/gunicorn app:app --worker-class asgi --workers-kill-timeout 9", {}, 1),
        # Not a server's, whatever it's good for.
        ("/bin/pytest -w 4", {"WEB_CONCURRENCY": "4"}, 1),
        ("", {}, 1),
    ],
)
def test_command_line_says_how_many_workers_there_are(
    monkeypatch: Patch, command: str, variables: dict[str, str], count: int
) -> None:
    be_started_by(monkeypatch, command, **variables)
    assert count_workers() == count


FOUR = SimpleNamespace(workers=4)


@pytest.mark.parametrize(
    ("server", "given", "count"),
    [
        ("uvicorn._subprocess", {"config": FOUR}, 4),
        ("hypercorn.asyncio.run", {"config": FOUR}, 4),
        ("uvicorn._subprocess", {}, 1),
        ("uvicorn._subprocess", {"config": object()}, 1),
        ("uvicorn._subprocess", {"config": SimpleNamespace(workers="2")}, 1),
        # What others give their processes is nothing to us.
        ("billiard.pool", {"config": FOUR}, 1),
    ],
)
def test_worker_has_the_configuration_of_its_server_or_counts_itself(
    monkeypatch: Patch, server: str, given: dict[str, Any], count: int
) -> None:
    be_worker_of(monkeypatch, server, given)

    assert count_workers() == count
    if count == 4:
        assert given_to_worker("config", "uvicorn", "hypercorn") is FOUR
    monkeypatch.delitem(sys.modules, "multiprocessing.process")
    assert given_to_worker("config", "uvicorn", "hypercorn", "billiard") is None


def test_worker_of_gunicorn_sees_those_that_were_forked_before(monkeypatch: Patch) -> None:
    worker = SimpleNamespace(cfg=SimpleNamespace(workers=3))
    arbiter: Any = ModuleType("gunicorn.arbiter")
    arbiter.Arbiter = SimpleNamespace(WORKERS={})
    monkeypatch.setitem(sys.modules, "gunicorn.arbiter", arbiter)
    be_started_by(monkeypatch, "/bin/gunicorn app:app -c conf.py")
    assert count_workers() == 1
    arbiter.Arbiter.WORKERS[17] = worker
    assert count_workers() == 3


@pytest.fixture
def one_of_two(monkeypatch: Patch, caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    """Be one of two workers that haven't been warned of anything."""
    monkeypatch.setattr(workers, "_warned", set())
    be_started_by(monkeypatch, "/bin/gunicorn -w 2")
    caplog.set_level(logging.WARNING)
    return caplog


async def stream_twice() -> None:
    channel = Channel("prices")
    channel.publish_nowait("1")
    for _ in range(2):
        async for _ in channel.subscribe(replay=1):
            break


async def revoke_twice() -> None:
    for _ in range(2):
        await Hub().revoke("alice")


async def redeem_twice() -> None:
    tickets = Tickets("not so secret, but long", hub=Hub())
    for _ in range(2):
        query = f"ticket={tickets.issue('alice')}".encode()
        scope = {"type": "http", "path": "/", "query_string": query, "headers": []}
        assert await tickets.redeem(Request(scope)) == "alice"


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("use", "told"),
    [
        (stream_twice, "channels are in memory"),
        (revoke_twice, "`revoke` ends the streams of this process"),
        (redeem_twice, "each is good once in every worker"),
    ],
)
async def test_what_the_memory_of_one_worker_holds_is_warned_of_once(
    one_of_two: pytest.LogCaptureFixture, use: Any, told: str
) -> None:
    await use()

    (record,) = one_of_two.records
    assert record.getMessage().startswith("this process is one of 2 workers, and ")
    assert told in record.getMessage()
    assert vars(record)["sse_event"] == "one_of_many_workers"


def test_nobody_is_warned_who_works_alone(
    one_of_two: pytest.LogCaptureFixture, monkeypatch: Patch
) -> None:
    be_started_by(monkeypatch, "/bin/gunicorn")
    warn_of_other_workers("all is well", "Go on")
    assert one_of_two.records == []
