"""Many measured runs as one load: counted and rated once, so that a fit only composes.

Runs of different models and machines are laid side by side, one array entry a run, in the structure that a single
plan uses; composing them is then the code that simulates a plan.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import fields, replace
from typing import Any

import numpy as np

from ..core.numeric import Number, maximum
from ..core.records import stack_records
from ..timing.step_constants import Overlay, StepConstants, overlaid_constants
from ..training.build_load import Prepared, build_load
from ..training.compose import StepLoad
from ..training.memory import stage_memory
from ..training.problem import plan_problem
from .batches import Batch, batches
from .runs import RunPlan


def prepare_runs(items: Sequence[RunPlan]) -> list[tuple[Batch, Prepared]]:
    """Runs counted and rated, a table at a time."""
    found: list[tuple[Batch, Prepared]] = []
    for batch in batches(items):
        # Kernels and wires alone do not depend on what is fitted.
        constants = overlaid_constants(batch.problem.cluster, batch.problem.structure, {})
        found.append((batch, build_load(batch.problem, batch.columns, constants)))
    return found


def allocated_bytes(prepared: Sequence[tuple[Batch, Prepared]], size: int) -> np.ndarray:
    """What the framework allocates on the fullest stage of each run: nothing in it is fitted."""
    result = np.zeros(size)
    for batch, own in prepared:
        constants = overlaid_constants(batch.problem.cluster, batch.problem.structure, {})
        stages = stage_memory(batch.problem, own, constants)
        result[batch.rows] = maximum(*(stage.allocated_bytes for stage in stages))
    return result


def run_constants(items: Sequence[RunPlan], overlay: Overlay | None = None) -> StepConstants:
    """The constants of each run as arrays; what kernels need is in their load already.

    Parameters
    ----------
    overlay
        Fitted values; None takes those that ship with the package.
    """
    known: dict[Hashable, int] = {}
    distinct: list[StepConstants] = []
    rows = np.zeros(len(items), dtype=np.int64)
    for number, item in enumerate(items):
        cluster, plan = item.cluster, item.plan
        machine = (cluster.device, cluster.network, cluster.spans_nodes)
        key = (*machine, plan.framework, plan.release, plan.precision, plan.overlap, plan.dispatcher)
        if key not in known:
            known[key] = len(distinct)
            structure = plan_problem(item.architecture, cluster, plan).structure
            distinct.append(overlaid_constants(cluster, structure, overlay))
        rows[number] = known[key]

    def column(values: Sequence[object]) -> np.ndarray:
        return np.asarray(values, dtype=float)[rows]

    first = distinct[0]
    numbers = [f.name for f in fields(StepConstants) if isinstance(getattr(first, f.name), (int, float))]
    changes: dict[str, Any] = {name: column([getattr(c, name) for c in distinct]) for name in numbers}
    return replace(
        first,
        in_situ={work: column([c.in_situ[work] for c in distinct]) for work in first.in_situ},
        overlap={key: column([c.overlap[key] for c in distinct]) for key in first.overlap},
        stack={key: column([c.stack[key] for c in distinct]) for key in first.stack},
        **changes,
    )


def side_by_side(prepared: Sequence[tuple[Batch, Prepared]], size: int) -> StepLoad:
    """One load of all runs: slots of layer kinds and of stage runs are padded with nothing.

    GPipe has a formula of its own and cannot stand beside the others; measured runs do not use it.
    """
    kinds = max(len(p.load.kinds) for _, p in prepared)

    def spread(values: Sequence[Number | None]) -> np.ndarray:
        """One entry a run, zero where its load has nothing."""
        result = np.zeros(size)
        for (batch, _), value in zip(prepared, values, strict=True):
            if value is not None:
                result[batch.rows] = value
        return result

    return stack_records([_padded(p.load, kinds) for _, p in prepared], spread, order=sorted)


def _padded(load: StepLoad, kinds: int) -> StepLoad:
    """A load of so many kinds, none of which its stages have beyond its own."""

    def longer(values: Sequence[Number]) -> list[Number]:
        return [*values, *[0] * (kinds - len(values))]

    stages = [replace(s, counts=longer(s.counts), recomputed=longer(s.recomputed), lead=None) for s in load.stages]
    kept = load.kept
    if kept is not None:
        kept = replace(kept, plain=longer(kept.plain), recomputing=longer(kept.recomputing))
    return replace(load, stages=stages, kept=kept, parts=(), schedule="1f1b")
