"""Leaving out: refits without some runs, and what they predict for them."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from .architectures import architecture_family
from .fit import FitResult, Refits, RunSet
from .links import linked
from .runs import RunPlan
from .shapes import run_factors

FOLD_KEYS: dict[str, Callable[[RunPlan], Hashable]] = {
    "group": lambda item: item.run.group,
    "model": lambda item: item.run["model"],
    "framework": lambda item: item.plan.framework,
    "hardware": lambda item: item.cluster.device,
    "framework-model": lambda item: item.pair,
    "generation": lambda item: item.cluster.profile.generation,
    "architecture": lambda item: architecture_family(item.architecture),
}
"""What may be left out at a time, and what a run has of it."""


def fold_numbers(items: Sequence[RunPlan], without: str) -> np.ndarray:
    """The fold of each run; what shares a group is left out together."""
    key = FOLD_KEYS[without]
    together = linked((key(item), item.run.group) for item in items)
    numbers: dict[frozenset[Hashable], int] = {}
    return np.array([numbers.setdefault(together[key(item)], len(numbers)) for item in items])


@dataclass(frozen=True)
class _Job:
    """What every refit starts from."""

    refits: Refits
    folds: np.ndarray

    def left_out(self, fold: int) -> tuple[np.ndarray, np.ndarray]:
        """The runs of a fold, and the logarithms of what a refit without them predicts."""
        held, runs = self.folds == fold, self.refits.runs
        rows = np.flatnonzero(held)
        logarithms = self.refits.without(held)
        slower = run_factors(runs.items, runs.shapes(logarithms, ~held))
        return rows, runs.slowed(slower).log_exact(logarithms, rows)


_JOBS: list[_Job] = []
"""The job at work: a forked process finds it here, without its being sent there."""


def _left_out(fold: int) -> tuple[np.ndarray, np.ndarray]:
    return _JOBS[-1].left_out(fold)


def refit_without(
    runs: RunSet,
    full: FitResult,
    learned: np.ndarray,
    folds: np.ndarray,
    *,
    advance: Callable[[], None] = lambda: None,
    processes: int | None = None,
) -> np.ndarray:
    """Logarithms of the predicted times, each run by a refit without its fold.

    Every refit starts at the fit to all runs, so that the answer depends neither on the order nor on the processes.

    Parameters
    ----------
    full, learned
        The fit to all runs, and which constants it moves.
    folds
        Number of the fold of each run.
    advance
        Called after each fold.
    processes
        By default two, where the system can fork and has them.
    """
    result = np.zeros(len(runs))
    for rows, predicted in _each(_Job(Refits.around(runs, full, learned), folds), int(folds.max()) + 1, processes):
        result[rows] = predicted
        advance()
    return result


def _each(job: _Job, count: int, processes: int | None) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    wanted = min(2, os.cpu_count() or 1) if processes is None else processes
    if wanted < 2 or count < 4 or "fork" not in multiprocessing.get_all_start_methods():
        yield from map(job.left_out, range(count))
        return
    _JOBS.append(job)
    try:
        with multiprocessing.get_context("fork").Pool(wanted) as pool:
            yield from pool.imap_unordered(_left_out, range(count))
    finally:
        _JOBS.pop()
