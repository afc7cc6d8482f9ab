"""The constants of engines that ship: fitted to the committed tables, with errors and intervals from refits without
parts of the groups."""

from __future__ import annotations

import csv
import datetime
import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from ...core.errors import LlmsimError
from ...core.provenance import Quantity
from ...hardware.constants import constant_at
from ...hardware.fitted import Fit, Residual, Width
from ...timing.intervals import MODEL_CLASSES, model_class
from ..intervals import COVERAGE, weighted_quantile
from .fit import METRICS, OWN, OWN_WIDTH, ServingData, fit_serving, standard_errors
from .runs import ServingRun, point_run, rate_run

TABLES = ("serving_points.csv", "serving_throughput.csv", "serving_runs.csv")
"""What is fitted."""


def serving_runs(folder: Path) -> list[ServingRun]:
    """The rows of the committed tables that can be simulated."""
    found = []
    for name in TABLES:
        with (folder / name).open(encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file):
                try:
                    found.append(in_flight(rate_run(row)) if "ttft_mean_ms" in row else point_run(row))
                except LlmsimError:
                    continue
    return found


def in_flight(run: ServingRun) -> ServingRun:
    """A run at a rate as one with so many requests in flight as its latencies say that there were (Little's law): its
    batch is then known, and does not depend on the constants that are fitted."""
    whole, first = run.measured.get("e2e_s"), run.measured.get("ttft_s")
    if run.load != "open" or run.requests is None or whole is None or first is None:
        return run
    each = (whole - first) / max(float(np.asarray(run.requests.output_tokens)) - 1, 1)
    return replace(run, load="closed", amount=run.amount * whole, measured={"ttft_s": first, "tpot_s": each})


def calibrate_serving(folder: Path, *, date: str | None = None) -> Fit:
    """Fit engines to the tables of a folder.

    Parameters
    ----------
    date
        To write, by default today.
    """
    data = ServingData(serving_runs(folder))
    every = np.ones(len(data.runs), bool)
    found = fit_serving(data, every)
    errors = dict(zip(data.parameters, standard_errors(data, every, found), strict=True))
    left_out = leave_out(data, group_parts([run.group for run in data.runs]))
    today = date or datetime.date.today().isoformat()
    rows = f"{len(data.runs):,} rows in {len({run.group for run in data.runs})} groups"
    source = f"fitted to {' and '.join(TABLES)}"
    values: dict[str, Quantity] = {}
    for path, value in data.values(found).items():
        engine, key = path.split("/")[1], "/".join(path.split("/")[2:])
        variance = sum(e**2 for p, e in errors.items() if p.key == key and p.engine in ("", engine))
        if engine not in data.engines and key in OWN:
            variance += OWN_WIDTH**2
        constant = constant_at(path)
        assert constant is not None
        values[path] = Quantity(
            value=float(f"{value:.4g}"), unit=constant.unit, provenance="fitted", error=float(f"{variance**0.5:.2g}"),
            source=source, date=today,
        )  # fmt: skip
    digests = ", ".join(f"{n} {hashlib.sha256((folder / n).read_bytes()).hexdigest()[:16]}" for n in TABLES)
    return Fit(
        date=today,
        data=f"{rows} of {digests}",
        split=f"all groups; errors and intervals from refits without each of {PARTS} parts of them",
        residuals=_residuals(data, left_out),
        intervals=_intervals(data, left_out),
        hardware=tuple(sorted({run.hardware for run in data.runs})),
        frameworks=tuple(data.engines),
        groups=_medians(data, data.predicted(found) - data.measured),
        values=values,
    )


PARTS = 8
"""Into so many parts groups are sorted for errors and intervals; each is predicted by a fit to the others."""


def group_parts(groups: Sequence[str]) -> list[int]:
    """The part of each run, parts as alike in size as they can be."""
    sizes = Counter(groups)
    held = [0] * PARTS
    part = {}
    for group in sorted(sizes, key=lambda name: (-sizes[name], name)):
        part[group] = min(range(PARTS), key=lambda n: held[n])
        held[part[group]] += sizes[group]
    return [part[group] for group in groups]


def leave_out(data: ServingData, folds: Sequence[object]) -> np.ndarray:
    """Logarithms of predictions, each run by a refit without its fold; shape (runs, metrics)."""
    found = np.full(data.measured.shape, np.nan)
    for fold in dict.fromkeys(folds):
        held = np.array([own == fold for own in folds])
        found[held] = data.predicted(fit_serving(data, ~held))[held]
    return found


def _by_group(data: ServingData, values: np.ndarray) -> dict[str, np.ndarray]:
    groups: dict[str, list[float]] = {}
    for run, value in zip(data.runs, values, strict=True):
        if np.isfinite(value):
            groups.setdefault(run.group, []).append(float(value))
    return {group: np.array(own) for group, own in groups.items()}


def _medians(data: ServingData, ratio: np.ndarray) -> dict[str, float]:
    """Group -> median logarithm of predicted over measured, over all metrics."""
    found: dict[str, list[float]] = {}
    for column in range(len(METRICS)):
        for group, own in _by_group(data, ratio[:, column]).items():
            found.setdefault(group, []).append(float(np.median(own)))
    return {group: round(float(np.mean(own)), 4) for group, own in found.items()}


def _residuals(data: ServingData, predicted: np.ndarray) -> dict[str, Residual]:
    found = {}
    for column, metric in enumerate(METRICS):
        groups = _by_group(data, predicted[:, column] - data.measured[:, column])
        medians = [float(np.median(np.abs(np.expm1(own)))) for own in groups.values()]
        found[f"left out {metric}"] = Residual(
            median=round(float(np.median(medians)), 6),
            p90=round(float(np.quantile(medians, 0.9)), 6),
            groups=len(medians),
        )
    return found


def _intervals(data: ServingData, predicted: np.ndarray) -> dict[str, Width]:
    found = {}
    for column, metric in enumerate(METRICS):
        errors = np.abs(predicted[:, column] - data.measured[:, column])
        for kind in ("", *MODEL_CLASSES):
            own = np.array([not kind or model_class(run.prepared.model.architecture) == kind for run in data.runs])
            groups = list(_by_group(data, np.where(own, errors, np.nan)).values())
            if len(groups) >= (FEWEST if kind else 1):
                name = f"{metric}/{kind}" if kind else metric
                found[name] = Width(log80=round(weighted_quantile(groups, COVERAGE), 5), groups=len(groups))
    return found


FEWEST = 5
"""Groups from which on kinds of models have intervals of their own."""
