"""What every line of the log says besides its text: fields that a program can read."""

from __future__ import annotations

import ast
import logging
import re
from pathlib import Path

import pytest

import sse_starlette
from sse_starlette.observe import Observer, StreamRecord, observe, tell

SOURCES = Path(sse_starlette.__file__).parent
PAGE = Path(__file__).parents[2] / "docs" / "metrics.md"
LEVELS = {"debug", "info", "warning", "error", "exception", "critical", "log"}


def is_log_call(node: ast.AST) -> bool:
    return (
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in LEVELS
        and ast.unparse(node.func.value).rpartition(".")[2].lower().endswith("logger")
    )


def log_calls() -> list[tuple[str, ast.Call]]:
    """Every call of a logger in the package, with its place."""
    return [
        (f"{path.relative_to(SOURCES)}:{node.lineno}", node)
        for path in sorted(SOURCES.rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.Call) and is_log_call(node)
    ]


CALLS = log_calls()


def fields_of(call: ast.Call) -> dict[str, ast.expr]:
    extra = next((one.value for one in call.keywords if one.arg == "extra"), None)
    assert isinstance(extra, ast.Dict), "give it extra={'sse_event': '…', …}"
    return {
        str(ast.literal_eval(key)): value
        for key, value in zip(extra.keys, extra.values, strict=True)
        if key is not None
    }


@pytest.mark.parametrize("call", [pytest.param(call, id=place) for place, call in CALLS])
def test_line_of_the_log_says_what_has_happened_in_a_word_and_its_fields_are_ours(
    call: ast.Call,
) -> None:
    fields = fields_of(call)

    assert re.fullmatch(r"[a-z]+(_[a-z]+)+", ast.literal_eval(fields["sse_event"]))
    assert [name for name in fields if not name.startswith("sse_")] == []


def test_page_lists_each_word() -> None:
    rows = re.findall(r"^\| (`\w+`(?:, `\w+`)*) \|", PAGE.read_text("utf-8"), re.MULTILINE)
    told = set(re.findall(r"\w+", " ".join(rows)))

    words = {ast.literal_eval(fields_of(call)["sse_event"]) for _, call in CALLS}

    assert words - told == set()
    assert len(CALLS) > 30


def test_page_lists_each_logger() -> None:
    told = re.findall(r"`sse_starlette\.\w+`(?:,| and|\)| `\.[\w.]+`)*", PAGE.read_text("utf-8"))[0]
    source = "".join(path.read_text("utf-8") for path in SOURCES.rglob("*.py"))

    names = set(re.findall(r'getLogger\("(.*)"\)', source))

    assert names == {f"sse_starlette.{name}" for name in re.findall(r"\.([\w.]+)`", told)}


def test_fields_stand_on_the_record(caplog: pytest.LogCaptureFixture) -> None:
    class Breaks(Observer):
        def stream_began(self, stream: StreamRecord) -> None:
            raise ValueError("a mistake")

    end = observe(Breaks())
    with caplog.at_level(logging.ERROR):
        tell("stream_began", StreamRecord())
    end()

    (record,) = caplog.records
    assert vars(record)["sse_event"] == "observer_failed"
    assert vars(record)["sse_observer"] == "Breaks"
