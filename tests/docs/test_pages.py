"""What is printed in README and docs works as it stands, and once more after that."""

from __future__ import annotations

import re
import runpy
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
from starlette.routing import Mount
from tests.docs.pages import SEAT_BELT_SECONDS, Block, blocks, files_in, run_python
from tests.servers.redis_servers import RedisServer
from tests.servers.serving import APPS, Server

BLOCKS = [block for block in blocks("python") if not block.has_test_of_its_own]
TESTS = [block for block in BLOCKS if block.is_test]
APPLICATIONS = [block for block in BLOCKS if block.is_application and not block.is_test]
PROGRAMS = [block for block in BLOCKS if not block.is_application and not block.is_test]


def test_there_are_blocks_of_each_kind() -> None:
    assert min(map(len, [TESTS, APPLICATIONS, PROGRAMS])) >= 3


@pytest.mark.parametrize("block", PROGRAMS, ids=str)
def test_printed_program_runs_again_and_again_and_leaves_nothing(
    block: Block, tmp_path: Path
) -> None:
    """What it leaves would be there when it's run again: tomorrow as well."""
    file = block.save(tmp_path)

    for _ in range(2):
        run_python(tmp_path, "-W", "error", file.name)

        assert list(files_in(tmp_path)) == [file.name]


@pytest.mark.parametrize("block", PROGRAMS, ids=str)
def test_printed_program_calls_the_main_that_it_defines(block: Block) -> None:
    """Or else it does nothing, and its reader learns nothing."""
    defines_main = "def main(" in block.text

    assert defines_main == bool(re.search(r"^(asyncio|anyio)\.run\(main", block.text, re.MULTILINE))


@pytest.mark.parametrize(
    "page", sorted({block.page for block in TESTS}), ids=lambda page: page.name
)
def test_printed_tests_pass_twice_with_the_configuration_that_is_printed(
    page: Path, tmp_path: Path
) -> None:
    tests = [block for block in TESTS if block.page == page]
    for block in tests:
        block.save(tmp_path)
    for block in blocks("toml"):
        if block.page == page:
            (tmp_path / "pyproject.toml").write_text(block.text, "utf-8")
    defined = sum(len(re.findall(r"^(?:async )?def test_", b.text, re.MULTILINE)) for b in tests)

    for _ in range(2):
        *_, closing_line = run_python(tmp_path, "-m", "pytest", "-W", "error", "--color=no")

        passed = re.fullmatch(r"=+ (\d+) passed in .* =+", closing_line)
        assert passed, closing_line
        assert int(passed[1]) >= defined


@pytest.mark.slow  # Some routes are silent until a ping.
@pytest.mark.parametrize("block", APPLICATIONS, ids=str)
def test_printed_application_answers_each_route_again_and_again(
    block: Block, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    file = block.save(tmp_path)
    with redis_for(file, tmp_path / "redis"):
        # The server of the block itself, or the command line that serves any application.
        starts_itself = "__main__" in block.text
        served: list[str | Path] = [APPS / "on_free_port.py", file.name]
        if not starts_itself:
            served = ["-m", "uvicorn", f"{file.stem}:app", "--host", "127.0.0.1", "--port", "0"]
        requests = requests_of(runpy.run_path(str(file))["app"])
        for _ in range(2):
            with Server([sys.executable, *served], cwd=tmp_path) as server, ExitStack() as reading:
                answers = [
                    (each, reading.enter_context(answer(server, *each)))
                    for each in [*requests, *requests]
                ]
                refused = [each for each, given in answers if given.status_code >= 400]
                assert refused == [], server.lines
                # Some are silent until a ping: that is waited for once, by all.
                for _, given in answers:
                    next(given.iter_raw(), b"")


def requests_of(app: Any) -> list[tuple[str, str]]:
    """Method and path of each route, with values that the pages speak of in the place of parameters."""
    found = []
    for route in getattr(app, "routes", ()):  # An application inside of others has none.
        if isinstance(route, Mount):
            found += [(method, route.path + path) for method, path in requests_of(route)]
            continue
        # FastAPI's own pages are of no concern, nor an endpoint that speaks a protocol of its own.
        if getattr(route, "include_in_schema", True) and route.methods:
            path = re.sub(r"\{\w+(:\w+)?\}", "ACME", route.path)
            found += [(method, path) for method in sorted(route.methods - {"HEAD"})]
    return found


@contextmanager
def answer(server: Server, method: str, path: str) -> Iterator[httpx2.Response]:
    """Ask; give the answer when it has begun, and leave."""
    with (
        httpx2.Client(trust_env=False, verify=False, timeout=SEAT_BELT_SECONDS) as client,
        client.stream(method, f"{server.url}{path}") as response,
    ):
        yield response


@contextmanager
def redis_for(file: Path, folder: Path) -> Iterator[None]:
    """Put a server of Redis where the block looks for one."""
    text = file.read_text("utf-8")
    if "redis://localhost" not in text:
        yield
        return
    with RedisServer(folder) as redis:
        file.write_text(re.sub(r"redis://localhost(/0)?", redis.url, text), "utf-8")
        yield
