"""No fork finds SQLite at work, and none inherits an open file; tests/unit/test_fork.py forks indeed."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import anyio
import anyio.to_thread
import pytest
from tests.eventlogs.stores import another_process, kept_by_another_process
from tests.unit.driving import SEAT_BELT_SECONDS

from sse_starlette.eventlogs.sqlite import SQLiteLog
from sse_starlette.eventlogs.sqlite._forks import Gate, gate
from sse_starlette.testing.eventlogs import append, listening, offsets, opened, read

pytestmark = pytest.mark.anyio


class File:
    def __init__(self) -> None:
        self.closed = 0

    def close_at_once(self) -> None:
        self.closed += 1


@pytest.fixture
def gate_of_its_own(monkeypatch: pytest.MonkeyPatch) -> Gate:
    monkeypatch.delattr(os, "register_at_fork", raising=False)
    return Gate()


@contextmanager
def inside(gate: Gate) -> Iterator[threading.Event]:
    """Have another thread be inside, until this is set."""
    entered, leaves = threading.Event(), threading.Event()

    def stay() -> None:
        with gate:
            entered.set()
            leaves.wait(SEAT_BELT_SECONDS)

    thread = threading.Thread(target=stay)
    thread.start()
    assert entered.wait(SEAT_BELT_SECONDS)
    yield leaves
    leaves.set()
    thread.join()


def test_a_fork_waits_for_who_uses_a_file_and_who_comes_then_waits_for_the_fork(
    gate_of_its_own: Gate,
) -> None:
    gate, file, gone = gate_of_its_own, File(), File()
    gate.add(file)
    gate.add(gone)
    del gone
    events: list[str] = []

    def come() -> None:
        with gate:
            events.append("came")

    def leave() -> None:
        events.append("leaves")
        leaves.set()

    with inside(gate) as leaves:
        threading.Timer(0.05, leave).start()
        gate.before_fork()
        events.append("forks")
    late = threading.Thread(target=come)
    late.start()
    assert (events, file.closed) == (["leaves", "forks"], 1)
    # Who forks may use a file meanwhile.
    come()
    events.append("forked")
    gate.after_fork_in_parent()
    late.join()

    assert events == ["leaves", "forks", "came", "forked", "came"]


def test_who_forks_while_using_a_file_closes_none(gate_of_its_own: Gate) -> None:
    gate_of_its_own.add(file := File())
    with gate_of_its_own:
        gate_of_its_own.before_fork()
        with gate_of_its_own:
            pass
        gate_of_its_own.after_fork_in_parent()

    assert file.closed == 0


@pytest.mark.usefixtures("gate_of_its_own")
def test_a_fork_does_not_wait_for_ever() -> None:
    gate, file = Gate(longest_wait=0.01), File()
    gate.add(file)
    with inside(gate):
        gate.before_fork()
        gate.after_fork_in_parent()

    assert file.closed == 0


def test_the_first_file_registers_with_python_and_a_child_begins_anew(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    registered: list[dict[str, object]] = []
    monkeypatch.setattr(os, "register_at_fork", lambda **calls: registered.append(calls))
    gate, files = Gate(), (File(), File())
    for file in files:
        gate.add(file)
    gate.before_fork()
    (calls,) = registered
    in_child = calls["after_in_child"]
    assert callable(in_child)
    in_child()

    with gate:
        assert [file.closed for file in files] == [1, 1]


async def test_a_log_goes_on_after_a_fork_and_misses_nothing(path: Path) -> None:
    log, other = SQLiteLog(path), SQLiteLog(path)
    async with opened(log, other), listening(log, "a", "b") as listener:
        first = await append(log, "a")
        await listener.until(lambda: listener.has("a", 1))
        with another_process(path) as there:
            # Somebody has it open all the time.
            there.execute("SELECT * FROM sse_entries").fetchall()
            gate.before_fork()
            assert log._file is not None
            assert log._file._connection is None
            gate.after_fork_in_parent()
            second = await append(log, "a")
            await append(other, "b")
            await listener.until(lambda: listener.has("a", 2) and listener.has("b", 1))
        page = await read(log, "a")

    assert (second.epoch, second.offset) == (first.epoch, 2)
    assert offsets(page) == [1, 2]
    assert (listener.losses, sorted(listener.subscriptions)) == ([], ["a", "b"])


async def test_a_log_that_cannot_be_opened_at_once_after_a_fork_is_not_lost(
    path: Path,
) -> None:
    log = SQLiteLog(path)
    async with opened(log), listening(log, "a") as listener:
        await append(log, "a")
        await listener.until(lambda: listener.has("a", 1))
        gate.before_fork()
        with kept_by_another_process(path):
            gate.after_fork_in_parent()
            log.watch("b")
            await anyio.sleep(0.1)
            assert listener.subscriptions == ["a"]
        await append(log, "a")
        await listener.until(lambda: listener.has("a", 2) and listener.has_subscribed("b"))

    assert listener.losses == []


@pytest.mark.parametrize("how", ["before", "meanwhile"])
async def test_a_file_that_was_replaced_during_a_fork_is_another_one(
    path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    log = SQLiteLog(path)

    def replace() -> None:
        for each in path.parent.glob("events.db*"):
            each.rename(each.with_name(f"old-{each.name}"))

    async with opened(log), listening(log, "a") as listener:
        before = await append(log, "a")
        await listener.until(lambda: listener.has("a", 1))
        assert log._follower is not None
        file = log._follower._file
        gate.before_fork()
        if how == "before":
            replace()
        else:
            connect, monkeypatched = file.connect, threading.Event()

            def connect_late() -> object:
                if not monkeypatched.is_set():
                    monkeypatched.set()
                    replace()
                return connect()

            monkeypatch.setattr(file, "connect", connect_late)
        gate.after_fork_in_parent()
        await listener.until(lambda: listener.losses and listener.has_subscribed("a", 2))
        after = await append(log, "a")
        await listener.until(lambda: after.epoch in {epoch for _, epoch, _ in listener.entries})

    assert after.epoch != before.epoch
    assert "deleted or replaced" in str(listener.losses[0])


async def test_a_file_that_cannot_be_opened_after_a_fork_is_told_as_lost(path: Path) -> None:
    log = SQLiteLog(path)
    async with opened(log), listening(log, "a") as listener:
        await append(log, "a")
        await listener.until(lambda: listener.has("a", 1))
        gate.before_fork()
        with path.open("r+b") as file:  # The same file, with something else in it.
            kept = file.read()
            file.seek(0)
            file.write(b"no database any more" * 100)
        gate.after_fork_in_parent()
        await listener.until(lambda: listener.losses)
        with path.open("r+b") as file:
            file.write(kept)
        await listener.until(lambda: listener.has_subscribed("a", 2))

    assert "not a database" in str(listener.losses[0])
