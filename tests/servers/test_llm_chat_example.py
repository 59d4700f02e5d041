"""The example of a language model's answer, as people see it in Chromium."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from playwright.sync_api import Locator, Page, expect
from tests.servers import proxy
from tests.servers.serving import ROOT, Server, free_port
from tests.servers.test_channels_examples import look_right

Example = Callable[[str], Server]

LAST_WORDS = "That is all I have to say."


@pytest.fixture
def problems(page: Page) -> list[str]:
    found: list[str] = []
    page.on("pageerror", lambda error: found.append(str(error)))
    return found


def ask(page: Page, question: str) -> None:
    page.locator("#question").fill(question)
    page.get_by_role("button", name="Ask", exact=True).click()


def is_whole(answer: Locator) -> None:
    """Each token once, and in order: the page has looked at their numbers."""
    expect(answer.locator(".end")).to_have_text("complete")
    expect(answer.locator(".wrong")).to_have_text("")
    words = answer.locator("p").inner_text().split()
    assert " ".join(words).endswith(LAST_WORDS)
    # The two line breaks of the text stand between words of one token.
    expect(answer.locator(".count")).to_have_text(f"{len(words) - 2} tokens")


def test_answer_survives_reloads_and_is_read_in_a_second_tab(
    example: Example, page: Page, tmp_path: Path, problems: list[str]
) -> None:
    server = example("llm_chat/app.py")
    page.goto(server.url)
    ask(page, "why?")
    answer = page.locator(".answer")
    for words in ("no language model", "while I speak"):
        expect(answer.locator("p")).to_contain_text(words)
        page.reload()
    look_right(page, tmp_path / "llm_chat.png")
    other = page.context.new_page()
    other.goto(server.url)

    for each in (page, other):
        is_whole(each.locator(".answer"))
    page.reload()
    is_whole(answer)
    # And it doesn't come back: the stream is over, whoever asks.
    assert page.evaluate("fetch(`/answers/none`).then(({ status }) => status)") == 204
    assert problems == []


def test_stop_is_for_everyone(example: Example, page: Page, problems: list[str]) -> None:
    server = example("llm_chat/app.py")
    page.goto(server.url)
    ask(page, "for how long?")
    other = page.context.new_page()
    other.goto(server.url)
    expect(other.locator(".answer p")).to_contain_text("no language model")

    page.get_by_role("button", name="Stop").click()

    for each in (page, other):
        expect(each.locator(".answer .end")).to_have_text("stopped")
        expect(each.locator(".answer .wrong")).to_have_text("")
    assert problems == []


@pytest.fixture
def hosts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, list[Server]]]:
    """Two processes behind nginx, on one event log."""
    monkeypatch.setenv("HUB_URL", f"sqlite:///{tmp_path}/answers.db")
    with ExitStack() as running:
        servers = []
        for _ in range(2):
            command = [sys.executable, "-m", "uvicorn", "app:app", "--port", str(free_port())]
            command += ["--app-dir", str(ROOT / "examples" / "llm_chat")]
            servers.append(running.enter_context(Server(command)))
        ports = [server.port for server in servers]
        yield running.enter_context(proxy.nginx(tmp_path / "nginx", ports)), servers


@pytest.mark.slow
def test_page_says_when_the_process_that_made_the_answer_is_gone(
    hosts: tuple[str, list[Server]], page: Page, problems: list[str]
) -> None:
    url, servers = hosts
    page.goto(url)
    ask(page, "are you there?")
    expect(page.locator(".answer p")).to_contain_text("You asked")
    (maker,) = [
        server for server in servers if any("POST /answers" in line for line in server.lines)
    ]

    os.kill(maker.pid, signal.SIGKILL)

    expect(page.locator(".answer .end")).to_have_text(
        "the process that made it is gone", timeout=60_000
    )
    expect(page.locator(".answer .wrong")).to_have_text("")
    expect(page.get_by_role("button", name="Ask again")).to_be_visible()
    assert problems == []
