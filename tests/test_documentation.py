"""What documents show of commands and code is what these print."""

from __future__ import annotations

import pytest
from documented import DOCUMENTS, TUTORIALS, blocks, lost_lines

PAGES = [path for path in DOCUMENTS if any(b.kind != "not run" for b in blocks(path))]


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_documents_show_what_is_printed(path, tmp_path, monkeypatch):
    lost, compared = lost_lines(path, tmp_path, monkeypatch)
    assert lost == []
    assert compared > (10 if path in TUTORIALS else 0)


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_every_block_runs_or_says_why_not(path):
    assert [block.text for block in blocks(path) if block.kind == "unknown"] == []
    assert all(len(block.name) > 10 for block in blocks(path) if block.kind == "not run")
    assert path.read_text(encoding="utf-8").count("\n```") == 2 * len(blocks(path)), "a fence that is not understood"


def test_there_are_pages_to_hold():
    assert {path.name for path in PAGES} >= {"README.md", "calibration.md", "explain.md", "hardware.md", "search.md"}
