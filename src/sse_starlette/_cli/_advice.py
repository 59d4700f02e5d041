"""Which server stands before the application, and the lines of its configuration that mend a finding. Pure.

What tests/servers/proxies.py has a configuration for was tried, broken and mended; the rest is what the manuals of
the servers say.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping


@dataclass(frozen=True)
class Advice:
    """What to change in the configuration of one server."""

    server: str
    where: str
    put: tuple[str, ...] = ()
    remove: tuple[str, ...] = ()


PROXIES = ("nginx", "HAProxy", "Caddy", "Envoy", "Varnish", "Apache")
APPLICATION_SERVERS = ("uvicorn", "hypercorn", "granian", "daphne", "gunicorn")

STATUS_HINTS = {
    401: "the request lacks a login. Give the header, -H 'Authorization: …'; an EventSource can't send one "
    "and needs a cookie or a ticket in the URL",
    403: "the request isn't allowed. Give the header or the cookie that a client has, with -H",
    404: "there's nothing at this path",
    405: "the route doesn't take this method: try -X POST, or take GET in the application",
    429: "too many requests, and an EventSource gives up for good at this",
    503: "nobody is there to answer, or nobody has room, and an EventSource gives up for good at this",
}
"""What to do about an answer that is no stream."""

_BY_ERROR = (
    (r"attempts failed|refused", "nothing listens there, or a firewall is between"),
    (r"not known|getaddrinfo|No address|name resolution", "there's no host of this name"),
    (r"CERTIFICATE_VERIFY_FAILED", "its certificate can't be trusted; -k takes any"),
    (
        r"WRONG_VERSION_NUMBER|RECORD_LAYER|PACKET_LENGTH",
        "what listens there speaks no TLS: try http://",
    ),
    (r"without sending a response", "it hung up without an answer; if it speaks TLS, try https://"),
)

_BY_HEADER = (
    ("server", r"nginx|openresty", "nginx"),
    ("server", r"caddy", "Caddy"),
    ("via", r"caddy", "Caddy"),
    ("server", r"envoy", "Envoy"),
    ("x-envoy-upstream-service-time", r"", "Envoy"),
    ("via", r"varnish", "Varnish"),
    ("x-varnish", r"", "Varnish"),
    ("server", r"apache", "Apache"),
    ("via", r"apache", "Apache"),
    ("server", r"cloudflare", "Cloudflare"),
    ("cf-ray", r"", "Cloudflare"),
    ("via", r"cloudfront", "CloudFront"),
    ("server", r"awselb", "AWS load balancer"),
    *(("server", name, name) for name in APPLICATION_SERVERS),
)
_BY_ANSWER_TO_GARBAGE = (
    (rb"Your browser sent an invalid request", "HAProxy"),
    (rb"(?i)\nserver: nginx|<center>nginx", "nginx"),
    (rb"(?i)\nserver: apache|DTD HTML 4.01//EN", "Apache"),
    (rb"(?i)\nserver: envoy", "Envoy"),
    (rb"\AHTTP/1\.1 400 Bad Request\r\n\r\n\Z", "Varnish"),
    (rb"\r\n\r\n400 Bad Request\Z", "Caddy"),
    (rb"Invalid HTTP request received", "uvicorn"),
)


def servers_in(headers: Iterable[Mapping[str, str]], to_garbage: bytes = b"") -> list[str]:
    """
    Name the servers that an answer came through, as far as they show.

    Args:
        headers: those of all answers.
        to_garbage: what was answered to something that is no request: by the foremost server, for a
            proxy doesn't pass it on. It tells those that leave no header.
    """
    found: dict[str, None] = {}
    for answer, name in _BY_ANSWER_TO_GARBAGE:
        if re.search(answer, to_garbage):
            found[name] = None
            break
    for each in headers:
        for header, value, name in _BY_HEADER:
            if header in each and re.search(value, each[header], re.IGNORECASE):
                found[name] = None
    return list(found)


def in_plain_words(error: str) -> str:
    """Return why there's no connection; what the libraries say of it stands behind, in brackets."""
    error = error.rstrip(".")
    found = next((hint for said, hint in _BY_ERROR if re.search(said, error)), "")
    return f"{found} ({error})" if found else error


def asks_application(to_garbage: bytes) -> bool:
    """Whether the foremost server is the application's own, so that there's no proxy."""
    return bool(set(servers_in([], to_garbage)) & set(APPLICATION_SERVERS))


def advice_for(code: str, url: str, servers: Iterable[str]) -> list[Advice]:
    """
    Return what to change for a finding.

    Args:
        code: of the finding.
        url: of the stream; some lines name its path.
        servers: those that were recognized; if none of them is a proxy, that of all proxies is returned.
    """
    known = [name for name in servers if name in PROXIES]
    path = urlsplit(url).path or "/"
    found = []
    for name in known or PROXIES:
        for one in _TABLE[name].get(code, ()):
            put = tuple(line.replace("PATH", path) for line in one.put)
            found.append(Advice(name, one.where, put, one.remove))
    return found


def _on(where: str, *put: str, remove: tuple[str, ...] = ()) -> tuple[Advice, ...]:
    return (Advice("", where, put, remove),)


_LOCATION = "the location of the stream"
_BACKEND = "the backend (or listen) section"
_REVERSE_PROXY = "the block of reverse_proxy"
_ROUTE = "the route"
_RESPONSE = "sub vcl_backend_response"

_TABLE: dict[str, dict[str, tuple[Advice, ...]]] = {
    "nginx": {
        "buffered": _on(
            _LOCATION,
            "proxy_buffering off;",
            remove=("proxy_ignore_headers X-Accel-Buffering",),
        ),
        "compressed": _on(
            _LOCATION, "gzip off;", remove=("proxy_ignore_headers X-Accel-Buffering",)
        ),
        "cut": _on(_LOCATION, "proxy_read_timeout 1h;"),
        "cached": _on(_LOCATION, "proxy_cache off;"),
        "resume": _on(_LOCATION, remove=('proxy_set_header Last-Event-ID ""',)),
    },
    "HAProxy": {
        "buffered": _on(_BACKEND, remove=("http-response wait-for-body",)),
        "compressed": _on(_BACKEND, remove=("compression type text/event-stream",)),
        "delayed": _on(_BACKEND, "option http-no-delay"),
        "cut": _on(_BACKEND, "timeout server 1h", "timeout client 1h"),
        "cached": _on(_BACKEND, remove=("http-request cache-use",)),
        "resume": _on(_BACKEND, remove=("http-request del-header Last-Event-ID",)),
    },
    "Caddy": {
        "buffered": _on(
            _REVERSE_PROXY, "flush_interval -1", remove=("buffer_responses", "response_buffers")
        ),
        "compressed": _on(
            "the site",
            "@rest not path PATH*",
            "encode @rest gzip",
            remove=("encode without @rest",),
        ),
        "cut": _on(
            f"{_REVERSE_PROXY} (transport http) and servers (timeouts)",
            remove=("read_timeout", "write_timeout", "timeouts { write }"),
        ),
        "cached": _on("the site", remove=("cache",)),
        "resume": _on(_REVERSE_PROXY, remove=("header_up -Last-Event-ID",)),
    },
    "Envoy": {
        "buffered": _on("http_filters", remove=("envoy.filters.http.file_system_buffer",)),
        "compressed": _on("content_type of the compressor filter", remove=("text/event-stream",)),
        "cut": _on(_ROUTE, "timeout: 0s", "idle_timeout: 0s"),
        "cached": _on("http_filters", remove=("envoy.filters.http.cache",)),
        "resume": _on(_ROUTE, remove=("Last-Event-ID in request_headers_to_remove",)),
    },
    "Varnish": {
        "buffered": _on(_RESPONSE, "set beresp.do_stream = true;"),
        "compressed": _on(_RESPONSE, "set beresp.do_gzip = false;"),
        "cut": (
            *_on("sub vcl_backend_fetch", "set bereq.between_bytes_timeout = 1h;"),
            *_on("the options of varnishd, for a cut after 600 s in all", "-p send_timeout=86400"),
        ),
        "cached": _on(_RESPONSE, "set beresp.uncacheable = true;"),
        "resume": _on("sub vcl_recv", remove=("unset req.http.Last-Event-ID",)),
    },
    "Apache": {
        "buffered": _on("the options of ProxyPass", "flushpackets=on"),
        "compressed": _on("the virtual host", "SetEnvIf Request_URI ^PATH no-gzip"),
        "cut": _on("the options of ProxyPass", "timeout=3600"),
        "cached": _on("the virtual host", "CacheDisable PATH"),
        "resume": _on("the virtual host", remove=("RequestHeader unset Last-Event-ID",)),
    },
}
