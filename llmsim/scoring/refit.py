"""Predictions by refits: every row by constants that were fitted without its kind, and baselines from the same runs."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ..calibration.fit import RunSet, fit_learned
from ..calibration.folds import fold_numbers, refit_without
from ..calibration.intervals import regime_widths
from ..calibration.load import run_constants
from ..calibration.memory import fit_memory
from ..calibration.runs import RunPlan
from ..core.progress import Bar
from ..hardware.fitted import Fit
from ..training.intervals import log_width
from .baselines import baseline_seconds
from .outcome import Outcome, outcomes
from .predict import Predictions, Rated, memory_views, predict


def left_out_outcomes(rated: Rated, without: str, bar: Bar) -> tuple[dict[str, Outcome], dict[str, dict[str, float]]]:
    """Outcomes by refits without a row's group, model ..., and name of a baseline -> row id -> its seconds."""
    folds = fold_numbers(rated.items, without)
    found = _memory_left_out(rated, predict(rated, {}), folds, bar)
    timed = np.array([n for n, item in enumerate(rated.items) if item.run.step_time_s is not None], dtype=np.int64)
    widths: list[float | None] = [None] * len(rated.items)
    baselines: dict[str, dict[str, float]] = {}
    if len(timed):
        items, own = [rated.items[n] for n in timed], _renumbered(folds[timed])
        log_step, log_ratio = _steps_left_out(items, own, without, bar)
        step = found.step_s.copy()
        step[timed] = np.exp(log_step)
        found = replace(found, step_s=step)
        for n, value in zip(timed, _cross_widths(items, own, log_ratio), strict=True):
            widths[n] = value
        done = bar.stage("baselines")
        for name, seconds in baseline_seconds(items, own).items():
            known = np.isfinite(seconds)
            baselines[name] = {item.run.id: float(s) for item, s, k in zip(items, seconds, known, strict=True) if k}
        done()
    return outcomes(rated, found, widths, frozenset()), baselines


def _renumbered(folds: np.ndarray) -> np.ndarray:
    """Folds numbered without gaps."""
    return np.unique(folds, return_inverse=True)[1].reshape(-1)


def _steps_left_out(items: list[RunPlan], folds: np.ndarray, without: str, bar: Bar) -> tuple[np.ndarray, np.ndarray]:
    """Logarithms of the predicted step times, and of predicted over measured."""
    done = bar.stage("fitting to all runs")
    runs = RunSet.prepare(items)
    full, learned = fit_learned(runs)
    done()
    advance = bar.stage(f"refitting without {without}", int(folds.max()) + 1)
    predicted = refit_without(runs, full, learned, folds, advance=advance)
    return predicted, predicted - runs.log_time


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
        for view, value in zip(views, memory_views(rated, c.reserved_factor, c.context_bytes), strict=True):
            view[rows] = value[rows]
        advance()
    return Predictions(found.step_s, *views)


def _cross_widths(items: list[RunPlan], folds: np.ndarray, log_ratio: np.ndarray) -> list[float | None]:
    """Widths of the intervals of each run, from the residuals of the other folds."""
    hardware = tuple(sorted({item.cluster.device for item in items}))
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
