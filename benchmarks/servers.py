"""The contenders, and a server while it runs: started alone on its core, measured, ended by its id."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlencode

from . import environments as where

TICKS = os.sysconf("SC_CLK_TCK")
START_SECONDS = 20
CORES = sorted(os.sched_getaffinity(0))
SERVER_CORE, CLIENT_CORE = CORES[0], CORES[-1]

NGINX = """
load_module {module};
user root;
daemon off;
worker_processes 1;
worker_rlimit_nofile 20000;
error_log stderr error;
pid {folder}/nginx.pid;
events {{ worker_connections 16000; }}
http {{
    access_log off;
    keepalive_requests 1000000;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    nchan_max_reserved_memory 256M;
    server {{
        listen 127.0.0.1:{port} backlog=4096;
        location = /queue {{
            nchan_subscriber eventsource;
            nchan_channel_id bench;
            nchan_subscriber_first_message newest;
        }}
        location = /publish {{
            nchan_publisher;
            nchan_channel_id bench;
            nchan_message_buffer_length 1000;
        }}
    }}
}}
"""


@dataclass(frozen=True)
class Contender:
    """
    Somebody who takes part.

    Attributes:
        key: the name in results and options.
        title: the name in tables.
        needs: the environments it needs.
        kind: what is started: `"uvicorn"`, `"aiohttp"`, `"node"` or `"nginx"`.
        app: the module of the application.
        subscribe: the path of a subscriber.
        publish: whom its publisher publishes to.
        joins: for the bare application: whether it is the ceiling.
    """

    key: str
    title: str
    needs: tuple[str, ...]
    kind: str = "uvicorn"
    app: str = ""
    subscribe: str = "/queue"
    publish: str = "queue"
    joins: bool = False


CONTENDERS = {
    each.key: each
    for each in (
        Contender("ours", "sse-starlette 4", ("ours",), app="sse"),
        Contender("channel", "... with a channel", ("ours",), app="sse", subscribe="/channel", publish="channel"),
        Contender("endpoint", "... as an endpoint", ("ours",), app="sse", subscribe="/endpoint/channel", publish="channel"),
        Contender("3.7.0", "sse-starlette 3.7.0", ("rivals",), app="sse"),
        Contender("plain", "StreamingResponse", ("rivals",), app="plain"),
        Contender("fastapi", "FastAPI", ("rivals",), app="fastapi_sse"),
        Contender("litestar", "Litestar", ("rivals",), app="litestar_sse"),
        Contender("aiohttp-sse", "aiohttp-sse", ("rivals",), kind="aiohttp", app="aiohttp_sse_app"),
        Contender("better-sse", "better-sse (Node)", ("rivals", "node"), kind="node"),
        Contender("nchan", "nchan (nginx, C)", ("nchan",), kind="nginx"),
        Contender("floor", "bare, a send per event", ("ours",), app="bare"),
        Contender("ceiling", "bare, joined", ("ours",), app="bare", joins=True),
    )
}  # fmt: skip


def on_core(core: int) -> list[str]:
    """Return what keeps a program on one core, where there are two and a way to say so."""
    taskset = shutil.which("taskset")
    return [taskset, "-c", str(core)] if taskset and len(CORES) > 1 else []


def free_port() -> int:
    """Find a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def answer_to(port: int, order: str, timeout: float, **query: object) -> Any:
    """
    Have the application on a port do something; return what it answers.

    Raises:
        RuntimeError: it answers with an error.
    """
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
    with contextlib.closing(connection):
        connection.request("GET", f"/control/{order}?{urlencode(query)}")
        answer = connection.getresponse()
        body = answer.read()
    if answer.status != 200:
        raise RuntimeError(f"{order}: {answer.status}")
    return json.loads(body) if body else None


def python_of(contender: Contender) -> tuple[Path, dict[str, str]]:
    """Return the interpreter of a Python contender, and its variables."""
    ours = "ours" in contender.needs
    folder = where.OURS if ours else where.RIVALS
    env = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    env.pop("PYTHONPATH", None)
    if ours:
        env["PYTHONPATH"] = str(where.ROOT / "src")
    if contender.joins:
        env["BENCH_BARE"] = "ceiling"
    return folder / "bin" / "python", env


class Server:
    """A contender while it runs."""

    def __init__(self, contender: Contender, folder: Path, more: dict[str, str]) -> None:
        """Start it; the folder is for files of its own. A Python server gets more variables."""
        self.contender = contender
        self.port = free_port()
        env: dict[str, str] | None = None
        command: list[str | Path]
        if contender.kind == "node":
            command = [where.node(), where.NODE / "better_sse.mjs", str(self.port)]
        elif contender.kind == "nginx":
            text = NGINX.format(module=where.NCHAN_MODULE, folder=folder, port=self.port)
            config = folder / "nginx.conf"
            config.write_text(text, "utf-8")
            command = [where.program("nginx"), "-p", folder, "-e", "stderr", "-c", config]
        else:
            python, env = python_of(contender)
            env |= more
            program = "serve.py" if contender.kind == "uvicorn" else f"{contender.app}.py"
            command = [python, where.APPS / program]
            command += [contender.app] if contender.kind == "uvicorn" else []
            command += [str(self.port)]
        self.log = (folder / "log").open("w+")
        self.process = subprocess.Popen(
            [*on_core(SERVER_CORE), *command],
            env=env,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=self.log,
            stderr=self.log,
        )

    def wait_until_ready(self) -> None:
        """
        Wait until it takes connections.

        Raises:
            RuntimeError: it has ended, or takes too long.
        """
        until = time.monotonic() + START_SECONDS
        while time.monotonic() < until and self.process.poll() is None:
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
            except OSError:
                time.sleep(0.05)
            else:
                return
        raise RuntimeError(f"{self.contender.title} does not start: {self.said()}")

    def said(self) -> str:
        """Return the end of what it has printed."""
        self.log.flush()
        return Path(self.log.name).read_text("utf-8", "replace")[-2000:]

    def processes(self) -> list[int]:
        """Its process, and those that it has started."""
        found = [self.process.pid]
        for task in Path(f"/proc/{self.process.pid}/task").glob("*/children"):
            found += map(int, task.read_text().split())
        return found

    def cpu_seconds(self) -> float:
        """CPU time that it has used so far."""
        used = 0
        for pid in self.processes():
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            used += int(fields[11]) + int(fields[12])
        return used / TICKS

    def memory_kib(self) -> float:
        """Its share of the memory, what it shares with others divided among them."""
        used = 0
        for pid in self.processes():
            for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                if line.startswith("Pss:"):
                    used += int(line.split()[1])
        return float(used)

    def order(self, order: str, timeout: float = 120, **query: object) -> Any:
        """Have it do something; return what it answers."""
        if self.contender.kind == "nginx":
            return self._order_nginx(order, **query)
        try:
            return answer_to(self.port, order, timeout, **query)
        except RuntimeError as error:
            raise RuntimeError(f"{self.contender.title}, {error}: {self.said()}") from None

    def _order_nginx(self, order: str, **query: Any) -> Any:
        """Publish from here: nginx has no application that could."""
        if order != "publish":
            return None
        rate, began, published = float(query["rate"]), time.monotonic(), 0
        with socket.create_connection(("127.0.0.1", self.port), timeout=20) as connection:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            while (passed := time.monotonic() - began) < float(query["seconds"]):
                due = int(passed * rate) + 1 if rate else published + 1
                while published < due:
                    body = f"@{time.monotonic_ns()} AAPL 187.44 +0.12"
                    head = "POST /publish HTTP/1.1\r\nHost: b\r\nX-EventSource-Event: tick\r\n"
                    connection.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n{body}".encode())
                    answer = connection.recv(65536)
                    if not answer.startswith(b"HTTP/1.1 20"):
                        raise RuntimeError(f"nchan: {answer!r}")
                    published += 1
                if rate:
                    time.sleep(max(0.0, began + published / rate - time.monotonic()))
        return published

    def stop(self) -> None:
        """End it, and see that it has ended."""
        if self.process.poll() is None:
            children = self.processes()[1:]
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(3)
            except subprocess.TimeoutExpired:
                for pid in [self.process.pid, *children]:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
                self.process.wait()
        self.log.close()


@contextlib.contextmanager
def running(contender: Contender, **more: str) -> Iterator[Server]:
    """Run a contender for the length of the block, a Python server with more variables."""
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        server = Server(contender, Path(name), more)
        try:
            server.wait_until_ready()
            yield server
        finally:
            server.stop()


class Listening(Protocol):
    """Whatever listens on a port."""

    port: int


class Load:
    """The load client while it runs; see load.c for what it says."""

    def __init__(self, server: Listening, path: str, seconds: int = 60, **options: object) -> None:
        """Start it. It ends by itself after so many seconds, whatever happens."""
        given = {"port": server.port, "path": path, "seconds": seconds, **options}
        command = [*on_core(CLIENT_CORE), str(where.LOAD)]
        for name, value in given.items():
            command += [f"--{name}", str(value)]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self._last = threading.Timer(seconds + 5, self.process.kill)
        self._last.daemon = True
        self._last.start()

    def wait_for(self, state: str) -> dict[str, Any]:
        """
        Wait until the client says this.

        Raises:
            RuntimeError: it has run out of time instead.
        """
        assert self.process.stdout is not None
        for line in self.process.stdout:
            said: dict[str, Any] = json.loads(line)
            if said["state"] == state:
                return said
            if said["state"] == "late":
                raise RuntimeError(f"{state!r} did not come in time: {said}")
        raise RuntimeError(f"the load client ended before {state!r}")

    def _tell(self, line: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def mark(self) -> dict[str, Any]:
        """Return what has come since the last mark."""
        self._tell("mark")
        return self.wait_for("mark")

    def stall(self, streams: int) -> None:
        """Let so many streams stop reading."""
        self._tell(f"stall {streams}")
        self.wait_for("stalled")

    def close(self) -> None:
        """End it."""
        self._last.cancel()
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process.stdout.close()


@contextlib.contextmanager
def loading(server: Listening, path: str, seconds: int = 60, **options: object) -> Iterator[Load]:
    """Run a load client for the length of the block."""
    load = Load(server, path, seconds, **options)
    try:
        yield load
    finally:
        load.close()
