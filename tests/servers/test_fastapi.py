"""The FastAPI example: a stream that uses a dependency."""

from __future__ import annotations

from contextlib import closing

from tests.servers.conftest import Example
from tests.servers.reading import connect, sse
from tests.servers.serving import Server, get, until


def sessions(server: Server) -> dict[str, int]:
    counted: dict[str, int] = get(f"{server.url}/sessions").json()
    return counted


def test_endpoint_streams_and_then_gives_its_session_back(example: Example) -> None:
    server = example("fastapi_dependency.py")

    with sse(f"{server.url}/orders/ada") as source:
        events = iter(source)
        first = next(events)
        meanwhile = sessions(server)
        rest = list(events)

    assert first.event == "order"
    assert [each.json() for each in (first, *rest)] == [
        {"number": 1, "item": "a lamp"},
        {"number": 2, "item": "two chairs"},
        {"number": 3, "item": "a table"},
    ]
    assert [each.id for each in (first, *rest)] == ["1", "2", "3"]
    assert meanwhile == {"open": 1, "given_back": 0}
    assert until(lambda: sessions(server) == {"open": 0, "given_back": 1})


def test_client_that_leaves_has_the_session_given_back(example: Example) -> None:
    server = example("fastapi_dependency.py")

    with closing(connect(f"{server.url}/orders/ada", sniff=b"data: ")):
        assert sessions(server)["open"] == 1

    assert until(lambda: sessions(server) == {"open": 0, "given_back": 1})
    server.stop()
    assert [line for line in server.complaints() if "session" not in line] == []


def test_error_before_the_first_event_is_an_ordinary_response(example: Example) -> None:
    server = example("fastapi_dependency.py")

    answer = get(f"{server.url}/orders/mallory")

    assert answer.status_code == 403
    assert answer.headers["content-type"] == "application/json"
    assert answer.json() == {"detail": "no access to the orders of mallory"}
    assert until(lambda: sessions(server) == {"open": 0, "given_back": 1})
    server.stop()
    assert [line for line in server.complaints() if "session" not in line] == []
