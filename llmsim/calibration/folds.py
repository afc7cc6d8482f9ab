"""Leaving out: refits without some runs, and what they predict for them."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from .architectures import architecture_family, layer_signature
from .fit import Refits, RunSet
from .links import linked
from .runs import RunPlan
from .shapes import run_factors

FOLD_KEYS: dict[str, Callable[[RunPlan], Hashable]] = {
    "group": lambda item: item.run.group,
    "model": lambda item: item.run["model"],
    "framework": lambda item: item.plan.framework,
    "hardware": lambda item: item.cluster.device,
    "framework-model": lambda item: item.pair,
    "lineage-layers": lambda item: (item.plan.software.lineage, layer_signature(item.architecture)),
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


BLOCKS = 4
"""Into so many parts folds are sorted; the refits of a part start at a fit to all other parts."""


def block_numbers(folds: np.ndarray) -> np.ndarray:
    """The part of each fold, parts as alike in size as they can be; runs of no fold (-1) are never left out."""
    sizes = np.bincount(folds[folds >= 0])
    held = np.zeros(min(BLOCKS, len(sizes)))
    block = np.zeros(len(sizes), dtype=np.int64)
    for fold in np.argsort(-sizes, kind="stable"):
        block[fold] = int(np.argmin(held))
        held[block[fold]] += sizes[fold]
    return block


@dataclass(frozen=True)
class _Job:
    """What refits need that a forked process finds and is not sent."""

    runs: RunSet
    folds: np.ndarray
    blocks: np.ndarray

    def left_out(self, block: int) -> list[tuple[np.ndarray, np.ndarray]]:
        """Of each fold of a part its runs, and the logarithms of what a refit without them predicts: where it starts,
        which constants move, gaps and tables of shapes come from runs outside the fold."""
        own = np.flatnonzero(self.blocks == block)
        refits = Refits.beside(self.runs, np.isin(self.folds, own))
        found = []
        for fold in own:
            held = self.folds == fold
            logarithms = refits.without(held)
            runs = refits.runs
            slower = run_factors(runs.items, runs.shapes(logarithms, ~held))
            rows = np.flatnonzero(held)
            found.append((rows, runs.slowed(slower).log_exact(logarithms, rows)))
        return found


_JOBS: list[_Job] = []
"""The job at work: a forked process finds it here, without its being sent there."""


def _left_out(block: int) -> list[tuple[np.ndarray, np.ndarray]]:
    return _JOBS[-1].left_out(block)


def refit_without(
    runs: RunSet,
    folds: np.ndarray,
    *,
    advance: Callable[[], None] = lambda: None,
    processes: int | None = None,
) -> np.ndarray:
    """Logarithms of the predicted times, each run by a refit without its fold.

    No refit knows the times of the runs that it leaves out, not even by where it starts; the answer depends neither on
    the order nor on the processes.

    Parameters
    ----------
    folds
        Number of the fold of each run.
    advance
        Called after each fold.
    processes
        By default two, where the system can fork and has them.
    """
    result = np.zeros(len(runs))
    blocks = block_numbers(folds)
    for found in _each(_Job(runs, folds, blocks), int(blocks.max()) + 1, processes):
        for rows, predicted in found:
            result[rows] = predicted
            advance()
    return result


def _each(job: _Job, count: int, processes: int | None) -> Iterator[list[tuple[np.ndarray, np.ndarray]]]:
    wanted = min(2, os.cpu_count() or 1) if processes is None else processes
    if wanted < 2 or count < 2 or "fork" not in multiprocessing.get_all_start_methods():
        yield from map(job.left_out, range(count))
        return
    _JOBS.append(job)
    try:
        with multiprocessing.get_context("fork").Pool(wanted) as pool:
            yield from pool.imap_unordered(_left_out, range(count))
    finally:
        _JOBS.pop()
