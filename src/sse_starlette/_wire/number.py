"""Whole numbers as protocols write them: ASCII digits alone. Pure."""

from __future__ import annotations

_MOST_DIGITS = 18


def whole_number(text: str) -> int | None:
    """
    Return the number that `text` is; None: it's another text, or a longer number.

    `int()` alone takes signs, spaces, underscores and the digits of all scripts, and raises ValueError
    for more than 4,300 of them.
    """
    if len(text) > _MOST_DIGITS or not text.isascii() or not text.isdigit():
        return None
    return int(text)
