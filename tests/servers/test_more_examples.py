"""The examples of jobs, notifications and the dashboard, as people see them in Chromium."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import Page, Route, expect
from tests.servers.serving import NODE_FOLDER, Server
from tests.servers.test_channels_examples import look_right

Example = Callable[[str], Server]


@pytest.fixture
def problems(page: Page) -> list[str]:
    found: list[str] = []
    page.on("pageerror", lambda error: found.append(str(error)))
    return found


def test_jobs_are_seen_by_every_window_and_can_be_cancelled(
    example: Example, page: Page, tmp_path: Path, problems: list[str]
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
    assert problems == []


def test_notifications_reach_who_they_are_for_in_every_tab(
    example: Example, page: Page, tmp_path: Path, problems: list[str]
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
    assert problems == []


def test_dashboard_is_for_who_is_logged_in_and_ends_when_they_log_out(
    example: Example, page: Page, tmp_path: Path, problems: list[str]
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
    assert problems == []


def from_node_modules(route: Route) -> None:
    name, _, file = route.request.url.partition("/npm/")[2].partition("/")
    path = NODE_FOLDER / "node_modules" / name.partition("@")[0] / file
    route.fulfill(path=path, headers={"Access-Control-Allow-Origin": "*"})
