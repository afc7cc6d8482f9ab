"""An explanation of one plan as text for a terminal, as Markdown, and its closed form as LaTeX."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from ..core.units import GIGA, TERA, counted, gib, large, seconds
from ..explain.explain import TrainingExplanation
from ..explain.levers import Neighbour
from ..explain.symbol_table import Definition
from ..explain.waterfall import Bar, rounded
from ..training.breakdown import PART_NAMES

DEPTH = 4
"""Levels of definitions that are shown: the step, its parts, passes of stages, passes of layers."""
LEAST_BAR = 0.05
"""Percent points of MFU below which bars are shown as one."""
LEAST_SHARE, LEAST_TERM = 0.01, 0.005
"""Definitions that less of the quantity goes through, and terms that are less of their sum, are not printed."""
LEAST_CHANGE = 0.0005
"""Levers that change a quantity by less are not printed."""
ROWS = 6
"""Levers of each kind that are printed."""
NEAR = 1.5
"""Decisions whose branches lie within this factor are printed."""
_SCALES = {"FLOP/s": (TERA, "TFLOP/s"), "bytes/s": (GIGA, "GB/s")}


@dataclass(frozen=True)
class Grid:
    """A table under a heading, in any of the forms.

    Attributes
    ----------
    title, note
        The heading, and a text beneath the table.
    columns
        Their headings.
    rows
        Cells as text; the last row is a total where ``total``.
    right
        Columns that are set to the right.
    """

    title: str
    columns: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]
    right: frozenset[int] = frozenset()
    total: bool = False
    note: str = ""


def explanation_grids(found: TrainingExplanation, depth: int = DEPTH) -> list[Grid]:
    """The sections of an explanation."""
    grids = [_waterfall(found), _closed_form(found, depth), _rates(found), _neighbours(found), _decisions(found)]
    return [grid for grid in grids if grid.rows]


def explanation_report(found: TrainingExplanation, depth: int = DEPTH) -> Group:
    """An explanation for a terminal."""
    parts: list[RenderableType] = [Text(line, style="bold" if i == 0 else "") for i, line in enumerate(_head(found))]
    for grid in explanation_grids(found, depth):
        parts += [Text(f"\n{grid.title}", style="bold"), Padding(_table(grid), (0, 0, 0, 2))]
        if grid.note:
            parts.append(Padding(Text(grid.note), (0, 0, 0, 2)))
    return Group(*parts)


def explanation_markdown(found: TrainingExplanation, depth: int = DEPTH) -> str:
    """An explanation as Markdown."""
    first, *rest = _head(found)
    lines = [f"# {first}", "", *(f"{line}  " for line in rest)]
    for grid in explanation_grids(found, depth):
        marks = ["---:" if i in grid.right else "---" for i in range(len(grid.columns))]
        lines += ["", f"## {grid.title}", "", *map(_line, [grid.columns, tuple(marks), *grid.rows])]
        lines += ["", grid.note] if grid.note else []
    return "\n".join(lines)


def explanation_latex(found: TrainingExplanation, depth: int = DEPTH) -> str:
    """The closed form as LaTeX: whole formulas, and what their symbols are."""
    shown = _shown(found, depth, least=0.0)
    formulas = [rf"{_latex_name(d.name)} &= {_latex_formula(d)} && = {_latex_value(d)} \\" for d in shown]
    meanings = [
        rf"${_latex_name(d.name)}$ & ${_latex_value(d)}$ & {_escaped(d.meaning)} \\"
        for d in [*shown, *_bases(found, shown)]
    ]
    table = [r"\begin{tabular}{lll}", *meanings, r"\end{tabular}"]
    return "\n".join([r"\begin{align*}", *formulas, r"\end{align*}", *table])


def _head(found: TrainingExplanation) -> list[str]:
    result = found.result
    over = "" if result.fits else f"  DOES NOT FIT: {gib(result.device_bytes)} of {gib(result.memory_limit_bytes)}"
    peak = f"{result.peak_flops_per_s / TERA:,.0f} TFLOP/s ({result.peak_format}, dense)"
    return [
        f"{result.model} on {result.cluster} ({counted(result.n_devices, 'device')}){over}",
        f"plan  {result.plan}",
        f"step  {seconds(result.step_time_s)} for {large(result.tokens_per_step)} tokens, "
        f"MFU {100 * result.mfu:.1f} % of {peak}, {result.mfu_convention} convention",
    ]


def _table(grid: Grid) -> Table:
    table = Table(box=None, pad_edge=False, show_header=any(grid.columns))
    for i, name in enumerate(grid.columns):
        table.add_column(name, justify="right" if i in grid.right else "left", overflow="fold")
    for row in grid.rows:
        table.add_row(*row, style="bold" if grid.total and row is grid.rows[-1] else None)
    return table


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", r"\|").replace("*", r"\*") for cell in cells) + " |"


def _waterfall(found: TrainingExplanation) -> Grid:
    first, *rest = found.waterfall
    shown = [bar for bar in rest if abs(bar.points) >= LEAST_BAR]
    small = [bar for bar in rest if abs(bar.points) < LEAST_BAR]
    bars = [first, *shown]
    if any(bar.seconds for bar in small):
        bars.append(Bar("rest", "everything smaller", sum(b.seconds for b in small), sum(b.points for b in small)))
    times, points = rounded([b.seconds for b in bars], 4), rounded([b.points for b in bars], 1)
    rows = [(b.meaning, f"{t:.4f}", f"{p:.1f}") for b, t, p in zip(bars, times, points, strict=True)]
    rows.append(("step", f"{sum(times):.4f}", f"{sum(points):.1f}"))
    title = "From peak to achieved: what makes the step longer, and what of 100 % that costs"
    return Grid(title, ("", "seconds", "points of MFU"), rows, frozenset({1, 2}), total=True)


def _closed_form(found: TrainingExplanation, depth: int) -> Grid:
    shown = _shown(found, depth)
    rows = [(d.name, f"= {_short(found, d)}", f"{_value(d)}", d.meaning) for d in shown]
    if not shown:
        rows = [(found.quantity, f"= {found.value:g}", "", "under this plan, whatever its rates")]
    bases = ", ".join(f"{d.name} = {_value(d)} {d.meaning}" for d in _bases(found, shown))
    same = abs(found.value / found.simulated - 1) if found.simulated else 0.0
    note = f"with {bases}; " if bases else ""
    note += f"the closed form equals the simulation to {same:.0e}" if same else "the closed form equals the simulation"
    return Grid(f"Closed form of the {found.quantity} in this plan's regime", ("", "", "", ""), rows, frozenset({2}),
                note=note)  # fmt: skip


def _shown(found: TrainingExplanation, depth: int, least: float = LEAST_SHARE) -> list[Definition]:
    """Definitions down to a level that enough of the quantity goes through."""
    table = found.form.table
    adjoints = table.adjoints(found.form.quantities[found.quantity])
    shown: list[Definition] = []
    level = found.definitions[:1]
    for _ in range(depth):
        shown += level
        uses = dict.fromkeys(u for d in level for u in d.uses)
        level = [
            d
            for u in uses
            if (d := table.definitions[u]).tree is not None and d not in shown
            and abs(adjoints.get(u, 0.0) * float(d.value)) >= least * abs(found.value)
        ]  # fmt: skip
    return shown


def _bases(found: TrainingExplanation, shown: Sequence[Definition]) -> list[Definition]:
    """Degrees, sizes and rates in the formulas shown."""
    used = dict.fromkeys(u for d in shown for u in d.uses)
    return [d for u in used if (d := found.form.table.definitions[u]).tree is None]


def _short(found: TrainingExplanation, definition: Definition) -> str:
    """A formula without the terms that hardly matter."""
    import sympy

    whole = _simplest(sympy, definition.expression)
    if not isinstance(whole, sympy.Add):
        return str(whole)
    values = found.form.table.values
    each = [(abs(_number(sympy, term, values)), term) for term in whole.args]
    most = max(size for size, _ in each)
    kept = [term for size, term in each if size >= LEAST_TERM * most]
    return str(sympy.Add(*kept)) + ("" if len(kept) == len(each) else " + ...")


def _number(sympy: Any, term: Any, values: dict[str, float]) -> float:
    return float(term.subs({s: values[s.name] for s in term.free_symbols}))


def _simplest(sympy: Any, expression: Any) -> Any:
    """The shortest of some ways to write an expression."""
    if expression.count_ops() > 200:
        return expression
    return min((expression, sympy.expand(expression), sympy.factor_terms(expression)), key=lambda e: e.count_ops())


def _value(d: Definition) -> str:
    value = float(d.value)
    if d.unit == "s":
        return seconds(value)
    if d.unit == "bytes":
        return gib(value) if value >= 1 << 24 else f"{large(value)} bytes"
    if d.unit in _SCALES:
        factor, unit = _SCALES[d.unit]
        return f"{value / factor:,.4g} {unit}"
    text = (
        f"{value:,.0f}"
        if value == int(value) and abs(value) < 1e6
        else large(value)
        if abs(value) >= 1e6
        else f"{value:.4g}"
    )
    return f"{text} {d.unit}".rstrip()


def _rates(found: TrainingExplanation) -> Grid:
    rows: list[tuple[str, ...]] = []
    for rate in found.rates:
        if rate.lever and abs(rate.change) >= LEAST_CHANGE and len(rows) < ROWS:
            rows.append(
                (f"{100 * (rate.factor - 1):+.3g} %", rate.meaning, rate.symbol, f"{100 * rate.change:+.1f} %",
                 f"{rate.elasticity:+.3f}")
            )  # fmt: skip
    title = f"What rates do to the {found.quantity}, simulated again"
    return Grid(title, ("", "", "", found.quantity, "d ln / d ln"), rows, frozenset({0, 3, 4}))


def _neighbours(found: TrainingExplanation) -> Grid:
    faster = [n for n in found.neighbours if n.fits or n.step_change < 0][:ROWS]
    rows = [
        (n.change, seconds(n.step_time_s), f"{100 * n.step_change:+.1f} %", gib(n.device_bytes, 1),
         "" if n.fits else "does not fit", _differences(n))
        for n in faster
    ]  # fmt: skip
    columns = ("", "step", "vs plan", "memory", "", "largest differences, seconds")
    return Grid("What plans do that differ in one setting, simulated again", columns, rows, frozenset({1, 2, 3}))


def _differences(own: Neighbour) -> str:
    if own.slowest_moved:
        return "other layers are on the slowest stage"
    largest = sorted(own.difference_s.items(), key=lambda item: -abs(item[1]))[:2]
    return "; ".join(f"{PART_NAMES[part]} {value:+.4f}" for part, value in largest)


def _decisions(found: TrainingExplanation) -> Grid:
    rows: list[tuple[str, ...]] = []
    for d in found.decisions:
        near = 1 / NEAR <= d.factor <= NEAR and d.share >= LEAST_SHARE and not d.where.startswith("kernels")
        if not near or len(rows) == ROWS:
            continue
        sign = ">" if d.function == "max" else "<"
        unit = "" if d.name not in found.form.table.definitions else found.form.table.definitions[d.name].unit
        values = (_value(Definition("", "", unit, v)) for v in (d.taken_value, d.left_value))
        taken, left = values
        rows.append((d.meaning, f"{d.taken} {sign} {d.left}", f"{taken} {sign} {left}", f"x {d.factor:.2f}"))
    columns = ("", "holds while", "now", "until the other side is")
    return Grid("Where another formula would hold", columns, rows, frozenset({2, 3}))


def _latex_name(name: str) -> str:
    """Subscripts joined by commas; words upright."""
    import sympy

    head, *marks = name.split("_")
    text = str(sympy.latex(sympy.Symbol(head)))
    if len(head) > 1 and not text.startswith("\\"):
        text = rf"\mathrm{{{head}}}"
    return text + (rf"_{{\mathrm{{{','.join(marks)}}}}}" if marks else "")


def _latex_formula(d: Definition) -> str:
    import sympy

    names = {symbol: _latex_name(symbol.name) for symbol in d.expression.free_symbols}
    return str(sympy.latex(_simplest(sympy, d.expression), symbol_names=names))


def _latex_value(d: Definition) -> str:
    number, _, unit = _value(d).partition(" ")
    return rf"{number}\,\mathrm{{{_escaped(unit)}}}" if unit else number


def _escaped(text: str) -> str:
    for mark in "&%$#_{}":
        text = text.replace(mark, "\\" + mark)
    return text
