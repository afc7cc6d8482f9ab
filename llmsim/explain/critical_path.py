"""The critical path of a pipeline: how often each pass and each hop is on it.

The longest path is computed by the same code as a simulated step's, on numbers that carry their parts with them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from ..core.numeric import Number
from ..core.pipelines import ScheduleName, schedule_facts
from ..training.pipeline_time import ChunkTimes, Passes

_LANE = 64
"""Bits of one count."""


class Carried(float):
    """Seconds, and how often each part is in them: counts side by side in one whole number, which add at once."""

    __slots__ = ("counts",)
    counts: Fraction | int

    def __new__(cls, seconds: float, counts: Fraction | int) -> Carried:
        """Seconds, and the counts in lanes of 64 bits."""
        found = super().__new__(cls, seconds)
        found.counts = counts
        return found

    def __add__(self, other: float) -> Carried:
        return Carried(float.__add__(self, other), self.counts + _counts_of(other))

    __radd__ = __add__

    def __sub__(self, other: float) -> Carried:
        return Carried(float.__sub__(self, other), self.counts - _counts_of(other))

    def __mul__(self, factor: float) -> Carried:
        return Carried(float.__mul__(self, factor), self.counts * int(factor))

    __rmul__ = __mul__

    def __truediv__(self, divisor: float) -> Carried:
        return Carried(float.__truediv__(self, divisor), Fraction(self.counts) / int(divisor))


def _counts_of(seconds: float) -> Fraction | int:
    return seconds.counts if isinstance(seconds, Carried) else 0


def _unpacked(counts: Fraction | int, lanes: int) -> list[Fraction]:
    whole, found = Fraction(counts), []
    rest = whole.numerator
    for _ in range(lanes):
        lane = rest & (1 << _LANE) - 1
        lane -= (lane >> _LANE - 1) << _LANE  # a negative count borrows from its neighbour
        found.append(Fraction(lane, whole.denominator))
        rest = (rest - lane) >> _LANE
    return found


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
    lane = {key: 1 << _LANE * i for i, key in enumerate(keys)}

    def number(time: Number) -> float:
        return Carried(float(time), lane[id(time)]) if float(time) else 0.0

    chunks = ChunkTimes.of([[(number(f), number(i), number(w)) for f, i, w in row] for row in passes])
    whole = chunks.seconds(schedule, micro_batches, number(hop), list(map(number, saved)))
    return _unpacked(whole.counts, len(keys))
