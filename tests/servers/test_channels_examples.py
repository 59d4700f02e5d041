"""The examples with channels, as people see them in Chromium."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect
from tests.servers.cable import cable
from tests.servers.serving import ROOT, Server, until

Example = Callable[[str], Server]


@pytest.fixture
def running() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def test_two_browsers_chat(
    example: Example, page: Page, tmp_path: Path, running: ExitStack
) -> None:
    server = example("chat/app.py")
    problems: list[str] = []
    assert page.context.browser is not None
    # Another browser's profile: its own storage, and its own connections.
    other_context = page.context.browser.new_context()
    other = other_context.new_page()
    connection = running.enter_context(cable(server.port))
    for each in (page, other):
        each.on("pageerror", lambda error: problems.append(str(error)))
        each.set_viewport_size({"width": 760, "height": 720})

    def say(who: Page, text: str) -> None:
        who.locator("#text").fill(text)
        who.locator("#text").press("Enter")

    def call(who: Page, name: str) -> None:
        who.locator("#name").fill(name)
        who.locator("#name").press("Tab")

    page.goto(server.url)
    expect(page.locator("#state")).to_have_text("connected")
    call(page, "Ada")
    say(page, "Is anybody here?")
    expect(page.locator("#messages .text")).to_have_text(["Is anybody here?"])
    # A newcomer gets what was said before.
    other.goto(connection.origins[0])
    call(other, "Bo")
    expect(other.locator("#messages .text")).to_have_text(["Is anybody here?"])
    say(other, "Hello Ada! <b>Bo</b> here, größer than ever.")
    say(page, "And nothing gets lost?")
    say(other, "Nothing, not even on the train.")
    said = [
        "Is anybody here?",
        "Hello Ada! <b>Bo</b> here, größer than ever.",
        "And nothing gets lost?",
        "Nothing, not even on the train.",
    ]

    for each in (page, other):
        expect(each.locator("#messages .text")).to_have_text(said)
        expect(each.locator("#people li")).to_have_text(["AAda", "BBo"])
    expect(page.locator("#messages li.own .text")).to_have_text([said[0], said[2]])
    look_right(page, tmp_path / "chat.png")
    # In the tunnel: what is said meanwhile is there when the connection is, once.
    connection.pull()
    expect(other.locator("#state")).to_have_text("waiting to come back")
    say(page, "Still there?")
    expect(page.locator("#messages .text")).to_have_text([*said, "Still there?"])
    expect(page.locator("#people li")).to_have_text(["AAda"])
    connection.plug()
    expect(other.locator("#messages .text")).to_have_text([*said, "Still there?"], timeout=90_000)
    expect(page.locator("#people li")).to_have_text(["AAda", "BBo"])
    other_context.close()
    expect(page.locator("#people li")).to_have_text(["AAda"])
    assert problems == []


def test_twelve_tabs_of_the_chat_are_all_live_on_one_connection(
    example: Example, page: Page
) -> None:
    """Chromium has six connections for an origin on HTTP/1.1."""
    server = example("chat/app.py")
    tabs = [page, *(page.context.new_page() for _ in range(11))]

    for tab in tabs:
        tab.goto(server.url)
    for number, tab in enumerate(tabs):
        expect(tab.locator("#state")).to_have_text("connected")
        tab.locator("#text").fill(f"I'm tab {number}")
        tab.locator("#text").press("Enter")

    for tab in tabs:
        said = tab.locator("#messages .text")
        expect(said).to_have_text([f"I'm tab {number}" for number in range(12)])
    whose = [tab.locator("#connection") for tab in tabs]
    assert until(
        lambda: (
            sorted(each.text_content() or "" for each in whose)
            == ["another tab's"] * 11 + ["this tab's own"]
        )
    )


@pytest.mark.slow
def test_page_whose_cable_is_pulled_shows_every_number(
    example: Example, page: Page, tmp_path: Path
) -> None:
    server = example("resume/app.py")
    problems: list[str] = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.set_viewport_size({"width": 1100, "height": 900})

    def pull(seconds: str, resumes: int) -> None:
        page.locator(f"button[data-seconds='{seconds}']").click()
        expect(page.locator("#resumes")).to_have_text(str(resumes), timeout=90_000)
        expect(page.locator(f"button[data-seconds='{seconds}']")).to_be_enabled()
        expect(page.locator("#state")).to_have_text("connected")

    def numbers() -> list[int]:
        got: list[int] = page.evaluate("got")
        return got

    page.goto(server.url)
    page.wait_for_function("got.length > 5")
    for resumes in (1, 2, 3):
        pull("0.5", resumes)
    pull("4", 4)
    page.wait_for_function("got.at(-1) > got[0] + 40")

    seen = numbers()
    assert seen == list(range(seen[0], seen[0] + len(seen)))
    expect(page.locator("#missed")).to_have_text("0")
    expect(page.locator("#doubled")).to_have_text("0")
    expect(page.locator("#gaps")).to_have_text("0")
    assert page.locator("#numbers li.again").count() > 15
    assert page.locator("#came-with").text_content() != "none"

    # Away for longer than the server remembers: it says so, and the page knows what it lacks.
    pull("12", 5)
    expect(page.locator("#gaps")).to_have_text("1")
    expect(page.locator("#missed")).to_have_text("0")
    page.wait_for_timeout(2_000)
    holes = [(before, after) for before, after in pairwise(numbers()) if after != before + 1]
    assert len(holes) == 1
    assert (
        page.locator("#numbers li.gap").text_content() == f"{holes[0][0] + 1} to {holes[0][1] - 1}"
    )
    look_right(page, tmp_path / "resume.png")
    assert problems == []


@pytest.mark.parametrize(
    "name",
    [
        "chat",
        "dashboard",
        "jobs",
        "llm_chat",
        "many_hosts",
        "notifications",
        "number_stream",
        "resume",
    ],
)
def test_page_of_an_example_looks_as_the_others_do(name: str) -> None:
    page = (ROOT / "examples" / name / "page.html").read_text("utf-8")

    assert '<link rel="stylesheet" href="/shared/style.css">' in page
    # What isn't theirs comes from one place, and can't be changed there unnoticed.
    others = [line for line in page.splitlines() if "http://" in line or "https://" in line]
    assert all('integrity="sha384-' in line for line in others), others


@pytest.mark.parametrize(
    "name", ["chat", "dashboard", "jobs", "llm_chat", "notifications", "resume"]
)
def test_example_listens_where_it_says(name: str) -> None:
    text = (ROOT / "examples" / name / "app.py").read_text("utf-8")

    assert f"`python examples/{name}/app.py`" in text
    assert 'uvicorn.run(app, host=os.environ.get("EXAMPLE_HOST", "127.0.0.1"), port=8000' in text


def look_right(page: Page, shot: Path) -> None:
    """It fits its window, and is more than one colour."""
    page.screenshot(path=shot, full_page=True)
    width, content = page.evaluate("[innerWidth, document.documentElement.scrollWidth]")
    assert content <= width
    assert shot.stat().st_size > 15_000
