"""What documents show of commands and code is what these print."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from llmsim.cli import app

sys.path.append(str(Path(__file__).resolve().parents[1] / "tools"))
from documents import DOCUMENTS, REFUSED, ROOT, TUTORIALS, blocks, in_a_shell, missing, outcomes

PAGES = [path for path in DOCUMENTS if path not in TUTORIALS and any(b.kind != "not run" for b in blocks(path))]


def lost_lines(path, folder, monkeypatch):
    """Lines of a document that are not printed when all of its blocks run in a folder, and how many were compared."""
    monkeypatch.chdir(folder)
    found = list(outcomes(path, folder, _in_this_process))
    lost = [shown.lines[number] for shown, printed in found for number, _ in missing(shown.lines, printed)]
    return lost, sum(len(shown.lines) for shown, _ in found)


def _in_this_process(command, folder):
    if not command.startswith("llmsim "):
        return in_a_shell(command, folder)
    done = CliRunner().invoke(app, shlex.split(command)[1:])
    assert done.exit_code == 0 or done.stderr.startswith(REFUSED), f"{command}\n{done.output}"
    return done.stdout + done.stderr


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_documents_show_what_is_printed(path, tmp_path, monkeypatch):
    lost, compared = lost_lines(path, tmp_path, monkeypatch)
    assert lost == []
    assert compared > 0


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_every_block_runs_or_says_why_not(path):
    assert [block.text for block in blocks(path) if block.kind == "unknown"] == []
    assert all(len(block.name) > 10 for block in blocks(path) if block.kind == "not run")
    assert path.read_text(encoding="utf-8").count("\n```") == 2 * len(blocks(path)), "a fence that is not understood"


def test_there_are_pages_to_hold():
    assert {path.name for path in PAGES} >= {"README.md", "calibration.md", "explain.md", "hardware.md", "search.md"}
