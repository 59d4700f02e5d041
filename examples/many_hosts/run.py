"""Kill the process that serves you, and see that nothing is missed.

Start it with `python examples/many_hosts/run.py` and open http://localhost:8000/. It starts a Redis, two
processes that serve the page (`app.py`), and nginx before them; it counts, five numbers a second, and
starts a new process for each that has died. Ctrl+C ends all of it. On many hosts the parts are the same,
and the sockets are names and ports.

It needs `redis-server` and `nginx` (on Debian: `apt-get install redis-server nginx`), and the extras
`redis` and `examples` of this package.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path

import anyio
import anyio.abc

from sse_starlette import Hub

NAMES = ("A", "B")
SECONDS_UNTIL_REPLACED = 2.0

# An EventSource gives up for ever when it gets an error. If nobody is there to answer, it's told to
# come back.
NGINX = """\
daemon off;
{user}
pid {folder}/nginx.pid;
error_log stderr crit;
events {{ worker_connections 1024; }}
http {{
    access_log off;
    client_body_temp_path {folder}/client;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    upstream processes {{ {servers} }}
    server {{
        listen 127.0.0.1:{port};
        proxy_http_version 1.1;
        proxy_set_header Connection "";
        location / {{ proxy_pass http://processes; }}
        location = /listen {{
            proxy_pass http://processes;
            error_page 502 504 =200 @nobody;
        }}
        location @nobody {{ default_type text/event-stream; return 200 "retry: 500\\n\\n"; }}
        {hosts}
    }}
}}
"""


def nginx_config(folder: Path, port: int) -> str:
    return NGINX.format(
        folder=folder,
        port=port,
        # Its workers have to write below a folder that is only ours.
        user="user root;" if os.geteuid() == 0 else "",
        # A process that was killed is asked again as soon as another one has its place.
        servers=" ".join(f"server unix:{folder}/{name} max_fails=0;" for name in NAMES),
        hosts="\n        ".join(
            f"location /hosts/{name}/ {{ proxy_pass http://unix:{folder}/{name}; }}"
            for name in NAMES
        ),
    )


@asynccontextmanager
async def running(*command: str | Path) -> AsyncIterator[anyio.abc.Process]:
    """Run a program for the length of the block. Ctrl+C is for us, who then end it."""
    process = await anyio.open_process(
        [str(part) for part in command],
        stdout=subprocess.DEVNULL,
        stderr=None,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        with anyio.CancelScope(shield=True):
            if process.returncode is None:
                process.terminate()
                with anyio.move_on_after(3):
                    await process.wait()
            if process.returncode is None:
                process.kill()
                await process.wait()


async def until_connected(connect: Callable[[], Awaitable[anyio.abc.ByteStream]]) -> None:
    with anyio.fail_after(20):
        while True:
            try:
                stream = await connect()
            except OSError:
                await anyio.sleep(0.05)
            else:
                return await stream.aclose()


async def keep_running(name: str, log: str, socket: Path, pids: dict[str, int | None]) -> None:
    """Run a process that serves, and another one when it has died."""
    app = Path(__file__).with_name("app.py")
    while True:
        async with running(sys.executable, app, name, log, socket) as process:
            await until_connected(partial(anyio.connect_unix, socket))
            pids[name] = process.pid
            await process.wait()
            pids[name] = None
            print(f"process {name} has died, another one takes its place", flush=True)
            await anyio.sleep(SECONDS_UNTIL_REPLACED)


async def count(hub: Hub, pids: dict[str, int | None]) -> None:
    """Publish numbers; who is alive goes with them."""
    numbers = hub.channel("numbers")
    number = 0
    while True:
        number += 1
        await numbers.publish({"data": {"number": number, "pids": pids}})
        await anyio.sleep(0.2)


async def end_on_signal(scope: anyio.CancelScope) -> None:
    with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async for _ in signals:
            scope.cancel()


async def main(port: int) -> None:
    for name in ("redis-server", "nginx"):
        if program(name) is None:
            sys.exit(f"`{name}` is missing. On Debian: apt-get install {name}")
    # If it's taken, now is the time to say so.
    await (await anyio.create_tcp_listener(local_host="127.0.0.1", local_port=port)).aclose()
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="many-hosts-")))
        tasks = await stack.enter_async_context(anyio.create_task_group())
        tasks.start_soon(end_on_signal, tasks.cancel_scope)
        redis = folder / "redis"
        await stack.enter_async_context(
            running(
                program("redis-server") or "",
                *("--port", "0", "--unixsocket", redis, "--dir", folder, "--save", ""),
            )
        )
        await until_connected(partial(anyio.connect_unix, redis))

        log = f"unix://{redis}"
        pids: dict[str, int | None] = {}
        for name in NAMES:
            tasks.start_soon(keep_running, name, log, folder / name, pids)
        for name in NAMES:
            await until_connected(partial(anyio.connect_unix, folder / name))

        (folder / "nginx.conf").write_text(nginx_config(folder, port), "utf-8")
        await stack.enter_async_context(
            running(
                program("nginx") or "",
                *("-p", folder, "-c", folder / "nginx.conf", "-e", "stderr"),
            )
        )
        await until_connected(partial(anyio.connect_tcp, "127.0.0.1", port))

        hub = Hub(log)
        await stack.enter_async_context(hub.lifespan())
        tasks.start_soon(count, hub, pids)
        print(
            f"Open http://localhost:{port}/ and kill what serves it. Ctrl+C ends all.", flush=True
        )
        await anyio.sleep_forever()


def program(name: str) -> str | None:
    """Where a program of the system is; Debian's servers are in folders that a PATH may lack."""
    path = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"])
    return shutil.which(name, path=path)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--port", type=int, default=8000, help="where nginx listens (8000)")
    anyio.run(main, parser.parse_args().port)
