"""One server for each module, further ones for the tests that end them."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import pytest
from tests.servers.serving import Server

SERVE = Path(__file__).resolve().parent / "apps" / "serve.py"
# Lines of a log (apps/serve.py sets its format), the ends of tracebacks, and what Python prints itself.
COMPLAINT = re.compile(
    r"(WARNING|ERROR|CRITICAL):|[\w.]+(Error|Exception|Warning|Group)\b|Exception |a warning of ours"
)


class Dependent(Server):
    """A server whose other lines may be anything, a banner for one.

    Patterns in `theirs` match what a dependent complains of in any case.
    """

    def __init__(self, app: str, theirs: Sequence[str] = ()) -> None:
        self._theirs = theirs
        super().__init__([sys.executable, SERVE, app])

    def complaints(self) -> list[str]:
        lines = [line for line in self.lines if COMPLAINT.match(line)]
        return [line for line in lines if not any(re.match(each, line) for each in self._theirs)]


Serve = Callable[[str], Dependent]


def pytest_configure(config: pytest.Config) -> None:
    # The other suites make every warning an error. What these packages deprecate of their own and of
    # each other's isn't ours to judge; what our package does in a server is, and apps/serve.py does it.
    config.addinivalue_line("filterwarnings", "default")


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
def theirs(request: pytest.FixtureRequest) -> Sequence[str]:
    """What the module says its dependent complains of in any case."""
    return getattr(request.module, "THEIRS", ())


@pytest.fixture(scope="module")
def server(request: pytest.FixtureRequest, theirs: Sequence[str]) -> Iterator[Dependent]:
    """The application that the module names in `APP`; nobody may complain while it runs."""
    with Dependent(request.module.APP, theirs) as running:
        yield running
    assert running.complaints() == [], "\n".join(running.lines)


@pytest.fixture
def serve(theirs: Sequence[str]) -> Iterator[Serve]:
    """Starts an application for one test alone."""
    with ExitStack() as running:
        yield lambda app: running.enter_context(Dependent(app, theirs))
