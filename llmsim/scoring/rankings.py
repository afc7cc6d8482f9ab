"""Rankings of measured alternatives with constants that were fitted without the models that are ranked."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ..calibration.fit import RunSet
from ..calibration.folds import fold_numbers, refit_without
from ..calibration.runs import RunPlan
from ..calibration.table import COLUMNS, OPTIONAL, MeasuredRun
from ..core.progress import Bar
from .baselines import baseline_seconds
from .ranking import ranked_sets, set_keys, tau_b
from .result import Ranking
from .scores import ranking

SIMULATION = "simulation"
RULE = "least TP x PP, then the largest micro-batch"
DRAWS = 200
"""Of noise, for a ceiling."""

NOT_CONFIGURATION = frozenset(
    {"id", "group", "source", "step_time_s", "tokens_per_s_per_device", "tflops_per_device", "flops_convention",
     "memory_gib", "memory_kind", "out_of_memory", "notes"}
)  # fmt: skip
"""Columns in which repeats of one configuration may differ."""

LEFT_OUT: Mapping[str, bool] = {
    "its framework-model pair and all that shares a group with it": True,
    "its framework-model pair alone": False,
}
"""What the constants of a ranking were fitted without -> whether pairs that share a group go together."""


@dataclass(frozen=True)
class SourceRanking:
    """How well one method orders the sets of one source.

    Attributes
    ----------
    source, method
        Whose runs, ranked by what.
    runs
        How many are in sets.
    order
        Correlation and regret over the sets.
    """

    source: str
    method: str
    runs: int
    order: Ranking


@dataclass(frozen=True)
class Ceiling:
    """What a perfect prediction would reach if the measurement were repeated.

    Attributes
    ----------
    source
        Whose runs.
    noise
        Standard deviation of the logarithm of a step time.
    repeats
        Of a configuration within the source that it comes from; 0 takes the median over the other sources.
    tau_mean, regret_mean
        Between the measured times and the same with noise, over sets and draws.
    """

    source: str
    noise: float
    repeats: int
    tau_mean: float
    regret_mean: float


@dataclass(frozen=True)
class Rankings:
    """Rankings by what was left out, and what noise allows.

    Attributes
    ----------
    left_out
        What constants were fitted without -> scores by source and method.
    ceilings
        By source.
    """

    left_out: Mapping[str, Sequence[SourceRanking]]
    ceilings: Sequence[Ceiling]

    def to_dict(self) -> dict[str, Any]:
        """As plain data."""
        return {
            "left_out": {name: [asdict(s) for s in scores] for name, scores in self.left_out.items()},
            "ceilings": [asdict(c) for c in self.ceilings],
        }


def source_of(row: str) -> str:
    """The source of a row, the first part of its id."""
    return row.split("-", maxsplit=1)[0]


def rankings(items: Sequence[RunPlan], *, progress: bool = True) -> Rankings:
    """Rank the runs of a table that other runs can be compared with.

    Parameters
    ----------
    items
        Plans of measured runs.
    progress
        Whether to show a bar on the error stream.
    """
    timed = [item for item in items if item.run.step_time_s is not None]
    runs = [item.run for item in timed]
    compared = {row for own in set_keys(runs).values() for row in own}
    with Bar(progress) as bar:
        done = bar.stage("counting and rating")
        fitted = RunSet.prepare(timed)
        done()
        found: dict[str, list[SourceRanking]] = {}
        for name, grouped in LEFT_OUT.items():
            folds = ranked_folds(timed, compared, grouped=grouped)
            advance = bar.stage(f"refitting without {name}", int(folds.max()) + 1)
            log_s = refit_without(fitted, folds, advance=advance)
            seconds = {SIMULATION: np.exp(log_s), RULE: rule_scores(timed), **baseline_seconds(timed, folds)}
            found[name] = [
                score
                for method, values in seconds.items()
                for score in by_source(
                    runs, {r.id: float(v) for r, v in zip(runs, values, strict=True) if v > 0}, method
                )
            ]
    return Rankings(found, ceilings(runs))


def ranked_folds(items: Sequence[RunPlan], compared: set[str], *, grouped: bool) -> np.ndarray:
    """Folds by framework and model, -1 for runs that no set needs a prediction of.

    Parameters
    ----------
    compared
        Row ids in a set.
    grouped
        Whether pairs that share a group are left out together.
    """
    folds = fold_numbers(items, "framework-model") if grouped else _pair_numbers(items)
    wanted = sorted({int(f) for f, item in zip(folds, items, strict=True) if item.run.id in compared})
    numbers = {fold: n for n, fold in enumerate(wanted)}
    return np.array([numbers.get(int(fold), -1) for fold in folds])


def _pair_numbers(items: Sequence[RunPlan]) -> np.ndarray:
    numbers: dict[tuple[str, str], int] = {}
    return np.array([numbers.setdefault(item.pair, len(numbers)) for item in items])


def rule_scores(items: Sequence[RunPlan]) -> np.ndarray:
    """The order of the rule, as a number that is least for the best."""
    plans = [item.plan for item in items]
    split = np.array([float(p.tensor_parallel * p.pipeline_parallel) for p in plans])
    batch = np.array([float(p.micro_batch_size) for p in plans])
    return np.asarray(split - batch / (batch.max() + 1))


def by_source(runs: Sequence[MeasuredRun], seconds: Mapping[str, float], method: str) -> list[SourceRanking]:
    """Scores of one method by source.

    Parameters
    ----------
    seconds
        Row id -> predicted seconds, or any number that orders.
    """
    own: dict[str, list[MeasuredRun]] = defaultdict(list)
    for run in runs:
        own[source_of(run.id)].append(run)
    found = [(source, ranked_sets(some, seconds)) for source, some in sorted(own.items())]
    return [
        SourceRanking(source, method, sum(s.runs for s in sets), order)
        for source, sets in found
        if (order := ranking(sets)) is not None
    ]


def repeat_noise(runs: Sequence[MeasuredRun]) -> dict[str, tuple[float, int]]:
    """Source -> pooled standard deviation of log times of repeats of one configuration, and how many repeats."""
    columns = [c for c in (*COLUMNS, *OPTIONAL) if c not in NOT_CONFIGURATION]
    alike: dict[tuple[str, ...], list[float]] = defaultdict(list)
    for run in runs:
        if run.step_time_s is not None:
            alike[source_of(run.id), *(run[c] for c in columns)].append(float(np.log(run.step_time_s)))
    squares: dict[str, float] = defaultdict(float)
    repeats: dict[str, int] = defaultdict(int)
    for key, logs in alike.items():
        if len(logs) > 1:
            squares[key[0]] += float(np.var(logs)) * len(logs)
            repeats[key[0]] += len(logs) - 1
    return {source: (float(np.sqrt(squares[source] / n)), n) for source, n in repeats.items()}


def ceilings(runs: Sequence[MeasuredRun], *, draws: int = DRAWS) -> list[Ceiling]:
    """What noise of the size that repeats show leaves of a perfect ranking, by source with sets."""
    noise = repeat_noise(runs)
    usual = float(np.median([sd for sd, _ in noise.values()])) if noise else 0.0
    times = {run.id: float(run.step_time_s or 0) for run in runs}
    by_name: dict[str, list[np.ndarray]] = defaultdict(list)
    for rows in set_keys(runs).values():
        by_name[source_of(rows[0])].append(np.array([times[row] for row in rows]))
    rng = np.random.default_rng(0)
    found: list[Ceiling] = []
    for source, sets in sorted(by_name.items()):
        sd, repeats = noise.get(source, (usual, 0))
        tau, lost = [], []
        for measured in sets:
            for again in measured * np.exp(sd * rng.standard_normal((draws, len(measured)))):
                tau.append(tau_b(measured, again))
                lost.append(again[measured.argmin()] / again.min() - 1)
        found.append(Ceiling(source, sd, repeats, float(np.mean(tau)), float(np.mean(lost))))
    return found
