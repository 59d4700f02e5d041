"""The example of many hosts, as people see it in Chromium."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect
from tests.servers.serving import ROOT, Program, free_port, until

RUN = ROOT / "examples" / "many_hosts" / "run.py"


@pytest.fixture
def started() -> Iterator[tuple[Program, str]]:
    with Program([sys.executable, RUN, "--port", str(free_port())]) as program:
        yield (
            program,
            program.wait_for_line(r"Open (http://\S+)")[1].replace("localhost", "127.0.0.1"),
        )


def is_running(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


@pytest.mark.slow
def test_page_outlives_the_processes_that_serve_it(
    started: tuple[Program, str], page: Page, tmp_path: Path
) -> None:
    program, url = started
    problems: list[str] = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.set_viewport_size({"width": 1100, "height": 980})

    def pids() -> dict[str, int | None]:
        alive: dict[str, int | None] = page.evaluate("pids")
        return alive

    page.goto(url)
    page.wait_for_function("got.length > 5")
    first = pids()
    for kills in range(1, 4):
        name = page.evaluate("host.name")
        page.locator("#kill").click()
        expect(page.locator(f".host.{name}.dead")).to_be_visible()
        expect(page.locator("#survived")).to_have_text(str(kills))
        page.wait_for_function("got.length > 0 && Object.values(pids).every(Boolean)")
    # None is left: whoever asks meanwhile is told to come back, by a stream that an EventSource takes.
    page.evaluate("for (const name of 'AB') fetch(`/hosts/${name}/die`, { method: 'POST' })")
    expect(page.locator("#state")).to_have_text("waiting to come back")
    seen = page.evaluate("got.length")
    page.wait_for_function(f"got.length > {seen} + 20 && Object.values(pids).every(Boolean)")
    got = page.evaluate("got")
    last = pids()
    page.screenshot(path=tmp_path / "many_hosts.png", full_page=True)
    width, content = page.evaluate("[innerWidth, document.documentElement.scrollWidth]")
    program.stop()

    assert got == list(range(got[0], got[0] + len(got)))
    for zero in ("missed", "doubled", "gaps"):
        expect(page.locator(f"#{zero}")).to_have_text("0")
    assert page.locator("#numbers li.A").count() > 0
    assert page.locator("#numbers li.B").count() > 0
    # Each process was another one in the end, and none is left behind.
    assert set(first.values()).isdisjoint(last.values())
    assert until(lambda: not any(map(is_running, filter(None, last.values()))))
    assert [line for line in program.lines if "Error" in line or "Traceback" in line] == []
    assert content <= width
    assert problems == []
