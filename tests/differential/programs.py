"""Draws programs at random: what a source does, what an application asked for, what the world does.

A program is plain data, so that it can be printed and run against any version of the package.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

Step = tuple[Any, ...]
Values = tuple[object, ...]

MOMENTS = (0.0, 0.0, 0.0004, 0.001, 0.003, 0.02, 0.3, 1.0, 4.0, 15.0, 31.0)
"""Seconds: about the limits that the package knows, from the turn of a loop to a ping and a cleanup."""

SHAPES: Values = (
    "text",
    "two\nlines",
    "",
    "CR\rLF\n",
    0,
    2.5,
    None,
    b": raw\r\n\r\n",
    b"data: half",
    b" and half\n\n",
    {"data": {"a": [1, None]}},
    {"data": "named", "event": "tick", "id": "7", "retry": 100},
    {"comment": "only a comment"},
    {"id": "only an id"},
    {"data": "x" * 3_000},
    {"data": "y" * 40_000},
    {"nonsense": 1},
    ("a", "tuple"),
)
ERRORS = ("ValueError", "OSError", "CancelledError", "KeyboardLike")
PRODUCERS = ("feeds", "feeds", "feeds", "raises", "waits")
CURSORS = ("none", "last", "older", "future", "other", "nonsense")
PUBLISHED: Values = ("text", "two\nlines", {"data": 1, "event": "tick"}, {"data": "z" * 20_000}, 5)


@dataclass(frozen=True)
class Client:
    """One client: what it is given, and what happens to it."""

    kind: str
    """`generator`, `iterator`, `memory` or `subscription`."""
    steps: tuple[Step, ...]
    """What the source does, or what arguments the subscription has."""
    ending: tuple[Step, ...]
    """What the source does in its cleanup."""
    options: tuple[tuple[str, Any], ...]
    """Arguments of the response."""
    world: tuple[Step, ...]
    """What happens, each at its time."""
    begins: float = 0.0
    method: str = "GET"
    body: bool = False


@dataclass(frozen=True)
class Program:
    """Some clients, and the channel that some of them share."""

    seed: int
    clients: tuple[Client, ...]
    channel: tuple[tuple[str, Any], ...] = ()
    published: tuple[Step, ...] = field(default=())


def draw(seed: int) -> Program:
    """Return the program of this number."""
    dice = random.Random(seed)
    if dice.random() < 0.6:
        kind = dice.choice(("generator",) * 4 + ("iterator", "memory"))
        return Program(seed, (_client(dice, kind, alone=True),))
    number = dice.choice((1, 1, 2, 3))
    clients = tuple(_client(dice, "subscription", alone=number == 1) for _ in range(number))
    return Program(seed, clients, _channel(dice), _published(dice))


def _moment(dice: random.Random) -> float:
    return dice.choice(MOMENTS)


def _client(dice: random.Random, kind: str, *, alone: bool) -> Client:
    return Client(
        kind=kind,
        steps=_subscription(dice) if kind == "subscription" else _steps(dice),
        ending=_ending(dice),
        options=_options(dice, kind, alone=alone),
        world=_events(dice, alone=alone),
        begins=dice.choice((0.0, 0.0, 0.0, 0.5)),
        method=dice.choice(("GET",) * 12 + ("HEAD",)),
        body=dice.random() < 0.1,
    )


def _steps(dice: random.Random) -> tuple[Step, ...]:
    steps: list[Step] = []
    for _ in range(dice.randint(0, dice.choice((1, 3, 8, 40)))):
        roll = dice.random()
        if roll < 0.6:
            steps += [("yield", dice.randrange(len(SHAPES) - (1 if dice.random() < 0.95 else 0)))]
        elif roll < 0.8:
            steps += [("sleep", _moment(dice))]
        elif roll < 0.9:
            steps += [("spend", dice.choice((0.0001, 0.0004, 0.002, 0.02)))]
        elif roll < 0.94:
            steps += [("burst", dice.choice((2, 10, 70, 300)))]
        else:
            steps += [("turn",)]
    roll = dice.random()
    if roll < 0.12:
        steps += [("raise", dice.choice(ERRORS))]
    elif roll < 0.5:
        steps += [("wait",)]
    return tuple(steps)


def _ending(dice: random.Random) -> tuple[Step, ...]:
    roll = dice.random()
    if roll < 0.55:
        return ()
    if roll < 0.8:
        return (("sleep", _moment(dice)),)
    if roll < 0.9:
        return (("raise", "ValueError"),)
    if roll < 0.95:
        return (("swallow",),)
    return (("wait",),)


def _options(dice: random.Random, kind: str, *, alone: bool) -> tuple[tuple[str, Any], ...]:
    options: dict[str, Any] = {"ping": dice.choice((0, 0.5, 5, 15, 15))}
    chances: tuple[tuple[float, str, Values], ...] = (
        (0.2, "send_timeout", (0.02, 1, 5)),
        (0.3, "shutdown_grace_period", (0, 0.02, 1, 5)),
        (0.3, "cleanup_timeout", (0, 0.02, 1, None)),
        (0.2, "first_event_timeout", (0.02, 1, float("inf"))),
        (0.3, "farewell", ("bye", {"event": "bye", "data": ""})),
        (0.1, "farewell", ("raises",)),
        (0.25, "on_error", ("event", "none", "raises", "waits", "awaits")),
        (0.5, "on_close", ("note", "raises", "awaits")),
        (0.3, "background", ("note", "raises")),
        (0.3, "client_close_handler_callable", ("note", "raises")),
        (0.2, "shutdown_event", (True,)),
        # In which order several draw their delays is left open.
        (0.15 if alone else 0, "shutdown_retry_ms", ((100, 5_000),)),
        (0.1, "join_events", (False,)),
        (0.1, "sep", ("\n", "\r")),
        (0.1, "status_code", (201,)),
    )
    if kind == "memory" or (kind == "generator" and dice.random() < 0.05):
        options["data_sender_callable"] = dice.choice(PRODUCERS)
    return _drawn(dice, options, chances)


def _events(dice: random.Random, *, alone: bool) -> tuple[Step, ...]:
    number = dice.choice((0, 1, 1, 2, 4))
    return tuple(sorted((_event(dice, alone=alone) for _ in range(number)), key=repr))


def _event(dice: random.Random, *, alone: bool) -> Step:
    at = round(_moment(dice) * dice.choice((0.5, 1, 1, 1.5)), 6)
    roll = dice.random()
    if roll < 0.3:
        return (at, "leave")
    if roll < 0.45:
        return (at, "cancel")
    if roll < 0.6:
        spread = dice.choice((0, 0, 2 if alone else 0))
        return (at, "drain", dice.choice((None, 0, 0.02, 3)), spread)
    if roll < 0.85:
        return (at, "stall", _moment(dice))
    if roll < 0.92:
        return (at, "break")
    return (at, "spend", dice.choice((0.002, 0.05)))


def _subscription(dice: random.Random) -> tuple[Step, ...]:
    chances: tuple[tuple[float, str, Values], ...] = (
        (0.5, "returns", CURSORS),
        (0.3, "replay", (1, 3, 1_000)),
        (0.2, "after", ("start", 0, 2, 50)),
        (0.2, "filter", ("some", "raises")),
        (0.3, "snapshot", ("list", "generator", "raises", "slow")),
        (0.2, "on_gap", ("list", "raises", "slow")),
        (0.1, "id_blocks", (False,)),
    )
    return _drawn(dice, {}, chances)


def _drawn(
    dice: random.Random, always: dict[str, Any], chances: Sequence[tuple[float, str, Values]]
) -> tuple[tuple[str, Any], ...]:
    """These options, and each of the others with its chance."""
    options = always | {
        name: dice.choice(values) for chance, name, values in chances if dice.random() < chance
    }
    return tuple(sorted(options.items()))


def _channel(dice: random.Random) -> tuple[tuple[str, Any], ...]:
    chances: tuple[tuple[float, str, Values], ...] = (
        (0.2, "history_bytes", (1_000, 30_000)),
        (0.2, "history_seconds", (0.5, 5)),
        (0.5, "slow", ("disconnect", "reset", "latest")),
    )
    return _drawn(dice, {"history": dice.choice((1, 3, 10, 1_000))}, chances)


def _published(dice: random.Random) -> tuple[Step, ...]:
    steps: list[Step] = []
    for _ in range(dice.choice((0, 2, 6, 12))):
        at = round(_moment(dice) * dice.choice((0.5, 1, 1.01, 2)), 6)
        roll = dice.random()
        if roll < 0.6:
            key = dice.choice((None, None, "k", "l"))
            steps += [(at, "publish", dice.randrange(len(PUBLISHED)), key)]
        elif roll < 0.85:
            steps += [(at, "burst", dice.choice((2, 10, 70, 300)))]
        elif roll < 0.95:
            steps += [(at, "await", dice.randrange(len(PUBLISHED)))]
        else:
            steps += [(at, "close")]
    return tuple(sorted(steps, key=lambda step: (step[0], repr(step))))
