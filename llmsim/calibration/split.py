"""Which pairs of framework and model the shipped constants are fitted on, and which are held out to judge them."""

from __future__ import annotations

import csv
import hashlib
import io
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

from ..core.errors import InputError
from ..hardware.software import framework_name
from .links import linked
from .table import MeasuredRun

Pair = tuple[str, str]
"""(framework by its profile's name, model)."""

HELD_OUT = 0.15
"""Share of each framework's units that is held out, rounded; at least one of four or more."""

_HEADER = ("framework", "model", "rows", "part")
_PARTS = ("fit", "held out")


def pair_of(run: MeasuredRun) -> Pair:
    """The pair of a row."""
    return framework_name(run["framework"]), run["model"]


def draw_split(rows: Iterable[tuple[Pair, str]]) -> set[Pair]:
    """The pairs to fit on, drawn from the (pair, group) of each row.

    Pairs that share a group are one unit. Within each framework units are ordered by the SHA-256 of their names and the
    first are held out, so that the draw depends on names alone: neither on the order of the rows nor on any figure.
    """
    by_framework: dict[str, list[tuple[Pair, ...]]] = defaultdict(list)
    for unit in sorted({tuple(sorted(members)) for members in linked(rows).values()}):
        by_framework[unit[0][0]].append(unit)
    kept: set[Pair] = set()
    for units in by_framework.values():
        units.sort(key=lambda unit: hashlib.sha256(";".join(map("|".join, unit)).encode()).hexdigest())
        count = max(1, round(HELD_OUT * len(units))) if len(units) >= 4 else 0
        kept.update(pair for unit in units[count:] for pair in unit)
    return kept


def split_text(runs: Sequence[MeasuredRun]) -> str:
    """The split of a run table as a CSV file: one line a pair."""
    pairs = [pair_of(run) for run in runs]
    kept = draw_split(zip(pairs, (run.group for run in runs), strict=True))
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(_HEADER)
    for pair, rows in sorted(Counter(pairs).items()):
        writer.writerow([*pair, rows, _PARTS[pair not in kept]])
    return out.getvalue()


def read_split(path: Path) -> set[Pair]:
    """The pairs to fit on from such a file.

    Raises
    ------
    InputError
        For a file that cannot be read or is not such a table, with the line.
    """
    try:
        lines = list(csv.reader(io.StringIO(path.read_text(encoding="utf-8"), newline=""), strict=True))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError("split", str(path), "a readable CSV file", why=f"cannot be read ({error})") from None
    if not lines or tuple(lines[0]) != _HEADER:
        raise InputError(f"{path}, line 1", lines[0] if lines else "", f"the header {', '.join(_HEADER)}")
    kept: set[Pair] = set()
    for number, cells in enumerate(lines[1:], start=2):
        if len(cells) != len(_HEADER) or cells[3] not in _PARTS:
            raise InputError(f"{path}, line {number}", cells, f"framework, model, rows and one of {', '.join(_PARTS)}")
        if cells[3] == "fit":
            kept.add((cells[0], cells[1]))
    return kept
