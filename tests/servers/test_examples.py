"""The examples, as people see them in Chromium."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path

import pytest
from playwright.sync_api import Locator, Page, Route, expect
from tests.servers import proxy
from tests.servers.cable import Cable, cable
from tests.servers.conftest import Example
from tests.servers.serving import NODE_FOLDER, ROOT, Program, Server, free_port, until


def look_right(page: Page, shot: Path) -> None:
    """It fits its window, and is more than one colour."""
    page.screenshot(path=shot, full_page=True)
    width, content = page.evaluate("[innerWidth, document.documentElement.scrollWidth]")
    assert content <= width
    assert shot.stat().st_size > 15_000


# --- The chat, and resuming ----------------------------------------------------------


@pytest.fixture
def chat(example: Example) -> Iterator[tuple[str, Cable]]:
    """The address of the chat, and a cable to it."""
    server = example("chat/app.py")
    with cable(server.port) as connection:
        yield server.url, connection


def test_two_browsers_chat(chat: tuple[str, Cable], page: Page, tmp_path: Path) -> None:
    url, connection = chat
    assert page.context.browser is not None
    # Another browser's profile: its own storage, and its own connections.
    other_context = page.context.browser.new_context()
    other = other_context.new_page()
    other_problems: list[str] = []
    other.on("pageerror", lambda error: other_problems.append(str(error)))
    for each in (page, other):
        each.set_viewport_size({"width": 760, "height": 720})

    def say(who: Page, text: str) -> None:
        who.locator("#text").fill(text)
        who.locator("#text").press("Enter")

    def call(who: Page, name: str) -> None:
        who.locator("#name").fill(name)
        who.locator("#name").press("Tab")

    page.goto(url)
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
    assert other_problems == []


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


# --- Jobs, notifications and the dashboard -------------------------------------------


def test_jobs_are_seen_by_every_window_and_can_be_cancelled(
    example: Example, page: Page, tmp_path: Path
) -> None:
    server = example("jobs/app.py")
    page.goto(server.url)
    jobs = page.locator("#jobs li")
    expect(jobs).to_have_count(3)
    # The newest is on top; the third fails by itself.
    jobs.nth(1).get_by_role("button", name="Cancel").click()

    expect(jobs.nth(1).locator(".said")).to_have_text("cancelled")
    look_right(page, tmp_path / "jobs.png")
    other = page.context.new_page()
    other.goto(server.url)
    page.get_by_role("button", name="Start a job").click()
    for each in (page, other):
        said = each.locator("#jobs .said")
        expect(said).to_have_text(["done", "failed", "cancelled", "done"])
    page.reload()
    expect(page.locator("#jobs .said")).to_have_text(["done", "failed", "cancelled", "done"])


def test_notifications_reach_who_they_are_for_in_every_tab(
    example: Example, page: Page, tmp_path: Path
) -> None:
    server = example("notifications/app.py")
    again, bo = page.context.new_page(), page.context.new_page()
    for tab, user in ((page, "Ada"), (again, "Ada"), (bo, "Bo")):
        tab.goto(f"{server.url}/?user={user}")
        expect(tab.locator("#state")).to_have_text("connected")
        expect(tab.locator("#list b")).to_have_text(["Lunch is at one"])

    def send(to: str, text: str) -> None:
        bo.locator("#to").select_option(to)
        bo.locator("#text").fill(text)
        bo.get_by_role("button", name="Send").click()

    send("Ada", "The build is green")
    expect(page.locator("#list b").first).to_have_text("The build is green")
    send("everybody", "The kettle is on")

    for tab in (page, again):
        expect(tab.locator("#list b")).to_have_text(
            ["The kettle is on", "The build is green", "Lunch is at one"]
        )
        expect(tab.locator("#count")).to_have_text("3")
    expect(bo.locator("#list b")).to_have_text(["The kettle is on", "Lunch is at one"])
    look_right(page, tmp_path / "notifications.png")
    page.get_by_role("button", name="All read").click()
    expect(page.locator("#count")).to_be_hidden()


def test_dashboard_is_for_who_is_logged_in_and_ends_when_they_log_out(
    example: Example, page: Page, tmp_path: Path
) -> None:
    server = example("dashboard/app.py")
    # The same files as the CDN's; the page has their hashes.
    page.context.route("https://cdn.jsdelivr.net/npm/**", from_node_modules)

    page.goto(server.url)
    assert page.evaluate("fetch('/figures').then((answer) => answer.status)") == 401
    page.locator("[name=password]").fill("guess")
    page.get_by_role("button", name="Log in").click()
    expect(page.locator("#wrong")).to_be_visible()
    page.locator("[name=password]").fill("events")
    page.get_by_role("button", name="Log in").click()

    expect(page.locator("#state")).to_have_text("connected")
    expect(page.locator("[sse-swap=load] polyline")).to_be_attached()
    other = page.context.new_page()
    other.goto(server.url)
    expect(other.locator("[sse-swap=looking]")).to_have_text("2 connections")
    look_right(page, tmp_path / "dashboard.png")
    page.get_by_role("button", name="Log out").click()
    expect(page.locator("[name=password]")).to_be_visible()
    expect(other.locator("#state")).to_have_text("logged out")


def from_node_modules(route: Route) -> None:
    name, _, file = route.request.url.partition("/npm/")[2].partition("/")
    path = NODE_FOLDER / "node_modules" / name.partition("@")[0] / file
    route.fulfill(path=path, headers={"Access-Control-Allow-Origin": "*"})


# --- A language model's answer -------------------------------------------------------


LAST_WORDS = "That is all I have to say."


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
    example: Example, page: Page, tmp_path: Path
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


def test_stop_is_for_everyone(example: Example, page: Page) -> None:
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
    hosts: tuple[str, list[Server]], page: Page
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


# --- Many hosts ----------------------------------------------------------------------


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
