"""The main question: the best way to train a model on a cluster."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache, partial
from pathlib import Path
from time import perf_counter
from typing import Any

from ..architecture import Architecture
from ..core.arguments import real, text, whole
from ..core.errors import InfeasibleError, InputError, UnsupportedError
from ..core.progress import Bar
from ..core.units import gib, parse_batch, parse_count, parse_length
from ..economics.job import device_price, job_cost
from ..hardware.cluster import Cluster
from ..hardware.fitted import Fit, checked_fit
from ..hardware.profiles import build
from ..hardware.software import Software, get_software
from ..plans.defaults import default_framework, framework_assumed, precision_assumed
from ..plans.precision import check_recipe, default_precision
from ..plans.training import TrainingPlan
from ..timing.constants import assumed_dispatcher
from ..timing.intervals import difference_width, memory_width, model_class, safe_headroom
from ..training.memory import with_headroom
from ..training.result import TrainingResult
from ..training.simulate import simulate_training
from .answer import Counts, Percentile, PlannedJob, Preference, SpreadCounts, Tradeoff, TrainingPlanning, Undecided
from .evaluate import space_evaluators
from .finalists import Simulate, best_by_kind, settled, settled_spreads, spread_plans
from .hints import batch_hints, memory_hints
from .near_misses import nearest_misses
from .question import check_choice, check_counts, check_numbers, check_texts, chosen_space
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
    model: Architecture | str | Path,
    cluster: Cluster | Mapping[str, Any] | str | Path,
    *,
    sequence: int | str,
    global_batch: int | str,
    tokens: float | str | None = None,
    epochs: float = 1.0,
    precision: str | Sequence[str] | None = None,
    framework: str | None = None,
    release: str = "",
    network: str | None = None,
    optimizer: str | None = None,
    adapter: str = "none",
    document_length: int | str | tuple[int, ...] | None = None,
    capacity_factor: float | None = None,
    pad_to_capacity: bool = False,
    price: float | None = None,
    imbalance: float | None = None,
    space: SearchSpace | Mapping[str, Any] | None = None,
    headroom: float | None = None,
    oom_risk: float | None = None,
    percentile: float | None = None,
    simpler_within: float | None = None,
    fit: Fit | None = None,
    top: int = 5,
    cores: int | None = None,
    progress: bool = False,
) -> TrainingPlanning:
    """The best training plans for a model on a cluster.

    Parameters
    ----------
    model
        An architecture, a bundled name or the path of a config.json.
    cluster
        A cluster, text such as ``64x8xh100-sxm-80gb`` or the path of a YAML file.
    sequence, global_batch
        Tokens of a sequence, sequences of a step; ``8k`` is 8,192 tokens.
    tokens, epochs
        Training tokens (``15T`` is 15e12) and how often the job goes through them, for days and cost.
    precision, framework, release, network
        Recipe (of several the best), software profile and fabric; blank ones are taken from profiles and listed.
    optimizer
        Its name; None takes AdamW. All take equal tokens: how many reach equal loss is another question.
    adapter
        ``lora:16`` fine-tunes low-rank adapters of a frozen model; ``none`` trains every parameter.
    document_length
        Tokens of the documents packed into a sequence, one number or all of them; None: a sequence is one document.
    capacity_factor, pad_to_capacity
        An expert takes at most this many times the mean, or exactly that many; None drops nothing.
    price
        USD per device-hour; None takes the cluster's, else the dated one of the device's profile.
    imbalance
        Tokens of the busiest expert rank over the mean; None takes the software profile's.
    space
        What may be chosen; everything by default.
    headroom
        Share of the device's memory that stays free, instead of a chance of running out.
    oom_risk
        The chance of running out of memory that a plan may have, by default 0.05. Where no measured memory says how far
        off a prediction may be, the software profile's headroom stays free.
    percentile
        Choose, of the plans with exact schedules, the one whose time at this percentile is least; None: at the median.
    simpler_within
        Take the simplest plan (:data:`~llmsim.search.simplest.ORDER`) whose step is at most this share longer than the
        fastest one's; by default 0.02, or what a comparison of two plans may be off where that is less.
    fit
        Fitted constants to use instead of those that ship, see :func:`~llmsim.calibration.own_files.calibrate_with`.
    top
        Plans that differ in kind to return.
    cores
        Processes for a large space; None takes as many as the system allows.
    progress
        Show a bar on the error stream where it takes longer than a second.

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
    chosen, precision = chosen_space(space, precision)
    check_texts(framework=framework, optimizer=optimizer, adapter=adapter, release=text(release, "release"))
    check_numbers(
        epochs=real(epochs, "epochs"), oom_risk=oom_risk, percentile=percentile, simpler_within=simpler_within
    )
    check_counts(top=top, cores=cores)
    sequence, global_batch = parse_length(sequence, "sequence"), parse_batch(global_batch, "global_batch")
    tokens = None if tokens is None else parse_count(tokens, "tokens")
    fit = checked_fit(fit)
    architecture = model if isinstance(model, Architecture) else Architecture.from_config(model)
    machine = Cluster.parse(cluster, network=network)
    if oom_risk is not None:
        headroom = _headroom_of(oom_risk, headroom, fit)
    check_choice(percentile, simpler_within)
    given = {"price_usd_per_device_hour": price, "memory_headroom": headroom}
    if any(value is not None for value in given.values()):
        given = {name: value for name, value in given.items() if value is not None}
        machine = machine.replace(**given)
    if architecture.unsupported:
        raise UnsupportedError(f"{architecture.name}: training has no cost model for {architecture.unsupported}")
    _check_batch(sequence, global_batch)
    if tokens is not None and tokens > 1e18:
        raise InputError("tokens", tokens, "a number above 0 and up to 1e18", "15T")
    if not 0 < epochs <= 1e6:
        raise InputError("epochs", epochs, "a number above 0 and up to 1e6", 1)
    if tokens is None and epochs != 1:
        raise InputError("epochs", epochs, "with tokens only: the size of the data set", why="says nothing alone")
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
    software = _software(framework, release, machine, assumed)
    machine, margin = with_headroom(machine, software, fit)
    assumed.update(margin)
    if optimizer is None:
        optimizer = "adamw"
        assumed["optimizer"] = "adamw"
    job = {
        "adapter": adapter,
        "document_length": document_length,
        "capacity_factor": capacity_factor,
        "pad_to_capacity": pad_to_capacity,
    }
    template = _template(
        sequence, global_batch, precision, optimizer, software, release, imbalance, assumed, architecture, job
    )
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
    within = default_within(width) if simpler_within is None else simpler_within
    with Bar(progress) as bar:

        def evaluated(slack: float) -> Candidates:
            return evaluate_space(
                evaluators,
                chosen,
                optimizer=template.optimizer,
                slack=slack,
                cores=cores or usable_cores(),
                advance=bar.stage("plans evaluated", 1),
            )

        found, results, counts = _proven(evaluated, chosen, template, simulate, top, within)
    fastest, preference = results[0], None
    if percentile is not None:
        results = by_percentile(results, percentile)
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
        best=[_planned(r, best[0], tokens * epochs if tokens else None, machine, width) for r in best],
        undecided=_undecided(best, width),
        preference=preference,
        misses=misses,
        pareto=_tradeoffs(found, fastest, template, simulate),
        counts=counts,
        hints=batch_hints(machine.n_devices, global_batch) + memory_hints(misses, fastest.step_time_s, chosen),
        chosen_by=None if percentile is None else Percentile(percentile, percentile_s(best[0], percentile)),
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


def _headroom_of(oom_risk: float, headroom: float | None, fit: Fit | None) -> float:
    """The headroom under which a plan runs out of memory with a chance that is given."""
    if headroom is not None:
        raise InputError("oom_risk", oom_risk, "this or a headroom, one of the two")
    if not 0 < oom_risk <= 0.5:
        raise InputError("oom_risk", oom_risk, "a chance above 0 and up to 0.5", 0.1)
    width = memory_width(fit)
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


def _check_batch(sequence: int, global_batch: int) -> None:
    for name, value in (("sequence", sequence), ("global_batch", global_batch)):
        whole(value, name, 1, 10**9)


def _software(framework: str | None, release: str, cluster: Cluster, assumed: dict[str, str]) -> Software:
    name = default_framework(cluster.profile) if framework is None else framework
    if framework is None:
        assumed["framework"] = framework_assumed(name, cluster.profile)
    software = get_software(name, release)
    assumed.update(software.assumed())
    return software


def _template(
    sequence: int,
    global_batch: int,
    precision: str,
    optimizer: str,
    software: Software,
    release: str,
    imbalance: float | None,
    assumed: dict[str, str],
    architecture: Architecture,
    job: Mapping[str, Any],
) -> TrainingPlan:
    routed = any(k.is_moe for k in architecture.kinds.values())
    if imbalance is not None and not routed:
        assumed["routing"] = f"none: {architecture.name} has no experts, an imbalance says nothing"
    if imbalance is None:
        imbalance = software.defaults.imbalance
        if routed:
            assumed["routing"] = f"busiest expert rank at {imbalance:g} times the mean ({software.name} profile)"
    values = {
        "sequence_length": sequence,
        "global_batch_size": global_batch,
        "precision": precision,
        "optimizer": optimizer,
        "framework": software.name,
        "release": release,
        "imbalance": imbalance,
        **job,
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
