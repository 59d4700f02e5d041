"""The stream of tokens of language-models.md: OpenAI's SDK, a server that stands in for a model, and a client."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import httpx2
import pytest
from tests.docs.pages import SEAT_BELT_SECONDS, blocks
from tests.servers.serving import Server, serve

HELLO = ['{"text":"Hello"}', '{"text":"\\r\\n"}', '{"text":" world"}']
TOKENS = [("token", data) for data in HELLO]
INCOMPLETE = ("failed", '{"text":"The answer is incomplete."}')


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, Server]]:
    folder = tmp_path_factory.mktemp("page")
    [block] = [block for block in blocks("python") if block.page.name == "language-models.md"]
    file = block.save(folder)
    app = file.rename(folder / "page.py").stem
    options = ["--host", "127.0.0.1", "--port", "0"]
    with pytest.MonkeyPatch.context() as environment, serve("model:app") as model:
        environment.setenv("OPENAI_API_KEY", "none")
        environment.setenv("OPENAI_BASE_URL", f"{model.url}/v1")
        environment.setenv("NO_PROXY", "127.0.0.1")
        with Server([sys.executable, "-m", "uvicorn", f"{app}:app", *options], folder) as page:
            yield model, page


def ask(page: Server, prompt: str, at_most: int = 1000) -> tuple[int, list[tuple[str, str]]]:
    """The status, and the events until the end, or so many, and then the client leaves."""
    events: list[tuple[str, str]] = []
    with (
        httpx2.Client(trust_env=False, timeout=SEAT_BELT_SECONDS) as client,
        client.stream("POST", f"{page.url}/ask", json={"prompt": prompt}) as response,
    ):
        name = ""
        for line in response.iter_lines():
            field, _, value = line.partition(": ")
            name = value if field == "event" else name
            if field == "data":
                events.append((name, value))
            if len(events) == at_most:
                break
        return response.status_code, events


@pytest.mark.parametrize(
    ("prompt", "status", "events"),
    [
        ("hello", 200, [*TOKENS, ("done", "")]),
        ("failed", 200, [*TOKENS, INCOMPLETE]),
        ("cut", 200, [*TOKENS, INCOMPLETE]),
        ("busy", 503, []),
    ],
)
def test_client_has_the_tokens_and_is_told_how_the_answer_ended(
    servers: tuple[Server, Server], prompt: str, status: int, events: list[tuple[str, str]]
) -> None:
    assert ask(servers[1], prompt) == (status, events)


def test_model_stops_when_the_client_leaves(servers: tuple[Server, Server]) -> None:
    model, page = servers

    ask(page, "endless", at_most=5)

    assert len(model.journal("endless is over")) == 1
