"""Simulation of one training step: the exact schedule, the breakdown of the time, memory stage by stage."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from ..architecture import Architecture
from ..core.arguments import of_kind
from ..core.deferred import Deferred
from ..core.errors import InputError, UnsupportedError
from ..hardware.cluster import Cluster
from ..hardware.fitted import Fit, checked_fit, shipped_fit
from ..plans.defaults import resolve_plan
from ..plans.rules import violations
from ..plans.training import TrainingPlan
from ..timing.conventions import published_flops
from ..timing.intervals import log_width, model_class, unseen
from ..timing.layer_time import kind_time
from ..timing.step_constants import StepConstants, assumed_dispatcher, step_constants
from ..timing.structure import Documents
from .balance import balanced_layout
from .breakdown import step_breakdown
from .build_load import Prepared, build_load
from .compose import StepTime, compose_step
from .depths import check_depths, fitted_depths
from .details import memory_report, step_provenance
from .memory import memory_limit, with_headroom
from .pipeline_time import exact_seconds
from .prior_uncertainty import PriorUncertainty, log_draws
from .problem import Problem, plan_columns, plan_problem
from .result import TrainingDetails, TrainingResult


def simulate_training(
    plan: TrainingPlan | Mapping[str, Any] | str | Path,
    architecture: Architecture | str | Path,
    cluster: Cluster | Mapping[str, Any] | str | Path,
    *,
    fit: Fit | None = None,
    assumed: dict[str, str] | None = None,
) -> TrainingResult:
    """Simulate one training step.

    Parameters
    ----------
    plan
        How the step runs, as an object, its fields or the path of a file; its degrees multiply to the devices of the
        cluster. Balanced layers and fitted recomputation
        are written out in the plan of the answer.
    architecture, cluster
        Objects, or what :meth:`Architecture.from_config` and :meth:`Cluster.parse` take.
    fit
        Fitted constants to use instead of those that ship, with their intervals.
    assumed
        What the caller already took from profiles, to be listed in the answer.

    Raises
    ------
    InputError
        For a plan that breaks a rule, all of them in one text.
    UnsupportedError
        For a model without a cost model.
    """
    plan, fit = TrainingPlan.parse(plan), checked_fit(fit)
    if assumed is not None:
        of_kind(assumed, (Mapping,), "assumed", "a mapping of names to texts, or None")
    model = architecture if isinstance(architecture, Architecture) else Architecture.from_config(architecture)
    machine = Cluster.parse(cluster)
    if model.unsupported:
        raise UnsupportedError(
            f"{model.name}: no cost model for {model.unsupported}; parameters are exact all the same"
        )
    plan, taken = resolve_plan(plan, model, machine)
    broken = violations(plan, model, machine.n_devices)
    if broken:
        raise InputError("plan", str(plan), why="is invalid: " + "; ".join(broken))
    machine, margin = with_headroom(machine, plan.software, fit)
    problem = plan_problem(model, machine, plan)
    constants = step_constants(machine, problem.structure, fit)
    columns = plan_columns(plan)
    if plan.layers_per_stage == "balanced":
        fitted = plan.recompute_layers == "fitted"
        problem = replace(problem, layout=balanced_layout(problem, columns, constants, fitted=fitted))
        plan = plan.replace(layers_per_stage=problem.layout)
    if plan.recompute_layers == "fitted":
        problem = replace(problem, depths=fitted_depths(problem, columns, constants))
        plan = plan.replace(recompute_layers=problem.depths)
    check_depths(problem, columns)
    prepared = build_load(problem, columns, constants)
    given = dict(assumed or {})

    def all_assumed() -> dict[str, str]:
        software = plan.software.assumed(plan.schedule_name)
        if model_class(model) == "moe":
            software |= assumed_dispatcher(plan.dispatcher, plan.software, machine)
        doubts = {} if fit is None else fit.assumed()
        own = {**machine.assumed(), **model.assumed(plan.sequence_length), **software, **margin}
        return {**given, **doubts, **taken, **own}

    return _report(plan, problem, prepared, constants, all_assumed, fit)


def _report(
    plan: TrainingPlan,
    problem: Problem,
    prepared: Prepared,
    constants: StepConstants,
    assumed: Callable[[], dict[str, str]],
    fit: Fit | None,
) -> TrainingResult:
    times = [kind_time(k, u, constants) for k, u in zip(prepared.load.kinds, prepared.load.units, strict=True)]
    time = compose_step(prepared.load, constants, times)
    seconds = exact_seconds(problem, prepared, time, times)
    parts = step_breakdown(prepared.load, prepared.stages, time, seconds)
    breakdown = {name: float(value) for name, value in parts.items()}
    step = sum(breakdown.values())
    flops = dict(_flops_per_token(problem.architecture, plan.sequence_length, plan.recompute, plan.documents))
    convention = "model-packed" if plan.documents else "model-causal"
    tokens = plan.global_batch_size * plan.sequence_length
    per_device = tokens / step / plan.n_devices
    cluster, software, adapters = problem.cluster, problem.structure.software, plan.adapter != "none"
    device, recipe = cluster.profile, problem.structure.recipe
    format = recipe.matmul if device.supports(recipe.matmul) else recipe.compute
    peak = device.peak_of(format)
    return TrainingResult(
        plan=plan,
        model=problem.architecture.name,
        cluster=f"{cluster.nodes}x{cluster.devices_per_node}x{device.name}",
        n_devices=plan.n_devices,
        step_time_s=step,
        residual_width=log_width(problem.architecture, cluster, software, fit, adapters=adapters),
        prior_uncertainty=_prior_uncertainty(problem, prepared, time, fit, adapters=adapters),
        breakdown_s=breakdown,
        tokens_per_step=tokens,
        tokens_per_s_per_device=per_device,
        flops_per_token=flops,
        mfu=per_device * flops[convention] / peak,
        mfu_convention=convention,
        peak_flops_per_s=peak,
        peak_format=format,
        memory_limit_bytes=memory_limit(cluster, software),
        details=TrainingDetails(
            Deferred(lambda: memory_report(problem, prepared, time, breakdown["offload"], constants, fit)),
            Deferred(lambda: step_provenance(problem, prepared, breakdown, constants, fit)),
            Deferred(assumed),
        ),
    )


def _prior_uncertainty(
    problem: Problem, prepared: Prepared, time: StepTime, fit: Fit | None, *, adapters: bool
) -> PriorUncertainty:
    known, cluster, structure = shipped_fit() if fit is None else fit, problem.cluster, problem.structure
    draws = partial(log_draws, prepared.load, float(time.seconds), cluster, structure, known)
    own = bool(cluster.profile.file) and not cluster.profile.same_as  # no refit left out such a device
    return PriorUncertainty(draws, counted=(adapters or unseen(cluster, structure.software, known)) and not own)


@lru_cache(maxsize=256)
def _flops_per_token(
    architecture: Architecture, sequence: int, recompute: str, documents: Documents
) -> Mapping[str, float]:
    return {k: float(v) for k, v in published_flops(architecture, sequence, recompute, documents).items()}
