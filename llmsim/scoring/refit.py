"""Predictions by refits: every row by constants that were fitted without its kind, and baselines from the same runs."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from ..calibration.fit import FitResult, RunSet, fit_learned
from ..calibration.folds import fold_numbers, refit_without
from ..calibration.intervals import group_medians, regime_widths, width
from ..calibration.load import run_constants
from ..calibration.memory import fit_memory
from ..calibration.runs import RunPlan
from ..core.progress import Bar
from ..hardware.fitted import Fit
from ..timing.intervals import log_width
from .baselines import baseline_seconds
from .outcome import Outcome, outcomes
from .predict import Predictions, Rated, memory_views, predict


@dataclass(frozen=True)
class FitToAll:
    """The fit to all runs of a table that have a step time.

    Attributes
    ----------
    rows
        Numbers of those runs among the rated ones.
    runs, full, learned
        The runs, the fit, and which constants it moves.
    """

    rows: np.ndarray
    runs: RunSet
    full: FitResult
    learned: np.ndarray


def fit_to_all(rated: Rated, bar: Bar) -> FitToAll | None:
    """The fit to all runs; None where none has a step time."""
    rows = np.array([n for n, item in enumerate(rated.items) if item.run.step_time_s is not None], dtype=np.int64)
    if not len(rows):
        return None
    done = bar.stage("fitting to all runs")
    runs = RunSet.prepare([rated.items[n] for n in rows])
    full, learned = fit_learned(runs)
    done()
    return FitToAll(rows, runs, full, learned)


@dataclass(frozen=True)
class LeftOut:
    """Predictions of rows by constants fitted without them.

    Attributes
    ----------
    outcomes
        By row id.
    same_widths
        Row id -> half the width of an interval that is the same for all runs of a table, from the residuals of the
        runs that were not left out, as a logarithm; None from too few.
    baselines
        Name -> row id -> seconds.
    """

    outcomes: dict[str, Outcome]
    same_widths: dict[str, float | None]
    baselines: dict[str, dict[str, float]]


def left_out_outcomes(rated: Rated, without: str, bar: Bar, fitted: FitToAll | None = None) -> LeftOut:
    """Predictions by refits without a row's group, model ...

    Parameters
    ----------
    fitted
        The fit to all runs, where it is known already.
    """
    folds = fold_numbers(rated.items, without)
    found = _memory_left_out(rated, predict(rated, {}), folds, bar)
    widths: list[float | None] = [None] * len(rated.items)
    same: dict[str, float | None] = {}
    baselines: dict[str, dict[str, float]] = {}
    fitted = fitted or fit_to_all(rated, bar)
    if fitted is not None:
        items, own = fitted.runs.items, _renumbered(folds[fitted.rows])
        advance = bar.stage(f"refitting without {without}", int(own.max()) + 1)
        log_step = refit_without(fitted.runs, own, advance=advance)
        found = _with_steps(found, fitted.rows, log_step)
        done = bar.stage("intervals and baselines")
        log_ratio = log_step - fitted.runs.log_time
        for n, value in zip(fitted.rows, _cross_widths(items, own, log_ratio), strict=True):
            widths[n] = value
        same = _same_widths(items, own, log_ratio)
        for name, seconds in baseline_seconds(items, own).items():
            known = np.isfinite(seconds)
            baselines[name] = {item.run.id: float(s) for item, s, k in zip(items, seconds, known, strict=True) if k}
        done()
    return LeftOut(outcomes(rated, found, widths, frozenset()), same, baselines)


def outcomes_without(rated: Rated, held: np.ndarray, fitted: FitToAll) -> dict[str, Outcome]:
    """Step times of some runs by one refit without all of them, without intervals; memory under constants at their
    priors.

    Parameters
    ----------
    held
        Which of the rated runs are left out, and predicted.
    """
    folds = np.where(held, 0, -1)[fitted.rows]
    wanted = np.flatnonzero(folds == 0)
    if not len(wanted):
        return {}
    log_step = refit_without(fitted.runs, folds, processes=1)
    found = _with_steps(predict(rated, {}), fitted.rows[wanted], log_step[wanted])
    predicted = outcomes(rated, found, [None] * len(rated.items), frozenset())
    ids = {fitted.runs.items[n].run.id for n in wanted}
    return {row: outcome for row, outcome in predicted.items() if row in ids}


def in_sample_outcomes(rated: Rated, fitted: FitToAll) -> dict[str, Outcome]:
    """Outcomes by the fit to the very rows, without intervals."""
    memory = fit_memory(rated.items, rated.allocated_bytes)
    found = predict(rated, {path: m.value for path, m in memory.items()})
    found = _with_steps(
        found, fitted.rows, fitted.runs.shaped(fitted.full.logarithms).log_exact(fitted.full.logarithms)
    )
    groups = frozenset(item.run.group for item in rated.items)
    return outcomes(rated, found, [None] * len(rated.items), groups)


def _with_steps(found: Predictions, rows: np.ndarray, log_step: np.ndarray) -> Predictions:
    step = found.step_s.copy()
    step[rows] = np.exp(log_step)
    return replace(found, step_s=step)


def _renumbered(folds: np.ndarray) -> np.ndarray:
    """Folds numbered without gaps."""
    return np.unique(folds, return_inverse=True)[1].reshape(-1)


def _memory_left_out(rated: Rated, found: Predictions, folds: np.ndarray, bar: Bar) -> Predictions:
    """Predictions with constants of memory that were fitted without each fold."""
    measured = sorted({int(fold) for fold, item in zip(folds, rated.items, strict=True) if item.run.memory_gib})
    views = [found.allocated_gib.copy(), found.reserved_gib.copy(), found.device_gib.copy(), found.fits.copy()]
    advance = bar.stage("refitting memory", len(measured) + 1)
    for fold in (*measured, None):
        rows = ~np.isin(folds, measured) if fold is None else folds == fold
        others = np.flatnonzero(~rows if fold is not None else np.ones(len(folds), bool))
        fitted = fit_memory([rated.items[n] for n in others], rated.allocated_bytes[others])
        c = run_constants(rated.items, {path: m.value for path, m in fitted.items()})
        for view, value in zip(views, memory_views(rated, c), strict=True):
            view[rows] = value[rows]
        advance()
    return Predictions(found.step_s, *views)


def _cross_widths(items: list[RunPlan], folds: np.ndarray, log_ratio: np.ndarray) -> list[float | None]:
    """Widths of the intervals of each run, from the residuals of the other folds."""
    hardware = tuple(sorted({item.cluster.profile.fitted_as for item in items}))
    frameworks = tuple(sorted({item.plan.framework for item in items}))
    widths: list[float | None] = [None] * len(items)
    for fold in range(int(folds.max()) + 1):
        others = np.flatnonzero(folds != fold)
        regimes = regime_widths([items[n] for n in others], log_ratio[others]) if len(others) else {}
        known = Fit(intervals=regimes, hardware=hardware, frameworks=frameworks)
        for n in np.flatnonzero(folds == fold):
            item = items[n]
            widths[n] = log_width(item.architecture, item.cluster, item.plan.software, known)
    return widths


def _same_widths(items: list[RunPlan], folds: np.ndarray, log_ratio: np.ndarray) -> dict[str, float | None]:
    """One width for all runs of a fold, from the groups of the other folds."""
    fold_of = {item.run.group: int(fold) for item, fold in zip(items, folds, strict=True)}
    scores = group_medians(items, np.abs(log_ratio))
    found: dict[int, float | None] = {}
    for fold in sorted(set(fold_of.values())):
        own = width([score for group, score in scores.items() if fold_of[group] != fold])
        found[fold] = None if own is None else own.log80
    return {item.run.id: found[int(fold)] for item, fold in zip(items, folds, strict=True)}
