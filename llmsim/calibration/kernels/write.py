"""Fits of kernels as files."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from ...hardware.devices import bundled_device
from ...hardware.kernel_fits import SCHEMA, kernels_root
from ...hardware.residuals import residual_text
from .fitting import Errors, Family, FormFit, Machine, fit_form
from .measured import Table


def fit_tables(tables: Iterable[Table]) -> list[tuple[Table, FormFit]]:
    """Each table with the fit of its form."""
    found = []
    for table in tables:
        device = bundled_device(table.device)
        machine = Machine(device.peak_of(table.computed), device.memory_bandwidth.value, device.compute_units)
        found.append((table, fit_form(table.family, table.sizes, table.seconds, machine)))
    return found


def write_fits(folder: str, device: str, fits: Iterable[tuple[Table, FormFit]], source: str, date: str) -> Path:
    """Write the file of a device; what it had before is replaced.

    Parameters
    ----------
    folder
        ``published`` or ``silicon``.
    source, date
        Where the measurements are from, and when they were fitted.
    """
    blocks = [_block(table, fit) for table, fit in fits]
    head = f"# Fitted kernels; written by python -m llmsim.calibration.kernels\nschema: {SCHEMA}\ndevice: {device}\n"
    text = f'{head}source: "{source}"\ndate: "{date}"\nfits:\n' + "".join(blocks)
    path = kernels_root() / folder / f"{device}.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)
    return path


def _block(table: Table, fit: FormFit) -> str:
    units = _units(table.family)
    constants = ", ".join(
        f'{name}: {{value: {value:.5g}, unit: "{units[name]}", error: {min(fit.errors[name], 99):.3g}}}'
        for name, value in fit.values.items()
    )
    lines = [
        f"- family: {table.family.name}",
        f"library: {table.library}",
        f"release: {json.dumps(table.release)}",
        f"format: {table.format}",
        f"variant: {json.dumps(table.variant)}",
        f"points: {fit.points}",
        f"shapes: {fit.shapes}",
        f"spread: {fit.spread:.4f}",
        f"constants: {{{constants}}}",
        f"form: {_errors(fit.form_errors)}",
        *([f"form_and_residual: {_errors(fit.residual_errors)}"] if fit.residual_errors else []),
        *([f"few_points: {_errors(fit.few_errors)}"] if fit.few_errors else []),
        f"file: {json.dumps(table.file)}",
        f'sha256: "{table.sha256}"',
    ]
    text = "\n    ".join(lines)
    if fit.residual is not None:
        text += f'\n    residual: "{residual_text(fit.residual)}"'
    return f"  {text}\n"


def _units(family: Family) -> dict[str, str]:
    return {p.name: p.unit for p in family.parameters}


def _errors(errors: Errors) -> str:
    return f"{{median: {errors.median:.4f}, mean: {errors.mean:.4f}, p90: {errors.p90:.4f}}}"
