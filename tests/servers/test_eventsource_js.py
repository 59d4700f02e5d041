"""`eventsource.js`, the module for browsers: one stream for all tabs, and what `EventSource` can't do."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import pytest
from playwright.sync_api import Page
from tests.servers.cable import cable
from tests.servers.conftest import Serve
from tests.servers.crowd import ask
from tests.servers.firefox import Firefox
from tests.servers.serving import (
    NODE_FOLDER,
    READY_SECONDS,
    ROOT,
    Program,
    Server,
    node,
    node_script,
    until,
)
from tests.unit.parsers import read_by_the_standard

MODULE = ROOT / "src" / "sse_starlette" / "browser" / "eventsource.js"
TABS = 12

LISTEN = """async ([url, options]) => {
    const { EventStream } = await import("/browser/eventsource.js");
    if (options.waits) options.headers = () => new Promise((resolve) => (globalThis.go = () => resolve({})));
    const stream = globalThis.stream = new EventStream(url, options);
    globalThis.got = [];
    globalThis.told = [];
    stream.onmessage = ({ data }) => got.push(JSON.parse(data).number ?? JSON.parse(data));
    for (const type of ["reset", "end", "done", "error"]) {
        stream.addEventListener(type, (event) => told.push(event.status ? `${type} ${event.status}` : type));
    }
}"""


class Tab(Protocol):
    """What a page of either browser can do."""

    def goto(self, url: str) -> Any: ...

    def evaluate(self, expression: str, arg: Any = None) -> Any: ...

    def close(self) -> None: ...


@pytest.fixture(params=["chromium", "firefox"])
def open_tab(request: pytest.FixtureRequest) -> Iterator[Callable[[], Tab]]:
    """Opens tabs of one browser with one profile."""
    if request.param == "chromium":
        page: Page = request.getfixturevalue("page")
        yield page.context.new_page
    else:
        with Firefox(request.getfixturevalue("tmp_path")) as firefox:
            yield firefox.new_page


def on_one_connection(server: Server, tabs: list[Any]) -> bool:
    """Whether all tabs have begun, and all but one have given their connections up."""
    return all(tab.evaluate("() => stream.readyState === 1") for tab in tabs) and (
        ask(server, "/news/stats")["subscribers"] == 1
    )


def connected_one(tabs: list[Any]) -> Any:
    """One that has a connection: when a tab is closed, it takes a moment until the lock goes to another."""
    found: list[Any] = []

    def look() -> bool:
        found[:] = [tab for tab in tabs if tab.evaluate("() => stream.connected")]
        return found != []

    assert until(look)
    return found[0]


def listen(tab: Tab, origin: str, path: str, **options: Any) -> Tab:
    tab.goto(f"{origin}/blank")
    tab.evaluate(LISTEN, [path, options])
    return tab


def printed_by(script: str, *arguments: str) -> list[str]:
    """The lines of a script of tests/node that ends by itself."""
    with node_script(script, *arguments) as node:
        assert node.wait(600) == 0, node.lines
    return node.lines


def test_parser_reads_what_the_standard_reads_wherever_the_text_is_cut(tmp_path: Path) -> None:
    texts = [
        "data: a\ndata:b\r\ndata\rdata:  c\n\n",
        "id: 1\r\nevent: x\r\ndata: 1\r\n\r\nid\n\nid: a\0b\ndata\n\n: comment\n\ndata: größe 🙂\n\n",
        "event: only\n\ndata: x\n\nretry: 12\n\nretry: 1x\n\n:\n\ndata::\n\ndata: unfinished\n",
        "\r\r\n\ndata: \r\rid:7\r\n\r\n",
    ]
    cases = [[text[:cut], text[cut:]] for text in texts for cut in range(len(text))]
    cases += [list(text) for text in texts]
    (tmp_path / "cases.json").write_text(json.dumps(cases), "utf-8")

    (printed,) = printed_by("parse.mjs", str(tmp_path / "cases.json"), str(MODULE))
    for pieces, blocks in zip(cases, json.loads(printed), strict=True):
        expected = read_by_the_standard([each.encode() for each in pieces])
        fired = [(b["type"], b["data"], b["cursor"]) for b in blocks if "type" in b]
        assert fired == [(each.type, each.data, each.last_event_id) for each in expected.fired]
        assert [b["retry"] for b in blocks if "retry" in b][-1:] == (
            [] if expected.reconnection_ms is None else [expected.reconnection_ms]
        )
        assert (blocks[-1]["cursor"] if blocks else "") == expected.last_event_id


@pytest.mark.parametrize(
    ("options", "answer"),
    [
        ({"retry": 10**12}, {"body": ""}),
        ({}, {"body": f"retry: {10**12}\n\n"}),
        ({}, {"headers": {"Retry-After": "99999999"}}),
        ({"silence": 10**12, "retry": 10**12}, {"body": "data: x\n\n"}),
    ],
)
def test_who_is_to_wait_for_weeks_doesnt_come_back_at_once(
    options: dict[str, int], answer: dict[str, Any]
) -> None:
    """As a timer of more than 2,147,483,647 ms does (WHATWG HTML 8.6: it's a signed long)."""
    told = printed_by("waits.mjs", str(MODULE), json.dumps(options), json.dumps(answer))

    assert set(json.loads(told[0])) == {2**31 - 1}


@pytest.mark.slow
def test_whatever_happens_in_whatever_order_each_tab_gets_each_event_and_one_is_connected() -> None:
    """Tabs are opened, killed, closed and begun anew, connections are cut, events and the end come."""
    assert printed_by("tabs.mjs", str(MODULE), "1", "1000") == ["[]"]


def test_tab_without_a_connection_leaves_the_lead_to_one_that_has_one(
    serve: Serve, open_tab: Callable[[], Tab]
) -> None:
    """The first tab gets the lock, and the browser has given all connections away when it wants one."""
    server = serve("channels:app", "--no-access-log")
    ask(server, "/news/make")
    first = listen(open_tab(), server.url, "/news/stream", share=True, waits=True)
    tabs = [listen(open_tab(), server.url, "/news/stream", share=True) for _ in range(7)]

    assert until(lambda: on_one_connection(server, tabs))
    ask(server, "/news/publish", last=3)
    first.evaluate("() => go()")
    assert until(lambda: on_one_connection(server, [first, *tabs]))
    ask(server, "/news/publish", first=4, last=6)

    for tab, expected in (first, [4, 5, 6]), *((tab, [1, 2, 3, 4, 5, 6]) for tab in tabs):
        assert until(lambda: tab.evaluate("() => got.at(-1)") == 6)  # noqa: B023
        assert tab.evaluate("() => got") == expected


@pytest.mark.slow
def test_twelve_tabs_have_one_connection_and_lose_nothing_when_the_one_that_has_it_is_closed(
    serve: Serve, open_tab: Callable[[], Tab]
) -> None:
    """On HTTP/1.1, where a browser opens six connections to an origin."""
    server = serve("channels:app", "--no-access-log")
    ask(server, "/news/make", history=10_000)
    tabs = [listen(open_tab(), server.url, "/news/stream", share=True) for _ in range(TABS)]

    assert until(lambda: on_one_connection(server, tabs))
    published = 0
    while len(tabs) > TABS - 3:
        ask(server, "/news/publish", first=published + 1, last=published + 500, within=1)
        published += 500
        # In the midst of it, if it isn't over already.
        leader = connected_one(tabs)
        leader.close()
        tabs.remove(leader)
        for tab in tabs:
            assert until(lambda: tab.evaluate("() => got.at(-1)") == published)  # noqa: B023
    # A tab that comes later goes on from where the others are.
    tabs.append(listen(open_tab(), server.url, "/news/stream", share=True))
    assert until(lambda: on_one_connection(server, tabs))
    ask(server, "/news/publish", first=published + 1, last=published + 1)

    for tab in tabs:
        assert until(lambda: tab.evaluate("() => got.at(-1)") == published + 1)  # noqa: B023
    for tab in tabs[:-1]:
        assert tab.evaluate("() => got") == list(range(1, published + 2))
        assert "reset" not in tab.evaluate("() => told")
    assert tabs[-1].evaluate("() => got") == [published + 1]
    assert on_one_connection(server, tabs)


def test_tabs_are_each_told_once_of_a_reset_and_of_the_end(serve: Serve, page: Page) -> None:
    server = serve("channels:app")
    ask(server, "/news/make", history=5)
    with cable(server.port) as connection:
        origin = connection.origins[0]
        options = {"share": True, "retry": 100}
        tabs = [page, *(page.context.new_page() for _ in range(2))]
        for tab in tabs:
            listen(tab, origin, "/news/stream", **options)
        assert until(lambda: on_one_connection(server, tabs))
        ask(server, "/news/publish", last=3)
        for tab in tabs:
            tab.wait_for_function("got.length === 3")

        connection.pull()
        ask(server, "/news/publish", first=4, last=40)
        connection.plug()
        for tab in tabs:
            tab.wait_for_function("told.includes('reset')")
        ask(server, "/news/publish", first=41, last=42)
        for tab in tabs:
            tab.wait_for_function("got.at(-1) === 42")
            assert tab.evaluate("got") == [1, 2, 3, 41, 42]
            assert [each for each in tab.evaluate("told") if each != "error"] == ["reset"]

        ask(server, "/news/close")
        for tab in tabs:
            tab.wait_for_function("stream.readyState === 2")
            assert tab.evaluate("told.filter((each) => each !== 'error')") == ["reset", "end"]


def test_tab_that_restarts_gets_what_a_new_client_gets_and_the_others_go_on(
    serve: Serve, page: Page
) -> None:
    server = serve("channels:app")
    ask(server, "/news/make")
    other = page.context.new_page()
    for tab in (page, other):
        listen(tab, server.url, "/news/stream?retry=100", share=True)
    assert until(lambda: on_one_connection(server, [page, other]))
    ask(server, "/news/publish", last=3)
    for tab in (page, other):
        tab.wait_for_function("got.length === 3")
        tab.evaluate("stream.restart()")
    # Each has come twice as a new client.
    assert until(
        lambda: [note["last_event_id"] for note in server.journal("came")].count(None) == 4
    )
    ask(server, "/news/publish", first=4, last=6)

    for tab in (page, other):
        tab.wait_for_function("got.at(-1) === 6")
        assert tab.evaluate("got") == [1, 2, 3, 4, 5, 6]
    assert until(lambda: ask(server, "/news/stats")["subscribers"] == 1)


def test_post_with_a_header_is_streamed_to_its_last_event_and_not_asked_for_again(
    serve: Serve, page: Page
) -> None:
    server = serve("channels:app")
    options = {
        "method": "POST",
        "headers": {"Authorization": "Bearer Ada"},
        "body": "what?",
        "endEvent": "done",
    }
    asked = []
    page.on("request", lambda request: asked.append(request.url))

    listen(page, server.url, "/only-for-ada", **options)
    page.wait_for_function("stream.readyState === 2")

    assert page.evaluate("got") == [{"method": "POST", "body": "what?"}]
    assert page.evaluate("told") == ["done", "end"]
    assert asked.count(f"{server.url}/only-for-ada") == 1


def test_answer_that_is_no_stream_closes_and_tells_its_status(serve: Serve, page: Page) -> None:
    server = serve("channels:app")

    listen(page, server.url, "/only-for-ada", method="POST")
    page.wait_for_function("stream.readyState === 2")

    assert page.evaluate("told") == ["error 403"]


def test_page_that_is_loaded_again_goes_on_where_it_was_if_asked_to(
    serve: Serve, page: Page
) -> None:
    server = serve("channels:app")
    ask(server, "/news/make")
    listen(page, server.url, "/news/stream", resume=True)
    page.wait_for_function("stream.readyState === 1")
    ask(server, "/news/publish", last=3)
    page.wait_for_function("got.length === 3")

    page.goto(f"{server.url}/blank")
    ask(server, "/news/publish", first=4, last=6)
    listen(page, server.url, "/news/stream", resume=True)

    page.wait_for_function("got.length === 3")
    assert page.evaluate("got") == [4, 5, 6]


def test_silent_connection_is_given_up_for_a_new_one(serve: Serve, page: Page) -> None:
    """As one that has died without a word: the channels of these tests send no pings."""
    server = serve("channels:app")
    ask(server, "/news/make")

    listen(page, server.url, "/news/stream", silence=200, retry=50)

    page.wait_for_function("told.filter((each) => each === 'error').length >= 2")
    first, second, *_ = server.journal("came", count=3)
    assert first["last_event_id"] is None
    assert second["last_event_id"]


def test_module_and_its_types_are_small_enough_to_be_copied_and_read() -> None:
    both = [MODULE, MODULE.with_suffix(".d.ts")]

    assert sum(len(each.read_text("utf-8").splitlines()) for each in both) < 300


def test_typescript_takes_the_types(tmp_path: Path) -> None:
    for file in (MODULE, MODULE.with_suffix(".d.ts")):
        shutil.copy(file, tmp_path)
    (tmp_path / "page.ts").write_text(
        """
        import { EventStream, type EventStreamOptions } from "./eventsource.js";
        const options: EventStreamOptions = { share: "prices", headers: async () => ({ A: "b" }) };
        const stream = new EventStream("/prices", options);
        stream.addEventListener("tick", ({ data, lastEventId }) => console.log(data.length + lastEventId.length));
        stream.onerror = ({ status }) => status === 401 && stream.close();
        // @ts-expect-error There's no such option.
        new EventStream("/prices", { shared: true });
        """,
        "utf-8",
    )
    options = ["--noEmit", "--strict", "--target", "es2022", "--lib", "es2022,dom"]

    with Program(
        [node(), NODE_FOLDER / "node_modules/typescript/bin/tsc", *options, tmp_path / "page.ts"]
    ) as tsc:
        assert tsc.wait(READY_SECONDS) == 0, tsc.lines
