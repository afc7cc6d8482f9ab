"""Evaluation of a space: step time by the closed form and memory of the fullest stage, for every plan that divides.

What layers take and keep is evaluated on the distinct tuples of the columns that it depends on, once for each
structure, and gathered; what is left for each plan is sums over stages. Memory comes first: plans that do not fit are
not timed.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from itertools import chain, product
from typing import Any, TypeAlias, TypeVar

import numpy as np

from ..architecture import Architecture
from ..core.errors import InputError
from ..core.pipelines import ScheduleName, schedule_facts
from ..core.sharding import ContextKind
from ..core.shim import Number, maximum
from ..hardware.cluster import Cluster
from ..hardware.network import NO_TRAFFIC, WireTime
from ..hardware.software import Software
from ..plans.offload import NO_OFFLOAD, Offload
from ..plans.optimizer import get_optimizer
from ..plans.recompute import FULL, NONE, Recompute, parse_recompute
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
from ..training.recompute import recompute_ladder
from ..training.seconds import Keyed, KindRates, KindSeconds, PhaseSeconds
from ..training.sharding import FrozenParameters, LocalParameters
from ..training.stages import Stage
from ..training.structure import Structure
from ..training.update import ElementCost
from .space import CONTEXT_LIMIT, SearchSpace, Table


@dataclass(frozen=True)
class Variant:
    """The structural choices that rows of a table are evaluated under.

    Attributes
    ----------
    problem
        With the structure, the sharding and the schedule.
    rows
        Of the table that it applies to.
    shard_group
        Ranks that share a state, for hybrid sharding.
    ulysses
        Context-parallel ranks that spread heads, where a ring joins such groups.
    """

    problem: Problem
    rows: np.ndarray
    shard_group: int | None = None
    ulysses: int = 1


@dataclass
class Candidates:
    """Evaluated plans.

    Attributes
    ----------
    table
        Columns of the plans that divide.
    variants
        Structural choices.
    variant, row
        Of each candidate: number of its variant, and of its row in the table.
    step_s
        Closed-form time of a step, infinite for a plan that does not fit (it was not timed).
    device_bytes
        Memory of the fullest stage as the driver sees it.
    limit_bytes
        What a plan may use.
    """

    table: Table
    variants: list[Variant]
    variant: np.ndarray
    row: np.ndarray
    step_s: np.ndarray
    device_bytes: np.ndarray
    limit_bytes: float

    @property
    def fits(self) -> np.ndarray:
        """Whether each candidate stays below the memory limit."""
        return self.device_bytes <= self.limit_bytes

    def __len__(self) -> int:
        return len(self.step_s)


def evaluate_space(
    architecture: Architecture,
    cluster: Cluster,
    base: Structure,
    table: Table,
    space: SearchSpace,
    *,
    sequence: int,
    imbalance: float,
    optimizer: str = "adamw",
) -> Candidates:
    """Memory of every plan, and time of those that fit.

    Parameters
    ----------
    base
        The structure that variants change: software, precision, overlap.
    imbalance
        Tokens of the busiest expert rank over the mean.
    optimizer
        Its name.

    Raises
    ------
    InputError
        Where the allowed settings leave no plan.
    """
    evaluator = _Evaluator(architecture, cluster, base, table, sequence, imbalance)
    every = variants(architecture, cluster, base, table, space, sequence)
    if any(space.offload_optimizer) and not get_optimizer(optimizer).elementwise:
        raise InputError(
            "offload_optimizer", space.offload_optimizer, f"0 with {optimizer}, which multiplies matrices", 0
        )
    offloads = [Offload(*shares) for shares in product(space.offload_activations, space.offload_optimizer)]
    chosen = [
        replace(v, problem=replace(v.problem, optimizer=optimizer, offload=offload))
        for v in every
        for offload in offloads
    ]
    if not chosen:
        raise _nothing_allowed(space, base.software, cluster)
    found = dict(chain.from_iterable(map(evaluator.evaluate, _families(chosen))))
    steps, memories = zip(*(found[n] for n in range(len(chosen))), strict=True)
    return Candidates(
        table,
        chosen,
        np.concatenate([np.full(len(v.rows), n) for n, v in enumerate(chosen)]),
        np.concatenate([v.rows for v in chosen]),
        np.concatenate(steps),
        np.concatenate(memories),
        evaluator.limit,
    )


Family: TypeAlias = list[tuple[int, Variant]]
"""Variants that differ in recomputation only, with their numbers."""


def _families(chosen: Sequence[Variant]) -> Iterable[Family]:
    found: dict[Hashable, Family] = {}
    for number, variant in enumerate(chosen):
        problem = replace(variant.problem, structure=replace(variant.problem.structure, recompute=NONE))
        key = (problem.structure, problem.sharding, problem.schedule, problem.offload, variant.shard_group)
        found.setdefault((*key, variant.ulysses), []).append((number, variant))
    return found.values()


def variants(
    architecture: Architecture, cluster: Cluster, base: Structure, table: Table, space: SearchSpace, sequence: int
) -> Iterator[Variant]:
    """Every combination of structural choices, with the rows that it makes sense for."""
    software = base.software
    moe = any(k.is_moe for k in architecture.kinds.values())
    tp, cp = table["tp"], table["cp"]
    flags = space.sequence_parallel or (True, False)
    shardings = space.sharding or software.choices.sharding
    for sequence_parallel in flags:
        # Without tensor parallelism the setting says nothing: such plans go with the first.
        shared = (tp > 1) | (sequence_parallel == flags[0])
        if sequence_parallel:
            shared = shared & (sequence % (tp * cp) == 0)
        elif moe:
            shared = shared & (tp == 1)  # tokens would be dispatched once for each tensor-parallel rank
        for n, (kind, ulysses) in enumerate(_context_choices(space.context_kind or software.choices.context_kind)):
            mask = shared & ((cp > 1) | (n == 0 and ulysses == 1))
            if kind == "ulysses":
                mask = mask & _heads_divide(architecture, tp * cp)
            if ulysses > 1:
                mask = mask & (cp > ulysses) & (cp % ulysses == 0) & _heads_divide(architecture, tp * ulysses)
            for recompute in space.recompute or recompute_ladder(architecture, software):
                structure = replace(
                    base,
                    sequence_parallel=sequence_parallel,
                    context_kind=kind,
                    recompute=parse_recompute(recompute),
                )
                for sharding in shardings:
                    alone = sharding == "zero3" and set(shardings) <= {"zero3", "hsdp"}
                    problem = Problem(architecture, cluster, structure, sharding)
                    for variant in _scheduled(problem, mask, table, alone, space.schedule or USUAL_SCHEDULES):
                        yield replace(variant, ulysses=ulysses)


def _context_choices(kinds: Sequence[ContextKind]) -> Iterator[tuple[ContextKind, int]]:
    """Each kind, and for the one that has two parts every size of the nearer one."""
    for kind in kinds:
        if kind == "ulysses+ring":
            yield from ((kind, 2**i) for i in range(1, CONTEXT_LIMIT.bit_length() - 1))
        else:
            yield kind, 1


def _nothing_allowed(space: SearchSpace, software: Software, cluster: Cluster) -> InputError:
    """The error for settings under which no plan that divides can run."""
    rules = {
        "sharding": "zero3 and hsdp go without a pipeline, and hsdp with a multiple of the "
        f"{cluster.domain} devices of a scale-up domain as data-parallel ranks",
        "context_kind": "ulysses needs key/value heads that context_parallel x tensor_parallel divides, "
        "ulysses+ring heads that a part of them does",
        "sequence_parallel": "it needs a sequence that tensor_parallel x context_parallel divides, and experts under "
        "tensor parallelism need it",
        "schedule": "each has its number of chunks per stage (one, two or several); dualpipe takes even numbers of "
        "stages and micro-batches, and like dualpipe-v at least two micro-batches a stage",
    }
    field = next((name for name in rules if getattr(space, name)), "sharding")
    value = getattr(space, field) or getattr(software.choices, field)
    return InputError(field, value, rules[field], "1f1b" if field == "schedule" else None, why="leaves no plan")


def _heads_divide(architecture: Architecture, ways: np.ndarray) -> np.ndarray:
    """Where a number of ways divides the key/value heads of every layer that attends."""
    mask = np.ones(len(ways), bool)
    for kind in (*architecture.kinds.values(), *architecture.mtp):
        if "heads" in kind.sizes:
            mask &= kind.sizes.get("kv_heads", kind.sizes["heads"]) % ways == 0
    return mask


USUAL_SCHEDULES: tuple[ScheduleName, ...] = ("1f1b", "interleaved")
"""What is looked at unless a space says otherwise."""


def _scheduled(
    problem: Problem, mask: np.ndarray, table: Table, alone: bool, schedules: Sequence[ScheduleName]
) -> Iterator[Variant]:
    """One variant a schedule; full sharding goes without a pipeline, and without ranks to share with only where
    nothing else is allowed. Without a pipeline all schedules are one, and go by the name of 1F1B."""
    group: int | None = None
    ranks = table["dp"] * table["cp"]
    if problem.fully_sharded:
        mask = mask & (table["pp"] == 1) & ((ranks > 1) | alone)
    if problem.sharding == "hsdp":
        group = problem.cluster.domain
        mask = mask & (ranks > group) & (ranks % group == 0)
    every: dict[ScheduleName, None] = dict.fromkeys(("1f1b", *schedules))
    for schedule in every:
        own = _runs(schedule, table) if schedule in schedules else np.zeros(len(table), bool)
        if schedule == "1f1b":
            own = own | (table["pp"] == 1)
        rows = np.flatnonzero(mask & own)
        if len(rows):
            yield Variant(replace(problem, schedule=schedule), rows, group)


def _runs(schedule: ScheduleName, table: Table) -> np.ndarray:
    """Rows with a pipeline that a schedule is defined for."""
    facts, pp, m, chunks = schedule_facts(schedule), table["pp"], table["micro_batches"], table["chunks"]
    mask = np.isin(chunks, [c for c in np.unique(chunks) if facts.takes(int(c))]) & (pp > 1)
    if facts.paired:
        mask = mask & (m >= 2 * pp)
    if facts.shape == "both":
        mask = mask & (pp % 2 == 0) & (m % 2 == 0)
    if facts.chunks == "several":
        mask = mask & (m % pp == 0)
    return mask


BLOCK = 16_384
"""Plans that are evaluated at once: what their arrays take stays in the processor's cache."""


@dataclass(frozen=True)
class _Kinds:
    """The layer kinds of a model under one structure: for each distinct key, and what depends on recomputation also for
    each of its settings."""

    seconds: list[KindSeconds]
    times: list[KindTime]
    memories: list[KindMemory]


@dataclass
class _Evaluator:
    """A table under many structures, with everything that structures share remembered."""

    architecture: Architecture
    cluster: Cluster
    base: Structure
    table: Table
    sequence: int
    imbalance: float
    _parameters: dict[object, list[LocalParameters]] = field(default_factory=dict)
    _keys: dict[int, Keyed] = field(default_factory=dict)
    _rates: dict[object, list[KindRates]] = field(default_factory=dict)

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

    def kinds(self, problem: Problem, settings: Sequence[Recompute], ulysses: int) -> _Kinds:
        """The layer kinds under a structure and several settings of recomputation."""
        every = [replace(problem, structure=replace(problem.structure, recompute=r)) for r in settings]
        rates, columns = self.rates(problem, ulysses), self.keys(ulysses).columns
        each: dict[Recompute, tuple[list[KindSeconds], list[KindMemory]]] = {}
        for alike in every:  # in how many layers a setting applies does not matter here
            setting = replace(alike.structure.recompute, layers=FULL.layers)
            if setting not in each:
                each[setting] = model_seconds(alike, rates), model_memory(alike, columns)
        own = [each[replace(r, layers=FULL.layers)] for r in settings]
        seconds = [_over_settings(kinds) for kinds in zip(*(s for s, _ in own), strict=True)]
        times = [kind_time(k, UnitTraffic(), self.constants) for k in seconds]
        memories = [_settings_memory(kinds) for kinds in zip(*(m for _, m in own), strict=True)]
        whole = not problem.facts.paired
        return _Kinds(seconds, [t.map(lambda v: v, whole=whole) for t in times], memories)

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

    def evaluate(self, family: Family) -> Iterator[tuple[int, tuple[np.ndarray, np.ndarray]]]:
        """Step time and memory of the rows of each variant, by its number."""
        _, first = family[0]
        settings = [v.problem.structure.recompute for _, v in family]
        problem = replace(first.problem, structure=replace(first.problem.structure, recompute=NONE))
        kinds = self.kinds(problem, settings, first.ulysses)
        shares = np.array([[float(r.layers) if r.mode != "none" else 0.0] for r in settings])
        size = max(256, BLOCK // len(settings))
        step, memory = (np.full((len(settings), len(first.rows)), np.inf) for _ in range(2))
        for group in self._alike(problem, first.rows):
            for start in range(0, len(group), size):
                where = group[start : start + size]
                step[:, where], memory[:, where] = self._block(problem, first, where, shares, kinds)
        return ((number, (step[k], memory[k])) for k, (number, _) in enumerate(family))

    def _alike(self, problem: Problem, rows: np.ndarray) -> list[np.ndarray]:
        """Positions among the rows of plans whose pipelines have equally many runs of stages."""
        columns = self.columns(None).take(rows)
        runs = sum(np.asarray(stage.repeats) > 0 for stage in problem.stages(columns))
        runs = np.broadcast_to(runs, rows.shape)
        return [np.flatnonzero(runs == n) for n in np.unique(runs)]

    def _block(
        self, problem: Problem, variant: Variant, where: np.ndarray, shares: np.ndarray, kinds: _Kinds
    ) -> tuple[np.ndarray, np.ndarray]:
        """Step time and memory of some rows under every setting, ``[setting, row]``."""
        rows = variant.rows[where]
        columns = self.columns(variant.shard_group, variant.ulysses).take(rows)
        parameters = [_rows(p, rows) for p in self.parameters(problem, variant.shard_group)]
        known = self.keys(variant.ulysses).rows
        keys = rows if known is None else known[rows]
        stages = [replace(s, share=shares) for s in problem.stages(columns)]
        kept = [_rows(m, keys) for m in kinds.memories]
        shape = (len(shares), len(rows))
        memory = self._memory(problem, columns, stages, parameters, kept, shape)
        fit = np.flatnonzero((memory <= self.limit).any(axis=0))
        step = np.full(shape, np.inf)
        if len(fit):
            own = [_rows(p, fit) for p in parameters]
            runs = [_stage_rows(s, fit) for s in stages]
            load = step_load(problem, columns.take(fit), runs, own, (), self.constants)
            if problem.offload.activations:
                load = offloading(problem, load, [_rows(m, fit) for m in kept], self.constants)
            step[:, fit] = self._time(problem, load, kinds, keys[fit], shares)
        return np.where(memory <= self.limit, step, np.inf), memory

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
        if problem.offload == NO_OFFLOAD:
            return memory
        host = np.broadcast_to(maximum(*(m.host_bytes for m in each)), shape)
        return np.where(host <= self.cluster.profile.host_memory_bytes.value, memory, np.inf)

    def _time(self, problem: Problem, load: StepLoad, kinds: _Kinds, keys: np.ndarray, shares: np.ndarray) -> Number:
        load = load.recomputing(lambda counts: recomputed_layers(problem, counts, shares))
        if problem.fully_sharded:  # what is gathered depends on the row, and hides under the layers' own parts
            load = replace(load, kinds=[k.map(lambda v: _keyed(v, keys)) for k in kinds.seconds])
            return compose_step(load, self.constants).seconds
        whole = not problem.facts.paired
        times = [t.map(lambda v: _keyed(v, keys), whole=whole) for t in kinds.times]
        return compose_step(load, self.constants, times).seconds


def _keyed(value: Number, rows: np.ndarray) -> Number:
    """Entries along the last axis; a value with one entry there is the same for all."""
    if not isinstance(value, np.ndarray) or value.ndim == 0 or value.shape[-1] == 1:
        return value
    return value.take(rows, axis=-1)


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
    recomputing, again = (_stacked([getattr(k, name) for k in kinds]) for name in ("recomputing", "again"))
    return replace(kinds[0], recomputing=recomputing, again=again)


def _stacked(values: Sequence[Number]) -> np.ndarray:
    """One row a setting."""
    return np.stack([np.atleast_1d(v) for v in np.broadcast_arrays(*values)])


Record = TypeVar("Record", LocalParameters, FrozenParameters, KindMemory, ElementCost)


def _rows(record: Record, rows: np.ndarray) -> Record:
    """Some rows of every number in a record, and in the records that it holds."""

    def some(value: Any) -> Any:
        if isinstance(value, tuple):
            return tuple(_rows(v, rows) for v in value)
        return _rows(value, rows) if isinstance(value, FrozenParameters) else _keyed(value, rows)

    return replace(record, **{f.name: some(getattr(record, f.name)) for f in fields(record)})


def _stage_rows(stage: Stage, rows: np.ndarray) -> Stage:
    counts = tuple(_keyed(n, rows) for n in stage.counts)
    return replace(stage, counts=counts, first=_keyed(stage.first, rows), repeats=_keyed(stage.repeats, rows))
