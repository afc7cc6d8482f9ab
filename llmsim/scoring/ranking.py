"""Whether predictions put plans into the right order: rank correlation and regret over sets of comparable runs.

References
----------
Kendall 1945, The treatment of ties in ranking problems, Biometrika 33 (tau-b).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..calibration.intervals import SAME_JOB
from ..calibration.table import MeasuredRun

SAME = (*SAME_JOB, "framework_release")
"""What the runs of a set have in common; they differ in their mapping or micro-batch."""

SMALLEST = 4
"""Runs that a set needs."""


def tau_b(first: np.ndarray, second: np.ndarray) -> float:
    """Kendall's rank correlation with ties: 1 for the same order, -1 for the reverse, 0 where one is all ties."""
    rows, columns = np.triu_indices(len(first), 1)
    a, b = np.sign(first[rows] - first[columns]), np.sign(second[rows] - second[columns])
    scale = np.sqrt(np.count_nonzero(a) * np.count_nonzero(b))
    return float(np.sum(a * b) / scale) if scale else 0.0


def regret(measured: np.ndarray, predicted: np.ndarray) -> float:
    """What the predicted best costs over the measured best: measured time of the former over the latter's, less one.

    Of several predicted best the worst counts.
    """
    best = measured[predicted == predicted.min()]
    return float(best.max() / measured.min() - 1)


@dataclass(frozen=True)
class RankedSet:
    """Runs that a user would choose between.

    Attributes
    ----------
    name
        What they have in common.
    runs
        How many.
    tau, regret
        Of the predictions.
    """

    name: str
    runs: int
    tau: float
    regret: float


def ranked_sets(runs: Sequence[MeasuredRun], predicted_s: Mapping[str, float]) -> list[RankedSet]:
    """Correlation and regret of each set; runs without a measured time or a prediction are not in it.

    Parameters
    ----------
    predicted_s
        Row id -> predicted seconds.
    """
    found: list[RankedSet] = []
    times = {run.id: float(run.step_time_s or 0) for run in runs}
    for key, rows in set_keys([run for run in runs if run.id in predicted_s]).items():
        measured = np.array([times[row] for row in rows])
        predicted = np.array([predicted_s[row] for row in rows])
        name = " ".join(part for part in key if part)
        found.append(RankedSet(name, len(rows), tau_b(measured, predicted), regret(measured, predicted)))
    return found


def set_keys(runs: Sequence[MeasuredRun]) -> dict[tuple[str, ...], list[str]]:
    """What the runs of each set have in common -> their row ids; runs without a measured time are in none."""
    sets: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for run in runs:
        if run.step_time_s is not None:
            sets[tuple(run[column] for column in SAME)].append(run.id)
    return {key: rows for key, rows in sets.items() if len(rows) >= SMALLEST}
