"""The command line: what is asked for, what is wrong with it, and which command does it."""

from __future__ import annotations

import argparse
import os
import re
import sys
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, NoReturn
from urllib.parse import urlsplit

import anyio

from .. import __version__
from ..errors import ChannelClosed, LogRefused, LogUnavailable
from ._hub import publish, stats
from ._shown import shown_url
from ._terminal import Terminal

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ._client import Target

INTERRUPTED = 130
"""What shells return for a program that Ctrl+C has ended."""
BROKEN_PIPE = 141
USAGE = 2


class _WrongUsageError(Exception):
    """What was asked for can't be done; the text says why."""


class _Parser(argparse.ArgumentParser):
    """A parser whose errors repeat no argument: it may be a password."""

    def error(self, message: str) -> NoReturn:
        named, _, rest = message.partition(":")
        if named == "unrecognized arguments":
            given = [word.partition("=")[0] for word in rest.split() if word.startswith("-")]
            message = f"unrecognized arguments{': ' if given else ''}{' '.join(given)}"
        message = re.sub(r"invalid choice: .* \(choose", "invalid choice (choose", message)
        super().error(message)


def main(arguments: Sequence[str] | None = None, terminal: Terminal | None = None) -> int:
    """
    Run a command; the exit code.

    0: done, and nothing is wrong. 1: something is, or it couldn't be done. 2: the arguments are. 130: Ctrl+C.
    """
    parser = _parser()
    options, rest = parser.parse_known_args(arguments)
    if options.command == "stats" and not any(word.startswith("-") for word in rest):
        options.channels += rest  # argparse takes no list that an option cuts in two.
    elif rest:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    terminal = terminal or Terminal()
    try:
        return _COMMANDS[options.command](options, terminal)
    except KeyboardInterrupt:
        terminal.clear()
        return INTERRUPTED
    except BrokenPipeError:
        # As in `tail … | head`. Python would flush what is left, and complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    except _WrongUsageError as exc:
        terminal.say(f"sse_starlette {options.command}: {exc}")
        return USAGE
    except (ChannelClosed, LogRefused, LogUnavailable) as exc:
        terminal.say(f"sse_starlette {options.command}: {exc}")
        return 1


def _tail(options: argparse.Namespace, terminal: Terminal) -> int:
    target = _target(options)
    from ._tail import Tail, TailOptions  # noqa: PLC0415  (needs the extra, see _target)

    how = TailOptions(
        last_event_id=options.last_event_id,
        once=options.once,
        count=options.count,
        comments=options.comments,
        as_json=options.json,
        latency=options.latency,
    )
    return anyio.run(Tail(target, how, terminal).run)


def _doctor(options: argparse.Namespace, terminal: Terminal) -> int:
    target = _target(options)
    from ._doctor import DoctorOptions, doctor  # noqa: PLC0415  (needs the extra, see _target)

    if options.direct is not None:
        _check_url(options.direct)
    how = DoctorOptions(
        wait=options.wait, direct=options.direct, origin=options.origin, as_json=options.json
    )
    return anyio.run(doctor, target, how, terminal)


def _publish(options: argparse.Namespace, terminal: Terminal) -> int:
    return _with_hub(
        partial(
            publish,
            options.url,
            options.channel,
            options.data,
            event=options.event,
            key=options.key,
            terminal=terminal,
        )
    )


def _stats(options: argparse.Namespace, terminal: Terminal) -> int:
    job = partial(stats, options.url, options.channels, as_json=options.json, terminal=terminal)
    return _with_hub(partial(anyio.run, job))


def _with_hub(command: Callable[[], int]) -> int:
    """Run what is given a hub's URL: one that is wrong, and events that are, are told as they are in a program."""
    try:
        return command()
    except (ImportError, TypeError, ValueError) as exc:
        raise _WrongUsageError(str(exc)) from exc


_COMMANDS = {"tail": _tail, "doctor": _doctor, "publish": _publish, "stats": _stats}


# --- What is asked for ----------------------------------------------------------------


def _target(options: argparse.Namespace) -> Target:
    try:
        from ._client import Target  # noqa: PLC0415  (it needs the extra)
    except ImportError as exc:
        raise _WrongUsageError(
            "an HTTP client is missing, the extra `cli`. From a checkout: pip install '.[cli]'"
        ) from exc

    _check_url(options.url)
    body = _body(options.data)
    method = options.request or ("GET" if body is None else "POST")
    headers = [_header(number, given) for number, given in enumerate(options.header, 1)]
    names = {name.lower() for name, _ in headers}
    if body is not None and "content-type" not in names:
        headers.append(("Content-Type", "application/json"))
    return Target(options.url, method.upper(), tuple(headers), body, options.insecure)


def _check_url(url: str) -> None:
    try:
        parts = urlsplit(url)
        is_right = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_right = False
    if "://" not in url:
        raise _WrongUsageError("a URL begins with http:// or https://, and this one doesn't")
    if not is_right or not url.isprintable() or " " in url:
        raise _WrongUsageError(f"not the URL of a stream, http://… or https://…: {shown_url(url)}")


def _header(number: int, given: str) -> tuple[str, str]:
    name, colon, value = given.partition(":")
    # The value may be a secret, and so may a line without a colon.
    if not colon or not name.strip() or not given.isprintable():
        raise _WrongUsageError(f"header {number} isn't one line of the form 'Name: value'")
    return name.strip(), value.strip()


def _body(given: str | None) -> bytes | None:
    if given is None:
        return None
    if not given.startswith("@"):
        return given.encode()
    try:
        with open(given[1:], "rb") as file:  # noqa: PTH123
            return file.read()
    except OSError as exc:
        raise _WrongUsageError(f"can't read {given[1:]!r}: {exc.strerror}") from exc


def _seconds(given: str) -> float:
    with suppress(ValueError):
        if 0 < (seconds := float(given)) <= _MOST_SECONDS:
            return seconds
    raise argparse.ArgumentTypeError(f"a number of seconds above 0 is needed, got: {given!r}")


def _count(given: str) -> int:
    if given.isdecimal() and int(given) > 0:
        return int(given)
    raise argparse.ArgumentTypeError(f"a number of events, at least 1, is needed, got: {given!r}")


def _id(given: str) -> str:
    if any(each in given for each in "\r\n\0"):
        raise argparse.ArgumentTypeError(f"an id is one line, got: {given!r}")
    return given


_MOST_SECONDS = 86_400


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="python -m sse_starlette", description="Reads, examines and feeds event streams."
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")

    tail = commands.add_parser(
        "tail", help="read a stream, come back when it breaks, and show ids, latencies and gaps"
    )
    _add_request(tail)
    tail.add_argument("--last-event-id", type=_id, default="", metavar="ID", help="begin after it")
    tail.add_argument("--once", action="store_true", help="don't come back")
    tail.add_argument("-n", "--count", type=_count, help="stop after so many events")
    tail.add_argument("--comments", action="store_true", help="show comments and bare ids, too")
    tail.add_argument(
        "--latency", metavar="FIELD", help="of JSON data: when it was made, Unix time or ISO 8601"
    )
    tail.add_argument("--json", action="store_true", help="one JSON object for each line")

    doctor = commands.add_parser(
        "doctor", help="find out whether a stream really streams, and what to change if it doesn't"
    )
    _add_request(doctor)
    doctor.add_argument(
        "--wait", type=_seconds, default=40.0, metavar="SECONDS", help="to watch it; default: 40"
    )
    doctor.add_argument(
        "--direct", metavar="URL", help="the same stream at the application itself, to compare"
    )
    doctor.add_argument("--origin", help="of pages that are to read it: https://app.example.org")
    doctor.add_argument("--json", action="store_true", help="the report as JSON")

    to_publish = commands.add_parser("publish", help="publish to a channel of a hub")
    to_publish.add_argument("url", help="of the hub's event log: redis://…, sqlite:///…")
    to_publish.add_argument("channel")
    to_publish.add_argument(
        "data", help="of the event; -: an event for each line of standard input"
    )
    to_publish.add_argument("--event", help="the type of the event")
    to_publish.add_argument("--key", help="don't publish again what was published with this key")

    figures = commands.add_parser("stats", help="show the channels of a hub's event log")
    figures.add_argument("url", help="redis://…, sqlite:///…")
    figures.add_argument("channels", nargs="*", metavar="channel", help="default: all")
    figures.add_argument("--json", action="store_true", help="as JSON")
    return parser


def _add_request(command: argparse.ArgumentParser) -> None:
    command.add_argument("url", help="of the stream")
    command.add_argument(
        "-H",
        "--header",
        action="append",
        default=[],
        metavar="'NAME: VALUE'",
        help="of the request",
    )
    command.add_argument("-X", "--request", metavar="METHOD", help="default: GET; POST with -d")
    command.add_argument("-d", "--data", metavar="BODY", help="of the request; @FILE: from a file")
    command.add_argument(
        "-k", "--insecure", action="store_true", help="take any certificate of the server"
    )
