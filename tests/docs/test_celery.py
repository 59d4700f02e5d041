"""The job of progress.md, in a worker of Celery with a Redis of its own."""

from __future__ import annotations

import sys
from pathlib import Path

import httpx2
from tests.docs.pages import SEAT_BELT_SECONDS, blocks
from tests.servers.redis_servers import RedisServer
from tests.servers.serving import Program, Server


def test_stream_has_all_that_a_worker_of_celery_says_of_its_job(tmp_path: Path) -> None:
    of_page = [block.text for block in blocks("python") if block.page.name == "progress.md"]
    [tasks] = [text for text in of_page if "Celery(" in text]
    [web] = [text for text in of_page if 'Hub("redis' in text and "app = " in text]
    with RedisServer(tmp_path / "redis") as redis:
        for name, text in (("tasks", tasks), ("web", web)):
            file = tmp_path / f"{name}.py"
            file.write_text(text.replace("redis://localhost/0", redis.url), "utf-8")
        python = [sys.executable, "-m"]
        worker = [*python, "celery", "-A", "tasks", "worker", "--pool=solo", "--loglevel=info"]
        serve = [*python, "uvicorn", "web:app", "--host", "127.0.0.1", "--port", "0"]
        start = "import tasks; print('job', tasks.convert.delay(3).id)"
        with (
            Program(worker, cwd=tmp_path),
            Server(serve, cwd=tmp_path) as server,
            Program([sys.executable, "-c", start], cwd=tmp_path) as starting,
        ):
            job = starting.wait_for_line(r"^job (\S+)")[1]
            events = []
            with (
                httpx2.Client(trust_env=False, timeout=SEAT_BELT_SECONDS) as client,
                client.stream("GET", f"{server.url}/jobs/{job}") as response,
            ):
                for line in response.iter_lines():
                    events += [line] if line.startswith(("event: ", "data: ")) else []
                    if line == 'data: {"pages":3}':
                        break

    expected = []
    for page in (1, 2, 3):
        expected += ["event: progress", f'data: {{"page":{page},"of":3}}']
    assert events == [*expected, "event: done", 'data: {"pages":3}']
