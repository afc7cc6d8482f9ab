"""Documents for tests: their blocks run in this process."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

from typer.testing import CliRunner

from llmsim.cli import app

sys.path.append(str(Path(__file__).resolve().parents[1] / "tools"))
from documents import DOCUMENTS, REFUSED, ROOT, TUTORIALS, blocks, in_a_shell, missing, outcomes

__all__ = ["DOCUMENTS", "ROOT", "TUTORIALS", "blocks", "lost_lines"]


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
