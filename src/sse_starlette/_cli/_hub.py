"""`publish` and `stats`: a hub's event log, reached by its URL from outside of any application."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

from ..event import ServerSentEvent
from ..eventlogs._schemes import backend_for
from ..hub import Hub
from ._shown import printable

if TYPE_CHECKING:
    from typing import BinaryIO

    from ..eventlogs.base import ChannelFigures
    from ._terminal import Terminal


def publish(
    url: str,
    channel: str,
    data: str,
    *,
    event: str | None = None,
    key: str | None = None,
    terminal: Terminal,
    stdin: BinaryIO | None = None,
) -> int:
    """Publish one event, or with `-` as data one for each line of standard input; print the ids."""
    # In UTF-8, as an event stream is, whatever the terminal's encoding.
    lines = (
        (stdin or sys.stdin.buffer) if data == "-" else [data.encode("utf-8", "surrogateescape")]
    )
    with Hub(url).publisher() as publisher:
        for number, line in enumerate(lines, 1):
            try:
                text = line.decode().rstrip("\r\n")
            except UnicodeDecodeError as error:
                where = f"line {number} of standard input" if data == "-" else "the data"
                terminal.say(f"{where} isn't UTF-8 ({error.reason}), so it isn't published")
                return 1
            made = ServerSentEvent(text, event=event)
            terminal.result(publisher.publish(channel, made, key=key))
    return 0


async def stats(url: str, channels: list[str], *, as_json: bool, terminal: Terminal) -> int:
    """Print where channels stand in the event log, all of them if none is named; 1 if one isn't there."""
    backend = backend_for(url)
    async with backend.open():
        figures = await backend.figures(channels or None)
    missing = sorted({*channels} - {each.channel for each in figures})
    if as_json:
        told = {each.channel: {**each._asdict(), "last_id": _last_id(each)} for each in figures}
        terminal.result(json.dumps(told, indent=2))
    else:
        rows = [("channel", "last id", "kept", "bytes", "")]
        rows += [
            (
                printable(each.channel),
                _last_id(each),
                str(each.kept),
                str(each.kept_bytes),
                "closed" if each.closed else "",
            )
            for each in figures
        ]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        for row in rows:
            name, last_id, kept, size, state = row
            line = f"{name:<{widths[0]}}  {last_id:<{widths[1]}}  {kept:>{widths[2]}}  "
            terminal.result(f"{line}{size:>{widths[3]}}  {state}".rstrip())
    for name in missing:
        terminal.say(f"the event log has no channel {name!r}")
    return int(bool(missing))


def _last_id(figures: ChannelFigures) -> str:
    return f"{figures.epoch}.{figures.head}"
