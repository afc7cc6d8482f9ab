"""What lies beside the winner: plans as good as it, and plans that only memory keeps from being faster."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..plans.training import TrainingPlan
from ..training.result import TrainingResult
from .answer import NearMiss, Plateau
from .blocks import blocks
from .choose import candidate_plan, kind_of, mechanisms
from .finalists import Simulate
from .pool import Candidates, Pool
from .variants import Variant

AS_GOOD = 0.01
"""Plans this close to the best are as good: no model of a step is more exact."""
REACH = 1.25
"""A near miss needs at most this times the memory that there is."""
MOST_MISSES, TRIED = 3, 4


def plateau(
    found: Candidates,
    results: Sequence[TrainingResult],
    template: TrainingPlan,
    simulate: Simulate,
) -> Plateau:
    """The plans that are as good as the winner, and the simplest of them.

    Parameters
    ----------
    results
        Simulated plans, the winner first.
    """
    limit = (1 + AS_GOOD) * results[0].step_time_s
    known = {r.plan: r for r in results}
    order = np.argsort(found.step_s, kind="stable")
    near = order[: int(np.searchsorted(found.step_s[order], limit, side="right"))]
    plans = [*known, *(candidate_plan(found, int(i), template) for i in _few_mechanisms(found, near))]
    best = results[0]
    for plan in sorted(dict.fromkeys(plans), key=mechanisms):
        if mechanisms(plan) >= mechanisms(best.plan):
            break
        result = known.get(plan) or simulate(plan)
        if result.step_time_s <= limit:
            best = result
    return Plateau(max(1, len(near)), best.plan, best.step_time_s)


def _few_mechanisms(found: Candidates, near: np.ndarray) -> np.ndarray:
    """Of candidates, the few that use the fewest degrees and settings."""
    used = np.sum([found.table[n][found.row[near]] > 1 for n in ("tp", "pp", "cp", "ep", "chunks")], axis=0)
    order = np.argsort(used, kind="stable")[: 64 * TRIED]
    settings = [found.chosen_setting(int(i)) for i in near[order]]
    extra = [(s.recompute.mode != "none") + (s.offload.activations > 0) + (s.offload.optimizer > 0) for s in settings]
    return near[order[np.argsort(used[order] + np.array(extra, int), kind="stable")[:TRIED]]]


def nearest_misses(
    found: Candidates,
    best: Sequence[TrainingResult],
    template: TrainingPlan,
    simulate: Simulate,
) -> list[NearMiss]:
    """Plans with the structure of those found that would be faster than the winner, for which memory is nearly there.

    Parameters
    ----------
    best
        The answer, the winner first.
    """
    winner = best[0].step_time_s
    pool = Pool(found.table, 0.0)
    for number in _structures(found, best):
        _missed(found.variants[number], number, winner, pool)
    if not pool.pieces:
        return []
    missed = pool.candidates(found.variants, found.limit_bytes)
    kinds: dict[tuple[object, ...], NearMiss] = {}
    for i in np.argsort(missed.step_s, kind="stable")[: 16 * MOST_MISSES]:
        plan = candidate_plan(missed, int(i), template)
        if kind_of(plan) in kinds or not np.isfinite(missed.step_s[i]):
            continue
        result = simulate(plan)
        lacking = result.device_bytes - result.memory_limit_bytes
        if result.step_time_s < winner and lacking > 0:
            kinds[kind_of(plan)] = NearMiss(plan, result.step_time_s, lacking)
        if len(kinds) == MOST_MISSES:
            break
    return sorted(kinds.values(), key=lambda miss: miss.step_time_s)


def _structures(found: Candidates, best: Sequence[TrainingResult]) -> list[int]:
    """Numbers of the variants that the plans of an answer belong to."""
    wanted = {(r.plan.sharding, r.plan.schedule_name, r.plan.sequence_parallel, r.plan.precision) for r in best}
    return [
        n
        for n, v in enumerate(found.variants)
        if any(
            (v.problem.sharding, v.problem.schedule, flag, v.problem.structure.precision) in wanted
            for flag in {v.problem.structure.sequence_parallel, False}
        )
    ]


def _missed(variant: Variant, number: int, winner: float, pool: Pool) -> None:
    """Take up the plans of a variant that are faster than the winner and need a little more than there is."""
    limit = variant.evaluator.limit

    def wanted(where: np.ndarray, offload: int, bound: np.ndarray, least: np.ndarray) -> np.ndarray:
        return bound < winner

    for block in blocks(variant, wanted=wanted, limit=REACH * limit):
        faster = (block.step_s < winner) & (block.device_bytes > limit)
        if faster.any():
            pool.keep(number, variant, block, faster)
