"""The longest id that channels give out comes back, whatever lies between."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from playwright.sync_api import Page
from tests.servers.conftest import Serve
from tests.servers.serving import Server


@pytest.mark.parametrize("http", ["h11", "httptools"])
def test_browser_brings_the_longest_id_back_through_nginx(
    serve: Serve, nginx: Callable[[Server, str], str], page: Page, http: str
) -> None:
    server = serve("longest_id:app", "--http", http)
    url = nginx(server, "1.1")

    page.goto(f"{url}/blank")
    page.evaluate("globalThis.source = new EventSource('/once')")
    came, again = server.journal("came", count=2)

    assert not came["same"]
    assert again["same"]
    assert again["positions"] == 200
    assert 3_900 < again["length"] < 4_096
