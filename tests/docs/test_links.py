"""Each relative link of README and its neighbours leads to a file of the checkout, and to a heading of it.

The site's generator looks after the links of the pages in docs/: `python3 tasks.py docs`.
"""

from __future__ import annotations

import html
import re
from pathlib import Path

import markdown
import pytest
from tests.docs.pages import ROOT


def rendered(page: Path) -> str:
    """The page as HTML; its headings have ids."""
    text = re.sub(r"<!--.*?-->", "", page.read_text("utf-8"), flags=re.DOTALL)
    made: str = markdown.markdown(text, extensions=["toc", "fenced_code", "attr_list", "tables"])
    return made


@pytest.mark.parametrize("page", sorted(ROOT.glob("*.md")), ids=lambda page: page.name)
def test_links_of_page_lead_somewhere(page: Path) -> None:
    nowhere = []
    for link in re.findall(r'(?:href|src)="([^"]*)"', rendered(page)):
        if re.match(r"[a-z][a-z0-9+.-]*:|//|#__", html.unescape(link), re.IGNORECASE):
            continue
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        there = target.exists() and (target == ROOT or ROOT in target.parents)
        if there and anchor and target.suffix == ".md":
            there = f'id="{anchor}"' in rendered(target)
        if not there:
            nowhere.append(link)

    assert nowhere == []
