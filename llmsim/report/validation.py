"""Predictions against measured runs, as text for a terminal."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from ..core.units import counted
from ..hardware.software import LIKE_NEWEST
from ..scoring.result import GroupScore, Ranking, Score, ValidationReport

METRIC_NAMES = {
    "step_time_s": "step time",
    "tokens_per_s_per_device": "throughput",
    "memory_gib": "memory",
    "out_of_memory": "out of memory",
}


def metric_name(metric: str) -> str:
    """A metric in words."""
    return METRIC_NAMES.get(metric, metric.replace("_", " "))


_PART_NAMES = {"all": "all", "in_sample": "in sample", "held_out": "held out"}
_WORST = 8


def validation_report(report: ValidationReport) -> RenderableType:
    """The whole report."""
    parts: list[RenderableType] = [_headline(report)]
    for metric, table in report.scores.items():
        parts += [_title(f"{metric_name(metric)}: error by group, then over groups"), _scores(table)]
        parts += _breakdown(table["all"])
    parts += [_title("does it fit"), _feasibility(report)]
    if report.ranking is not None:
        parts += [_title("order of comparable plans"), _rankings(report)]
    if report.baselines:
        parts += [_title("beside simple rules on the same folds: step time"), _baselines(report)]
    parts += [_title("groups furthest off"), _worst(report.groups)]
    if report.implausible:
        own = Table(box=None, pad_edge=False, show_header=False)
        for row, why in report.implausible.items():
            own.add_row(row, why)
        parts += [_title("measured times that look wrong, scored as they stand"), own]
    if report.without_profile:
        parts += [_title("frameworks and releases without a profile of their own"), _without_profile(report)]
    if report.skipped:
        parts += [_title("not simulated, counted as 100 % off"), _listed(report.skipped)]
    return Group(*parts)


def _title(text: str) -> Text:
    return Text(f"\n{text}", style="bold")


def _percent(value: float | None, signed: bool = False) -> str:
    if value is None:
        return "-"
    return f"{100 * value:+.1f} %" if signed else f"{100 * value:.1f} %"


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column(columns[0])
    for column in columns[1:]:
        table.add_column(column, justify="right")
    return table


def _headline(report: ValidationReport) -> Text:
    skipped = sum(map(len, report.skipped.values()))
    text = Text()
    text.append(f"{report.file}", style="bold")
    text.append(
        f" (sha256 {report.sha256[:16]}): {counted(report.row_count, 'row')}, {skipped} of them not simulated\n"
    )
    text.append(f"constants {report.constants}")
    return text


def _score_cells(score: Score) -> list[str]:
    rows = f"{score.rows:,}" + (f" ({score.skipped} skipped)" if score.skipped else "")
    figures = [_percent(score.median), _percent(score.p90), _percent(score.bias, True), _percent(score.coverage)]
    return [str(score.groups), rows, *figures]


def _scores(table: Mapping[str, Mapping[str, Score]]) -> Table:
    found = _table("", "groups", "rows", "median", "p90", "bias", "in 80 % interval")
    for part, labels in table.items():
        for label, score in labels.items():
            if "/" not in label:
                found.add_row(
                    f"{_PART_NAMES[part]}, {label}" if label != "all" else _PART_NAMES[part], *_score_cells(score)
                )
    return found


def _breakdown(labels: Mapping[str, Score]) -> Iterable[RenderableType]:
    sections = sorted({label.partition("/")[0] for label in labels if "/" in label})
    for section in sections:
        found = _table(
            f"by {section}" if section != "special" else "apart",
            "groups",
            "rows",
            "median",
            "p90",
            "bias",
            "in 80 % interval",
        )
        for label, score in labels.items():
            head, _, name = label.partition("/")
            if head == section:
                found.add_row(f"  {name}", *_score_cells(score))
        yield Text()
        yield found


def _feasibility(report: ValidationReport) -> Text:
    f = report.feasibility
    text = Text()
    if f.right + f.wrong:
        text.append(f"{f.right} of {f.right + f.wrong} statements about running out of memory predicted rightly\n")
    shown = ", ".join(f.ran_unpredicted[:6]) + (" ..." if len(f.ran_unpredicted) > 6 else "")
    text.append(f"{len(f.ran_unpredicted)} of {counted(f.ran, 'run')} that ran are predicted not to fit")
    return text.append(f" ({shown})") if f.ran_unpredicted else text


def _ranking_cells(ranking: Ranking | None) -> list[str]:
    if ranking is None:
        return ["-"] * 7
    regrets = (ranking.regret_median, ranking.regret_mean, ranking.regret_max)
    taus = (ranking.tau_median, ranking.tau_mean, ranking.tau_min)
    return [str(ranking.sets), *(f"{tau:.2f}" for tau in taus), *map(_percent, regrets)]


_RANKING_COLUMNS = ("sets", "tau median", "mean", "min", "regret median", "mean", "max")


def _rankings(report: ValidationReport) -> Table:
    found = _table("", *_RANKING_COLUMNS)
    found.add_row("this simulator", *_ranking_cells(report.ranking))
    for name, baseline in report.baselines.items():
        found.add_row(name, *_ranking_cells(baseline.ranking))
    return found


def _baselines(report: ValidationReport) -> Table:
    labels = ("all", "dense", "moe")
    found = _table("", *(f"{label} {figure}" for label in labels for figure in ("median", "p90")))
    ours = report.scores.get("step_time_s", {}).get("all", {})
    for name, scores in (("this simulator", ours), *((n, b.scores) for n, b in report.baselines.items())):
        cells: list[str] = []
        for label in labels:
            score = scores.get(label)
            cells += ["-", "-"] if score is None else [_percent(score.median), _percent(score.p90)]
        found.add_row(name, *cells)
    return found


def _worst(groups: Iterable[GroupScore]) -> Table:
    found = _table("", "metric", "rows", "median", "bias", "")
    for group in sorted(groups, key=lambda g: -g.median)[:_WORST]:
        seen = "in sample" if group.in_sample else ""
        name = metric_name(group.metric)
        found.add_row(group.group, name, str(group.rows), _percent(group.median), _percent(group.bias, True), seen)
    return found


_SHOWN_RELEASES = 6


def _without_profile(report: ValidationReport) -> Table:
    """Frameworks one by one; releases of one framework in one line."""
    found, releases = Table.grid(padding=(0, 2)), defaultdict[str, dict[str, int]](dict)
    for text, rows in report.without_profile.items():
        column, _, what = text.partition(": ")
        if column == "framework":
            found.add_row(str(len(rows)), f"framework {what}")
        else:
            release, _, newest = what.partition(LIKE_NEWEST)
            releases[newest.partition(" (")[0]][release] = len(rows)
    for name, own in releases.items():
        shown = ", ".join(list(own)[:_SHOWN_RELEASES]) + (" ..." if len(own) > _SHOWN_RELEASES else "")
        found.add_row(str(sum(own.values())), f"releases{LIKE_NEWEST}{name}: {shown}")
    return found


def _listed(reasons: Mapping[str, Sequence[str]]) -> Table:
    found = Table.grid(padding=(0, 2))
    for reason, rows in sorted(reasons.items(), key=lambda item: -len(item[1])):
        shown = ", ".join(rows[:4]) + (" ..." if len(rows) > 4 else "")
        found.add_row(str(len(rows)), Text(f"{reason} ({shown})"))
    return found
