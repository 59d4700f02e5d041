"""The rules of the commands: what is shown, what is counted, and what facts about a stream mean."""

from __future__ import annotations

import io
import json
import zlib
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import httpx2
import pytest

from sse_starlette._cli._advice import PROXIES, Advice, advice_for, in_plain_words, servers_in
from sse_starlette._cli._client import Ended, Exchange, decoder
from sse_starlette._cli._doctor import as_json, as_text
from sse_starlette._cli._facts import Facts, Finding, Level
from sse_starlette._cli._findings import findings_of
from sse_starlette._cli._resuming import id_to_resume_from, resuming
from sse_starlette._cli._shown import printable, shown_url
from sse_starlette._cli._tally import Tally, latency_of, shown_ms
from sse_starlette._cli._terminal import Terminal
from sse_starlette.testing import Comment, Cursor, Event, Parsed

# --- What is shown --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://example.org/events", "https://example.org/events"),
        ("https://ann:pass@example.org:81/e", "https://***@example.org:81/e"),
        ("http://h/e?token=abc&room=", "http://h/e?token=***&room=***"),
        ("http://h/e?abc", "http://h/e?abc=***"),
        ("http://h/e?&", "http://h/e?***"),
        ("redis://:pass@h/0", "redis://***@h/0"),
        ("/events?ticket=1", "/events?ticket=***"),
        ("http://[h/e", "***"),
        ("http://h:pass/e", "***"),
        ("h:pass", "***"),
        ("http://h/\x1b[2J", "http://h/\\x1b[2J"),
    ],
)
def test_url_is_shown_without_what_may_be_secret(url: str, shown: str) -> None:
    assert shown_url(url) == shown


def test_text_is_shown_without_what_a_terminal_obeys() -> None:
    assert printable("größe\x1b[31m\n\u202e") == "größe\\x1b[31m\\n\\u202e"


class Screen(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_is_one_line_on_a_terminal_and_gone_before_a_result() -> None:
    screen = Screen()
    terminal = Terminal(screen, screen)

    terminal.progress("a")
    terminal.progress("b")
    terminal.result("done")

    assert screen.getvalue() == "\r\x1b[Ka\r\x1b[Kb\r\x1b[Kdone\n"


@pytest.mark.parametrize(("every_seconds", "shown"), [(3600, ""), (0, "now\n")])
def test_progress_elsewhere_is_a_line_now_and_then(every_seconds: float, shown: str) -> None:
    file = io.StringIO()

    Terminal(io.StringIO(), file, every_seconds=every_seconds).progress("now")

    assert file.getvalue() == shown


# --- What is counted ------------------------------------------------------------------


def event(id_: str, data: str = "", name: str = "message") -> Event:
    return Event(name, data, id_, own_id=bool(id_))


def left_out(ids: str) -> str:
    return f"{ids} left out before this one, by a filter or lost"


GAP_OF_1, GAP_OF_2 = left_out("1 id was"), left_out("2 ids were")
AGAIN = "this id has come before"
ANEW = "the history has begun anew, without a reset"
TOLD = "reset: events are missing before this one"
RESET = event("b.1", name="reset")


@pytest.mark.parametrize(
    ("items", "remarks"),
    [
        (["a.1", "a.2"], {}),
        (["a.1", "a.4"], {1: GAP_OF_2}),
        (["a.1", "a.3"], {1: GAP_OF_1}),
        (["a.1", Cursor("a.3"), "a.4"], {}),
        (["a.1", "a.1"], {1: AGAIN}),
        (["a.1", "b.1"], {1: ANEW}),
        (["a.1", RESET, "b.2"], {1: TOLD}),
        (["a.1-b.5", "a.2-b.5", "a.2-b.6"], {}),
        (["a.1-b.5", "a.1-b.7"], {1: GAP_OF_1}),
        (["", Comment("x"), ""], {}),
        # Numbers count events only where they have been seen to.
        (["1700000000123", "1700000000999"], {}),
        (["1", "2", "3", "6"], {3: GAP_OF_2}),
        (["1", "2", "3", "3"], {3: AGAIN}),
        (["1", "2", "3", "x", "7"], {}),
    ],
)
def test_gaps_are_remarked_where_ids_tell_of_them(
    items: Sequence[Parsed | str], remarks: dict[int, str]
) -> None:
    tally = Tally()

    found = [tally.take(event(item) if isinstance(item, str) else item) for item in items]

    assert {number: remark for number, remark in enumerate(found) if remark} == remarks


def test_summary_names_what_there_was() -> None:
    tally = Tally(latencies=[0.2, 0.001, 1.5])
    for item in (Comment("x"), event("a.1"), event("a.3"), event("a.3"), RESET):
        tally.take(item)

    assert tally.summary(connections=2, seconds=3) == (
        "4 events and 1 comments in 3.0 s; 2 connections; 1 ids left out; 1 ids repeated; 1 resets; "
        "latency 200 ms in the middle, 1.50 s at 95 %, 1.50 s at the most"
    )
    of_nothing = "0 events and 0 comments in 0.0 s; 1 connection"
    assert Tally().summary(connections=1, seconds=0) == of_nothing


@pytest.mark.parametrize(
    ("item", "latency"),
    [
        (Comment("ping - 2001-09-09 01:46:40+00:00"), 1.0),
        (Comment("ping - 2001-09-09 01:46:40.500000+00:00"), 0.5),
        (Comment("ping"), None),
        (Cursor("a.1"), None),
        (event("", '{"at": 1000000000.5}'), 0.5),
        (event("", '{"at": 1000000000500}'), 0.5),
        (event("", '{"at": "2001-09-09T01:46:40Z"}'), 1.0),
        (event("", '{"at": "2001-09-09T01:46:40"}'), 1.0),
        (event("", '{"at": "yesterday"}'), None),
        (event("", '{"at": true}'), None),
        (event("", '{"at": NaN}'), None),
        (event("", '{"when": 1}'), None),
        (event("", "[1]"), None),
        (event("", "no JSON"), None),
        (event("", "[" * 100_000), None),
    ],
)
def test_latency_is_known_where_something_says_when_it_was_made(
    item: Parsed, latency: float | None
) -> None:
    assert latency_of(item, "at", 1_000_000_001.0) == latency


def test_latency_of_data_is_asked_for_by_name() -> None:
    assert latency_of(event("", '{"at": 1}'), None, 2.0) is None


def test_durations_are_milliseconds_below_a_second() -> None:
    assert (shown_ms(0.0124), shown_ms(-0.5), shown_ms(1.234)) == ("12 ms", "-500 ms", "1.23 s")


# --- Coming back ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ids", "first"),
    [([], ""), (["", ""], ""), (["a"], ""), (["a", "a"], ""), (["", "a", "b"], "a")],
)
def test_what_is_resumed_from_is_the_first_id_that_something_came_after(
    ids: list[str], first: str
) -> None:
    assert id_to_resume_from(ids) == first


@pytest.mark.parametrize(
    ("ids", "back", "code"),
    [
        (["", ""], None, "resume-none"),
        (["a.1"], None, "resume-untried"),
        (["a.1", "a.2"], [], "resume-untried"),
        (["a.1", "a.2"], [Comment("ping")], "resume-untried"),
        (["a.1", "a.2"], [Cursor("a.1")], "resume-untried"),
        (["a.1", "a.2"], [RESET], "resume-reset"),
        (["a.1", "a.2"], [event("a.2")], "resume-works"),
        (["a.1", "a.2"], [event("a.1")], "resume"),
        (["a.1", "a.2"], [Cursor("a.9")], "resume"),
        (["a.1", "a.2"], [event("a.9")], "resume"),
    ],
)
def test_coming_back_is_judged_by_what_comes_first(
    ids: list[str], back: list[Parsed] | None, code: str
) -> None:
    level = {"resume": "problem", "resume-works": "ok"}.get(code, "note")

    assert resuming(ids, id_to_resume_from(ids), back)[:2] == (code, level)


# --- Servers and advice ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("headers", "to_garbage", "servers"),
    [
        ({"server": "nginx/1.22.1"}, b"", ["nginx"]),
        ({"server": "Caddy, uvicorn"}, b"", ["Caddy", "uvicorn"]),
        (
            {"via": "1.1 varnish (Varnish/7.1)", "server": "hypercorn"},
            b"",
            ["Varnish", "hypercorn"],
        ),
        ({"x-varnish": "1"}, b"", ["Varnish"]),
        ({"via": "1.1 caddy"}, b"", ["Caddy"]),
        ({"via": "1.1 shop (Apache/2.4)"}, b"", ["Apache"]),
        ({"via": "1.1 a.cloudfront.net (CloudFront)"}, b"", ["CloudFront"]),
        ({"server": "awselb/2.0"}, b"", ["AWS load balancer"]),
        ({"x-envoy-upstream-service-time": "5"}, b"", ["Envoy"]),
        ({"server": "envoy"}, b"", ["Envoy"]),
        ({"server": "istio-envoy"}, b"", ["Envoy"]),
        ({"server": "cloudflare", "cf-ray": "1"}, b"", ["Cloudflare"]),
        ({}, b"HTTP/1.1 400 Bad request\r\n\r\nYour browser sent an invalid request.", ["HAProxy"]),
        ({}, b"HTTP/1.1 400 Bad Request\r\nServer: Apache/2.4\r\n\r\n", ["Apache"]),
        ({}, b"HTTP/1.1 400 Bad Request\r\n\r\n", ["Varnish"]),
        ({}, b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n400 Bad Request", ["Caddy"]),
        ({"server": "something else"}, b"what?", []),
    ],
)
def test_servers_are_recognized_by_headers_and_by_their_own_words(
    headers: dict[str, str], to_garbage: bytes, servers: list[str]
) -> None:
    assert servers_in([headers], to_garbage) == servers
    assert servers_in([headers]) == ([] if to_garbage else servers)


@pytest.mark.parametrize(
    ("error", "told"),
    [
        ("All connection attempts failed", "nothing listens there"),
        ("[Errno -2] Name or service not known", "no host of this name"),
        ("[SSL: CERTIFICATE_VERIFY_FAILED] self-signed certificate", "-k takes any"),
        ("[SSL: WRONG_VERSION_NUMBER] wrong version number", "try http://"),
        ("Server disconnected without sending a response.", "try https://"),
        ("ConnectError", "ConnectError"),
    ],
)
def test_no_connection_is_told_in_plain_words(error: str, told: str) -> None:
    found = in_plain_words(error)

    assert told in found
    assert error.rstrip(".") in found


def test_advice_is_for_the_proxy_that_is_known_or_for_all() -> None:
    url = "https://example.org/live/events?x=1"

    put = ("@rest not path /live/events*", "encode @rest gzip")
    for_caddy = Advice("Caddy", "the site", put, ("encode without @rest",))

    assert advice_for("compressed", url, ["Caddy", "uvicorn"]) == [for_caddy]
    assert {one.server for one in advice_for("cut", url, ["uvicorn"])} == set(PROXIES)
    assert advice_for("head", url, []) == []
    for_apache = Advice("Apache", "the virtual host", ("CacheDisable /",), ())
    assert advice_for("cached", "https://example.org", ["Apache"]) == [for_apache]


@pytest.mark.parametrize("proxy", PROXIES)
def test_there_is_advice_for_each_proxy_on_whatever_proxies_do(proxy: str) -> None:
    codes = ("buffered", "compressed", "cut", "cached", "resume")

    assert [code for code in codes if not advice_for(code, "https://example.org/", [proxy])] == []


def test_contents_are_decoded_piece_by_piece_where_they_can_be() -> None:
    packer = zlib.compressobj(wbits=zlib.MAX_WBITS | 16)
    piece = packer.compress(b"data: x\n\n") + packer.flush(zlib.Z_SYNC_FLUSH)
    gzip, plain = decoder("gzip"), decoder("")
    assert gzip is not None
    assert plain is not None

    assert gzip(piece) == b"data: x\n\n"
    assert gzip(b"no gzip at all" * 9) == b""
    assert plain(b"x") == b"x"
    assert decoder("br") is None


# --- Findings -------------------------------------------------------------------------

CONTENT_TYPE = {"content-type": "text/event-stream"}
STREAM = httpx2.Headers({**CONTENT_TYPE, "cache-control": "no-store"})


def stream(*times: float, **changes: object) -> Exchange:
    """A stream of which something came at these times."""
    exchange = Exchange(
        status=200,
        http_version="HTTP/2",
        headers=STREAM,
        headers_at=0.01,
        pieces=[(at, b": x\n\n") for at in times],
        items=[(at, Comment("x")) for at in times],
        ended_at=10.0,
        began=1_000_000_000.0,
    )
    return replace(exchange, **changes)  # type: ignore[arg-type]


def of_pings(*made_and_came: tuple[float, float], **changes: object) -> Exchange:
    began = datetime(2001, 9, 9, 1, 46, 40, tzinfo=UTC)
    items = [(at, Comment(f"ping - {began + timedelta(0, made)}")) for made, at in made_and_came]
    return stream(*(at for _, at in made_and_came), items=items, **changes)


HEAD = stream(headers_at=0.01, ended=Ended.COMPLETE, ended_at=0.01)
NOTHING = Exchange(ended_at=10.0)
ALIVE = stream(0.1, 3, 6, 9)


def answer(status: int, **headers: str) -> Exchange:
    return stream(status=status, headers=httpx2.Headers(headers))


def facts(plain: Exchange, compressed: Exchange | None = None, **changes: object) -> Facts:
    usual = Facts("https://h/events?t=1", 10.0, plain, compressed or plain, HEAD)
    return replace(usual, **changes)  # type: ignore[arg-type]


HAPROXY = b"Your browser sent an invalid request"
ENDED = {"ended": Ended.COMPLETE}
CUT = {"ended": Ended.CUT, "ended_at": 5.0}


def also(**headers: str) -> dict[str, object]:
    """The usual headers, and these."""
    return {
        "headers": httpx2.Headers(
            {**STREAM, **{name.replace("_", "-"): value for name, value in headers.items()}}
        )
    }


GZIP, BROTLI = also(content_encoding="gzip"), also(content_encoding="br")
CORS, CORS_OF_B = (also(access_control_allow_origin=origin) for origin in "*b")
HTML = {"content-type": "text/html"}
COLLECTED = also(content_length="9")
CACHEABLE = {"headers": httpx2.Headers(CONTENT_TYPE)}
NO_HEAD = replace(answer(405), **ENDED)  # type: ignore[arg-type]
DELAYED, LESS_DELAYED = of_pings((1, 1.4), (3, 3.4)), of_pings((1, 1.1), (3, 3.1))

# What was seen, and what is wrong with it.
SEEN: dict[str, tuple[Facts, str]] = {
    "well": (facts(ALIVE), ""),
    "refused": (facts(Exchange(ended=Ended.REFUSED, error="refused")), "unreachable: problem"),
    "204": (facts(answer(204)), "over: problem"),
    "307": (facts(answer(307, location="/x?token=1")), "redirect: problem"),
    "502": (facts(answer(502)), "gateway: problem"),
    "504": (facts(answer(504)), "cut: problem"),
    "401": (facts(answer(401)), "status: problem"),
    "418": (facts(answer(418)), "status: problem"),
    "HTML": (facts(answer(200, **HTML)), "content-type: problem"),
    "no headers, but of HEAD": (facts(NOTHING), "buffered: problem"),
    "no headers at all": (facts(NOTHING, head=NOTHING), "buffered: problem"),
    "no headers, but of the application": (facts(NOTHING, direct=ALIVE), "buffered: problem"),
    "no headers, but compressed": (facts(NOTHING, stream(0.1, **GZIP)), "compressed: problem"),
    "headers and nothing more": (facts(stream()), "silent: problem"),
    "no bytes, but of the application": (facts(stream(), direct=ALIVE), "buffered: problem"),
    "collected": (facts(stream(0.1, **COLLECTED, **ENDED)), "buffered: problem, cut: warning"),
    "headers with bytes": (facts(stream(5, 6, headers_at=5.0)), "late-headers: warning"),
    "bytes come late": (facts(stream(5, 6), direct=stream(0.1, 6)), "buffered: problem"),
    "as from the application": (facts(ALIVE, direct=ALIVE), ""),
    "a silent application": (facts(ALIVE, direct=stream()), ""),
    "pings in a burst": (facts(of_pings((0, 9), (4, 9), (8, 9))), "buffered: problem"),
    "clocks that differ": (facts(of_pings((0, 5), (3, 8))), ""),
    "HAProxy": (facts(of_pings((1, 1.2), (3, 3.2)), to_garbage=HAPROXY), "delayed: warning"),
    "later than from the application": (facts(DELAYED, direct=LESS_DELAYED), "delayed: warning"),
    "nothing compressed": (facts(ALIVE, stream()), "compressed: problem"),
    "compressed and held": (facts(ALIVE, stream(9, **BROTLI)), "compressed: problem"),
    "compressed well": (facts(ALIVE, stream(0.1, 3, 6, 9, **BROTLI)), ""),
    "the other connection failed": (facts(ALIVE, Exchange(ended=Ended.REFUSED)), ""),
    "cut in silence": (facts(stream(0.1, **CUT)), "cut: problem"),
    "cut at last": (facts(stream(0.1, 4, 4.9, **CUT)), "cut: problem"),
    "cut before a byte": (facts(stream(**CUT)), "cut: problem"),
    "the application cuts": (
        facts(stream(0.1, ended=Ended.CUT), direct=stream(0.1, ended=Ended.CUT)),
        "broken: problem",
    ),
    "ended": (facts(stream(9.9, **ENDED)), ""),
    "ended in silence": (facts(stream(0.1, **ENDED)), "cut: warning"),
    "silent for long": (facts(stream(0.1, 50, ended_at=60.0)), "no-pings: warning"),
    "not watched for long enough": (facts(stream(0.1, items=[])), ""),
    "ended before a ping": (facts(stream(9.9, items=[], **ENDED)), ""),
    "a hit": (facts(ALIVE, again=stream(0.1, **also(x_varnish="7 3"))), "cached: problem"),
    "may be cached": (facts(stream(0.1, 5, **CACHEABLE)), "cacheable: warning"),
    "two faults": (facts(stream(0.1, 5, faults=["x", "y"])), "malformed: problem"),
    "one fault": (facts(stream(0.1, 5, faults=["x"])), "malformed: problem"),
    "HEAD hangs": (facts(ALIVE, head=NOTHING), "head: warning"),
    "HEAD goes on": (facts(ALIVE, head=answer(405)), "head: warning"),
    "no HEAD": (facts(ALIVE, head=NO_HEAD), ""),
    "no CORS": (facts(ALIVE, origin="https://a"), "cors: problem"),
    "CORS of another": (
        facts(ALIVE, stream(0.1, 3, 6, **CORS_OF_B), origin="https://a"),
        "cors: problem",
    ),
    "CORS": (facts(ALIVE, stream(0.1, 3, 6, **CORS), origin="https://a"), ""),
    "CORS unasked": (facts(ALIVE, stream(0.1, 3, 6, **CORS)), ""),
    "no ids": (facts(ALIVE, again=ALIVE, resumed_from=""), ""),
}


@pytest.mark.parametrize(("seen", "wrong"), SEEN.values(), ids=SEEN)
def test_facts_mean_what_they_mean(seen: Facts, wrong: str) -> None:
    found = findings_of(seen)

    bad = [f"{f.code}: {f.level.value}" for f in found if f.level in {Level.WARNING, Level.PROBLEM}]
    assert ", ".join(sorted(bad)) == wrong
    assert all(f.text[-1] in ".?)" for f in found)


def test_report_says_what_to_change_and_no_secret() -> None:
    seen = facts(stream(0.1, **CUT, http_version="HTTP/1.1"), to_garbage=HAPROXY)
    found = findings_of(seen)

    text = as_text(seen, found)

    assert "seen on the way: HAProxy" in text
    put = "HAProxy, the backend (or listen) section:\n             put     timeout server 1h"
    assert put in text
    assert "t=1" not in text
    assert text.endswith("1 problem")
    told = json.loads(as_json(seen, found))
    assert (told["ok"], told["url"]) == (False, "https://h/events?t=***")
    (cut,) = [each for each in told["findings"] if each["code"] == "cut"]
    assert cut["advice"][0]["put"] == ["timeout server 1h", "timeout client 1h"]


def test_report_names_all_proxies_if_none_shows() -> None:
    seen = facts(stream(0.1, 1, **CUT))

    text = as_text(seen, findings_of(seen))

    assert "Which proxy it is doesn't show" in text
    assert all(f"{name}, " in text for name in PROXIES)


def test_report_blames_no_proxy_where_the_application_itself_answers() -> None:
    of_uvicorn = b"HTTP/1.1 400 Bad Request\r\n\r\nInvalid HTTP request received."
    seen = facts(stream(0.1, 1, **CUT), to_garbage=of_uvicorn)

    text = as_text(seen, findings_of(seen))

    assert "no proxy is on the way: uvicorn itself answers" in text
    assert not any(f"{name}, " in text for name in PROXIES)


def test_report_of_what_is_well_is_short() -> None:
    text = as_text(facts(ALIVE), [Finding("answer", Level.OK, "Answers.")])

    assert text == "https://h/events?t=***\n  ok       Answers.\nnothing is wrong with it"


def test_report_counts() -> None:
    levels = [Level.PROBLEM, Level.WARNING, Level.WARNING]
    found = [Finding("code", level, "Text.") for level in levels]

    assert as_text(facts(ALIVE), found).endswith("1 problem and 2 warnings")
