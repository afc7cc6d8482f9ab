"""What a simple rule predicts from the same runs: the bars that a simulator has to pass.

Each baseline sees only the runs that are not left out, knows the model's FLOPs per token and the device's peak, and
predicts the share of that peak that a run reaches (MFU).
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ..calibration.plausible import ideal_seconds
from ..calibration.runs import RunPlan
from ..plans.precision import get_precision


@dataclass(frozen=True)
class Sample:
    """Runs as baselines see them, one array entry a run.

    Attributes
    ----------
    ideal_s
        Seconds at the peak of the format: FLOPs of the model (causal attention) over peak.
    mfu
        Share of the peak that was measured.
    weight
        One over the size of the run's group.
    hardware, precision, framework
        Names.
    features
        Of the regression, shape (runs, 12).
    """

    ideal_s: np.ndarray
    mfu: np.ndarray
    weight: np.ndarray
    hardware: np.ndarray
    precision: np.ndarray
    framework: np.ndarray
    features: np.ndarray


def sample(items: Sequence[RunPlan]) -> Sample:
    """Runs with a measured time as baselines see them."""
    ideal = np.array([ideal_seconds(item) for item in items])
    sizes = Counter(item.run.group for item in items)
    return Sample(
        ideal,
        ideal / np.array([float(item.run.step_time_s or np.nan) for item in items]),
        np.array([1 / sizes[item.run.group] for item in items]),
        np.array([item.cluster.device for item in items]),
        np.array([item.plan.precision for item in items]),
        np.array([item.plan.framework for item in items]),
        np.array([_features(item) for item in items]),
    )


def _features(item: RunPlan) -> list[float]:
    plan = item.plan
    bubble = (plan.pipeline_parallel - 1) / (plan.micro_batches * plan.virtual_pipeline)
    sizes = (
        plan.tensor_parallel, plan.pipeline_parallel, plan.context_parallel, plan.data_parallel, plan.expert_parallel,
        plan.micro_batch_size, plan.sequence_length, item.architecture.hidden, 1 + bubble,
    )  # fmt: skip
    flags = (plan.recompute.startswith("full"), get_precision(plan.precision).converts)
    return [1.0, *np.log(sizes), *map(float, flags)]


def constant_mfu(runs: Sample, known: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """One MFU per device and precision; per precision, then one for all, where that was never measured."""
    keys = list(zip(runs.hardware, runs.precision, strict=True))
    tables: list[tuple[Callable[[int], object], dict[object, float]]] = []
    for key in (lambda n: keys[n], lambda n: runs.precision[n], lambda n: ""):
        by_key: dict[object, list[int]] = defaultdict(list)
        for n in known:
            by_key[key(n)].append(n)
        tables.append((key, {k: _weighted_median(runs.mfu[own], runs.weight[own]) for k, own in by_key.items()}))
    return np.array([next(table[key(n)] for key, table in tables if key(n) in table) for n in wanted])


def _weighted_median(values: np.ndarray, weights: np.ndarray) -> float:
    order = np.argsort(values, kind="stable")
    reached = np.cumsum(weights[order])
    return float(values[order][np.searchsorted(reached, reached[-1] / 2)])


def regression(runs: Sample, known: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Logarithm of MFU linear in twelve features: degrees, batch, sequence, width, bubble, recomputation, precision."""
    root = np.sqrt(runs.weight[known])[:, None]
    x, y = runs.features[known] * root, np.log(runs.mfu[known])[:, None] * root
    ridge = 1e-3 * np.eye(x.shape[1])
    slope = np.linalg.lstsq(np.vstack([x, ridge]), np.vstack([y, np.zeros((x.shape[1], 1))]), rcond=None)[0]
    return np.asarray(np.exp(runs.features[wanted] @ slope[:, 0]))


def nearest_sibling(runs: Sample, known: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """The MFU of the most similar run: of the same device, precision and framework if there is one, and the nearest in
    the regression's features."""
    labels = (runs.hardware, runs.precision, runs.framework)
    found = []
    for n in wanted:
        apart = np.abs(runs.features[known] - runs.features[n]).sum(axis=1)
        for penalty, label in zip((100.0, 30.0, 10.0), labels, strict=True):
            apart = apart + penalty * (label[known] != label[n])
        found.append(runs.mfu[known[int(np.argmin(apart))]])
    return np.array(found)


BASELINES: dict[str, Callable[[Sample, np.ndarray, np.ndarray], np.ndarray]] = {
    "constant MFU": constant_mfu,
    "log-linear regression": regression,
    "nearest sibling": nearest_sibling,
}
"""Name -> MFU of the wanted runs from the known ones."""


def baseline_seconds(items: Sequence[RunPlan], folds: np.ndarray) -> dict[str, np.ndarray]:
    """Seconds that each baseline predicts for each run, from the runs of the other folds; not a number without any."""
    runs = sample(items)
    found = {name: np.full(len(items), np.nan) for name in BASELINES}
    for fold in range(int(folds.max()) + 1):
        wanted, known = np.flatnonzero(folds == fold), np.flatnonzero(folds != fold)
        for name, rule in BASELINES.items():
            if len(known):
                found[name][wanted] = runs.ideal_s[wanted] / rule(runs, known, wanted)
    return found
