"""Step times, throughput and memory out of the logs of training stacks.

Formats: Megatron-LM and its descendants (a line an iteration with ``elapsed time per iteration (ms)``; memory lines
with ``max allocated`` in MB), torchtitan (``step: 10 ... memory: 44.40GiB(46.74%) tps: 6,190``), DeepSpeed's throughput
timer (``CurrSamplesPerSec=61.3, ... MaxMemAllocated=19.52GB``), and a plain table with a column of step times.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from ..core.errors import InputError
from ..core.units import counted

WARM_UP = 3
"""Logged steps at the start that do not count: compilation, autotuning, the caching allocator."""
FEWEST = 2
"""Steps behind the warm-up that a log must have."""

_ANSI = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
_NUMBER = r"([0-9][0-9,]*(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?)"
_MEGATRON = re.compile(rf"elapsed[ _]time[ _]per[ _]iteration[ _]?\(?ms\)?\s*[:=]\s*{_NUMBER}")
_MEGATRON_BATCH = re.compile(rf"(?:global|gloabl)[ _]batch[ _]size\s*[:=]\s*{_NUMBER}")
_MEGATRON_MEMORY = re.compile(rf"memory \(MB\) \|.*?max allocated:\s*{_NUMBER}(?:.*?max reserved:\s*{_NUMBER})?")
_TITAN = re.compile(rf"\bstep:\s*([0-9,]+)\b.*?\btps:\s*{_NUMBER}")
_TITAN_MEMORY = re.compile(rf"\bmemory:\s*{_NUMBER}\s*GiB")
_DEEPSPEED = re.compile(rf"CurrSamplesPerSec=\s*{_NUMBER}")
_DEEPSPEED_MEMORY = re.compile(rf"MaxMem\s*Allocated=\s*{_NUMBER}\s*GB")
_TIME_COLUMNS = {"step_time_s": 1.0, "step_time_ms": 1e-3, "iteration_time_s": 1.0, "iteration_time_ms": 1e-3,
                 "time_s": 1.0, "seconds": 1.0, "step_s": 1.0, "step_ms": 1e-3}  # fmt: skip
"""Header of a column -> seconds of its unit."""
_MB = 1024**2


@dataclass(frozen=True)
class LoggedRun:
    """What a log says of one run.

    Attributes
    ----------
    format
        Which stack wrote it.
    steps
        Step times in seconds, warm-up left out; or what they follow from (``unit``).
    unit
        ``s``, ``tokens/s`` of one device, or ``samples/s`` of all.
    global_batch
        Sequences of a step, where the log says it.
    memory_bytes
        Kind of figure (``allocated``, ``reserved``) -> the largest.
    """

    format: str
    steps: tuple[float, ...]
    unit: str
    global_batch: int | None = None
    memory_bytes: dict[str, float] = field(default_factory=dict)

    def step_time_s(self, tokens_per_step: int, global_batch: int, n_devices: int) -> float:
        """The median step time of a job that trains so many tokens a step."""
        value = median(self.steps)
        if self.unit == "s":
            return value
        return tokens_per_step / (value * n_devices) if self.unit == "tokens/s" else global_batch / value

    @property
    def spread(self) -> float:
        """Median absolute deviation of the steps over their median."""
        middle = median(self.steps)
        return median(abs(s - middle) for s in self.steps) / middle


def read_log(path: str | Path) -> LoggedRun:
    """What a log says.

    Raises
    ------
    InputError
        For a file that cannot be read, of no format that is known, with too few steps, or with times that cannot be.
    """
    path = Path(path)
    try:
        text = _ANSI.sub("", path.read_text(encoding="utf-8", errors="replace"))
    except OSError as error:
        raise InputError("log", str(path), "a readable file", why=f"cannot be read ({error.strerror})") from None
    for reader in (_megatron, _titan, _deepspeed, _plain):
        found = reader(path, text)
        if found is not None:
            return found
    known = "Megatron-LM, torchtitan or DeepSpeed output, or a table with a column step_time_s"
    raise InputError("log", str(path), known, why="has no step times in a format that is known")


def _megatron(path: Path, text: str) -> LoggedRun | None:
    steps = [(line, 1e-3 * value) for line, value in _found(_MEGATRON, text)]
    if not steps:
        return None
    batches = {int(value) for _, value in _found(_MEGATRON_BATCH, text)}
    if len(batches) > 1:
        raise InputError("log", str(path), "steps of one global batch size", why=f"has several: {sorted(batches)}")
    memory: dict[str, float] = {}
    for match in _MEGATRON_MEMORY.finditer(text):
        for kind, cell in zip(("allocated", "reserved"), match.groups(), strict=True):
            if cell:
                memory[kind] = max(memory.get(kind, 0.0), _number(cell) * _MB)
    return LoggedRun("Megatron-LM", _warm(path, steps), "s", next(iter(batches), None), memory)


def _titan(path: Path, text: str) -> LoggedRun | None:
    steps = []
    for number, line in enumerate(text.splitlines(), 1):
        match = _TITAN.search(line)
        if match:
            steps.append((number, _number(match[2])))
    if not steps:
        return None
    memory = [value * 1024**3 for _, value in _found(_TITAN_MEMORY, text)]
    return LoggedRun("torchtitan", _warm(path, steps), "tokens/s", None, {"reserved": max(memory)} if memory else {})


def _deepspeed(path: Path, text: str) -> LoggedRun | None:
    steps = list(_found(_DEEPSPEED, text))
    if not steps:
        return None
    memory = [value * 1024**3 for _, value in _found(_DEEPSPEED_MEMORY, text) if value > 0]
    return LoggedRun("DeepSpeed", _warm(path, steps), "samples/s", None, {"allocated": max(memory)} if memory else {})


def _plain(path: Path, text: str) -> LoggedRun | None:
    """A table with a header, or a single column of seconds without one."""
    rows = [row for row in csv.reader(io.StringIO(text)) if any(cell.strip() for cell in row)]
    if not rows:
        raise InputError("log", str(path), "at least one step", why="is empty")
    header = [cell.strip().lower() for cell in rows[0]]
    column = next((n for n, name in enumerate(header) if name in _TIME_COLUMNS), None)
    if column is None and len(header) > 1:
        return None
    factor, start = (1.0, 0) if column is None else (_TIME_COLUMNS[header[column]], 1)
    steps: list[tuple[int, float]] = []
    for number, row in enumerate(rows[start:], start + 1):
        cell = row[column or 0].strip() if len(row) > (column or 0) else ""
        try:
            steps.append((number, factor * float(cell)))
        except ValueError:
            if column is None:
                return None
            raise InputError(f"{path}, line {number}", cell, "a number") from None
    return LoggedRun("table", _warm(path, steps), "s")


def _found(pattern: re.Pattern[str], text: str) -> Iterator[tuple[int, float]]:
    """(line, number) of every match."""
    for number, line in enumerate(text.splitlines(), 1):
        for match in pattern.finditer(line):
            yield number, _number(match[1])


def _number(text: str) -> float:
    return float(text.replace(",", ""))


def _warm(path: Path, steps: list[tuple[int, float]]) -> tuple[float, ...]:
    """Without the warm-up."""
    for line, value in steps:
        if not 0 < value < 1e12:
            raise InputError(f"{path}, line {line}", value, "a number above 0", why="cannot be a step")
    kept = steps[WARM_UP:] if len(steps) >= WARM_UP + FEWEST else []
    if not kept:
        why = f"has {counted(len(steps), 'step')}, of which the first {WARM_UP} are warm-up"
        raise InputError("log", str(path), f"at least {WARM_UP + FEWEST} logged steps", why=why)
    return tuple(value for _, value in kept)
