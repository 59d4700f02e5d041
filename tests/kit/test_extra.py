"""Without httpx2."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator

import pytest


@pytest.fixture
def without_httpx2(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    kit = {name: module for name, module in sys.modules.items() if "sse_starlette.testing" in name}
    for name in kit:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "httpx2", None)
    yield
    sys.modules.update(kit)


@pytest.mark.usefixtures("without_httpx2")
def test_missing_httpx2_names_the_extra() -> None:
    with pytest.raises(ImportError, match=r"extra `testing`.*pip install '\.\[testing\]'"):
        importlib.import_module("sse_starlette.testing")
