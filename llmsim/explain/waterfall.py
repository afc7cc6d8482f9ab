"""The way from the device's peak to the achieved rate, one bar for each thing that makes a step longer."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..architecture import model_kinds
from ..plans.training import TrainingPlan
from ..timing.columns import Columns
from ..timing.step_constants import StepConstants
from ..training.breakdown import PART_NAMES
from ..training.build_load import Prepared, build_load
from ..training.compose import STEP_PARTS, compose_step
from ..training.problem import Problem
from ..training.result import TrainingResult
from .flops import class_peaks, counted_flops, executed_flops, families
from .quantities import busiest_stage


@dataclass(frozen=True)
class Bar:
    """One bar.

    Attributes
    ----------
    name, meaning
        Short and in words.
    seconds
        What it adds to the step.
    points
        That in percent of the step: percent points of MFU lost; of the first bar the MFU itself.
    """

    name: str
    meaning: str
    seconds: float
    points: float


_BEYOND = {
    "attention": "attention FLOPs beyond the convention (scores again, masks)",
    "scan": "FLOPs of scans beyond the convention",
    "products": "FLOPs of products beyond the convention (padding, busiest expert)",
}
_LOSSES = {
    "gemm": "matrix products below peak", "grouped": "grouped expert products below peak",
    "attention": "attention below peak", "scan": "scans below peak", "memory": "norms, activations, copies",
    "permute": "routing and permutation", "convert": "conversion to low precision",
}  # fmt: skip
_PARTS = tuple(name for name in STEP_PARTS if name not in _LOSSES)
"""Parts of a step that are no kernels of a layer's own passes."""


def waterfall(
    plan: TrainingPlan, problem: Problem, columns: Columns, constants: StepConstants, result: TrainingResult
) -> list[Bar]:
    """The bars of a simulated step; they sum to its time.

    The first is what the FLOPs that the MFU counts take at the dense peak. Classes of kernels are those of the busiest
    stage, as in the breakdown of the simulation, whose parts the bars split further.
    """
    prepared = build_load(problem, columns, constants)
    time = compose_step(prepared.load, constants)
    peak, step = result.peak_flops_per_s, result.step_time_s
    executed = [executed_flops(k, problem.structure, columns, constants) for k in model_kinds(problem.architecture)]
    busiest = busiest_stage(time)
    here = _stage_sum(executed, prepared.load.stages[busiest].counts, float(columns.micro_batches))
    mean = _mean_stage(executed, prepared, float(columns.micro_batches))
    counted = counted_flops(problem.architecture, plan)
    tokens = result.tokens_per_step / result.n_devices
    filled = plan.global_batch_size / float(columns.global_batch)
    bars = [("model", "FLOPs of the model at peak", sum(counted.values()) * tokens / peak)]
    for family, flops in families(mean).items():
        # Below zero where the convention counts what nobody computes.
        bars.append((f"beyond_{family}", _BEYOND[family], (filled * flops - counted[family] * tokens) / peak))
    bars.append(
        ("unfilled", "micro-batches that the global batch does not fill", (1 - filled) * sum(mean.values()) / peak)
    )
    uneven = (sum(here.values()) - sum(mean.values())) / peak
    bars.append(("uneven", "FLOPs of the busiest stage over the mean", uneven))
    bars += _kernel_bars(problem, prepared, here, busiest, constants, result)
    bars += [(name, PART_NAMES[name], result.breakdown_s[name]) for name in _PARTS]
    return [Bar(name, text, seconds, 100 * seconds / step) for name, text, seconds in bars]


def _stage_sum(kinds: Sequence[Mapping[str, float]], counts: Sequence[float], factor: float) -> dict[str, float]:
    found: dict[str, float] = {}
    for kind, count in zip(kinds, counts, strict=True):
        for name, value in kind.items():
            found[name] = found.get(name, 0.0) + factor * count * value
    return found


def _mean_stage(kinds: Sequence[Mapping[str, float]], prepared: Prepared, micro_batches: float) -> dict[str, float]:
    found: dict[str, float] = {}
    for stage in prepared.load.stages:
        share = micro_batches * float(stage.repeats) / float(prepared.load.pp)
        for name, value in _stage_sum(kinds, stage.counts, share).items():
            found[name] = found.get(name, 0.0) + value
    return found


def _kernel_bars(
    problem: Problem,
    prepared: Prepared,
    flops: Mapping[str, float],
    busiest: int,
    constants: StepConstants,
    result: TrainingResult,
) -> list[tuple[str, str, float]]:
    """What kernels of the busiest stage take longer than their FLOPs at the peak: first because their format has a
    lower one, then each class because it does not reach it, then all because of neighbours, caches and clocks inside a
    step."""
    kinds = [
        _stage_sum([kind.phases[phase].classes for phase in ("forward", "backward")], (1, 1), 1.0)
        for kind in prepared.load.kinds
    ]
    alone = _stage_sum(kinds, prepared.load.stages[busiest].counts, float(prepared.columns.micro_batches))
    peaks = class_peaks(problem.structure, constants)
    ideal = {name: flops.get(name, 0.0) / peaks[name] if name in peaks else 0.0 for name in alone}
    lower = sum(ideal.values()) - sum(flops.values()) / result.peak_flops_per_s
    bars = [("format", "work in formats with a lower peak", lower)]
    for part, text in _LOSSES.items():
        own = [name for name in alone if (name.startswith("gemm") if part == "gemm" else name == part)]
        bars.append((part, text, sum(alone[name] - ideal[name] for name in own)))
    in_step = sum(result.breakdown_s[part] for part in _LOSSES) - sum(alone.values())
    return [*bars, ("in_situ", "kernels slower inside a step than alone", in_step)]


def rounded(values: Sequence[float], digits: int) -> list[float]:
    """Values with some digits behind the point that sum to their sum with as many. The first is rounded as usual, of
    the others the largest remainders up."""
    unit = 10**digits
    first, whole_sum = (round(round(value, digits) * unit) for value in (values[0], sum(values)))
    rest = [value * unit for value in values[1:]]
    whole = [math.floor(value) for value in rest]
    missing = whole_sum - first - sum(whole)
    order = sorted(range(len(rest)), key=lambda i: whole[i] - rest[i])
    for i in range(abs(missing)):
        whole[order[i % len(rest)] if missing > 0 else order[-1 - i % len(rest)]] += 1 if missing > 0 else -1
    return [n / unit for n in (first, *whole)]
