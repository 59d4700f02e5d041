"""A client's machine vanishes without a word: the kernel tells each server in the time that it's told to wait."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import pytest
from tests.servers.serving import APPS, Program

USER_TIMEOUT_MS = 1_000
APP = "vanishing:app"
# In a network of its own, which is gone when its loopback goes down, and with it all who speak through it. The kernel
# gives up after four attempts there, which the servers need that take no socket.
ALONE = 'ip link set lo up && echo "$0" > /proc/sys/net/ipv4/tcp_retries2 && exec "$@"'
IMPATIENT, PATIENT = "3", "15"
CLIENT = """
import socket, sys, time
while True:
    try:
        client = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
        break
    except ConnectionRefusedError:
        time.sleep(0.05)
client.sendall(b"GET / HTTP/1.1\\r\\nHost: h\\r\\n\\r\\n")
got = b""
while b"data: here" not in got:
    got += client.recv(65536)
print("listening", flush=True)
sys.stdin.read()
while True:
    client.recv(65536)
"""
SERVERS = {
    "uvicorn": (USER_TIMEOUT_MS, "-m", "uvicorn", "--fd", "{fd}", APP),
    "hypercorn": (USER_TIMEOUT_MS, "-m", "hypercorn", "--bind", "fd://{fd}", APP),
    "gunicorn": (
        *(USER_TIMEOUT_MS, "-m", "gunicorn", "--bind", "fd://{fd}"),
        *("-k", "uvicorn.workers.UvicornWorker", APP),
    ),
    "daphne": (USER_TIMEOUT_MS, "-m", "daphne", "--fd", "{fd}", APP),
    "granian": (0, "-m", "granian", "--interface", "asgi", "--port", "{port}", APP),
}


def network_of_its_own() -> str:
    """Why there's none; empty: there is."""
    if sys.platform != "linux":
        return "networks of their own are Linux's"
    if missing := [each for each in ("unshare", "nsenter", "ip") if shutil.which(each) is None]:
        return f"there's no program {missing[0]}"
    tried = subprocess.run(
        ["unshare", "-n", "sh", "-c", ALONE, IMPATIENT, "true"], capture_output=True, check=False
    )
    return tried.stderr.decode().strip() if tried.returncode else ""


@pytest.fixture(scope="module", autouse=True)
def _network() -> None:
    if why := network_of_its_own():
        pytest.skip(f"this needs a network of its own for a server, and its kernel's leave: {why}")


@pytest.mark.parametrize("server", SERVERS)
def test_server_notices_a_client_that_has_vanished(
    server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(APPS), os.environ.get("PYTHONPATH", "")]))
    milliseconds, *command = map(str, SERVERS[server])
    retries = IMPATIENT if milliseconds == "0" else PATIENT
    launcher = [sys.executable, str(APPS / "vanishing.py"), milliseconds]
    alone = ["unshare", "-n", "sh", "-c", ALONE, retries]
    with Program([*alone, *launcher, *command]) as running:
        port = running.wait_for_line(r"port (\d+)")[1]
        inside = ["nsenter", "-t", str(running.pid), "-n"]
        with Program([*inside, sys.executable, "-c", CLIENT, port]) as client:
            client.wait_for_line("listening")

            subprocess.run([*inside, "ip", "link", "set", "lo", "down"], check=True)

            assert running.wait_for_line(r"closed: (\w+)")[1] == "client"
            # It has said nothing: it's still there.
            assert client.exit_code is None
            client.kill()
