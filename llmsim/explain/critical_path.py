"""The critical path of a pipeline: how often each pass and each hop is on it.

The longest path is computed by the same code as a simulated step's, on numbers that carry their parts with them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from operator import add
from typing import Any, TypeAlias

from ..core.pipelines import ScheduleName, schedule_facts
from ..core.shim import Number
from ..core.symbolic import Symbolic
from ..training.longest_path import pipeline_seconds


class Parts:
    """A sum of parts as how often each is in it."""

    __slots__ = ("counts",)

    def __init__(self, counts: tuple[Any, ...]):
        self.counts = counts

    def __add__(self, other: Parts | float) -> Parts:
        return Parts(tuple(map(add, self.counts, other.counts))) if isinstance(other, Parts) else self

    __radd__ = __add__

    def __neg__(self) -> Parts:
        return self * -1

    def __sub__(self, other: Parts | float) -> Parts:
        return self + -other if isinstance(other, Parts) else self

    def __mul__(self, factor: int) -> Parts:
        return Parts(tuple(count * factor for count in self.counts))

    __rmul__ = __mul__

    def __truediv__(self, divisor: int) -> Parts:
        return Parts(tuple(Fraction(count) / divisor for count in self.counts))


@dataclass(frozen=True)
class OnPath:
    """A time on the critical path.

    Attributes
    ----------
    time
        Seconds of one pass, or of one hop.
    count, slope
        How often it is there, and how much more often with one more micro-batch.
    """

    time: Number
    count: Fraction
    slope: Fraction


Passes: TypeAlias = tuple[Number, Number, Number]
"""Seconds of a forward pass, of a backward pass without what may run later, and of that."""


def critical_path(
    schedule: ScheduleName, passes: Sequence[Sequence[Passes]], saved: Sequence[Number], hop: Number, micro_batches: int
) -> list[OnPath]:
    """What is on the critical path, and how often.

    Parameters
    ----------
    passes
        ``[device][chunk]``.
    saved
        What passes side by side take less, by device; of no effect where none are.
    """
    step = _period(schedule, len(passes))
    times = {id(t): t for t in (*(t for row in passes for own in row for t in own), *saved, hop) if float(t)}
    now = _counts(schedule, passes, saved, hop, micro_batches, list(times))
    later = _counts(schedule, passes, saved, hop, micro_batches + step, list(times))
    found = []
    for time, count, more in zip(times.values(), now, later, strict=True):
        slope = (more - count) / step
        if count:
            found.append(OnPath(time, count, slope if slope.denominator <= 2 else Fraction(0)))
    return found


def _period(schedule: ScheduleName, pp: int) -> int:
    """After how many micro-batches more a schedule looks the same again: a group of interleaving, or one from either
    end."""
    facts = schedule_facts(schedule)
    if facts.chunks == "several":
        return pp
    return 2 if facts.shape == "both" else 1


def _counts(
    schedule: ScheduleName,
    passes: Sequence[Sequence[Passes]],
    saved: Sequence[Number],
    hop: Number,
    micro_batches: int,
    keys: Sequence[int],
) -> list[Fraction]:
    known = {key: tuple(int(other == key) for other in keys) for key in keys}

    def number(time: Number) -> Number:
        return Symbolic(Parts(known[id(time)]), float(time)) if float(time) else 0.0

    forward = [[number(f) for f, _, _ in row] for row in passes]
    backward = [[number(b) + number(w) for _, b, w in row] for row in passes]
    facts = schedule_facts(schedule)
    later = [[number(w) for _, _, w in row] for row in passes] if facts.split else None
    less = [number(s) for s in saved] if facts.paired else None
    whole = pipeline_seconds(schedule, forward, backward, micro_batches, number(hop), later, less)
    return [Fraction(count) for count in whole.expr.counts]
