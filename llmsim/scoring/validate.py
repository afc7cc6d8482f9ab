"""Validation: every row of a table of measured runs against its prediction."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from ..calibration.batches import plan_runs
from ..calibration.folds import FOLD_KEYS
from ..calibration.plausible import too_fast, too_slow
from ..calibration.runs import architecture_of, is_fine_tuning, reason
from ..calibration.table import MeasuredRun, read_runs
from ..core.arguments import of_kind
from ..core.errors import InputError, LlmsimError
from ..core.progress import Bar
from ..hardware.fitted import shipped_fit
from ..hardware.named import get_device
from ..hardware.software import framework_name
from ..quality.published import is_quality
from ..timing.intervals import model_class
from .outcome import Outcome, shipped_outcomes
from .predict import rate
from .quality import validate_quality
from .ranking import ranked_sets
from .refit import left_out_outcomes
from .result import Baseline, Entry, ValidationReport
from .scores import feasibility, group_scores, ranking, score, score_table
from .serving import is_serving, validate_serving

Without = Literal["group", "model", "framework", "hardware", "framework-model", "lineage-layers", "generation",
                  "architecture", "family", "method"]  # fmt: skip


def validate(path: str | Path, *, refit_without: Without | None = None, progress: bool = True) -> ValidationReport:
    """Predict the runs of a table and score the predictions.

    Parameters
    ----------
    path
        A CSV file with the columns of :data:`llmsim.calibration.table.COLUMNS`, and of
        :data:`~llmsim.calibration.table.OPTIONAL` where it has them. A model is a file
        ``architectures/<model>.json`` beside it, or a bundled name.
    refit_without
        None predicts with the constants that ship. Otherwise constants are fitted to the table itself, without what
        shares the scored row's group, model, framework, hardware, framework and model, lineage of software and layers
        (under whatever name of a model), generation of devices or family of architectures; baselines are scored on the
        same folds.
    progress
        Whether to show a bar on the error stream, if that is a terminal and it takes longer than a second.

    Raises
    ------
    InputError
        For a table that cannot be read. A row that cannot be simulated is listed with the reason.
    """
    path = Path(of_kind(path, (str, Path), "file", "the path of a table"))
    if is_serving(path):
        return validate_serving(path, refit_without=refit_without, progress=progress)
    if is_quality(path):
        return validate_quality(path, refit_without=refit_without, progress=progress)
    if refit_without is not None and (not isinstance(refit_without, str) or refit_without not in FOLD_KEYS):
        raise InputError("refit_without", refit_without, ", ".join(FOLD_KEYS))
    with Bar(progress) as bar:
        done = bar.stage("reading")
        runs = read_runs(path, repeats=True)
        done()
        done = bar.stage("planning")
        items, skipped = plan_runs(runs, search_paths(path))
        done()
        done = bar.stage("counting and rating")
        rated, unrated = rate(items)
        skipped |= unrated
        done()
        outcomes: dict[str, Outcome] = {}
        baselines: dict[str, dict[str, float]] = {}
        if rated is not None and refit_without is None:
            outcomes = shipped_outcomes(rated)
        elif rated is not None:
            left_out = left_out_outcomes(rated, str(refit_without), bar)
            outcomes, baselines = left_out.outcomes, left_out.baselines
    entries = [entry for run in runs for entry in entries_of(run, outcomes.get(run.id), skipped, path)]
    sets = ranked_sets(runs, {row: outcome.step_s for row, outcome in outcomes.items()})
    return ValidationReport(
        file=path.name,
        sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
        constants=constants_in_words(path, refit_without),
        refit_without=refit_without,
        row_count=len(runs),
        rows=entries,
        groups=group_scores(entries),
        scores=score_table(entries),
        feasibility=feasibility(entries, {row: outcome.fits for row, outcome in outcomes.items()}),
        ranking=ranking(sets),
        ranked_sets=sets,
        implausible=implausible(outcomes),
        baselines={name: _baseline(runs, entries, seconds) for name, seconds in baselines.items()},
    )


def search_paths(path: Path) -> tuple[Path, ...]:
    """Where the architectures of a table lie: beside it, then in the checkout's own validation folder."""
    own = Path(__file__).resolve().parents[2] / "validation"
    return (path.parent, own) if own.is_dir() else (path.parent,)


def constants_in_words(path: Path, refit_without: str | None) -> str:
    """What predictions rest on."""
    if refit_without is not None:
        return f"fitted to {path.name} itself, without the {refit_without} of the row"
    fit = shipped_fit()
    return f"shipped: fitted {fit.date} to {fit.data} ({fit.split})" if fit.values else "profiles, nothing fitted"


def entries_of(run: MeasuredRun, outcome: Outcome | None, skipped: Mapping[str, str], path: Path) -> Iterator[Entry]:
    """One entry for each metric that the row has measured; a throughput counts where no step time is given."""
    reason = None if outcome else skipped.get(run.id, "the prediction is not a finite number above 0")
    common = {**_description(run, outcome, path), "skipped": reason}
    low, high = outcome.interval_s if outcome else (None, None)
    seconds = outcome.step_s if outcome else None
    if run["step_time_s"]:
        measured = float(run["step_time_s"])
        yield Entry(metric="step_time_s", measured=measured, predicted=seconds, low=low, high=high, **common)
    elif run["tokens_per_s_per_device"]:
        tokens = run.tokens_per_step / run.count("n_devices")
        yield Entry(
            metric="tokens_per_s_per_device",
            measured=float(run["tokens_per_s_per_device"]),
            predicted=tokens / seconds if seconds else None,
            low=tokens / high if high else None,
            high=tokens / low if low else None,
            **common,
        )
    if run.memory_gib is not None:
        kind = run["memory_kind"] or "device"
        memory = outcome.memory_gib[kind] if outcome else None
        yield Entry(metric="memory_gib", measured=run.memory_gib, predicted=memory, memory_kind=kind, **common)
    if run.out_of_memory is not None:
        too_much = not outcome.fits if outcome else None
        yield Entry(metric="out_of_memory", measured=run.out_of_memory, predicted=too_much, **common)


def implausible(outcomes: Mapping[str, Outcome]) -> dict[str, str]:
    """Row id -> what is wrong with a measured time that no machine can have taken."""
    wrong = {row: too_fast(own.item) or too_slow(own.item, own.step_s) for row, own in outcomes.items()}
    return {row: reason(error) for row, error in wrong.items() if error is not None}


def _description(run: MeasuredRun, outcome: Outcome | None, path: Path) -> dict[str, Any]:
    """What an entry says of its row; the names of profiles where they are known."""
    if outcome is not None:
        item = outcome.item
        kind, hardware, framework = model_class(item.architecture), item.cluster.profile.name, item.plan.framework
        if "framework" in item.assumed:  # what is taken for a profile is not that profile's accuracy
            framework = f"{run['framework']} (simulated as {framework})"
    else:
        kind = _known(lambda: model_class(architecture_of(run["model"], search_paths(path))), "unknown")
        hardware = _known(lambda: get_device(run["hardware"]).name, run["hardware"])
        framework = _known(lambda: framework_name(run["framework"]), run["framework"])
    return {
        "id": run.id,
        "line": run.line,
        "group": run.group,
        "assumed": dict(outcome.item.assumed) if outcome else {},
        "in_sample": outcome is not None and outcome.in_sample,
        "model": run["model"],
        "kind": kind,
        "hardware": hardware,
        "framework": framework,
        "traits": _traits(run),
    }


def _traits(run: MeasuredRun) -> tuple[str, ...]:
    """Regimes of their own that a run is in."""
    one_node = run.count("n_devices") <= run.count("devices_per_node")
    traits = {
        "fine-tuning": is_fine_tuning(run),
        "one node, no pipeline": one_node and run.count("pipeline_parallel") == 1,
    }
    return tuple(name for name, holds in traits.items() if holds)


def _known(name: Callable[[], str], otherwise: str) -> str:
    try:
        return name()
    except LlmsimError:
        return otherwise


def _baseline(runs: Sequence[MeasuredRun], entries: Sequence[Entry], seconds: Mapping[str, float]) -> Baseline:
    """A baseline's scores on the rows that it predicts and on those that nobody can."""
    own = [
        replace(e, predicted=seconds.get(e.id), low=None, high=None)
        for e in entries
        if e.metric == "step_time_s" and (e.id in seconds or e.skipped)
    ]
    labels = {"all": own, **{kind: [e for e in own if e.kind == kind] for kind in ("dense", "moe")}}
    return Baseline({label: score(e) for label, e in labels.items() if e}, ranking(ranked_sets(runs, seconds)))
