"""The example of the README, as curl and a browser see it."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from playwright.sync_api import Page, expect
from tests.servers.conftest import Example, Serve
from tests.servers.going_down import make_certificate
from tests.servers.serving import ROOT, curl, program


def test_curl_shows_five_numbers_one_after_the_other(example: Example) -> None:
    server = example("number_stream.py")
    command = [program("curl"), "-sN", "--noproxy", "*", "-D", "-", server.url]
    numbers_while_it_runs = 0

    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None
        lines = []
        for line in running.stdout:
            lines.append(line.rstrip())
            numbers_while_it_runs += line.startswith("data:") and running.poll() is None
    numbers = [line for line in lines if line.startswith("data:")]

    assert running.returncode == 0
    assert numbers == [f"data: {number}" for number in range(1, 6)]
    assert numbers_while_it_runs >= 4
    assert "content-type: text/event-stream; charset=utf-8" in [line.lower() for line in lines]


def test_example_listens_where_the_article_says() -> None:
    text = (ROOT / "examples" / "number_stream.py").read_text("utf-8")

    assert 'uvicorn.run(app, host=os.environ.get("EXAMPLE_HOST", "127.0.0.1"), port=8000' in text
    assert 'Route("/", endpoint=sse)' in text
    assert "from sse_starlette.sse import EventSourceResponse" in text
    assert "yield dict(data=i)" in text


def test_page_shows_numbers_reconnects_and_pings(example: Example, page: Page) -> None:
    server = example("number_stream.py")

    page.goto(f"{server.url}/page")
    # What one sees first: it comes back by itself, and says what it had last.
    expect(page.locator(".request b")).to_have_text(["GET /page/numbers", "Last-Event-ID: 1"])
    expect(page.locator("#last-event-id")).to_have_text("1")
    expect(page.locator(".numbers").nth(1).locator("b")).to_have_text(list("23456"))
    gaps = page.locator(".numbers").nth(1).locator("small").all_text_contents()
    assert all(0.3 < float(gap.strip("+ s")) < 3 for gap in gaps), gaps
    # The next numbers follow on.
    expect(page.locator("#number")).to_have_text("7")
    expect(page.locator("#last-event-id")).to_have_text("6")
    expect(page.locator("#reconnects")).to_have_text("2")
    expect(page.locator("#state")).to_have_text("connected")

    # The silent stream beside it gets its pings.
    expect(page.locator("#last-ping")).not_to_have_text("none yet")
    assert re.search(r"^: ping - \d{4}-", page.locator("#wire").text_content() or "")


def test_numbers_come_over_tls(serve: Serve, page: Page, tmp_path: Path) -> None:
    make_certificate(tmp_path)
    server = serve(
        "number_stream:app",
        *("--app-dir", ROOT / "examples"),
        *("--ssl-certfile", tmp_path / "cert.pem", "--ssl-keyfile", tmp_path / "key.pem"),
    )
    assert server.url.startswith("https://")

    done = curl("--insecure", server.url)
    page.goto(f"{server.url}/page")

    assert done.returncode == 0
    frames = [f"data: {number}\r\n\r\n" for number in range(1, 6)]
    assert done.stdout.decode() == "".join(frames)
    expect(page.locator("#number")).to_have_text("2", timeout=90_000)
