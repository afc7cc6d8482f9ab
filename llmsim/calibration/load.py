"""Many measured runs as one load: counted and rated once, so that a fit only composes.

Runs of different models and machines are laid side by side, one array entry a run, in the structure that a single
plan uses; composing them is then the code that simulates a plan.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence

import numpy as np

from ..hardware.network import WireTime
from ..training.compose import StageLoad, StepLoad, UnitTraffic
from ..training.constants import step_constants
from ..training.prepare import Prepared, Problem, prepare
from ..training.problem import plan_columns, plan_problem, stack_columns
from ..training.seconds import PHASES, KindSeconds, PhaseSeconds
from .runs import RunPlan


def prepare_runs(items: Sequence[RunPlan]) -> list[tuple[np.ndarray, Problem, Prepared]]:
    """Prepare runs in batches that share everything structural: (numbers of the runs, problem, prepared)."""
    batches: dict[tuple[object, ...], list[int]] = defaultdict(list)
    for number, item in enumerate(items):
        problem = plan_problem(item.architecture, item.cluster, item.plan)
        key = (
            id(item.architecture),
            item.cluster,
            problem.structure,
            problem.sharding,
            problem.schedule,
            problem.optimizer,
        )
        batches[key].append(number)
    found: list[tuple[np.ndarray, Problem, Prepared]] = []
    for numbers in batches.values():
        first = items[numbers[0]]
        problem = plan_problem(first.architecture, first.cluster, first.plan)
        columns = stack_columns([plan_columns(items[n].plan) for n in numbers])
        constants = step_constants(problem.cluster, problem.structure)
        found.append((np.asarray(numbers), problem, prepare(problem, columns, constants)))
    return found


class _Sheet:
    """Arrays with one entry a run, zero where nobody writes."""

    def __init__(self, size: int):
        self.size = size

    def gather(self, parts: Iterable[tuple[np.ndarray, object]]) -> np.ndarray:
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


def side_by_side(prepared: Sequence[tuple[np.ndarray, Problem, Prepared]], size: int) -> StepLoad:
    """One load of all runs: slots of layer kinds and of stage runs are padded with nothing.

    GPipe has a formula of its own and cannot stand beside the others; measured runs do not use it.
    """
    sheet = _Sheet(size)
    loads = [(rows, p.load) for rows, _, p in prepared]
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
    )


def _kind(sheet: _Sheet, parts: Sequence[tuple[np.ndarray, KindSeconds]]) -> KindSeconds:
    phases = {}
    for name in PHASES:
        own = [(rows, kind.phases[name]) for rows, kind in parts]
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

    return StageLoad(
        [column("counts", k) for k in range(kinds)],
        [column("recomputed", k) for k in range(kinds)],
        sheet.gather((r, s.repeats) for r, s in parts),
        sheet.wire([(r, s.gather) for r, s in parts]),
        sheet.wire([(r, s.reduce) for r, s in parts]),
        sheet.gather((r, s.update_s) for r, s in parts),
    )
