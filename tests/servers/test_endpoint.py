"""Streams as the endpoints of routes, on a real server."""

from __future__ import annotations

import httpx2
from tests.servers.conftest import Serve
from tests.servers.reading import sse


def publish(url: str, to: str) -> int:
    answer = httpx2.post(f"{url}/publish", params={"to": to}, trust_env=False, timeout=90)
    subscribers: int = answer.json()["subscribers"]
    return subscribers


def test_the_endpoint_of_a_hub_streams_and_resumes_for_those_it_lets_in(serve: Serve) -> None:
    server = serve("endpoints:app")
    url = f"{server.url}/prices"

    refused = httpx2.get(url, trust_env=False)
    with sse(url, headers={"user": "b"}) as source:
        events = (event for event in source if event.event == "b")
        assert publish(server.url, "abab") == 1
        first, second = next(events), next(events)
    publish(server.url, "ab")
    with sse(url, headers={"user": "b", "Last-Event-ID": first.id}) as source:
        events = (event for event in source if event.event == "b")
        again, missed = next(events), next(events)

    assert (refused.status_code, refused.text) == (401, "who are you?")
    # With an id alone at its beginning, and without what the filter leaves out.
    assert [one.id.rpartition(".")[2] for one in (first, second, again, missed)] == list("2446")
