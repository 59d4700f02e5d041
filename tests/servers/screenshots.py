"""Takes the pictures of the examples that the docs show: `python3 tasks.py screenshots`.

Each example is used as a person would before its picture is taken; how it looks is for people to judge.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from playwright.sync_api import Page, expect, sync_playwright
from tests.servers.serving import ROOT, Program, free_port, program, run_example
from tests.servers.test_examples import from_node_modules

FOLDER = ROOT / "docs" / "assets" / "examples"


def number_stream(page: Page) -> None:
    expect(page.locator("#number")).to_have_text("9")


def chat(page: Page) -> None:
    assert page.context.browser is not None
    other = page.context.browser.new_page()
    other.goto(page.url)
    for who, name in ((page, "Ada"), (other, "Bo")):
        who.locator("#name").fill(name)
        who.locator("#name").press("Tab")
        expect(who.locator("#state")).to_have_text("connected")
    said = [
        (page, "Is anybody here?"),
        (other, "Hello Ada! On the train, so I may be gone for a tunnel or two."),
        (page, "Then you get what I say meanwhile when you're back."),
        (page, "Once."),
        (other, "It's all here. That was a long tunnel!"),
    ]
    for count, (who, text) in enumerate(said, 1):
        who.locator("#text").fill(text)
        who.locator("#text").press("Enter")
        expect(page.locator("#messages .text")).to_have_count(count)


def resume(page: Page) -> None:
    page.wait_for_function("got.length > 12")
    page.locator("button[data-seconds='4']").click()
    page.wait_for_function("got.length > 45")


def jobs(page: Page) -> None:
    expect(page.locator("#jobs li")).to_have_count(3)
    page.locator("#jobs li").nth(1).get_by_role("button", name="Cancel").click()
    expect(page.locator("#jobs .failed")).to_be_visible()
    page.get_by_role("button", name="Start a job").click()
    expect(page.locator("#jobs .said").first).to_have_text(re.compile(r"[4-7]\d %"))


def many_hosts(page: Page) -> None:
    page.wait_for_function("got.length > 12")
    for kills in (1, 2):
        page.locator("#kill").click()
        expect(page.locator("#survived")).to_have_text(str(kills))
        page.wait_for_function("Object.values(pids).every(Boolean)")
    page.wait_for_function("got.length > 60")


def notifications(page: Page) -> None:
    for text in ("The build is green", "Your export is ready"):
        page.locator("#to").select_option("Ada")
        page.locator("#text").fill(text)
        page.get_by_role("button", name="Send").click()
        expect(page.locator("#list b").first).to_have_text(text)


def llm_chat(page: Page) -> None:
    page.locator("#question").fill("Who makes the answer?")
    page.locator("#question").press("Enter")
    expect(page.locator(".answer .end")).to_have_text("complete")
    page.locator("#question").fill("And if I load the page again?")
    page.locator("#question").press("Enter")
    expect(page.locator(".answer").last).to_contain_text("Load this page again while I speak")
    page.reload()
    expect(page.locator(".answer").last).to_contain_text("where you left")


def dashboard(page: Page) -> None:
    page.locator("[name=password]").fill("events")
    page.get_by_role("button", name="Log in").click()
    expect(page.locator("[sse-swap=load] polyline")).to_be_attached()
    page.wait_for_timeout(40_000)  # A line needs a while to be one.


class Picture(NamedTuple):
    """What is taken of one example."""

    program: str
    use: Callable[[Page], None]
    path: str = "/"
    height: int = 720


PICTURES = {
    "number-stream": Picture("number_stream.py", number_stream, "/page", 800),
    "chat": Picture("chat/app.py", chat),
    "resume": Picture("resume/app.py", resume, height=960),
    "many-hosts": Picture("many_hosts/run.py", many_hosts, height=1160),
    "jobs": Picture("jobs/app.py", jobs, height=640),
    "llm-chat": Picture("llm_chat/app.py", llm_chat, height=900),
    "notifications": Picture("notifications/app.py", notifications, height=680),
    "dashboard": Picture("dashboard/app.py", dashboard, height=560),
}


@contextmanager
def served(name: str) -> Iterator[str]:
    """Run an example, and give the address that its page is at."""
    if name != "many_hosts/run.py":
        with run_example(name) as server:
            yield server.url
        return
    # It starts servers of its own.
    program_of_its_own = ROOT / "examples" / name
    with Program([sys.executable, program_of_its_own, "--port", str(free_port())]) as running:
        yield running.wait_for_line(r"Open (http://\S+)/")[1].replace("localhost", "127.0.0.1")


def take(folder: Path) -> None:
    """Take all pictures, each in light and in dark."""
    folder.mkdir(parents=True, exist_ok=True)
    expect.set_options(timeout=90_000)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=program("chromium"), args=["--no-sandbox", "--disable-gpu"]
        )
        for name, picture in PICTURES.items():
            with served(picture.program) as url:
                page = browser.new_page(
                    viewport={"width": 1100, "height": picture.height}, color_scheme="light"
                )
                page.context.route("https://cdn.jsdelivr.net/npm/**", from_node_modules)
                page.goto(f"{url}{picture.path}")
                picture.use(page)
                for scheme in ("light", "dark"):
                    page.emulate_media(color_scheme=scheme)
                    page.screenshot(
                        path=folder / f"{name}-{scheme}.png", full_page=True, animations="disabled"
                    )
                page.context.close()
                print(f"{name}: taken")
        browser.close()


if __name__ == "__main__":
    take(FOLDER)
