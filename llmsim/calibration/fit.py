"""Fitting the constants of the training model to measured step times.

Maximum a posteriori in logarithms: a robust loss on the log ratio of predicted to measured time, every group of runs
weighing the same however many rows it has, and a Gaussian prior for every constant. Runs are counted and rated once;
a fit only composes them again. Since a run depends on one value of each constant, one extra evaluation per constant
gives the whole Jacobian. Pipelines are composed by the closed form; what the exact schedule adds to it is carried as
one factor a run, brought up to date between fits.

References
----------
Robust loss: Cauchy's, which forgets gross outliers; Barron 2019, arXiv:1701.03077.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from ..hardware.constants import CONSTANTS, LEARNED, Constant
from ..hardware.shapes import ShapeTable
from ..timing.layer_time import KindTime, kind_time
from ..timing.step_constants import OverlapChoice, StepConstants, movable_rates, overlap_choice
from ..training.compose import StepLoad, StepTime, compose_step
from .load import prepare_runs, run_constants, side_by_side
from .newton import Linearisation, minimise
from .parameters import Layout, layout, place_of
from .pipelines import exact_seconds
from .runs import RunPlan
from .shapes import learn_shapes, run_factors

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
    stated
        Name of a constant that the fit does not move -> what the profiles of each run say.
    overlap
        What each run hides.
    layout
        Which fitted constants they depend on.
    log_time
        Logarithms of the measured times.
    gap
        Logarithm of what the exact schedule of each run takes over its closed form.
    slower
        By how much the layers of each run take longer than their law, from tables of shapes.
    """

    items: list[RunPlan]
    load: StepLoad
    constants: StepConstants
    stated: Mapping[str, np.ndarray]
    overlap: OverlapChoice
    layout: Layout
    log_time: np.ndarray
    gap: np.ndarray = field(default_factory=lambda: np.zeros(1))
    slower: np.ndarray | None = None

    @classmethod
    def prepare(cls, items: Sequence[RunPlan], moving: Sequence[Constant] | None = None) -> RunSet:
        """Count and rate runs; those without a measured time are left out.

        Parameters
        ----------
        moving
            The constants to fit, by default all that step times move.
        """
        timed = [item for item in items if item.run.step_time_s is not None]
        load = side_by_side(prepare_runs(timed), len(timed))
        times = np.array([float(item.run.step_time_s or 0) for item in timed])
        plan = layout(timed, moving)
        stated, overlap = _stated(timed, {c.name for c in plan.constants})
        found = cls(timed, load, run_constants(timed, {}), stated, overlap, plan, np.log(times))
        found.update_gap(found.layout.prior)
        return found

    def __len__(self) -> int:
        return len(self.items)

    def weights(self) -> np.ndarray:
        """One over the square root of the size of a run's group, so that groups weigh the same."""
        sizes = Counter(item.run.group for item in self.items)
        return np.array([sizes[item.run.group] ** -0.5 for item in self.items])

    def log_prediction(self, logarithms: np.ndarray) -> np.ndarray:
        """Logarithms of the predicted times under some constants, with the gap as it is."""
        _, step = self._composed(logarithms)
        return np.asarray(np.log(np.broadcast_to(step.seconds, (len(self),))) + self.gap)

    def slopes(self, logarithms: np.ndarray) -> np.ndarray:
        """Derivatives of the logarithms of the predicted times, shape (runs, constants); gaps stay as they are.

        A run depends on one value of each constant, so that one evaluation a constant gives all of them.
        """
        base = self.log_prediction(logarithms)
        found = np.zeros((len(self), len(logarithms)))
        for own in self.layout.index:
            shifted = logarithms.copy()
            shifted[np.unique(own)] -= _STEP
            found[np.arange(len(self)), own] += (base - self.log_prediction(shifted)) / _STEP
        return found

    def shapes(self, logarithms: np.ndarray, keep: np.ndarray | None = None) -> dict[str, ShapeTable]:
        """What runs leave over under some constants, by the shape of their layers.

        Parameters
        ----------
        keep
            Which runs to learn from, by default all.
        """
        plain = self.slowed(None)
        base = plain.log_prediction(logarithms)
        share = (self.slowed(np.full(len(self), np.exp(_STEP))).log_prediction(logarithms) - base) / _STEP
        return learn_shapes(self.items, self.log_time - base, share, keep)

    def shaped(self, logarithms: np.ndarray) -> RunSet:
        """The same runs with layers slowed as their own tables of shapes say."""
        return self.slowed(run_factors(self.items, self.shapes(logarithms)))

    def slowed(self, slower: np.ndarray | None) -> RunSet:
        """The same runs with layers that take longer than their law by a factor."""
        return replace(self, slower=slower)

    def log_exact(self, logarithms: np.ndarray, rows: np.ndarray | None = None) -> np.ndarray:
        """Logarithms of the predicted times with exact schedules, of some runs or of all."""
        times, step = self._composed(logarithms)
        wanted = np.arange(len(self)) if rows is None else rows
        return np.asarray(np.log(exact_seconds(self.items, self.load, times, step, wanted)))

    def update_gap(self, logarithms: np.ndarray) -> float:
        """Bring the gap to what it is under some constants; the largest change."""
        _, step = self._composed(logarithms)
        gap = self.log_exact(logarithms) - np.log(step.seconds)
        change = float(np.abs(gap - self.gap).max())
        self.gap = gap
        return change

    def _composed(self, logarithms: np.ndarray) -> tuple[list[KindTime], StepTime]:
        values = np.exp(logarithms)[self.layout.index]
        named = {**self.stated, **{c.name: v for c, v in zip(self.layout.constants, values, strict=True)}}
        c = replace(self.constants, **movable_rates(named.__getitem__, self.overlap))
        load = self.load if self.slower is None else self.load.slowed(self.slower)
        times = [kind_time(kind, unit, c) for kind, unit in zip(load.kinds, load.units, strict=True)]
        return times, compose_step(load, c, times)


def _stated(items: Sequence[RunPlan], moving: Container[str]) -> tuple[dict[str, np.ndarray], OverlapChoice]:
    """What the profiles of each run say of the constants that a fit does not move, and what each run hides."""
    places = [place_of(item) for item in items]
    still = [c for c in CONSTANTS.values() if c.kind == "software" and c.name not in moving]
    stated = {c.name: np.array([place.default(c) for place in places]) for c in still}
    each = [overlap_choice(place, item.plan.overlap) for place, item in zip(places, items, strict=True)]
    offered = {key: np.array([own.offered[key] for own in each]) for key in each[0].offered} if each else {}
    asked = {key: np.array([own.asked[key] for own in each]) for key in each[0].asked} if each else {}
    return stated, OverlapChoice(offered, np.array([own.none for own in each]), asked)


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

    def rounded(self, digits: int) -> FitResult:
        """The same with so many significant digits in each value, as a file holds them."""
        return replace(self, logarithms=np.log([float(f"{value:.{digits}g}") for value in np.exp(self.logarithms)]))


@dataclass(frozen=True)
class _Squares:
    """Half the sum of squares of a fit as a function of the constants that may move.

    Attributes
    ----------
    weight
        Of the log ratio of each run in standard deviations, 0 for one that is left out.
    moving
        Numbers of the constants that may move; the others stay at their priors.
    """

    runs: RunSet
    weight: np.ndarray
    moving: np.ndarray
    robust: bool

    def whole(self, x: np.ndarray) -> np.ndarray:
        """All constants."""
        full = self.runs.layout.prior.copy()
        full[self.moving] = x
        return full

    def _ratios(self, x: np.ndarray) -> np.ndarray:
        return np.asarray((self.runs.log_prediction(self.whole(x)) - self.runs.log_time) * self.weight)

    def _from_prior(self, x: np.ndarray) -> np.ndarray:
        plan = self.runs.layout
        return np.asarray((x - plan.prior[self.moving]) / plan.spread[self.moving])

    def cost(self, x: np.ndarray) -> float:
        """Half the sum of squares, priors included."""
        ratio = self._ratios(x)
        own = _robust(ratio) if self.robust else ratio
        return float(own @ own + np.sum(self._from_prior(x) ** 2)) / 2

    def slopes(self, x: np.ndarray) -> np.ndarray:
        """Derivatives of the logarithms of the predicted times."""
        return self.runs.slopes(self.whole(x))[:, self.moving]

    def normal(self, x: np.ndarray, slopes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Gradient and Gauss-Newton curvature of the cost."""
        ratio = self._ratios(x)
        value, slope = (_robust(ratio), _robust_slope(ratio)) if self.robust else (ratio, np.ones(len(ratio)))
        rows = slopes * (slope * self.weight)[:, None]
        spread = self.runs.layout.spread[self.moving]
        return rows.T @ value + self._from_prior(x) / spread, rows.T @ rows + np.diag(spread**-2.0)


def fit(
    runs: RunSet,
    keep: np.ndarray | None = None,
    start: np.ndarray | None = None,
    *,
    free: np.ndarray | None = None,
    max_steps: int = 40,
    noise: float = NOISE,
    robust: bool = True,
) -> FitResult:
    """Fit the constants to the runs marked in ``keep`` (all by default).

    Parameters
    ----------
    start
        Logarithms to start from (a fit to nearly the same runs), the priors by default.
    free
        Which constants may move; the others stay at their priors.
    noise
        Standard deviation of the log ratio that a good model leaves.
    robust
        Whether gross outliers are forgotten; a few runs of one's own are none.
    """
    plan = runs.layout
    squares = _squares(runs, keep, free, noise, robust)
    first = (plan.prior if start is None else start)[squares.moving]
    best, cost = minimise(squares, first, plan.upper[squares.moving], max_steps=max_steps)
    errors = plan.spread.copy()
    _, curvature = squares.normal(best, squares.slopes(best))
    errors[squares.moving] = np.sqrt(np.diag(np.linalg.inv(curvature)))
    return FitResult(plan, squares.whole(best), errors, cost)


def _squares(
    runs: RunSet, keep: np.ndarray | None, free: np.ndarray | None, noise: float = NOISE, robust: bool = True
) -> _Squares:
    weight = runs.weights() / noise
    if keep is not None:
        weight = np.where(keep, weight, 0.0)
    return _Squares(runs, weight, np.arange(len(runs.layout.paths)) if free is None else np.flatnonzero(free), robust)


NEAR = 0.02
"""Change of a constant's logarithm within which a refit takes the Jacobian to be the same: predictions then differ
from those of refits with a Jacobian at each step by less than 0.001 in the median."""


@dataclass(frozen=True)
class Refits:
    """Fits without some runs, each from a fit that has not seen them either.

    The derivatives of all predictions at that fit serve every refit: only the times are composed again at each step,
    and the derivatives where a constant has moved far.

    Attributes
    ----------
    runs, base
        The runs, and the fit to those that none of these refits leaves out; gaps are those of that fit.
    slopes
        Derivatives of the logarithms of predicted times by all constants at the fit.
    """

    runs: RunSet
    base: FitResult
    slopes: np.ndarray

    @classmethod
    def around(cls, runs: RunSet, base: FitResult) -> Refits:
        """Refits from a fit."""
        return cls(runs, base, runs.slopes(base.logarithms))

    @classmethod
    def beside(cls, runs: RunSet, held: np.ndarray) -> Refits:
        """Refits from a fit to the runs that are not ``held``, from their priors on."""
        own = replace(runs)
        own.update_gap(own.layout.prior)
        base, _ = fit_learned(own, ~held)
        return cls.around(own, base)

    def learned(self, held: np.ndarray) -> np.ndarray:
        """Which constants the runs that are not ``held`` say something about; the others stay at their priors."""
        plan = self.runs.layout
        _, curvature = _squares(self.runs, ~held, None).normal(self.base.logarithms, self.slopes)
        return np.asarray(np.sqrt(np.diag(np.linalg.inv(curvature))) < LEARNED * plan.spread)

    def without(self, held: np.ndarray, learned: np.ndarray | None = None) -> np.ndarray:
        """Logarithms of the constants fitted to the runs that are not ``held``.

        Parameters
        ----------
        learned
            Which constants may move; by default those that these runs say something about.
        """
        moving = self.learned(held) if learned is None else learned
        squares = _squares(self.runs, ~held, moving)
        start = self.base.logarithms[moving]
        known = Linearisation(start, self.slopes[:, moving])
        best, _ = minimise(squares, start, self.runs.layout.upper[moving], known=known, near=NEAR)
        return squares.whole(best)


_ROUNDS = 4
_SETTLED = 1e-4


def fit_learned(runs: RunSet, keep: np.ndarray | None = None) -> tuple[FitResult, np.ndarray]:
    """Fit in rounds: with exact schedules, and what the runs said nothing about put back to its prior.

    Returns
    -------
    The fit, and which constants were learned.
    """
    found = fit(runs, keep)
    runs.update_gap(found.logarithms)
    learned = found.errors < LEARNED * runs.layout.spread
    for _ in range(_ROUNDS):
        found = fit(runs, keep, found.logarithms, free=learned, max_steps=12)
        if runs.update_gap(found.logarithms) < _SETTLED:
            break
    return found, learned


KNEE = 2.0
"""Residuals, in standard deviations, beyond which a run counts less and less."""


def _robust(ratio: np.ndarray) -> np.ndarray:
    """Signed root of twice Cauchy's loss ``k**2 / 2 log(1 + (r/k)**2)``, so that its square is minimised."""
    return np.asarray(np.sign(ratio) * KNEE * np.sqrt(np.log1p((ratio / KNEE) ** 2)))


def _robust_slope(ratio: np.ndarray) -> np.ndarray:
    """Derivative of :func:`_robust`, 1 at zero."""
    small = np.abs(ratio) < 1e-9
    safe = np.where(small, 1.0, ratio)
    return np.asarray(np.where(small, 1.0, np.abs(safe) / (1 + (safe / KNEE) ** 2) / np.abs(_robust(safe))))
