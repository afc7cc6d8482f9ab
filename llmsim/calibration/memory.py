"""Fitting what a stack takes beyond its tensors: reserved over allocated, and what lies outside the allocator."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..core.units import GIB
from ..hardware.constants import CONSTANTS, LEARNED, Constant
from .load import allocated_bytes, prepare_runs
from .parameters import place_of
from .runs import RunPlan

NOISE = 0.08
"""Standard deviation of the log ratio of memory between groups of runs: settings that nobody states come and go."""


@dataclass(frozen=True)
class MemoryFit:
    """A fitted constant of memory.

    Attributes
    ----------
    value, error
        In its unit, and the standard error of its logarithm.
    spread
        Standard deviation of its prior.
    unit
        ``1`` or ``B``.
    """

    value: float
    error: float
    spread: float
    unit: str

    @property
    def learned(self) -> bool:
        """Whether the runs said anything about it."""
        return self.error < LEARNED * self.spread


def fit_memory(items: Sequence[RunPlan], allocated: np.ndarray | None = None) -> dict[str, MemoryFit]:
    """Path -> constant, for the frameworks with runs that report reserved memory or the driver's view of it.

    Runs that do not say what they recompute are left out.

    Parameters
    ----------
    allocated
        Bytes that each run allocates, where they are known already.
    """
    telling = [n for n, item in enumerate(items) if _tells(item)]
    chosen = [items[n] for n in telling]
    own = allocated_bytes(prepare_runs(chosen), len(chosen)) if allocated is None else allocated[telling]
    by_framework: dict[str, list[int]] = defaultdict(list)
    for number, item in enumerate(chosen):
        by_framework[item.plan.framework].append(number)
    found: dict[str, MemoryFit] = {}
    for _, numbers in sorted(by_framework.items()):
        found |= _fit_framework([chosen[n] for n in numbers], own[numbers])
    return found


def _tells(item: RunPlan) -> bool:
    kind = item.run["memory_kind"] in ("reserved", "device")
    return kind and item.run.memory_gib is not None and bool(item.run["recompute"])


def _fit_framework(items: Sequence[RunPlan], allocated: np.ndarray) -> dict[str, MemoryFit]:
    from scipy.optimize import least_squares

    place = place_of(items[0])
    prior = np.log([place.default(c) for c in _moved()])
    spread = np.array([c.width for c in _moved()])
    outside = np.array([item.run["memory_kind"] == "device" for item in items])
    measured = np.log([float(item.run["memory_gib"]) * GIB for item in items])
    sizes = Counter(item.run.group for item in items)
    weight = np.array([sizes[item.run.group] ** -0.5 for item in items]) / NOISE

    def residuals(x: np.ndarray) -> np.ndarray:
        predicted = np.log(allocated * np.exp(x[0]) + outside * np.exp(x[1]))
        return np.concatenate([(predicted - measured) * weight, (x - prior) / spread])

    best = least_squares(residuals, prior, bounds=([0.0, -np.inf], np.inf), loss="soft_l1", x_scale=spread)
    slope = np.asarray(best.jac, dtype=float)
    errors = np.sqrt(np.diag(np.linalg.pinv(slope.T @ slope)))
    return {
        place.path(c): MemoryFit(float(np.exp(x)), float(error), float(wide), c.unit)
        for c, x, error, wide in zip(_moved(), best.x, errors, spread, strict=True)
    }


def _moved() -> tuple[Constant, Constant]:
    """Reserved over allocated, and what lies outside the allocator."""
    return CONSTANTS["software/*/memory/reserved_factor"], CONSTANTS["software/*/memory/context_bytes"]
