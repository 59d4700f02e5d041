"""What the facts about a stream mean, in plain words. Pure: facts in, findings out; a rule is a function."""

from __future__ import annotations

from itertools import pairwise
from statistics import median
from typing import TYPE_CHECKING

from .._stream.headers import is_event_stream
from ..testing import Comment, Event
from ._advice import STATUS_HINTS, in_plain_words
from ._client import Ended, Exchange
from ._facts import Facts, Finding, Level
from ._resuming import resuming
from ._shown import printable, shown_url
from ._tally import latency_of, shown_ms

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping


def findings_of(facts: Facts) -> list[Finding]:
    """Judge the facts; the first finding is the one that all others depend on."""
    first = list(_answer(facts))
    if any(each.level is Level.PROBLEM for each in first):
        return first
    rules: tuple[Callable[[Facts], Iterator[Finding]], ...] = (
        _first_bytes,
        _latency,
        _compression,
        _ending,
        _silence,
        _caching,
        _format,
        _head,
        _cors,
        _version,
    )
    found = [finding for rule in rules for finding in rule(facts)]
    if facts.plain.pieces:
        ids = [item.id for _, item in facts.plain.items if not isinstance(item, Comment)]
        back = None if facts.again is None else [item for _, item in facts.again.items]
        code, level, text = resuming(ids, facts.resumed_from, back)
        found.append(Finding(code, Level(level), text))
    return first + found


# --- Is there an answer, and is it a stream? ------------------------------------------

_NO_CONTENT, _FOUND, _BAD_GATEWAY, _GATEWAY_TIMEOUT, _OK, _ERROR = 204, 300, 502, 504, 200, 400


def _answer(facts: Facts) -> Iterator[Finding]:
    plain, status = facts.plain, facts.plain.status
    if plain.ended is Ended.REFUSED:
        yield Finding(
            "unreachable", Level.PROBLEM, f"There is no connection: {in_plain_words(plain.error)}."
        )
    elif status is None:
        yield _withheld(facts)
    elif status == _NO_CONTENT:
        text = "204 No Content: an EventSource takes this for the end, and never comes back."
        yield Finding("over", Level.PROBLEM, text)
    elif _FOUND <= status < _ERROR:
        to = shown_url(plain.headers.get("location", "nowhere"))
        text = (
            f"{status}: the stream is at {to}. Clients follow it anew each time they come back; "
            "ask doctor about that address, and give it to them."
        )
        yield Finding("redirect", Level.PROBLEM, text)
    elif status == _BAD_GATEWAY:
        text = (
            "502: the proxy doesn't reach the application. Does it run, and where does it listen?"
        )
        yield Finding("gateway", Level.PROBLEM, text)
    elif status == _GATEWAY_TIMEOUT:
        text = (
            f"504 after {shown_ms(plain.headers_at or 0)}: the proxy has lost patience before the "
            "application sent its headers. Give it more, or have the application answer sooner."
        )
        yield Finding("cut", Level.PROBLEM, text)
    elif status != _OK:
        text = STATUS_HINTS.get(
            status, "this is no stream, and an EventSource gives up for good at it"
        )
        yield Finding("status", Level.PROBLEM, f"{status}: {text}.")
    elif not is_event_stream(plain.headers.get("content-type")):
        found = printable(plain.headers.get("content-type", "none"))
        text = f"The content type is {found}; clients take nothing but text/event-stream."
        yield Finding("content-type", Level.PROBLEM, text)
    else:
        text = (
            f"Answers 200 {printable(plain.headers['content-type'])} over {plain.http_version}, "
            f"headers after {shown_ms(plain.headers_at or 0)}."
        )
        yield Finding("answer", Level.OK, text)


def _withheld(facts: Facts) -> Finding:
    waited = f"No headers within {facts.watched:g} s"
    if facts.compressed.encoding and facts.compressed.status == _OK:
        return Finding(
            "compressed",
            Level.PROBLEM,
            f"{waited}, and for clients that take {facts.compressed.encoding} hardly a byte: something "
            "compresses the stream, and keeps it until it has enough.",
        )
    if facts.direct is not None and facts.direct.headers_at is not None:
        at = shown_ms(facts.direct.headers_at)
        return Finding(
            "buffered",
            Level.PROBLEM,
            f"{waited}, though the application sends them after {at}: something between collects the "
            "answer instead of passing it on.",
        )
    if facts.head.status == _OK and is_event_stream(facts.head.headers.get("content-type")):
        return Finding(
            "buffered",
            Level.PROBLEM,
            f"{waited}, though HEAD is answered: something between collects the answer instead of "
            "passing it on. (Or the application waits for its first event before it answers.)",
        )
    return Finding(
        "buffered",
        Level.PROBLEM,
        f"{waited}. Either something between collects the answer, or the application doesn't answer. "
        "To tell which: --direct with the application's own address.",
    )


# --- Does it stream? ------------------------------------------------------------------

_LATE_SECONDS = 2.0
_BURST_SECONDS = 3.0
_DELAY_SECONDS = 0.1
_MOMENTS_TO_JUDGE = 3


def _first_bytes(facts: Facts) -> Iterator[Finding]:
    plain, direct = facts.plain, facts.direct
    if "content-length" in plain.headers and facts.plain.pieces:
        text = "The answer has a Content-Length: somebody has collected all of it before it was passed on."
        yield Finding("buffered", Level.PROBLEM, text)
        return
    if plain.first_at is None:
        if plain.ended is not Ended.OPEN:
            return  # The rule about endings tells.
        if direct is not None and direct.first_at is not None:
            text = (
                f"No byte within {facts.watched:g} s, though the application's first ones came after "
                f"{shown_ms(direct.first_at)}: something between holds them."
            )
            yield Finding("buffered", Level.PROBLEM, text)
        else:
            text = (
                f"No byte within {facts.watched:g} s after the headers, not even a ping. Either the "
                "application is silent (give EventSourceResponse a ping=15), or something between holds "
                "what it sends. To tell which: --direct with the application's own address, or a "
                "longer --wait."
            )
            yield Finding("silent", Level.PROBLEM, text)
        return
    head_at = facts.head.headers_at or 0.0
    if (plain.headers_at or 0.0) > head_at + _LATE_SECONDS:
        text = (
            f"The headers came after {shown_ms(plain.headers_at or 0)}, with the first bytes: something "
            "waits for these. Proxies give up on an answer that doesn't begin."
        )
        yield Finding("late-headers", Level.WARNING, text)
    if direct is not None and direct.first_at is not None:
        held = plain.first_at - direct.first_at
        if held > _LATE_SECONDS:
            text = f"The first bytes came {shown_ms(held)} later than from the application itself."
            yield Finding("buffered", Level.PROBLEM, text)
            return
    yield Finding(
        "first-bytes", Level.OK, f"The first bytes came after {shown_ms(plain.first_at)}."
    )


def _delays(exchange: Exchange) -> list[float]:
    """How old the pings of this package were when they came, by two clocks that may differ."""
    found = (latency_of(item, None, exchange.began + at) for at, item in exchange.items)
    return [delay for delay in found if delay is not None]


def _latency(facts: Facts) -> Iterator[Finding]:
    delays = _delays(facts.plain)
    spread = max(delays) - min(delays) if delays else 0.0
    if spread > _BURST_SECONDS:
        text = (
            f"Pings come together that were sent up to {shown_ms(spread)} apart: something between "
            "collects what is sent before it passes it on."
        )
        yield Finding("buffered", Level.PROBLEM, text)
        return
    by_itself = _delays(facts.direct) if facts.direct is not None else []
    held = spread
    if by_itself and delays:
        held = median(delays) - median(by_itself)
    elif delays and "HAProxy" in facts.servers:
        held = max(spread, median(delays))
    else:
        held = 0.0
    if held > _DELAY_SECONDS:
        text = f"What the application sends is held for about {shown_ms(held)} on its way."
        if "HAProxy" in facts.servers:
            text += " HAProxy does that with each small piece unless it's told not to."
        yield Finding("delayed", Level.WARNING, text)


def _compression(facts: Facts) -> Iterator[Finding]:
    plain, packed = facts.plain, facts.compressed
    if not plain.pieces:
        return
    behind = _comes_late(plain, packed)
    if packed.encoding and not behind:
        text = (
            f"Compressed with {packed.encoding} for clients that take it, and still event by event."
        )
        yield Finding("compressed-well", Level.OK, text)
    elif behind:
        how = f"with {packed.encoding} " if packed.encoding else ""
        text = (
            f"For clients that take compression, as all browsers do, the stream is compressed {how}and "
            f"held: {_pieces(packed)} in the time in which {_pieces(plain)} came without."
        )
        yield Finding("compressed", Level.PROBLEM, text)


def _comes_late(plain: Exchange, packed: Exchange) -> bool:
    """Whether the compressed stream lags behind the other by more than chance."""
    if packed.ended is Ended.REFUSED:
        return False
    moments = {round(at, 1) for at, _ in plain.pieces}
    packed_moments = {round(at, 1) for at, _ in packed.pieces}
    if plain.first_at is not None and packed.first_at is None:
        return packed.ended is Ended.OPEN and packed.ended_at > plain.first_at + _LATE_SECONDS
    return len(moments) >= _MOMENTS_TO_JUDGE and len(packed_moments) <= len(moments) / 3


def _pieces(exchange: Exchange) -> str:
    count = len(exchange.pieces)
    return f"{count} piece{'s' if count != 1 else ''}"


# --- How does it end, and how long is it silent? --------------------------------------

_SILENT_END_SECONDS = 1.0
_PATIENCE_OF_PROXIES = 30.0


def _silences(exchange: Exchange) -> list[float]:
    """The times without a byte; the last one is the one before the end."""
    times = [exchange.headers_at or 0.0, *(at for at, _ in exchange.pieces), exchange.ended_at]
    return [later - sooner for sooner, later in pairwise(times)]


def _ending(facts: Facts) -> Iterator[Finding]:
    plain = facts.plain
    *before, last = _silences(plain)
    if plain.ended is Ended.OPEN:
        return
    survived = max(before, default=0.0)
    after = f"after {shown_ms(plain.ended_at)} in all"
    alone = facts.direct is not None and facts.direct.ended is plain.ended
    if plain.ended is Ended.COMPLETE and last < _SILENT_END_SECONDS:
        text = (
            f"The stream came to its end {after}. Clients come back to one that ends, over and over: "
            "answer them with 204 when it's over for good."
        )
        yield Finding("ended", Level.NOTE, text)
        return
    if plain.ended is Ended.COMPLETE:
        text = (
            f"The stream ended {after}, properly, but out of {shown_ms(last)} of silence. If the "
            "application didn't end it, a proxy has lost patience."
        )
        yield Finding("cut", Level.WARNING, text)
        return
    text = f"The connection was cut {after}, without the end of the body"
    if alone:
        text += ", and the application's own was cut likewise: look there, not at a proxy."
        yield Finding("broken", Level.PROBLEM, text)
        return
    if survived >= last:
        text += (
            f", though it had been silent for only {shown_ms(last)}: a limit on how long an answer may "
            "take in all. Clients come back, but what a language model was saying is gone."
        )
    else:
        text += (
            f", after {shown_ms(last)} of silence: something allows no more silence, or no more time in "
            "all. Send pings more often than that, EventSourceResponse(…, ping=…), and give the proxy "
            "more time."
        )
    yield Finding("cut", Level.PROBLEM, text)


def _silence(facts: Facts) -> Iterator[Finding]:
    plain = facts.plain
    if not plain.pieces:
        return
    longest = max(_silences(plain))
    pings = sum(isinstance(item, Comment) for _, item in plain.items)
    if longest >= _PATIENCE_OF_PROXIES:
        text = (
            f"Not a byte for {longest:.0f} s, and many proxies cut after 30 or 60: give "
            "EventSourceResponse a ping=15, or less."
        )
        yield Finding("no-pings", Level.WARNING, text)
    elif pings:
        text = f"{pings} comments keep it alive; the longest silence was {shown_ms(longest)}."
        yield Finding("pings", Level.OK, text)
    elif plain.ended is Ended.OPEN:
        text = (
            f"No ping came in {facts.watched:g} s; the longest silence was {shown_ms(longest)}. The "
            "usual ping comes after 15 s: --wait 40 shows it."
        )
        yield Finding("pings-unseen", Level.NOTE, text)


# --- What else hurts ------------------------------------------------------------------


def _caching(facts: Facts) -> Iterator[Finding]:
    seen = [each for each in (facts.compressed, facts.again) if each is not None]
    if any(_is_hit(each.headers) for each in seen):
        text = (
            "A cache answered a second client with what it had for the first: they share one "
            "stream, or get one that is over."
        )
        yield Finding("cached", Level.PROBLEM, text)
        return
    control = facts.plain.headers.get("cache-control", "").lower()
    if not any(word in control for word in ("no-store", "no-cache", "private")):
        text = "Cache-Control doesn't say no-store: a cache may keep the stream, and give it to others."
        yield Finding("cacheable", Level.WARNING, text)


def _is_hit(headers: Mapping[str, str]) -> bool:
    get = headers.get
    said = " ".join(get(name, "") for name in ("x-cache", "cf-cache-status", "x-cache-status"))
    age = get("age", "0")
    return (
        "hit" in said.lower()
        or (age.isdecimal() and int(age) > 0)
        or len(get("x-varnish", "").split()) > 1  # its own number, and the one that fetched it
        or "; hit" in get("cache-status", "")
    )


def _format(facts: Facts) -> Iterator[Finding]:
    if facts.plain.faults:
        more = len(facts.plain.faults) - 1
        text = f"The stream isn't well formed: {printable(facts.plain.faults[0])}"
        text += f", and {more} more." if more else "."
        yield Finding("malformed", Level.PROBLEM, text)
    elif facts.plain.pieces:
        events = sum(isinstance(item, Event) for _, item in facts.plain.items)
        yield Finding("format", Level.OK, f"Well formed; {events} events.")


def _head(facts: Facts) -> Iterator[Finding]:
    head = facts.head
    if head.status == _OK and head.ended is Ended.COMPLETE:
        yield Finding("head", Level.OK, f"HEAD is answered after {shown_ms(head.ended_at)}.")
    elif head.status is None or head.ended is Ended.OPEN:
        text = (
            "HEAD isn't answered: link checkers and monitors hang, each with a stream of its own."
        )
        yield Finding("head", Level.WARNING, text)
    else:
        yield Finding("head", Level.NOTE, f"HEAD is answered with {head.status}.")


def _cors(facts: Facts) -> Iterator[Finding]:
    allowed = facts.compressed.headers.get("access-control-allow-origin")
    if facts.origin is None:
        if allowed is None:
            text = "No CORS headers: only pages of the same origin can read it. --origin asks as another."
            yield Finding("cors", Level.NOTE, text)
    elif allowed in {"*", facts.origin}:
        with_cookies = facts.compressed.headers.get("access-control-allow-credentials") == "true"
        text = f"Pages of {facts.origin} may read it, "
        text += "with cookies." if with_cookies else "without cookies (withCredentials fails)."
        yield Finding("cors", Level.OK, text)
    else:
        said = (
            "no"
            if allowed is None
            else f"the Access-Control-Allow-Origin {printable(allowed)!r}, no"
        )
        text = (
            f"Browsers keep the stream from pages of {facts.origin}: there's {said} permission. Add "
            f"CORSMiddleware with allow_origins=[{facts.origin!r}] to the application."
        )
        yield Finding("cors", Level.PROBLEM, text)


def _version(facts: Facts) -> Iterator[Finding]:
    if facts.plain.http_version.startswith("HTTP/1"):
        text = (
            f"{facts.plain.http_version}: a browser has six connections to a host, for all tabs "
            "together. HTTP/2 has no such limit."
        )
        yield Finding("http-version", Level.NOTE, text)
