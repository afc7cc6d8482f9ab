"""How good intervals are: how often they hold what is measured, how wide they are, and both in one score.

References
----------
Winkler 1972, A decision-theoretic approach to interval estimation, JASA 67; Gneiting and Raftery 2007, Strictly proper
scoring rules, JASA 102.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..calibration.intervals import COVERAGE
from .result import Entry

REJECTED = 0.05
"""A coverage is called wrong where chance would be as far off in fewer cases than this."""


@dataclass(frozen=True)
class Intervals:
    """80 % intervals of step times against what was measured, by group of runs first, then over groups.

    Attributes
    ----------
    groups
        With an interval.
    coverage
        Mean over groups of the share of rows inside their interval.
    groups_inside
        Groups of which the median distance from the prediction is within the median width: what a width is made for.
    p_value
        Of so many groups or so few, two-sided binomial, if each were inside with a chance of 80 %.
    width
        Mean of upper over lower end, less one.
    winkler, winkler_same
        Mean interval score of the logarithm of the step time, the lower the better: of these intervals, and of one
        width for all rows, which was made from the same predictions.
    """

    groups: int
    coverage: float
    groups_inside: int
    p_value: float
    width: float
    winkler: float
    winkler_same: float | None

    @property
    def rejected(self) -> bool:
        """Whether the coverage is too far from 80 % for chance."""
        return self.p_value < REJECTED


def interval_score(distance: np.ndarray, width: np.ndarray) -> np.ndarray:
    """Winkler's score of symmetric intervals: their width, and ten times (2 / 20 %) by how much they were missed.

    Parameters
    ----------
    distance
        Of what was measured from the centre.
    width
        Half the width.
    """
    return np.asarray(2 * width + 2 / (1 - COVERAGE) * np.maximum(0, distance - width))


def intervals(entries: Sequence[Entry], same_widths: Mapping[str, float | None]) -> Intervals | None:
    """Scores of the intervals of some entries; None where no entry has one.

    Parameters
    ----------
    same_widths
        Row id -> half the width of the interval that is the same for all, as a logarithm.
    """
    from scipy.stats import binomtest

    groups: dict[str, list[tuple[float, float, float]]] = defaultdict(list)
    for entry in entries:
        if entry.low and entry.high and entry.predicted:
            half = math.log(entry.high / entry.low) / 2
            same = same_widths.get(entry.id)
            distance = abs(math.log(entry.predicted / entry.measured))
            groups[entry.group].append((distance, half, math.nan if same is None else same))
    if not groups:
        return None
    own = [np.array(rows).T for rows in groups.values()]
    inside = sum(bool(np.median(distance) <= np.median(half)) for distance, half, _ in own)
    same_score = float(np.mean([interval_score(distance, same).mean() for distance, _, same in own]))
    return Intervals(
        groups=len(own),
        coverage=float(np.mean([np.mean(distance <= half) for distance, half, _ in own])),
        groups_inside=inside,
        p_value=float(binomtest(inside, len(own), COVERAGE).pvalue),
        width=float(np.mean([np.expm1(2 * half).mean() for _, half, _ in own])),
        winkler=float(np.mean([interval_score(distance, half).mean() for distance, half, _ in own])),
        winkler_same=None if math.isnan(same_score) else same_score,
    )
