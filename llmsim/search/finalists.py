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
from .answer import SpreadCounts
from .exact import exact_steps
from .retained import Candidates
from .select import candidate_plan, fastest_by_kind
from .space import SearchSpace
from .uneven_partition import Spreads

Simulate: TypeAlias = Callable[[TrainingPlan], TrainingResult]
"""The exact simulation of a plan of the model on the cluster."""

FINALISTS_PER_KIND = 4
"""Candidates of one kind whose exact schedule is computed: closed forms order them nearly, not exactly."""

BATCH, MOST_EXACT = 256, 20_000
"""Candidates whose schedules are computed together, and at most, to prove that none is faster than the winner."""
MOST_SPREADS = 5_000
"""Plans with uneven spreads that are simulated at most, to prove that none is faster than the winner."""
MOST_BESIDE = 8
"""Of those, how many are simulated in full beside the finalists."""


def best_by_kind(
    found: Candidates,
    template: TrainingPlan,
    simulate: Simulate,
    top: int,
    space: SearchSpace,
) -> list[TrainingResult]:
    """The best few of each kind that fit, with their exact schedules, fastest first.

    Closed forms know an even spread of layers over stages only: plans that are near with it are tried with others.
    """
    usual = [candidate_plan(found, i, template) for i in fastest_by_kind(found, top + 3, FINALISTS_PER_KIND)]
    plans = dict.fromkeys(p for plan in usual for p in spread_plans(plan, space))
    return sorted((r for p in plans if (r := simulate(p)).fits), key=lambda r: r.step_time_s)


def spread_plans(plan: TrainingPlan, space: SearchSpace) -> Iterator[TrainingPlan]:
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
    space: SearchSpace,
) -> tuple[list[TrainingResult], int, float]:
    """Results with the best of all candidates whose bound is below the best time; how many schedules were computed for
    that, and the least bound that is left."""
    best = results[0].step_time_s if results else np.inf
    allowed = np.flatnonzero(space.takes_even_plans | (found.table["pp"][found.row] == 1))
    order = allowed[np.argsort(found.step_s[allowed], kind="stable")]
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
    outside = float(found.step_s.min()) * (1 + found.slack)
    return sorted(known.values(), key=lambda r: r.step_time_s), done, min(left, outside)


def settled_spreads(
    results: list[TrainingResult], spreads: Spreads, template: TrainingPlan, simulate: Simulate
) -> tuple[list[TrainingResult], SpreadCounts, float]:
    """Results with those of all plans that spread unevenly and whose bound is below the best time; what became of these
    plans, and the least bound that is left."""
    best = results[0].step_time_s if results else np.inf
    known = {r.plan: r for r in results}
    done = fitting = 0
    variant, setting, row, bound, plans = spreads.table()
    at, left = 0, spreads.left_s
    while at < len(bound) and bound[at] < best:
        if done >= MOST_SPREADS:
            left = min(left, float(bound[at]))
            break
        for plan in spreads.expanded(int(variant[at]), int(setting[at]), int(row[at]), template):
            result = simulate(plan)
            done, fitting = done + 1, fitting + result.fits
            if result.fits:
                known[result.plan] = result
                best = min(best, result.step_time_s)
        at += 1
    waiting = bound[at:] < best
    bounded = spreads.bounded + int(plans[at:][~waiting].sum())
    passed = spreads.dropped + int(plans[at:][waiting].sum())
    counts = SpreadCounts(spreads.plans, bounded, spreads.too_large, done, fitting, passed)
    return sorted(known.values(), key=lambda r: r.step_time_s), counts, left
