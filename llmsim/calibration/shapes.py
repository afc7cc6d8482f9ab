"""Tables of layers by shape from what is left of measured runs after a fit."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np

from ..hardware.shapes import COLUMNS, ShapeTable, covariance, shape_key
from ..timing.intervals import model_class
from ..timing.model_rates import layer_shape
from ..timing.step_constants import format_class
from ..training.problem import plan_columns
from .runs import RunPlan

RUN_NOISE, GROUP_NOISE = 0.05, 0.08
"""Standard deviations of the logarithm of a step time: of each run, and of what the runs of a group share; assumed."""
MOST = 0.5
"""Of a log ratio: what is off by more says nothing about shapes."""
LEAST_SHARE = 0.2
"""Of a step that layers take: less says little about them."""


def run_key(item: RunPlan) -> str:
    """The table of a run's layers."""
    software = item.plan.software
    own = item.cluster.profile.generation, format_class(item.plan.precision)
    return shape_key(software.lineage, *own, model_class(item.architecture))


def run_shapes(items: Sequence[RunPlan]) -> np.ndarray:
    """The shape of each run's layers, in the columns of a table, shape (runs, 4)."""
    shapes = [layer_shape(item.architecture, plan_columns(item.plan)) for item in items]
    return np.array(shapes, dtype=float).reshape(len(items), len(COLUMNS))


def learn_shapes(
    items: Sequence[RunPlan], log_slower: np.ndarray, share: np.ndarray, keep: np.ndarray | None = None
) -> dict[str, ShapeTable]:
    """Tables from runs.

    Parameters
    ----------
    log_slower
        Logarithm of measured over predicted step time of each run.
    share
        By how much a step grows, relatively, where its layers do.
    keep
        Which runs to learn from, by default all.
    """
    shapes, ratio = run_shapes(items), np.clip(log_slower, -MOST, MOST)
    tables: dict[str, dict[tuple[str, tuple[float, ...]], list[int]]] = defaultdict(lambda: defaultdict(list))
    for n, item in enumerate(items):
        if (keep is None or keep[n]) and share[n] >= LEAST_SHARE:
            tables[run_key(item)][item.run.group, tuple(map(float, shapes[n]))].append(n)
    return {key: _table(cells, ratio, share) for key, cells in sorted(tables.items())}


def _table(
    cells: Mapping[tuple[str, tuple[float, ...]], Sequence[int]], ratio: np.ndarray, share: np.ndarray
) -> ShapeTable:
    """The posterior at each shape from cells of runs that share group and shape: what a group's runs are off together
    is the group's, not its shapes'."""
    points: dict[tuple[float, ...], int] = {}
    groups: dict[str, int] = {}
    point = np.array([points.setdefault(shape, len(points)) for _, shape in cells])
    group = np.array([groups.setdefault(name, len(groups)) for name, _ in cells])
    count = np.array([len(rows) for rows in cells.values()])
    slower, part = (np.array([values[rows].mean() for rows in cells.values()]) for values in (ratio, share))
    where = np.log2(np.array(list(points)))
    prior = covariance(where, where)
    at = np.zeros((len(count), len(where)))  # what a step adds where layers of a shape take longer
    at[np.arange(len(count)), point] = part
    noise = GROUP_NOISE**2 * (group[:, None] == group[None, :]) + np.diag(RUN_NOISE**2 / count)
    solved = np.linalg.solve(at @ prior @ at.T + noise, np.column_stack([slower, at @ prior]))
    weight = at.T @ solved[:, 0]
    variance = np.diag(prior) - np.einsum("ij,ij->j", at @ prior, solved[:, 1:])
    runs = np.bincount(point, weights=count)
    return ShapeTable(where, runs, prior @ weight, np.sqrt(np.maximum(variance, 1e-8)), weight)


def run_factors(items: Sequence[RunPlan], tables: Mapping[str, ShapeTable]) -> np.ndarray:
    """By how much the layers of each run take longer than predicted; 1 where no table knows."""
    shapes, found = run_shapes(items), np.ones(len(items))
    rows: dict[str, list[int]] = defaultdict(list)
    for n, item in enumerate(items):
        rows[run_key(item)].append(n)
    for key, own in rows.items():
        if key in tables:
            found[own] = tables[key].factor(*shapes[own].T)
    return found
