"""Each promise of SECURITY.md is kept by tests that exist."""

from __future__ import annotations

import re
import tomllib

from tests.docs.pages import ROOT

PAGE = (ROOT / "SECURITY.md").read_text("utf-8")


def test_each_promise_names_tests_and_they_exist() -> None:
    files = (ROOT / "tests").rglob("test_*.py")
    there = set(re.findall(r"\bdef (test_\w+)", "".join(path.read_text("utf-8") for path in files)))
    promises = [
        line.split("|")[1:3]
        for table in re.findall(r"^\| Promise \| Tests \|\n.*\n((?:\|.*\n)+)", PAGE, re.MULTILINE)
        for line in table.splitlines()
    ]

    named = {name.strip(): set(re.findall(r"`(test_\w+)`", tests)) for name, tests in promises}

    assert len(named) > 20
    assert {promise: tests - there for promise, tests in named.items() if tests - there} == {}
    assert [promise for promise, tests in named.items() if not tests] == []


def test_rules_of_bandit_are_on_for_what_is_shipped() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["ruff"]["lint"]

    assert "S" in settings["select"]
    spared = set(settings["ignore"])
    for where, rules in settings["per-file-ignores"].items():
        # The testing kit is imported by tests: it may assert.
        if where.startswith("src") and not where.startswith("src/sse_starlette/testing/"):
            spared.update(rules)
    assert [rule for rule in spared if re.fullmatch(r"S\d*", rule)] == []
