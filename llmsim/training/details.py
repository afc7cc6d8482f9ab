"""What an answer about one plan says besides its time: memory by stage, what is offloaded, where its rates are from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from ..architecture import model_kinds
from ..core.numeric import Number
from ..hardware.fitted import Fit
from ..timing.intervals import around, memory_width, out_of_memory_chance
from ..timing.model_rates import shape_known
from ..timing.step_constants import StepConstants
from .build_load import Prepared
from .compose import StepTime
from .memory import StageMemory, stage_memory
from .problem import Problem
from .provenance import provenance_shares, rate_origins
from .result import MemoryReport, OffloadReport, StageReport
from .stages import Stage


def memory_report(
    problem: Problem,
    prepared: Prepared,
    time: StepTime,
    offload_s: float,
    constants: StepConstants,
    fit: Fit | None = None,
) -> MemoryReport:
    """What a plan needs, stage by stage, and how sure that is.

    Parameters
    ----------
    offload_s
        What a step waits for activations that live on the host.
    """
    memories = stage_memory(problem, prepared, constants)
    used, width = max(float(m.device_bytes) for m in memories), memory_width(fit)
    return MemoryReport(
        [_stage_report(problem, prepared, i, time, memory) for i, memory in enumerate(memories)],
        _offload_report(problem, prepared, time, memories, offload_s, constants),
        None if width is None else around(used, width),
        out_of_memory_chance(used, problem.cluster.profile.memory_bytes.value, width),
    )


def step_provenance(
    problem: Problem,
    prepared: Prepared,
    breakdown_s: Mapping[str, float],
    constants: StepConstants,
    fit: Fit | None = None,
) -> dict[str, float]:
    """Kind of origin -> share of the step that rests on rates of that origin."""
    known = shape_known(problem.architecture, prepared.columns, constants)
    return provenance_shares(breakdown_s, rate_origins(problem.cluster, problem.structure, fit), known)


def _offload_report(
    problem: Problem,
    prepared: Prepared,
    time: StepTime,
    memories: Sequence[StageMemory],
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
