"""The AI SDK's own client on a chat that two processes serve, behind nginx."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from tests.servers import proxy
from tests.servers.redis_servers import RedisServer
from tests.servers.serving import node_script, serve


@pytest.fixture
def chat(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    with ExitStack() as running:
        redis = running.enter_context(RedisServer(tmp_path / "redis"))
        monkeypatch.setenv("HUB_URL", redis.url)
        servers = [running.enter_context(serve("ai_chat:app")) for _ in range(2)]
        ports = [server.port for server in servers]
        yield running.enter_context(proxy.nginx(tmp_path / "nginx", ports))


def test_page_that_is_loaded_anew_resumes_its_answer_in_another_process(chat: str) -> None:
    with node_script("ai_chat.mjs", chat) as script:
        told = json.loads(script.wait_for_line(r"^\{.*\}$")[0])

    whole = "one two three four five"
    assert told == {
        "asked": 1,
        "pages": [
            {"answers": ["one two three "], "status": "ready"},
            {"answers": [whole], "status": "ready"},
            {"answers": [whole], "status": "ready"},
        ],
    }
