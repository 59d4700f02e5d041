"""Ids as positions, with generated ones: what is written is read, and nothing is an error."""

from __future__ import annotations

from hypothesis import example, given
from hypothesis import strategies as st

from sse_starlette._wire import cursor as _cursor

POSITIONS = st.dictionaries(
    st.text("0123456789abcdef", min_size=8, max_size=8), st.integers(0, 10**18 - 1), min_size=1
)


@given(POSITIONS)
def test_what_was_written_is_what_is_read(positions: dict[str, int]) -> None:
    assert _cursor.parse_cursor(_cursor.format_cursor(positions.items())) == positions


@given(st.text() | st.text("0123456789.-ab"))
@example("ab.\U0001d7ce")
def test_no_text_is_an_error(text: str) -> None:
    found = _cursor.parse_cursor(text)

    assert found is None or all(offset >= 0 for offset in found.values())
