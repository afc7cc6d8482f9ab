"""A calibration with own runs, and a diagnosis, as text for a terminal."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from ..calibration.doctor import Diagnosis, advised
from ..calibration.own import OwnFit
from ..core.units import seconds
from .training import grid, origins_text, section


def own_report(found: OwnFit, path: str) -> Group:
    """The runs before and after, and which constants moved."""
    table = Table(box=None, pad_edge=False)
    for name in ("run", "measured", "before", "error", "after", "error"):
        table.add_column(name, justify="left" if name == "run" else "right", overflow="fold")
    for run in found.runs:
        cells = [
            cell
            for value in (run.before_s, run.after_s)
            for cell in (seconds(value), f"{100 * (value / run.measured_s - 1):+.1f} %")
        ]
        table.add_row(run.id, seconds(run.measured_s), *cells)
    moved = Table(box=None, pad_edge=False)
    for name in ("constant", "before", "after", "change"):
        moved.add_column(name, justify="left" if name == "constant" else "right")
    for name, (before, after) in sorted(found.moved.items(), key=lambda item: -abs(item[1][1] / item[1][0] - 1)):
        moved.add_row(name, f"{before:.4g}", f"{after:.4g}", f"{100 * (after / before - 1):+.1f} %")
    parts: list[RenderableType] = [section("Runs", table)]
    if found.fit.doubtful:
        parts.append(section("Times that look wrong, fitted on as they stand", grid(list(found.fit.doubtful.items()))))
    parts.append(section("Constants that moved by a hundredth or more", moved if found.moved else Text("none")))
    parts.append(Text(f"\nwritten to {path}: use it with --calibrate-with {path}"))
    return Group(*parts)


def doctor_report(found: Diagnosis) -> Group:
    """What a step rests on, the weakest first."""
    table = Table(box=None, pad_edge=False)
    for name in ("constant", "value", "origin", "error", "step per 1 %", "share of the variance"):
        table.add_column(name, justify="left" if name in ("constant", "origin") else "right")
    for own in found.constants:
        if own.share >= 0.001:
            table.add_row(
                own.path,
                f"{own.value:.4g} {'' if own.unit == '1' else own.unit}".strip(),
                own.provenance,
                f"{100 * own.log_error:.0f} %",
                f"{own.elasticity:+.3f} %",
                f"{100 * own.share:.0f} %",
            )
    result = found.result
    known = [("from constants", f"{100 * found.log_error:.1f} %, one standard error")]
    if found.log_width is None:
        known.append(("in all", "not known: too few measured runs are like it"))
    else:
        known.append(("measured, in all", f"{100 * found.log_width:.1f} % in 80 of 100 runs that no constant had seen"))
    if result.step_width is not None:
        known.append(("this step", f"{100 * result.step_width:.1f} %: with draws of what no run has moved"))
    parts: list[RenderableType] = [
        Text(f"{result.model} on {result.cluster}: {result.plan}, {seconds(result.step_time_s)} a step", style="bold"),
        section("What the step rests on", Text(f"rates that are {origins_text(result.provenance)}"), table),
        section("How far it may be off", grid(known)),
    ]
    advice = list(advised(found))
    if advice:
        parts.append(section("Measure next", grid(advice)))
    return Group(*parts)
