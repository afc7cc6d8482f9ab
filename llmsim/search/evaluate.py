"""What layers take and keep in all plans of a space.

It is evaluated on the distinct tuples of the columns that it depends on, once for each structure, and gathered; what is
left for each plan is sums over stages (``blocks.py``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np

from ..architecture import Architecture, body_kinds
from ..core.numeric import Number
from ..core.records import Record, map_numbers, stack_records
from ..core.sharding import RankOrder
from ..hardware.cluster import Cluster
from ..hardware.fitted import Fit
from ..plans.recompute import Recompute
from ..plans.training import TrainingPlan
from ..timing.columns import Columns
from ..timing.kernel_times import Keyed, KindRates, KindSeconds
from ..timing.layer_time import KindTime, UnitTraffic, kind_time
from ..timing.model_rates import keyed, model_rates
from ..timing.step_constants import StepConstants, step_constants
from ..training.build_load import kind_parameters, model_seconds
from ..training.memory import memory_limit
from ..training.problem import Problem, plan_problem
from ..training.saved_activations import KindMemory, model_memory
from ..training.sharding import LocalParameters
from ..training.structure import TrainingStructure
from .space import SearchSpace, Table


@dataclass(frozen=True)
class Kinds:
    """The layer kinds of a model under one structure: for each distinct key, and what depends on recomputation also for
    each mode of it, ``[mode, key]``.

    Attributes
    ----------
    seconds
        Of kernels and messages alone.
    full, times
        Passes with what is exposed in them, by part and summed.
    """

    seconds: list[KindSeconds]
    full: list[KindTime]
    times: list[KindTime]
    memories: list[KindMemory]


@dataclass
class Evaluator:
    """A table under many structures, with everything that structures share remembered.

    Attributes
    ----------
    architecture, cluster
        The model, with its adapters, and the machine.
    base
        The structure that variants change, with what they share: software, precision, overlap.
    table
        Columns of the plans that divide.
    sequence, imbalance
        Tokens of a sequence; rows of the busiest expert rank over the mean.
    fit
        Fitted constants instead of those that ship.
    """

    architecture: Architecture
    cluster: Cluster
    base: TrainingStructure
    table: Table
    sequence: int
    imbalance: float
    fit: Fit | None = None
    _parameters: dict[object, list[LocalParameters]] = field(default_factory=dict)
    _keys: dict[int, Keyed] = field(default_factory=dict)
    _rates: dict[object, list[KindRates]] = field(default_factory=dict)
    _kinds: dict[object, Kinds] = field(default_factory=dict)
    """All four are shared by the evaluators that :func:`space_evaluators` makes of one precision."""

    @cached_property
    def constants(self) -> StepConstants:
        return step_constants(self.cluster, self.base, self.fit)

    @cached_property
    def limit(self) -> float:
        return memory_limit(self.cluster, self.base.software)

    def columns(self, group: int | None, ulysses: int = 1, order: RankOrder = "tp-cp-dp-pp") -> Columns:
        """The whole table; ``group`` ranks share a state under hybrid sharding, ``ulysses`` ranks spread heads."""
        ranks = self.table["dp"] * self.table["cp"]
        shard = ranks if group is None else np.minimum(ranks, group)
        values = {"sequence": self.sequence, "shard": shard, "imbalance": self.imbalance, **self.table.columns}
        return Columns(**values, ulysses=ulysses, inner=self.table["pp"] if order == "tp-cp-pp-dp" else 1)

    def keys(self, ulysses: int) -> Keyed:
        """What layers take and keep depends on these."""
        if ulysses not in self._keys:
            self._keys[ulysses] = keyed(self._wide(ulysses))
        return self._keys[ulysses]

    def _wide(self, ulysses: int) -> Columns:
        """The table under combined context parallelism, with as many ranks at least as spread heads."""
        columns = self.columns(None, ulysses)
        return columns if ulysses == 1 else replace(columns, cp=np.maximum(columns.cp, ulysses))

    def kinds(self, problem: Problem, modes: tuple[Recompute, ...], ulysses: int) -> Kinds:
        """The layer kinds under a structure and each mode of recomputation."""
        facts = problem.facts
        key = (problem.structure, facts.split, facts.paired, ulysses, modes)
        if key not in self._kinds:
            every = [replace(problem, structure=replace(problem.structure, recompute=r)) for r in modes]
            rates, columns = self.rates(problem, ulysses), self.keys(ulysses).columns
            body = body_kinds(self.architecture)  # the ends never recompute
            seconds = [
                _over_settings(k) if i < body else k[0]
                for i, k in enumerate(zip(*(model_seconds(p, rates) for p in every), strict=True))
            ]
            memories = [
                _settings_memory(k) if i < body else k[0]
                for i, k in enumerate(zip(*(model_memory(p, columns) for p in every), strict=True))
            ]
            whole = not facts.paired
            full = [kind_time(k, UnitTraffic(), self.constants) for k in seconds]
            times = [t.summed(whole=whole) for t in full]
            self._kinds[key] = Kinds(seconds, full, times, memories)
        return self._kinds[key]

    def rates(self, problem: Problem, ulysses: int) -> list[KindRates]:
        """Rates of the layer kinds for each distinct key, whatever is recomputed."""
        structure = problem.structure.timed
        key = (replace(structure, overlap="profile"), ulysses)
        if key not in self._rates:
            self._rates[key] = model_rates(
                self.architecture, structure, Keyed(self.keys(ulysses).columns), self.constants
            )
        return self._rates[key]

    def parameters(self, problem: Problem, group: int | None) -> list[LocalParameters]:
        """Parameters of one layer of each kind, for each row."""
        key = (problem.structure.sequence_parallel, group, problem.facts.copies, problem.facts.shape == "loop")
        if key not in self._parameters:
            self._parameters[key] = kind_parameters(problem, self.columns(group))
        return self._parameters[key]


def space_evaluators(
    architecture: Architecture,
    cluster: Cluster,
    template: TrainingPlan,
    table: Table,
    space: SearchSpace,
    fit: Fit | None = None,
) -> list[Evaluator]:
    """One evaluator for each precision and each overlap that a space allows; overlaps share what they have in common.

    Parameters
    ----------
    template
        Says what the space does not vary: sequence, precision, framework, adapters, routing.
    fit
        Fitted constants instead of those that ship.
    """
    found: list[Evaluator] = []
    for precision in space.precision or (template.precision,):
        problem = plan_problem(architecture, cluster, template.replace(precision=precision))
        own = problem.architecture, cluster, problem.structure, table
        first = Evaluator(*own, template.sequence_length, template.rows_factor, fit)
        overlaps = space.overlap or ("profile", *problem.structure.software.training.choices.overlap)
        found += [replace(first, base=replace(first.base, overlap=overlap)) for overlap in overlaps]
    return found


def keyed_entries(value: Number, rows: np.ndarray, mode: np.ndarray | None = None) -> Number:
    """Entries along the last axis, of which one entry is the same for all; and for each setting the row of its mode."""
    if not isinstance(value, np.ndarray) or value.ndim == 0:
        return value
    if value.shape[-1] > 1:
        value = value.take(rows, axis=-1)
    return value if mode is None or value.ndim == 1 or len(value) == 1 else value[mode]


def own_entries(value: Number, rows: np.ndarray, mode: np.ndarray) -> Number:
    """One entry a candidate: of its key, and of its mode of recomputation."""
    if not isinstance(value, np.ndarray) or value.ndim == 0:
        return value
    if value.ndim == 1:
        return value if len(value) == 1 else value[rows]
    return value[mode if len(value) > 1 else 0, rows if value.shape[1] > 1 else 0]


def _over_settings(kinds: Sequence[KindSeconds]) -> KindSeconds:
    """One layer kind under several settings of recomputation: they differ in what is computed again."""
    phase = stack_records([kind.phases["recompute"] for kind in kinds], _stacked)
    return replace(kinds[0], phases={**kinds[0].phases, "recompute": phase})


def _settings_memory(kinds: Sequence[KindMemory]) -> KindMemory:
    """What one layer kind keeps under several settings of recomputation."""
    names = ("recomputing", "again", "change")
    return replace(kinds[0], **{name: _stacked([getattr(k, name) for k in kinds]) for name in names})


def _stacked(values: Sequence[Number | None]) -> np.ndarray:
    """One row a setting, zero where a setting has none."""
    return np.stack([np.atleast_1d(v) for v in np.broadcast_arrays(*(0.0 if v is None else v for v in values))])


def some_rows(record: Record, rows: np.ndarray, mode: np.ndarray | None = None) -> Record:
    """Some rows of every number in a record, and for each setting that of its mode."""
    return map_numbers(record, lambda value: keyed_entries(value, rows, mode))
