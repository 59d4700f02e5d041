"""The page says of every server what the tests run, no more and no less."""

from __future__ import annotations

import re

from tests.servers.going_down import CASES, ENDINGS
from tests.servers.shutdown_table import lines_in_page, table


def test_table_of_the_page_has_a_row_for_each_way_and_a_time_for_each_test() -> None:
    anything = {(str(case), ending): 0.0 for case in CASES for ending in ENDINGS}

    def without_times(lines: list[str]) -> list[str]:
        return [re.sub(r"\d+\.\d\d s", "_ s", line) for line in lines]

    assert without_times(lines_in_page()) == without_times(table(anything))


def test_times_of_the_page_are_within_what_it_claims() -> None:
    for case, line in zip(CASES, lines_in_page()[2:], strict=True):
        limit = 1 if case.server in ("uvicorn", "granian") else 3
        assert all(float(each) < limit for each in re.findall(r"(\d+\.\d\d) s", line)), line
