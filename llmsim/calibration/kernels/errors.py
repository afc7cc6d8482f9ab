"""How far fitted kernels are off on shapes that a fit had not seen, as tables."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Literal

from ...hardware.kernel_fits import KernelFit, WithheldErrors, fitted_devices, kernel_fits

Statistic = Literal["median", "mean", "p90"]


def errors_by_device(source: str, family: str, statistic: Statistic = "mean", libraries: Sequence[str] = ()) -> str:
    """Errors of a family in percent: a column a device, a row a library, format and variant.

    Each cell has the error of the form alone, then that of form and residual; a dash where none is kept or nothing was
    measured.

    Parameters
    ----------
    source
        ``published`` or ``silicon``.
    libraries
        Which rows; none for all.
    """
    devices = fitted_devices(source)
    cells: dict[tuple[str, str, str], dict[str, str]] = {}
    for device in devices:
        for fit in _fits(source, device, lambda f: f.family == family and (not libraries or f.library in libraries)):
            row = cells.setdefault((fit.library, fit.format, fit.variant), {})
            row[device] = " ".join(_percent(own, statistic) for own in (fit.form, fit.form_and_residual))
    used = [d for d in devices if any(d in row for row in cells.values())]
    head = ["library", "format", "variant", *(d.rpartition("-")[0] for d in used)]
    return _aligned([head, *([*key, *(row.get(d, "-") for d in used)] for key, row in sorted(cells.items()))])


def errors_of_device(source: str, device: str, families: Sequence[str] = ()) -> str:
    """Errors of a device's fits in percent: median, mean and 90th percentile of the form, then of form and residual.

    Parameters
    ----------
    source
        ``published`` or ``silicon``.
    families
        Which rows; none for all.
    """
    rows = [["family", "format", "variant", "points", "shapes", "form", "", "", "and residual", "", ""]]
    for fit in _fits(source, device, lambda f: not families or f.family in families):
        each = [_percent(own, s) for own in (fit.form, fit.form_and_residual) for s in ("median", "mean", "p90")]
        rows.append([fit.family, fit.format, fit.variant or "-", str(fit.points), str(fit.shapes), *each])
    return _aligned(rows)


def _fits(source: str, device: str, wanted: Callable[[KernelFit], bool]) -> Iterable[KernelFit]:
    fits = kernel_fits(device, source)
    return filter(wanted, fits.fits if fits else ())


def _percent(errors: WithheldErrors | None, statistic: str) -> str:
    return "-" if errors is None else f"{100 * float(getattr(errors, statistic)):.1f}"


def _aligned(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("  ".join(f"{cell or '-':{width}}" for cell, width in zip(row, widths, strict=True)) for row in rows[1:])
    head = "  ".join(f"{cell:{width}}" for cell, width in zip(rows[0], widths, strict=True))
    return "\n".join(line.rstrip() for line in (head, *lines))
