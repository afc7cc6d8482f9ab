"""Fitting the form of a family of kernels to measured times, and how far off it is on shapes that it has not seen."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ...hardware.residuals import Residual

Sizes = Mapping[str, np.ndarray]
"""Name of a size -> its value in each measurement."""

MOST_ROWS = 2000
"""Measurements that constants are fitted to, drawn from all; more change them by less than their errors."""
FOLDS = 3
"""Of shapes: a fit that does not see one of them predicts it."""
MANY = 3000
"""Measurements from which one fold tells the error well enough."""
FEW = 40
"""Measurements of a small profile, for the error of a form fitted to so few."""
SCALE = 0.1
"""Logarithm of a ratio beyond which measurements count less and less (soft L1)."""
MOST_POINTS = 600
"""Points of a residual that is kept."""
MOST_STEPS = 40
"""Of the minimiser."""
DENSE = 150
"""Measurements from which a residual is interpolated at all."""


@dataclass(frozen=True)
class Parameter:
    """A constant of a form.

    Attributes
    ----------
    name, unit
        As the form's constants call it.
    start, low, high
        Where a fit begins and stays.
    """

    name: str
    start: float
    low: float
    high: float
    unit: str = "1"


@dataclass(frozen=True)
class Machine:
    """What a form needs of a device: FLOP/s of the format, bytes/s, compute units."""

    peak: float
    bandwidth: float
    compute_units: int


Form = Callable[[Sizes, Mapping[str, float], Machine], np.ndarray]


@dataclass(frozen=True)
class Family:
    """Kernels with one form.

    Attributes
    ----------
    name
        Of the family.
    parameters, form
        Constants, and seconds from sizes and constants.
    shape
        Sizes that make a shape; all measurements of a shape are withheld together.
    features
        Sizes between which a residual is interpolated.
    """

    name: str
    parameters: tuple[Parameter, ...]
    form: Form
    shape: tuple[str, ...]
    features: tuple[str, ...]


@dataclass(frozen=True)
class Errors:
    """Relative errors on withheld shapes.

    Attributes
    ----------
    median, mean, p90
        Of ``|predicted / measured - 1|``.
    """

    median: float
    mean: float
    p90: float


@dataclass(frozen=True)
class FormFit:
    """A fitted form.

    Attributes
    ----------
    values, errors
        Constant -> value, and relative standard error.
    points, shapes
        Measurements and distinct shapes.
    spread
        Standard deviation of the logarithm that the form leaves.
    form_errors, residual_errors, few_errors
        On withheld shapes: of the form, of form and residual, and of a form fitted to a few random measurements.
    residual
        None where points are not dense or do not make the error on withheld shapes less; so are its errors.
    """

    values: dict[str, float]
    errors: dict[str, float]
    points: int
    shapes: int
    spread: float
    form_errors: Errors
    residual_errors: Errors | None
    few_errors: Errors | None
    residual: Residual | None


def fit_form(family: Family, sizes: Sizes, seconds: np.ndarray, machine: Machine, *, seed: int = 0) -> FormFit:
    """Fit a form to measurements, and measure its error on withheld shapes.

    Parameters
    ----------
    sizes, seconds
        Of each measurement.
    seed
        Of the draws; the same gives the same fit.
    """
    rng = np.random.default_rng(seed)
    everything = np.arange(len(seconds))
    values, errors, residual, spread = _fitted(family, sizes, seconds, machine, everything, rng)
    form, refined, few = _withheld_ratios(family, sizes, seconds, machine, rng)
    form_errors = relative_errors(form)
    refined_errors = relative_errors(refined) if residual is not None and len(refined) == len(form) else None
    if refined_errors is None or refined_errors.median >= form_errors.median:
        residual = refined_errors = None  # what points say of each other does not carry over to other shapes
    shapes = len(np.unique(_shapes(family, sizes)))
    return FormFit(
        values, errors, len(seconds), shapes, spread, form_errors, refined_errors,
        relative_errors(few) if len(few) else None, residual,
    )  # fmt: skip


def _withheld_ratios(
    family: Family, sizes: Sizes, seconds: np.ndarray, machine: Machine, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Predicted over measured times of shapes that a fit had not seen: of the form, of form and residual, and of the
    form fitted to a few measurements. Each shape is withheld once; of large tables only a third is."""
    folds = fold_numbers(family, sizes, rng)
    form, refined, few = [], [], []
    for fold in range(FOLDS if len(seconds) < MANY else 1):
        kept, rest = np.flatnonzero(folds != fold), np.flatnonzero(folds == fold)
        if not len(kept) or not len(rest):
            continue
        own, _, residual, _ = _fitted(family, sizes, seconds, machine, kept, rng)
        ratio = family.form(_rows(sizes, rest), own, machine) / seconds[rest]
        form.append(ratio)
        if residual is not None:
            refined.append(ratio * residual.factor(**{name: sizes[name][rest] for name in family.features}))
        if len(kept) > 2 * FEW:
            small, _ = _constants(family, sizes, seconds, machine, rng.choice(kept, FEW, replace=False))
            few.append(family.form(_rows(sizes, rest), small, machine) / seconds[rest])
    nothing = [np.zeros(0)]
    return (
        np.concatenate(form or [np.full(1, np.nan)]),
        np.concatenate(refined or nothing),
        np.concatenate(few or nothing),
    )


def relative_errors(ratio: np.ndarray) -> Errors:
    """Errors of predictions, from predicted over measured."""
    off = np.abs(ratio - 1)
    return Errors(float(np.median(off)), float(off.mean()), float(np.quantile(off, 0.9)))


def fold_numbers(family: Family, sizes: Sizes, rng: np.random.Generator) -> np.ndarray:
    """In which fold each measurement is withheld: whole shapes together."""
    shapes = _shapes(family, sizes)
    return np.asarray(rng.permutation(np.arange(shapes.max() + 1) % FOLDS)[shapes])


def _shapes(family: Family, sizes: Sizes) -> np.ndarray:
    columns = np.stack([sizes[name] for name in family.shape], axis=1)
    return np.unique(columns, axis=0, return_inverse=True)[1].reshape(-1)


def _rows(sizes: Sizes, rows: np.ndarray) -> dict[str, np.ndarray]:
    return {name: column[rows] for name, column in sizes.items()}


def _fitted(
    family: Family,
    sizes: Sizes,
    seconds: np.ndarray,
    machine: Machine,
    rows: np.ndarray,
    rng: np.random.Generator,
) -> tuple[dict[str, float], dict[str, float], Residual | None, float]:
    sample = rows if len(rows) <= MOST_ROWS else rng.choice(rows, MOST_ROWS, replace=False)
    values, errors = _constants(family, sizes, seconds, machine, sample)
    left = np.log(seconds[rows] / family.form(_rows(sizes, rows), values, machine))
    residual = None
    if len(rows) >= DENSE:
        points = np.stack([np.log2(np.maximum(sizes[name][rows], 1.0)) for name in family.features], axis=1)
        residual = thinned(family.features, points, left)
    return values, errors, residual, float(np.std(left))


def _constants(
    family: Family, sizes: Sizes, seconds: np.ndarray, machine: Machine, rows: np.ndarray
) -> tuple[dict[str, float], dict[str, float]]:
    """Constants in logarithms by bounded robust least squares, with standard errors from the curvature."""
    from scipy.optimize import least_squares

    names = [p.name for p in family.parameters]
    own, measured = _rows(sizes, rows), np.log(seconds[rows])

    def off(x: np.ndarray) -> np.ndarray:
        predicted = family.form(own, dict(zip(names, np.exp(x), strict=True)), machine)
        return np.asarray(np.log(predicted) - measured)

    start, low, high = (np.log([getattr(p, key) for p in family.parameters]) for key in ("start", "low", "high"))
    best = least_squares(off, start, bounds=(low, high), loss="soft_l1", f_scale=SCALE, max_nfev=MOST_STEPS)
    slope = np.asarray(best.jac, dtype=float)
    noise = np.sqrt(2 * best.cost / max(len(rows) - len(names), 1))
    errors = noise * np.sqrt(np.abs(np.diag(np.linalg.pinv(slope.T @ slope))))
    values = dict(zip(names, map(float, np.exp(best.x)), strict=True))
    return values, dict(zip(names, map(float, errors), strict=True))


def thinned(columns: Sequence[str], points: np.ndarray, left: np.ndarray) -> Residual:
    """A residual of few points: cells of a grid as fine as their number allows, each with its mean and spread."""
    width = 0.5
    while True:
        cells, inverse = np.unique(np.round(points / width), axis=0, return_inverse=True)
        if len(cells) <= MOST_POINTS:
            break
        width *= 1.25
    inverse, count = inverse.reshape(-1), len(cells)
    weight = np.bincount(inverse, minlength=count)
    centre = np.stack([np.bincount(inverse, points[:, c], count) / weight for c in range(points.shape[1])], axis=1)
    mean = np.bincount(inverse, left, count) / weight
    variance = np.bincount(inverse, (left - mean[inverse]) ** 2, count) / np.maximum(weight - 1, 1)
    pooled = float(np.mean((left - mean[inverse]) ** 2))
    spread = np.sqrt((variance * weight + pooled * 4) / (weight + 4))
    return Residual(tuple(columns), centre, mean, spread)
