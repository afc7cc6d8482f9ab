"""Documents that show what commands print, held against what they do print.

    python tools/documents.py           # which lines of which documents are not printed any more
    python tools/documents.py --write   # put the line that is printed instead of each, where one is like it

A block that begins with ``$ llmsim`` shows some of the lines of that command in order, ``...`` for those between. A
YAML block whose first line is a comment with a file's name is that file.
"""

from __future__ import annotations

import argparse
import difflib
import os
import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
CHANGING = ("search time",)
"""Beginnings of lines that no two runs agree on."""
LIKE = 0.7


@dataclass(frozen=True)
class Shown:
    """A block of a document.

    Attributes
    ----------
    path, command, lines
        Where it is, the command without ``$``, and what it is said to print.
    """

    path: Path
    command: str
    lines: tuple[str, ...]


def shown(path: Path) -> Iterator[Shown]:
    """The blocks of a document that show a command."""
    for _, text in _blocks(path):
        first, *lines = text.splitlines()
        if first.startswith("$ llmsim "):
            yield Shown(path, first[2:], tuple(lines))


def _blocks(path: Path) -> list[tuple[str, str]]:
    return [(match[1], match[2]) for match in BLOCK.finditer(path.read_text(encoding="utf-8"))]


def write_files(path: Path, folder: Path) -> None:
    """Write the files that a document shows."""
    for language, text in _blocks(path):
        name = re.match(r"# (\S+\.yaml)\n", text)
        if language == "yaml" and name:
            (folder / name[1]).write_text(text, encoding="utf-8")


def missing(lines: tuple[str, ...], printed: list[str]) -> Iterator[tuple[int, int]]:
    """(number of a line that is not printed, position in what is printed behind the lines before it)."""
    known = [words(line) for line in printed]
    at = 0
    for number, line in enumerate(lines):
        text = words(line)
        if text in ("", "...") or text.startswith(CHANGING):
            continue
        if text in known[at:]:
            at = known.index(text, at) + 1
        else:
            yield number, at


def words(line: str) -> str:
    """A line without its spacing."""
    return " ".join(line.split())


def refreshed(lines: tuple[str, ...], printed: list[str]) -> list[str]:
    """The lines of a block with those that are not printed replaced by the next printed ones that are like them."""
    found, at = list(lines), 0
    for number, line in enumerate(lines):
        text = words(line)
        if text in ("", "...") or text.startswith(CHANGING):
            continue
        scores = [_alike(text, words(other)) for other in printed[at:]]
        best = max(scores, default=0.0)
        if best >= LIKE:
            at += scores.index(best)
            found[number] = printed[at].rstrip()
            at += 1
    return found


def _alike(a: str, b: str) -> float:
    if a == b:
        return 2.0
    masked = [re.sub(r"[0-9][0-9.,]*", "0", text) for text in (a, b)]
    return difflib.SequenceMatcher(None, *masked).ratio()


def printed_by(command: str, folder: Path) -> list[str]:
    """What a command prints in a folder."""
    environment = {**os.environ, "COLUMNS": "160", "PYTHONPATH": str(ROOT)}
    arguments = [sys.executable, "-m", "llmsim", *shlex.split(command)[1:]]
    done = subprocess.run(arguments, cwd=folder, env=environment, capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


def main() -> int:
    """Report or write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    lost: list[str] = []
    for path in DOCUMENTS:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            write_files(path, folder)
            for block in shown(path):
                printed = printed_by(block.command, folder)
                lines = tuple(refreshed(block.lines, printed)) if options.write else block.lines
                if lines != block.lines:
                    _replace(block, lines)
                lost += [f"{path.name}: {lines[number]}" for number, _ in missing(lines, printed)]
    print("\n".join(lost))
    return 1 if lost else 0


def _replace(block: Shown, lines: tuple[str, ...]) -> None:
    """Put other lines into a block."""
    text = block.path.read_text(encoding="utf-8")
    before, after = ("\n".join((f"$ {block.command}", *own)) for own in (block.lines, lines))
    block.path.write_text(text.replace(before, after), encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
