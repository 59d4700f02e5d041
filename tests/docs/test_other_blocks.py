"""What is printed and isn't Python: scripts of pages are parsed, configurations checked by who reads them."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest
import yaml  # type: ignore[import-untyped]  # comes with the generator of the site
from tests.docs.pages import PAGES, ROOT, Block, blocks
from tests.servers.serving import node_script, program

RUN = {"python", "toml", "console"}
"""By the other tests of this folder; of a console, whether the commands exist."""
CHECKED = {"js", "jsx", "yaml", "nginx", "caddyfile", "haproxy", "apache"}
SHOWN = {
    "text": "what a program prints, or the shape of a thing",
    "html": "a fragment of a page: those that are whole are in examples/, in a browser",
    "dockerfile": "there's no Docker where the tests run",
    "json": "what a program prints",
    "promql": "a query for a Prometheus that isn't there",
    "sh": "needs what a page tells of",
}


def test_every_printed_block_is_run_or_checked_or_there_is_a_reason_why_not() -> None:
    fence = re.compile(r"^```(\w*)\n.*?^```$", re.MULTILINE | re.DOTALL)
    found = {language for page in PAGES for language in fence.findall(page.read_text("utf-8"))}

    assert found - {""} <= RUN | CHECKED | set(SHOWN)


def test_block_that_a_test_of_its_own_runs_names_one_that_does() -> None:
    for page in PAGES:
        for name in re.findall(r"<!-- run by (\S+?),? ", page.read_text("utf-8")):
            assert page.name in (ROOT / name).read_text("utf-8")


def test_guarantees_name_tests_that_there_are() -> None:
    text = (ROOT / "docs" / "guarantees.md").read_text("utf-8")
    tests = "".join(path.read_text("utf-8") for path in (ROOT / "tests").rglob("test_*.py"))
    named = re.findall(r"`(test_\w+)`", text)

    assert len(named) > 20
    assert [name for name in named if f"def {name}(" not in tests] == []
    files = re.findall(r"`((?:unit|servers|thorough)/\w+\.py)`", text)
    assert [name for name in files if not (ROOT / "tests" / name).is_file()] == []


def test_scripts_of_pages_have_no_syntax_error(tmp_path: Path) -> None:
    scripts = [(str(block), block.text) for kind in ("js", "jsx") for block in blocks(kind)]
    (tmp_path / "blocks.json").write_text(json.dumps(scripts), "utf-8")

    with node_script("parse_blocks.mjs", str(tmp_path / "blocks.json")) as node:
        assert node.wait(120) == 0, node.lines
    assert node.lines == []


@pytest.mark.parametrize("block", blocks("yaml"), ids=str)
def test_printed_yaml_is_yaml(block: Block) -> None:
    assert isinstance(yaml.safe_load(block.text), dict)


WHOLE = {
    "nginx": "events {{}}\nhttp {{\nserver {{\nlisten 127.0.0.1:1;\n{text}\n}}\n}}\n",
    "caddyfile": "{text}",
    "haproxy": "{text}",
    "apache": "ServerRoot /tmp\nPidFile {folder}/pid\nErrorLog {folder}/log\nListen 127.0.0.1:1\n"
    "ServerName localhost\nLoadModule mpm_event_module /usr/lib/apache2/modules/mod_mpm_event.so\n"
    "LoadModule proxy_module /usr/lib/apache2/modules/mod_proxy.so\n"
    "LoadModule proxy_http_module /usr/lib/apache2/modules/mod_proxy_http.so\n{text}",
}
CHECKS = {
    "nginx": ("nginx", "-t", "-p", "{folder}", "-e", "stderr", "-c"),
    "caddyfile": ("caddy", "adapt", "--adapter", "caddyfile", "--config"),
    "haproxy": ("haproxy", "-c", "-f"),
    "apache": ("apache2", "-t", "-f"),
}


@pytest.mark.parametrize("block", [b for kind in CHECKS for b in blocks(kind)], ids=str)
def test_printed_configuration_is_taken_by_its_proxy(block: Block, tmp_path: Path) -> None:
    file = tmp_path / "configuration"
    whole = WHOLE[block.language]
    if "http {" in block.text:
        whole = "{text}"
    elif "upstream" in block.text:
        whole = "events {{}}\nhttp {{\n{text}\n}}\n"
    file.write_text(whole.format(text=block.text, folder=tmp_path), "utf-8")
    name, *options = CHECKS[block.language]

    done = subprocess.run(
        [program(name), *(option.format(folder=tmp_path) for option in options), file],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )

    assert done.returncode == 0, done.stderr
