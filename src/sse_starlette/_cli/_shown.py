"""What may be shown of what came from outside: URLs without secrets, text without control characters. Pure."""

from __future__ import annotations

from urllib.parse import parse_qsl, quote, urlsplit

_HIDDEN = "***"


def shown_url(url: str) -> str:
    """
    Return `url` without its user, its password and the values of its query.

    Any of them may be a token, and what is printed ends in logs and tickets.
    """
    try:
        parts = urlsplit(url)
        names = [name for name, _ in parse_qsl(parts.query, keep_blank_values=True)]
        _ = parts.port
    except ValueError:  # as for a port of letters
        return _HIDDEN
    if parts.scheme and not parts.netloc:
        return _HIDDEN  # Who knows what it was meant to be.
    _, at, place = parts.netloc.rpartition("@")
    shown = f"{parts.scheme}://" if parts.netloc else ""
    shown += f"{_HIDDEN}@{place}" if at else place
    shown += parts.path
    if names:
        shown += "?" + "&".join(f"{quote(name)}={_HIDDEN}" for name in names)
    elif parts.query:
        shown += f"?{_HIDDEN}"
    return printable(shown)


def printable(text: str) -> str:
    r"""Return `text` with what a terminal would obey written out, as `\x1b`: a stream is a stranger's."""
    if text.isprintable():
        return text
    return "".join(
        each if each.isprintable() else each.encode("unicode_escape").decode() for each in text
    )
