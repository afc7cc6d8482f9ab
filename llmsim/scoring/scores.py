"""Scores from entries: by group first, then over groups."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from .ranking import RankedSet
from .result import METRICS, Entry, Feasibility, GroupScore, Ranking, Score

PARTS = ("all", "in_sample", "held_out")


def _by_group(entries: Iterable[Entry]) -> dict[str, list[Entry]]:
    groups: dict[str, list[Entry]] = defaultdict(list)
    for entry in entries:
        groups[entry.group].append(entry)
    return groups


def _bias(entries: Sequence[Entry]) -> float | None:
    signed = [e.predicted / e.measured - 1 for e in entries if e.predicted is not None and e.measured]
    return float(np.median(signed)) if signed else None


def _inside(entries: Sequence[Entry]) -> float | None:
    known = [e for e in entries if e.low is not None and e.high is not None]
    return sum(float(e.low or 0) <= e.measured <= float(e.high or 0) for e in known) / len(known) if known else None


def score(entries: Sequence[Entry]) -> Score:
    """Errors of some entries (at least one) of one metric with numbers."""
    groups = list(_by_group(entries).values())
    medians = [float(np.median([e.error for e in own])) for own in groups]
    biases = [b for own in groups if (b := _bias(own)) is not None]
    covered = [c for own in groups if (c := _inside(own)) is not None]
    return Score(
        groups=len(groups),
        rows=len(entries),
        skipped=sum(e.skipped is not None for e in entries),
        median=float(np.median(medians)),
        p90=float(np.quantile(medians, 0.9)),
        bias=float(np.median(biases)) if biases else None,
        coverage=float(np.mean(covered)) if covered else None,
    )


def group_scores(entries: Sequence[Entry]) -> list[GroupScore]:
    """One score a group and metric, the largest errors first."""
    by_key: dict[tuple[str, str], list[Entry]] = defaultdict(list)
    for entry in entries:
        by_key[entry.metric, entry.group].append(entry)
    found = []
    for (metric, group), own in by_key.items():
        errors = [e.error for e in own]
        numbers = not isinstance(own[0].measured, bool)
        found.append(
            GroupScore(
                group,
                metric,
                len(own),
                float(np.median(errors)),
                float(np.quantile(errors, 0.9)),
                _bias(own) if numbers else None,
                own[0].in_sample,
            )
        )
    return sorted(found, key=lambda g: (g.metric, -g.median, g.group))


def score_table(
    entries: Sequence[Entry], metrics: Sequence[str] = METRICS[:-1]
) -> dict[str, dict[str, dict[str, Score]]]:
    """Metric -> part -> label -> score, of the metrics with numbers; labels without entries are left out."""
    table: dict[str, dict[str, dict[str, Score]]] = {}
    for metric in metrics:
        of_metric = [e for e in entries if e.metric == metric]
        for part in PARTS:
            own = [e for e in of_metric if part == "all" or e.in_sample == (part == "in_sample")]
            labels: dict[str, list[Entry]] = defaultdict(list)
            for entry in own:
                for label in _labels(entry):
                    labels[label].append(entry)
            if own:
                table.setdefault(metric, {})[part] = {label: score(labels[label]) for label in sorted(labels)}
    return table


def _labels(entry: Entry) -> list[str]:
    labels = ["all", entry.kind, f"framework/{entry.framework}", f"hardware/{entry.hardware}"]
    if entry.memory_kind:
        labels.append(f"memory/{entry.memory_kind}")
    return labels + [f"special/{trait}" for trait in entry.traits]


def feasibility(entries: Sequence[Entry], fits: Mapping[str, bool]) -> Feasibility:
    """Yes and no about memory.

    Parameters
    ----------
    fits
        Row id -> whether it is predicted to fit.
    """
    stated = [e for e in entries if e.metric == "out_of_memory"]
    wrong = sum(bool(e.error) for e in stated)
    ran = [e.id for e in entries if e.metric in ("step_time_s", "tokens_per_s_per_device")]
    return Feasibility(len(stated) - wrong, wrong, len(ran), tuple(i for i in ran if not fits.get(i, True)))


def ranking(sets: Sequence[RankedSet]) -> Ranking | None:
    """Correlation and regret over sets; None for none."""
    if not sets:
        return None
    tau, lost = np.array([s.tau for s in sets]), np.array([s.regret for s in sets])
    return Ranking(
        len(sets),
        float(np.median(tau)),
        float(tau.mean()),
        float(tau.min()),
        float(np.median(lost)),
        float(lost.mean()),
        float(lost.max()),
    )
