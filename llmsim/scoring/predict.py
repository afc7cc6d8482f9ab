"""Predictions for many measured runs with given constants, each equal to a simulation of its plan."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..calibration.load import allocated_bytes, prepare_runs, run_constants, side_by_side
from ..calibration.pipelines import exact_seconds
from ..calibration.runs import RunPlan, reason
from ..calibration.shapes import run_factors
from ..core.errors import LlmsimError
from ..core.units import GIB
from ..hardware.fitted import shipped_fit
from ..timing.layer_time import kind_time
from ..timing.step_constants import Overlay, StepConstants
from ..training.compose import StepLoad, compose_step
from ..training.memory import seen_memory


@dataclass(frozen=True)
class Rated:
    """Runs, counted and rated once.

    Attributes
    ----------
    items
        The runs.
    load
        What they have to do, side by side.
    allocated_bytes
        What the framework allocates on the fullest stage of each.
    """

    items: list[RunPlan]
    load: StepLoad
    allocated_bytes: np.ndarray


def rate(items: Sequence[RunPlan]) -> tuple[Rated | None, dict[str, str]]:
    """Count and rate runs; those that cannot be are left out, with the reason by id."""
    items = list(items)
    skipped: dict[str, str] = {}
    if not items:
        return None, skipped
    try:
        prepared = prepare_runs(items)
    except (LlmsimError, ArithmeticError) as error:
        if len(items) == 1:
            return None, {items[0].run.id: reason(error)}
        middle = len(items) // 2
        (left, first), (right, second) = rate(items[:middle]), rate(items[middle:])
        whole = [item for half in (left, right) if half is not None for item in half.items]
        rated, third = rate(whole)
        return rated, first | second | third
    allocated = allocated_bytes(prepared, len(items))
    return Rated(items, side_by_side(prepared, len(items)), allocated), skipped


@dataclass(frozen=True)
class Predictions:
    """What is predicted for each run.

    Attributes
    ----------
    step_s
        Seconds of a step.
    allocated_gib, reserved_gib, device_gib
        Peak memory of the fullest stage: tensors, what the caching allocator holds, what the driver sees.
    fits
        Whether the driver's view stays within the device's memory.
    """

    step_s: np.ndarray
    allocated_gib: np.ndarray
    reserved_gib: np.ndarray
    device_gib: np.ndarray
    fits: np.ndarray

    def memory_gib(self, row: int, kind: str) -> float:
        """Memory of a run as a kind of figure counts it."""
        return float({"allocated": self.allocated_gib, "reserved": self.reserved_gib}.get(kind, self.device_gib)[row])


def predict(rated: Rated, overlay: Overlay | None = None) -> Predictions:
    """Predictions under constants, by default those that ship; given ones know nothing of shapes."""
    size = len(rated.items)
    c = run_constants(rated.items, overlay)
    load = rated.load
    if overlay is None:
        load = load.slowed(run_factors(rated.items, shipped_fit().shape_tables))
    times = [kind_time(kind, unit, c) for kind, unit in zip(load.kinds, load.units, strict=True)]
    step = compose_step(load, c, times)
    seconds = exact_seconds(rated.items, load, times, step, np.arange(size))
    return Predictions(seconds, *memory_views(rated, c))


def memory_views(rated: Rated, constants: StepConstants) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Allocated, reserved and device memory of each run, GiB, and whether it fits."""
    limit = np.array([item.cluster.profile.memory_bytes.value for item in rated.items])
    reserved, device = seen_memory(rated.allocated_bytes, constants)
    return rated.allocated_bytes / GIB, reserved / GIB, device / GIB, device <= limit
