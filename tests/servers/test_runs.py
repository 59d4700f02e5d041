"""Runs with real processes: reloaded, started twice at once, their makers killed and stopped."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

import pytest
from tests.servers.run_proofs import (
    KINDS,
    lose_producer,
    processes,
    reload_in_mid_answer,
    start_at_once,
)

LEASE = 1.0
"""Seconds: the tests that wait for one to be lost wait so long."""


@pytest.mark.parametrize("kind", KINDS)
def test_an_answer_that_is_reloaded_elsewhere_is_the_same_and_made_once(
    kind: str, tmp_path: Path
) -> None:
    with processes(kind, 2, tmp_path) as of:
        assert asyncio.run(reload_in_mid_answer(of, 10)) > 0


@pytest.mark.parametrize("kind", KINDS)
def test_two_processes_that_start_it_at_once_make_it_once(kind: str, tmp_path: Path) -> None:
    with processes(kind, 2, tmp_path) as of:
        asyncio.run(start_at_once(of, 20))


@pytest.mark.slow
@pytest.mark.parametrize("way", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "stopped"])
@pytest.mark.parametrize("kind", KINDS[1:])
def test_the_clients_of_a_producer_that_vanishes_are_told_and_it_may_be_started_again(
    kind: str, way: signal.Signals, tmp_path: Path
) -> None:
    with processes(kind, 3, tmp_path, lease=LEASE) as of:
        asyncio.run(lose_producer(of, "lost", way, 4))
