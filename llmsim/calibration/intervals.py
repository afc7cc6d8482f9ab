"""Widths of intervals from what refits predicted for runs that they had not seen.

References
----------
Split conformal prediction by group: Vovk 2005, Algorithmic Learning in a Random World.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np

from ..core.units import GIB
from ..hardware.fitted import Residual, Width
from ..timing.intervals import DIFFERENCE, MEMORY, NEW_FRAMEWORK, NEW_HARDWARE, model_class
from ..training.memory import seen_memory
from .load import run_constants
from .runs import RunPlan

COVERAGE = 0.8
"""Share of further groups that an interval is made to hold."""
ENOUGH = 15
"""Groups that a regime needs to have a width of its own."""


def group_medians(items: Sequence[RunPlan], values: np.ndarray) -> dict[str, float]:
    """Group -> median of the values of its runs."""
    by_group: dict[str, list[float]] = defaultdict(list)
    for item, value in zip(items, values, strict=True):
        by_group[item.run.group].append(float(value))
    return {group: float(np.median(own)) for group, own in by_group.items()}


def width(scores: Sequence[float]) -> Width | None:
    """The width that covers a further group with a chance of 80 %, from one score a group; None from too few."""
    rank = math.ceil((len(scores) + 1) * COVERAGE)
    if rank > len(scores):
        return None
    return Width(log80=float(np.sort(scores)[rank - 1]), groups=len(scores))


def regime_widths(items: Sequence[RunPlan], log_ratio: np.ndarray) -> dict[str, Width]:
    """Widths by kind of model, and by kind and lineage where there are groups enough."""
    scores = group_medians(items, np.abs(log_ratio))
    regimes: dict[str, set[str]] = defaultdict(set)
    for item in items:
        kind = model_class(item.architecture)
        regimes[kind].add(item.run.group)
        regimes[f"{kind}/{item.plan.software.lineage}"].add(item.run.group)
    found: dict[str, Width] = {}
    for regime, groups in sorted(regimes.items()):
        own = width([scores[g] for g in sorted(groups)]) if "/" not in regime or len(groups) >= ENOUGH else None
        if own is not None:
            found[regime] = own
    return found


def novelty_widths(
    items: Sequence[RunPlan], without_hardware: np.ndarray, without_framework: np.ndarray
) -> dict[str, Width]:
    """Widths for hardware and for frameworks that a fit had not seen, from the log ratios of refits without them."""
    found: dict[str, Width] = {}
    for name, ratio in ((NEW_HARDWARE, without_hardware), (NEW_FRAMEWORK, without_framework)):
        for regime, own in regime_widths(items, ratio).items():
            if "/" not in regime:
                found[f"{name}/{regime}"] = own
    return found


SAME_JOB = ("model", "hardware", "n_devices", "framework", "sequence_length", "precision", "global_batch_size")
"""Columns in which runs agree that are alternatives of one job."""


def difference_widths(items: Sequence[RunPlan], log_ratio: np.ndarray) -> dict[str, Width]:
    """Widths of the ratio of two alternatives' times, by kind of model, and by kind and lineage where there are jobs
    enough: what both are off together cancels.

    Every job weighs the same, however many alternatives it has; over lineages, every lineage does.
    """
    jobs: dict[tuple[str, ...], list[int]] = defaultdict(list)
    for n, item in enumerate(items):
        jobs[tuple(item.run[column] for column in SAME_JOB)].append(n)
    kinds: dict[str, dict[str, list[np.ndarray]]] = defaultdict(lambda: defaultdict(list))
    for rows in jobs.values():
        own, first_item = log_ratio[rows], items[rows[0]]
        first, second = np.triu_indices(len(rows), 1)
        if len(first):
            lineages = kinds[model_class(first_item.architecture)]
            lineages[first_item.plan.software.lineage].append(np.abs(own[first] - own[second]))
    found: dict[str, Width] = {}
    for kind, lineages in sorted(kinds.items()):
        for lineage, own_jobs in sorted(lineages.items()):
            if len(own_jobs) >= FEWEST_JOBS:
                width = weighted_quantile(own_jobs, COVERAGE)
                found[f"{DIFFERENCE}/{kind}/{lineage}"] = Width(log80=width, groups=len(own_jobs))
        count = sum(map(len, lineages.values()))
        if count >= FEWEST_JOBS:
            whole = weighted_quantile([np.concatenate(own_jobs) for own_jobs in lineages.values()], COVERAGE)
            found[f"{DIFFERENCE}/{kind}"] = Width(log80=whole, groups=count)
    return found


FEWEST_JOBS = 8
"""Jobs with alternatives that a width of differences needs."""


def weighted_quantile(groups: Sequence[np.ndarray], share: float) -> float:
    """The quantile of values of which each group weighs the same."""
    values = np.concatenate(groups)
    weights = np.concatenate([np.full(len(g), 1 / len(g)) for g in groups])
    order = np.argsort(values, kind="stable")
    reached = np.cumsum(weights[order]) / len(groups)
    return float(values[order][min(int(np.searchsorted(reached, share)), len(values) - 1)])


def memory_widths(
    items: Sequence[RunPlan], allocated_bytes: np.ndarray, overlay: Mapping[str, float]
) -> dict[str, Width]:
    """The width of the memory that a stack reserves or that the driver sees, one score a group of runs that report it.

    Parameters
    ----------
    allocated_bytes
        Of each run.
    overlay
        Fitted constants.
    """
    views = dict(zip(("reserved", "device"), seen_memory(allocated_bytes, run_constants(items, overlay)), strict=True))
    scores = [
        (item, abs(float(np.log(views[kind][n] / (float(item.run.memory_gib or 0) * GIB)))))
        for n, item in enumerate(items)
        if (kind := item.run["memory_kind"]) in views and item.run.memory_gib is not None
    ]
    medians = group_medians([item for item, _ in scores], np.array([score for _, score in scores]))
    own = width(list(medians.values()))
    return {} if own is None else {MEMORY: own}


def residual(items: Sequence[RunPlan], log_ratio: np.ndarray) -> Residual:
    """Errors over groups."""
    medians = list(group_medians(items, np.abs(np.expm1(log_ratio))).values())
    return Residual(median=float(np.median(medians)), p90=float(np.quantile(medians, 0.9)), groups=len(medians))
