"""Validation of serving tables: every value of a server beside its prediction."""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np

from ..calibration.links import linked
from ..calibration.serving.batches import RunBatch, run_batches
from ..calibration.serving.calibrate import TABLES, in_flight, serving_runs
from ..calibration.serving.fit import ServingData, fit_serving
from ..calibration.serving.replays import REPLAYED as REPLAYED_LOADS
from ..calibration.serving.replays import replayed_run
from ..calibration.serving.reports import (
    MEMORY,
    OUTCOME,
    REPLAYED,
    SINGLE,
    ReportRow,
    Traffic,
    replayed_value,
    report_row,
)
from ..calibration.serving.runs import ServingRun, point_run, rate_run
from ..core.errors import InfeasibleError, InputError, LlmsimError
from ..core.progress import Bar
from ..hardware.engines import shipped_serving_fit
from ..serving.prepare import Prepared
from ..serving.replay import Latencies, replayed, token_gaps
from ..serving.simulate import interval_width
from ..serving.steady_state import Requests, Steady
from ..timing.intervals import model_class
from .result import Entry, ValidationReport
from .scores import feasibility, group_scores, score_table

COLUMNS = {
    "ttft_ms": ("ttft_s", 1e3), "tpot_ms": ("tpot_s", 1e3), "output_tokens_per_s": ("output_tokens_per_s", 1.0),
    "ttft_mean_ms": ("ttft_s", 1e3), "ttft_p99_ms": ("ttft_p99_s", 1e3), "e2e_mean_ms": ("e2e_s", 1e3),
    "e2e_p99_ms": ("e2e_p99_s", 1e3),
}  # fmt: skip
"""Measured column -> what is predicted, and how much of the column's unit one of it is."""
UNITS = {"ms": 1e3, "s": 1.0, "tokens/s": 1.0, "tok/s": 1.0, "req/s": 1.0}
FOLDS: dict[str, Callable[[ServingRun], Hashable]] = {
    "group": lambda run: run.group,
    "model": lambda run: run.model,
    "hardware": lambda run: run.hardware,
    "framework": lambda run: run.framework,
}
"""What may be left out of a refit."""


@dataclass(frozen=True)
class _Row:
    """One row of a table with what could be made of it."""

    line: int
    cells: Mapping[str, str]
    run: ServingRun | None = None
    report: ReportRow | None = None
    skipped: str | None = None


def is_serving(path: Path) -> bool:
    """Whether a table holds measured servers, by its columns."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            columns = set(next(csv.reader(file), ()))
    except (OSError, ValueError, csv.Error):
        return False
    points = {"ttft_ms", "tpot_ms"} <= columns or "output_tokens_per_s" in columns or "ttft_mean_ms" in columns
    return points or {"metric", "value", "engine"} <= columns


def validate_serving(path: Path, *, refit_without: str | None, progress: bool) -> ValidationReport:
    """Predict the rows of a serving table and score the predictions.

    Raises
    ------
    InputError
        For a table that cannot be read, and a split that serving tables do not have.
    """
    if refit_without is not None and refit_without not in FOLDS:
        raise InputError("refit_without", refit_without, ", ".join(FOLDS), why="is no split of serving tables")
    with Bar(progress) as bar:
        done = bar.stage("reading and preparing")
        rows = list(_rows(path))
        done()
        done = bar.stage("refitting" if refit_without else "pricing")
        entries = _predicted(rows, refit_without)
        done()
    fit = shipped_serving_fit()
    shipped = f"shipped: fitted {fit.date} to {fit.data}" if fit.values else "profiles, nothing fitted"
    numbers = (e.metric for e in entries if not isinstance(e.measured, bool))
    metrics = tuple(m for m in dict.fromkeys(numbers) if m in COLUMNS or m in MEMORY or m in SINGLE or m in REPLAYED)
    return ValidationReport(
        file=path.name,
        sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
        constants=f"fitted to {path.name} and to committed tables, without the {refit_without} of the row"
        if refit_without
        else shipped,
        refit_without=refit_without,
        row_count=len(rows),
        rows=entries,
        groups=group_scores(entries),
        scores=score_table(entries, metrics),
        feasibility=feasibility(entries, {}),
        ranking=None,
        ranked_sets=[],
    )


def _rows(path: Path) -> Iterator[_Row]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            names = set(reader.fieldnames or ())
            reports = {"metric", "value"} <= names
            for line, cells in enumerate(reader, start=2):
                own = {k: (v or "") for k, v in cells.items() if isinstance(k, str) and not isinstance(v, list)}
                yield _read(line, own, reports, names)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError("file", str(path), "a readable CSV file", why=f"cannot be read ({error})") from None


def _read(line: int, cells: Mapping[str, str], reports: bool, names: set[str]) -> _Row:
    try:
        if reports:
            return _Row(line, cells, report=report_row(cells))
        return _Row(line, cells, run=rate_run(cells) if "ttft_mean_ms" in names else point_run(cells))
    except LlmsimError as error:
        return _Row(line, cells, skipped=str(error))


def _predicted(rows: Sequence[_Row], refit_without: str | None) -> list[Entry]:
    runs = [row.run for row in rows if row.run is not None]
    steady = dict(_steady(runs, refit_without))
    places = {id(run): n for n, run in enumerate(runs)}
    found: list[Entry] = []
    for row in rows:
        if "metric" in row.cells and "value" in row.cells:
            found += _report_entries(row)
        else:
            found += _run_entries(row, steady.get(places.get(id(row.run), -1)))
    return [_with_interval(e) for e in found]


def _steady(runs: Sequence[ServingRun], refit_without: str | None) -> Iterator[tuple[int, dict[str, float]]]:
    """Place of a run -> metric -> value, by the constants that ship or by refits."""
    batches = run_batches(runs)
    if not refit_without:
        for batch in batches:
            yield from _of_batch(batch, runs, batch.prepared.rates)
        return
    known = {(run.id, run.group) for run in runs}
    beside = [run for run in _committed() if (run.id, run.group) not in known]
    data = ServingData([*map(in_flight, runs), *beside])
    key = FOLDS[refit_without]
    together = linked((key(run), run.group) for run in data.runs)
    folds = [together[key(run)] for run in data.runs]
    for fold in dict.fromkeys(folds[: len(runs)]):
        held = np.array([own == fold for own in folds])
        values = data.values(fit_serving(data, ~held))
        for batch in batches:
            if held[batch.rows].any():
                fitted = {k: values.get(f"engines/{batch.engine}/{k}") for k in batch.prepared.rates}
                rates = {**batch.prepared.rates, **{k: v for k, v in fitted.items() if v is not None}}
                yield from _of_batch(batch, runs, rates, held)


def _committed() -> list[ServingRun]:
    """The runs of a checkout's tables of servers, which refits know beside those of the table; none elsewhere."""
    folder = Path(__file__).resolve().parents[2] / "validation"
    return serving_runs(folder) if all((folder / name).is_file() for name in TABLES) else []


def _of_batch(
    batch: RunBatch, runs: Sequence[ServingRun], rates: Mapping[str, float], wanted: np.ndarray | None = None
) -> Iterator[tuple[int, dict[str, float]]]:
    """Requests that queue are simulated one by one; batches and single prompts follow from closed forms."""
    rows = [int(row) for row in batch.rows if wanted is None or wanted[row]]
    if batch.load in REPLAYED_LOADS:
        yield from ((row, replayed_run(runs[row], rates)) for row in rows)
        return
    steady = batch.steady(rates)
    shape = (len(batch.rows),)
    columns = {m: np.broadcast_to(np.asarray(getattr(steady, m), dtype=float), shape)
               for m in ("ttft_s", "tpot_s", "e2e_s", "output_tokens_per_s")}  # fmt: skip
    places = {int(row): n for n, row in enumerate(batch.rows)}
    for row in rows:
        yield row, {metric: float(values[places[row]]) for metric, values in columns.items()}


def _run_entries(row: _Row, steady: Mapping[str, float] | None) -> Iterator[Entry]:
    """One entry a measured column: where a throughput is stated it is what was measured, but for online rows and first
    tokens."""
    run = row.run
    mode = row.cells.get("mode", "").lower()
    for column, (metric, scale) in COLUMNS.items():
        text = row.cells.get(column, "").strip()
        if not text:
            continue
        if mode.startswith(("offline", "static")) and column != "output_tokens_per_s":
            continue
        if "first token" in mode and column != "ttft_ms":
            continue
        try:
            measured = float(text)
        except ValueError:
            continue
        value = None if steady is None else steady.get(metric, np.nan) * scale
        reason = row.skipped
        if reason is None and (value is None or not np.isfinite(value) or value <= 0):
            value, reason = None, "no request fits the cache that is predicted"
        yield _entry(row, run, column, measured, value, reason, {})


def _report_entries(row: _Row) -> Iterator[Entry]:
    metric, text = row.cells.get("metric", "").strip(), row.cells.get("value", "").strip()
    own = row.report
    if metric == OUTCOME:
        predicted = None if own is None else own.prepared.memory.starts
        yield _entry(row, own, metric, text.lower().startswith("start"), predicted, row.skipped, {})
        return
    try:
        measured = float(text.replace(",", ""))
    except ValueError:
        return
    value, reason = None, row.skipped
    try:
        value = None if own is None else _report_value(metric, row.cells.get("unit", ""), own)
    except LlmsimError as error:
        reason = str(error)
    if reason is None and (value is None or not np.isfinite(value)):
        value, reason = None, "the prediction is not a finite number"
    yield _entry(row, own, metric, measured, value, reason, {} if own is None else own.assumed)


def _report_value(metric: str, unit: str, own: ReportRow) -> float:
    if metric in MEMORY:
        return MEMORY[metric](own.prepared)
    scale = UNITS.get(unit.strip().lower(), 1.0) if metric.startswith(("ttft", "tpot", "itl", "e2e")) else 1.0
    if own.single is not None:
        return SINGLE[metric](_single_stream(metric, own.prepared, own.single), own.single) * scale
    assert own.traffic is not None
    return replayed_value(metric, *_replayed(own.prepared, own.traffic)) * scale


def _single_stream(metric: str, prepared: Prepared, requests: Requests) -> Steady:
    server = prepared.server(requests)
    if metric == "prefill_speed":
        return server.without_clients().static_batch(1.0, requests)
    return server.closed_loop(1.0, requests)


@lru_cache(maxsize=64)
def _replayed(prepared: Prepared, traffic: Traffic) -> tuple[Latencies, tuple[np.ndarray, np.ndarray]]:
    """What happens to the requests of a benchmark."""
    workload = traffic.workload()
    logs = replayed(prepared, workload)
    if not any(end >= 0 for log in logs for end in log.end):
        memory = prepared.memory
        raise InfeasibleError(
            f"no request fits the cache of {memory.cache_tokens:,} tokens", nearest="shorter requests"
        )
    return Latencies.of(workload, logs), token_gaps(logs)


def _entry(
    row: _Row,
    own: ServingRun | ReportRow | None,
    metric: str,
    measured: float | bool,
    predicted: float | bool | None,
    skipped: str | None,
    assumed: Mapping[str, str],
) -> Entry:
    prepared = None if own is None else own.prepared
    cells = row.cells
    fit = shipped_serving_fit()
    group = cells.get("group") or cells.get("id", "")
    return Entry(
        id=cells.get("id", ""),
        line=row.line,
        group=group,
        metric=metric,
        measured=measured,
        predicted=predicted,
        skipped=skipped,
        assumed=dict(assumed),
        in_sample=group in fit.groups,
        model=cells.get("model", ""),
        kind="unknown" if prepared is None else model_class(prepared.model.architecture),
        hardware=cells.get("hardware", "") if prepared is None else prepared.device.name,
        framework=cells.get("framework") or cells.get("engine", "") if prepared is None else prepared.plan.profile.name,
    )


def _with_interval(entry: Entry) -> Entry:
    """With the 80 % interval that refits without groups of rows lead to."""
    name = INTERVALS.get(entry.metric)
    width = interval_width(name, entry.kind) if name else None
    if width is None or entry.predicted is None or isinstance(entry.predicted, bool):
        return entry
    factor = float(np.exp(width.log80))
    return replace(entry, low=entry.predicted / factor, high=entry.predicted * factor)


INTERVALS = {
    "ttft_ms": "ttft_s", "tpot_ms": "tpot_s", "output_tokens_per_s": "output_tokens_per_s", "ttft_mean_ms": "ttft_s",
    "ttft_p99_ms": "ttft_s", "e2e_mean_ms": "tpot_s", "e2e_p99_ms": "tpot_s", "ttft_mean": "ttft_s",
    "ttft_median": "ttft_s", "ttft_p90": "ttft_s", "ttft_p99": "ttft_s", "tpot_mean": "tpot_s", "tpot_median": "tpot_s",
    "tpot_p99": "tpot_s", "itl_mean": "tpot_s", "itl_median": "tpot_s", "itl_p99": "tpot_s", "e2e_mean": "tpot_s",
    "e2e_median": "tpot_s", "e2e_p99": "tpot_s", "output_token_throughput": "output_tokens_per_s",
    "total_token_throughput": "output_tokens_per_s", "request_throughput": "output_tokens_per_s",
    "decode_speed": "tpot_s", "prefill_speed": "ttft_s",
}  # fmt: skip
"""Metric -> the width that applies."""
