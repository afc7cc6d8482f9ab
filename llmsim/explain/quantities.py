"""The quantities that can be asked for, from the simulation itself: what closed forms and levers are held against."""

from __future__ import annotations

from ..timing.columns import Columns
from ..timing.layer_time import kind_time
from ..timing.step_constants import StepConstants
from ..training.breakdown import step_breakdown
from ..training.build_load import build_load
from ..training.compose import StepTime, compose_step
from ..training.memory import MEMORY_PARTS, stage_memory
from ..training.pipeline_time import exact_seconds
from ..training.problem import Problem

QUANTITIES: dict[str, str] = {
    "step": "s",
    "pipeline": "s",
    "bubble": "s",
    "forward": "s",
    "backward": "s",
    "gradients": "s",
    "parameters": "s",
    "optimizer": "s",
    "fixed": "s",
    "hop": "s",
    "tokens_per_s": "tokens/s",
    "memory": "bytes",
    **{f"memory_{part}": "bytes" for part in MEMORY_PARTS},
}
"""Name -> unit."""


def simulated(problem: Problem, columns: Columns, constants: StepConstants, global_batch: int) -> dict[str, float]:
    """Every quantity of a plan as the simulation computes it.

    Parameters
    ----------
    problem, columns, constants
        Of a single plan, in numbers.
    global_batch
        Sequences of a step.
    """
    prepared = build_load(problem, columns, constants)
    times = [kind_time(k, u, constants) for k, u in zip(prepared.load.kinds, prepared.load.units, strict=True)]
    time = compose_step(prepared.load, constants, times)
    pipeline = exact_seconds(problem, prepared, time, times)
    breakdown = step_breakdown(prepared.load, prepared.stages, time, pipeline)
    parts = {name: float(seconds) for name, seconds in breakdown.items()}
    step = sum(parts.values())
    stage = time.stages[busiest_stage(time)]
    fullest = max(stage_memory(problem, prepared, constants), key=lambda m: float(m.device_bytes))
    return {
        "step": step,
        "pipeline": pipeline,
        "bubble": parts["bubble"],
        "forward": float(stage.forward_s),
        "backward": float(stage.backward_s),
        **{name: parts[name] for name in ("gradients", "parameters", "optimizer", "fixed")},
        "hop": float(time.hop_s),
        "tokens_per_s": global_batch * float(columns.sequence) / step / float(columns.devices),
        "memory": float(fullest.device_bytes),
        **{f"memory_{name}": float(value) for name, value in fullest.parts.items()},
    }


def busiest_stage(time: StepTime) -> int:
    """Index of the run of stages whose passes take longest: whose parts the breakdown of a step lists."""
    each = [float(s.forward_s + s.backward_s) for s in time.stages]
    return each.index(max(each))
