"""Tutorials leave nothing out, and the site leads to them."""

from __future__ import annotations

import re

import pytest
from documented import ROOT, TUTORIALS, blocks


@pytest.mark.parametrize("path", TUTORIALS, ids=lambda path: path.stem)
def test_nothing_in_a_tutorial_is_left_out(path):
    kinds = [block.kind for block in blocks(path)]
    assert "not run" not in kinds
    assert {"command", "python", "printed"} <= set(kinds)


def test_the_navigation_has_every_page():
    text = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    listed = set(re.findall(r"\S+\.md\b", text.partition("nav:")[2]))
    pages = {str(path.relative_to(ROOT / "docs")) for path in (ROOT / "docs").rglob("*.md")}
    assert pages <= listed
    assert len(TUTORIALS) >= 3
