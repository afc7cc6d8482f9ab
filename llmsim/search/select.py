"""The choice: the best plans that differ in kind, the trade of time against memory, and why the winner wins."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..plans.training import TrainingPlan
from ..training.result import TrainingResult
from .retained import Candidates
from .variants import Setting, Variant

_PLAN_FIELDS = {
    "tp": "tensor_parallel",
    "pp": "pipeline_parallel",
    "cp": "context_parallel",
    "dp": "data_parallel",
    "chunks": "virtual_pipeline",
    "ep": "expert_parallel",
    "etp": "expert_tensor_parallel",
    "micro_batch": "micro_batch_size",
}


def candidate_plan(found: Candidates, index: int, template: TrainingPlan) -> TrainingPlan:
    """One candidate as a plan; what the space does not vary comes from the template."""
    variant = found.variants[int(found.variant[index])]
    return variant_plan(variant, int(found.row[index]), found.chosen_setting(index), template)


def variant_plan(variant: Variant, row: int, setting: Setting, template: TrainingPlan) -> TrainingPlan:
    """A row of the table under the structure of a variant and a setting as a plan; the rest comes from the template."""
    table, structure, problem = variant.evaluator.table, variant.problem.structure, variant.problem
    values: dict[str, Any] = {field: int(table[name][row]) for name, field in _PLAN_FIELDS.items()}
    group = variant.shard_group
    if group is not None:
        group = min(group, values["data_parallel"] * values["context_parallel"])
    return template.replace(
        **values,
        sequence_parallel=structure.sequence_parallel and values["tensor_parallel"] > 1,
        context_kind=structure.context_kind,
        rank_order=variant.rank_order,
        precision=structure.precision,
        overlap=structure.overlap,
        ulysses_parallel=variant.ulysses if variant.ulysses > 1 else None,
        recompute=str(setting.recompute),
        sharding=problem.sharding,
        shard_group=group,
        schedule=problem.schedule,
        offload_activations=setting.offload.activations,
        offload_optimizer=setting.offload.optimizer,
    )


def kind_of(plan: TrainingPlan) -> tuple[object, ...]:
    """What makes plans differ in kind: their degrees and what data parallelism shares; the rest is tuning."""
    return (
        plan.tensor_parallel,
        plan.pipeline_parallel,
        plan.context_parallel,
        plan.expert_parallel,
        plan.sharding,
        plan.precision,
        plan.rank_order,
        plan.offload_activations,
        plan.offload_optimizer,
    )


def fastest_by_kind(found: Candidates, count: int, each: int) -> list[int]:
    """Numbers of the fastest candidates that fit, at most ``each`` of a kind, until there are ``count`` kinds."""
    seen: dict[tuple[object, ...], int] = {}
    chosen: list[int] = []
    for i in _by_time(found):
        kind = _kind_key(found, i)
        if kind not in seen and len(seen) == count:
            break
        if seen.setdefault(kind, 0) < each:
            seen[kind] += 1
            chosen.append(i)
    return chosen


def _by_time(found: Candidates) -> Iterator[int]:
    for i in np.argsort(found.step_s, kind="stable"):
        if not np.isfinite(found.step_s[i]):
            return
        yield int(i)


def _kind_key(found: Candidates, index: int) -> tuple[object, ...]:
    row = int(found.row[index])
    variant, offload = found.variants[int(found.variant[index])], found.chosen_setting(index).offload
    own = variant.problem.sharding, variant.problem.structure.precision, variant.rank_order, offload
    return (*(int(found.table[n][row]) for n in ("tp", "pp", "cp", "ep")), *own)


def pareto(found: Candidates, limit: int = 12) -> list[int]:
    """Numbers of the candidates that no other beats in both time and memory, from the fastest to the smallest."""
    fit = np.flatnonzero(np.isfinite(found.step_s))
    order = fit[np.lexsort((found.device_bytes[fit], found.step_s[fit]))]
    if not len(order):
        return []
    memory = found.device_bytes[order]
    lowest = np.minimum.accumulate(memory)
    new = np.concatenate([[True], memory[1:] < lowest[:-1]])
    front = order[new]
    if len(front) > limit:  # spread over the front, both ends kept
        front = front[np.unique(np.linspace(0, len(front) - 1, limit).round().astype(int))]
    return [int(i) for i in front]


@dataclass(frozen=True)
class Difference:
    """One part of a step in which two plans differ.

    Attributes
    ----------
    part
        Of the breakdown.
    seconds
        The second plan's seconds less the first's.
    """

    part: str
    seconds: float


def differences(first: TrainingResult, second: TrainingResult) -> list[Difference]:
    """Where a second plan's step differs from the first's, largest first; they sum to the difference of the steps."""
    parts = {name: second.breakdown_s[name] - seconds for name, seconds in first.breakdown_s.items()}
    ordered = sorted(parts.items(), key=lambda item: -abs(item[1]))
    return [Difference(name, value) for name, value in ordered if value != 0]


def smallest_memory(found: Candidates) -> int:
    """Number of the candidate that needs the least memory: the nearest miss when nothing fits."""
    return int(np.argmin(found.device_bytes))
