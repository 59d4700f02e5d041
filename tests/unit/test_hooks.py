"""What stands before a method of a server while there are streams."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest

from sse_starlette._shutdown.hooks import MethodHook


def test_a_method_that_is_hooked_again_and_again_has_one_thing_before_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Server:
        def serve(self) -> str:
            return "served"

    def around(method: Callable[..., Any]) -> Callable[..., Any]:
        def ours(self: Server) -> str:
            return f"ours, {method(self)}"

        made.append(ours)
        return ours

    made: list[Callable[..., Any]] = []
    plain = Server.serve
    module = ModuleType("a_server")
    module.Server = Server  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "a_server", module)
    hook = MethodHook("a_server", "Server", "serve", around)

    for _ in range(3):
        hook.install()
        hook.install()
        assert Server().serve() == "ours, served"
        hook.uninstall()
        assert Server.serve is plain

    assert len(made) == 1
