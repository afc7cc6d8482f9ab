"""What documents show of commands is what these print."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import pytest
from command_line import run

sys.path.append(str(Path(__file__).resolve().parents[1] / "tools"))
from documents import DOCUMENTS, missing, shown, write_files

BLOCKS = [block for path in DOCUMENTS for block in shown(path)]


@pytest.mark.parametrize("block", BLOCKS, ids=lambda own: f"{own.path.name}: {' '.join(own.command.split()[1:6])}")
def test_documents_show_what_commands_print(block, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_files(block.path, tmp_path)
    printed = run(*shlex.split(block.command)[1:]).splitlines()
    assert [block.lines[number] for number, _ in missing(block.lines, printed)] == []


def test_there_are_blocks_to_hold():
    assert {block.path.name for block in BLOCKS} >= {"README.md", "calibration.md", "search.md"}
