"""Simulation of one training step: the exact schedule, the breakdown of the time, memory stage by stage."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from ..architecture import Architecture, model_kinds
from ..core.arguments import of_kind
from ..core.errors import InputError, UnsupportedError
from ..core.numeric import Number
from ..hardware.cluster import Cluster
from ..hardware.fitted import Fit, checked_fit, shipped_fit
from ..plans.defaults import resolve_plan
from ..plans.rules import violations
from ..plans.training import TrainingPlan
from ..timing.conventions import published_flops
from ..timing.intervals import around, log_width, memory_width, model_class, out_of_memory_chance, unseen
from ..timing.layer_time import KindTime, kind_time
from ..timing.model_rates import shape_known
from ..timing.step_constants import StepConstants, assumed_dispatcher, step_constants
from ..timing.structure import Documents
from .balance import balanced_layout
from .breakdown import step_breakdown
from .build_load import Prepared, build_load, recomputed_layers
from .compose import StageTime, StepTime, compose_step
from .depths import check_depths, fitted_depths
from .longest_path import pipeline_seconds
from .memory import StageMemory, memory_limit, stage_memory, with_headroom
from .prior_uncertainty import PriorUncertainty, log_draws
from .problem import Problem, plan_columns, plan_problem
from .provenance import provenance_shares, rate_origins
from .result import OffloadReport, StageReport, TrainingResult
from .split import pair_share, pass_seconds
from .stages import Stage, chunk_counts, stage_shares


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
    software = plan.software.assumed(plan.schedule_name)
    if model_class(model) == "moe":
        software |= assumed_dispatcher(plan.dispatcher, plan.software, machine)
    taken |= {**machine.assumed(), **model.assumed(plan.sequence_length), **software, **margin}
    doubts = {} if fit is None else fit.assumed()
    return _report(plan, problem, prepared, constants, {**(assumed or {}), **doubts, **taken}, fit)


def _report(
    plan: TrainingPlan,
    problem: Problem,
    prepared: Prepared,
    constants: StepConstants,
    assumed: dict[str, str],
    fit: Fit | None,
) -> TrainingResult:
    times = [kind_time(k, u, constants) for k, u in zip(prepared.load.kinds, prepared.load.units, strict=True)]
    time = compose_step(prepared.load, constants, times)
    seconds = exact_seconds(problem, prepared, time, times)
    parts = step_breakdown(prepared.load, prepared.stages, time, seconds)
    breakdown = {name: float(value) for name, value in parts.items()}
    step = sum(breakdown.values())
    memories = stage_memory(problem, prepared, constants)
    flops = dict(_flops_per_token(problem.architecture, plan.sequence_length, plan.recompute, plan.documents))
    convention = "model-packed" if plan.documents else "model-causal"
    tokens = plan.global_batch_size * plan.sequence_length
    per_device = tokens / step / plan.n_devices
    used, width = max(float(m.device_bytes) for m in memories), memory_width(fit)
    device, recipe = problem.cluster.profile, problem.structure.recipe
    format = recipe.matmul if device.supports(recipe.matmul) else recipe.compute
    peak = device.peak_of(format)
    return TrainingResult(
        plan=plan,
        model=problem.architecture.name,
        cluster=f"{problem.cluster.nodes}x{problem.cluster.devices_per_node}x{device.name}",
        n_devices=plan.n_devices,
        step_time_s=step,
        residual_width=log_width(
            problem.architecture, problem.cluster, problem.structure.software, fit, adapters=plan.adapter != "none"
        ),
        prior_uncertainty=_prior_uncertainty(problem, prepared, time, fit, adapters=plan.adapter != "none"),
        breakdown_s=breakdown,
        tokens_per_step=tokens,
        tokens_per_s_per_device=per_device,
        flops_per_token=flops,
        mfu=per_device * flops[convention] / peak,
        mfu_convention=convention,
        peak_flops_per_s=peak,
        peak_format=format,
        stages=[_stage_report(problem, prepared, i, time, memory) for i, memory in enumerate(memories)],
        memory_limit_bytes=memory_limit(problem.cluster, problem.structure.software),
        assumed=assumed,
        provenance=provenance_shares(
            breakdown,
            rate_origins(problem.cluster, problem.structure, fit),
            shape_known(problem.architecture, prepared.columns, constants),
        ),
        offload=_offload_report(problem, prepared, time, memories, breakdown["offload"], constants),
        memory_interval_bytes=None if width is None else around(used, width),
        out_of_memory_chance=out_of_memory_chance(used, problem.cluster.profile.memory_bytes.value, width),
    )


def _offload_report(
    problem: Problem,
    prepared: Prepared,
    time: StepTime,
    memories: list[StageMemory],
    exposed_s: float,
    constants: StepConstants,
) -> OffloadReport | None:
    if not problem.offload.moves:
        return None
    link, kept = float(constants.host_bandwidth), prepared.load.kept
    sent, required = 0.0, 0.0
    for stage, own in zip(prepared.load.stages, time.stages, strict=True):
        seconds = 0.0 if kept is None else float(kept.seconds(stage.counts, stage.recomputed))
        beside = min(float(own.forward_s - own.forward.get("offload", 0)),
                     float(own.backward_s - own.backward.get("offload", 0)))  # fmt: skip
        sent = max(sent, seconds * link)
        if seconds:
            required = max(required, seconds * link / beside)
    return OffloadReport(
        activation_bytes=sent,
        required_bytes_per_s=required,
        available_bytes_per_s=link,
        exposed_s=exposed_s,
        update_s=max(float(s.host_s) for s in prepared.load.stages),
        host_bytes=max(float(m.host_bytes) for m in memories),
        host_limit_bytes=problem.cluster.profile.host_memory_bytes.value,
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


def exact_seconds(problem: Problem, prepared: Prepared, time: StepTime, times: Sequence[KindTime]) -> float:
    """Seconds of the longest path through the plan's schedule, every chunk with its own time.

    Parameters
    ----------
    times
        Of the layer kinds.
    """
    forward: list[list[float]] = []
    backward: list[list[float]] = []
    weight: list[list[float]] = []
    chunk_times, load = _chunk_times(problem, prepared, times), prepared.load
    each = chunk_counts(problem.architecture, int(load.pp), int(load.chunks), problem.schedule, problem.layout)
    for chunks, share in zip(each, stage_shares(problem.architecture, each, problem.depths), strict=True):
        own = [chunk_times(counts, share) for counts in chunks]
        forward.append([f for f, _, _ in own])
        backward.append([b for _, b, _ in own])
        weight.append([w for _, _, w in own])
    saved = [float(s.saved_s) * pair_share(problem.schedule) for s in _each_stage(prepared, time)]
    m, hop = int(load.micro_batches), float(time.hop_s)
    return float(pipeline_seconds(problem.schedule, forward, backward, m, hop, weight, saved))


def _each_stage(prepared: Prepared, time: StepTime) -> list[StageTime]:
    """The times of the stages one by one."""
    return [own for own, run in zip(time.stages, prepared.stages, strict=True) for _ in range(int(run.repeats))]


def _chunk_times(
    problem: Problem, prepared: Prepared, times: Sequence[KindTime]
) -> Callable[[tuple[int, ...], float | None], tuple[float, float, float]]:
    """Seconds of a chunk from its layer counts and the share of them that recomputes: forward, backward, and of this
    the gradients of weights. Most chunks are alike."""
    known: dict[tuple[tuple[int, ...], float | None], tuple[float, float, float]] = {}

    def of(counts: tuple[int, ...], share: float | None) -> tuple[float, float, float]:
        if (counts, share) not in known:
            again = recomputed_layers(problem, counts, share)
            forward, inputs, weights = map(float, pass_seconds(counts, again, times, prepared.load.kept))
            known[counts, share] = forward, inputs + weights, weights
        return known[counts, share]

    return of


def _stage_report(problem: Problem, prepared: Prepared, index: int, time: StepTime, memory: StageMemory) -> StageReport:
    stage: Stage = prepared.stages[index]
    names = [k.name for k in model_kinds(problem.architecture)]
    own = time.stages[index]
    count: Number = sum(p.held * n for p, n in zip(prepared.parameters, stage.counts, strict=True))
    return StageReport(
        first=stage.first,
        repeats=stage.repeats,
        layers={name: n for name, n in zip(names, stage.counts, strict=True) if n},
        forward_s=float(own.forward_s),
        backward_s=float(own.backward_s),
        memory_bytes={name: float(np.asarray(v)) for name, v in memory.parts.items()},
        allocated_bytes=float(memory.allocated_bytes),
        reserved_bytes=float(memory.reserved_bytes),
        device_bytes=float(memory.device_bytes),
        owner=memory.owner,
        moment=memory.moment,
        parameters=int(count),
        host_bytes=float(memory.host_bytes),
    )
