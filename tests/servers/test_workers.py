"""A hub in memory behind several workers: each server's workers know, and say so."""

from __future__ import annotations

import sys
from pathlib import Path

import httpx2
import pytest
from tests.servers.serving import APPS, Program, free_port, until

WARNING = "this process is one of 2 workers, and its channels are in memory"


def started_with(options: str, port: int, folder: Path) -> list[str]:
    (folder / "conf.py").write_text("workers = 2\n", "utf-8")
    options = options.format(port=port, apps=APPS, conf=folder / "conf.py")
    return [sys.executable, "-m", *options.split()]


@pytest.mark.parametrize(
    "options",
    [
        "uvicorn prices:app --app-dir {apps} --port {port} --workers 2",
        "gunicorn prices:app --chdir {apps} -b 127.0.0.1:{port} -w 2 -k uvicorn.workers.UvicornWorker",
        "gunicorn prices:app --chdir {apps} -b 127.0.0.1:{port} -c {conf} -k asgi",
        "hypercorn {apps}/prices:app -b 127.0.0.1:{port} --workers 2",
        "granian prices:app --working-dir {apps} --interface asgi --port {port} --workers 2",
    ],
    ids=lambda options: "-".join(options.split()[0:1] + options.split()[-1:]),
)
def test_worker_of_two_says_that_its_channels_are_its_own(options: str, tmp_path: Path) -> None:
    port = free_port()
    with Program(started_with(options, port, tmp_path)) as server:

        def warns() -> bool:
            # A new connection each time: any of the workers takes it.
            try:
                url = f"http://127.0.0.1:{port}/prices"
                with httpx2.stream("GET", url, trust_env=False) as answer:
                    assert answer.status_code == 200
            except httpx2.TransportError:
                assert server.exit_code is None, server.lines  # It hasn't begun yet.
            return any(WARNING in line for line in server.lines)

        assert until(warns), server.lines
