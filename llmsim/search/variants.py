"""The structural choices of a space: what may branch, and the plans that each choice makes sense for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product

import numpy as np

from ..architecture import Architecture
from ..core.errors import InputError
from ..core.pipelines import USUAL_SCHEDULES, ScheduleName, schedule_facts
from ..core.sharding import ContextKind, RankOrder
from ..hardware.cluster import Cluster
from ..hardware.software import Software
from ..plans.offload import Offload
from ..plans.optimizer import get_optimizer
from ..plans.recompute import FULL, NONE, Recompute, parse_recompute
from ..plans.training import Overlap
from ..training.problem import Problem
from ..training.recompute import recompute_ladder
from .evaluate import Evaluator, Kinds
from .space import CONTEXT_LIMIT, SearchSpace, Table


@dataclass(frozen=True, slots=True)
class Setting:
    """Choices that need no counting of their own: what is recomputed, and what lives on the host."""

    recompute: Recompute
    offload: Offload


@dataclass(frozen=True)
class Settings:
    """All settings of a space, which its variants share: every way to offload with every one to recompute.

    Attributes
    ----------
    offloads, ladder
        The ways. A setting has the number ``offload x len(ladder) + recompute``.
    """

    offloads: tuple[Offload, ...]
    ladder: tuple[Recompute, ...]

    def __len__(self) -> int:
        return len(self.offloads) * len(self.ladder)

    def __getitem__(self, number: int) -> Setting:
        offload, recompute = divmod(number, len(self.ladder))
        return Setting(self.ladder[recompute], self.offloads[offload])

    @cached_property
    def modes(self) -> tuple[Recompute, ...]:
        """What is recomputed, in however many layers."""
        return tuple(dict.fromkeys(map(_mode, self.ladder)))

    @cached_property
    def mode(self) -> np.ndarray:
        """Of each step of the ladder the number of its mode."""
        numbers = {mode: i for i, mode in enumerate(self.modes)}
        return np.array([numbers[_mode(r)] for r in self.ladder])

    @cached_property
    def shares(self) -> np.ndarray:
        """Of each step of the ladder the share of the layers that recompute."""
        return np.array([float(r.layers) if r.mode != "none" else 0.0 for r in self.ladder])

    @cached_property
    def offload(self) -> Offload:
        """The ways to offload as columns of one entry each."""
        columns = (np.array([[getattr(o, n)] for o in self.offloads]) for n in ("activations", "optimizer"))
        return Offload(*columns)


def _mode(recompute: Recompute) -> Recompute:
    return replace(recompute, layers=FULL.layers)


@dataclass(frozen=True)
class Variant:
    """The structural choices that rows of a table are evaluated under.

    Attributes
    ----------
    evaluator
        What it shares with others of its precision and overlap.
    problem
        With the structure but for recomputation, the sharding and the schedule; nothing is offloaded.
    settings
        Each row is a plan under each of them.
    rows
        Of the table that it applies to.
    shard_group
        Ranks that share a state, for hybrid sharding.
    ulysses
        Context-parallel ranks that spread heads, where a ring joins such groups.
    rank_order
        Which ranks are neighbours.
    """

    evaluator: Evaluator
    problem: Problem
    settings: Settings
    rows: np.ndarray
    shard_group: int | None = None
    ulysses: int = 1
    rank_order: RankOrder = "tp-cp-dp-pp"

    @property
    def kinds(self) -> Kinds:
        """Its layer kinds under every mode of recomputation."""
        return self.evaluator.kinds(self.problem, self.settings.modes, self.ulysses)

    @property
    def plans(self) -> int:
        """How many plans it is."""
        return len(self.settings) * len(self.rows)


def space_variants(evaluators: Sequence[Evaluator], space: SearchSpace, optimizer: str) -> list[Variant]:
    """Every combination of structural choices, with the rows that it makes sense for.

    Parameters
    ----------
    evaluators
        One for each precision and overlap.

    Raises
    ------
    InputError
        Where the allowed settings leave no plan.
    """
    if any(space.offload_optimizer) and not get_optimizer(optimizer).elementwise:
        raise InputError(
            "offload_optimizer", space.offload_optimizer, f"0 with {optimizer}, which multiplies matrices", 0
        )
    offloads = [Offload(*shares) for shares in product(space.offload_activations, space.offload_optimizer)]
    first = evaluators[0]
    ladder = space.recompute or recompute_ladder(first.architecture, first.base.software)
    steps = tuple(map(parse_recompute, dict.fromkeys(ladder)))
    settings = Settings(tuple(dict.fromkeys(offloads)), tuple(dict.fromkeys(steps)))
    chosen = [
        replace(v, problem=replace(v.problem, optimizer=optimizer), settings=own)
        for evaluator in evaluators
        for v in _structures(evaluator, space)
        if len(own := _possible_settings(settings, v.problem.structure.overlap))
    ]
    if not chosen:
        raise _nothing_allowed(space, first.base.software, first.cluster)
    return chosen


def _possible_settings(settings: Settings, overlap: Overlap) -> Settings:
    """Settings that go with an overlap: experts' transfers hide beside another micro-batch only where layers are not
    recomputed as a whole (Megatron-Core's ``--overlap-moe-expert-parallel-comm``)."""
    if overlap != "expert":
        return settings
    return replace(settings, ladder=tuple(r for r in settings.ladder if r.mode != FULL.mode))


def _overlapping(evaluator: Evaluator, overlap: Overlap, *, sequence_parallel: bool, alone: bool) -> np.ndarray:
    """Rows that an overlap is possible for; ``alone``: also those that have nothing to overlap.

    Tensor-parallel tiles travel inside a scale-up domain, with the sequence sharded; experts' transfers hide beside
    another micro-batch, for which a pipeline needs chunks (Megatron-Core's arguments say so).
    """
    table = evaluator.table
    mask = np.ones(len(table), bool)
    if overlap == "tensor":
        mask &= (table["tp"] > 1) & sequence_parallel & (table["tp"] <= evaluator.cluster.domain)
        mask |= alone & (table["tp"] == 1)
    if overlap == "expert":
        mask &= (table["ep"] > 1) & ((table["pp"] == 1) | (table["chunks"] > 1))
        mask |= alone & (table["ep"] == 1)
    return mask


def _structures(evaluator: Evaluator, space: SearchSpace) -> Iterator[Variant]:
    """Every combination of structural choices but for recomputation, with the rows that it makes sense for."""
    architecture, table, base, sequence = evaluator.architecture, evaluator.table, evaluator.base, evaluator.sequence
    software, moe = base.software, architecture.has_experts
    tp, cp = table["tp"], table["cp"]
    flags = space.sequence_parallel or (True, False)
    shardings = space.sharding or software.training.choices.sharding
    alone = space.overlap is not None and base.overlap == space.overlap[0]
    for sequence_parallel in flags:
        # Without tensor parallelism the setting says nothing: such plans go with the first.
        shared = (tp > 1) | (sequence_parallel == flags[0])
        shared = shared & _overlapping(evaluator, base.overlap, sequence_parallel=sequence_parallel, alone=alone)
        if sequence_parallel:
            shared = shared & (sequence % (tp * cp) == 0)
        elif moe:
            shared = shared & (tp == 1)  # tokens would be dispatched once for each tensor-parallel rank
        offered = space.context_kind or software.training.choices.context_kind
        for n, (kind, ulysses) in enumerate(_context_choices(offered)):
            mask = shared & ((cp > 1) | (n == 0 and ulysses == 1))
            if kind == "ulysses":
                mask = mask & _heads_divide(architecture, tp * cp)
            if ulysses > 1:
                mask = mask & (cp > ulysses) & (cp % ulysses == 0) & _heads_divide(architecture, tp * ulysses)
            structure = replace(base, sequence_parallel=sequence_parallel, context_kind=kind, recompute=NONE)
            for sharding in shardings:
                only = sharding == "zero3" and set(shardings) <= {"zero3", "hsdp"}
                problem = Problem(architecture, evaluator.cluster, structure, sharding)
                for variant in _scheduled(evaluator, problem, mask, only, space.schedule or USUAL_SCHEDULES):
                    yield from _ordered(replace(variant, ulysses=ulysses), space.rank_order)


def _ordered(variant: Variant, orders: Sequence[RankOrder]) -> Iterator[Variant]:
    """A variant under every order of ranks. Without a pipeline all are one and go with the first; the one with the
    pipeline inside wants expert ranks in the places of context-parallel ones."""
    table, facts = variant.evaluator.table, variant.problem.facts
    pp, experts = table["pp"][variant.rows], table["ep"] * table["etp"]
    for order in orders:
        mask = np.ones(len(pp), bool) if order == orders[0] else pp > 1
        if order == "tp-cp-pp-dp":
            fits = np.full(len(pp), facts.copies == 1 and variant.problem.sharding != "hsdp")
            if variant.evaluator.architecture.has_experts:
                fits &= (experts == table["tp"] * table["cp"])[variant.rows]
            mask &= fits | (pp == 1)
        if mask.any():
            yield replace(variant, rows=variant.rows[mask], rank_order=order)


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
        "rank_order": "tp-cp-pp-dp wants expert ranks in the places of context-parallel ones, and neither hsdp nor two "
        "copies of the parameters",
        "sharding": "zero3 and hsdp go without a pipeline, and hsdp with a multiple of the "
        f"{cluster.domain} devices of a scale-up domain as data-parallel ranks",
        "context_kind": "ulysses needs key/value heads that context_parallel x tensor_parallel divides, "
        "ulysses+ring heads that a part of them does",
        "overlap": "tensor needs tensor_parallel inside a scale-up domain with sequence_parallel, expert needs "
        "expert_parallel, chunks where there is a pipeline, and no full recomputation",
        "sequence_parallel": "it needs a sequence that tensor_parallel x context_parallel divides, and experts under "
        "tensor parallelism need it",
        "schedule": "each has its number of chunks per stage (one, two or several); dualpipe takes even numbers of "
        "stages and micro-batches, and like dualpipe-v at least two micro-batches a stage",
    }
    field = next((name for name in rules if getattr(space, name) and name != "rank_order"), "sharding")
    if space.rank_order == ("tp-cp-pp-dp",):
        field = "rank_order"
    value = getattr(space, field) or getattr(software.training.choices, field)
    near = {"schedule": "1f1b", "rank_order": "tp-cp-dp-pp", "overlap": "profile"}.get(field)
    return InputError(field, value, rules[field], near, why="leaves no plan")


def _heads_divide(architecture: Architecture, ways: np.ndarray) -> np.ndarray:
    """Where a number of ways divides the key/value heads of every layer that attends."""
    mask = np.ones(len(ways), bool)
    for kind in (*architecture.kinds.values(), *architecture.mtp):
        if "heads" in kind.sizes:
            mask &= kind.sizes.get("kv_heads", kind.sizes["heads"]) % ways == 0
    return mask


NO_SETTINGS = Settings((), ())


def _scheduled(
    evaluator: Evaluator, problem: Problem, mask: np.ndarray, alone: bool, schedules: Sequence[ScheduleName]
) -> Iterator[Variant]:
    """One variant a schedule; full sharding goes without a pipeline, and without ranks to share with only where
    nothing else is allowed. Without a pipeline all schedules are one, and go by the name of 1F1B."""
    group: int | None = None
    table = evaluator.table
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
            yield Variant(evaluator, replace(problem, schedule=schedule), NO_SETTINGS, rows, group)


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
