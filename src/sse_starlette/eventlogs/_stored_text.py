"""Names and keys as event logs store them. Pure."""

from __future__ import annotations


def to_bytes(text: str) -> bytes:
    """A name or a key as it's stored: any text, half of a surrogate pair too."""
    return text.encode("utf-8", "surrogatepass")


def to_text(raw: bytes) -> str:
    """The text that was stored."""
    return raw.decode("utf-8", "surrogatepass")
