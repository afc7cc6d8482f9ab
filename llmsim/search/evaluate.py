"""Evaluation of a space: step time by the closed form and memory of the fullest stage, for every plan that divides.

What layers take and keep is evaluated on the distinct tuples of the columns that it depends on, once for each
structure, and gathered; what is left for each plan is sums over stages. Settings of recomputation are an axis of the
arrays: only what depends on them is as large as all plans. Memory comes first: plans that do not fit are not timed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from itertools import chain
from typing import Any, TypeVar

import numpy as np

from ..architecture import Architecture
from ..core.shim import Number, maximum
from ..hardware.cluster import Cluster
from ..hardware.network import NO_TRAFFIC, WireTime
from ..plans.offload import Offload
from ..plans.recompute import FULL, NONE, Recompute
from ..training.columns import Columns
from ..training.compose import KindTime, StepLoad, UnitTraffic, compose_step, kind_time
from ..training.constants import StepConstants, step_constants
from ..training.kept import KindMemory, model_memory
from ..training.memory import memory_limit, memory_of_stage, stage_states
from ..training.prepare import (
    Problem,
    keyed,
    kind_parameters,
    model_rates,
    model_seconds,
    offloading,
    recomputed_layers,
    step_load,
)
from ..training.seconds import Keyed, KindRates, KindSeconds, PhaseSeconds
from ..training.sharding import FrozenParameters, LocalParameters
from ..training.stages import Stage
from ..training.structure import Structure
from ..training.update import ElementCost
from .space import Table
from .variants import Setting, Variant

BLOCK = 32_768
"""Plans that are evaluated at once: what their arrays take stays in the processor's cache."""


@dataclass(frozen=True)
class Kinds:
    """The layer kinds of a model under one structure: for each distinct key, and what depends on recomputation also for
    each mode of it, ``[mode, key]``."""

    modes: list[Recompute]
    seconds: list[KindSeconds]
    times: list[KindTime]
    memories: list[KindMemory]


@dataclass(frozen=True)
class Block:
    """Plans evaluated at once.

    Attributes
    ----------
    where
        Positions among the rows of a variant.
    step_s
        Closed-form time of a step, ``[setting, row]``; infinite for a plan that does not fit (it was not timed).
    device_bytes
        Memory of the fullest stage as the driver sees it; infinite where the host is too full.
    """

    where: np.ndarray
    step_s: np.ndarray
    device_bytes: np.ndarray


@dataclass(frozen=True)
class _Choice:
    """Settings as columns of one entry each: modes of recomputation, shares of the layers, shares on the host."""

    mode: np.ndarray
    shares: np.ndarray
    offload: Offload


def mode_of(setting: Setting) -> Recompute:
    """What is recomputed, in however many layers."""
    return replace(setting.recompute, layers=FULL.layers)


def _choice(variant: Variant, kinds: Kinds) -> _Choice:
    settings = variant.settings

    def column(values: Iterable[Any]) -> np.ndarray:
        return np.array([[float(v)] for v in values])

    offload = Offload(column(s.offload.activations for s in settings), column(s.offload.optimizer for s in settings))
    return _Choice(
        np.array([kinds.modes.index(mode_of(s)) for s in settings]),
        column(s.recompute.layers if s.recompute.mode != "none" else 0 for s in settings),
        offload if offload.moves else variant.problem.offload,
    )


@dataclass
class Evaluator:
    """A table under many structures, with everything that structures share remembered.

    Attributes
    ----------
    architecture, cluster
        The model, with its adapters, and the machine.
    base
        The structure that variants change: software, precision, overlap.
    table
        Columns of the plans that divide.
    sequence, imbalance
        Tokens of a sequence; rows of the busiest expert rank over the mean.
    """

    architecture: Architecture
    cluster: Cluster
    base: Structure
    table: Table
    sequence: int
    imbalance: float
    _parameters: dict[object, list[LocalParameters]] = field(default_factory=dict)
    _keys: dict[int, Keyed] = field(default_factory=dict)
    _rates: dict[object, list[KindRates]] = field(default_factory=dict)
    _kinds: dict[object, Kinds] = field(default_factory=dict)

    @cached_property
    def constants(self) -> StepConstants:
        return step_constants(self.cluster, self.base)

    @cached_property
    def limit(self) -> float:
        return memory_limit(self.cluster, self.base.software)

    def columns(self, group: int | None, ulysses: int = 1) -> Columns:
        """The whole table; ``group`` ranks share a state under hybrid sharding, ``ulysses`` ranks spread heads."""
        ranks = self.table["dp"] * self.table["cp"]
        shard = ranks if group is None else np.minimum(ranks, group)
        values = {"sequence": self.sequence, "shard": shard, "imbalance": self.imbalance, **self.table.columns}
        return Columns(**values, ulysses=ulysses)

    def keys(self, ulysses: int) -> Keyed:
        """What layers take and keep depends on these."""
        if ulysses not in self._keys:
            self._keys[ulysses] = keyed(self._wide(ulysses))
        return self._keys[ulysses]

    def _wide(self, ulysses: int) -> Columns:
        """The table under combined context parallelism, with as many ranks at least as spread heads."""
        columns = self.columns(None, ulysses)
        return columns if ulysses == 1 else replace(columns, cp=np.maximum(columns.cp, ulysses))

    def kinds(self, variant: Variant) -> Kinds:
        """The layer kinds under a structure and the settings of recomputation of a variant."""
        problem, ulysses = variant.problem, variant.ulysses
        modes = list(dict.fromkeys(map(mode_of, variant.settings)))
        facts = problem.facts
        key = (problem.structure, facts.split, facts.paired, ulysses, tuple(modes))
        if key not in self._kinds:
            every = [replace(problem, structure=replace(problem.structure, recompute=r)) for r in modes]
            rates, columns = self.rates(problem, ulysses), self.keys(ulysses).columns
            seconds = [_over_settings(k) for k in zip(*(model_seconds(p, rates) for p in every), strict=True)]
            memories = [_settings_memory(k) for k in zip(*(model_memory(p, columns) for p in every), strict=True)]
            whole = not facts.paired
            times = [kind_time(k, UnitTraffic(), self.constants).map(lambda v: v, whole=whole) for k in seconds]
            self._kinds[key] = Kinds(modes, seconds, times, memories)
        return self._kinds[key]

    def rates(self, problem: Problem, ulysses: int) -> list[KindRates]:
        """Rates of the layer kinds for each distinct key, whatever is recomputed."""
        key = (replace(problem.structure, recompute=NONE), ulysses)
        if key not in self._rates:
            self._rates[key] = model_rates(problem, Keyed(self.keys(ulysses).columns), self.constants)
        return self._rates[key]

    def parameters(self, problem: Problem, group: int | None) -> list[LocalParameters]:
        """Parameters of one layer of each kind, for each row."""
        key = (problem.structure.sequence_parallel, group, problem.facts.copies, problem.facts.shape == "loop")
        if key not in self._parameters:
            self._parameters[key] = kind_parameters(problem, self.columns(group))
        return self._parameters[key]

    def blocks(self, variant: Variant) -> Iterator[Block]:
        """Step time and memory of all plans of a variant, a block of rows at a time."""
        kinds = self.kinds(variant)
        choice = _choice(variant, kinds)
        size = max(64, BLOCK // len(variant.settings))
        for group in self._alike(variant):
            for start in range(0, len(group), size):
                where = group[start : start + size]
                yield Block(where, *self._block(variant, where, choice, kinds))

    def _alike(self, variant: Variant) -> list[np.ndarray]:
        """Positions among the rows of plans whose pipelines have equally many runs of stages: runs that are not there
        cost as much as others. A few plans go together."""
        if variant.plans <= 4 * BLOCK:
            return [np.arange(len(variant.rows))]
        stages = variant.problem.stages(self.columns(None).take(variant.rows))
        runs = np.broadcast_to(sum(np.asarray(stage.repeats) > 0 for stage in stages), variant.rows.shape)
        return [np.flatnonzero(runs == n) for n in np.unique(runs)]

    def _block(
        self, variant: Variant, where: np.ndarray, choice: _Choice, kinds: Kinds
    ) -> tuple[np.ndarray, np.ndarray]:
        """Step time and memory of some rows under every setting, ``[setting, row]``."""
        problem, rows = replace(variant.problem, offload=choice.offload), variant.rows[where]
        columns = self.columns(variant.shard_group, variant.ulysses).take(rows)
        parameters = [some_rows(p, rows) for p in self.parameters(problem, variant.shard_group)]
        known = self.keys(variant.ulysses).rows
        keys = rows if known is None else known[rows]
        stages = [replace(s, share=choice.shares) for s in problem.stages(columns)]
        kept = [some_rows(m, keys, choice.mode) for m in kinds.memories]
        shape = (len(variant.settings), len(rows))
        memory = self._memory(problem, columns, stages, parameters, kept, shape)
        fits = memory <= self.limit
        step = np.full(shape, np.inf)
        fit = np.flatnonzero(fits.any(axis=0))
        if len(fit):
            own = [some_rows(p, fit) for p in parameters]
            runs = [_stage_rows(s, fit) for s in stages]
            load = step_load(problem, columns.take(fit), runs, own, (), self.constants)
            if problem.offload.moves_activations:
                load = offloading(problem, load, [some_rows(m, fit) for m in kept], self.constants)
            step[:, fit] = self._time(problem, load, kinds, keys[fit], choice)
            step[~fits] = np.inf
        return step, memory

    def _memory(
        self,
        problem: Problem,
        columns: Columns,
        stages: Sequence[Stage],
        parameters: Sequence[LocalParameters],
        kept: Sequence[KindMemory],
        shape: tuple[int, int],
    ) -> np.ndarray:
        """Memory of the fullest stage, infinite where the host would be too full."""
        each = [
            memory_of_stage(
                problem, columns, stage, stage_states(problem, columns, stage, parameters), kept, self.constants
            )
            for stage in stages
        ]
        memory = np.broadcast_to(maximum(*(m.device_bytes for m in each)), shape)
        if not problem.offload.moves:
            return memory
        host = np.broadcast_to(maximum(*(m.host_bytes for m in each)), shape)
        return np.where(host <= self.cluster.profile.host_memory_bytes.value, memory, np.inf)

    def _time(
        self,
        problem: Problem,
        load: StepLoad,
        kinds: Kinds,
        keys: np.ndarray,
        choice: _Choice,
    ) -> Number:
        load = load.recomputing(lambda counts: recomputed_layers(problem, counts, choice.shares))
        if problem.fully_sharded:  # what is gathered depends on the row, and hides under the layers' own parts
            load = replace(load, kinds=[k.map(lambda v: _keyed(v, keys, choice.mode)) for k in kinds.seconds])
            return compose_step(load, self.constants).seconds
        whole = not problem.facts.paired
        times = [t.map(lambda v: _keyed(v, keys, choice.mode), whole=whole) for t in kinds.times]
        return compose_step(load, self.constants, times).seconds


def _keyed(value: Number, rows: np.ndarray, mode: np.ndarray | None = None) -> Number:
    """Entries along the last axis, of which one entry is the same for all; and for each setting the row of its mode."""
    if not isinstance(value, np.ndarray) or value.ndim == 0:
        return value
    if value.shape[-1] > 1:
        value = value.take(rows, axis=-1)
    return value if mode is None or value.ndim == 1 or len(value) == 1 else value[mode]


def _over_settings(kinds: Sequence[KindSeconds]) -> KindSeconds:
    """One layer kind under several settings of recomputation: they differ in what is computed again."""
    again = [kind.phases["recompute"] for kind in kinds]
    axes = dict.fromkeys(axis for phase in again for axis in phase.wires)
    phase = PhaseSeconds(
        {
            name: _stacked([p.classes.get(name, 0.0) for p in again])
            for name in dict.fromkeys(chain(*(p.classes for p in again)))
        },
        _stacked([p.launches for p in again]),
        {
            axis: WireTime(
                *(
                    _stacked([getattr(p.wires.get(axis, NO_TRAFFIC), part.name) for p in again])
                    for part in fields(WireTime)
                )
            )
            for axis in axes
        },
    )
    return replace(kinds[0], phases={**kinds[0].phases, "recompute": phase})


def _settings_memory(kinds: Sequence[KindMemory]) -> KindMemory:
    """What one layer kind keeps under several settings of recomputation."""
    names = ("recomputing", "again", "change")
    return replace(kinds[0], **{name: _stacked([getattr(k, name) for k in kinds]) for name in names})


def _stacked(values: Sequence[Number]) -> np.ndarray:
    """One row a setting."""
    return np.stack([np.atleast_1d(v) for v in np.broadcast_arrays(*values)])


Record = TypeVar("Record", LocalParameters, FrozenParameters, KindMemory, ElementCost)


def some_rows(record: Record, rows: np.ndarray, mode: np.ndarray | None = None) -> Record:
    """Some rows of every number in a record, and in the records that it holds."""

    def some(value: Any) -> Any:
        if isinstance(value, tuple):
            return tuple(some_rows(v, rows) for v in value)
        return some_rows(value, rows) if isinstance(value, FrozenParameters) else _keyed(value, rows, mode)

    return replace(record, **{f.name: some(getattr(record, f.name)) for f in fields(record)})


def _stage_rows(stage: Stage, rows: np.ndarray) -> Stage:
    counts = tuple(_keyed(n, rows) for n in stage.counts)
    lead = tuple(_keyed(n, rows) for n in stage.lead)
    return replace(
        stage, counts=counts, lead=lead, first=_keyed(stage.first, rows), repeats=_keyed(stage.repeats, rows)
    )
