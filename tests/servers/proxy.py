"""nginx in front of servers, buffering as it does by default."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.servers.serving import Program, free_port, program, until

# 20 seconds of patience with a silent server instead of 60: not much more than there are between pings.
CONFIG = """\
daemon off;
{user}
worker_processes 1;
pid {folder}/nginx.pid;
error_log {folder}/error.log notice;
events {{ worker_connections 1024; }}
http {{
    access_log off;
    client_body_temp_path {folder}/client;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    upstream servers {{ {servers} }}
    server {{
        listen 127.0.0.1:{port};
        location / {{
            proxy_pass http://servers;
            proxy_http_version {http_version};
            proxy_set_header Connection "";
            proxy_read_timeout 20s;
        }}
    }}
}}
"""


@contextmanager
def nginx(folder: Path, ports: Sequence[int], *, http_version: str = "1.1") -> Iterator[str]:
    """
    Run nginx before the servers on these ports, which are asked by turns; the address of it.

    Args:
        folder: where its files go, `error.log` among them; made.
        ports: where the servers listen, on this machine.
        http_version: what it asks the servers with.
    """
    folder.mkdir()
    port = free_port()
    config = CONFIG.format(
        folder=folder,
        port=port,
        # A server that was killed is asked again as soon as another one has its place.
        servers=" ".join(f"server 127.0.0.1:{each} max_fails=0;" for each in ports),
        http_version=http_version,
        # Its workers have to write below a folder that is only ours.
        user="user root;" if os.geteuid() == 0 else "",
    )
    (folder / "nginx.conf").write_text(config, "utf-8")
    errors = folder / "error.log"
    command = (program("nginx"), "-p", folder, "-c", folder / "nginx.conf", "-e", errors)
    with Program(command):
        answers = until(lambda: accepts(port))
        assert answers, errors.read_text("utf-8")
        yield f"http://127.0.0.1:{port}"


def accepts(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0
