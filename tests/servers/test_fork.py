"""Workers that are forked after the hub was made, as gunicorn does with `--preload`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest
from tests.servers.going_down import gunicorn, started
from tests.servers.reading import sse


@pytest.fixture
def url(tmp_path: Path) -> Iterator[str]:
    options = ("--preload", "--workers", "2", "-k", "uvicorn.workers.UvicornWorker")
    ready = ("Application startup complete", 2)
    with started(gunicorn("", *options, app="forked:app", ready_when=ready), tmp_path) as server:
        yield server.url


def publish_in_each(url: str, text: str) -> dict[int, str]:
    """Publish until both workers have done it once at least; return the first id of each."""
    ids: dict[int, str] = {}
    while len(ids) < 2:
        # A new connection each time: any of the workers takes it.
        told = httpx2.post(f"{url}/publish", params={"text": text}, trust_env=False).json()
        ids.setdefault(told["worker"], told["id"])
    return ids


def first_event(url: str, last_event_id: str) -> tuple[int, httpx2.ServerSentEvent]:
    with sse(f"{url}/stream", headers={"last-event-id": last_event_id}) as source:
        return int(source.response.headers["x-worker"]), next(each for each in source if each.data)


def test_client_that_comes_back_to_another_worker_is_told_and_gets_nobody_elses_events(
    url: str,
) -> None:
    ids = publish_in_each(url, "first")
    publish_in_each(url, "second")
    epochs = {worker: event_id.partition(".")[0] for worker, event_id in ids.items()}
    assert len(set(epochs.values())) == 2
    (home, last), *_ = ids.items()

    seen: dict[bool, httpx2.ServerSentEvent] = {}
    while len(seen) < 2:
        worker, event = first_event(url, last)
        seen[worker == home] = event

    assert seen[True].data in ("first", "second")
    assert seen[True].id.startswith(epochs[home])
    assert seen[False].event == "reset"
    assert json.loads(seen[False].data)["reason"] == "epoch"


def test_new_client_of_any_worker_gets_what_was_published_before_the_fork(url: str) -> None:
    seen: dict[int, httpx2.ServerSentEvent] = {}
    while len(seen) < 2:
        worker, event = first_event(url, "")
        seen[worker] = event

    assert {event.data for event in seen.values()} == {"before the fork"}
    assert len({event.id for event in seen.values()}) == 2
