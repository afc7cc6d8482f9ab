"""Plans in blocks: step time, breakdown and memory of every plan of a variant.

What does not depend on recomputation is prepared for all rows of a variant at once. A block is some rows under one way
to offload and every way to recompute: only what depends on both is as large as all plans, and a block stays in the
processor's cache. Memory comes first: plans that do not fit are not timed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import chain

import numpy as np

from ..core.numeric import Number, maximum
from ..core.records import map_numbers
from ..timing.columns import Columns
from ..timing.layer_time import KindTime, LayerTime
from ..training.breakdown import step_breakdown
from ..training.build_load import offloading, recomputed_layers, step_load
from ..training.compose import StepLoad, StepTime, compose_step
from ..training.memory import memory_of_stage, stage_states
from ..training.problem import Problem
from ..training.saved_activations import KindMemory
from ..training.stages import Stage
from .evaluate import Evaluator, Kinds, keyed_entries, some_rows
from .variants import Settings, Variant

BLOCK = 65_536
"""Plans that are evaluated at once: what their arrays take stays in the processor's cache."""
FREED_BYTES = 24 * 2**20
"""An array of this size, freed at once, makes the C library keep up to twice as much freed memory instead of giving it
back to the system, from where every temporary array of a block would have to be fetched again (glibc, mallopt: the
dynamic mmap threshold). It is never written to and takes no memory."""


@dataclass(frozen=True)
class Block:
    """Plans evaluated at once: some rows of a variant with one way to offload and every way to recompute.

    Attributes
    ----------
    where
        Positions among the rows of the variant.
    offload
        Number of the way to offload.
    step_s
        Closed-form time of a step, ``[recompute, row]``; infinite for a plan that was not timed.
    fitting
        Plans that fit.
    bounded
        Those of them that were not timed, because a bound on their time says that they do not matter.
    device_bytes
        Memory of the fullest stage as the driver sees it; infinite where the host is too full.
    parts
        Seconds of a step by part, where they are asked for: they sum to ``step_s`` of a plan that fits.
    stage_bytes
        With them, memory of each run of stages, ``[run, recompute, row]``.
    """

    where: np.ndarray
    offload: int
    step_s: np.ndarray
    device_bytes: np.ndarray
    fitting: int
    bounded: int
    parts: dict[str, np.ndarray] = field(default_factory=dict)
    stage_bytes: np.ndarray | None = None


@dataclass(frozen=True)
class VariantRows:
    """The rows of a variant without what depends on recomputation: one entry each or, where ways to offload differ,
    ``[offload, row]``.

    Attributes
    ----------
    keys
        Of each row, its number among the distinct keys.
    states
        What each run of stages holds whatever is kept for backward.
    """

    columns: Columns
    keys: np.ndarray
    stages: tuple[Stage, ...]
    states: list[dict[str, Number]]
    load: StepLoad


def variant_rows(variant: Variant) -> VariantRows:
    """What the plans of a variant have in common whatever is recomputed."""
    evaluator = variant.evaluator
    problem, rows, settings = variant.problem, variant.rows, variant.settings
    if settings.offload.moves:
        problem = replace(problem, offload=settings.offload)
    columns = evaluator.columns(variant.shard_group, variant.ulysses, variant.rank_order).take(rows)
    parameters = some_rows(evaluator.parameters(problem, variant.shard_group), rows)
    known = evaluator.keys(variant.ulysses).rows
    stages = problem.stages(columns)
    states = [stage_states(problem, columns, stage, parameters) for stage in stages]
    load = step_load(problem, columns, stages, parameters, (), evaluator.constants)
    return VariantRows(columns, rows if known is None else known[rows], stages, states, load)


Filter = Callable[[np.ndarray, int, np.ndarray, np.ndarray], np.ndarray]
"""Of positions among the rows of a variant, the way to offload, a bound on the time of each and the least memory of
each: which to time."""


def blocks(
    variant: Variant, *, parts: bool = False, wanted: Filter | None = None, limit: float | None = None
) -> Iterator[Block]:
    """Step time and memory of all plans of a variant, a block at a time.

    Parameters
    ----------
    parts
        Adds the breakdown.
    wanted
        Only these rows are timed; all that fit where it is not given.
    limit
        Device memory up to which a plan is said to fit; what there is where it is not given.
    """
    np.empty(FREED_BYTES, np.uint8)
    settings, kinds, rows = variant.settings, variant.kinds, variant_rows(variant)
    size = max(64, BLOCK // len(settings.ladder))
    groups = _alike(rows, variant.plans)
    for offload, way in enumerate(settings.offloads):
        problem = replace(variant.problem, offload=way)
        work = _Work(
            variant.evaluator,
            problem,
            kinds,
            rows,
            offload,
            settings,
            variant.evaluator.limit if limit is None else limit,
        )
        for group in groups:
            for start in range(0, len(group), size):
                yield work.block(group[start : start + size], parts, wanted)


def _alike(rows: VariantRows, plans: int) -> list[np.ndarray]:
    """Positions of plans whose pipelines have equally many runs of stages: runs that are not there cost as much as
    others. A few plans go together."""
    if plans <= 4 * BLOCK:
        return [np.arange(len(rows.keys))]
    runs = np.broadcast_to(sum(np.asarray(stage.repeats) > 0 for stage in rows.stages), rows.keys.shape)
    return [np.flatnonzero(runs == n) for n in np.unique(runs)]


@dataclass(frozen=True)
class _Work:
    """The rows of a variant under one way to offload."""

    evaluator: Evaluator
    problem: Problem
    kinds: Kinds
    rows: VariantRows
    offload: int
    settings: Settings
    limit: float

    @cached_property
    def shares(self) -> np.ndarray:
        return self.settings.shares[:, None]

    @cached_property
    def bound(self) -> np.ndarray | None:
        """For each row what every way to recompute takes at least: the time without recomputation and without moving
        activations. Recomputing adds to backward at least what it lets hide there, and moving exposes time or none.
        None where passes run in pairs, which hide more the longer they are."""
        if self.problem.facts.paired:
            return None
        where, modes = np.arange(len(self.rows.keys)), np.arange(len(self.settings.modes))
        still = replace(self, problem=replace(self.problem, offload=replace(self.problem.offload, activations=0.0)))
        _, time = still._time(where, (), np.zeros((len(modes), 1)), modes, parts=False)
        least: np.ndarray = np.broadcast_to(time.seconds, (len(modes), len(where))).min(axis=0)
        return least

    def block(self, where: np.ndarray, parts: bool, wanted: Filter | None) -> Block:
        """Every way to recompute for some rows."""
        stages = self._stages(where)
        memories = self.kinds.memories
        if not self.problem.offload.moves_activations:
            memories = [replace(m, recomputing=0.0) for m in memories]  # nobody asks
        kept = some_rows(memories, self.rows.keys[where], self.settings.mode)
        shape = (len(self.settings.ladder), len(where))
        each = self._stage_memory(where, stages, kept)
        memory = np.broadcast_to(maximum(*(device for device, _ in each)), shape)
        if self.problem.offload.moves:
            host = np.broadcast_to(maximum(*(host for _, host in each)), shape)
            limit = self.evaluator.cluster.profile.host_memory_bytes.value
            memory = np.where(host <= limit, memory, np.inf)
        fits = memory <= self.limit
        step = np.full(shape, np.inf)
        timed = fits.any(axis=0)
        fitting, bounded = int(np.count_nonzero(fits)), 0
        if wanted is not None and self.bound is not None and fitting:
            timed &= wanted(where, self.offload, self.bound[where], memory.min(axis=0))
            bounded = fitting - int(np.count_nonzero(fits[:, timed]))
        fit = np.flatnonzero(timed)
        found: dict[str, np.ndarray] = {}
        if len(fit):
            own = where if len(fit) == len(where) else where[fit]
            kept = kept if own is where else some_rows(kept, fit)
            load, time = self._time(own, kept, self.shares, self.settings.mode, parts=parts)
            step[:, fit] = time.seconds
            step[~fits] = np.inf
            if parts:
                table = step_breakdown(load, self._stages(own), time, time.pipeline_s)
                found = {name: _spread(value, shape, fit) for name, value in table.items() if name in self.parts}
        stage_bytes = np.stack([np.broadcast_to(device, shape) for device, _ in each]) if parts else None
        return Block(where, self.offload, step, memory, fitting, bounded, found, stage_bytes)

    @cached_property
    def parts(self) -> frozenset[str]:
        """Parts of a step that some layer or setting has."""
        kinds = [p for k in self.kinds.full for p in (k.forward.parts, k.backward.parts)]
        always = ("recompute", "bubble", "gradients", "parameters", "optimizer", "fixed")
        moved = ("offload",) if self.problem.offload.moves_activations else ()
        return frozenset(chain(always, moved, *kinds))

    def _picked(self, where: np.ndarray) -> Callable[[Number], Number]:
        """Selects the entries of some rows under this way to offload."""

        def pick(value: Number) -> Number:
            if not isinstance(value, np.ndarray) or value.ndim == 0:
                return value
            if value.ndim == 2:
                value = value[self.offload if len(value) > 1 else 0]
            return value.take(where) if len(value) > 1 else value

        return pick

    def _stages(self, where: np.ndarray) -> list[Stage]:
        return [replace(s, share=self.shares) for s in map_numbers(self.rows.stages, self._picked(where))]

    def _stage_memory(
        self, where: np.ndarray, stages: Sequence[Stage], kept: Sequence[KindMemory]
    ) -> list[tuple[Number, Number]]:
        """Bytes on the device and on the host, of each run of stages."""
        structure, settings = self.problem.structure, self.settings
        if structure.software.training.gradients != "freed" or self.problem.facts.split:
            return self._memory_under(self.problem, where, stages, kept)
        # What is alive depends on what is recomputed in more ways than ``kept`` says: one mode at a time.
        shape = len(settings.ladder), len(where)
        found = [(np.empty(shape), np.empty(shape)) for _ in stages]
        for number, mode in enumerate(settings.modes):
            steps = np.flatnonzero(settings.mode == number)
            problem = replace(self.problem, structure=replace(structure, recompute=mode))
            own = [replace(stage, share=self.shares[steps]) for stage in stages]
            for into, each in zip(found, self._memory_under(problem, where, own, kept), strict=True):
                for table, value in zip(into, each, strict=True):
                    table[steps] = value
        return list(found)

    def _memory_under(
        self, problem: Problem, where: np.ndarray, stages: Sequence[Stage], kept: Sequence[KindMemory]
    ) -> list[tuple[Number, Number]]:
        pick, columns = self._picked(where), self.rows.columns.take(where)
        constants = self.evaluator.constants
        each = [
            memory_of_stage(problem, columns, stage, map_numbers(own, pick), kept, constants)
            for stage, own in zip(stages, self.rows.states, strict=True)
        ]
        return [(m.device_bytes, m.host_bytes) for m in each]

    def _time(
        self, where: np.ndarray, kept: Sequence[KindMemory], shares: np.ndarray, mode: np.ndarray, *, parts: bool
    ) -> tuple[StepLoad, StepTime]:
        problem, kinds, constants = self.problem, self.kinds, self.evaluator.constants
        load = map_numbers(self.rows.load, self._picked(where))
        load = offloading(problem, load, kept, constants)
        load = load.recomputing(lambda counts: recomputed_layers(problem, counts, shares))
        keys = self.rows.keys[where]
        if problem.fully_sharded:  # what is gathered depends on the row, and hides under the layers' own parts
            load = replace(load, kinds=map_numbers(kinds.seconds, lambda v: keyed_entries(v, keys, mode)))
            return load, compose_step(load, constants)
        times = some_rows([_by_part(k) for k in kinds.full] if parts else kinds.times, keys, mode)
        return load, compose_step(load, constants, times)


def _spread(value: Number, shape: tuple[int, int], fit: np.ndarray) -> np.ndarray:
    """One entry a plan; NaN for rows that were not timed."""
    if len(fit) == shape[1]:
        return value if np.shape(value) == shape else np.array(np.broadcast_to(value, shape))
    found = np.full(shape, np.nan)
    found[:, fit] = value
    return found


def _by_part(time: KindTime) -> KindTime:
    """The passes of a layer by part; what is computed again is one part of a step."""
    return replace(time, recompute=LayerTime({"recompute": time.recompute.seconds}))
