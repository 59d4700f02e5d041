"""The log in a file: many processes at one file, and what can happen to a file."""

from __future__ import annotations

import math
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest
from tests.unit.driving import SEAT_BELT_SECONDS

from sse_starlette._runtime.loop import current_loop
from sse_starlette.errors import LogRefused, LogUnavailable
from sse_starlette.eventlogs.base import Entry, Limits, NewEntry
from sse_starlette.eventlogs.sqlite import SQLiteLog, _appending, _clock
from sse_starlette.eventlogs.sqlite._file import DatabaseFile
from sse_starlette.eventlogs.sqlite._follower import Follower
from sse_starlette.testing.eventlogs import (
    KEEP_ALL,
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


class TestContract(EventLogContract, LeaseContract):
    @pytest.fixture
    def make_log(self, tmp_path: Path) -> MakeLog:
        return lambda: SQLiteLog(tmp_path / "events.db")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "events.db"


@contextmanager
def another_process(path: Path) -> Iterator[sqlite3.Connection]:
    """What the lock of the file takes for another process: another connection."""
    with closing(sqlite3.connect(path, timeout=0, isolation_level=None)) as connection:
        yield connection


def count_rows(path: Path) -> dict[str, int]:
    with another_process(path) as connection:
        return {
            table: connection.execute(f"SELECT count(*) FROM sse_{table}").fetchone()[0]
            for table in ("channels", "entries", "keys")
        }


def until(fact: Callable[[], object]) -> None:
    """Block the loop until another thread has brought this about."""
    deadline = time.monotonic() + SEAT_BELT_SECONDS
    while not fact():
        assert time.monotonic() < deadline
        time.sleep(0.001)


EXPIRE = KEEP_ALL.expire or 0


class Clock:
    """The time of the log: passed, or set, by the test."""

    def __init__(self) -> None:
        self.now = 1_000_000.0
        self.set_ahead = 0.0

    def time(self) -> float:
        return self.now + self.set_ahead

    def monotonic(self) -> float:
        return time.monotonic() + self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(_clock, "time", clock)
    return clock


# --- What it is made with -------------------------------------------------------------


@pytest.mark.anyio
async def test_file_is_named_by_a_path_or_a_url(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    absolute = tmp_path / "with a blank.db"
    names: list[Any] = [
        absolute,
        str(absolute),
        "with a blank.db",
        Path("with a blank.db"),
        "sqlite:///with a blank.db",
        "sqlite:///with%20a%20blank.db",
        f"sqlite:///{absolute}",
    ]

    for offset, name in enumerate(names, 1):
        log = SQLiteLog(name)
        with monkeypatch.context() as elsewhere:
            elsewhere.chdir("/")
            async with opened(log):
                assert (await append(log, "a")).offset == offset


@pytest.mark.parametrize("name", ["sqlite://events.db", "sqlite:events.db", "sqlite://", "sqlite:"])
def test_url_that_cannot_be_understood_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="the URL of a log in a file is sqlite:///name"):
        SQLiteLog(name)


@pytest.mark.parametrize("name", ["", ":memory:", "sqlite:///", "sqlite:///:memory:"])
def test_what_is_no_file_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="needs a file"):
        SQLiteLog(name)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"timeout": 0}, "timeout must be > 0 seconds, got: 0"),
        ({"poll": math.nan}, "poll must be > 0"),
        ({"synchronous": "off"}, 'synchronous must be "full" or "normal", got: \'off\''),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        SQLiteLog("events.db", **options)


@pytest.mark.parametrize(("synchronous", "found"), [("full", 2), ("normal", 1)])
@pytest.mark.anyio
async def test_disk_is_waited_for_as_asked(path: Path, synchronous: Any, found: int) -> None:
    log = SQLiteLog(path, synchronous=synchronous)

    async with opened(log):
        value, mode = await log._use(
            lambda connection: (
                connection.execute("PRAGMA synchronous").fetchone()[0],
                connection.execute("PRAGMA journal_mode").fetchone()[0],
            )
        )

    assert (value, mode) == (found, "wal")


# --- Others at the same file ----------------------------------------------------------


@pytest.mark.anyio
async def test_whoever_writes_is_waited_for_and_reading_goes_on(path: Path) -> None:
    log = SQLiteLog(path)
    done: list[int] = []

    async def publish() -> None:
        done.append((await append(log, "a")).offset)

    async with opened(log):
        await append(log, "a")
        with another_process(path) as other:
            other.execute("BEGIN IMMEDIATE")
            async with anyio.create_task_group() as tasks:
                for _ in range(5):
                    tasks.start_soon(publish)
                pages = [await read(log, "a") for _ in range(3)]
                assert ([page.head for page in pages], done) == ([1, 1, 1], [])
                other.execute("COMMIT")

    assert sorted(done) == [2, 3, 4, 5, 6]


@pytest.mark.anyio
async def test_whoever_writes_for_too_long_makes_the_log_unavailable(path: Path) -> None:
    log = SQLiteLog(path, timeout=0.05)
    failed: list[LogUnavailable] = []

    async def publish() -> None:
        with pytest.raises(LogUnavailable) as caught:
            await append(log, "a", key="k")
        failed.append(caught.value)

    async with opened(log):
        await append(log, "a")
        with another_process(path) as other:
            other.execute("BEGIN IMMEDIATE")
            async with anyio.create_task_group() as tasks:
                for _ in range(50):
                    tasks.start_soon(publish)
            other.execute("ROLLBACK")
        position = await append(log, "a", key="k")

    assert {(error.log, error.reason) for error in failed} == {
        (f"sqlite:///{path}", "database is locked")
    }
    assert position.offset == 2


@pytest.mark.anyio
async def test_whoever_gives_up_waiting_appends_nothing(path: Path) -> None:
    log = SQLiteLog(path)

    async with opened(log):
        await append(log, "a")
        with another_process(path) as other:
            other.execute("BEGIN IMMEDIATE")
            async with anyio.create_task_group() as tasks:
                with anyio.move_on_after(0.03):
                    await append(log, "a", b"given up")
                tasks.start_soon(append, log, "a")
                other.execute("ROLLBACK")
        page = await read(log, "a")

    assert [entry.body for entry in page.entries] == [b"x", b"x"]


@pytest.mark.anyio
async def test_more_than_fit_in_one_transaction_are_appended(path: Path) -> None:
    log = SQLiteLog(path, synchronous="normal")

    async with opened(log):
        async with anyio.create_task_group() as tasks:
            for _ in range(600):
                tasks.start_soon(append, log, "a")
        page = await read(log, "a")

    assert offsets(page) == list(range(1, 601))


@pytest.mark.anyio
async def test_following_waits_until_the_file_can_be_opened(path: Path) -> None:
    log = SQLiteLog(path)

    async with opened(log), anyio.create_task_group() as tasks:
        listener = RecordingListener()
        with another_process(path) as other:
            other.execute("PRAGMA locking_mode = EXCLUSIVE")
            other.execute("PRAGMA journal_mode = WAL")
            other.execute("CREATE TABLE theirs (x)")
            log.watch("a")
            tasks.start_soon(log.listen, listener)
            await anyio.sleep(0.1)
            assert (listener.subscriptions, listener.losses) == ([], [])
        await listener.until(lambda: listener.subscriptions)
        tasks.cancel_scope.cancel()

    assert listener.losses == []


@pytest.mark.anyio
async def test_file_that_cannot_be_opened_in_time_is_told_as_lost(path: Path) -> None:
    log = SQLiteLog(path, timeout=0.05)

    async with opened(log), anyio.create_task_group() as tasks:
        listener = RecordingListener()
        with another_process(path) as other:
            other.execute("PRAGMA locking_mode = EXCLUSIVE")
            other.execute("PRAGMA journal_mode = WAL")
            other.execute("CREATE TABLE theirs (x)")
            log.watch("a")
            tasks.start_soon(log.listen, listener)
            await listener.until(lambda: listener.losses)
            with pytest.raises(LogUnavailable, match="locked"):
                await log.check()
            await anyio.sleep(0.15)
        await listener.until(lambda: listener.subscriptions)
        tasks.cancel_scope.cancel()

    # On a busy machine another try may be too slow, too.
    assert {type(error) for error in listener.losses} == {LogUnavailable}


# --- What happens to a file -----------------------------------------------------------


def overwrite(path: Path) -> None:
    path.write_text("events are noted here by hand\n" * 100, "utf-8")


def delete(path: Path) -> None:
    for each in path.parent.glob(path.name + "*"):
        each.unlink()


@pytest.mark.anyio
async def test_file_that_was_deleted_is_begun_anew(path: Path) -> None:
    log, other = SQLiteLog(path), SQLiteLog(path)

    async with opened(log, other), listening(log, "a") as listener:
        before = await append(log, "a")
        await append(other, "a")
        await listener.until(lambda: len(listener.entries) == 2)
        delete(path)
        await listener.until(lambda: len(listener.subscriptions) == 2)
        after = await append(other, "a")
        again = await append(log, "a")
        await listener.until(lambda: len(listener.entries) == 4)

    assert after.epoch != before.epoch
    assert (after.offset, again) == (1, (after.epoch, 2))
    (error,) = listener.losses
    assert isinstance(error, LogUnavailable)
    assert error.reason == "the file, or -wal or -shm beside it, was deleted or replaced"


@pytest.mark.anyio
@pytest.mark.parametrize("ends", [["-wal"], ["-shm"], ["-wal", "-shm"]], ids="".join)
async def test_what_is_deleted_beside_the_file_tears_nothing(path: Path, ends: list[str]) -> None:
    log, other = SQLiteLog(path), SQLiteLog(path)
    async with opened(log), listening(log, "a") as listener:
        first = await append(log, "a")
        await listener.until(lambda: listener.has("a", 1))
        for end in ends:
            path.with_name(path.name + end).unlink()
        await listener.until(lambda: listener.has_subscribed("a", 2))

        second = await append(log, "a")
        await listener.until(lambda: listener.has("a", second.offset))
        async with opened(other):
            page = await read(other, "a")

    assert second == (first.epoch, 2)
    assert offsets(page) == [1, 2]


@pytest.mark.anyio
async def test_a_check_writes_as_an_append_does_and_leaves_nothing(path: Path) -> None:
    log = SQLiteLog(path)
    async with opened(log):
        await append(log, "a")
        rows = count_rows(path)
        with another_process(path) as other:
            before = other.execute("PRAGMA data_version").fetchone()
            await log.check()
            assert other.execute("PRAGMA data_version").fetchone() != before
        assert count_rows(path) == rows


@pytest.mark.anyio
async def test_file_that_was_replaced_is_the_one_from_then_on(path: Path, tmp_path: Path) -> None:
    log, restored = SQLiteLog(path), SQLiteLog(tmp_path / "copy.db")

    async with opened(restored):
        history = await append(restored, "a")
    async with opened(log), listening(log, "a") as listener:
        await append(log, "a")
        delete(path)
        (tmp_path / "copy.db").rename(path)
        await listener.until(lambda: len(listener.subscriptions) == 2)
        position = await append(log, "a")

    assert position == (history.epoch, 2)


@pytest.mark.anyio
async def test_log_without_a_folder_is_unavailable_until_there_is_one(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    log = SQLiteLog(folder / "events.db")

    async with opened(log), anyio.create_task_group() as tasks:
        listener = RecordingListener()
        log.watch("a")
        tasks.start_soon(log.listen, listener)
        await listener.until(lambda: listener.losses)
        with pytest.raises(LogUnavailable, match="unable to open database file"):
            await append(log, "a")
        folder.mkdir()
        await listener.until(lambda: listener.subscriptions)
        await append(log, "a")
        tasks.cancel_scope.cancel()

    assert len(listener.losses) == 1


@pytest.mark.anyio
async def test_full_disk_makes_the_log_unavailable_and_loses_nothing(path: Path) -> None:
    log = SQLiteLog(path)

    async with opened(log):
        await append(log, "a")
        await log._use(lambda connection: connection.execute("PRAGMA max_page_count = 1"))
        with pytest.raises(LogUnavailable, match="database or disk is full"):
            await append(log, "a", b"x" * 100_000, key="k")
        position = await append(log, "a", key="k")
        page = await read(log, "a")

    assert position.offset == 2
    assert [entry.body for entry in page.entries] == [b"x", b"x"]


@pytest.mark.anyio
async def test_file_of_something_else_is_refused_until_it_is_gone(path: Path) -> None:
    overwrite(path)
    log = SQLiteLog(path)

    async with opened(log), anyio.create_task_group() as tasks:
        listener = RecordingListener()
        log.watch("a")
        tasks.start_soon(log.listen, listener)
        await listener.until(lambda: listener.losses)
        with pytest.raises(LogRefused, match="not a database"):
            await append(log, "a")
        delete(path)
        await listener.until(lambda: listener.subscriptions)
        tasks.cancel_scope.cancel()

    (error,) = listener.losses
    assert isinstance(error, LogRefused)
    assert isinstance(error.__cause__, sqlite3.DatabaseError)
    assert str(error).startswith(f"the log at sqlite:///{path} refuses: file is not a database")


@pytest.mark.anyio
async def test_what_the_file_refuses_leaves_nothing_half_done(path: Path) -> None:
    log = SQLiteLog(path)

    async with opened(log):
        await read(log, "a")
        with another_process(path) as other:
            other.execute(
                "CREATE TRIGGER guard BEFORE INSERT ON sse_keys"
                " BEGIN SELECT RAISE(FAIL, 'not today'); END"
            )
            with pytest.raises(LogRefused, match="not today"):
                await append(log, "a", key="k")
            other.execute("DROP TRIGGER guard")
        assert count_rows(path) == {"channels": 1, "entries": 0, "keys": 0}
        position = await append(log, "a", key="k")

    assert position.offset == 1


@pytest.mark.anyio
async def test_tables_of_the_application_are_left_alone(path: Path) -> None:
    with another_process(path) as application:
        application.execute("CREATE TABLE channels (name TEXT)")
        application.execute("INSERT INTO channels VALUES ('mine')")
    log = SQLiteLog(path)

    async with opened(log):
        await append(log, "a")

    with another_process(path) as application:
        assert application.execute("SELECT * FROM channels").fetchall() == [("mine",)]


# --- What is kept ---------------------------------------------------------------------


@pytest.mark.anyio
async def test_oldest_entries_are_deleted_when_all_have_had_time_to_hear_them(
    path: Path, clock: Clock
) -> None:
    log = SQLiteLog(path, synchronous="normal")
    few = KEEP_ALL._replace(events=10)

    async with opened(log):
        for _ in range(64):
            await append(log, "a", limits=few)
        assert count_rows(path)["entries"] == 64
        clock.now += 5
        for _ in range(32):
            await append(log, "a", limits=few)
        page = await read(log, "a", limits=few)

    assert offsets(page) == list(range(65, 97))
    assert count_rows(path)["entries"] == 32


@pytest.mark.anyio
async def test_entries_that_are_too_old_are_neither_read_nor_kept(path: Path, clock: Clock) -> None:
    log = SQLiteLog(path, synchronous="normal")
    short = KEEP_ALL._replace(seconds=60)

    async with opened(log):
        for _ in range(20):
            await append(log, "a", limits=short)
        clock.now += 59
        assert offsets(await read(log, "a", limit=1, limits=short)) == [1]
        clock.now += 2
        assert offsets(await read(log, "a", limit=1, limits=short)) == []
        for _ in range(12):
            await append(log, "a", limits=short)
        page = await read(log, "a", limit=1, limits=short)

    assert (page.head, offsets(page)) == (32, [21])
    assert count_rows(path)["entries"] == 12


@pytest.mark.anyio
async def test_unused_channels_and_keys_are_deleted_as_others_come(
    path: Path, clock: Clock
) -> None:
    log = SQLiteLog(path, synchronous="normal")

    async with opened(log):
        for number in range(10):
            await append(log, f"old {number}")
            await read(log, f"looked at {number}")
        assert count_rows(path) == {"channels": 20, "entries": 10, "keys": 10}
        clock.now += EXPIRE - 10
        # Those that are looked at live on.
        await log.heads(["old 1", "looked at 1", "unknown"], expire=EXPIRE)
        await read(log, "old 2")
        clock.now += 20
        for _ in range(12):
            await append(log, "new")
        heads = await log.heads([f"old {number}" for number in range(10)], expire=60)

    assert set(heads) == {"old 1", "old 2"}
    assert count_rows(path) == {"channels": 4, "entries": 14, "keys": 12}


@pytest.mark.anyio
async def test_page_with_a_gap_begins_behind_it(path: Path) -> None:
    log = SQLiteLog(path)

    async with opened(log):
        for _ in range(9):
            await append(log, "a")
        with another_process(path) as other:
            other.execute('DELETE FROM sse_entries WHERE "offset" IN (2, 6)')

        assert offsets(await read(log, "a")) == [7, 8, 9]


@pytest.mark.anyio
async def test_channel_that_was_forgotten_begins_anew(path: Path, clock: Clock) -> None:
    log = SQLiteLog(path)

    async with opened(log):
        before = await append(log, "a", b"")
        clock.now += EXPIRE + 1
        assert await log.heads(["a"], expire=60) == {}
        after = await append(log, "a")
        clock.now += EXPIRE + 1
        page = await read(log, "a")

    assert after.offset == 1
    assert len({before.epoch, after.epoch, page.epoch}) == 3
    assert (page.head, page.closed, page.entries) == (0, False, [])
    assert count_rows(path)["channels"] == 1


# --- Following ------------------------------------------------------------------------


def news_waits(log: SQLiteLog) -> None:
    """Block the loop until the follower has something for it."""
    until(lambda: log._follower is not None and log._follower._calls)


@pytest.mark.anyio
async def test_what_was_on_its_way_is_not_heard_when_the_channel_was_unwatched(path: Path) -> None:
    log, other = SQLiteLog(path), SQLiteLog(path)

    async with opened(log, other), listening(log, "a", "b") as listener:
        with another_process(path) as raw:
            raw.execute(
                "INSERT INTO sse_channels (name, epoch, head, closed, expires) VALUES"
                " (x'61', 'e', 1, 0, 9e99), (x'62', 'e', 1, 0, 9e99)"
            )
            raw.execute(
                'INSERT INTO sse_entries (channel, "offset", made, key, body)'
                " SELECT id, 1, 0, x'6b', x'78' FROM sse_channels ORDER BY id"
            )
        news_waits(log)
        log.unwatch("a")
        await listener.until(lambda: listener.entries)

    assert listener.entries == [("b", "e", Entry(1, "k", b"x"))]


@pytest.mark.anyio
async def test_channel_that_came_back_waits_for_its_own_joining(path: Path) -> None:
    log = SQLiteLog(path)

    async with opened(log), listening(log, "b") as listener:
        log.watch("a")
        news_waits(log)
        log.unwatch("a")
        log.watch("a")
        await listener.until(lambda: "a" in listener.subscriptions)
        log.watch("c")
        await listener.until(lambda: "c" in listener.subscriptions)

    assert listener.subscriptions == ["b", "a", "c"]


@pytest.mark.anyio
async def test_burst_is_heard_in_portions_and_ends_with_the_listener(path: Path) -> None:
    log, other = SQLiteLog(path), SQLiteLog(path, synchronous="normal")
    heard: list[int] = []

    class Fails(RecordingListener):
        def received(self, channel: str, epoch: str, entry: Entry) -> None:
            heard.append(entry.offset)
            if entry.offset == 700:
                raise OSError("made up")

    async with opened(log, other):
        with pytest.RaisesGroup(pytest.RaisesExc(OSError, match="made up"), flatten_subgroups=True):
            async with anyio.create_task_group() as tasks:
                log.watch("a")
                listener = Fails()
                tasks.start_soon(log.listen, listener)
                await listener.until(lambda: listener.subscriptions)
                for _ in range(800):
                    tasks.start_soon(append, other, "a")

    assert heard == list(range(1, 701))


@pytest.mark.anyio
async def test_what_was_added_at_once_is_heard_in_portions(path: Path) -> None:
    log, other = SQLiteLog(path), SQLiteLog(path)
    entries = [NewEntry(b"x", str(number), 120) for number in range(1_100)]

    async with opened(log, other), listening(log, "a") as listener:
        await other.append_many("a", entries, limits=KEEP_ALL._replace(events=2_000))
        await listener.until(lambda: listener.has("a", 1_100))

    assert listener.offsets("a") == list(range(1, 1_101))


@pytest.mark.anyio
async def test_follower_that_was_stopped_waits_for_nobody(path: Path) -> None:
    """Whatever comes first: the last news, or the end."""
    follower = Follower(DatabaseFile(path, "full"), {}, current_loop(), poll=1, timeout=1)
    follower.stop()

    with anyio.fail_after(SEAT_BELT_SECONDS):
        await anyio.to_thread.run_sync(follower._tell, [lambda listener: None])
        await anyio.to_thread.run_sync(follower.run)


# --- What another program did to the file ---------------------------------------------


@pytest.mark.anyio
async def test_a_trigger_that_ends_the_transaction_is_told_and_leaves_nothing(path: Path) -> None:
    log = SQLiteLog(path)
    async with opened(log):
        await append(log, "a")
        with another_process(path) as connection:
            connection.execute(
                "CREATE TRIGGER no_more BEFORE INSERT ON sse_channels"
                " BEGIN SELECT RAISE(ROLLBACK, 'no more'); END"
            )
            with pytest.raises(LogRefused):
                await append(log, "b")
            with pytest.raises(LogRefused):
                await log.check()
            connection.execute("DROP TRIGGER no_more")

        await log.check()
        assert (await append(log, "b")).offset == 1


@pytest.mark.anyio
async def test_text_that_cannot_be_decoded_is_refused(path: Path) -> None:
    log = SQLiteLog(path)
    async with opened(log):
        await append(log, "a")
        with another_process(path) as connection:
            connection.execute("UPDATE sse_channels SET epoch = CAST(x'ff' AS TEXT)")
        with pytest.raises(LogRefused, match="decode"):
            await read(log, "a")


@pytest.mark.anyio
async def test_the_newest_entry_may_be_larger_than_all_that_is_kept(path: Path) -> None:
    log = SQLiteLog(path)
    limits = KEEP_ALL._replace(bytes=1)
    async with opened(log):
        for _ in range(_appending._TRIM_EVERY):
            newest = await append(log, "a", b"large", limits=limits)

        assert offsets(await read(log, "a", newest.offset - 1)) == [newest.offset]


@pytest.mark.anyio
async def test_of_what_followers_have_read_as_much_is_kept_as_the_bytes_allow(path: Path) -> None:
    log = SQLiteLog(path)
    limits = KEEP_ALL._replace(bytes=30)
    async with opened(log):
        for _ in range(_appending._TRIM_EVERY - 1):
            await append(log, "a", b"x" * 10, limits=limits)
        with another_process(path) as connection:
            connection.execute("UPDATE sse_entries SET made = made - 3600")
            connection.commit()
        newest = await append(log, "a", b"x" * 10, limits=limits)
        with another_process(path) as connection:
            kept = [row[0] for row in connection.execute('SELECT "offset" FROM sse_entries')]

    assert sorted(kept) == [newest.offset - 2, newest.offset - 1, newest.offset]


@pytest.mark.anyio
async def test_a_channel_that_was_just_used_is_not_written_for_a_look_at_its_head(
    path: Path,
) -> None:
    log = SQLiteLog(path)
    async with opened(log):
        position = await append(log, "a")
        with another_process(path) as connection:
            connection.execute("BEGIN IMMEDIATE")
            assert await log.heads(["a"], expire=KEEP_ALL.expire) == {"a": position}
            connection.execute("ROLLBACK")


@pytest.mark.anyio
async def test_a_log_that_was_open_at_a_fork_can_be_opened_again(path: Path) -> None:
    log = SQLiteLog(path)
    async with log.open():
        log.after_fork()
        with pytest.raises(RuntimeError, match="isn't open"):
            await append(log, "a")
    async with opened(log):
        assert (await append(log, "a")).offset == 1


@pytest.mark.anyio
async def test_wait_for_the_file_makes_no_event_too_old(tmp_path: Path) -> None:
    log = SQLiteLog(tmp_path / "events.db")
    async with opened(log):
        before = time.monotonic()
        await append(log, "a")
        found: list[int] = []

        async def seek() -> None:
            age = time.monotonic() - before
            found.append((await log.seek("a", age=age, limits=Limits())).offset)

        async with anyio.create_task_group() as tasks, log._lock:
            tasks.start_soon(seek)
            await anyio.wait_all_tasks_blocked()
            await anyio.sleep(0.1)

        assert found == [0]
