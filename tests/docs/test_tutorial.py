"""The last steps of tutorial.md as a reader takes them: two processes, a publisher, and nginx before them."""

from __future__ import annotations

import os
import sys
from contextlib import ExitStack
from pathlib import Path

import httpx2
from tests.docs.pages import SEAT_BELT_SECONDS, Block, blocks
from tests.servers.proxy import accepts
from tests.servers.serving import Program, Server, free_port, program, until

PAGE = "tutorial.md"


def block_with(language: str, text: str) -> Block:
    [found] = [b for b in blocks(language) if b.page.name == PAGE and text in b.text]
    return found


def test_client_of_two_processes_behind_nginx_goes_on_at_the_other_one(tmp_path: Path) -> None:
    (tmp_path / "step5.py").write_text(block_with("python", "replay=5").text, "utf-8")
    (tmp_path / "publish.py").write_text(block_with("python", "hub.publisher()").text, "utf-8")
    options = ["--host", "127.0.0.1", "--port", "0"]
    serve: list[str | Path] = [sys.executable, "-m", "uvicorn", "step5:app", *options]
    publish: list[str | Path] = [sys.executable, tmp_path / "publish.py"]

    def read(url: str, last_event_id: str, events: int) -> tuple[list[str], str]:
        """What comes after an id, and the last id."""
        data = []
        headers = {"Last-Event-ID": last_event_id} if last_event_id else {}
        with (
            httpx2.Client(trust_env=False, timeout=SEAT_BELT_SECONDS) as client,
            client.stream("GET", f"{url}/ticks", headers=headers) as response,
        ):
            for line in response.iter_lines():
                name, _, value = line.partition(": ")
                last_event_id = value if name == "id" else last_event_id
                data += [value] if name == "data" else []
                if len(data) == events and not line:
                    return data, last_event_id
        raise AssertionError(data)

    with ExitStack() as running:
        servers = [running.enter_context(Server(serve, cwd=tmp_path)) for _ in range(2)]
        config = block_with("nginx", "upstream ticks").text
        port = free_port()
        ports = {"8001": servers[0].port, "8002": servers[1].port, "8000": port}
        for printed, given in ports.items():
            config = config.replace(f":{printed}", f":{given}")
        # As root, nginx's workers are another user, who may not write here.
        user = "user root;\n" if os.geteuid() == 0 else ""
        (tmp_path / "nginx.conf").write_text(user + config, "utf-8")
        nginx = [program("nginx"), "-c", "nginx.conf", "-e", "stderr", "-g", "daemon off;", "-p"]
        running.enter_context(Program([*nginx, tmp_path], cwd=tmp_path))
        assert until(lambda: accepts(port))
        with Program(publish, cwd=tmp_path) as publishing:
            assert publishing.wait(SEAT_BELT_SECONDS) == 0, publishing.lines

        first, last_event_id = read(f"http://127.0.0.1:{port}", "", 3)
        assert first == [f'{{"number":{number}}}' for number in (1, 2, 3)]
        with Program(publish, cwd=tmp_path) as publishing:
            assert publishing.wait(SEAT_BELT_SECONDS) == 0, publishing.lines
        servers[0].kill()

        # Through nginx, whichever is left; and at the one that is left, by itself.
        for url in (f"http://127.0.0.1:{port}", servers[1].url):
            assert read(url, last_event_id, 3)[0] == first
