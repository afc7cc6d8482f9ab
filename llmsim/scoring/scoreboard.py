"""The scoreboard: every measured run predicted in sample and by constants fitted without what it shares with others."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..calibration.architectures import architecture_family
from ..calibration.batches import plan_runs
from ..calibration.folds import fold_numbers
from ..calibration.runs import RunPlan
from ..calibration.split import pair_of, read_split
from ..calibration.table import MeasuredRun, read_runs
from ..core.errors import InputError
from ..core.progress import Bar
from .coverage import Intervals, intervals
from .hand_chosen import HandChosen, PriorWidth, hand_chosen, prior_widths
from .origins import OriginShares, origin_shares
from .outcome import Outcome, shipped_outcomes
from .predict import Rated, rate
from .ranking import ranked_sets
from .refit import FitToAll, LeftOut, fit_to_all, in_sample_outcomes, left_out_outcomes, outcomes_without
from .result import Entry, Feasibility, Ranking, Score
from .scores import feasibility, ranking, score
from .validate import constants_in_words, entries_of, implausible, search_paths

SCHEMA = "llmsim.scoreboard/1"
MAIN = "framework-model"
"""What is left out in the headline."""
LEFT_OUT: Mapping[str, str] = {
    "group": "the row's group",
    MAIN: "the row's pair of framework and model",
    "lineage-layers": "the row's lineage of software with layers of these sizes, whatever the model's name",
    "framework": "the row's framework",
    "hardware": "the row's device",
    "generation": "the row's generation of devices",
    "architecture": "the row's family of architectures",
}
"""Key of a split -> what constants were fitted without, beside all that shares a group with it."""
_TIMES = ("step_time_s", "tokens_per_s_per_device")


@dataclass(frozen=True)
class Subset:
    """Runs that are scored by themselves, by constants that a wider set of runs did not move.

    Attributes
    ----------
    name
        In words.
    left_out
        Whether a run is left out of the fit.
    scored
        Whether a run that is left out is scored.
    """

    name: str
    left_out: Callable[[MeasuredRun], bool]
    scored: Callable[[MeasuredRun], bool]


@dataclass(frozen=True)
class Figures:
    """Figures of some runs under one split.

    Attributes
    ----------
    step
        Errors of step times, and of throughputs where no step time is given.
    intervals
        None where there are none.
    ranking
        Of sets of comparable runs; None without any.
    baselines
        Name -> errors of step times.
    """

    step: Score
    intervals: Intervals | None
    ranking: Ranking | None
    baselines: Mapping[str, Score]


@dataclass(frozen=True)
class Part:
    """Figures of one split.

    Attributes
    ----------
    constants
        What the constants were fitted on, in words.
    headline, baseline_headlines
        Median over frameworks of the frameworks' median errors.
    labels
        ``all``, ``regime/moe``, ``hardware/NAME``, ``framework/NAME``, ``architecture/NAME`` -> figures.
    memory
        Kind of memory figure, or ``all`` -> errors.
    feasibility
        Whether what ran is predicted to fit.
    baseline_rankings
        Name -> order of comparable runs.
    errors
        Method -> error of each group, in order.
    """

    constants: str
    headline: float
    baseline_headlines: Mapping[str, float]
    labels: Mapping[str, Figures]
    memory: Mapping[str, Score]
    feasibility: Feasibility
    baseline_rankings: Mapping[str, Ranking | None]
    errors: Mapping[str, Sequence[float]]


@dataclass(frozen=True)
class Scoreboard:
    """All splits.

    Attributes
    ----------
    file, sha256, rows, groups
        The table of runs.
    parts
        Name of a split -> figures.
    skipped
        Reason -> ids of rows that cannot be simulated; they count as wrong by 100 % everywhere.
    subsets
        Name of a subset -> errors of step times by constants fitted without it.
    origins
        Generation of devices -> what predictions of its runs rest on.
    hand_chosen, priors
        Values that no fit moved.
    """

    file: str
    sha256: str
    rows: int
    groups: int
    parts: Mapping[str, Part]
    skipped: Mapping[str, Sequence[str]]
    subsets: Mapping[str, Score]
    origins: Mapping[str, OriginShares]
    hand_chosen: Sequence[HandChosen]
    priors: Sequence[PriorWidth]

    def to_dict(self) -> dict[str, Any]:
        """As JSON wants it, with a schema version."""
        return {"schema": SCHEMA, **asdict(self)}


@dataclass(frozen=True)
class _Table:
    """A table of runs, and what is known of its rows whatever the split."""

    path: Path
    runs: Sequence[MeasuredRun]
    rated: Rated
    skipped: Mapping[str, str]

    def entries(self, outcomes: Mapping[str, Outcome], wanted: Callable[[MeasuredRun], bool]) -> list[Entry]:
        chosen = [run for run in self.runs if wanted(run)]
        return [e for run in chosen for e in entries_of(run, outcomes.get(run.id), self.skipped, self.path)]


def scoreboard(path: Path, split: Path, subsets: Sequence[Subset] = (), *, progress: bool = True) -> Scoreboard:
    """Score a table of measured runs in every split.

    Parameters
    ----------
    path
        The table.
    split
        The pairs that the constants that ship were fitted on.
    subsets
        Runs to be scored by themselves.
    progress
        Whether to show a bar on the error stream.

    Raises
    ------
    InputError
        For files that cannot be read, or without a run with a step time that can be simulated.
    """
    with Bar(progress) as bar:
        done = bar.stage("reading, counting and rating")
        table = _read(path)
        done()
        parts = _shipped(table, split)
        fitted = fit_to_all(table.rated, bar)
        if fitted is None:
            raise InputError("runs", str(path), "at least one run with a step time that can be simulated")
        parts["in sample"] = _part(
            table, _everything, LeftOut(in_sample_outcomes(table.rated, fitted), {}, {}), "fitted to all rows"
        )
        for without in LEFT_OUT:
            parts |= _left_out(table, without, fitted, bar)
        done = bar.stage("subsets and origins of rates")
        scores = {subset.name: own for subset in subsets if (own := _subset(table, subset, fitted)) is not None}
        origins = origin_shares(table.rated.items)
        done()
    reasons: dict[str, list[str]] = defaultdict(list)
    for row, reason in table.skipped.items():
        reasons[reason].append(row)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    groups = len({run.group for run in table.runs})
    return Scoreboard(
        file=path.name,
        sha256=digest,
        rows=len(table.runs),
        groups=groups,
        parts=parts,
        skipped=dict(reasons),
        subsets=scores,
        origins=origins,
        hand_chosen=hand_chosen(),
        priors=prior_widths(fitted.runs.layout),
    )


def shipped_part(path: Path, split: Path) -> Part:
    """Figures of the constants that ship, of the pairs that they were not fitted on: seconds, not minutes.

    Parameters
    ----------
    path, split
        As for :func:`scoreboard`.
    """
    kept = read_split(split)
    table = _read(path, lambda run: pair_of(run) not in kept)
    return _shipped(table, split)["shipped, held out"]


def _read(path: Path, wanted: Callable[[MeasuredRun], bool] = lambda run: True) -> _Table:
    runs = [run for run in read_runs(path, repeats=True) if wanted(run)]
    items, skipped = plan_runs(runs, search_paths(path))
    rated, unrated = rate(items)
    skipped |= unrated
    wrong = implausible(shipped_outcomes(rated)) if rated else {}
    if wrong:  # nothing is fitted on them
        rated, _ = rate([item for item in items if item.run.id not in skipped | wrong])
    if rated is None:
        raise InputError("runs", str(path), "at least one run that can be simulated")
    return _Table(path, runs, rated, skipped | wrong)


def _everything(run: MeasuredRun) -> bool:
    return True


def _shipped(table: _Table, split: Path) -> dict[str, Part]:
    """Figures of the constants that ship, apart for pairs that they were fitted on and those held out."""
    kept = read_split(split)
    shipped = LeftOut(shipped_outcomes(table.rated), {}, {})
    parts: dict[str, Part] = {}
    for name, fitted_on in (("shipped, fitted on", True), ("shipped, held out", False)):

        def wanted(run: MeasuredRun, fitted_on: bool = fitted_on) -> bool:
            return (pair_of(run) in kept) == fitted_on

        if any(map(wanted, table.runs)):
            parts[name] = _part(table, wanted, shipped, constants_in_words(table.path, None))
    return parts


def _left_out(table: _Table, without: str, fitted: FitToAll, bar: Bar) -> dict[str, Part]:
    found = left_out_outcomes(table.rated, without, bar, fitted)
    words = f"fitted to all rows without {LEFT_OUT[without]}"
    if without != "hardware":
        return {without: _part(table, _everything, found, words)}
    siblings = sibling_rows(table.rated.items)
    words += "; another device of its generation stays"
    return {"hardware, siblings": _part(table, lambda run: run.id in siblings, found, words)}


def _subset(table: _Table, subset: Subset, fitted: FitToAll) -> Score | None:
    """Errors of step times of a subset; None where it has no run."""
    held = np.array([subset.left_out(item.run) for item in table.rated.items], dtype=bool)
    found = outcomes_without(table.rated, held, fitted)
    entries = table.entries(found, lambda run: subset.left_out(run) and subset.scored(run))
    times = [e for e in entries if e.metric in _TIMES]
    return score(times) if times else None


def sibling_rows(items: Sequence[RunPlan]) -> set[str]:
    """Ids of the runs on devices of which a sibling, another device of the generation, is in another fold."""
    folds = fold_numbers(items, "hardware")
    held: dict[str, set[int]] = defaultdict(set)
    for item, fold in zip(items, folds, strict=True):
        held[item.cluster.profile.generation].add(int(fold))
    return {item.run.id for item in items if len(held[item.cluster.profile.generation]) > 1}


def _part(table: _Table, wanted: Callable[[MeasuredRun], bool], found: LeftOut, constants: str) -> Part:
    entries = table.entries(found.outcomes, wanted)
    times = [e for e in entries if e.metric in _TIMES]
    labels = _labelled(table, times)
    figures = {label: _figures(table, own, found) for label, own in labels.items()}
    own = {label: f.step.median for label, f in figures.items() if label.startswith("framework/")}
    others = {
        name: [f.baselines[name].median for label, f in figures.items() if label in own and name in f.baselines]
        for name in found.baselines
    }
    return Part(
        constants=constants,
        headline=float(np.median(list(own.values()))),
        baseline_headlines={name: float(np.median(medians)) for name, medians in others.items() if medians},
        labels=figures,
        memory=_memory([e for e in entries if e.metric == "memory_gib"]),
        feasibility=feasibility(entries, {row: outcome.fits for row, outcome in found.outcomes.items()}),
        baseline_rankings={
            name: ranking(ranked_sets(_runs_of(table, times), seconds)) for name, seconds in found.baselines.items()
        },
        errors={
            "this simulator": _group_errors(times),
            **{name: _group_errors(_replaced(times, seconds)) for name, seconds in found.baselines.items()},
        },
    )


def _labelled(table: _Table, times: Sequence[Entry]) -> dict[str, list[Entry]]:
    family = {item.run.id: architecture_family(item.architecture) for item in table.rated.items}
    labels: dict[str, list[Entry]] = {"all": list(times)}
    for section, name in (
        ("regime", lambda e: e.kind),
        ("hardware", lambda e: e.hardware),
        ("framework", lambda e: e.framework),
        ("architecture", lambda e: family.get(e.id, "unknown")),
    ):
        by_name: dict[str, list[Entry]] = defaultdict(list)
        for entry in times:
            by_name[name(entry)].append(entry)
        labels |= {f"{section}/{key}": by_name[key] for key in sorted(by_name)}
    return labels


def _figures(table: _Table, times: Sequence[Entry], found: LeftOut) -> Figures:
    seconds = {row: outcome.step_s for row, outcome in found.outcomes.items()}
    return Figures(
        score(times),
        intervals(times, found.same_widths),
        ranking(ranked_sets(_runs_of(table, times), seconds)),
        {name: score(own) for name, values in found.baselines.items() if (own := _replaced(times, values))},
    )


def _runs_of(table: _Table, entries: Sequence[Entry]) -> list[MeasuredRun]:
    rows = {entry.id for entry in entries}
    return [run for run in table.runs if run.id in rows]


def _replaced(times: Sequence[Entry], seconds: Mapping[str, float]) -> list[Entry]:
    """The entries of step times with another prediction, of the rows that have one and those that nobody can."""
    return [
        replace(e, predicted=seconds.get(e.id), low=None, high=None)
        for e in times
        if e.metric == "step_time_s" and (e.id in seconds or e.skipped)
    ]


def _memory(entries: Sequence[Entry]) -> dict[str, Score]:
    kinds = Counter(e.memory_kind for e in entries)
    found = {kind: score([e for e in entries if e.memory_kind == kind]) for kind in sorted(kinds)}
    return {"all": score(entries), **found} if entries else {}


def _group_errors(entries: Sequence[Entry]) -> list[float]:
    """The median error of each group, in order."""
    groups: dict[str, list[float]] = defaultdict(list)
    for entry in entries:
        groups[entry.group].append(entry.error)
    return sorted(float(f"{np.median(own):.4g}") for own in groups.values())
