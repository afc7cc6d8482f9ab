"""Documents that show what commands and code print, held against what they do print.

    python tools/documents.py           # which lines of which documents are not printed any more
    python tools/documents.py --write   # put the line that is printed instead of each, where one is like it

Blocks of a document run in their order, in one folder:

- a line ``$ ...`` is a command, the lines below it are some of those that it prints, ``...`` stands for others;
- Python is run, all blocks of a document in one namespace; a ``text`` block right below is what it prints;
- a block with ``title="NAME"``, or a YAML block whose first line is a comment with a name, is that file;
- any other block needs a comment ``<!-- not run: REASON -->`` in front of it.
"""

from __future__ import annotations

import argparse
import contextlib
import difflib
import io
import os
import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
TUTORIALS = tuple(sorted((ROOT / "docs" / "tutorials").glob("*.md")))
DOCUMENTS = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *TUTORIALS)
BLOCK = re.compile(
    r"(?:<!-- not run: (?P<reason>[^>]+) -->\n+)?"
    r"^```(?P<language>\w*)(?: title=\"(?P<title>[^\"]+)\")?[^\n]*\n(?P<text>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
CHANGING = re.compile(r"^search time|equals the simulation to")
"""Lines that no two runs or machines agree on."""
LIKE = 0.7
REFUSED = "llmsim: "
"""How the line begins that a command prints which is shown to fail."""

Run = Callable[[str, Path], str]
"""What a command prints in a folder, its error stream included."""


@dataclass(frozen=True)
class Block:
    """A fenced block of a document.

    Attributes
    ----------
    kind
        ``file``, ``command``, ``python``, ``printed`` (by the Python block above it), ``not run`` or ``unknown``.
    name
        Of the file, or the reason why it is not run.
    text
        What is between the fences, which begins at ``start`` in the document.
    """

    kind: str
    name: str
    text: str
    start: int


@dataclass(frozen=True)
class Shown:
    """Lines that a document shows.

    Attributes
    ----------
    start, end
        Where they are in the document.
    lines
        What is said to be printed.
    """

    start: int
    end: int
    lines: tuple[str, ...]


def blocks(path: Path) -> list[Block]:
    """The fenced blocks of a document, in order."""
    text = path.read_text(encoding="utf-8")
    found: list[Block] = []
    end = 0
    for match in BLOCK.finditer(text):
        below = found and found[-1].kind == "python" and text[end : match.start()].strip() == ""
        kind, name = _kind(match, bool(below))
        found.append(Block(kind, name, match["text"], match.start("text")))
        end = match.end()
    return found


def _kind(match: re.Match[str], below_python: bool) -> tuple[str, str]:
    named = re.match(r"# (\S+\.yaml)\n", match["text"]) if match["language"] == "yaml" else None
    name = match["title"] or (named[1] if named else "")
    if match["reason"]:
        return "not run", match["reason"]
    if name:
        return "file", name
    if match["text"].startswith("$ "):
        return "command", ""
    if match["language"] == "python":
        return "python", ""
    return ("printed" if below_python and match["language"] == "text" else "unknown"), ""


def outcomes(path: Path, folder: Path, run: Run) -> Iterator[tuple[Shown, list[str]]]:
    """What a document shows, and what is printed when its blocks run in a folder."""
    names: dict[str, Any] = {"__name__": path.stem}
    said = ""
    before: tuple[str, str] | None = None
    for block in blocks(path):
        if block.kind == "file":
            (folder / block.name).write_text(block.text, encoding="utf-8")
        elif block.kind == "python":
            said = _said_by(block.text, f"{path.name}: Python block", folder, names)
        elif block.kind == "printed":
            yield Shown(block.start, block.start + len(block.text), tuple(block.text.splitlines())), said.splitlines()
        if block.kind != "command":
            before = before if block.kind == "not run" else None
            continue
        for command, shown in _commands(block):
            # Parts of one answer, shown one after the other, come from one run.
            text = before[1] if before and before[0] == command else run(command, folder)
            before = (command, text)
            yield shown, text.splitlines()


def _commands(block: Block) -> Iterator[tuple[str, Shown]]:
    for match in re.finditer(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", block.text, re.MULTILINE):
        start, end = (block.start + at for at in match.span(2))
        yield match[1], Shown(start, end, tuple(match[2].splitlines()))


def _said_by(code: str, name: str, folder: Path, names: dict[str, Any]) -> str:
    stream = io.StringIO()
    with contextlib.chdir(folder), contextlib.redirect_stdout(stream):
        exec(compile(code, name, "exec"), names)
    return stream.getvalue()


def missing(lines: tuple[str, ...], printed: list[str]) -> Iterator[tuple[int, int]]:
    """(number of a line that is not printed, position in what is printed behind the lines before it)."""
    known = [words(line) for line in printed]
    at = 0
    for number, line in enumerate(lines):
        text = words(line)
        if text in ("", "...") or CHANGING.search(text):
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
        if text in ("", "...") or CHANGING.search(text):
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


def in_a_shell(command: str, folder: Path) -> str:
    """What a command prints, run by itself."""
    environment = {**os.environ, "COLUMNS": "160", "PYTHONPATH": str(ROOT)}
    llmsim = command.startswith("llmsim ")
    arguments = [sys.executable, "-m", *shlex.split(command)] if llmsim else ["bash", "-c", command]
    done = subprocess.run(arguments, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    if done.returncode and not done.stderr.startswith(REFUSED):
        raise RuntimeError(f"{command}\n{done.stderr}")
    return done.stdout + done.stderr


def main() -> int:
    """Report or write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    lost: list[str] = []
    for path in DOCUMENTS:
        with tempfile.TemporaryDirectory() as name:
            found = list(outcomes(path, Path(name), in_a_shell))
        text = path.read_text(encoding="utf-8")
        for shown, printed in reversed(found):
            lines = tuple(refreshed(shown.lines, printed)) if options.write else shown.lines
            if lines != shown.lines:
                text = text[: shown.start] + "\n".join((*lines, "")) + text[shown.end :]
            lost += [f"{path.name}: {lines[number]}" for number, _ in missing(lines, printed)]
        if text != path.read_text(encoding="utf-8"):
            path.write_text(text, encoding="utf-8")
    print("\n".join(lost))
    return 1 if lost else 0


if __name__ == "__main__":
    sys.exit(main())
