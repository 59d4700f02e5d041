"""Each promise of SECURITY.md is kept by tests that exist."""

from __future__ import annotations

import re
import tomllib

from tests.docs.pages import ROOT

PAGE = (ROOT / "SECURITY.md").read_text("utf-8")


def test_each_promise_names_tests_and_they_exist() -> None:
    there = {
        name
        for path in (ROOT / "tests").rglob("test_*.py")
        for name in re.findall(
            r"^ *(?:async )?def (test_\w+)", path.read_text("utf-8"), re.MULTILINE
        )
    }
    promises = [
        line.split("|")[1:3]
        for table in re.findall(r"^\| Promise \| Tests \|\n.*\n((?:\|.*\n)+)", PAGE, re.MULTILINE)
        for line in table.splitlines()
    ]

    named = {
        promise.strip(): set(re.findall(r"`(test_\w+)`", tests)) for promise, tests in promises
    }

    assert len(named) > 20
    assert {promise: tests - there for promise, tests in named.items() if tests - there} == {}
    assert [promise for promise, tests in named.items() if not tests] == []


def test_rules_of_bandit_are_on_for_what_is_shipped() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["ruff"]["lint"]

    assert "S" in settings["select"]
    assert [
        rule for rule in settings["ignore"] if rule.startswith("S") and rule[1:].isdigit()
    ] == []
    spared = {
        rule
        for where, rules in settings["per-file-ignores"].items()
        # The testing kit is imported by tests: it may assert.
        if where.startswith("src") and not where.startswith("src/sse_starlette/testing/")
        for rule in rules
    }
    assert [rule for rule in spared if rule == "S" or (rule[0] == "S" and rule[1:].isdigit())] == []
