"""The bytes of one whole event back to its fields: `frame.py`, the other way. Pure.

For frames that this package has encoded, or is given whole; a stream that comes in pieces is
`testing`'s. Fields follow WHATWG HTML 9.2.6.
"""

from __future__ import annotations

from typing import NamedTuple

from .number import whole_number


class Fields(NamedTuple):
    """The fields of a frame; None: it has no such line."""

    data: str | None
    event: str | None
    id: str | None
    retry: int | None
    comment: str | None


def fields_of(frame: bytes) -> Fields:
    """
    Return the fields of one frame; those that no event has are left out.

    Raises:
        ValueError: it isn't one frame: the empty line is missing at its end, or is in its middle.
    """
    text = frame.decode("utf-8", "replace").replace("\r\n", "\n").replace("\r", "\n")
    if (text != "\n" and not text.endswith("\n\n")) or "\n\n" in text[:-2]:
        raise ValueError(
            f"{frame[:80]!r} is not one event: an event ends with an empty line and has no other."
        )
    lines: dict[str, list[str]] = {}
    for line in text.split("\n"):
        name, colon, value = line.partition(":")
        if name or colon:
            lines.setdefault(name, []).append(value.removeprefix(" "))

    def last(name: str) -> str | None:
        return lines[name][-1] if name in lines else None

    retry = last("retry")
    return Fields(
        "\n".join(lines["data"]) if "data" in lines else None,
        last("event"),
        last("id"),
        None if retry is None else whole_number(retry),
        "\n".join(lines[""]) if "" in lines else None,
    )


def split_frames(frames: bytes) -> list[bytes]:
    """Return the frames, each by itself, of a run that was encoded with CR LF and joined."""
    return [frame + b"\r\n\r\n" for frame in frames.split(b"\r\n\r\n")[:-1]]
