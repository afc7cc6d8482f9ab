"""One's own measured runs on top of the constants that ship: the prior is that fit, a few runs move it.

A run of one's own job says how fast this model runs in this stack on these devices. Most of what a prediction of it is
off is shared by the other mappings of the same job, so the rate of the stack may move by as much as predictions for
jobs that no constant has seen are off; everything else by its standard error.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import numpy as np

from ..core.errors import InputError
from ..core.provenance import Quantity
from ..hardware.fitted import Fit, Residual, shipped_fit
from ..timing.intervals import NORMAL_80, log_width
from .fit import FitResult, RunSet, fit
from .memory import fit_memory
from .parameters import Layout
from .plausible import doubtful, too_fast, too_slow
from .runs import RunPlan
from .shapes import run_factors

OWN_NOISE = 0.02
"""Standard deviation of the log ratio of a step time that is the median of a run's own steps."""
JOB_RATE = "software/*/rates/in_situ/*"
"""What takes up most of how a job differs from its kind."""
LEAST_SPREAD, UNKNOWN_SPREAD = 0.15, 0.25
"""Of a job of a kind that is known well, and of one whose interval is not known."""


@dataclass(frozen=True)
class OwnRun:
    """One run before and after.

    Attributes
    ----------
    id
        Of the run.
    measured_s, before_s, after_s
        Step times: measured, and predicted by the constants that ship and by those that the runs moved.
    """

    id: str
    measured_s: float
    before_s: float
    after_s: float


@dataclass(frozen=True)
class OwnFit:
    """Constants that own runs moved.

    Attributes
    ----------
    fit
        To be given to simulations and searches.
    runs
        The runs with a step time.
    moved
        Path -> (value before, value after) of what moved by a hundredth or more.
    """

    fit: Fit
    runs: list[OwnRun]
    moved: dict[str, tuple[float, float]]


def own_fit(items: Sequence[RunPlan], data: str, *, prior: Fit | None = None, date: str | None = None) -> OwnFit:
    """Constants after some runs of one's own.

    Parameters
    ----------
    items
        The runs.
    data
        Where they come from, to be written into the fit.
    prior
        The fit before; the one that ships by default.
    date
        To be written into the fit, by default today's (UTC).

    Raises
    ------
    InputError
        Where no run has a step time, or one has a time that its devices cannot have reached or that is far longer than
        predicted.
    """
    known = shipped_fit() if prior is None else prior
    date = date or datetime.now(UTC).date().isoformat()
    runs = RunSet.prepare(items)
    if not len(runs):
        raise InputError("runs", data, "at least one run with a step time that can be simulated")
    runs = runs.slowed(run_factors(runs.items, known.shape_tables))
    before = _prior(runs.layout, known)
    runs.update_gap(before.logarithms)
    start = np.exp(runs.log_exact(before.logarithms))
    strange = _strange(runs.items, start, data, known)
    spread = max(job_spread(item, known) for item in runs.items)
    after = before
    for _ in range(3):  # exact schedules change with the constants
        after = update(runs, before, np.arange(len(runs)), spread)
        if runs.update_gap(after.logarithms) < 1e-4:
            break
    ends = np.exp(runs.log_exact(after.logarithms))
    listed = [
        OwnRun(item.run.id, float(item.run.step_time_s or 0), float(a), float(b))
        for item, a, b in zip(runs.items, start, ends, strict=True)
    ]
    values = _changed(runs.layout, before, after, data, date)
    memory = {p: _quantity(m.value, m.error, m.unit, data, date) for p, m in fit_memory(items).items() if m.learned}
    own = known.model_copy(
        update={
            "date": date,
            "data": data,
            "split": f"{len(listed)} own runs over the fit of {known.date}",
            "values": dict(sorted({**known.values, **memory, **values}.items())),
            "residuals": {
                **known.residuals,
                "own runs before": _residual([r.before_s / r.measured_s for r in listed]),
                "own runs after": _residual([r.after_s / r.measured_s for r in listed]),
            },
            "hardware": tuple(sorted({*known.hardware, *(item.cluster.profile.fitted_as for item in items)})),
            "frameworks": tuple(sorted({*known.frameworks, *(item.plan.framework for item in items)})),
            "groups": {},
            "doubtful": strange,
        }
    )
    moved = {
        path: (float(np.exp(a)), float(np.exp(b)))
        for path, a, b in zip(runs.layout.paths, before.logarithms, after.logarithms, strict=True)
        if abs(a - b) >= 0.01
    }
    return OwnFit(own, listed, moved)


def _prior(layout: Layout, known: Fit) -> FitResult:
    """What is known before: fitted values with their errors, else the profiles' with the width of their priors."""
    logarithms, errors = layout.prior.copy(), layout.spread.copy()
    for n, path in enumerate(layout.paths):
        quantity = known.values.get(path)
        if quantity is not None:
            logarithms[n] = np.log(quantity.value)
            errors[n] = layout.spread[n] if quantity.error is None else quantity.error
    return FitResult(layout, np.minimum(logarithms, layout.upper), errors, 0.0)


def _strange(items: Sequence[RunPlan], predicted_s: np.ndarray, data: str, known: Fit) -> dict[str, str]:
    """Run -> what is strange about its time, where it is further off than such predictions are; impossible ones are
    refused."""
    found: dict[str, str] = {}
    for item, seconds in zip(items, map(float, predicted_s), strict=True):
        error = too_fast(item) or too_slow(item, seconds)
        if error is not None:
            raise InputError(f"{data}: run", item.run.id, why=f"cannot be fitted on: {error}")
        why = doubtful(item, seconds, job_spread(item, known))
        if why is not None:
            found[item.run.id] = why
    return found


def update(runs: RunSet, prior: FitResult, rows: np.ndarray, spread: float) -> FitResult:
    """A fit to some runs around another fit. The job's rate may pass 1: kernels that are faster than the profile knows.

    Parameters
    ----------
    prior
        Values and standard errors before.
    rows
        Which runs.
    spread
        Standard deviation of the logarithm by which a job's rate may differ from what the prior says.
    """
    layout, upper = runs.layout, runs.layout.upper.copy()
    wide: np.ndarray = np.maximum(prior.errors, 1e-6)
    for constant, numbers in zip(layout.constants, layout.index, strict=True):
        if constant.name == JOB_RATE:
            own = np.unique(numbers)
            wide[own] = np.hypot(wide[own], spread)
            upper[own] = np.inf
    around = replace(layout, prior=prior.logarithms, spread=wide, upper=upper)
    keep = np.zeros(len(runs), bool)
    keep[rows] = True
    return fit(replace(runs, layout=around), keep, noise=OWN_NOISE, robust=False)


def job_spread(item: RunPlan, known: Fit) -> float:
    """By how much a job's time may be off before any of its runs is known: the spread of its regime's interval."""
    width = log_width(item.architecture, item.cluster, item.plan.software, known)
    return UNKNOWN_SPREAD if width is None else max(LEAST_SPREAD, width / NORMAL_80)


def _changed(layout: Layout, before: FitResult, after: FitResult, data: str, date: str) -> dict[str, Quantity]:
    """The constants that the runs moved."""
    units = layout.units
    return {
        path: _quantity(float(np.exp(after.logarithms[n])), float(after.errors[n]), units[path], data, date)
        for n, path in enumerate(layout.paths)
        if abs(after.logarithms[n] - before.logarithms[n]) > 1e-6
    }


def _quantity(value: float, error: float, unit: str, data: str, date: str) -> Quantity:
    source = f"own runs: {data}"
    return Quantity(
        value=float(f"{value:.6g}"),
        unit=unit,
        provenance="fitted",
        error=float(f"{error:.3g}"),
        source=source,
        date=date,
    )


def _residual(ratios: Sequence[float]) -> Residual:
    errors = np.abs(np.asarray(ratios) - 1)
    median, p90 = (float(f"{np.quantile(errors, q):.6g}") for q in (0.5, 0.9))
    return Residual(median=median, p90=p90, groups=len(errors))
