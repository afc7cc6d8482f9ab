"""The choice among plans whose times lie closer together than they are known: the simplest, by a stated order."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from ..architecture import Architecture
from ..core.pipelines import USUAL_SCHEDULES
from ..plans.precision import get_precision
from ..plans.training import TrainingPlan
from ..training.result import TrainingResult
from .finalists import Simulate
from .retained import Candidates
from .select import candidate_plan
from .space import SearchSpace

SIMPLER_WITHIN = 0.02
"""Share of its step that a plan may lose for being simpler, unless somebody says otherwise: the gain of a change that
would rarely be worth another kind of parallelism to run and to debug. An engineering choice, not a measurement."""
TRIED = 64
"""Candidates that are simulated at most to find the simplest."""

ORDER = (
    "fewer kinds of parallelism, even stages, shallower pipeline, fewer chunks, commoner context parallelism, no "
    "offloading, no converted precision, usual schedule, rank order and overlap"
)
"""What counts as simpler, the first difference deciding."""


def default_within(width: float | None) -> float:
    """What a simpler plan may cost where nobody says: no more than a comparison of two plans may be off.

    Parameters
    ----------
    width
        Half the width of the 80 % interval of the ratio of two plans' times, as a logarithm; None if it is not known.
    """
    return SIMPLER_WITHIN if width is None else min(SIMPLER_WITHIN, math.expm1(width))


Complexity = tuple[int, ...]


def complexity(plan: TrainingPlan, layers: int) -> Complexity:
    """How complex a plan is to run, for comparison with others: the parts of :data:`ORDER`.

    Parameters
    ----------
    layers
        Of the model, which even stages share out equally (both ends may count as one each).
    """
    degrees = (plan.tensor_parallel, plan.pipeline_parallel, plan.context_parallel, plan.expert_parallel)
    kinds = plan.software.training.choices.context_kind
    parts = plan.pipeline_parallel * plan.virtual_pipeline
    even = plan.spreads_evenly and (layers % parts == 0 or (layers + 2) % parts == 0)
    usual = kinds.index(plan.context_kind) if plan.context_kind in kinds else len(kinds)
    return (
        sum(degree > 1 for degree in degrees),
        int(not even),
        plan.pipeline_parallel,
        plan.virtual_pipeline,
        usual if plan.context_parallel > 1 else 0,
        (plan.offload_activations > 0) + (plan.offload_optimizer > 0),
        int(get_precision(plan.precision).converts),
        (plan.schedule_name not in USUAL_SCHEDULES)
        + (plan.rank_order != "tp-cp-dp-pp")
        + (plan.overlap not in ("profile", "none")),
    )


def simplest(
    found: Candidates,
    results: Sequence[TrainingResult],
    template: TrainingPlan,
    simulate: Simulate,
    space: SearchSpace,
    architecture: Architecture,
    within: float,
) -> tuple[TrainingResult, int]:
    """The simplest plan whose exact time is at most ``within`` (a share) above the fastest one's, and how many plans
    that is by the closed form. Among equally simple ones the fastest.

    Parameters
    ----------
    results
        Simulated plans that fit, the fastest first.
    """
    layers, limit = len(architecture.layers), results[0].step_time_s * (1 + within)
    near = np.flatnonzero(found.step_s <= limit)
    within_limit = (r for r in results if r.step_time_s <= limit)
    best = min(within_limit, key=lambda r: (complexity(r.plan, layers), r.step_time_s))
    for bound, plan in _simple_candidates(found, near, template, space, layers):
        if (complexity(plan, layers), bound) >= (complexity(best.plan, layers), best.step_time_s):
            continue
        result = simulate(plan)
        if result.fits and result.step_time_s <= limit:
            best = min(best, result, key=lambda r: (complexity(r.plan, layers), r.step_time_s))
    return best, max(1, len(near))


def _simple_candidates(
    found: Candidates, near: np.ndarray, template: TrainingPlan, space: SearchSpace, layers: int
) -> list[tuple[float, TrainingPlan]]:
    """The simplest of some candidates with the bounds on their time, in the order of both."""
    column = {name: found.table[name][found.row[near]] for name in ("tp", "pp", "cp", "ep", "chunks")}
    kinds = np.sum([column[name] > 1 for name in ("tp", "pp", "cp", "ep")], axis=0)
    parts = column["pp"] * column["chunks"]
    uneven = (layers % parts != 0) & ((layers + 2) % parts != 0)
    order = np.lexsort((found.step_s[near], column["chunks"], column["pp"], uneven, kinds))
    order = order[space.takes_even_plans | (column["pp"][order] == 1)]
    plans = [(float(found.step_s[near[i]]), candidate_plan(found, int(near[i]), template)) for i in order[:TRIED]]
    return sorted(plans, key=lambda pair: (complexity(pair[1], layers), pair[0]))
