"""How asyncio is to work where the tests run on it, and how they are collected."""

from __future__ import annotations

import asyncio
import gc
import logging
from collections.abc import Generator

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--eager-tasks",
        action="store_true",
        help="run the tests that run on asyncio with its eager task factory (Python 3.12 and newer)",
    )


def is_of_the_program(record: logging.LogRecord) -> bool:
    """Whether it's no remark of asyncio's debug mode on a step that took a tenth of a second."""
    return not str(record.msg).startswith("Executing %s took")


def pytest_configure(config: pytest.Config) -> None:
    # On a busy machine any step takes as long now and then. No test is about that.
    logging.getLogger("asyncio").addFilter(is_of_the_program)
    if not config.getoption("--eager-tasks"):
        return
    # Only now: the environment of tests/dependents lacks what the unit tests need.
    from tests.unit.driving import LOOPS

    def eager_loop() -> asyncio.AbstractEventLoop:
        loop = asyncio.new_event_loop()
        loop.set_task_factory(getattr(asyncio, "eager_task_factory"))  # noqa: B009 (not in 3.11's types)
        return loop

    _, options = LOOPS["asyncio"]
    options["loop_factory"] = eager_loop


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Keep the garbage collector from what is imported: it would look through all of it again and again."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what can't be arranged where a task takes its first step as it is started."""
    if config.getoption("--eager-tasks"):
        lazy = [item for item in items if item.get_closest_marker("lazy_tasks") is not None]
        config.hook.pytest_deselected(items=lazy)
        items[:] = [item for item in items if item not in lazy]
