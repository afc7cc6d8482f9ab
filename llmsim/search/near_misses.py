"""Plans that only memory keeps from being faster than the best."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..plans.training import TrainingPlan
from ..training.result import TrainingResult
from .answer import NearMiss
from .blocks import blocks
from .finalists import Simulate
from .retained import Candidates, RetainedCandidates
from .select import candidate_plan, kind_of
from .variants import Variant

REACH = 1.25
"""A near miss needs at most this times the memory that there is."""
MOST_MISSES = 3


def nearest_misses(
    found: Candidates,
    best: Sequence[TrainingResult],
    fastest: TrainingResult,
    template: TrainingPlan,
    simulate: Simulate,
) -> list[NearMiss]:
    """Plans with the structure of those found that would be faster than any that fits, for which memory is nearly
    there.

    Parameters
    ----------
    best
        The answer.
    fastest
        The fastest plan that fits.
    """
    winner = fastest.step_time_s
    pool = RetainedCandidates(found.table, 0.0)
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


def _missed(variant: Variant, number: int, winner: float, pool: RetainedCandidates) -> None:
    """Take up the plans of a variant that are faster than the winner and need a little more than there is."""
    limit = variant.evaluator.limit

    def wanted(where: np.ndarray, offload: int, bound: np.ndarray, least: np.ndarray) -> np.ndarray:
        return bound < winner

    for block in blocks(variant, wanted=wanted, limit=REACH * limit):
        faster = (block.step_s < winner) & (block.device_bytes > limit)
        if faster.any():
            pool.keep(number, variant, block, faster)
