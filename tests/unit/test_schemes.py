"""A hub's URL leads to an event log by its scheme: one of ours, or one that a package has registered."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tomllib
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

import sse_starlette
from sse_starlette import Hub
from sse_starlette.eventlogs import _schemes
from sse_starlette.eventlogs.base import Backend

PACKAGE = Path(sse_starlette.__file__).parent

LOG = """
from tests.unit.logs import FakeLog

class OurLog(FakeLog):
    def __init__(self, url):
        super().__init__()
        self.url = url

nothing = lambda url: None
"""


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of installed packages, with a module of logs in it."""
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "our_logs", raising=False)
    (tmp_path / "our_logs.py").write_text(LOG)
    return tmp_path


def backend_of(hub: Hub) -> Backend:
    assert hub._parts.replicator is not None
    return hub._parts.replicator.backend


def install(site: Path, name: str, **schemes: str) -> None:
    """Put there what an installer leaves of a package that registers these."""
    folder = site / f"{name}-1.0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    lines = [f"{scheme} = {value}" for scheme, value in schemes.items()]
    (folder / "entry_points.txt").write_text("\n".join(["[sse_starlette.eventlogs]", *lines]))


def test_a_scheme_that_a_package_has_registered_leads_to_its_log(site: Path) -> None:
    install(site, "ours", postgres="our_logs:OurLog")

    log: Any = backend_of(Hub("postgres://u:secret@host/db"))

    assert isinstance(log, import_module("our_logs").OurLog)
    assert log.url == "postgres://u:secret@host/db"


def test_a_scheme_that_nobody_has_registered_is_refused_with_those_there_are(site: Path) -> None:
    install(site, "ours", postgres="our_logs:OurLog", nats="our_logs:OurLog")

    with pytest.raises(ValueError, match="there's no log for 'kafka://'") as caught:
        Hub("kafka://u:secret@host")

    assert "secret" not in str(caught.value)
    assert "redis://, rediss://, unix://" in str(caught.value)
    assert "sqlite://, nats:// or postgres://, a Backend, or nothing" in str(caught.value)


@pytest.mark.parametrize("value", ["not_there:OurLog", "our_logs:NotThere"])
def test_a_registered_log_that_cannot_be_loaded_says_whose_it_is(site: Path, value: str) -> None:
    install(site, "ours", postgres=value)

    with pytest.raises(
        ImportError, match=f"postgres://, {value} of ours, can't be loaded"
    ) as caught:
        Hub("postgres://u:secret@host")

    assert "secret" not in str(caught.value)


def test_a_registered_log_that_is_none_is_refused(site: Path) -> None:
    install(site, "ours", postgres="our_logs:nothing")

    with pytest.raises(
        TypeError, match=r"our_logs:nothing of ours, is a builtins\.NoneType and not"
    ):
        Hub("postgres://host")


def test_a_scheme_that_two_packages_have_registered_is_refused(site: Path) -> None:
    install(site, "ours", postgres="our_logs:OurLog")
    install(site, "theirs", postgres="their_logs:Log")

    with pytest.raises(
        ValueError, match="more than one log is registered for postgres://"
    ) as caught:
        Hub("postgres://host")

    assert "our_logs:OurLog of ours" in str(caught.value)
    assert "their_logs:Log of theirs" in str(caught.value)


def test_a_scheme_of_ours_is_not_taken_by_another_package(site: Path) -> None:
    install(site, "ours", sqlite="our_logs:OurLog")

    assert type(backend_of(Hub("sqlite:///events.db"))).__name__ == "SQLiteLog"


def test_those_of_this_package_are_registered() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text("utf-8"))[
        "project"
    ]

    assert project["entry-points"][_schemes.GROUP] == {
        scheme: f"sse_starlette.eventlogs.{module}:{name}"
        for scheme, (module, name) in _schemes.OURS.items()
    }


def test_a_copy_among_the_sources_of_another_package_finds_its_own_logs(tmp_path: Path) -> None:
    shutil.copytree(PACKAGE, tmp_path / "vendored" / "sse")
    program = (
        "from vendored.sse import Hub\n"
        "for url in ('sqlite:///events.db', 'redis://localhost'):\n"
        "    print(type(Hub(url)._parts.replicator.backend).__module__)\n"
        "import sys; assert 'sse_starlette' not in sys.modules"
    )
    command = [sys.executable, "-W", "error", "-c", program]

    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)

    expected = "vendored.sse.eventlogs.sqlite\nvendored.sse.eventlogs.redis\n"
    assert (done.stdout, done.stderr) == (expected, "")
