"""Many measured runs as one load: counted and rated once, so that a fit only composes.

Runs of different models and machines are laid side by side, one array entry a run, in the structure that a single
plan uses; composing them is then the code that simulates a plan.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import fields, replace
from typing import Any

import numpy as np

from ..core.numeric import Number, maximum
from ..hardware.network import WireTime
from ..timing.kernel_times import PHASES, KindSeconds, PhaseSeconds
from ..timing.layer_time import UnitTraffic
from ..timing.step_constants import Overlay, StepConstants, overlaid_constants
from ..training.build_load import Prepared, build_load
from ..training.compose import StageLoad, StepLoad
from ..training.memory import stage_memory
from ..training.problem import plan_problem
from ..training.saved_activations import KeptTransfers
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


class _Sheet:
    """Arrays with one entry a run, zero where nobody writes."""

    def __init__(self, size: int):
        self.size = size

    def gather(self, parts: Iterable[tuple[np.ndarray, Number]]) -> np.ndarray:
        """One array from (runs, value or values of these runs)."""
        result = np.zeros(self.size)
        for rows, value in parts:
            result[rows] = value
        return result

    def wire(self, parts: Sequence[tuple[np.ndarray, WireTime]]) -> WireTime:
        """One wire time."""
        return WireTime(
            *(self.gather((r, getattr(w, f)) for r, w in parts) for f in ("latency_s", "inner_s", "outer_s"))
        )


def side_by_side(prepared: Sequence[tuple[Batch, Prepared]], size: int) -> StepLoad:
    """One load of all runs: slots of layer kinds and of stage runs are padded with nothing.

    GPipe has a formula of its own and cannot stand beside the others; measured runs do not use it.
    """
    sheet = _Sheet(size)
    loads = [(batch.rows, p.load) for batch, p in prepared]
    kinds = range(max(len(load.kinds) for _, load in loads))
    runs = range(max(len(load.stages) for _, load in loads))
    held = [[(rows, load.kinds[k], load.units[k]) for rows, load in loads if k < len(load.kinds)] for k in kinds]
    stages = [[(rows, load.stages[s]) for rows, load in loads if s < len(load.stages)] for s in runs]
    return StepLoad(
        [_kind(sheet, [(r, kind) for r, kind, _ in part]) for part in held],
        [_unit(sheet, [(r, unit) for r, _, unit in part]) for part in held],
        [_stage(sheet, part, len(kinds)) for part in stages],
        sheet.wire([(rows, load.hop) for rows, load in loads]),
        sheet.gather((rows, load.micro_batches) for rows, load in loads),
        sheet.gather((rows, load.pp) for rows, load in loads),
        sheet.gather((rows, load.chunks) for rows, load in loads),
        "1f1b",
        kept=_kept(sheet, loads, len(kinds)),
    )


def _kept(sheet: _Sheet, loads: Sequence[tuple[np.ndarray, StepLoad]], kinds: int) -> KeptTransfers | None:
    """What runs send to the host, nothing for those that do not; None where none does."""
    own = [(rows, load.kept) for rows, load in loads if load.kept is not None]
    if not own:
        return None

    def columns(name: str) -> list[np.ndarray]:
        every = [(rows, getattr(kept, name)) for rows, kept in own]
        return [sheet.gather((rows, v[k]) for rows, v in every if k < len(v)) for k in range(kinds)]

    return KeptTransfers(columns("plain"), columns("recomputing"), sheet.gather((rows, k.hidden) for rows, k in own))


def _kind(sheet: _Sheet, parts: Sequence[tuple[np.ndarray, KindSeconds]]) -> KindSeconds:
    phases = {}
    for name in dict.fromkeys((*PHASES, *(n for _, kind in parts for n in kind.phases))):
        own = [(rows, kind.phases[name]) for rows, kind in parts if name in kind.phases]
        classes = {c for _, phase in own for c in phase.classes}
        axes = {a for _, phase in own for a in phase.wires}
        phases[name] = PhaseSeconds(
            {c: sheet.gather((r, p.classes[c]) for r, p in own if c in p.classes) for c in sorted(classes)},
            sheet.gather((r, p.launches) for r, p in own),
            {a: sheet.wire([(r, p.wires[a]) for r, p in own if a in p.wires]) for a in sorted(axes)},
        )
    return KindSeconds(phases, sheet.gather((rows, kind.is_moe) for rows, kind in parts))


def _unit(sheet: _Sheet, parts: Sequence[tuple[np.ndarray, UnitTraffic]]) -> UnitTraffic:
    return UnitTraffic(sheet.wire([(r, u.forward) for r, u in parts]), sheet.wire([(r, u.backward) for r, u in parts]))


def _stage(sheet: _Sheet, parts: Sequence[tuple[np.ndarray, StageLoad]], kinds: int) -> StageLoad:
    def column(values: str, k: int) -> np.ndarray:
        return sheet.gather((r, getattr(s, values)[k]) for r, s in parts if k < len(s.counts))

    classes = {c for _, s in parts for c in s.products_s}
    return StageLoad(
        [column("counts", k) for k in range(kinds)],
        [column("recomputed", k) for k in range(kinds)],
        sheet.gather((r, s.repeats) for r, s in parts),
        sheet.wire([(r, s.gather) for r, s in parts]),
        sheet.wire([(r, s.reduce) for r, s in parts]),
        sheet.gather((r, s.update_s) for r, s in parts),
        {c: sheet.gather((r, s.products_s[c]) for r, s in parts if c in s.products_s) for c in sorted(classes)},
        sheet.wire([(r, s.whole) for r, s in parts]),
        sheet.gather((r, s.host_s) for r, s in parts),
    )
