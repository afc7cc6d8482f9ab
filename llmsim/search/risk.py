"""Risk: the chance that another plan is faster than the winner, and the choice by a percentile of the step time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist

import numpy as np

from ..core.errors import InputError
from ..timing.intervals import NORMAL_80
from ..training.result import TrainingResult


def chance_faster(first: TrainingResult, second: TrainingResult, width: float | None) -> float | None:
    """The chance that a second plan of a job is faster than a first.

    The difference of the logarithms of their times is taken as normal: what comparisons are off by, and what the draws
    of constants that no run has moved leave after those that both plans share.

    Parameters
    ----------
    width
        Half the width of the 80 % interval of the ratio of two plans' times, as a logarithm; None where nothing is
        known, and then the chance is None.
    """
    if width is None:
        return None
    apart = float(np.std(second.prior_uncertainty.log_ratios - first.prior_uncertainty.log_ratios))
    deviation = math.hypot(width / NORMAL_80, apart)
    return NormalDist().cdf(math.log(first.step_time_s / second.step_time_s) / deviation)


def check_percentile(percentile: float) -> None:
    """Refuse what is no percentile.

    Raises
    ------
    InputError
        For a number that is not between 0 and 100.
    """
    if not 0 < percentile < 100:  # so that NaN is refused
        raise InputError("percentile", percentile, "a number above 0 and below 100", 90)


def percentile_s(result: TrainingResult, percentile: float) -> float:
    """Seconds that a step does not exceed in so many of 100 cases: the log-normal time whose 80 % interval is the
    step's, with its own draws.

    Raises
    ------
    InputError
        Where the interval of the step is not known.
    """
    if result.step_width is None:
        raise InputError(
            "percentile", percentile, "nothing", why="needs measured runs like this job, there are too few"
        )
    deviation = result.step_width / NORMAL_80
    return result.step_time_s * math.exp(NormalDist().inv_cdf(percentile / 100) * deviation)


def by_percentile(results: Sequence[TrainingResult], percentile: float) -> list[TrainingResult]:
    """Plans in the order of their times at a percentile.

    Raises
    ------
    InputError
        Where the interval of a step is not known.
    """
    return sorted(results, key=lambda result: percentile_s(result, percentile))
