"""The log in a file: many processes at one file, and what can happen to a file."""

from __future__ import annotations

import math
import sqlite3
import time
from pathlib import Path
from typing import Any
from urllib.parse import quote

import anyio
import anyio.to_thread
import pytest
from tests.eventlogs.stores import (
    FakeClock,
    another_process,
    execute,
    failed_appends,
    kept_by_another_process,
    listening_in_vain,
)
from tests.servers.serving import until
from tests.unit.driving import SEAT_BELT_SECONDS

from sse_starlette import Hub
from sse_starlette._runtime.loop import current_loop
from sse_starlette.errors import LogRefused, LogUnavailable
from sse_starlette.eventlogs.base import Entry, Limits, NewEntry
from sse_starlette.eventlogs.sqlite import SQLiteLog, _appending
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

pytestmark = pytest.mark.anyio


class TestContract(EventLogContract, LeaseContract):
    @pytest.fixture
    def make_log(self, path: Path) -> MakeLog:
        return lambda: SQLiteLog(path)


@pytest.fixture
def log(path: Path) -> SQLiteLog:
    return SQLiteLog(path)


@pytest.fixture
def other(path: Path) -> SQLiteLog:
    """Another process at the same file."""
    return SQLiteLog(path)


@pytest.fixture
def quick(path: Path) -> SQLiteLog:
    """One that doesn't wait for the disk."""
    return SQLiteLog(path, synchronous="normal")


def rows_of(path: Path) -> tuple[int, ...]:
    """How many channels, entries and keys there are."""
    tables = ("channels", "entries", "keys")
    return tuple(execute(path, f"SELECT count(*) FROM sse_{table}")[0][0] for table in tables)


EXPIRE = KEEP_ALL.expire or 0


# --- What it is made with -------------------------------------------------------------


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
        f"sqlite:///{quote(str(absolute))}",
        f"sqlite:///{absolute}",
    ]

    for offset, name in enumerate(names, 1):
        log = SQLiteLog(name)
        with monkeypatch.context() as elsewhere:
            elsewhere.chdir("/")
            async with opened(log):
                assert (await append(log, "a")).offset == offset


NO_URL = "the URL of a log in a file is sqlite:///name"


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        *((name, {}, NO_URL) for name in ("sqlite://e.db", "sqlite:e.db", "sqlite://", "sqlite:")),
        *((name, {}, "needs a file") for name in ("", ":memory:")),
        *((name, {}, "needs a file") for name in ("sqlite:///", "sqlite:///:memory:")),
        ("sqlite:///events.db?mode=ro", {}, "has no options.* write a .* as %3F"),
        *((name, {}, "has a NUL in its name") for name in ("a\0b", "sqlite:///a%00b")),
        ("events.db", {"timeout": 0}, "^timeout must be > 0 seconds, got: 0"),
        ("events.db", {"poll": math.nan}, "^poll must be > 0"),
        ("events.db", {"synchronous": "off"}, '"full" or "normal", got: \'off\''),
    ],
)
def test_what_is_no_file_and_options_out_of_range_are_refused(
    name: str, options: dict[str, Any], said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        SQLiteLog(name, **options)


@pytest.mark.parametrize(("synchronous", "found"), [("full", 2), ("normal", 1)])
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


async def test_whoever_writes_is_waited_for_and_reading_goes_on(path: Path, log: SQLiteLog) -> None:
    done: list[int] = []

    async def publish() -> None:
        done.append((await append(log, "a")).offset)

    async with opened(log):
        await append(log, "a")
        with another_process(path) as writing:
            writing.execute("BEGIN IMMEDIATE")
            async with anyio.create_task_group() as tasks:
                for _ in range(5):
                    tasks.start_soon(publish)
                pages = [await read(log, "a") for _ in range(3)]
                assert ([page.head for page in pages], done) == ([1, 1, 1], [])
                writing.execute("COMMIT")

    assert sorted(done) == [2, 3, 4, 5, 6]


async def test_whoever_writes_for_too_long_makes_the_log_unavailable(path: Path) -> None:
    log = SQLiteLog(path, timeout=0.05)

    async with opened(log):
        await append(log, "a")
        with another_process(path) as writing:
            writing.execute("BEGIN IMMEDIATE")
            failed = await failed_appends(log, key="k")
            writing.execute("ROLLBACK")
        position = await append(log, "a", key="k")

    told = {(error.log, error.reason) for error in failed}
    assert told == {(f"sqlite:///{path}", "database is locked")}
    assert position.offset == 2


async def test_whoever_gives_up_waiting_appends_nothing(path: Path, log: SQLiteLog) -> None:
    async with opened(log):
        await append(log, "a")
        with another_process(path) as writing:
            writing.execute("BEGIN IMMEDIATE")
            async with anyio.create_task_group() as tasks:
                with anyio.move_on_after(0.03):
                    await append(log, "a", b"given up")
                tasks.start_soon(append, log, "a")
                writing.execute("ROLLBACK")
        page = await read(log, "a")

    assert [entry.body for entry in page.entries] == [b"x", b"x"]


async def test_following_waits_until_the_file_can_be_opened(path: Path, log: SQLiteLog) -> None:
    async with opened(log), listening(log) as listener:
        with kept_by_another_process(path):
            log.watch("a")
            await anyio.sleep(0.1)
            assert (listener.subscriptions, listener.losses) == ([], [])
        await listener.until(lambda: listener.subscriptions)

    assert listener.losses == []


async def test_file_that_cannot_be_opened_in_time_is_told_as_lost(path: Path) -> None:
    log = SQLiteLog(path, timeout=0.05)

    with kept_by_another_process(path) as keeping:
        async with opened(log), listening_in_vain(log) as listener:
            with pytest.raises(LogUnavailable, match="locked"):
                await log.check()
            await anyio.sleep(0.15)
            keeping.close()
            await listener.until(lambda: listener.subscriptions)

    # On a busy machine another try may be too slow, too.
    assert {type(error) for error in listener.losses} == {LogUnavailable}


# --- What happens to a file -----------------------------------------------------------


def overwrite(path: Path) -> None:
    path.write_text("events are noted here by hand\n" * 100, "utf-8")


def delete(path: Path) -> None:
    for each in path.parent.glob(path.name + "*"):
        each.unlink()


async def test_file_that_was_deleted_is_begun_anew(
    path: Path, log: SQLiteLog, other: SQLiteLog
) -> None:
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


@pytest.mark.parametrize("ends", [["-wal"], ["-shm"], ["-wal", "-shm"]], ids="".join)
async def test_what_is_deleted_beside_the_file_tears_nothing(
    path: Path, log: SQLiteLog, other: SQLiteLog, ends: list[str]
) -> None:
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


async def test_a_check_writes_as_an_append_does_and_leaves_nothing(
    path: Path, log: SQLiteLog
) -> None:
    async with opened(log):
        await append(log, "a")
        rows = rows_of(path)
        with another_process(path) as looking:
            before = looking.execute("PRAGMA data_version").fetchone()
            await log.check()
            assert looking.execute("PRAGMA data_version").fetchone() != before
        assert rows_of(path) == rows


async def test_file_that_was_replaced_is_the_one_from_then_on(path: Path, log: SQLiteLog) -> None:
    copy = path.with_name("copy.db")
    restored = SQLiteLog(copy)

    async with opened(restored):
        history = await append(restored, "a")
    async with opened(log), listening(log, "a") as listener:
        await append(log, "a")
        delete(path)
        copy.rename(path)
        await listener.until(lambda: len(listener.subscriptions) == 2)
        position = await append(log, "a")

    assert position == (history.epoch, 2)


async def test_log_without_a_folder_is_unavailable_until_there_is_one(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    log = SQLiteLog(folder / "events.db")

    async with opened(log), listening_in_vain(log) as listener:
        with pytest.raises(LogUnavailable, match="unable to open database file"):
            await append(log, "a")
        folder.mkdir()
        await listener.until(lambda: listener.subscriptions)
        await append(log, "a")

    assert len(listener.losses) == 1


async def test_full_disk_makes_the_log_unavailable_and_loses_nothing(log: SQLiteLog) -> None:
    async with opened(log):
        await append(log, "a")
        await log._use(lambda connection: connection.execute("PRAGMA max_page_count = 1"))
        with pytest.raises(LogUnavailable, match="database or disk is full"):
            await append(log, "a", b"x" * 100_000, key="k")
        position = await append(log, "a", key="k")
        page = await read(log, "a")

    assert position.offset == 2
    assert [entry.body for entry in page.entries] == [b"x", b"x"]


async def test_file_of_something_else_is_refused_until_it_is_gone(
    path: Path, log: SQLiteLog
) -> None:
    overwrite(path)

    async with opened(log), listening_in_vain(log) as listener:
        with pytest.raises(LogRefused, match="not a database"):
            await append(log, "a")
        delete(path)
        await listener.until(lambda: listener.subscriptions)

    (error,) = listener.losses
    assert isinstance(error, LogRefused)
    assert isinstance(error.__cause__, sqlite3.DatabaseError)
    assert str(error).startswith(f"the log at sqlite:///{path} refuses: file is not a database")


@pytest.mark.parametrize(
    ("table", "ending", "said"), [("keys", "FAIL", "not today"), ("channels", "ROLLBACK", None)]
)
async def test_what_the_file_refuses_leaves_nothing_half_done(
    path: Path, log: SQLiteLog, table: str, ending: str, said: str | None
) -> None:
    """Whether a trigger of another program ends the statement alone, or the transaction."""
    async with opened(log):
        await append(log, "a")
        rows = rows_of(path)
        execute(
            path,
            f"CREATE TRIGGER guard BEFORE INSERT ON sse_{table}"
            f" BEGIN SELECT RAISE({ending}, 'not today'); END",
        )
        with pytest.raises(LogRefused, match=said):
            await append(log, "b", key="k")
        if table == "channels":
            with pytest.raises(LogRefused):
                await log.check()
        execute(path, "DROP TRIGGER guard")
        assert rows_of(path) == rows

        await log.check()
        assert (await append(log, "b", key="k")).offset == 1


async def test_tables_of_the_application_are_left_alone(path: Path, log: SQLiteLog) -> None:
    execute(path, "CREATE TABLE channels (name TEXT)")
    execute(path, "INSERT INTO channels VALUES ('mine')")

    async with opened(log):
        await append(log, "a")

    assert execute(path, "SELECT * FROM channels") == [("mine",)]


# --- What is kept ---------------------------------------------------------------------


async def test_oldest_entries_are_deleted_when_all_have_had_time_to_hear_them(
    path: Path, quick: SQLiteLog, clock: FakeClock
) -> None:
    few = KEEP_ALL._replace(events=10)

    async with opened(quick):
        for _ in range(64):
            await append(quick, "a", limits=few)
        assert rows_of(path)[1] == 64
        clock.passed += 5
        for _ in range(32):
            await append(quick, "a", limits=few)
        page = await read(quick, "a", limits=few)

    assert offsets(page) == list(range(65, 97))
    assert rows_of(path)[1] == 32


async def test_entries_that_are_too_old_are_neither_read_nor_kept(
    path: Path, quick: SQLiteLog, clock: FakeClock
) -> None:
    short = KEEP_ALL._replace(seconds=60)

    async with opened(quick):
        for _ in range(20):
            await append(quick, "a", limits=short)
        clock.passed += 59
        assert offsets(await read(quick, "a", limit=1, limits=short)) == [1]
        clock.passed += 2
        assert offsets(await read(quick, "a", limit=1, limits=short)) == []
        for _ in range(12):
            await append(quick, "a", limits=short)
        page = await read(quick, "a", limit=1, limits=short)

    assert (page.head, offsets(page)) == (32, [21])
    assert rows_of(path)[1] == 12


async def test_unused_channels_and_keys_are_deleted_as_others_come(
    path: Path, quick: SQLiteLog, clock: FakeClock
) -> None:
    async with opened(quick):
        for number in range(10):
            await append(quick, f"old {number}")
            await read(quick, f"looked at {number}")
        assert rows_of(path) == (20, 10, 10)
        clock.passed += EXPIRE - 10
        # Those that are looked at live on.
        await quick.heads(["old 1", "looked at 1", "unknown"], expire=EXPIRE)
        await read(quick, "old 2")
        clock.passed += 20
        for _ in range(12):
            await append(quick, "new")
        heads = await quick.heads([f"old {number}" for number in range(10)], expire=60)

    assert set(heads) == {"old 1", "old 2"}
    assert rows_of(path) == (4, 14, 12)


def test_unused_channels_and_keys_are_deleted_by_a_publisher_without_a_loop_too(
    path: Path, clock: FakeClock
) -> None:
    publisher = Hub(f"sqlite:///{path}", expire=EXPIRE).publisher()
    for number in range(10):
        publisher.publish(f"old {number}", "x", key="k")
    assert rows_of(path) == (10, 10, 10)
    clock.passed += EXPIRE + 10
    for _ in range(12):
        publisher.publish("new", "x")
    publisher.close()

    assert rows_of(path) == (1, 12, 12)


async def test_channel_that_was_forgotten_begins_anew(
    path: Path, log: SQLiteLog, clock: FakeClock
) -> None:
    async with opened(log):
        before = await append(log, "a", b"")
        clock.passed += EXPIRE + 1
        assert await log.heads(["a"], expire=60) == {}
        after = await append(log, "a")
        clock.passed += EXPIRE + 1
        page = await read(log, "a")

    assert after.offset == 1
    assert len({before.epoch, after.epoch, page.epoch}) == 3
    assert (page.head, page.closed, page.entries) == (0, False, [])
    assert rows_of(path)[0] == 1


async def test_the_newest_entry_may_be_larger_than_all_that_is_kept(log: SQLiteLog) -> None:
    limits = KEEP_ALL._replace(bytes=1)
    async with opened(log):
        for _ in range(_appending._TRIM_EVERY):
            newest = await append(log, "a", b"large", limits=limits)

        assert offsets(await read(log, "a", newest.offset - 1)) == [newest.offset]


async def test_of_what_followers_have_read_as_much_is_kept_as_the_bytes_allow(
    log: SQLiteLog, clock: FakeClock
) -> None:
    limits = KEEP_ALL._replace(bytes=30)
    async with opened(log):
        for _ in range(_appending._TRIM_EVERY - 1):
            await append(log, "a", b"x" * 10, limits=limits)
        clock.passed += 60
        newest = await append(log, "a", b"x" * 10, limits=limits)

        assert offsets(await read(log, "a")) == [newest.offset - n for n in (2, 1, 0)]


async def test_a_channel_that_was_just_used_is_not_written_for_a_look_at_its_head(
    path: Path, log: SQLiteLog
) -> None:
    async with opened(log):
        position = await append(log, "a")
        with another_process(path) as writing:
            writing.execute("BEGIN IMMEDIATE")
            assert await log.heads(["a"], expire=KEEP_ALL.expire) == {"a": position}


async def test_wait_for_the_file_makes_no_event_too_old(log: SQLiteLog) -> None:
    found: list[int] = []
    async with opened(log):
        before = time.monotonic()
        await append(log, "a")

        async def seek() -> None:
            age = time.monotonic() - before
            found.append((await log.seek("a", age=age, limits=Limits())).offset)

        async with anyio.create_task_group() as tasks, log._lock:
            tasks.start_soon(seek)
            await anyio.wait_all_tasks_blocked()
            await anyio.sleep(0.1)

    assert found == [0]


# --- Following ------------------------------------------------------------------------


def news_waits(log: SQLiteLog) -> None:
    """Block the loop until the follower has something for it."""
    assert until(lambda: log._follower is not None and log._follower._calls)


async def test_what_was_on_its_way_is_not_heard_when_the_channel_was_unwatched(
    path: Path, log: SQLiteLog
) -> None:
    async with opened(log), listening(log, "a", "b") as listener:
        execute(
            path,
            "INSERT INTO sse_channels (name, epoch, head, closed, expires) VALUES"
            " (x'61', 'e', 1, 0, 9e99), (x'62', 'e', 1, 0, 9e99)",
        )
        execute(
            path,
            'INSERT INTO sse_entries (channel, "offset", made, key, body)'
            " SELECT id, 1, 0, x'6b', x'78' FROM sse_channels ORDER BY id",
        )
        news_waits(log)
        log.unwatch("a")
        await listener.until(lambda: listener.entries)

    assert listener.entries == [("b", "e", Entry(1, "k", b"x"))]


async def test_channel_that_came_back_waits_for_its_own_joining(log: SQLiteLog) -> None:
    async with opened(log), listening(log, "b") as listener:
        log.watch("a")
        news_waits(log)
        log.unwatch("a")
        log.watch("a")
        await listener.until(lambda: "a" in listener.subscriptions)
        log.watch("c")
        await listener.until(lambda: "c" in listener.subscriptions)

    assert listener.subscriptions == ["b", "a", "c"]


async def test_burst_that_fits_in_no_transaction_is_heard_in_portions_and_ends_with_the_listener(
    log: SQLiteLog, quick: SQLiteLog
) -> None:
    heard: list[int] = []

    class Fails(RecordingListener):
        def received(self, channel: str, epoch: str, entry: Entry) -> None:
            heard.append(entry.offset)
            if entry.offset == 700:
                raise OSError("made up")

    async with opened(log, quick):
        with pytest.RaisesGroup(pytest.RaisesExc(OSError, match="made up"), flatten_subgroups=True):
            async with anyio.create_task_group() as tasks:
                log.watch("a")
                listener = Fails()
                tasks.start_soon(log.listen, listener)
                await listener.until(lambda: listener.subscriptions)
                for _ in range(800):
                    tasks.start_soon(append, quick, "a")

    assert heard == list(range(1, 701))


async def test_what_was_added_at_once_is_heard_in_portions(
    log: SQLiteLog, other: SQLiteLog
) -> None:
    entries = [NewEntry(b"x", str(number), 120) for number in range(1_100)]

    async with opened(log, other), listening(log, "a") as listener:
        await other.append_many("a", entries, limits=KEEP_ALL._replace(events=2_000))
        await listener.until(lambda: listener.has("a", 1_100))

    assert listener.offsets("a") == list(range(1, 1_101))


async def test_follower_that_was_stopped_waits_for_nobody(path: Path) -> None:
    """Whatever comes first: the last news, or the end."""
    follower = Follower(DatabaseFile(path, "full"), {}, current_loop(), poll=1, timeout=1)
    follower.stop()

    with anyio.fail_after(SEAT_BELT_SECONDS):
        await anyio.to_thread.run_sync(follower._tell, [lambda listener: None])
        await anyio.to_thread.run_sync(follower.run)


async def test_a_log_that_was_open_at_a_fork_can_be_opened_again(log: SQLiteLog) -> None:
    async with log.open():
        log.after_fork()
        with pytest.raises(RuntimeError, match="isn't open"):
            await append(log, "a")
    async with opened(log):
        assert (await append(log, "a")).offset == 1
