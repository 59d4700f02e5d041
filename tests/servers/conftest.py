"""Servers, a browser and a reverse proxy for one test each, or for those of a module."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright
from tests.servers import proxy, serving
from tests.servers.serving import Server

Serve = Callable[..., Server]
Example = Callable[[str], Server]
Nginx = Callable[..., str]


def pytest_configure(config: pytest.Config) -> None:
    # A shell starts what it has in the background with SIGINT ignored, and what we start inherits that:
    # servers that don't handle it themselves wouldn't see Ctrl+C.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Have each worker begin with its share of what waits long, which so waits beside the others."""
    slow = [item for item in items if item.get_closest_marker("slow") is not None]
    quick = [item for item in items if item.get_closest_marker("slow") is None]
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    # As `--dist worksteal` shares them out, before anyone steals: a stretch for each, all of one length.
    length = len(items) // workers
    items.clear()
    for worker in range(workers):
        first = slow[worker::workers]
        rest = length - len(first) if worker < workers - 1 else len(quick)
        items += first + quick[:rest]
        del quick[:rest]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Starts applications, see `serving.serve`; in the end none has complained of anything unexpected."""
    servers: list[Server] = []

    def start(app: str = "streams:app", *options: str | Path) -> Server:
        servers.append(serving.serve(app, *options))
        return servers[-1]

    yield start
    for server in servers:
        server.stop()
    assert [line for server in servers for line in server.complaints()] == []


@pytest.fixture(scope="module")
def shared() -> Iterator[Serve]:
    """The same for the tests of a module, which look at nothing that others of them may have left."""
    servers: dict[tuple[str | Path, ...], Server] = {}

    def start(*command: str | Path) -> Server:
        if command not in servers:
            servers[command] = serving.serve(*(command or ["streams:app"]))
        return servers[command]

    yield start
    for server in servers.values():
        server.stop()
    assert [line for server in servers.values() for line in server.complaints()] == []


@pytest.fixture
def example() -> Iterator[Example]:
    """Starts programs of examples/; see `serving.run_example`."""
    with ExitStack() as running:
        yield lambda name: running.enter_context(serving.run_example(name))


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """A headless Chromium. As long as it runs, this thread has an event loop of its own: playwright's."""
    chromium = serving.program("chromium")
    options = (
        "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --no-proxy-server"
        " --disable-background-networking --disable-component-update --disable-sync"
    )
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=options.split())
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A page with a fresh profile, which takes any certificate; in the end no page of it has raised an error."""
    problems: list[str] = []
    context = browser.new_context(ignore_https_errors=True)
    context.on("weberror", lambda raised: problems.append(str(raised.error)))
    page = context.new_page()
    page.set_default_timeout(90_000)
    expect.set_options(timeout=90_000)  # It has a guard of its own, of five seconds.
    yield page
    context.close()
    assert problems == []


@pytest.fixture
def nginx(tmp_path: Path) -> Iterator[Nginx]:
    """Puts nginx in front of a server; returns the new address. See `proxy.nginx`."""
    with ExitStack() as running:

        def start(server: Server, http_version: str = "1.1") -> str:
            before = proxy.nginx(tmp_path / "nginx", [server.port], http_version=http_version)
            return running.enter_context(before)

        yield start
