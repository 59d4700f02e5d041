"""Has streams open on a server of any make, makes it go down, and gathers what became of everyone.

Knows how each server is started, how it's told to stop, reload or replace a worker, and what it may
say about it. What must be true is for the tests to say.
"""

from __future__ import annotations

import datetime as dt
import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any, Literal, Self, TypeAlias

import httpx2
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from tests.servers import serving
from tests.servers.serving import APPS, ROOT, Program, free_port, program

STREAMS = 20
"""How many streams are open when a server goes down."""
MOST_REQUESTS = 40
"""After how many requests a worker is replaced, where that is asked for: more than a test makes before."""
GIVEN_UP_SECONDS = 90.0
"""A server that has not gone by then stays."""

Ending: TypeAlias = Literal["SIGTERM", "SIGINT", "reload", "recycling"]
ENDINGS: tuple[Ending, ...] = ("SIGTERM", "SIGINT", "reload", "recycling")

UVICORN = (
    r"INFO: +(Started|Finished) (server|parent|reloader) process \[\d+\]( using StatReload)?",
    r"INFO: +Stopping (parent|reloader) process \[\d+\]",
    r"INFO: +Waiting for (application startup|application shutdown|background tasks to complete)\..*",
    r"INFO: +Waiting for connections to close\. \(CTRL\+C to force quit\)",
    r"INFO: +Application (startup|shutdown) complete\.",
    r"INFO: +Uvicorn running on https?://\S+ \(Press CTRL\+C to quit\)",
    r"INFO: +Shutting down",
    r"INFO: +Will watch for changes in these directories: .*",
    r"WARNING: +StatReload detected changes in .*\. Reloading\.\.\.",
    r"INFO: +Maximum request limit of \d+ exceeded\. Terminating process\.",
    r"INFO: +Received SIG(TERM|INT|HUP), (exiting|restarting processes)\.",
    r"INFO: +(Terminated|Waiting for) child process \[\d+\]",
    r"INFO: +Child process \[\d+\] died",
    r'INFO: +127\.0\.0\.1:\d+ - "GET \S+ HTTP/1\.1" 200 OK',
)
GUNICORN = tuple(
    r"\[.*\] \[\d+\] \[(INFO|WARNING)\] " + said
    for said in (
        r"(Starting gunicorn|Listening at|Using worker|Booting worker with pid|Handling signal).*",
        r"(ASGI server|Control socket) listening .*",
        r"(Worker exiting|Worker shutting down|Shutting down|Hang up: Master).*",
        r"(Started|Finished) server process \[\d+\]",
        r"(Waiting for )?(A|a)pplication (startup|shutdown)( complete)?\.",
        r"Waiting for (connections to close|background tasks to complete)\. .*",
        r"Worker \(pid:\d+\) was sent SIG(TERM|INT)!",
        r"Maximum request limit of \d+ exceeded\. Terminating process\.",
        r"Autorestarting worker after current request\.",
        # Gunicorn's parent and uvicorn both close the listening socket.
        r"Error while closing socket \[Errno 9\] Bad file descriptor",
    )
)
GRANIAN = (
    r"\[INFO\] (Starting granian|Listening at|Granian shutdown completed|Shutting down granian).*",
    r"\[INFO\] (Spawning|Started|Stopping|Stopped|Respawning)( old)? worker-\d.*",
    r"\[INFO\] HUP signal received, gracefully respawning workers\.\.",
)
HYPERCORN = (r"\[.*\] \[\d+\] \[INFO\] Running on https?://\S+ \(CTRL \+ C to quit\)",)
DAPHNE = (
    r"\S+ \S+ INFO +(Starting server|HTTP/2 support|Configuring endpoint|Listening on TCP address).*",
    r"\S+ \S+ INFO +Killed \d+ pending application instances",
    r'127\.0\.0\.1:\d+ - - \[.*\] "GET \S+" 200 \d+',
)

_ADDRESS = re.compile(
    r"(?:running on|Running on|Listening at:|Listening on TCP address) (?:(https?)://)?127\.0\.0\.1:(\d+)"
)


@dataclass(frozen=True)
class ServerCase:
    """A server, and a way to start it."""

    server: str
    start: str
    """What the documentation calls it."""
    command: tuple[str, ...]
    usual: tuple[str, ...]
    """What each line matches that the server prints."""
    endings: tuple[Ending, ...] = ("SIGTERM", "SIGINT")
    recycled_by: Literal["requests", "SIGHUP"] = "requests"
    survives_recycling: bool = True
    """There's a worker after a worker was replaced: not if the server leaves that to its supervisor."""
    lifespan_stops_at: tuple[Ending, ...] = ENDINGS
    """When the server tells the application's lifespan."""
    not_handled: tuple[Ending, ...] = ()
    """What the server doesn't handle: it's gone at once, and so is everything else."""
    cuts_the_last: bool = False
    """The last stream on a connection gets all its bytes, but not the end of its body."""
    own_fault: Callable[[list[str]], bool] = lambda _: False
    """Whether, by what it printed, it has failed by itself, which tells nothing of the streams."""
    ready_when: tuple[str, int] = ("", 0)
    """What it prints how often until all of it has started."""
    tls: bool = False
    ctrl_c: bool = True
    """SIGINT goes to all of its processes, as Ctrl+C in a terminal does; or only to the first one."""

    def __str__(self) -> str:
        return re.sub(r"\W+", "-", f"{self.server} {self.start}").strip("-")


class Running(Program):
    """A server with the streams of apps/going_down.py."""

    def __init__(self, command: Sequence[str | Path], folder: Path) -> None:
        self._journal = folder / "journal"
        self._journal.touch()
        variables = {
            "JOURNAL": self._journal,
            "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(APPS), str(folder)]),
            # Some leave files there.
            "HOME": folder,
        }
        super().__init__(
            ["env", *(f"{name}={value}" for name, value in variables.items()), *command]
        )
        try:
            address = self.wait_for_line(_ADDRESS.pattern)
            self.port = int(address[2])
            self.url = f"{address[1] or 'http'}://127.0.0.1:{self.port}"
            assert serving.until(self.answers), self.lines
        except BaseException:
            self.stop()
            raise

    def answers(self) -> str:
        """The process id of the worker that answers; empty if nobody does."""
        try:
            # A request may still be waiting in line when its worker goes.
            return serving.get(f"{self.url}/who", seconds=5).text
        except httpx2.TransportError:
            return ""

    def notes(self, what: str | None = None) -> list[dict[str, Any]]:
        """What the application has noted."""
        notes = [json.loads(line) for line in self._journal.read_text("utf-8").splitlines()]
        return [note for note in notes if what in (None, note["what"])]

    def processes(self) -> set[int]:
        """The processes of the server that live."""
        return {pid for pid, group in _living() if group == self.pid}

    def unusual(self, usual: tuple[str, ...]) -> list[str]:
        """What it has printed beyond `usual`. After it has gone nothing more can come."""
        return [
            line
            for line in self.lines
            if line.strip() and not any(re.fullmatch(each, line.strip()) for each in usual)
        ]

    def stop(self, seconds: float = serving.STOP_SECONDS) -> None:
        super().stop(seconds)
        # A parent may have died before its children.
        for pid in self.processes():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def _living() -> Iterator[tuple[int, int]]:
    """Each process that lives, and its group."""
    for file in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            # proc(5): state and pgrp follow the name, which may hold spaces and brackets.
            state, _, group = file.read_text("utf-8").rpartition(")")[2].split()[:3]
            if state not in "ZX":
                yield int(file.parent.name), int(group)


class Clients:
    """A `curl` that reads so many streams to their ends."""

    def __init__(
        self, url: str, folder: Path, number: int = STREAMS, *, http2: bool = False
    ) -> None:
        # On HTTP/2 curl puts all of them on one connection, if it may wait for the first to be there.
        options = ["--http2"] if http2 else ["--parallel-immediate"]
        self._bodies = [folder / f"body-{each}" for each in range(number)]
        transfers = [part for each in self._bodies for part in ("--output", str(each), url)]
        self._process = subprocess.Popen(
            [
                *(program("curl"), "--silent", "--no-buffer", "--noproxy", "*", "--insecure"),
                *("--parallel", "--parallel-max", "300", "--write-out", "%{exitcode}\n"),
                *options,
                *transfers,
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert serving.until(lambda: all(b"hello" in each for each in self.bodies)), (
            f"not all streams of {url} began"
        )

    @property
    def bodies(self) -> list[bytes]:
        """What each of them has got so far."""
        return [each.read_bytes() if each.exists() else b"" for each in self._bodies]

    def exit_codes(self) -> list[int]:
        """How each of them ended; 18 for a body that's not complete."""
        told, _ = self._process.communicate(timeout=GIVEN_UP_SECONDS)
        return [int(code) for code in told.split()]

    def leave(self) -> None:
        self._process.kill()
        self._process.communicate()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.leave()


@dataclass
class Outcome:
    """What became of a server, its streams and its clients."""

    seconds: float
    """From the signal until it was gone; of a worker that is replaced, from the end of its streams on."""
    streams: int
    exit_codes: list[int]
    bodies: list[bytes]
    notes: list[dict[str, Any]] = field(repr=False)
    lines: list[str] = field(repr=False)
    unusual: list[str]

    def is_own_fault(self, case: ServerCase) -> bool:
        """Whether the server itself has failed, for all that the streams had to do was done."""
        if case.cuts_the_last:
            streams_are_done = self.count("closed", reason="shutdown") == self.streams and all(
                b"event: farewell" in body for body in self.bodies
            )
            return streams_are_done and self.exit_codes.count(0) < self.streams - 1
        return case.own_fault(self.lines)

    def count(self, what: str, **facts: Any) -> int:
        return sum(note["what"] == what and facts.items() <= note.items() for note in self.notes)


@contextmanager
def started(case: ServerCase, folder: Path) -> Iterator[Running]:
    """Start a server in the way that `case` says."""
    if importlib.util.find_spec(case.server) is None:
        pytest.fail(f"{case.server} is missing: pip install {case.server} (tasks.py test does it)")
    (folder / "watched.py").write_text("from going_down import app\n", "utf-8")
    names = {"folder": str(folder), "most": str(MOST_REQUESTS), "python": sys.executable}
    if any("{port}" in part for part in case.command):
        names["port"] = str(free_port())
    if case.tls:
        make_certificate(folder)
    with Running([part.format(**names) for part in case.command], folder) as running:
        said, times = case.ready_when
        assert serving.until(
            lambda: sum(said in line for line in running.lines) >= times,
            seconds=serving.READY_SECONDS,
        )
        yield running


def bring_down(case: ServerCase, ending: Ending, folder: Path) -> Outcome:
    """Start a server, have streams open, end it, and see what becomes of everyone."""
    with (
        started(case, folder) as server,
        Clients(f"{server.url}/idle", folder, http2=case.tls) as clients,
    ):
        began = server.notes("began")
        workers = {note["pid"] for note in began}
        whole = ending in ("SIGTERM", "SIGINT")

        start = time.monotonic()
        _end(case, ending, server, folder)
        assert serving.until(
            lambda: not (server.processes() if whole else server.processes() & workers),
            seconds=GIVEN_UP_SECONDS,
        ), server.lines
        gone = time.monotonic()
        if not whole:
            # Before that comes what takes its time for other reasons: to notice a change, and to
            # start the new worker, which some do first.
            start = min((note["at"] for note in server.notes("cancelled")), default=start)

        exit_codes = clients.exit_codes()
        notes = server.notes()
        if not whole and case.survives_recycling:
            assert serving.until(lambda: server.answers() not in {"", *map(str, workers)}), (
                "no worker has come in place of the old one"
            )
        server.stop()
        return Outcome(
            seconds=gone - start,
            streams=len(began),
            exit_codes=exit_codes,
            bodies=clients.bodies,
            notes=[note for note in notes if note["pid"] in workers],
            lines=server.lines,
            unusual=server.unusual(case.usual),
        )


def _end(case: ServerCase, ending: Ending, server: Running, folder: Path) -> None:
    match ending:
        case "SIGTERM":
            os.kill(server.pid, signal.SIGTERM)
        case "SIGINT":
            (os.killpg if case.ctrl_c else os.kill)(server.pid, signal.SIGINT)
        case "reload":
            _change_a_file(server, folder)
        case "recycling" if case.recycled_by == "SIGHUP":
            os.kill(server.pid, signal.SIGHUP)
        case "recycling":
            _ask_often(server)


def _change_a_file(server: Running, folder: Path) -> None:
    changed = folder / "watched.py"
    changed.write_text("from going_down import app\n\nchanged = True\n", "utf-8")
    # A server that has not looked at the file before it was changed would take it for what it was.
    for attempt in count(1):
        # Later than the resolution of any file system.
        later = time.time() + 10 * attempt
        os.utime(changed, (later, later))
        if serving.until(lambda: server.notes("cancelled"), seconds=10):
            break
        assert attempt < 10, server.lines


def _ask_often(server: Running) -> None:
    streaming = {str(note["pid"]) for note in server.notes("began")}
    for _ in range(2 * MOST_REQUESTS):
        # Nobody answers for a moment, or nobody any more.
        if server.answers() not in streaming | {""} or server.notes("cancelled"):
            break


def make_certificate(folder: Path) -> None:
    """Write cert.pem and key.pem, a throw-away certificate for this machine and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    (folder / "cert.pem").write_bytes(certificate.public_bytes(Encoding.PEM))
    secret = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (folder / "key.pem").write_bytes(secret)


APP = "going_down:app"


def _said(text: str) -> Callable[[list[str]], bool]:
    return lambda lines: any(text in line for line in lines)


def _left_its_lifespan_out(lines: list[str]) -> bool:
    """A worker of uvicorn went without a word to its lifespan, as at a second Ctrl+C.

    It gets SIGINT from the terminal and SIGTERM from its parent a moment later. One that comes while
    `handle_exit` is at the other counts as the first, and SIGINT as the second: with nothing of ours
    before it in one of three hundred, on a busy machine (0.54.0).
    """
    finished, told = (
        sum(text in line for line in lines)
        for text in ("Finished server process", "Waiting for application shutdown")
    )
    return told < finished


def uvicorn(start: str, *options: str, app: str = APP, **more: Any) -> ServerCase:
    command = ("{python}", "-m", "uvicorn", app, "--port", "0", "--no-use-colors", *options)
    return ServerCase("uvicorn", start, command, UVICORN, **more)


def _program(start: str, name: str) -> ServerCase:
    command = ("{python}", str(APPS / "going_down.py"), name)
    return ServerCase("uvicorn", start, command, UVICORN)


def gunicorn(start: str, *options: str, app: str = APP, **more: Any) -> ServerCase:
    command = ("{python}", "-m", "gunicorn", "--bind", "127.0.0.1:0", *options, app)
    return ServerCase("gunicorn", start, command, GUNICORN, **more)


def granian(workers: int, *, app: str = APP) -> ServerCase:
    # Between a new worker and the end of the old one it waits for 3.5 s if it's not told otherwise.
    quick = ("--respawn-interval", "0.1")
    command = ("{python}", "-m", "granian", "--interface", "asgi", "--port", "{port}", *quick)
    return ServerCase(
        "granian",
        f"`--workers {workers}`",
        (*command, "--workers", str(workers), app),
        GRANIAN,
        ("SIGTERM", "SIGINT", "recycling"),
        recycled_by="SIGHUP",
        # A worker that is told to stop before it has started stays for ever (2.8.7).
        ready_when=("Started worker-", workers),
        # Its Rust part panics, in one of a hundred shutdowns of a busy machine (2.8.7).
        own_fault=_said("Cannot drop pointer into Python heap without the thread being attached"),
        # A worker that gets SIGINT from the terminal and SIGTERM from its parent a moment later
        # hangs now and then, whatever it serves (2.8.7).
        ctrl_c=False,
    )


def hypercorn(start: str, *options: str, app: str = APP, **more: Any) -> ServerCase:
    command = ("{python}", "-m", "hypercorn", "--bind", "127.0.0.1:0", *options, app)
    return ServerCase("hypercorn", start, command, HYPERCORN, **more)


def daphne(app: str = APP) -> ServerCase:
    command = ("{python}", "-m", "daphne", "-p", "0", app)
    return ServerCase("daphne", "its defaults", command, DAPHNE, lifespan_stops_at=())


TLS = ("--certfile", "{folder}/cert.pem", "--keyfile", "{folder}/key.pem")

CASES = (
    *(
        uvicorn(f"`--http {http} --loop {loop}`", "--http", http, "--loop", loop)
        for http in ("h11", "httptools")
        for loop in ("asyncio", "uvloop")
    ),
    uvicorn(
        "`--workers 2`",
        *("--workers", "2"),
        endings=("SIGTERM", "SIGINT", "recycling"),
        recycled_by="SIGHUP",
        own_fault=_left_its_lifespan_out,
    ),
    uvicorn(
        "`--reload`",
        *("--reload", "--reload-dir", "{folder}"),
        app="watched:app",
        endings=("SIGTERM", "SIGINT", "reload"),
        own_fault=_left_its_lifespan_out,
    ),
    uvicorn(
        "`--limit-max-requests`",
        *("--limit-max-requests", "{most}"),
        endings=("recycling",),
        survives_recycling=False,
    ),
    _program("in a thread, `server.should_exit = True`", "thread"),
    _program("signals switched off, `server.should_exit = True`", "without-signals"),
    gunicorn(
        "`-k uvicorn.workers.UvicornWorker`",
        *("-k", "uvicorn.workers.UvicornWorker"),
        endings=("SIGTERM", "SIGINT", "recycling"),
        recycled_by="SIGHUP",
    ),
    gunicorn(
        "`-k uvicorn.workers.UvicornWorker --max-requests`",
        *("-k", "uvicorn.workers.UvicornWorker", "--max-requests", "{most}"),
        endings=("recycling",),
    ),
    gunicorn(
        "`-k asgi`",
        *("-k", "asgi"),
        endings=("SIGTERM", "SIGINT", "recycling"),
        recycled_by="SIGHUP",
        lifespan_stops_at=("SIGTERM", "recycling"),
    ),
    granian(1),
    granian(2),
    *(
        hypercorn(
            f"`-k {kind} --workers {workers}`",
            *("-k", kind, "--workers", str(workers)),
            not_handled=("SIGTERM",) if (kind, workers) == ("trio", 0) else (),
        )
        for kind in ("asyncio", "uvloop", "trio")
        for workers in (0, 1, 2)
    ),
    *(
        hypercorn(
            f"`-k {kind}`, HTTP/2 over TLS",
            *("-k", kind, *TLS),
            endings=("SIGTERM",),
            tls=True,
            # On trio hypercorn closes a connection before it has sent the last END_STREAM, whatever
            # the application (0.18.0). On a busy machine, in about one of fifty, it's more than one
            # stream, or the connection stays until hypercorn's patience is over.
            cuts_the_last=kind == "trio",
            # On asyncio it trips, in about one of five on a busy machine, over what a client still
            # says while it closes the connection, when its streams have ended (0.18.0).
            own_fault=_said("APPLICATION_DATA_AFTER_CLOSE_NOTIFY"),
        )
        for kind in ("asyncio", "trio")
    ),
    *(
        hypercorn(
            f"`-k {kind} --max-requests`",
            *("-k", kind, "--max-requests", "{most}"),
            endings=("recycling",),
        )
        for kind in ("asyncio", "trio")
    ),
    hypercorn("`--reload`", "--reload", app="watched:app", endings=("reload",)),
    daphne(),
)
