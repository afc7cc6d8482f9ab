"""The finalists of a search: exact schedules of the best candidates, and of all that could still be better."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TypeAlias

import numpy as np

from ..core.pipelines import schedule_facts
from ..plans.recompute import FULL, parse_recompute
from ..plans.training import TrainingPlan
from ..training.result import TrainingResult
from .choose import candidate_plan, fastest_by_kind
from .exact import exact_steps
from .pool import Candidates
from .space import SearchSpace

Simulate: TypeAlias = Callable[[TrainingPlan], TrainingResult]
"""The exact simulation of a plan of the model on the cluster."""

FINALISTS_PER_KIND = 4
"""Candidates of one kind whose exact schedule is computed: closed forms order them nearly, not exactly."""

BATCH, MOST_EXACT = 256, 20_000
"""Candidates whose schedules are computed together, and at most, to prove that none is faster than the winner."""
MOST_BESIDE = 8
"""Of those, how many are simulated in full beside the finalists."""


def best_by_kind(
    found: Candidates,
    template: TrainingPlan,
    simulate: Simulate,
    top: int,
    space: SearchSpace,
) -> list[TrainingResult]:
    """The best few of each kind with their exact schedules, fastest first.

    Closed forms know an even spread of layers over stages only: plans that are near with it are tried with others.
    """
    usual = [candidate_plan(found, i, template) for i in fastest_by_kind(found, top + 3, FINALISTS_PER_KIND)]
    plans = dict.fromkeys(p for plan in usual for p in _spreads(plan, space))
    results = [r for p in plans if (r := simulate(p)).fits]
    results = results or [simulate(p) for p in dict.fromkeys(usual)]
    return sorted(results, key=lambda r: r.step_time_s)


def _spreads(plan: TrainingPlan, space: SearchSpace) -> Iterator[TrainingPlan]:
    """A plan with every allowed spread of layers and of recomputation over its stages."""
    if plan.pipeline_parallel == 1:
        yield plan
        return
    setting = parse_recompute(plan.recompute)
    for layers in space.layers_per_stage:
        for depths in space.recompute_layers:
            if depths == "uniform":
                yield plan.replace(layers_per_stage=layers)
            elif schedule_facts(plan.schedule_name).shape != "both":
                whole = replace(setting, layers=FULL.layers) if setting.mode != "none" else FULL
                yield plan.replace(layers_per_stage=layers, recompute=str(whole), recompute_layers=depths)


def settled(
    results: list[TrainingResult],
    found: Candidates,
    template: TrainingPlan,
    simulate: Simulate,
) -> tuple[list[TrainingResult], int, float]:
    """Results with the best of all candidates whose bound is below the best time; how many schedules were computed for
    that, and how far the best lies above the least bound that is left."""
    best = results[0].step_time_s
    order = np.argsort(found.step_s, kind="stable")
    bound = found.step_s[order]
    exact = np.full(len(order), np.nan)
    done = 0
    while done < min(below := int(np.searchsorted(bound, best)), MOST_EXACT):
        batch = order[done : min(done + BATCH, below)]
        seconds = exact_steps(found, batch)
        for k in np.flatnonzero(np.isnan(seconds)):
            plan = candidate_plan(found, int(batch[k]), template)
            seconds[k] = simulate(plan).step_time_s
        exact[done : done + len(batch)] = seconds
        done += len(batch)
        best = min(best, float(seconds.min()))
    known = {r.plan: r for r in results}
    for k in np.argsort(exact[:done], kind="stable")[:MOST_BESIDE]:
        plan = candidate_plan(found, int(order[k]), template)
        if plan not in known:
            known[plan] = simulate(plan)
    left = float(bound[done]) if done < len(bound) else np.inf
    outside = float(bound[0]) * (1 + found.slack)
    ordered = sorted(known.values(), key=lambda r: r.step_time_s)
    return ordered, done, ordered[0].step_time_s / min(left, outside) - 1
