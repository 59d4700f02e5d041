"""Twenty endpoints of FastAPI on a real server: read by httpx2, by Chromium, and by a client made of their document."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import httpx2
import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator, OpenAPIV32SpecValidator
from playwright.sync_api import Page, expect
from tests.servers.conftest import Serve
from tests.servers.serving import NODE_FOLDER, READY_SECONDS, get, node, until
from tests.unit.parsers import read_by_the_standard

APP = "fastapi_endpoints:app"
LAMP = {"name": "lamp", "amount": 1.5}

# What each endpoint's listeners get: the types of the events, and their data.
STREAMS: list[tuple[str, list[tuple[str, Any]]]] = [
    ("/items", [("message", LAMP)]),
    ("/sync", [("message", LAMP)]),
    ("/untyped", [("message", {"a": [1, None]}), ("message", "text")]),
    ("/events", [("tick", LAMP), ("done", "over")]),
    ("/generic", [("item", LAMP)]),
    ("/raw", [("message", "<b>raw</b>\nline")]),
    ("/dependency", [("message", "held, opened")]),
    ("/function-scope", [("message", "held, closed")]),
    ("/refused/0", [("message", 0)]),
    ("/background", [("message", 1)]),
    ("/headers", [("message", "GET")]),
    ("/resume", [("message", 1), ("message", 2), ("message", 3)]),
    ("/resume?last_event_id=2", [("message", 3)]),
    ("/channel", [("message", LAMP), ("tick", LAMP)]),
    ("/iterated", [("message", LAMP), ("tick", LAMP)]),
    ("/returned", [("message", 1), ("message", "two")]),
    ("/options?many=3", [("message", 0), ("message", 1), ("message", 2)]),
    ("/fastapi", [("e", "theirs")]),
    ("/more/items", [("message", LAMP), ("message", 5)]),
    ("/given", [("message", 1)]),
    ("/sub/items", [("message", LAMP)]),
]

READ = """async (paths) => {
    const types = ["message", "tick", "done", "item", "e"];
    const read = (path) => new Promise((resolve) => {
        const source = new EventSource(path);
        const got = [];
        for (const type of types) {
            source.addEventListener(type, (event) => got.push([event.type, event.data]));
        }
        source.onerror = () => { source.close(); resolve(got); };
    });
    const found = [];
    for (const path of paths) found.push(await read(path));
    return found;
}"""


def value(data: str) -> object:
    try:
        return json.loads(data)
    except ValueError:
        return data


def events_in(response: httpx2.Response) -> list[tuple[str, object]]:
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    return [(one.type, value(one.data)) for one in read_by_the_standard([response.content]).fired]


def test_httpx2_reads_each_endpoint(serve: Serve) -> None:
    url = serve(APP).url

    with httpx2.Client(base_url=url, trust_env=False, timeout=READY_SECONDS) as client:
        assert [(path, events_in(client.get(path))) for path, _ in STREAMS] == STREAMS
        answered = client.post("/chat", json={"text": "how many"})
        assert events_in(answered) == [("token", "how"), ("token", "many")]
        for path, headers, status in (
            ("/refused/1", {}, 404),
            ("/refused/x", {}, 422),
            ("/rooms/a", {}, 401),
            ("/rooms/a", {"X-User": "bob"}, 403),
            ("/options?many=0", {}, 422),
        ):
            answered = client.get(path, headers=headers)
            assert (answered.status_code, list(answered.json())) == (status, ["detail"])
        assert len(events_in(client.get("/rooms/a", headers={"X-User": "ada"}))) == 2
        assert client.get("/returned").headers["x-a"] == "b"
        assert client.post("/chat", json={}).status_code == 422
    assert until(lambda: "background" in get(f"{url}/notes").json())
    noted = get(f"{url}/notes").json()
    assert noted.count("opened") == noted.count("closed") == 2


def test_chromium_reads_each_endpoint(serve: Serve, page: Page) -> None:
    url = serve(APP).url
    page.goto(f"{url}/notes")

    found = page.evaluate(READ, [path for path, _ in STREAMS])

    assert [
        (path, [(type_, value(data)) for type_, data in events])
        for (path, _), events in zip(STREAMS, found, strict=True)
    ] == STREAMS


def test_the_documents_are_valid(serve: Serve) -> None:
    url = serve(APP).url
    document = get(f"{url}/openapi.json").json()
    newer = get(f"{url}/openapi-3.2.json").json()

    OpenAPIV31SpecValidator(document).validate()
    OpenAPIV32SpecValidator(newer).validate()
    for version, said, operations in ((document, "schema", 21), (newer, "itemSchema", 21)):
        media = [
            operation["responses"]["200"]["content"]["text/event-stream"]
            for path in version["paths"].values()
            for operation in path.values()
        ]
        assert [list(one) for one in media] == [[said]] * operations


def missing_package(name: str) -> None:
    if not (NODE_FOLDER / "node_modules" / name).is_dir():
        pytest.fail(
            f"the Node package `{name}` is missing. In tests/node: npm install --no-package-lock (tasks.py test does it)"
        )


def test_swagger_ui_shows_the_events_of_a_stream(serve: Serve, page: Page, tmp_path: Path) -> None:
    missing_package("swagger-ui-dist")
    page.set_viewport_size({"width": 1280, "height": 1600})
    page.goto(f"{serve(APP).url}/docs")

    operation = page.locator("#operations-default-events_events_get")
    operation.click()

    expect(operation).to_contain_text("A union of events, by their names.")
    expect(operation).to_contain_text("text/event-stream")
    expect(operation).to_contain_text('"event": "tick"')
    expect(page.locator(".opblock")).to_have_count(21)
    page.screenshot(path=tmp_path / "swagger.png")


def test_a_client_made_of_the_document_reads_a_stream(serve: Serve, tmp_path: Path) -> None:
    """openapi-typescript makes the types, tsc checks a program that reads by them, and Node.js runs it."""
    for name in ("openapi-typescript", "typescript", "eventsource-parser"):
        missing_package(name)
    url = serve(APP).url
    (tmp_path / "node_modules").symlink_to(NODE_FOLDER / "node_modules")
    (tmp_path / "package.json").write_text('{"type": "module"}', "utf-8")
    (tmp_path / "openapi.json").write_text(get(f"{url}/openapi.json").text, "utf-8")
    (tmp_path / "client.ts").write_bytes((NODE_FOLDER / "generated_client.ts").read_bytes())

    def run(*command: str | Path) -> str:
        done = subprocess.run(
            [node(), *command],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    run("node_modules/openapi-typescript/bin/cli.js", "openapi.json", "-o", "api.ts")
    options = "--noEmit --strict --target es2024 --module nodenext --skipLibCheck --allowImportingTsExtensions"
    run("node_modules/typescript/bin/tsc", *options.split(), "client.ts")
    printed = run("--experimental-strip-types", "--no-warnings", "client.ts", url)

    assert [json.loads(line) for line in printed.splitlines()] == [
        {"item": "lamp", "amount": 1.5},
        {"done": "over"},
    ]
