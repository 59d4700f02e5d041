"""The reasons of the tests are those of the page."""

from __future__ import annotations

import re
from pathlib import Path

from tests.compat import (  # noqa: F401  (they give their reasons when they are imported)
    test_applications,
    test_constructing,
    test_events,
    test_streams,
)
from tests.compat.differences import REASONS

PAGE = Path(__file__).resolve().parents[2] / "docs" / "migrating.md"


def test_each_difference_of_the_page_has_a_test_and_the_reason_of_each_test_stands_there_once() -> (
    None
):
    section = PAGE.read_text("utf-8").split("\n## Different on purpose\n")[1].split("\n## ")[0]
    bullets = re.split(r"^- |^### .*", section, flags=re.MULTILINE)
    told = [text for bullet in bullets if (text := " ".join(bullet.split()))]

    for text in told:
        assert text.endswith(tuple(REASONS))
    for reason in REASONS:
        assert sum(text.endswith(reason) for text in told) == 1
