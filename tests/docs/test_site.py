"""The site builds without a warning, asks nobody else for anything, and has every page and public name."""

from __future__ import annotations

import importlib
import re
import shutil
import zlib
from html.parser import HTMLParser
from pathlib import Path

import griffe
import pytest
from tests.docs.pages import ROOT, run_python
from tests.unit.test_reference import public_names


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built site; that it builds is half of what is tested."""
    folder = tmp_path_factory.mktemp("site")
    shutil.copy(ROOT / "zensical.toml", folder)
    shutil.copytree(ROOT / "docs", folder / "docs")
    shutil.copytree(ROOT / "src", folder / "src", ignore=shutil.ignore_patterns("__pycache__"))
    lines = run_python(folder, "-m", "zensical", "build", "--strict")
    assert "No issues found" in lines, lines
    # What isn't a warning to the generator: a docstring that doesn't fit its signature.
    assert [line for line in lines if line.startswith(("griffe:", "mkdocstrings:"))] == []
    return folder / "site"


def test_every_public_name_is_in_the_reference(site: Path) -> None:
    inventory = (site / "objects.inv").read_bytes().partition(b"zlib.\n")[2]
    told = {line.split(b" ")[0].decode() for line in zlib.decompress(inventory).splitlines()}

    assert [name for name in public_names() if name not in told] == []


def test_no_page_of_the_site_asks_another_host_for_anything(site: Path) -> None:
    class Loads(HTMLParser):
        found: list[str]

        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            given = dict(attrs)
            loads = given.get("src") or (given.get("href") if tag == "link" else "") or ""
            if re.match(r"(https?:)?//", loads) and given.get("rel") != "canonical":
                self.found.append(f"{tag}: {loads}")

    found = {}
    for page in site.rglob("*.html"):
        parser = Loads()
        parser.found = []
        parser.feed(page.read_text("utf-8"))
        found[page] = parser.found
    assert len(found) > 10
    assert {page: loads for page, loads in found.items() if loads} == {}


def test_no_page_of_the_site_links_out_of_the_site_by_a_path() -> None:
    """On the site there are the pages alone, not the sources."""
    docs = ROOT / "docs"
    outside = []
    for page in docs.rglob("*.md"):
        for link in re.findall(r"\]\(([^)#\s]+)", page.read_text("utf-8")):
            local = not re.match(r"[a-z]+:", link)
            if local and docs not in (page.parent / link).resolve().parents:
                outside.append(f"{page.name}: {link}")
    assert outside == []


def test_every_public_name_has_a_docstring() -> None:
    package = griffe.load("sse_starlette", search_paths=[str(ROOT / "src")])
    lacking = []
    for name in public_names():
        found = package[name.removeprefix("sse_starlette.")]
        if found.is_alias:
            found = found.final_target
        lacking += [] if found.has_docstring else [name]
        for member in found.members.values() if found.is_class else ():
            told = member.is_function or "property" in member.labels
            # A test's name is its sentence.
            if member.is_public and told and not member.name.startswith(("__", "test_")):
                known = member.has_docstring or member.name in inherited(name)
                lacking += [] if known else [f"{name}.{member.name}"]
    assert lacking == []


def inherited(name: str) -> set[str]:
    """The members that a class has from its base classes: those keep the contract of the base."""
    module, _, class_name = name.rpartition(".")
    found: type = getattr(importlib.import_module(module), class_name)
    return {member for base in found.__mro__[1:] for member in vars(base)}
