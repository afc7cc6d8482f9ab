"""Validation of tables of compression losses."""

from __future__ import annotations

import csv
import hashlib
import math
from collections.abc import Callable, Hashable, Iterator, Mapping
from pathlib import Path

from ..core.errors import InputError, LlmsimError
from ..core.progress import Bar
from ..quality.estimate import estimate
from ..quality.published import Point, point_of, published_points
from .result import Entry, ValidationReport
from .scores import feasibility, group_scores, score_table

METRIC = "delta_loss_nats"
FOLDS: dict[str, Callable[[Point], Hashable]] = {
    "family": lambda point: point.family,
    "model": lambda point: point.model,
    "method": lambda point: (point.kind, point.method),
}
"""What may be left out of what an estimate rests on."""


def validate_quality(path: Path, *, refit_without: str | None, progress: bool) -> ValidationReport:
    """Predict the losses of a table and score the predictions.

    Raises
    ------
    InputError
        For a table that cannot be read, and a split that such tables do not have.
    """
    if refit_without is not None and refit_without not in FOLDS:
        raise InputError("refit_without", refit_without, ", ".join(FOLDS), why="is no split of tables of losses")
    with Bar(progress) as bar:
        done = bar.stage("estimating")
        entries = list(_entries(path, refit_without))
        done()
    return ValidationReport(
        file=path.name,
        sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
        constants=f"published points without the {refit_without} of the row" if refit_without else "published points",
        refit_without=refit_without,
        row_count=len(entries),
        rows=entries,
        groups=group_scores(entries),
        scores=score_table(entries, (METRIC,)),
        feasibility=feasibility(entries, {}),
        ranking=None,
        ranked_sets=[],
    )


def _entries(path: Path, refit_without: str | None) -> Iterator[Entry]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = [{k: (v or "") for k, v in row.items() if isinstance(k, str)} for row in csv.DictReader(file)]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError("file", str(path), "a readable CSV file", why=f"cannot be read ({error})") from None
    known = {point.key for point in published_points()}
    for line, row in enumerate(rows, start=2):
        yield _entry(line, row, refit_without, known)


def _entry(line: int, row: Mapping[str, str], refit_without: str | None, known: set[tuple[object, ...]]) -> Entry:
    predicted = low = high = None
    skipped = None
    in_sample = False
    assumed: dict[str, str] = {}
    try:
        point = point_of(row)
        in_sample = point.key in known and refit_without is None
        own = estimate(point, _others(point, refit_without))
        predicted, low, high = own.delta_nats, own.low, own.high
        assumed = {"evidence": own.evidence, "in domain": "yes" if own.in_domain else "no"}
    except LlmsimError as error:
        skipped = str(error)
    try:
        measured = float(row.get(METRIC, ""))
    except ValueError:
        measured, skipped, predicted = math.nan, skipped or "no measured loss", None
    return Entry(
        id=row.get("id", ""), line=line, group=row.get("group", ""), metric=METRIC, measured=measured,
        predicted=predicted, skipped=skipped, assumed=assumed, in_sample=in_sample, model=row.get("model", ""),
        kind=row.get("method_class", ""), hardware="", framework=row.get("method", ""), low=low, high=high,
    )  # fmt: skip


def _others(point: Point, refit_without: str | None) -> tuple[Point, ...] | None:
    """The points that an estimate may rest on: for a refit those that share nothing of the split with the row."""
    if refit_without is None:
        return None
    key = FOLDS[refit_without]
    return tuple(own for own in published_points() if key(own) != key(point))
