"""Widths of intervals from what refits predicted for runs that they had not seen."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from ..hardware.fitted import Residual, Width
from ..training.intervals import NEW_FRAMEWORK, NEW_HARDWARE, model_class
from .runs import RunPlan

COVERAGE = 0.8
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


def residual(items: Sequence[RunPlan], log_ratio: np.ndarray) -> Residual:
    """Errors over groups."""
    medians = list(group_medians(items, np.abs(np.expm1(log_ratio))).values())
    return Residual(median=float(np.median(medians)), p90=float(np.quantile(medians, 0.9)), groups=len(medians))
