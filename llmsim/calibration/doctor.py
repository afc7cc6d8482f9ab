"""What an answer rests on: how far each constant moves the step, how well it is known, and what to measure next."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .._version import __version__
from ..architecture import Architecture
from ..core.provenance import Quantity
from ..hardware.cluster import Cluster
from ..hardware.constants import Constant, moved_by_steps
from ..hardware.fitted import Fit, checked_fit, shipped_fit
from ..plans.training import TrainingPlan
from ..timing.intervals import NORMAL_80, log_width
from ..training.result import TrainingResult
from ..training.simulate import simulate_training
from .parameters import place_of, prior_of
from .runs import RunPlan
from .table import MeasuredRun

SCHEMA = "llmsim.diagnosis/1"
_STEP = 0.01


@dataclass(frozen=True)
class Weakness:
    """One constant that the step depends on.

    Attributes
    ----------
    path, value, unit
        What it is.
    provenance, source
        Where it comes from.
    log_error
        Standard error of its logarithm; of one that no run has moved, the spread that calibration allows it.
    elasticity
        Per cent by which the step changes for one per cent of the constant.
    share
        Of the variance of the step's logarithm that comes from constants.
    advice
        What to measure.
    """

    path: str
    value: float
    unit: str
    provenance: str
    source: str
    log_error: float
    elasticity: float
    share: float
    advice: str


@dataclass(frozen=True)
class Diagnosis:
    """What a step rests on.

    Attributes
    ----------
    result
        The step.
    constants
        By share of the variance, largest first.
    log_error
        Standard error of the step's logarithm from constants alone.
    log_width
        Half the width of its 80 % interval, as a logarithm: from predictions for runs that no constant had seen, so
        with what the model leaves out; None where nothing is known.
    """

    result: TrainingResult
    constants: list[Weakness]
    log_error: float
    log_width: float | None

    @property
    def model_error(self) -> float | None:
        """Standard error of the step's logarithm that no constant explains."""
        if self.log_width is None:
            return None
        return float(max(0.0, (self.log_width / NORMAL_80) ** 2 - self.log_error**2) ** 0.5)

    def to_dict(self) -> dict[str, Any]:
        """As JSON wants it, with schema and version."""
        own = {"constants": [asdict(c) for c in self.constants], "log_error": self.log_error}
        own |= {"log_width": self.log_width, "model_error": self.model_error}
        return {"schema": SCHEMA, "version": __version__, "result": self.result.to_dict(), **own}


def doctor(
    plan: TrainingPlan | Mapping[str, Any] | str | Path,
    architecture: Architecture | str | Path,
    cluster: Cluster | Mapping[str, Any] | str | Path,
    *,
    fit: Fit | None = None,
) -> Diagnosis:
    """How well a step is known, constant by constant.

    Parameters
    ----------
    plan, architecture, cluster
        As :func:`~llmsim.training.simulate.simulate_training` takes them.
    fit
        Fitted constants; those that ship by default.

    Raises
    ------
    InputError, UnsupportedError
        As there.
    """
    plan, fit = TrainingPlan.parse(plan), checked_fit(fit)
    model = architecture if isinstance(architecture, Architecture) else Architecture.from_config(architecture)
    machine = Cluster.parse(cluster)
    known = shipped_fit() if fit is None else fit
    result = simulate_training(plan, model, machine, fit=known)
    item = RunPlan(MeasuredRun(0, {}), model, machine, result.plan)
    found = [_constant(constant, item, known, result) for constant in moved_by_steps()]
    moving = [own for own in found if abs(own.elasticity) > 1e-6]
    variance = [(own.elasticity * own.log_error) ** 2 for own in moving]
    whole = sum(variance)
    shared = [
        Weakness(**{**asdict(own), "share": part / whole if whole else 0.0})
        for own, part in zip(moving, variance, strict=True)
    ]
    adapters = result.plan.adapter != "none"
    width = log_width(model, machine, result.plan.software, known, adapters=adapters)
    return Diagnosis(result, sorted(shared, key=lambda own: -own.share), whole**0.5, width)


def _constant(constant: Constant, item: RunPlan, known: Fit, result: TrainingResult) -> Weakness:
    place = place_of(item)
    path = place.path(constant)
    quantity = known.values.get(path)
    value = prior_of(constant, place) if quantity is None else quantity.value
    error = float(constant.width or 0) if quantity is None or quantity.error is None else float(quantity.error)
    origin, source = ("assumed", "prior of the profile") if quantity is None else (quantity.provenance, quantity.source)
    factor = 1 - _STEP if constant.fraction else 1 + _STEP  # fractions cannot pass 1
    moved = Quantity(value=value * factor, unit=constant.unit, provenance="fitted", source="perturbed")
    changed = simulate_training(
        result.plan,
        item.architecture,
        item.cluster,
        fit=known.model_copy(update={"values": {**known.values, path: moved}}),
    )
    elasticity = float(np.log(changed.step_time_s / result.step_time_s) / np.log(factor))
    return Weakness(path, value, constant.unit, origin, source, error, elasticity, 0.0, constant.measure)


def advised(diagnosis: Diagnosis, count: int = 3) -> Iterator[tuple[str, str]]:
    """(constant, measurement): what would narrow the step most, without repetition."""
    seen: set[str] = set()
    for own in diagnosis.constants:
        if own.advice not in seen and len(seen) < count and own.share > 0.02:
            seen.add(own.advice)
            yield own.path, own.advice
