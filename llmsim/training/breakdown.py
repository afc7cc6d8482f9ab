"""The parts of a step, of one plan or of many side by side: those of its busiest stage, and what comes once a step."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..core.numeric import Number, maximum, where
from ..core.pipelines import schedule_facts
from ..timing.columns import distinct_rows
from .compose import STEP_PARTS, StageTime, StepLoad, StepTime
from .orders import paired_passes
from .split import pair_share
from .stages import Stage

PART_NAMES = {
    "gemm": "matrix products",
    "grouped": "grouped expert products",
    "attention": "attention",
    "scan": "scans of linear-time mixers",
    "memory": "norms, activations, copies",
    "permute": "routing and permutation",
    "convert": "conversion to low precision",
    "recompute": "recomputation",
    "tp": "tensor-parallel transfers, exposed",
    "cp": "context-parallel transfers, exposed",
    "ep": "expert all-to-all, exposed",
    "fsdp": "sharded parameters, exposed",
    "offload": "copies to and from the host, exposed",
    "host": "waiting for the host",
    "bubble": "pipeline bubble and hops",
    "gradients": "gradient reduction, exposed",
    "parameters": "parameter gathering, exposed",
    "optimizer": "optimizer",
    "fixed": "fixed costs",
}
"""Part of a step -> in words."""

ONCE_PARTS = ("gradients", "parameters", "optimizer")


def step_breakdown(load: StepLoad, stages: Sequence[Stage], time: StepTime, schedule_s: Number) -> dict[str, Number]:
    """Seconds of a step by part: those of the busiest stage, and the rest of the schedule's as bubble.

    What is done once a step is that of the stage where exchange and update take longest. The parts sum to the schedule
    and what comes beside it.

    Parameters
    ----------
    stages
        Where the runs of stages in ``time`` lie in the pipeline.
    schedule_s
        Of the whole pipeline.
    """
    m = load.micro_batches
    each = [s.forward_s + s.backward_s for s in time.stages]
    busiest = _largest(each)
    parts: dict[str, Number] = dict.fromkeys(STEP_PARTS, 0.0)
    for name in dict.fromkeys(n for s in time.stages for table in (s.forward, s.backward) for n in table):
        parts[name] = m * _at(busiest, [s.forward.get(name, 0) + s.backward.get(name, 0) for s in time.stages])
    work = m * _at(busiest, each)
    if schedule_facts(load.schedule).paired:
        hidden = _at(busiest, [_hidden(load, *own) for own in zip(stages, time.stages, strict=True)])
        parts["ep"], work = parts["ep"] - hidden, work - hidden
    # One stage has none: what is left of the difference is the order of summation.
    parts["bubble"] = where(load.pp > 1, maximum(0.0, schedule_s - work), 0.0)
    last = _largest([s.once_s for s in time.stages])
    for name in ONCE_PARTS:
        parts[name] = _at(last, [getattr(s, name) for s in time.stages])
    parts["fixed"] = time.fixed_s
    return parts


def _hidden(load: StepLoad, stage: Stage, time: StageTime) -> Number:
    """Seconds of expert transfers that pairs of passes hide in a step."""
    rows, inverse = distinct_rows((stage.first, load.pp, load.micro_batches))
    pairs = np.array([paired_passes(load.schedule, *row) for row in rows])
    return (int(pairs[0]) if inverse is None else pairs[inverse]) * pair_share(load.schedule) * time.saved_s


def _largest(values: Sequence[Number]) -> list[tuple[int, Number]]:
    """Numbers of the values that are the largest of any plan, the first of equals, each with where that is; what the
    last of them says is left over by the others."""
    found: list[tuple[int, Number]] = []
    most = maximum(*values)
    left: Number = True
    for i, value in enumerate(values):
        own = (value >= most) & left
        if np.any(own):
            found.append((i, own))
            left = left & ~own if isinstance(own, np.ndarray) else not own
    return found


def _at(chosen: Sequence[tuple[int, Number]], values: Sequence[Number]) -> Number:
    """Of each plan the value that is chosen."""
    found = values[chosen[-1][0]]
    for i, condition in chosen[:-1]:
        found = where(condition, values[i], found)
    return found
