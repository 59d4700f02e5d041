"""The commands of `python -m sse_starlette`, on applications in memory and files."""

from __future__ import annotations

import io
import json
import re
import runpy
import shlex
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import anyio
import httpx2
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route
from tests.unit.driving import SEAT_BELT_SECONDS, on

from sse_starlette import EventSourceResponse, Hub, __version__
from sse_starlette._cli import _arguments, _client, _doctor, main
from sse_starlette._cli._client import Ended, Exchange, Target, watch
from sse_starlette._cli._doctor import DoctorOptions, doctor, examine
from sse_starlette._cli._tail import Tail, TailOptions
from sse_starlette._cli._terminal import Terminal
from sse_starlette.testing import StreamingASGITransport

URL = "http://testserver"
pytestmark = pytest.mark.anyio


@pytest.fixture(params=[on("asyncio"), on("uvloop")])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    """The commands run on asyncio; old versions of httpx2 leave generators behind, which trio doesn't like."""
    backend: tuple[str, dict[str, Any]] = request.param
    return backend


class Printed:
    """What a command has printed."""

    def __init__(self) -> None:
        self.out, self.err = io.StringIO(), io.StringIO()
        self.terminal = Terminal(self.out, self.err)

    @property
    def results(self) -> list[str]:
        return self.out.getvalue().splitlines()

    @property
    def remarks(self) -> list[str]:
        return self.err.getvalue().splitlines()


def serving(*routes: Route) -> StreamingASGITransport:
    return StreamingASGITransport(Starlette(routes=list(routes)), raise_app_exceptions=False)


async def tail(
    *answers: Any, target: dict[str, Any] | None = None, **options: Any
) -> tuple[int, Printed]:
    """
    Follow what a transport gives, or a server that answers so to one request after the other.

    It comes back at once.
    """
    asked.clear()
    printed = Printed()
    transport = answers[0] if isinstance(answers[0], httpx2.AsyncBaseTransport) else None
    how = TailOptions(**options, retry=0.0, first_pause=0.0)
    following = Tail(Target(f"{URL}/events", **(target or {})), how, printed.terminal)
    with anyio.fail_after(SEAT_BELT_SECONDS):
        return await following.run(transport or serving(answering(*answers))), printed


def of(*events: object, **options: Any) -> Callable[[Request], Any]:
    """A stream of these events, which then ends."""

    async def endpoint(request: Request) -> EventSourceResponse:
        return EventSourceResponse(list(events), ping=0, **options)

    return endpoint


def answering(*answers: Response | Callable[[Request], Any]) -> Route:
    """A route that answers so, one after the other, and with 204 from then on; see `asked`."""
    left = list(answers)

    async def endpoint(request: Request) -> Response:
        asked.append(request)
        answer = left.pop(0) if left else Response(status_code=204)
        return answer if isinstance(answer, Response) else await answer(request)

    return Route("/events", endpoint, methods=["GET", "POST"])


asked: list[Request] = []

FOR_GOOD = "500 Internal Server Error: an EventSource gives up for good at this"
NOT_FOUND = "404 Not Found: that is no stream; there's nothing at this path"
NO_STREAM = "which is not text/event-stream: that is no event stream"
GIVES_UP = "a browser would give up here; again in 0.0 s"


# --- tail -----------------------------------------------------------------------------


async def test_tail_shows_events_with_their_ids() -> None:
    events = ({"id": 1, "data": "a\x1b[2J\nb"}, {"event": "tick", "data": "c"}, {"comment": "x"})

    code, printed = await tail(of(*events))

    assert code == 0
    assert [line.split(" ", 2)[2] for line in printed.results] == [
        "message id=1 a\\x1b[2J\\nb",
        "tick c",
    ]
    assert printed.remarks[0] == "== connected, HTTP/1.1"
    assert printed.remarks[-2] == "== 204: the stream is over, and a browser would not come back"
    summary = re.fullmatch(
        r"== 2 events and 1 comments in (\S+) s; 1 connection", printed.remarks[-1]
    )
    assert summary
    assert float(summary[1]) < SEAT_BELT_SECONDS


async def test_tail_comes_back_with_the_last_id_after_the_time_that_it_was_told() -> None:
    first, second = of({"id": "sieben ü", "data": "a", "retry": 10}), of({"data": "b"})

    _, printed = await tail(first, second, last_event_id="before")

    sent = [dict(request.headers.raw).get(b"last-event-id") for request in asked]
    assert sent == [b"before", "sieben ü".encode(), "sieben ü".encode()]
    assert "== the stream has ended; coming back in 0.01 s" in printed.remarks
    assert "== connected after before, HTTP/1.1" in printed.remarks


async def test_tail_shows_comments_and_bare_ids_if_asked() -> None:
    events = ({"comment": "ping - 2001-09-09 01:46:40+00:00"}, b"id: 7\n\n", {"data": "x"})

    _, printed = await tail(of(*events), comments=True, once=True)

    shown = [line.split(" ", 2)[2] for line in printed.results]
    assert shown[0].endswith(" s) :ping - 2001-09-09 01:46:40+00:00")
    assert shown[1:] == ["id=7", "message x"]


async def test_tail_as_json_is_an_object_for_each_line() -> None:
    events = (
        {"id": "a.1", "event": "tick", "data": '{"at": 1}'},
        {"id": "a.3", "data": "x"},
        {"comment": "c"},
        b"id: a.4\n\n",
        {"event": "none"},
    )

    _, printed = await tail(of(*events), comments=True, as_json=True, once=True, latency="at")

    told = [json.loads(line) for line in printed.results]
    for each in told:
        assert each.pop("at").endswith("+00:00")
        assert each.pop("since") >= 0
    assert told[0].pop("latency") > 1_000_000_000
    assert told == [
        {"event": "tick", "data": '{"at": 1}', "id": "a.1"},
        {
            "event": "message",
            "data": "x",
            "id": "a.3",
            "remark": "1 id was left out before this one, by a filter or lost",
        },
        {"comment": "c"},
        {"id": "a.4"},
    ]


async def test_tail_shows_remarks() -> None:
    events = ({"id": "a.1", "data": "x"}, {"id": "a.1", "data": "y"})

    _, printed = await tail(of(*events), once=True)

    assert printed.results[-1].endswith("y <- this id has come before")


async def test_tail_stops_after_so_many_events() -> None:
    code, printed = await tail(of({"data": 1}, {"data": 2}), count=1)

    assert (code, len(printed.results)) == (0, 1)


async def test_tail_posts_what_it_is_given() -> None:
    async def echo(request: Request) -> EventSourceResponse:
        body = await request.body()
        return EventSourceResponse([{"data": body, "event": request.headers["x-key"]}], ping=0)

    post = {"method": "POST", "body": b"hello", "headers": (("X-Key", "k"),)}
    _, printed = await tail(echo, target=post, once=True)

    assert printed.results[0].endswith("k hello")


class Broken(httpx2.AsyncBaseTransport):
    """No server is there at first, or one that breaks off after a while; later it has nothing more to say."""

    def __init__(self, *pieces: bytes, headers: dict[str, str] | None = None) -> None:
        self._asked = 0
        self._pieces = pieces
        self._headers = headers or {"content-type": "text/event-stream"}

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        if not self._pieces:
            self._asked += 1
            if self._asked > 1:
                return httpx2.Response(204)
            raise httpx2.ConnectError("")

        async def body() -> AsyncIterator[bytes]:
            pieces, self._pieces = self._pieces, ()
            for piece in pieces:
                yield piece
            raise httpx2.ReadError("broken \x1b")

        return httpx2.Response(200, headers=self._headers, content=body())


@pytest.mark.parametrize(
    ("answer", "once", "remark"),
    [
        (Response(status_code=400), False, "400 Bad Request: that is no stream"),
        (Response(status_code=404), False, NOT_FOUND),
        (PlainTextResponse("x"), False, f"text/plain; charset=utf-8, {NO_STREAM}"),
        (Response("x"), False, f"no content type, {NO_STREAM}"),
        (Response(status_code=500), True, FOR_GOOD),
    ],
)
async def test_tail_ends_at_what_is_no_stream(answer: Any, once: bool, remark: str) -> None:
    code, printed = await tail(answer, once=once)

    assert (code, printed.remarks) == (1, [f"== {remark}"])


async def test_tail_comes_back_after_an_error_of_the_server() -> None:
    refused = Response(status_code=503, headers={"Retry-After": "0"})

    code, printed = await tail(refused, Response(status_code=500), of("x"))

    assert code == 0
    assert printed.remarks[0] == f"== 503 Service Unavailable; {GIVES_UP}"
    assert printed.remarks[1] == f"== 500 Internal Server Error; {GIVES_UP}"
    assert len(printed.results) == 1


@pytest.mark.parametrize(
    ("asked_for", "least", "most"),
    [
        ("17", 17, 17),
        (" 17 ", 17, 17),
        ("99999", 3600, 3600),
        ("9" * 5_000, 8, 12),
        ("7", 8, 12),
        ("-1", 8, 12),
        ("soon", 8, 12),
        ("Fri, 31 Dec 9999 23:59:59 GMT", 3600, 3600),
        ("Fri, 31 Dec 9999 23:59:59 -0000", 3600, 3600),
        ("Sun, 06 Nov 1994 08:49:37 GMT", 8, 12),
        (f"Sun, 06 Nov {'9' * 20} 08:49:37 GMT", 8, 12),
    ],
)
async def test_tail_waits_as_long_as_a_server_asks_it_to_and_says_so(
    asked_for: str, least: float, most: float
) -> None:
    printed, how = Printed(), TailOptions(retry=10.0)
    busy = httpx2.Response(429, headers={"Retry-After": asked_for})

    pause = Tail(Target(URL), how, printed.terminal)._judge(busy)

    assert pause is not None
    assert least <= pause <= most
    assert printed.remarks[0].endswith(f"again in {pause:.1f} s")


async def test_tail_follows_a_redirect_of_the_same_server() -> None:
    async def here(request: Request) -> EventSourceResponse:
        return EventSourceResponse([{"data": f"{request.method} {await request.body()!r}"}], ping=0)

    def moved(to: str, status: int) -> StreamingASGITransport:
        elsewhere = Route("/here", here, methods=["GET", "POST"])
        return serving(answering(RedirectResponse(to, status)), elsewhere)

    post = {"method": "POST", "body": b"x"}
    code, kept = await tail(moved("/here?t=1", 307), target=post, once=True)
    _, changed = await tail(moved("/here", 303), target=post, once=True)

    assert code == 0
    assert kept.results[0].endswith("POST b'x'")
    assert kept.remarks[0] == "== 307: moved to http://testserver/here?t=***"
    assert changed.results[0].endswith("GET b''")


async def test_tail_takes_nothing_to_another_server() -> None:
    code, printed = await tail(RedirectResponse("http://elsewhere/x?t=1"))

    told = "== 307: moved to http://elsewhere/x?t=***, another server: ask there"
    assert (code, printed.remarks) == (1, [told])


async def test_tail_does_not_follow_redirects_for_ever() -> None:
    code, printed = await tail(*[RedirectResponse("/events")] * 11)

    assert code == 1
    assert printed.remarks[-1] == f"== 10 redirects, the last one to {URL}/events"


async def test_tail_ends_if_no_server_is_there_at_first() -> None:
    code, printed = await tail(Broken())

    assert (code, printed.remarks) == (1, [f"== no connection to {URL}/events: ConnectError"])


async def test_tail_comes_back_after_a_connection_that_broke() -> None:
    _, printed = await tail(Broken(b"data: x\n\n"))

    assert len(printed.results) == 1
    assert "== the connection broke: broken \\x1b; again in 0.0 s" in printed.remarks
    assert "== the connection broke: ConnectError; again in 0.0 s" in printed.remarks


async def test_tail_that_is_to_read_once_ends_where_it_breaks() -> None:
    code, printed = await tail(Broken(b"data: x\n\n"), once=True)

    assert (code, printed.remarks[1]) == (1, "== the connection broke: broken \\x1b")


async def test_tail_ends_at_what_cannot_be_read() -> None:
    code, printed = await tail(Broken(b"data: " + b"x" * 20), target={"most_event_bytes": 10})

    assert code == 1
    assert printed.remarks[1].startswith("== the stream can't be read: 26 bytes without")


# --- doctor ---------------------------------------------------------------------------


async def numbers(request: Request) -> EventSourceResponse:
    async def source() -> AsyncIterator[dict[str, Any]]:
        for number in (1, 2, 3):
            yield {"id": number, "data": number}
            await anyio.sleep(0.01)
        await anyio.sleep_forever()

    return EventSourceResponse(source(), ping=0.02)


def watching(
    endpoint: Callable[[Request], Any], **options: Any
) -> tuple[Target, DoctorOptions, StreamingASGITransport]:
    target, transport = Target(f"{URL}/events"), serving(Route("/events", endpoint))
    return target, DoctorOptions(**options), transport


async def test_doctor_looks_from_all_sides() -> None:
    printed = Printed()
    direct = f"{URL}/events"
    target, options, transport = watching(
        numbers, wait=3, direct=direct, origin="https://a", as_json=True, progress_every=0.01
    )

    code = await doctor(target, options, printed.terminal, transport)

    told = json.loads(printed.out.getvalue())
    codes = {each["code"]: each["level"] for each in told["findings"]}
    assert code == 1
    assert codes["answer"] == codes["first-bytes"] == codes["pings"] == codes["head"] == "ok"
    assert codes["cors"] == codes["resume"] == "problem"  # The same events come again.
    assert (told["status"], told["ended"]) == (200, "open")


async def test_doctor_is_content_with_what_is_well() -> None:
    printed = Printed()
    channel = Hub().channel("c")
    await channel.publish("x")

    async def subscribe(request: Request) -> EventSourceResponse:
        return EventSourceResponse(channel.subscribe(request), ping=0.02)

    target, options, transport = watching(subscribe, wait=3)
    code = await doctor(target, options, printed.terminal, transport)

    assert (code, printed.results[-1]) == (0, "nothing is wrong with it")


async def test_doctor_shows_what_it_waits_for() -> None:
    shown = []

    class Watching(Terminal):
        def progress(self, line: str) -> None:
            shown.append(line.partition(", ")[2])
            if line.endswith("no headers yet"):
                silent.set()
            elif line.endswith("no bytes yet"):
                spoken.set()
            elif line.endswith("1 pieces so far"):
                seen_all.cancel()

    silent, spoken = anyio.Event(), anyio.Event()
    seen_all = anyio.CancelScope()

    async def slow(request: Request) -> EventSourceResponse:
        await silent.wait()

        async def source() -> AsyncIterator[str]:
            await spoken.wait()
            yield "x"
            await anyio.sleep_forever()

        return EventSourceResponse(source(), ping=0)

    target, options, transport = watching(slow, wait=60, progress_every=0.0)
    with seen_all:
        await examine(target, options, Watching(io.StringIO(), io.StringIO()), transport)

    assert {"no headers yet", "200, no bytes yet", "200, 1 pieces so far"} <= set(shown)


async def not_found(request: Request) -> Response:
    return Response(status_code=404)


async def test_doctor_does_not_come_back_to_what_never_came() -> None:
    target, options, transport = watching(not_found, wait=0.1)

    facts = await examine(target, options, Printed().terminal, transport)

    assert (facts.plain.status, facts.again) == (404, None)


async def test_what_floods_is_watched_no_longer() -> None:
    target, options, transport = watching(numbers, wait=60, most_pieces=1)

    facts = await examine(target, options, Printed().terminal, transport)

    assert len(facts.plain.pieces) == 1


async def watched(transport: httpx2.AsyncBaseTransport, **options: Any) -> Exchange:
    target = Target(URL, **options)
    async with _client.new_client(target, transport) as client:
        return await watch(client, target, until=SEAT_BELT_SECONDS)


async def test_an_exchange_tells_how_it_ended() -> None:
    refused = await watched(Broken())
    cut = await watched(Broken(b"data: x\n\n"))

    assert (refused.ended, refused.error) == (Ended.REFUSED, "ConnectError")
    assert (cut.ended, cut.error, len(cut.items)) == (Ended.CUT, "broken \\x1b", 1)
    assert cut.headers_at is not None
    assert cut.first_at is not None
    assert 0 <= cut.headers_at <= cut.first_at <= cut.ended_at < SEAT_BELT_SECONDS


async def test_what_cannot_be_unpacked_is_only_timed() -> None:
    headers = {"content-type": "text/event-stream", "content-encoding": "br"}

    seen = await watched(Broken(b"?", headers=headers))

    assert (seen.encoding, len(seen.pieces), seen.items) == ("br", 1, [])


async def test_an_event_without_end_is_a_fault() -> None:
    seen = await watched(Broken(b"data: " + b"x" * 20), most_event_bytes=10)

    assert len(seen.faults) == 1


@pytest.mark.parametrize("answer", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"x" * 5000, None])
async def test_the_foremost_server_is_asked_something_that_is_no_request(
    answer: bytes | None,
) -> None:
    async def handle(connection: anyio.abc.SocketStream) -> None:
        async with connection:
            if answer is not None:
                await connection.receive()
                await connection.send(answer)

    async with (
        await anyio.create_tcp_listener(local_host="127.0.0.1") as listener,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(listener.serve, handle)
        port = listener.extra(anyio.abc.SocketAttribute.local_port)
        targets = [Target(f"http://127.0.0.1:{port}")]
        targets += [Target(f"https://127.0.0.1:{port}", insecure=each) for each in (True, False)]
        found, *over_tls = [await _doctor._answer_to_garbage(target) for target in targets]
        tasks.cancel_scope.cancel()

    assert found == (answer or b"")[: len(found)]
    assert bool(found) == (answer is not None)
    assert over_tls == [b"", b""]


# --- publish and stats ----------------------------------------------------------------


def run(*arguments: str) -> tuple[int, Printed]:
    printed = Printed()
    return main(arguments, printed.terminal), printed


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/events.db"


def test_publish_prints_the_id_and_stats_where_a_channel_stands(url: str) -> None:
    code, printed = run("publish", url, "prices", "12.5", "--event", "tick", "--key", "k")
    assert run("publish", url, "prices", "12.5", "--key", "k")[1].results == printed.results
    _, told = run("stats", url)
    _, as_json = run("stats", url, "--json", "prices")

    (event_id,) = printed.results
    assert code == 0
    assert event_id.endswith(".1")
    size = len("event: tick\r\ndata: 12.5\r\n\r\n")
    assert [line.split() for line in told.results] == [
        ["channel", "last", "id", "kept", "bytes"],
        ["prices", event_id, "1", str(size)],
    ]
    (figures,) = json.loads(as_json.out.getvalue()).values()
    assert (figures["last_id"], figures["kept"], figures["closed"]) == (event_id, 1, False)


def test_publish_reads_lines(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO("ä\nb\r\n\n".encode()), "ascii"))

    code, printed = run("publish", url, "lines", "-")

    assert code == 0
    assert [line.partition(".")[2] for line in printed.results] == ["1", "2", "3"]


def test_publish_stops_at_what_is_no_text(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"a\n\xff\nb\n")))

    code, printed = run("publish", url, "lines", "-")

    assert (code, len(printed.results)) == (1, 1)
    assert printed.remarks[0].startswith("line 2 of standard input isn't UTF-8")
    assert run("publish", url, "lines", "\udcff")[1].remarks[0].startswith("the data isn't UTF-8")


def test_stats_tells_of_a_channel_that_is_not_there(url: str) -> None:
    run("publish", url, "closed\nchannel", "x")

    code, printed = run("stats", url, "nobody")

    assert (code, printed.remarks) == (1, ["the event log has no channel 'nobody'"])
    assert run("stats", url)[1].results[1].startswith("closed\\nchannel ")


@pytest.mark.parametrize(
    ("line", "code", "said"),
    [
        ("stats nosuch://user:secret@h", 2, "there's no log for 'nosuch://'"),
        ("publish sqlite:////no/such/folder/x.db c d", 1, "Make its folder"),
        ("publish URL c d --event 'a\nb'", 2, "event holds LF"),
        (
            "tail redis://:secret@h",
            2,
            "not the URL of a stream, http://… or https://…: redis://***@h",
        ),
        ("tail h:8000/events?t=secret", 2, "a URL begins with http:// or https://"),
        ("tail http://h:secret", 2, "not the URL of a stream"),
        ("tail 'http://h/a b'", 2, "not the URL of a stream"),
        ("doctor http://h --direct h:secret", 2, "a URL begins with http"),
        ("tail http://h -H secret", 2, "header 1 isn't one line of the form 'Name: value'"),
        ("tail http://h -H 'A: b' -H 'B: secret\nc'", 2, "header 2 isn't one line"),
        ("tail http://h -d @/no/such/file", 2, "can't read '/no/such/file': No such file"),
        # These, argparse finds.
        ("doctor http://h --wait 0", 2, "a number of seconds above 0 is needed, got: '0'"),
        ("doctor http://h --wait x", 2, "a number of seconds above 0 is needed, got: 'x'"),
        ("tail http://h -n 0", 2, "a number of events, at least 1, is needed, got: '0'"),
        ("tail http://h --last-event-id 'a\nb'", 2, "an id is one line"),
        ("tail http://h --last-event-id 'a\rb'", 2, "an id is one line"),
        ("tail http://h --what=secret secret", 2, "unrecognized arguments: --what"),
        ("tail http://h secret", 2, "unrecognized arguments"),
        ("http://secret", 2, "invalid choice (choose from"),
    ],
)
def test_what_is_wrong_is_told_without_secrets(
    line: str, code: int, said: str, url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    printed = Printed()
    try:
        found: object = main(shlex.split(line.replace("URL", url)), printed.terminal)
    except SystemExit as ended:
        found = ended.code

    told = printed.err.getvalue() + capsys.readouterr().err
    assert found == code
    assert said in told
    assert "secret" not in told


def test_what_is_asked_for_is_what_is_sent(tmp_path: Path) -> None:
    (tmp_path / "body").write_bytes(b"{}")

    def target(line: str) -> Target:
        return _arguments._target(_arguments._parser().parse_args(["tail", *shlex.split(line)]))

    of_json = (("A", "b"), ("Content-Type", "application/json"))
    of_text = (("content-type", "text/plain"),)

    assert target("http://h") == Target("http://h")
    posted = target(f"http://h -d @{tmp_path}/body -H 'A:  b '")
    assert posted == Target("http://h", "POST", of_json, b"{}")
    put = target("http://h -X put -d x -H 'content-type: text/plain' -k")
    assert put == Target("http://h", "PUT", of_text, b"x", insecure=True)


def test_numbers_are_read_as_numbers() -> None:
    parse = _arguments._parser().parse_args

    assert parse(["tail", "http://h", "-n", "2"]).count == 2
    assert parse(["doctor", "http://h", "--wait", "1.5"]).wait == 1.5


# --- The program ----------------------------------------------------------------------


def test_commands_run_to_their_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody listens on port 1."""
    monkeypatch.setenv("NO_PROXY", "*")

    tailed, _ = run("tail", "http://127.0.0.1:1")
    examined, printed = run("doctor", "http://127.0.0.1:1", "--direct", "http://127.0.0.1:1")

    assert (tailed, examined) == (1, 1)
    assert run("doctor", "http://127.0.0.1:1", "--json")[0] == 1
    assert "There is no connection" in printed.out.getvalue()


def test_missing_client_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sse_starlette._cli._client", None)

    code, printed = run("doctor", "http://h")

    assert code == 2
    assert "the extra `cli`. From a checkout: pip install '.[cli]'" in printed.err.getvalue()


def test_ctrl_c_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setitem(_arguments._COMMANDS, "tail", interrupted)

    code, printed = run("tail", "http://h")

    assert (code, printed.err.getvalue()) == (130, "")


def test_a_pipe_that_closes_is_no_error() -> None:
    program = (
        "import sys; from sse_starlette._cli import _arguments as a\n"
        "a._COMMANDS['tail'] = lambda options, terminal: [terminal.result('x' * 99) for _ in range(9**5)]\n"
        "sys.exit(a.main(['tail', 'http://h']))"
    )
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", program], stdout=pipe, stderr=pipe) as running:
        assert running.stdout is not None
        assert running.stderr is not None
        running.stdout.readline()
        running.stdout.close()

        assert running.stderr.read() == b""
        assert running.wait(SEAT_BELT_SECONDS) == 141


def test_broken_pipe_leaves_nothing_to_flush(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def broken(*_: object) -> int:
        raise BrokenPipeError

    monkeypatch.setitem(_arguments._COMMANDS, "tail", broken)
    with (tmp_path / "out").open("w") as file:
        monkeypatch.setattr(sys, "stdout", file)
        assert run("tail", "http://h")[0] == 141
        file.write("gone")
    assert (tmp_path / "out").read_text() == ""


def test_what_the_terminal_cannot_show_is_escaped(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(shown, "ascii"))

    Terminal().result("ü")

    assert shown.getvalue() == b"\\xfc\n"


def test_it_is_run_as_a_module(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["sse_starlette", "--version"])
    runpy.run_module("sse_starlette.__main__")  # Imported, it does nothing.
    assert capsys.readouterr().out == ""

    with pytest.raises(SystemExit) as ended:
        runpy.run_module("sse_starlette", run_name="__main__")

    assert (ended.value.code, capsys.readouterr().out) == (0, f"{__version__}\n")
