"""A ruler without noise: the instructions that an event, a delivery, a stream or an encoded value takes.

valgrind counts them (user mode; what the kernel does is not in it), so a busy machine gives the same
figures as a quiet one. Each is the difference of two lengths, so what is done once is not in it either.
What is compared with what was recorded is our figure as a multiple of bare ASGI's in the same run: how many
instructions the interpreter and the server take is a matter of how they were built.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import platform
import re
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from . import environments as where
from .servers import free_port

RECORDED = Path(__file__).parent / "instructions.json"
WHO = ("ours", "bare", "plain")
TOLERANCE = 1.05
"""What is more than so many times what was recorded has become slower."""
START_SECONDS = 600

TITLES = {
    "encode dict": "encode a small dict",
    "encode text": "encode 20 lines of text, 2 KB",
    "encode json": "encode a small JSON value",
    "token": "an event that comes alone",
    "token, endpoint": "the same, of an EventSourceEndpoint",
    "token, observed": "the same, with metrics",
    "flood": "an event of a source that never waits",
    "flood, observed": "the same, with metrics",
    "queue": "a delivery to 1 of 100, by a queue for each",
    "channel": "a delivery to 1 of 100, by a channel",
    "channel, endpoint": "the same, of an EventSourceEndpoint",
    "channel, observed": "the same, with metrics",
    "stream": "open, one event, close, beside another",
    "stream, endpoint": "the same, of an EventSourceEndpoint",
    "stream, observed": "the same, with metrics",
    "server token": "an event that comes alone, whole server",
    "server stream": "open, one event, close, whole server",
}
TOKEN_STREAMS = 50  # As in counted.py.
DELIVERED = {"token": TOKEN_STREAMS, "server token": TOKEN_STREAMS, "queue": 100, "channel": 100}
"""How many events one more in length is."""

Counts = dict[str, dict[str, float]]
"""Instructions by what is counted and whose they are."""

_DUMP = re.compile(r"^desc: Trigger: Client Request: (.+) (\d+)$", re.MULTILINE)
_TOTAL = re.compile(r"^totals: (\d+)$", re.MULTILINE)


def main(*, record: bool) -> int:
    """Count, print, and compare with what was recorded, or record; return the exit code."""
    where.prepare({"ours", "counter"})
    began = time.monotonic()
    counts: Counts = {}
    with ThreadPoolExecutor(2) as two:
        for who, figures in zip(WHO, two.map(count, WHO), strict=True):
            for name, figure in figures.items():
                counts.setdefault(name, {})[who] = figure
    recorded = json.loads(RECORDED.read_text("utf-8")) if RECORDED.is_file() else {}
    key = f"Python {'.'.join(platform.python_version_tuple()[:2])}, {platform.machine()}"
    known = recorded.get(key, {}).get("counts", {})
    print(f"   instructions, {key}; beside bare ASGI; what was recorded")
    slower = []
    for name in [name for name in TITLES if name in counts]:
        now, before = times_bare(counts, name), times_bare(known, name)
        shown = "  ".join(f"{who} {counts[name].get(who, float('nan')):9,.0f}" for who in WHO)
        beside = f"{now:6.2f}" + (f"  {before:6.2f}  {now / before - 1:+6.1%}" if before else "")
        print(f"   {TITLES[name]:45}{shown}  {beside}", flush=True)
        if before and now > before * TOLERANCE:
            slower.append(f"{TITLES[name]}: {now:.2f} times bare ASGI, {before:.2f} recorded")
    print(f"   {time.monotonic() - began:.0f} s")
    if record:
        recorded[key] = {"versions": versions(), "counts": rounded(counts)}
        RECORDED.write_text(json.dumps(recorded, indent=1, sort_keys=True) + "\n", "utf-8")
        return 0
    if not known:
        print(f"tasks.py bench: NOTHING IS RECORDED for {key}: record it, --instructions --record")
        return 0
    if (then := recorded[key]["versions"]) != versions():
        print(f"   recorded with {then}, this is {versions()}")
    for each in slower:
        print(f"tasks.py bench: more instructions than recorded: {each}")
    return 1 if slower else 0


def times_bare(counts: Counts, name: str) -> float:
    """Our figure as a multiple of bare ASGI's; 0 if that isn't known."""
    ours, bare = counts.get(name, {}).get("ours"), counts.get(kind_of(name), {}).get("bare")
    return ours / bare if ours and bare else 0.0


def kind_of(name: str) -> str:
    """What it is, without the way it's made."""
    return name.partition(",")[0]


def rounded(counts: Counts) -> Counts:
    """Return figures without what is not to be relied on."""
    return {name: {who: round(n) for who, n in by.items()} for name, by in counts.items()}


def versions() -> dict[str, str]:
    """Return what the figures depend on beside our own code."""
    pins = (where.REQUIREMENTS / "ours.txt").read_text("utf-8").splitlines()
    chosen = ("anyio", "httptools", "starlette", "uvicorn", "uvloop")
    found = {name: version for name, _, version in (pin.partition("==") for pin in pins) if version}
    return {
        "Python": platform.python_version(),
        "valgrind": where.run(where.program("valgrind"), "--version").strip(),
        **{name: found[name] for name in chosen},
    }


def count(who: str) -> dict[str, float]:
    """
    Count for one contender.

    Raises:
        UnavailableError: it failed; with what it has printed.
    """
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        folder = Path(name)
        port = free_port()
        with (folder / "log").open("w+") as log:
            process = subprocess.Popen(
                [
                    *(where.program("valgrind"), "-q", "--tool=callgrind", "--instr-atstart=no"),
                    *(f"--callgrind-out-file={folder}/counted", where.OURS / "bin" / "python"),
                    *(where.APPS / "counted.py", who, str(port)),
                ],
                env={
                    **os.environ,
                    # The order of sets of strings, and what is written when: all as in the run before.
                    "PYTHONHASHSEED": "0",
                    "PYTHONDONTWRITEBYTECODE": "1",
                    "PYTHONPATH": str(where.ROOT / "src"),
                    "LD_PRELOAD": str(where.COUNTER),
                },
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
            try:
                wait_for_server(process, port)
                drive(port)
            except (OSError, http.client.HTTPException) as error:
                said = (folder / "log").read_text("utf-8", "replace")[-2000:]
                raise where.UnavailableError(f"counting {who}: {error!r}: {said}") from error
            finally:
                process.send_signal(signal.SIGKILL)
                process.wait()
        return differences(folder)


def wait_for_server(process: subprocess.Popen[bytes], port: int) -> None:
    """
    Wait until all is counted that needs no server, and the server takes connections.

    Raises:
        OSError: it has ended, or takes too long.
    """
    until = time.monotonic() + START_SECONDS
    while process.poll() is None and time.monotonic() < until:
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", port), timeout=5).close()
            return
        time.sleep(0.1)
    raise OSError(f"no server after {START_SECONDS} s, exit code {process.poll()}")


def drive(port: int) -> None:
    """Have the server do what is counted: streams that end, and events on streams that stay."""
    for length in (10, 10, 30):
        order(port, "begin")
        for _ in range(length):
            with requesting(port, "/one") as stream:
                if b"data:" not in stream.read():
                    raise OSError("a stream without an event")
        order(port, f"end/server-stream-{length}")
    with contextlib.ExitStack() as stack:
        streams = [stack.enter_context(requesting(port, "/tokens")) for _ in range(TOKEN_STREAMS)]
        for length in (5, 5, 20):
            order(port, "begin")
            order(port, f"release/{length}")
            order(port, f"end/server-token-{length}")
            for stream in streams:
                for _ in range(length):
                    while b"data:" not in stream.readline():
                        pass


@contextlib.contextmanager
def requesting(port: int, path: str) -> Iterator[http.client.HTTPResponse]:
    """Ask for a path on a connection of its own."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    with contextlib.closing(connection):
        connection.request("GET", path)
        yield connection.getresponse()


def order(port: int, what: str) -> None:
    """Have the counted program do something."""
    with requesting(port, f"/control/{what}") as answer:
        answer.read()


def differences(folder: Path) -> dict[str, float]:
    """Return what one more costs, of all that was counted at two lengths."""
    totals: dict[str, dict[int, int]] = {}
    dumps = [each for each in folder.glob("counted.*") if each.suffix[1:].isdigit()]
    for dump in sorted(dumps, key=lambda each: int(each.suffix[1:])):
        text = dump.read_text("utf-8", "replace")
        what, total = _DUMP.search(text), _TOTAL.search(text)
        if what and total:
            # The first of a length was the warm-up.
            totals.setdefault(what[1], {})[int(what[2])] = int(total[1])
    found = {}
    for name, by_length in totals.items():
        (short, few), (long, many) = sorted(by_length.items())
        found[name] = (many - few) / (long - short) / DELIVERED.get(kind_of(name), 1)
    return found
