"""Workers that are forked after the hub was made, as gunicorn does with `--preload`."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator

import httpx2
import pytest
from tests.servers.serving import APPS, Program


@pytest.fixture
def url() -> Iterator[str]:
    command = [sys.executable, "-m", "gunicorn", "--preload", "--workers", "2"]
    command += ["--worker-class", "uvicorn.workers.UvicornWorker", "--bind", "127.0.0.1:0"]
    with Program([*command, "--chdir", str(APPS), "forked:app"]) as server:
        port = server.wait_for_line(r"Listening at: http://127.0.0.1:(\d+)")[1]
        for _ in range(2):
            server.wait_for_line("Application startup complete")
        yield f"http://127.0.0.1:{port}"


def publish_in_each(url: str, text: str) -> dict[int, str]:
    """Publish until both workers have done it once at least; return the first id of each."""
    ids: dict[int, str] = {}
    while len(ids) < 2:
        # A new connection each time: any of the workers takes it.
        told = httpx2.post(f"{url}/publish", params={"text": text}, trust_env=False).json()
        ids.setdefault(told["worker"], told["id"])
    return ids


def first_event(url: str, last_event_id: str) -> tuple[int, dict[str, str]]:
    headers = {"last-event-id": last_event_id}
    with httpx2.stream("GET", f"{url}/stream", headers=headers, trust_env=False) as answer:
        event: dict[str, str] = {}
        for line in answer.iter_lines():
            name, _, value = line.partition(": ")
            if line:
                event[name] = value
            elif "data" in event:
                break
        return int(answer.headers["x-worker"]), event


def test_client_that_comes_back_to_another_worker_is_told_and_gets_nobody_elses_events(
    url: str,
) -> None:
    ids = publish_in_each(url, "first")
    publish_in_each(url, "second")
    epochs = {worker: event_id.partition(".")[0] for worker, event_id in ids.items()}
    assert len(set(epochs.values())) == 2
    (home, last), *_ = ids.items()

    seen: dict[bool, dict[str, str]] = {}
    while len(seen) < 2:
        worker, event = first_event(url, last)
        seen[worker == home] = event

    assert seen[True]["data"] in ("first", "second")
    assert seen[True]["id"].startswith(epochs[home])
    assert seen[False]["event"] == "reset"
    assert json.loads(seen[False]["data"])["reason"] == "epoch"


def test_new_client_of_any_worker_gets_what_was_published_before_the_fork(url: str) -> None:
    seen: dict[int, dict[str, str]] = {}
    while len(seen) < 2:
        worker, event = first_event(url, "")
        seen[worker] = event

    assert {event["data"] for event in seen.values()} == {"before the fork"}
    assert len({event["id"] for event in seen.values()}) == 2
