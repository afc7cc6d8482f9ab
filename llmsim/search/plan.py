"""The main question: the best way to train a model on a cluster."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache, partial
from pathlib import Path
from time import perf_counter
from typing import Any, Unpack

from ..architecture import Architecture
from ..core.errors import InfeasibleError, InputError
from ..core.progress import Bar
from ..core.units import gib
from ..economics.job import device_price, job_cost
from ..hardware.cluster import Cluster
from ..hardware.profiles import build
from ..hardware.software import Software, get_software
from ..plans.defaults import default_framework, framework_assumed, precision_assumed
from ..plans.job import TrainingJob
from ..plans.precision import check_recipe, default_precision
from ..plans.training import TrainingPlan
from ..timing.intervals import difference_width, memory_width, model_class, safe_headroom
from ..timing.step_constants import assumed_dispatcher
from ..training.memory import with_headroom
from ..training.result import TrainingResult
from ..training.simulate import simulate_training
from .answer import Counts, Percentile, PlannedJob, Preference, SpreadCounts, Tradeoff, TrainingPlanning, Undecided
from .evaluate import space_evaluators
from .finalists import Simulate, best_by_kind, settled, settled_spreads, spread_plans
from .hints import batch_hints, memory_hints
from .near_misses import nearest_misses
from .options import SearchOptions
from .question import Keywords, chosen_space, read_question
from .retained import SLACK, Candidates
from .risk import by_percentile, chance_faster, percentile_s
from .select import candidate_plan, differences, kind_of, pareto, smallest_memory
from .simplest import ORDER, default_within, simplest
from .space import SearchSpace, enumerate_plans
from .sweep import evaluate_space, usable_cores
from .uneven_partition import other_spreads

REMEMBERED = 1024
"""Simulated plans that a search remembers."""


def plan_training(
    model: TrainingJob | Architecture | str | Path,
    cluster: Cluster | Mapping[str, Any] | str | Path,
    *,
    space: SearchSpace | Mapping[str, Any] | None = None,
    options: SearchOptions | None = None,
    **named: Unpack[Keywords],
) -> TrainingPlanning:
    """The best training plans for a job on a cluster.

    Parameters
    ----------
    model
        A :class:`~llmsim.plans.job.TrainingJob`; or its model, with the other fields as keywords
        (``sequence=8192, global_batch=512``).
    cluster
        A cluster, text such as ``64x8xh100-sxm-80gb`` or the path of a YAML file.
    space
        What may be chosen; everything by default.
    options
        :class:`~llmsim.search.options.SearchOptions`; keywords of their names do as well (``oom_risk=0.01``).

    Raises
    ------
    InputError
        For a value that cannot be used.
    UnsupportedError
        For a model without a cost model.
    InfeasibleError
        Where no plan fits, with the nearest miss and the memory it lacks.
    """
    started = perf_counter()
    job, options = read_question(model, options, named)
    chosen, precision = chosen_space(space, job.precision)
    architecture, fit, top, tokens = job.architecture, options.fit, options.top, job.training_tokens
    sequence, global_batch = job.shape
    machine = _machine(cluster, options)
    assumed = {**machine.assumed(), **architecture.assumed(sequence), **(fit.assumed() if fit else {})}
    if tokens and machine.price_usd_per_device_hour is None:
        usd, _, date = device_price(machine)
        of = f"{machine.profile.name} profile, {date}".removesuffix(", ")
        assumed["price"] = f"{usd:.2f} USD per device-hour ({of})"
    if precision is None:
        precision = (chosen.precision or (default_precision(machine.profile),))[0]
        if chosen.precision is None:
            assumed["precision"] = precision_assumed(precision, machine.profile)
    for recipe in (precision, *(chosen.precision or ())):
        check_recipe(recipe, machine.profile)
    software = _software(job, machine, assumed)
    machine, margin = with_headroom(machine, software, fit)
    assumed.update(margin)
    template = _template(job, precision, software, assumed)
    assumed.update(software.assumed(*(chosen.schedule or ())))
    if model_class(architecture) == "moe":
        assumed.update(assumed_dispatcher(template.dispatcher, software, machine))
    table = enumerate_plans(architecture, machine.n_devices, sequence, global_batch, chosen)
    if len(chosen.precision or ()) > 1:
        assumed["loss"] = f"the same in {', '.join(chosen.precision or ())}: only time and memory are compared"
    evaluators = space_evaluators(architecture, machine, template, table, chosen, fit)
    exact = partial(simulate_training, architecture=architecture, cluster=machine, fit=fit)
    simulate: Simulate = lru_cache(maxsize=REMEMBERED)(exact)
    width = difference_width(architecture, software, fit)
    within = default_within(width) if options.simpler_within is None else options.simpler_within
    with Bar(options.progress) as bar:

        def evaluated(slack: float) -> Candidates:
            return evaluate_space(
                evaluators,
                chosen,
                optimizer=template.optimizer,
                slack=slack,
                cores=options.cores or usable_cores(),
                advance=bar.stage("plans evaluated", 1),
            )

        found, results, counts = _proven(evaluated, chosen, template, simulate, top, within)
    fastest, preference = results[0], None
    if options.percentile is not None:
        results = by_percentile(results, options.percentile)
    else:
        first, near = simplest(found, results, template, simulate, chosen, architecture, within)
        gain = 1 - fastest.step_time_s / first.step_time_s
        preference = Preference(within, near, fastest.plan, fastest.step_time_s, gain, ORDER)
        results = [first, *(r for r in results if r is not first)]
    best = _differing(results, top)
    misses = nearest_misses(found, best, fastest, template, simulate)
    return TrainingPlanning(
        model=architecture.name,
        cluster=best[0].cluster,
        best=[_planned(r, best[0], tokens * job.epochs if tokens else None, machine, width) for r in best],
        undecided=_undecided(best, width),
        preference=preference,
        misses=misses,
        pareto=_tradeoffs(found, fastest, template, simulate),
        counts=counts,
        hints=batch_hints(machine.n_devices, global_batch) + memory_hints(misses, fastest.step_time_s, chosen),
        chosen_by=_chosen_by(best[0], options.percentile),
        assumed=assumed,
        search_s=perf_counter() - started,
    )


def _proven(
    evaluated: Callable[[float], Candidates],
    space: SearchSpace,
    template: TrainingPlan,
    simulate: Simulate,
    top: int,
    within: float,
) -> tuple[Candidates, list[TrainingResult], Counts]:
    """What a sweep left, simulated plans with the best of the space among them, and what became of the space.

    Raises
    ------
    InfeasibleError
        Where no plan fits.
    """
    found = evaluated(max(SLACK, within))
    results = best_by_kind(found, template, simulate, top, space)
    best = results[0].step_time_s if results else math.inf
    spreads = other_spreads(found.variants, space, best)
    own: SpreadCounts | None = None
    left = math.inf
    if spreads is not None:
        results, own, left = settled_spreads(results, spreads, template, simulate)
    if found.fitting:
        over = results[0].step_time_s / float(found.step_s.min()) - 1 if results else math.inf
        if over > found.slack:  # plans that could still be faster were not kept
            found = evaluated(over * (1 + 1e-9))
    results, schedules, least = settled(results, found, template, simulate, space)
    if not results:
        raise _nothing_fits(found, template, simulate, space, own)
    gap = results[0].step_time_s / min(left, least) - 1
    even = sum(r.plan.spreads_evenly for r in results)
    return found, results, _counts(found, even + schedules, gap, own)


def _tradeoffs(
    found: Candidates, fastest: TrainingResult, template: TrainingPlan, simulate: Simulate
) -> list[Tradeoff]:
    """The trade of time against memory, from the fastest plan on, by exact times: those that another beats in both are
    left out."""
    plans = dict.fromkeys((fastest.plan, *(candidate_plan(found, i, template) for i in pareto(found))))
    every = sorted(map(simulate, plans), key=lambda r: (r.step_time_s, r.device_bytes))
    front: list[Tradeoff] = []
    for r in every:
        if not front or r.device_bytes < front[-1].device_bytes:
            front.append(Tradeoff(r.plan, r.step_time_s, r.device_bytes))
    return front


def _undecided(best: Sequence[TrainingResult], width: float | None) -> Undecided | None:
    """Which plans the winner cannot be told apart from."""
    if width is None:
        return None
    near = [n for n, r in enumerate(best[1:], 1) if abs(math.log(r.step_time_s / best[0].step_time_s)) < width]
    return Undecided(width, near)


def _chosen_by(winner: TrainingResult, percentile: float | None) -> Percentile | None:
    return None if percentile is None else Percentile(percentile, percentile_s(winner, percentile))


def _machine(cluster: Cluster | Mapping[str, Any] | str | Path, options: SearchOptions) -> Cluster:
    """The cluster with what options say of it."""
    machine = Cluster.parse(cluster, network=options.network)
    headroom = options.headroom if options.oom_risk is None else _headroom_of(options.oom_risk, options)
    given = {"price_usd_per_device_hour": options.price, "memory_headroom": headroom}
    given = {name: value for name, value in given.items() if value is not None}
    return machine.replace(**given) if given else machine


def _headroom_of(oom_risk: float, options: SearchOptions) -> float:
    """The headroom under which a plan runs out of memory with a chance that is given."""
    if options.headroom is not None:
        raise InputError("oom_risk", oom_risk, "this or a headroom, one of the two")
    if not 0 < oom_risk <= 0.5:
        raise InputError("oom_risk", oom_risk, "a chance above 0 and up to 0.5", 0.1)
    width = memory_width(options.fit)
    if width is None:
        raise InputError("oom_risk", oom_risk, "a headroom", why="needs measured memory, which the fit does not have")
    return safe_headroom(oom_risk, width)


def _planned(
    result: TrainingResult, winner: TrainingResult, tokens: float | None, machine: Cluster, width: float | None
) -> PlannedJob:
    cost = (
        None
        if tokens is None
        else job_cost(result.step_time_s, result.tokens_per_step, tokens, machine, result.step_interval_s)
    )
    if result is winner:
        return PlannedJob(result, cost)
    return PlannedJob(result, cost, differences(winner, result), chance_faster(winner, result, width))


def _software(job: TrainingJob, cluster: Cluster, assumed: dict[str, str]) -> Software:
    name = default_framework(cluster.profile) if job.framework is None else job.framework
    if job.framework is None:
        assumed["framework"] = framework_assumed(name, cluster.profile)
    software = get_software(name, job.release)
    assumed.update(software.assumed())
    return software


def _template(job: TrainingJob, precision: str, software: Software, assumed: dict[str, str]) -> TrainingPlan:
    """What the plans of a job have in common."""
    sequence, global_batch = job.shape
    routed, imbalance = job.architecture.has_experts, job.imbalance
    if job.optimizer is None:
        assumed["optimizer"] = "adamw"
    if imbalance is not None and not routed:
        assumed["routing"] = f"none: {job.architecture.name} has no experts, an imbalance says nothing"
    if imbalance is None:
        imbalance = software.training.defaults.imbalance
        if routed:
            assumed["routing"] = f"busiest expert rank at {imbalance:g} times the mean ({software.name} profile)"
    values = {
        "sequence_length": sequence,
        "global_batch_size": global_batch,
        "precision": precision,
        "optimizer": "adamw" if job.optimizer is None else job.optimizer,
        "framework": software.name,
        "release": job.release,
        "imbalance": imbalance,
        "adapter": job.adapter,
        "document_length": job.document_length,
        "capacity_factor": job.capacity_factor,
        "pad_to_capacity": job.pad_to_capacity,
    }
    return build(TrainingPlan, values, "")


def _differing(results: Sequence[TrainingResult], count: int) -> list[TrainingResult]:
    kinds: dict[tuple[object, ...], TrainingResult] = {}
    for result in results:
        kinds.setdefault(kind_of(result.plan), result)
    return list(kinds.values())[:count]


def _counts(found: Candidates, simulated: int, gap: float, spreads: SpreadCounts | None) -> Counts:
    dropped = dict(found.table.dropped)
    if found.evaluated > found.fitting:
        dropped["memory"] = found.evaluated - found.fitting
    return Counts(
        considered=found.evaluated + sum(found.table.dropped.values()),
        rejected=dropped,
        evaluated=found.evaluated,
        fitting=found.fitting,
        bounded=found.bounded,
        simulated=simulated,
        proven=gap <= 0,
        bound_gap=gap,
        spreads=spreads,
    )


def _nothing_fits(
    found: Candidates, template: TrainingPlan, simulate: Simulate, space: SearchSpace, spreads: SpreadCounts | None
) -> InfeasibleError:
    nearest = candidate_plan(found, smallest_memory(found), template)
    result = min(map(simulate, spread_plans(nearest, space)), key=lambda r: r.device_bytes)
    plan, stage = result.plan, result.fullest
    over = stage.device_bytes - result.memory_limit_bytes
    parts = sorted(stage.memory_bytes.items(), key=lambda item: -item[1])[:3]
    listing = ", ".join(f"{name} {gib(value)}" for name, value in parts)
    looked = (
        f"All {found.evaluated:,} plans that divide were checked" if found.evaluated > 1 else "No other plan divides"
    )
    if spreads is not None and spreads.left:
        looked += f", {spreads.left:,} that spread layers or recomputation unevenly were not looked at"
    return InfeasibleError(
        f"no plan fits: {result.model} on {result.cluster}. The nearest miss is {plan}: its fullest stage needs "
        f"{gib(stage.device_bytes)} ({listing}) and may use {gib(result.memory_limit_bytes)}, {gib(over)} too much. "
        f"{looked}; more devices, or devices with more memory, would help",
        str(plan),
        over,
    )
