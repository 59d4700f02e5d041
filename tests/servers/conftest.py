"""Servers, a browser and a reverse proxy for one test each."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from playwright.sync_api import Page, sync_playwright
from tests.servers import serving
from tests.servers.serving import Program, Server

Serve = Callable[..., Server]


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "slow: waits long and does little; starts first")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """With several workers, what waits for a minute then waits beside the others."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Starts applications; see `serving.serve`."""
    with ExitStack() as running:

        def start(app: str = "streams:app", *options: str | Path) -> Server:
            return running.enter_context(serving.serve(app, *options))

        yield start


@pytest.fixture
def example() -> Iterator[Callable[[str], Server]]:
    """Starts programs of examples/; see `serving.run_example`."""
    with ExitStack() as running:
        yield lambda name: running.enter_context(serving.run_example(name))


@pytest.fixture
def page() -> Iterator[Page]:
    """A page of a headless Chromium with a fresh profile, which takes any certificate."""
    # Started for each test: as long as playwright runs, this thread has an event loop of its own.
    chromium = serving.program("chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=chromium,
            args=[
                "--headless",
                "--no-sandbox",
                "--disable-gpu",
                "--disable-quic",
                "--no-first-run",
                "--disable-background-networking",
                "--disable-component-update",
                "--disable-sync",
                "--no-proxy-server",
            ],
        )
        context = browser.new_context(ignore_https_errors=True)
        page = context.new_page()
        page.set_default_timeout(30_000)
        yield page
        context.close()
        browser.close()


NGINX = """\
daemon off;
{user}
worker_processes 1;
pid {folder}/nginx.pid;
error_log {folder}/error.log notice;
events {{ worker_connections 64; }}
http {{
    access_log off;
    client_body_temp_path {folder}/client;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    server {{
        listen 127.0.0.1:{port};
        location / {{
            proxy_pass http://127.0.0.1:{upstream};
            proxy_http_version {http_version};
            proxy_set_header Connection "";
            proxy_read_timeout 20s;
        }}
    }}
}}
"""


@pytest.fixture
def nginx(tmp_path: Path) -> Iterator[Callable[[Server, str], str]]:
    """Puts nginx in front of a server, buffering as it does by default; returns the new address."""
    with ExitStack() as running:

        def start(server: Server, http_version: str) -> str:
            folder = tmp_path / "nginx"
            folder.mkdir()
            command: list[str | Path] = [
                serving.program("nginx"),
                "-p",
                folder,
                "-c",
                folder / "nginx.conf",
            ]
            port = _free_port()
            config = NGINX.format(
                folder=folder,
                port=port,
                upstream=server.port,
                http_version=http_version,
                # Its workers have to write below a folder that is only ours.
                user="user root;" if os.geteuid() == 0 else "",
            )
            (folder / "nginx.conf").write_text(config, "utf-8")
            running.enter_context(Program([*command, "-e", folder / "error.log"]))
            answers = serving.until(lambda: _accepts(port), seconds=serving.READY_SECONDS)
            assert answers, (folder / "error.log").read_text("utf-8")
            return f"http://127.0.0.1:{port}"

        yield start


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _accepts(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0
