"""Fits of kernels as files."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path

from ...core.files import write_whole
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


def fits_text(device: str, fits: Iterable[tuple[Table, FormFit]], source: str, date: str) -> str:
    """The file of a device.

    Parameters
    ----------
    source, date
        Where the measurements are from, and when they were fitted.
    """
    head = f"# Fitted kernels; written by python -m llmsim.calibration.kernels\nschema: {SCHEMA}\ndevice: {device}\n"
    blocks = (_block(table, fit) for table, fit in fits)
    return f'{head}source: "{source}"\ndate: "{date}"\nfits:\n' + "".join(blocks)


def write_fits(folder: str, device: str, text: str) -> tuple[Path, bool]:
    """Write the file of a device; one that says the same but for its date stays as it is.

    Parameters
    ----------
    folder
        ``published`` or ``silicon``.

    Returns
    -------
    The file, and whether it was written.

    Raises
    ------
    InputError
        If it cannot be written.
    """
    path = kernels_root() / folder / f"{device}.yaml"
    if path.is_file() and undated(path.read_text(encoding="utf-8")) == undated(text):
        return path, False
    write_whole(path, text, "kernel fits")
    return path, True


def undated(text: str) -> str:
    """The text of a file without the date of its fits."""
    return re.sub(r"^date: .*$", "", text, count=1, flags=re.MULTILINE)


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
