"""Calibration from a table of measured runs to a file of constants, the same file for the same runs."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from ..core.errors import InputError, LlmsimError
from ..core.files import write_whole
from ..core.progress import Bar
from ..core.provenance import Quantity
from ..core.units import counted
from ..hardware.fitted import SCHEMA, Fit, Residual, Width, read_fit
from ..hardware.shapes import shape_table, shape_texts
from ..timing.intervals import model_class
from .batches import plan_runs
from .fit import FitResult, RunSet, fit_learned
from .folds import fold_numbers, refit_without
from .intervals import (
    difference_widths,
    group_medians,
    memory_widths,
    novelty_widths,
    regime_widths,
    residual,
)
from .load import allocated_bytes, prepare_runs
from .memory import fit_memory
from .plausible import too_fast, too_slow
from .runs import RunPlan, plan_run, reason
from .shapes import run_factors
from .split import Pair, pair_of, read_split
from .table import MeasuredRun, read_runs

SOURCE = "fit to measured runs"
_DIGITS = 6


def calibrate(data: Path, split: Path | None = None, *, date: str | None = None, progress: bool = True) -> Fit:
    """Fit the constants to a table of measured runs.

    Parameters
    ----------
    data
        The table; ``architectures/<model>.json`` beside it come before bundled models.
    split
        Pairs of framework and model to fit on (:mod:`llmsim.calibration.split`); all by default.
    date
        To be written into the fit, by default today's (UTC).

    Raises
    ------
    InputError
        For a table or a split that cannot be read, a row that is wrong (an unknown device, a time that its devices
        cannot have reached or of another unit), or too few runs.
    """
    date = date or datetime.now(UTC).date().isoformat()
    kept = read_split(split) if split else None
    runs = [run for run in read_runs(data) if kept is None or _pair(run) in kept]
    search = (data.parent,)
    with Bar(progress) as bar:
        done = bar.stage("reading plans")
        known = _known(runs, search, data)
        memory = fit_memory(known)
        constants = {path: rounded(found.value) for path, found in memory.items() if found.learned}
        items, _ = plan_runs(runs, search, overlay=constants)
        done()
        done = bar.stage("counting and rating")
        fitted = RunSet.prepare(items)
        if len(fitted) < 3:
            raise InputError("runs", str(data), "at least 3 runs with a step time that can be simulated")
        _refuse_impossible(fitted, data)
        done()
        done = bar.stage("fitting")
        full, learned = fit_learned(fitted)
        full = full.rounded(_DIGITS)
        done()
        left_out = {}
        for without in ("framework-model", "hardware", "framework"):
            folds = fold_numbers(fitted.items, without)
            advance = bar.stage(f"refitting without {without}", int(folds.max()) + 1)
            left_out[without] = refit_without(fitted, folds, advance=advance) - fitted.log_time
    shapes = shape_texts(fitted.shapes(full.logarithms))
    slower = run_factors(fitted.items, {key: shape_table(text) for key, text in shapes.items()})
    in_sample = fitted.slowed(slower).log_exact(full.logarithms) - fitted.log_time
    values = {path: _quantity(constants[path], m.error, m.unit, date) for path, m in memory.items() if m.learned}
    values |= _learned(fitted, full, learned, date)
    return Fit(
        date=date,
        data=_provenance(data, fitted.items),
        split=f"{split.name}: {len(kept)} pairs of framework and model" if split and kept else "all runs",
        residuals=_residuals(fitted.items, {"in sample": in_sample, "left out": left_out["framework-model"]}),
        intervals=_intervals(fitted.items, left_out) | _memory(known, constants),
        hardware=tuple(sorted({item.cluster.profile.fitted_as for item in items})),
        frameworks=tuple(sorted({item.plan.framework for item in items})),
        groups={group: rounded(ratio) for group, ratio in sorted(group_medians(fitted.items, in_sample).items())},
        values=dict(sorted(values.items())),
        shapes=shapes,
    )


def _pair(run: MeasuredRun) -> Pair:
    try:
        return pair_of(run)
    except LlmsimError:
        return "", ""


def _known(runs: Sequence[MeasuredRun], search: Sequence[Path], data: Path) -> list[RunPlan]:
    """The plans of rows that can be simulated, blank settings from profiles; a row that is wrong is refused."""
    items: list[RunPlan] = []
    for run in runs:
        try:
            items.append(plan_run(run, search))
        except InputError as error:
            raise InputError(f"{data}, line {run.line}", run.id, why=f"cannot be fitted on: {reason(error)}") from None
        except LlmsimError:
            continue
    return items


def _refuse_impossible(runs: RunSet, data: Path) -> None:
    """Refuse a measured time that no machine can have taken, or that is far longer than the profiles predict."""
    predicted = np.exp(runs.log_prediction(runs.layout.prior))
    for item, seconds in zip(runs.items, predicted, strict=True):
        error = too_fast(item) or too_slow(item, float(seconds))
        if error is not None:
            raise InputError(f"{data}, line {item.run.line}", item.run.id, why=f"cannot be fitted on: {error}")


def rounded(value: float, digits: int = _DIGITS) -> float:
    """A value with so many significant digits."""
    return float(f"{value:.{digits}g}")


def _quantity(value: float, error: float, unit: str, date: str) -> Quantity:
    return Quantity(value=value, unit=unit, provenance="fitted", error=rounded(error, 3), source=SOURCE, date=date)


def _learned(runs: RunSet, full: FitResult, learned: np.ndarray, date: str) -> dict[str, Quantity]:
    units = runs.layout.units
    return {
        path: _quantity(rounded(float(np.exp(full.logarithms[n]))), float(full.errors[n]), units[path], date)
        for n, path in enumerate(runs.layout.paths)
        if learned[n]
    }


def _provenance(data: Path, items: Sequence[RunPlan]) -> str:
    digest = hashlib.sha256(data.read_bytes().replace(b"\r\n", b"\n")).hexdigest()[:16]
    groups = len({item.run.group for item in items})
    return f"{data.name}, sha256 {digest}, {counted(len(items), 'run')} in {counted(groups, 'group')}"


def _residuals(items: Sequence[RunPlan], ratios: Mapping[str, np.ndarray]) -> dict[str, Residual]:
    found: dict[str, Residual] = {}
    kinds = np.array([model_class(item.architecture) for item in items])
    for name, ratio in ratios.items():
        for kind in sorted(set(kinds)):
            rows = np.flatnonzero(kinds == kind)
            own = residual([items[n] for n in map(int, rows)], ratio[rows])
            found[f"{name} {kind}"] = Residual(median=rounded(own.median), p90=rounded(own.p90), groups=own.groups)
    return found


def _intervals(items: Sequence[RunPlan], left_out: Mapping[str, np.ndarray]) -> dict[str, Width]:
    found = regime_widths(items, left_out["framework-model"])
    found |= novelty_widths(items, left_out["hardware"], left_out["framework"])
    found |= difference_widths(items, left_out["framework-model"])
    return {name: Width(log80=rounded(own.log80, 4), groups=own.groups) for name, own in found.items()}


def _memory(items: Sequence[RunPlan], constants: Mapping[str, float]) -> dict[str, Width]:
    own = [item for item in items if item.run.memory_gib is not None]
    found = memory_widths(own, allocated_bytes(prepare_runs(own), len(own)), constants)
    return {name: Width(log80=rounded(w.log80, 4), groups=w.groups) for name, w in found.items()}


def write_fit(fit: Fit, path: Path) -> bool:
    """Write a fit, whole or not at all; a file that says the same but for its dates stays as it is.

    Returns
    -------
    Whether it was written.

    Raises
    ------
    InputError
        If it cannot be written.
    """
    if path.is_file() and _undated(read_fit(path)) == _undated(fit):
        return False
    write_whole(path, fit_text(fit))
    return True


def fit_text(fit: Fit, by: str = "python -m llmsim.calibration") -> str:
    """A fit as its file holds it: one line an item, so that files can be compared.

    Parameters
    ----------
    by
        The command that made it.
    """
    import yaml

    def flow(value: object) -> str:
        return yaml.safe_dump(value, default_flow_style=True, sort_keys=False, width=10_000, allow_unicode=True).strip()

    lines = [f"# Constants fitted to measured runs by `{by}`; not to be edited by hand."]
    for name, section in {"schema": SCHEMA, **fit.model_dump(mode="json", exclude_none=True)}.items():
        if name == "doubtful" and not section:
            continue
        if name == "shapes" and section:
            lines.append("shapes:")
            for key, text in section.items():
                lines += [f"  {key}: |", *(f"    {line}" for line in text.splitlines())]
        elif isinstance(section, dict) and section:
            lines.append(f"{name}:")
            lines += [f"  {flow({key: value})[1:-1]}" for key, value in section.items()]
        else:
            lines.append(flow({name: section})[1:-1])
    return "\n".join(lines) + "\n"


def _undated(fit: Fit) -> dict[str, Any]:
    data = fit.model_dump(exclude={"date"})
    for quantity in data["values"].values():
        quantity.pop("date")
    return data
