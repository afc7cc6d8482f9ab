"""Rankings of measured alternatives, as a page."""

from __future__ import annotations

from collections.abc import Sequence

from ..scoring.rankings import Ceiling, Rankings, SourceRanking

_HEAD = """# Measured alternatives in order

Written by `make rankings`. A set is four or more runs of `{table}` that share model, device, number of devices,
sequence, precision, framework, release and global batch, and differ in their mapping or micro-batch. Tau-b is
Kendall's, 1 for the measured order; regret is what the predicted best costs over the measured best (of several
predicted best the worst counts).
"""


def rankings_text(found: Rankings, table: str) -> str:
    """The page in Markdown.

    Parameters
    ----------
    table
        Name of the table of runs.
    """
    parts = [_HEAD.format(table=table)]
    for name, scores in found.left_out.items():
        parts.append(f"## Constants fitted without {name}\n\n{_scores(scores)}")
    parts.append(f"## What noise allows\n\n{_ceilings(found.ceilings)}")
    return "\n".join(parts)


def _scores(scores: Sequence[SourceRanking]) -> str:
    lines = [
        "| source | sets (runs) | ranked by | tau-b mean | median | least | regret mean | most |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for s in sorted(scores, key=lambda s: s.source.lower()):
        own = s.order
        tau = f"{own.tau_mean:.2f} | {own.tau_median:.2f} | {own.tau_min:.2f}"
        regret = f"{own.regret_mean:.1%} | {own.regret_max:.1%}".replace("%", " %")
        lines.append(f"| {s.source} | {own.sets} ({s.runs}) | {s.method} | {tau} | {regret} |")
    return "\n".join(lines) + "\n"


def _ceilings(ceilings: Sequence[Ceiling]) -> str:
    lines = [
        "A perfect prediction against a repetition of the measurement, with the spread that repeats of one",
        "configuration show (sources without repeats: the median over those with some).",
        "",
        "| source | spread of a repeat | repeats | tau-b mean | regret mean |",
        "|---|---|---|---|---|",
    ]
    for c in ceilings:
        noise = f"{c.noise:.1%} | {c.repeats} | {c.tau_mean:.2f} | {c.regret_mean:.1%}".replace("%", " %")
        lines.append(f"| {c.source} | {noise} |")
    return "\n".join(lines) + "\n"
