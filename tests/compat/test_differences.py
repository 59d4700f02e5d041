"""The list of differences is that of the page, and each of them has its test."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from tests.compat.differences import DIFFERENCES

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "migrating.md").read_text("utf-8")
SECTION = PAGE.split("\n## Different on purpose\n")[1].split("\n## ")[0]
BULLETS = [
    " ".join(bullet.split()) for bullet in re.split(r"^- |^### .*", SECTION, flags=re.MULTILINE)
]


@pytest.mark.parametrize("bullet", [one for one in BULLETS if one])
def test_each_difference_of_the_page_has_a_test(bullet: str) -> None:
    assert bullet.endswith(tuple(DIFFERENCES.values()))


@pytest.mark.parametrize(("name", "reason"), DIFFERENCES.items())
def test_each_difference_stands_in_the_page_and_is_a_test(name: str, reason: str) -> None:
    tests = "".join(path.read_text("utf-8") for path in Path(__file__).parent.glob("test_*.py"))

    assert sum(bullet.endswith(reason) for bullet in BULLETS) == 1
    assert re.search(rf"^(async )?def {name}\(", tests, re.MULTILINE)
