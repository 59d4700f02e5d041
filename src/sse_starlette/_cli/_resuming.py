"""Whether a client that comes back with an id gets what came after it. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..testing import Comment, Event

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..testing import Parsed


def id_to_resume_from(ids: Sequence[str]) -> str:
    """The first id after which there was another one; empty: there's none."""
    distinct = list(dict.fromkeys(each for each in ids if each))
    return distinct[0] if len(distinct) > 1 else ""


def resuming(
    ids: Sequence[str], resumed_from: str, back: Sequence[Parsed] | None
) -> tuple[str, str, str]:
    """
    Judge what came after coming back; its code, its level and a sentence.

    Args:
        ids: the last event id after each event and each id of the first connection.
        resumed_from: the id that was come back with; empty: it wasn't tried.
        back: what came then.
    """
    if not any(ids):
        text = "No event has an id: what is sent while a client is away, it never gets."
        return "resume-none", "note", text
    if not resumed_from or back is None:
        text = "Too few ids came to try what becomes of a client that comes back."
        return "resume-untried", "note", text
    first = next((item for item in back if not isinstance(item, Comment)), None)
    distinct = list(dict.fromkeys(each for each in ids if each))
    if first is None:
        text = "Nothing came to a client that came back with an id, within the time."
        return "resume-untried", "note", text
    if isinstance(first, Event) and first.event == "reset":
        text = (
            "A client that comes back is told (reset) that the history doesn't reach back so far."
        )
        return "resume-reset", "note", text
    if isinstance(first, Event) and first.id in distinct[1:]:
        return "resume-works", "ok", "A client that comes back with an id gets what came after it."
    if first.id == distinct[0]:
        if isinstance(first, Event):
            text = (
                "A client that comes back with an id gets the same events again, from the first on. Either the "
                "application takes no notice of the id (a channel does), or the header Last-Event-ID doesn't reach it."
            )
            return "resume", "problem", text
        text = "Nothing but its own id came to a client that came back."
        return "resume-untried", "note", text
    text = (
        "A client that comes back with an id doesn't get what came after it. Either the application "
        "keeps no history (see Channels), or the header Last-Event-ID doesn't reach it."
    )
    return "resume", "problem", text
