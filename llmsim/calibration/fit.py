"""Fitting the constants of the training model to measured step times.

Maximum a posteriori in logarithms: a robust loss on the log ratio of predicted to measured time, every group of runs
weighing the same however many rows it has, and a Gaussian prior for every constant. Runs are counted and rated once;
a fit only composes them again. Since a run depends on one constant of each family, one extra evaluation per family
gives the whole Jacobian.

References
----------
Robust loss: Cauchy's, which forgets gross outliers; Barron 2019, arXiv:1701.03077.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from ..training.compose import StepLoad, compose_step
from ..training.constants import StepConstants, step_constants
from ..training.problem import plan_problem
from .load import prepare_runs, side_by_side
from .parameters import COMPUTE_CLASSES, FAMILIES, Family, Layout, layout
from .runs import RunPlan

NOISE = 0.06
"""Standard deviation of the log ratio that a good model leaves, the noise floor of published runs (4 to 6 %)."""

_STEP = 1e-4


@dataclass
class RunSet:
    """Measured runs, prepared for fitting.

    Attributes
    ----------
    items
        The runs, those with a measured step time.
    load
        What they have to do, side by side.
    constants
        Their constants as arrays, before the fit.
    layout
        Which fitted constants they depend on.
    log_time
        Logarithms of the measured times.
    """

    items: list[RunPlan]
    load: StepLoad
    constants: StepConstants
    layout: Layout
    log_time: np.ndarray

    @classmethod
    def prepare(cls, items: Sequence[RunPlan], families: Sequence[Family] = FAMILIES) -> RunSet:
        """Count and rate runs; those without a measured time are left out."""
        timed = [item for item in items if item.run.step_time_s is not None]
        load = side_by_side(prepare_runs(timed), len(timed))
        times = np.array([float(item.run.step_time_s or 0) for item in timed])
        return cls(timed, load, _constants(timed), layout(timed, families), np.log(times))

    def weights(self) -> np.ndarray:
        """One over the square root of the size of a run's group, so that groups weigh the same."""
        sizes = Counter(item.run.group for item in self.items)
        return np.array([sizes[item.run.group] ** -0.5 for item in self.items])

    def log_prediction(self, logarithms: np.ndarray) -> np.ndarray:
        """Logarithms of the predicted times under some constants."""
        values = np.exp(logarithms)[self.layout.index]
        named = {family.name: values[f] for f, family in enumerate(self.layout.families)}
        return np.log(compose_step(self.load, laid_over(self.constants, named)).seconds)


def laid_over(c: StepConstants, named: dict[str, np.ndarray]) -> StepConstants:
    """Constants with the families' values put where composition uses them."""
    common = named["device"] * named["stack.in_situ"] * named["release.rate"]
    in_situ = {work: named[f"in_situ.{work}"] * common for work in COMPUTE_CLASSES}
    in_situ["attention"] = in_situ["attention"] * named["stack.attention"]
    overlap = dict(c.overlap)
    for family in ("gradient", "parameter", "tensor", "expert", "tensor_on", "expert_on"):
        # An overlap that the stack does not have, or that the plan switches off, stays at nothing.
        key = family.removesuffix("_on")
        overlap[key] = np.where(c.overlap[f"{family}_fitted"], named[f"overlap/{family}"], overlap[key])
    return replace(
        c,
        in_situ=in_situ,
        overlap=overlap,
        inner_efficiency=named["inner"],
        outer_efficiency=named["outer"],
        launch_s=named["host/launch_s"],
        moe_layer_s=named["host/moe_layer_s"] * named["release.moe_layer"],
        microbatch_s=named["host/microbatch_s"],
        step_s=named["host/step_s"],
    )


def _constants(items: Sequence[RunPlan]) -> StepConstants:
    """The constants of each run from its profiles, as arrays; what kernels need is in the load already."""
    each = []
    for item in items:
        problem = plan_problem(item.architecture, item.cluster, item.plan)
        each.append(step_constants(problem.cluster, problem.structure, {}))

    def column(name: str) -> np.ndarray:
        return np.array([getattr(c, name) for c in each])

    overlap = {key: np.array([c.overlap[key] for c in each]) for key in each[0].overlap}
    choice = np.array([item.plan.overlap for item in items])
    for key in ("gradient", "parameter", "tensor", "expert"):
        overlap[f"{key}_fitted"] = (choice != "none") & (overlap[key] > 0)
    overlap["tensor_on_fitted"], overlap["expert_on_fitted"] = choice == "tensor", choice == "expert"
    return replace(
        each[0],
        overlap=overlap,
        contention=column("contention"),
        graphed=column("graphed"),
        in_situ={work: np.array([c.in_situ[work] for c in each]) for work in COMPUTE_CLASSES},
    )


@dataclass(frozen=True)
class FitResult:
    """A fit.

    Attributes
    ----------
    layout, logarithms
        The constants and their logarithms.
    errors
        Standard errors of the logarithms, from the curvature at the optimum.
    cost
        Half the sum of squared residuals, priors included.
    """

    layout: Layout
    logarithms: np.ndarray
    errors: np.ndarray
    cost: float

    @property
    def values(self) -> dict[str, float]:
        """Path -> value."""
        return self.layout.values(self.logarithms)


def fit(
    runs: RunSet, keep: np.ndarray | None = None, start: np.ndarray | None = None, max_steps: int = 40
) -> FitResult:
    """Fit the constants to the runs marked in ``keep`` (all by default).

    Parameters
    ----------
    start
        Logarithms to start from (a fit to nearly the same runs), the priors by default.
    """
    from scipy.optimize import least_squares

    plan = runs.layout
    chosen = np.ones(len(runs.items), bool) if keep is None else keep
    weight = runs.weights()[chosen] / NOISE

    def residuals(x: np.ndarray) -> np.ndarray:
        ratio = (runs.log_prediction(x) - runs.log_time)[chosen] * weight
        return np.concatenate([_robust(ratio), (x - plan.prior) / plan.spread])

    def jacobian(x: np.ndarray) -> np.ndarray:
        base = runs.log_prediction(x)
        ratio = (base - runs.log_time)[chosen] * weight
        slope = _robust_slope(ratio) * weight
        rows = np.flatnonzero(chosen)
        result = np.zeros((len(rows) + len(x), len(x)))
        for f in range(len(plan.families)):
            moved = x.copy()
            own = np.unique(plan.index[f])
            moved[own] -= _STEP
            change = (base - runs.log_prediction(moved))[rows] / _STEP
            np.add.at(result, (np.arange(len(rows)), plan.index[f][rows]), change * slope)
        result[len(rows) :] = np.diag(1 / plan.spread)
        return result

    x0 = np.clip(plan.prior if start is None else start, -np.inf, plan.upper - 1e-6)
    bounds = (np.full(len(x0), -np.inf), plan.upper + 1e-9)
    found = least_squares(residuals, x0, jac=jacobian, bounds=bounds, max_nfev=max_steps, x_scale=plan.spread)
    covariance = np.linalg.pinv(found.jac.T @ found.jac)
    return FitResult(plan, found.x, np.sqrt(np.diag(covariance)), float(found.cost))


_KNEE = 2.0
"""Residuals, in standard deviations, beyond which a run counts less and less."""


def _robust(ratio: np.ndarray) -> np.ndarray:
    """Signed root of twice Cauchy's loss ``k**2 / 2 log(1 + (r/k)**2)``, so that its square is minimised."""
    return np.sign(ratio) * _KNEE * np.sqrt(np.log1p((ratio / _KNEE) ** 2))


def _robust_slope(ratio: np.ndarray) -> np.ndarray:
    """Derivative of :func:`_robust`, 1 at zero."""
    small = np.abs(ratio) < 1e-9
    safe = np.where(small, 1.0, ratio)
    return np.where(small, 1.0, np.abs(safe) / (1 + (safe / _KNEE) ** 2) / np.abs(_robust(safe)))
