"""
Hostile inputs: texts that try to be more than one field, and ids that try to be positions.

Each is made from picks, and picks come from a generator of random numbers, or from the bytes that
Hypothesis or Atheris vary. So what one of them finds, the others can repeat.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any, Protocol, TypeVar

T = TypeVar("T")
Fields = dict[str, Any]


class Picks(Protocol):
    """Chooses."""

    def pick(self, choices: Sequence[T]) -> T: ...


class RandomPicks:
    """As a seed says."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def pick(self, choices: Sequence[T]) -> T:
        # `random.choice` takes three times as long.
        return choices[int(self._random.random() * len(choices))]


class BytePicks:
    """As bytes say, one for each pick; the first of the choices when there are no more."""

    def __init__(self, data: bytes) -> None:
        self._bytes = iter(data)

    def pick(self, choices: Sequence[T]) -> T:
        return choices[next(self._bytes, 0) % len(choices)]


# The characters that mean something to some parser, and whole lines of others; ordinary text between.
TOKENS = [
    *("", "a", "0", " ", ":", ": ", "\r", "\n", "\r\n", "\n\n", "\r\r", "\r\n\r\n", "\0", "\t"),
    *("\x0b", "\x0c", "\x1b", "\x1c", "\x1d", "\x1e", "\x7f", "\x85", "\xa0", "\u2028", "\u2029"),
    *("\ufeff", "\ufffd", "\ufffe", "\U0001f600", "\ud83d", "\ude00", "\ud83d\ude00", "é", "世"),
    *("data: evil", "\ndata: evil", "\r\ndata: evil\r\n\r\n", "\rid: evil", "\nevent: evil\n"),
    *("\n\nid: 7\n", "retry: 1", "\nretry: 1\n", "\r: evil", "\n: ping\n\n"),
    *("{", "}", "%", "'", '"'),
    *("a" * 70, "{}", "%7B", "%0d%0a", "; --", "\\", "*", "?", "[", "epoch.1", "-", ".", "=", "&"),
]
LENGTHS = (0, 1, 1, 2, 3, 5, 8)
RETRIES = (0, 1, 3000, 10**15)
MAY_BE_THERE = (True, False)
# Values that are no text; what can't be sent is refused with a TypeError or a ValueError.
ODD: tuple[Any, ...] = (
    *(None, True, False, -1, 0, 1.5, float("nan"), float("inf"), b"", b"data: x\n\n", b"\xff\r\n"),
    *((), [], {}, [[]], {"a": "\r\n"}, {1: 2}, {"a": {"b": [None]}}),
    *(object(), object, len, {1}, "1"),
    *(10**400, 1j, ..., Exception("\n"), bytearray(b"\r"), memoryview(b"\n"), "\ud800"),
)


def text_from(picks: Picks) -> str:
    """A text that means harm."""
    return "".join([picks.pick(TOKENS) for _ in range(picks.pick(LENGTHS))])


def fields_from(picks: Picks) -> Fields:
    """The fields of an event, all of them of the right type."""
    fields: Fields = {
        name: text_from(picks)
        for name in ("data", "event", "id", "comment")
        if picks.pick(MAY_BE_THERE)
    }
    if picks.pick(MAY_BE_THERE):
        fields["retry"] = picks.pick(RETRIES)
    return fields


def odd_fields_from(picks: Picks) -> Fields:
    """The fields of an event, of any type."""
    fields = fields_from(picks)
    for name in ("data", "event", "id", "comment", "retry", "sep", "what"):
        if picks.pick(MAY_BE_THERE) and picks.pick(MAY_BE_THERE):
            fields[name] = picks.pick(ODD) if picks.pick(MAY_BE_THERE) else text_from(picks)
    return fields


EPOCHS = ("", "a", "0123456789", "kQ3xTn1a", "a-b", "a.b", "a,b", "\0", "é", "x" * 100)
OFFSETS = (
    *("", "0", "1", "-1", "+1", "1 ", " 1", "01", "9" * 18, "9" * 19, "9" * 5000, "1e3", "0x1"),
    *("\u0661", "\U0001d7ce", "²", "1_0", "NaN", "1.0", "\r\n"),
)


def cursor_from(picks: Picks, epoch: str) -> str:
    """An id that a client may send: close to one of `epoch`, or far from any."""
    if picks.pick(MAY_BE_THERE) and picks.pick(MAY_BE_THERE):
        return text_from(picks)
    parts = []
    for _ in range(picks.pick((1, 1, 1, 2, 3, 300))):
        of = epoch if picks.pick(MAY_BE_THERE) else picks.pick(EPOCHS)
        parts.append(f"{of}{picks.pick(('.', '.', '.', '..', ''))}{picks.pick(OFFSETS)}")
    return picks.pick(("-", "-", ",", ", ", "")).join(parts)
