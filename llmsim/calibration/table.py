"""Tables of measured training runs: the columns, and a reader that refuses what it cannot trust by line and column."""

from __future__ import annotations

import csv
import difflib
import io
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..core.errors import InputError, unread

COLUMNS = (
    "id", "group", "source", "model", "hardware", "n_devices", "devices_per_node", "interconnect", "framework",
    "framework_release", "precision", "sequence_length", "global_batch_size", "micro_batch_size", "tensor_parallel",
    "pipeline_parallel", "virtual_pipeline", "context_parallel", "expert_parallel", "data_parallel", "sharding",
    "sequence_parallel", "recompute", "offload", "overlap", "optimizer", "routing", "step_time_s",
    "tokens_per_s_per_device", "tflops_per_device", "flops_convention", "memory_gib", "memory_kind", "out_of_memory",
    "notes",
)  # fmt: skip
"""Columns of a run table, in its order."""

OPTIONAL = (
    "fabric", "scale_up_domain", "software_date", "recompute_setting", "offload_activations", "overlap_setting",
    "schedule", "dispatcher", "packed", "fine_tuning",
)  # fmt: skip
"""Further columns, which say in the names of profiles and plans what is otherwise read from the free text of
``interconnect``, ``source``, ``recompute``, ``offload``, ``overlap``, ``framework`` and ``notes``. An empty cell says
nothing: the text is read."""

REQUIRED = (
    "id", "model", "hardware", "n_devices", "framework", "precision", "sequence_length", "global_batch_size",
    "micro_batch_size", "tensor_parallel", "pipeline_parallel", "data_parallel",
)  # fmt: skip
"""Columns that no table may lack and no row may leave empty."""

MEASURED = ("step_time_s", "tokens_per_s_per_device", "memory_gib", "out_of_memory")
"""Columns of which a table needs at least one."""

MEMORY_KINDS = ("allocated", "reserved", "device")
"""What a memory figure counts: tensors, what the caching allocator holds, what the driver sees."""

_COUNTS: Mapping[str, float] = {
    # whole numbers, and above what they are absurd
    "n_devices": 1e7, "devices_per_node": 1024, "sequence_length": 1e9, "global_batch_size": 1e9,
    "micro_batch_size": 1e9, "tensor_parallel": 1e6, "pipeline_parallel": 1e6, "virtual_pipeline": 1e6,
    "context_parallel": 1e6, "expert_parallel": 1e6, "data_parallel": 1e6, "scale_up_domain": 1e7,
}  # fmt: skip
_MEASURES: Mapping[str, float] = {
    # measured numbers: seconds, tokens/s, TFLOP/s, GiB
    "step_time_s": 1e7, "tokens_per_s_per_device": 1e10, "tflops_per_device": 1e7, "memory_gib": 1e6,
}  # fmt: skip
_SHARES = ("offload_activations",)
_FLAGS = ("sequence_parallel", "out_of_memory", "packed", "fine_tuning")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?|[+-]?nan|[+-]?inf(inity)?", re.IGNORECASE)


@dataclass(frozen=True)
class MeasuredRun:
    """One row of a run table.

    Attributes
    ----------
    line
        In the file, counted from 1 for the header.
    values
        Column -> text as it stands, empty where unknown.
    """

    line: int
    values: Mapping[str, str]

    def __getitem__(self, column: str) -> str:
        return self.values.get(column, "")

    @property
    def id(self) -> str:
        """Row id."""
        return self["id"]

    @property
    def group(self) -> str:
        """Unit of scoring; the id where the table has none."""
        return self["group"] or self.id

    def count(self, column: str, default: int = 1) -> int:
        """A whole number, or the default where the cell is empty."""
        return int(float(self[column])) if self[column] else default

    @property
    def step_time_s(self) -> float | None:
        """Measured step time, seconds; from the throughput where only that is given."""
        if self["step_time_s"]:
            return float(self["step_time_s"])
        if self["tokens_per_s_per_device"]:
            return self.tokens_per_step / (float(self["tokens_per_s_per_device"]) * self.count("n_devices"))
        return None

    @property
    def tokens_per_step(self) -> int:
        """Tokens of a step."""
        return self.count("global_batch_size") * self.count("sequence_length")

    @property
    def memory_gib(self) -> float | None:
        """Measured peak memory per device, GiB."""
        return float(self["memory_gib"]) if self["memory_gib"] else None

    @property
    def out_of_memory(self) -> bool | None:
        """Whether the source reports that it did not fit; None where it says nothing."""
        return self.flag("out_of_memory")

    def flag(self, column: str) -> bool | None:
        """Yes or no; None where the cell is empty."""
        return {"true": True, "false": False}.get(self[column].lower())


def read_runs(path: str | Path, *, repeats: bool = False) -> list[MeasuredRun]:
    """The rows of a run table. Columns that we do not know are left alone, unless one looks like a slip of the pen.

    Parameters
    ----------
    repeats
        Whether one measurement may stand there under two ids: it is scored twice, but a fit would count it twice.

    Raises
    ------
    InputError
        With line and column: a file that is no text or no CSV, a missing or repeated column, a line with too few or
        too many cells, an empty required cell, a number that is none, NaN, zero, negative or absurd, an id that was
        there before, one measurement under two ids.
    """
    path = Path(path)
    records = list(_records(path, _text(path)))
    if not records:
        raise InputError("runs", str(path), "a header line and at least one row", why="is empty")
    header = _header(path, *records[0])
    rows = [_row(path, line, header, cells) for line, cells in records[1:]]
    if not rows:
        raise InputError("runs", str(path), "at least one row after the header", why="has a header and no rows")
    _check_ids(path, rows)
    if not repeats:
        _check_measurements(path, rows)
    return rows


def _text(path: Path) -> str:
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except (OSError, ValueError) as error:
        raise InputError("runs", str(path), "a readable CSV file", why=f"cannot be read ({unread(error)})") from None
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise InputError(f"{path}, line {line}", "\0", "text", why="is binary data")
    return text


def _records(path: Path, text: str) -> Iterator[tuple[int, list[str]]]:
    """(line on which a record begins, its cells); empty lines are left out."""
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    line = 1
    try:
        for cells in reader:
            if cells:
                yield line, cells
            line = reader.line_num + 1
    except csv.Error as error:
        why = f"is broken or cut off ({error})"
        raise InputError(f"{path}, line {line}", text[-60:], "well-formed CSV", why=why) from None


def _header(path: Path, line: int, cells: Sequence[str]) -> list[str]:
    header = [c.strip() for c in cells]
    where, shown = f"{path}, line {line}", ", ".join(header)[:80]
    for column in REQUIRED:
        if column not in header:
            near = difflib.get_close_matches(column, header, 1)
            raise InputError(where, shown, f"the columns {', '.join(REQUIRED)}", near, why=f"lacks the column {column}")
    if not set(MEASURED) & set(header):
        raise InputError(where, shown, f"at least one of {', '.join(MEASURED)}", why="measures nothing")
    for column in header:
        if header.count(column) > 1:
            raise InputError(where, column, "each column once", why="is there twice")
        slip = difflib.get_close_matches(column.lower(), {*COLUMNS, *OPTIONAL} - set(header), 1, 0.85)
        if column not in (*COLUMNS, *OPTIONAL) and slip:
            raise InputError(where, column, "a column of a run table", slip[0], why="is an unknown column")
    return header


def _row(path: Path, line: int, header: Sequence[str], cells: Sequence[str]) -> MeasuredRun:
    where = f"{path}, line {line}"
    if len(cells) < len(header):
        column = header[len(cells)]
        raise InputError(f"{where}, {column}", f"{len(cells)} cells", f"{len(header)} cells", why="is cut off here")
    if len(cells) > len(header):
        raise InputError(f"{where}, after {header[-1]}", f"{len(cells)} cells", f"{len(header)} cells", why="goes on")
    values = {column: cell.strip() for column, cell in zip(header, cells, strict=True)}
    for column in REQUIRED:
        if not values[column]:
            raise InputError(f"{where}, {column}", "", "a value", why="is empty")
    for column, cell in values.items():
        if not cell:
            continue
        if column in _COUNTS:
            _check_number(f"{where}, {column}", cell, _COUNTS[column], whole=True)
        elif column in _MEASURES:
            _check_number(f"{where}, {column}", cell, _MEASURES[column], whole=False)
        elif column in _SHARES and not (_NUMBER.fullmatch(cell) and 0 <= float(cell) <= 1):
            raise InputError(f"{where}, {column}", cell, "a share from 0 to 1")
        elif column in _FLAGS and cell.lower() not in ("true", "false"):
            raise InputError(f"{where}, {column}", cell, "true, false or empty")
    kind = values.get("memory_kind", "")
    if kind not in ("", *MEMORY_KINDS):
        near = difflib.get_close_matches(kind, MEMORY_KINDS, 1)
        raise InputError(f"{where}, memory_kind", kind, f"{', '.join(MEMORY_KINDS)} or empty", near)
    return MeasuredRun(line, values)


def _check_number(where: str, cell: str, limit: float, *, whole: bool) -> None:
    kind = f"a whole number from 1 to {limit:,.0f}" if whole else f"a number above 0 and up to {limit:,.0f}"
    if not _NUMBER.fullmatch(cell):
        raise InputError(where, cell, kind, why="is not a number")
    value = float(cell)
    if not math.isfinite(value) or not 0 < value <= limit or (whole and value != int(value)):
        raise InputError(where, cell, kind)


def _check_ids(path: Path, rows: Sequence[MeasuredRun]) -> None:
    seen: dict[str, int] = {}
    for row in rows:
        if row.id in seen:
            why = f"stands on line {seen[row.id]} already"
            raise InputError(f"{path}, line {row.line}, id", row.id, "an id of its own for each row", why=why)
        seen[row.id] = row.line


_EXACT_DIGITS = 4
"""Significant digits of a measured figure that no second measurement is likely to repeat."""


def _check_measurements(path: Path, rows: Sequence[MeasuredRun]) -> None:
    """Refuse a measurement that stands in the table twice: two rows that differ in nothing but ids and notes."""
    seen: dict[tuple[str, ...], MeasuredRun] = {}
    for row in rows:
        if not any(_digits(row[column]) >= _EXACT_DIGITS for column in _MEASURES):
            continue
        key = tuple(row[column] for column in (*COLUMNS, *OPTIONAL) if column not in ("id", "notes"))
        if key in seen:
            why = f"is the measurement of line {seen[key].line}, {seen[key].id!r}, again"
            raise InputError(f"{path}, line {row.line}, id", row.id, "each measurement once", why=why)
        seen[key] = row


def _digits(cell: str) -> int:
    """Significant digits of a number as it is written."""
    mantissa = cell.lower().partition("e")[0]
    return len(re.sub(r"[^0-9]", "", mantissa).lstrip("0"))
