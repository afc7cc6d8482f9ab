"""Plans that spread layers, or recomputation, over the stages in other ways than evenly: which of them may be faster.

The columns of a search know even spreads only. Whatever the spread, a plan takes at least what
:mod:`~llmsim.training.uneven_partition` says, and where no spread fits it is out. A bound from sums alone comes first;
the one on the slowest device, which costs more, where that leaves a plan open.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np

from ..architecture import body_kinds
from ..core.numeric import Number, total
from ..core.records import map_numbers, stack_records
from ..plans.offload import Offload
from ..plans.recompute import FULL, NONE, Recompute
from ..plans.training import TrainingPlan
from ..timing.layer_time import KindTime, LayerTime
from ..training.build_load import offloading
from ..training.compose import StepLoad
from ..training.memory import allocated_room
from ..training.uneven_partition import (
    Layers,
    Together,
    kind_states,
    pipeline_at_least,
    slowest_device,
    together,
    whole_load,
)
from .blocks import BLOCK
from .evaluate import some_rows
from .select import variant_plan
from .space import SearchSpace
from .variants import Settings, Variant

MOST_KEPT = 20_000
"""Plans kept: more than are simulated to prove that none is faster than the winner."""
EXACT = 1 - 1e-9
"""A bound is this much lower than its formula, for rounding."""


@dataclass(frozen=True)
class Ways:
    """The ways of a space to spread that are not even, of one schedule.

    Attributes
    ----------
    settings
        The settings of the space that other spreads of layers go with, then those that fitted depths go with.
    uniform
        How many the former are.
    layers
        Allowed spreads of layers.
    """

    settings: Settings
    uniform: int
    layers: tuple[str, ...]

    @property
    def fitted(self) -> np.ndarray:
        """Of each step of the ladder, whether its layers are fitted."""
        return np.arange(len(self.settings.ladder)) >= self.uniform

    @property
    def plans(self) -> np.ndarray:
        """Of each step of the ladder, how many plans a row is."""
        return np.where(self.fitted, len(self.layers), len(self._uneven))

    @property
    def _uneven(self) -> tuple[str, ...]:
        return tuple(name for name in self.layers if name != "even")

    def of(self, plan: TrainingPlan, step: int) -> Iterator[TrainingPlan]:
        """The plans that an even one with a step of the ladder stands for."""
        for layers in self.layers if step >= self.uniform else self._uneven:
            depths = "fitted" if step >= self.uniform else "uniform"
            yield plan.replace(layers_per_stage=layers, recompute_layers=depths)


def space_ways(space: SearchSpace, settings: Settings, *, copies: int, whole: bool = True) -> Ways:
    """The ways to spread of a space.

    Parameters
    ----------
    settings
        Of the space.
    copies
        Of the model in the pipeline: two go without fitted depths.
    whole
        Whether layers may be recomputed as a whole.
    """
    uneven = "uniform" in space.recompute_layers and set(space.layers_per_stage) != {"even"}
    ladder = settings.ladder if uneven else ()
    fitted: dict[Recompute, None] = {}
    if "fitted" in space.recompute_layers and copies == 1:
        modes = (FULL if mode.mode == NONE.mode else mode for mode in settings.modes)
        fitted = dict.fromkeys(mode for mode in modes if whole or mode.mode != FULL.mode)
    layers = tuple(dict.fromkeys(space.layers_per_stage))
    return Ways(Settings(settings.offloads, (*ladder, *fitted)), len(ladder), layers)


@dataclass
class Spreads:
    """Plans that other spreads may make the fastest.

    Attributes
    ----------
    variants, ways
        Structural choices, and how each may spread; None where it cannot.
    pieces
        Number of the variant, of the setting in its ways, and of the row; the bound on the time; how many plans it is.
    plans, bounded, too_large
        See :class:`~llmsim.search.answer.SpreadCounts`.
    dropped, left_s
        Plans that were too many to keep, and the least bound of them.
    """

    variants: Sequence[Variant]
    ways: list[Ways | None]
    pieces: list[tuple[np.ndarray, ...]] = field(default_factory=list)
    plans: int = 0
    too_large: int = 0
    bounded: int = 0
    dropped: int = 0
    left_s: float = np.inf

    def table(self) -> tuple[np.ndarray, ...]:
        """What was kept, the least bound first."""
        if not self.pieces:
            return tuple(np.zeros(0, dtype) for dtype in (int, int, int, float, int))
        columns = stack_records(self.pieces)
        order = np.argsort(columns[3], kind="stable")
        return tuple(column[order] for column in columns)

    def expanded(self, variant: int, setting: int, row: int, template: TrainingPlan) -> Iterator[TrainingPlan]:
        """The plans that one entry stands for."""
        ways = self.ways[variant]
        if ways is not None:
            plan = variant_plan(self.variants[variant], row, ways.settings[setting], template)
            yield from ways.of(plan, setting % len(ways.settings.ladder))

    def _crowded(self) -> None:
        """Drop what is beyond the number of plans that are looked at."""
        if sum(len(piece[0]) for piece in self.pieces) <= 4 * MOST_KEPT:
            return
        table = self.table()
        self.dropped += int(table[4][MOST_KEPT:].sum())
        self.left_s = min(self.left_s, float(table[3][MOST_KEPT]))
        self.pieces = [tuple(column[:MOST_KEPT] for column in table)]

    def add(self, number: int, best_s: float) -> None:
        """Take up the plans of a variant that may be faster than a time."""
        ways, variant = self.ways[number], self.variants[number]
        if ways is None:
            return
        variant = replace(variant, rows=variant.rows[variant.evaluator.table["pp"][variant.rows] > 1])
        if not len(variant.rows):
            return
        steps = len(ways.settings.ladder)
        for n, offload in enumerate(ways.settings.offloads):
            bounds = _Bounds(replace(variant, settings=ways.settings), ways, offload)
            for start in range(0, len(variant.rows), max(64, BLOCK // steps)):
                where = np.arange(start, min(start + max(64, BLOCK // steps), len(variant.rows)))
                block = bounds.block(where)
                step, position = np.nonzero(block.quick_s < best_s)
                sharp = block.sharp_s(step, position)
                open_ = sharp < best_s
                each = ways.plans
                self.plans += int(each.sum()) * len(where)
                self.too_large += int(each[step[np.isinf(sharp)]].sum())
                self.bounded += int(each.sum()) * len(where) - int(each[step[open_ | np.isinf(sharp)]].sum())
                step, position, sharp = step[open_], position[open_], sharp[open_]
                setting, row = step + n * steps, variant.rows[where[position]]
                self.pieces.append((np.full(len(step), number), setting, row, sharp, each[step]))
                self._crowded()


def other_spreads(variants: Sequence[Variant], space: SearchSpace, best_s: float) -> Spreads | None:
    """The plans of a space with other spreads than even ones that may be faster than a time; None where it has none."""
    if space.spreads_evenly:
        return None
    every = [
        space_ways(space, v.settings, copies=v.problem.facts.copies, whole=v.problem.structure.overlap != "expert")
        for v in variants
    ]
    found = Spreads(variants, [ways if len(ways.settings.ladder) else None for ways in every])
    for number in range(len(variants)):
        found.add(number, best_s)
    return found


@dataclass(frozen=True)
class _Bounds:
    """A variant under one way to offload."""

    variant: Variant
    ways: Ways
    offload: Offload

    @cached_property
    def whole(self) -> tuple[StepLoad, list[Number]]:
        """What a step has to do if one device had all layers, and bytes of a layer of each kind, for each row."""
        variant, evaluator = self.variant, self.variant.evaluator
        rows, problem = variant.rows, replace(variant.problem, offload=self.offload)
        columns = evaluator.columns(variant.shard_group, variant.ulysses, variant.rank_order).take(rows)
        parameters = some_rows(evaluator.parameters(problem, variant.shard_group), rows)
        load = whole_load(problem, columns, parameters, evaluator.constants)
        return load, kind_states(problem, columns, parameters)

    def block(self, where: np.ndarray) -> _Block:
        """Some rows of the variant."""
        variant, evaluator = self.variant, self.variant.evaluator
        problem = replace(variant.problem, offload=self.offload)
        kinds, known = variant.kinds, evaluator.keys(variant.ulysses).rows
        rows = variant.rows[where]
        keys, mode = rows if known is None else known[rows], variant.settings.mode
        load, states = self.whole
        memories = some_rows(kinds.memories, keys, mode)
        load = offloading(problem, map_numbers(load, lambda v: _some(v, where)), memories, evaluator.constants)
        times = some_rows(kinds.times, keys, mode)
        share, fitted = variant.settings.shares[:, None], self.ways.fitted[:, None]
        summed = together(problem, load, times, share, fitted, evaluator.constants)
        if problem.facts.paired:
            times = [KindTime(_without_experts(t.forward), _without_experts(t.backward), t.recompute) for t in times]
        return _Block(
            self, rows, summed, times, [(m.plain, m.change) for m in memories], [_some(v, where) for v in states]
        )


@dataclass(frozen=True)
class _Block:
    """Some rows under every step of the ladder; numbers are ``[step, row]``, or what goes with that."""

    bounds: _Bounds
    rows: np.ndarray
    summed: Together
    times: Sequence[KindTime]
    kept: Sequence[tuple[Number, Number]]
    states: Sequence[Number]

    def _column(self, name: str) -> np.ndarray:
        column: np.ndarray = self.bounds.variant.evaluator.table[name][self.rows]
        return column

    @cached_property
    def shape(self) -> tuple[int, int]:
        return len(self.bounds.ways.settings.ladder), len(self.rows)

    def _step_s(self, pick: Callable[[Number], Number], slowest_s: Number) -> Number:
        """Least seconds of a step whose slowest device takes some."""
        pp, m = pick(self._column("pp")), pick(self._column("micro_batches"))
        passes_s, once_s, fixed_s = (pick(v) for v in (self.summed.passes_s, self.summed.once_s, self.summed.fixed_s))
        pipeline_s = pipeline_at_least(self.bounds.variant.problem.schedule, slowest_s, passes_s, m, pp)
        return (pipeline_s + once_s / pp + fixed_s) * EXACT

    @cached_property
    def quick_s(self) -> np.ndarray:
        """The bound from sums alone."""
        return np.broadcast_to(self._step_s(lambda v: v, 0.0), self.shape)

    def sharp_s(self, step: np.ndarray, position: np.ndarray) -> np.ndarray:
        """The bound on some entries that knows the slowest device; infinite where no spread fits."""
        found, pp = np.empty(len(step)), self._column("pp")[position]
        for size in np.unique(pp):
            every = np.flatnonzero(pp == size)
            for own in np.array_split(every, -(-len(every) * int(size) // (4 * BLOCK))):
                found[own] = self._sharp(int(size), step[own], position[own])
        return found

    def _sharp(self, pp: int, step: np.ndarray, position: np.ndarray) -> np.ndarray:
        variant = self.bounds.variant
        evaluator, problem = variant.evaluator, replace(variant.problem, offload=self.bounds.offload)
        body, constants = body_kinds(problem.architecture), evaluator.constants

        def pick(value: Number) -> np.ndarray:
            picked: np.ndarray = np.broadcast_to(value, self.shape)[step, position]
            return picked

        free = self.bounds.ways.fitted[step]
        share = np.where(free, 0.0, variant.settings.shares[step])
        again = [pick(t.recompute.seconds) for t in self.times[:body]]
        both = [pick(t.forward.seconds + t.backward.seconds) for t in self.times]
        kept = [(pick(plain), pick(change)) for plain, change in self.kept[:body]]
        layers = Layers(
            seconds=[*(s + share * a for s, a in zip(both, again, strict=False)), *both[body:]],
            again_s=[free * a for a in again],
            states=[pick(v) for v in self.states],
            kept=[plain + share * change for plain, change in kept],
            change=[free * change for _, change in kept],
        )
        room = float(allocated_room(evaluator.limit, constants) - constants.stack["memory/workspace_bytes"])
        chunks, m = pick(self._column("chunks")), pick(self._column("micro_batches"))
        slowest = slowest_device(problem, layers, pp, chunks, m, room * (1 + 1e-9))
        return np.where(np.isfinite(slowest), self._step_s(pick, np.where(np.isfinite(slowest), slowest, 0.0)), np.inf)


def _some(value: Number, where: np.ndarray) -> Number:
    return value[where] if isinstance(value, np.ndarray) and value.ndim and len(value) > 1 else value


def _without_experts(time: LayerTime) -> LayerTime:
    """What of a pass no other pass can hide."""
    return LayerTime({"layer": total(v for name, v in time.parts.items() if name != "ep")})
