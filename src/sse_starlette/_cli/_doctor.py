"""`doctor`: looks at a stream from all sides at once, for as long as it takes, and reports."""

from __future__ import annotations

import json
import ssl
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import anyio

from ..testing import Comment
from ._advice import PROXIES, advice_for, asks_application
from ._client import Exchange, new_client, watch
from ._facts import Facts, Finding, Level
from ._findings import findings_of
from ._resuming import id_to_resume_from
from ._shown import shown_url

if TYPE_CHECKING:
    import httpx2
    from anyio.abc import ByteStream

    from ._advice import Advice
    from ._client import Target
    from ._terminal import Terminal

_AS_BROWSERS = "gzip, deflate, br, zstd"
_HEAD_SECONDS = 10.0
_AGAIN_SECONDS = 5.0
_GARBAGE_SECONDS = 3.0
_MOST_GARBAGE_BYTES = 4096
_BROKEN = (anyio.BrokenResourceError, anyio.ClosedResourceError)


@dataclass(frozen=True)
class DoctorOptions:
    """How a stream is examined."""

    wait: float = 40.0
    """Seconds for which it's watched."""
    direct: str | None = None
    """The address of the application itself."""
    origin: str | None = None
    as_json: bool = False
    most_pieces: int = 100_000
    """Pieces of a body after which it's watched no longer."""
    progress_every: float = 0.5
    """Seconds between two words on how it's going."""


async def doctor(
    target: Target,
    options: DoctorOptions,
    terminal: Terminal,
    transport: httpx2.AsyncBaseTransport | None = None,
) -> int:
    """Examine a stream and print what was found; 1 if there's a problem, else 0."""
    facts = await examine(target, options, terminal, transport)
    found = findings_of(facts)
    report = as_json if options.as_json else as_text
    terminal.result(report(facts, found))
    return int(any(finding.level is Level.PROBLEM for finding in found))


async def examine(
    target: Target,
    options: DoctorOptions,
    terminal: Terminal,
    transport: httpx2.AsyncBaseTransport | None = None,
) -> Facts:
    """Gather the facts: four requests at once, and then one that comes back."""
    common = {"Accept": "text/event-stream", "Cache-Control": "no-store"}
    if options.origin is not None:
        common["Origin"] = options.origin
    plainly = {**common, "Accept-Encoding": "identity"}
    plain, packed, head = Exchange(), Exchange(), Exchange()
    direct = None if options.direct is None else Exchange()

    def is_flood(exchange: Exchange) -> bool:
        return len(exchange.pieces) >= options.most_pieces

    async with new_client(target, transport) as client, anyio.create_task_group() as progress:
        progress.start_soon(_show_progress, options, plain, terminal)
        async with anyio.create_task_group() as tasks:

            async def see(
                at: Target, into: Exchange, sent: dict[str, str], until: float, method: str | None
            ) -> None:
                await watch(
                    client,
                    at,
                    until=until,
                    headers=sent,
                    method=method,
                    into=into,
                    enough=is_flood,
                )

            tasks.start_soon(see, target, plain, plainly, options.wait, None)
            as_browsers = {**common, "Accept-Encoding": _AS_BROWSERS}
            tasks.start_soon(see, target, packed, as_browsers, options.wait, None)
            short = min(options.wait, _HEAD_SECONDS)
            tasks.start_soon(see, target, head, plainly, short, "HEAD")
            if direct is not None and options.direct is not None:
                itself = replace(target, url=options.direct)
                tasks.start_soon(see, itself, direct, plainly, options.wait, None)
        ids = [item.id for _, item in plain.items if not isinstance(item, Comment)]
        resumed_from = id_to_resume_from(ids)
        again = None
        if plain.items:
            back = dict(plainly)
            if resumed_from:
                back["Last-Event-ID"] = resumed_from
            until = min(options.wait, _AGAIN_SECONDS)
            again = await watch(client, target, until=until, headers=back, enough=_has_come_back)
        progress.cancel_scope.cancel()
    return Facts(
        url=target.url,
        watched=options.wait,
        plain=plain,
        compressed=packed,
        head=head,
        again=again,
        resumed_from=resumed_from,
        direct=direct,
        to_garbage=b"" if transport is not None else await _answer_to_garbage(target),
        origin=options.origin,
    )


def _has_come_back(exchange: Exchange) -> bool:
    return any(not isinstance(item, Comment) for _, item in exchange.items)


async def _show_progress(options: DoctorOptions, plain: Exchange, terminal: Terminal) -> None:
    passed = 0.0
    while True:
        if plain.status is None:
            state = "no headers yet"
        elif not plain.pieces:
            state = f"{plain.status}, no bytes yet"
        else:
            state = f"{plain.status}, {len(plain.pieces)} pieces so far"
        terminal.progress(f"watching the stream: {passed:.0f} of {options.wait:g} s, {state}")
        await anyio.sleep(options.progress_every)
        passed += options.progress_every


async def _answer_to_garbage(target: Target) -> bytes:
    """
    What the foremost server says to a line that is no request; empty if it says nothing.

    Some proxies leave no header that tells of them, but all answer this themselves, each in its own words.
    """
    parts = urlsplit(target.url)
    host = parts.hostname or ""
    received = b""
    with anyio.move_on_after(_GARBAGE_SECONDS), suppress(OSError, anyio.EndOfStream, *_BROKEN):
        connection: ByteStream
        if parts.scheme == "https":
            context = ssl.create_default_context()
            if target.insecure:
                context.check_hostname = False
                context.verify_mode = ssl.CERT_NONE
            connection = await anyio.connect_tcp(host, parts.port or 443, ssl_context=context)
        else:
            connection = await anyio.connect_tcp(host, parts.port or 80)
        async with connection:
            await connection.send(b"?\r\n\r\n")
            while len(received) < _MOST_GARBAGE_BYTES:
                received += await connection.receive()
    return received


# --- The report -----------------------------------------------------------------------


def advice_on(facts: Facts, finding: Finding) -> list[Advice]:
    """Return what to change for a finding; nothing for what is well."""
    if finding.level in {Level.OK, Level.NOTE} or asks_application(facts.to_garbage):
        return []
    return advice_for(finding.code, facts.url, facts.servers)


def as_text(facts: Facts, found: list[Finding]) -> str:
    """Return the report for people."""
    lines = [shown_url(facts.url)]
    servers = facts.servers
    if servers:
        lines.append(f"  seen on the way: {', '.join(servers)}")
    if asks_application(facts.to_garbage):
        lines.append(f"  no proxy is on the way: {servers[0]} itself answers")
    for finding in found:
        lines.append(f"  {finding.level.value:<8} {finding.text}")
        advice = advice_on(facts, finding)
        if advice and not set(servers) & set(PROXIES):
            lines.append(f"{'':11}Which proxy it is doesn't show. In its configuration:")
        for one in advice:
            lines.append(f"{'':11}{one.server}, {one.where}:")
            lines += [f"{'':13}put     {line}" for line in one.put]
            lines += [f"{'':13}remove  {line}" for line in one.remove]
    counts = [
        (sum(finding.level is level for finding in found), level.value)
        for level in (Level.PROBLEM, Level.WARNING)
    ]
    told = [f"{count} {name}{'s' if count != 1 else ''}" for count, name in counts if count]
    lines.append(" and ".join(told) if told else "nothing is wrong with it")
    return "\n".join(lines)


def as_json(facts: Facts, found: list[Finding]) -> str:
    """Return the report for programs."""
    plain = facts.plain
    return json.dumps(
        {
            "url": shown_url(facts.url),
            "ok": not any(finding.level is Level.PROBLEM for finding in found),
            "servers": facts.servers,
            "status": plain.status,
            "http_version": plain.http_version,
            "headers_after": plain.headers_at,
            "first_byte_after": plain.first_at,
            "pieces": len(plain.pieces),
            "ended": plain.ended.value,
            "watched": plain.ended_at,
            "findings": [
                {
                    "code": finding.code,
                    "level": finding.level.value,
                    "text": finding.text,
                    "advice": [
                        {
                            "server": one.server,
                            "where": one.where,
                            "put": one.put,
                            "remove": one.remove,
                        }
                        for one in advice_on(facts, finding)
                    ],
                }
                for finding in found
            ],
        },
        indent=2,
    )
