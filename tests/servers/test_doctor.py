"""What `doctor` says of streams behind real proxies, and whether that mends them."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path

import anyio
import pytest
from tests.servers import proxies
from tests.servers.conftest import Serve

from sse_starlette._cli._client import Target
from sse_starlette._cli._doctor import DoctorOptions, advice_on, as_text, examine
from sse_starlette._cli._facts import Facts, Finding, Level
from sse_starlette._cli._findings import findings_of
from sse_starlette._cli._terminal import Terminal

# Where nothing is said, nothing is wrong.
FOUND: dict[str, dict[str, str]] = {
    "nginx": {
        "compresses and buffers": "compressed",
        "has no patience": "cut",
        "drops the id": "resume",
        "has lost the application": "gateway",
    },
    "haproxy": {
        "as it comes": "delayed",
        "buffers": "buffered",
        "has no patience": "cut",
        "drops the id": "resume",
    },
    "caddy": {
        "buffers": "buffered",
        "compresses": "compressed",
        "has no patience": "cut",
        "drops the id": "resume",
    },
    "envoy": {"cuts what takes long": "cut", "has no patience": "cut"},
    "varnish": {
        "buffers": "buffered",
        "compresses": "compressed",
        "has no patience": "cut",
        "caches": "cached",
    },
    "apache": {"has no patience": "cut", "drops the id": "resume"},
}
SECONDS = 5.0


async def examine_all(urls: Mapping[str, str]) -> dict[str, Facts]:
    found = {}

    async def look(case: str, url: str) -> None:
        path = "/quiet" if case == "has no patience" else "/events"
        options = DoctorOptions(wait=SECONDS)
        terminal = Terminal(io.StringIO(), io.StringIO())
        found[case] = await examine(Target(url + path), options, terminal)

    async with anyio.create_task_group() as tasks:
        for case, url in urls.items():
            tasks.start_soon(look, case, url)
    return found


def wrong(facts: Facts) -> list[Finding]:
    return [f for f in findings_of(facts) if f.level in {Level.WARNING, Level.PROBLEM}]


@pytest.mark.slow
@pytest.mark.parametrize("name", proxies.PROXIES)
def test_doctor_names_what_is_wrong_with_a_proxy_and_the_lines_that_mend_it(
    name: str, serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_PROXY", "*")
    server = serve("examined:app")
    with proxies.proxy(name, tmp_path / name, server.port) as urls:
        seen = anyio.run(examine_all, urls)

    reports = {case: as_text(facts, findings_of(facts)) for case, facts in seen.items()}
    for case, facts in seen.items():
        problems = {f.code for f in wrong(facts)}
        # On a busy machine anything may come late.
        problems -= {"delayed", "late-headers"} - {FOUND[name].get(case)}
        expected = {FOUND[name][case]} if case in FOUND[name] else set()
        assert problems == expected, (case, reports[case])

    mended = proxies.text_of(name, "well")
    for case, code in FOUND[name].items():
        before = proxies.text_of(name, case)
        (finding,) = [f for f in wrong(seen[case]) if f.code == code]
        advice = advice_on(seen[case], finding)
        if code == "gateway":
            continue  # What is wrong with the address nobody can tell.
        assert {one.server.lower() for one in advice} == {name}, reports[case]
        put = [line for one in advice for line in one.put]
        remove = [line for one in advice for line in one.remove]
        assert any(line not in before for line in put) or any(line in before for line in remove)
        for line in put:
            assert line in mended, reports[case]
            assert f"put     {line}" in reports[case]
        assert not any(line in mended for line in remove), reports[case]
