"""The scoreboard as Markdown and as figures in SVG."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from xml.sax.saxutils import escape

from ..scoring.hand_chosen import PriorWidth
from ..scoring.origins import KNOWN, ORIGINS, OriginShares
from ..scoring.result import Ranking, Score
from ..scoring.scoreboard import MAIN, Figures, Part, Scoreboard

_SPLITS = {
    "in sample": "in sample",
    "group": "leave-group-out",
    MAIN: "leave-(framework x model)-out",
    "lineage-layers": "leave-(lineage x layers)-out",
    "framework": "leave-framework-out",
    "hardware, siblings": "leave-device-out, a sibling stays",
    "generation": "leave-GPU-generation-out",
    "architecture": "leave-architecture-out",
    "shipped, fitted on": "constants that ship, pairs they were fitted on",
    "shipped, held out": "constants that ship, pairs held out",
}
_SHOWN_IDS = 6


def markdown(board: Scoreboard, figure: str) -> str:
    """All tables.

    Parameters
    ----------
    figure
        File name of the figure beside it.
    """
    main = board.parts[MAIN]
    blocks = [
        "# Predictions against measured runs",
        "Written by `make scoreboard`; not to be edited by hand.",
        _explanation(board),
        f"**Headline: {_percent(main.headline)}**, the median over {_count(main, 'framework')} frameworks of each "
        f"framework's median error, {_words(main)}. " + _others(main.baseline_headlines),
        "## All splits",
        _splits(board),
        f"![Share of groups within an error, by method]({figure})",
        *_part(MAIN, main),
        "## Intervals by split",
        "80 % intervals of rows from the residuals of what was not left out. Inside counts groups whose median "
        "distance is within their median width; p is two-sided binomial against 80 %, **bold** below 5 %. Winkler is "
        "the interval score of the logarithm, the lower the better, beside that of one width for all rows.",
        _interval_table(
            (f"{_SPLITS[name]}, {regime}", part.labels[f"regime/{regime}"])
            for name, part in board.parts.items()
            for regime in ("dense", "moe")
            if f"regime/{regime}" in part.labels
        ),
        *_subsets(board.subsets),
        *_origins(board.origins),
        "## Memory",
        "Peak memory per device by what the source's figure counts, and whether it runs out of it.",
        _memory(board.parts),
    ]
    for name, part in board.parts.items():
        if name != MAIN:
            blocks += _part(name, part)
    return "\n\n".join([*blocks, "## Not simulated", _skipped(board), *_hand_chosen(board)]) + "\n"


def _explanation(board: Scoreboard) -> str:
    return (
        f"{board.rows:,} rows in {board.groups} groups of `{board.file}` (sha256 {board.sha256[:16]}). The error of a "
        "row is |predicted / measured - 1|; a group counts with the median of its rows; median, p90 and bias are over "
        f"groups. {sum(map(len, board.skipped.values()))} rows cannot be simulated; they count as wrong by 100 %. "
        "tau-b and regret are over sets of comparable runs."
    )


def _words(part: Part) -> str:
    return f"constants {part.constants}" if part.constants.startswith("fitted") else part.constants


def _count(part: Part, section: str) -> int:
    return sum(label.startswith(f"{section}/") for label in part.labels)


def _others(headlines: Mapping[str, float]) -> str:
    return "On the same folds: " + ", ".join(f"{name} {_percent(value)}" for name, value in headlines.items()) + "."


def _percent(value: float | None, signed: bool = False) -> str:
    if value is None:
        return "-"
    return f"{100 * value:+.1f} %" if signed else f"{100 * value:.1f} %"


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [columns, ["---", *["---:"] * (len(columns) - 1)], *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def _pair(score: Score | None) -> str:
    return "-" if score is None else f"{_percent(score.median)} ({_percent(score.p90)})"


def _splits(board: Scoreboard) -> str:
    names = list(board.parts[MAIN].baseline_headlines)
    rows = []
    for name, part in board.parts.items():
        dense, moe = (part.labels.get(f"regime/{regime}") for regime in ("dense", "moe"))
        rest = [_pair(part.labels["all"].baselines.get(baseline)) for baseline in names]
        scores = [_pair(own.step if own else None) for own in (part.labels["all"], dense, moe)]
        groups = str(part.labels["all"].step.groups)
        rows.append([_SPLITS[name], groups, _percent(part.headline), *scores, *rest])
    columns = ("median (p90) of step time", "groups", "over frameworks", "all", "dense", "MoE", *names)
    return _table(columns, rows)


def _part(name: str, part: Part) -> list[str]:
    blocks = [f"## {_SPLITS[name][0].upper()}{_SPLITS[name][1:]}", f"Split: {_words(part)}."]
    baselines = list(part.baseline_headlines)
    columns = (
        "",
        "groups",
        "rows",
        "median",
        "p90",
        "bias",
        "in 80 % interval",
        "mean width",
        "tau-b",
        "regret",
        *baselines,
    )
    rows = [[label.replace("/", ": "), *_cells(own, baselines)] for label, own in part.labels.items()]
    blocks.append(_table(columns, rows))
    if baselines:
        ranked = [("this simulator", part.labels["all"].ranking), *part.baseline_rankings.items()]
        columns = ("order of comparable runs", "sets", "tau-b median", "mean", "regret median", "mean", "max")
        blocks.append(_table(columns, [[method, *_order(own)] for method, own in ranked]))
    return blocks


def _cells(own: Figures, baselines: Sequence[str]) -> list[str]:
    step, inside, order = own.step, own.intervals, own.ranking
    rows = f"{step.rows:,}" + (f" ({step.skipped} not simulated)" if step.skipped else "")
    return [
        str(step.groups), rows, _percent(step.median), _percent(step.p90), _percent(step.bias, True),
        _percent(inside.coverage if inside else None), _percent(inside.width if inside else None),
        f"{order.tau_mean:.2f} ({order.sets})" if order else "-", _percent(order.regret_mean if order else None),
        *(_pair(own.baselines.get(name)) for name in baselines),
    ]  # fmt: skip


def _order(own: Ranking | None) -> list[str]:
    if own is None:
        return ["-"] * 6
    taus = (own.tau_median, own.tau_mean)
    regrets = (own.regret_median, own.regret_mean, own.regret_max)
    return [str(own.sets), *(f"{tau:.2f}" for tau in taus), *map(_percent, regrets)]


def _interval_table(rows: Iterable[tuple[str, Figures]]) -> str:
    found = []
    for name, figures in rows:
        own = figures.intervals
        if own is None:
            continue
        chance = f"{own.p_value:.3f}"
        found.append(
            [
                name, f"{own.groups_inside} of {own.groups}", f"**{chance}**" if own.rejected else chance,
                _percent(own.coverage), _percent(own.width), f"{own.winkler:.3f}",
                "-" if own.winkler_same is None else f"{own.winkler_same:.3f}",
            ]
        )  # fmt: skip
    columns = ("", "groups inside", "p", "rows inside", "mean width", "Winkler", "one width for all")
    return _table(columns, found)


def _memory(parts: Mapping[str, Part]) -> str:
    kinds = list(dict.fromkeys(kind for part in parts.values() for kind in part.memory))
    rows = []
    for name, part in parts.items():
        cells = [f"{_pair(own)}, {own.groups}" if (own := part.memory.get(kind)) else "-" for kind in kinds]
        f = part.feasibility
        ran = f"{len(f.ran_unpredicted)} of {f.ran:,}"
        rows.append([_SPLITS[name], *cells, f"{f.right} right, {f.wrong} wrong", ran])
    columns = ("median (p90), groups", *kinds, "stated out of memory or not", "ran, predicted not to fit")
    return _table(columns, rows)


def _subsets(subsets: Mapping[str, Score]) -> list[str]:
    if not subsets:
        return []
    rows = [
        [name, str(own.groups), str(own.rows), _percent(own.median), _percent(own.p90), _percent(own.bias, True)]
        for name, own in subsets.items()
    ]
    words = "Step times of some runs by constants fitted to all rows without every run that is named."
    return ["## Sources left out whole", words, _table(("", "groups", "rows", "median", "p90", "bias"), rows)]


def _origins(origins: Mapping[str, OriginShares]) -> list[str]:
    if not origins:
        return []
    rows = [
        [name, str(own.groups), f"{own.rows:,}", f"**{_percent(own.known)}**",
         *(_percent(own.shares[origin]) for origin in ORIGINS)]
        for name, own in origins.items()
    ]  # fmt: skip
    words = (
        "Share of the predicted step time by the origin of the rate that decides each part of it, under the constants "
        "that ship: the mean over groups of runs, by generation of devices. Measured or fitted is the sum of "
        + ", ".join(KNOWN)
        + " (interpolated: fitted, and runs with layers of such shapes settle it)."
    )
    columns = ("generation", "groups", "rows", "measured or fitted", *ORIGINS)
    return ["## Origin of rates", words, _table(columns, rows)]


def _hand_chosen(board: Scoreboard) -> list[str]:
    values = [
        [f"`{own.name}`", f"`{own.file}`", f"`{own.value}`", own.meaning.replace("|", "\\|")]
        for own in board.hand_chosen
    ]
    priors = [
        [f"`{own.name}`", own.moved_by, f"{own.width:g}", str(own.values) if own.values else "-", _centres(own)]
        for own in board.priors
    ]
    return [
        "## Values chosen by hand",
        "No fit moves these; they were chosen by judgement or with sight of all rows, so that no split above holds "
        "them out. Values and meanings are read from the code.",
        _table(("name", "stands in", "value", "meaning"), values),
        "Priors of the constants that runs move (`llmsim/hardware/constants.py`, "
        "`llmsim/hardware/engine_constants.py`): standard deviation of the logarithm, how many values the runs of "
        "this table have, and the centres that `hardware_profiles` state.",
        _table(("constant", "moved by", "width", "values", "centres"), priors),
    ]


def _centres(own: PriorWidth) -> str:
    if own.least is None or own.most is None:
        return "-"
    unit = "" if own.unit == "1" else f" {own.unit}"
    return f"{own.least:.3g}{unit}" if own.least == own.most else f"{own.least:.3g} to {own.most:.3g}{unit}"


def _skipped(board: Scoreboard) -> str:
    if not board.skipped:
        return "Every row can be simulated."
    rows = [
        [reason, str(len(ids)), ", ".join(ids[:_SHOWN_IDS]) + (" ..." if len(ids) > _SHOWN_IDS else "")]
        for reason, ids in sorted(board.skipped.items(), key=lambda item: -len(item[1]))
    ]
    return _table(("reason", "rows", ""), rows)


_WIDTH, _HEIGHT, _MARGIN = 640, 360, 48
_LEAST, _MOST = 0.002, 2.0
_COLOURS = ("#0b6e99", "#c2571a", "#7a7a7a", "#5f8f3a")


def error_curves(errors: Mapping[str, Sequence[float]], title: str) -> str:
    """Share of groups within an error, one curve a method, as SVG; errors on a logarithmic axis.

    Parameters
    ----------
    errors
        Method -> errors of groups, in order.
    """

    def x(error: float) -> float:
        clipped = min(max(error, _LEAST), _MOST)
        return _MARGIN + math.log(clipped / _LEAST) / math.log(_MOST / _LEAST) * (_WIDTH - 2 * _MARGIN)

    def y(share: float) -> float:
        return _HEIGHT - _MARGIN - share * (_HEIGHT - 2 * _MARGIN)

    parts = [_text(_WIDTH / 2, 22, title, "middle")]
    for error in (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0):
        parts.append(_line(x(error), y(0), x(error), y(1)))
        parts.append(_text(x(error), y(0) + 18, f"{100 * error:g} %", "middle"))
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        parts.append(_line(x(_LEAST), y(share), x(_MOST), y(share)))
        parts.append(_text(_MARGIN - 6, y(share) + 4, f"{100 * share:.0f} %", "end"))
    for n, (name, own) in enumerate(errors.items()):
        colour, height = _COLOURS[n % len(_COLOURS)], y(1) + 18 * (n + 1)
        points = " ".join(f"{x(error):.1f},{y((k + 1) / len(own)):.1f}" for k, error in enumerate(own))
        parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts.append(_line(_MARGIN + 10, height - 4, _MARGIN + 30, height - 4, colour, 2))
        parts.append(_text(_MARGIN + 36, height, name, "start"))
    body = "\n".join(parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" font-family="sans-serif" '
        f'font-size="12">\n<rect width="{_WIDTH}" height="{_HEIGHT}" fill="white"/>\n{body}\n</svg>\n'
    )


def _line(x1: float, y1: float, x2: float, y2: float, colour: str = "#dddddd", width: int = 1) -> str:
    ends = f'x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"'
    return f'<line {ends} stroke="{colour}" stroke-width="{width}"/>'


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'
