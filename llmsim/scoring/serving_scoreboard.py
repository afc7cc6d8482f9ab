"""How far predictions of servers are off that no constant has seen, with baselines from the same folds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..calibration.intervals import COVERAGE, weighted_quantile
from ..calibration.links import linked
from ..calibration.serving.calibrate import serving_runs
from ..calibration.serving.fit import METRICS, ServingData, fit_serving
from ..calibration.serving.replays import REPLAYED, replayed_run
from ..calibration.serving.runs import ServingRun
from .serving import FOLDS
from .serving_baselines import BASELINES, TokenTimes, with_measured_rows

FEWEST_ROWS = 8
"""Rows of a group from which on it counts for latencies under a fixed concurrency."""
MISSING = float(np.log(2))
"""Logarithm that stands for a row that is not answered: wrong by 100 %."""
KINDS: dict[str, tuple[str, tuple[str, ...], int]] = {
    "time per output token": ("tpot_s", ("closed", "waves"), FEWEST_ROWS),
    "time to first token": ("ttft_s", ("closed", "waves"), FEWEST_ROWS),
    "static batches, throughput": ("output_tokens_per_s", ("static",), 1),
    "first tokens of single prompts": ("ttft_s", ("first token",), 1),
    "offline, throughput": ("output_tokens_per_s", ("offline",), 1),
}
"""What is scored: metric, loads and least rows of a group."""


@dataclass(frozen=True)
class Score:
    """Errors over groups, as shares.

    Attributes
    ----------
    split, what, method
        What was left out, what is predicted, and by what.
    groups, rows
        How many.
    median, p90, worst
        Median over groups of their medians and of their 90th percentiles, and the worst group's median.
    coverage
        Share of the rows within 80 % intervals from other groups, mean over groups; None for baselines.
    """

    split: str
    what: str
    method: str
    groups: int
    rows: int
    median: float
    p90: float
    worst: float
    coverage: float | None = None


@dataclass(frozen=True)
class ServingBoard:
    """All scores, and the groups of the first split: what is predicted -> group -> (rows, median, p90, bias)."""

    scores: tuple[Score, ...]
    groups: dict[str, dict[str, tuple[int, float, float, float]]]

    def to_dict(self) -> dict[str, Any]:
        """As JSON wants it."""
        return {"scores": [asdict(score) for score in self.scores], "groups": self.groups}


def serving_scoreboard(folder: Path) -> ServingBoard:
    """Score the committed tables of a folder in every split."""
    runs = serving_runs(folder)
    data = ServingData(runs)
    times = TokenTimes(data)
    scores: list[Score] = []
    groups: dict[str, dict[str, tuple[int, float, float, float]]] = {}
    for split in FOLDS:
        folds = _folds(runs, split)
        predicted, baselines = _left_out(data, times, folds, with_baselines=split == "group")
        for what, (metric, loads, least) in KINDS.items():
            errors = _errors(data, predicted[:, METRICS.index(metric)], metric, loads, least)
            if errors:
                scores.append(_score(split, what, "llmsim", errors, coverage=True))
            if split == "group":
                groups[what] = {name: _summary(own) for name, own in sorted(errors.items())}
        for name, own in baselines.items():
            errors = _errors(data, own, "tpot_s", ("closed", "waves"), FEWEST_ROWS)
            scores.append(_score(split, "time per output token", name, errors))
        if split == "group":
            shifted = with_measured_rows(runs, predicted[:, 0], data.measured[:, 0])
            kept = {group: own for group, own in shifted.items() if len(own) >= FEWEST_ROWS}
            scores.append(_score(split, "time per output token", "llmsim, three rows of each series measured", kept))
    return ServingBoard(tuple(scores), groups)


def _folds(runs: Sequence[ServingRun], split: str) -> list[object]:
    key: Callable[[ServingRun], Any] = FOLDS[split]
    together = linked((key(run), run.group) for run in runs)
    return [together[key(run)] for run in runs]


def _left_out(
    data: ServingData, times: TokenTimes, folds: Sequence[object], *, with_baselines: bool
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Logarithms of predictions by refits without each fold, and those of baselines for time per token."""
    predicted = np.full(data.measured.shape, np.nan)
    baselines = {name: np.full(len(data.runs), np.nan) for name in (BASELINES if with_baselines else ())}
    for fold in dict.fromkeys(folds):
        held = np.array([own == fold for own in folds])
        found = fit_serving(data, ~held)
        predicted[held] = data.predicted(found)[held]
        values = data.values(found)
        for batch in data.batches:
            if batch.load not in REPLAYED or not held[batch.rows].any():
                continue
            own = {key: values.get(f"engines/{batch.engine}/{key}", float(rate or 0))
                   for key, rate in batch.prepared.rates.items()}  # fmt: skip
            for row in batch.rows[held[batch.rows]]:
                answer = replayed_run(data.runs[row], own)
                predicted[row] = [np.log(answer.get(metric, np.nan)) for metric in METRICS]
        for name, column in baselines.items():
            with np.errstate(divide="ignore", invalid="ignore"):
                column[held] = np.log(times.predicted(name, held))
    return predicted, baselines


def _errors(
    data: ServingData, predicted: np.ndarray, metric: str, loads: Sequence[str], least: int
) -> dict[str, np.ndarray]:
    """Group -> logarithms of predicted over measured."""
    measured = data.measured[:, METRICS.index(metric)]
    found: dict[str, list[float]] = {}
    for place, run in enumerate(data.runs):
        if run.load in loads and np.isfinite(measured[place]):
            error = float(predicted[place] - measured[place])
            found.setdefault(run.group, []).append(error if np.isfinite(error) else MISSING)
    return {group: np.array(own) for group, own in found.items() if len(own) >= least}


def _summary(errors: np.ndarray) -> tuple[int, float, float, float]:
    off = np.abs(np.expm1(errors))
    return len(errors), float(np.median(off)), float(np.quantile(off, 0.9)), float(np.median(np.expm1(errors)))


def _score(split: str, what: str, method: str, errors: dict[str, np.ndarray], *, coverage: bool = False) -> Score:
    each = [_summary(own) for own in errors.values()]
    covered = None
    if coverage and len(errors) > 1:
        covered = float(np.mean([_covered(errors, group) for group in errors]))
    return Score(
        split, what, method, len(each), sum(n for n, *_ in each), float(np.median([m for _, m, _, _ in each])),
        float(np.median([p for _, _, p, _ in each])), max(m for _, m, _, _ in each), covered,
    )  # fmt: skip


def _covered(errors: dict[str, np.ndarray], group: str) -> float:
    """Share of a group's rows within the interval that the other groups lead to."""
    others = [np.abs(own) for name, own in errors.items() if name != group]
    return float((np.abs(errors[group]) <= weighted_quantile(others, COVERAGE)).mean())
