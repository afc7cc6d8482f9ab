"""Preparation: what a table of plans has to do, counted and rated in isolation, before anything overlaps.

Each sub-formula is evaluated on the distinct tuples of the columns that it depends on and gathered back to the rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ..architecture import Architecture
from ..core.shim import Number, total
from ..hardware.cluster import Cluster
from ..hardware.network import NO_TRAFFIC, collective_time
from ..layers.base import LayerKind
from ..plans.optimizer import get_optimizer
from .columns import Columns, kind_sizes
from .compose import StageLoad, StepLoad, UnitTraffic
from .constants import StepConstants
from .schedules import ScheduleName
from .seconds import KindSeconds, kind_seconds
from .sharding import LocalParameters, exchange, local_parameters, replica_reduce, updated_parameters
from .stages import Stage, body_kinds, model_kinds, stages
from .structure import Structure, kind_terms


@dataclass(frozen=True)
class Problem:
    """What the plans of a table have in common.

    Attributes
    ----------
    architecture, cluster, structure
        The model, the machine, and the structural half of the plans.
    sharding
        ``ddp``, ``zero1``, ``zero2``, ``zero3`` or ``hsdp``.
    schedule
        Pipeline schedule.
    optimizer
        Its name.
    """

    architecture: Architecture
    cluster: Cluster
    structure: Structure
    sharding: str = "zero1"
    schedule: ScheduleName = "1f1b"
    optimizer: str = "adamw"

    @property
    def fully_sharded(self) -> bool:
        """Whether parameters themselves are sharded."""
        return self.sharding in ("zero3", "hsdp")


@dataclass
class Prepared:
    """Plans of one (pp, chunks), ready to be composed.

    Attributes
    ----------
    rows
        Their numbers in the table.
    columns
        Their values.
    stages
        Their stages, in runs.
    parameters
        Of one layer of each kind on one rank.
    load
        What the step has to do.
    """

    rows: np.ndarray
    columns: Columns
    stages: tuple[Stage, ...]
    parameters: list[LocalParameters]
    load: StepLoad


def prepare(problem: Problem, columns: Columns, constants: StepConstants) -> Iterator[Prepared]:
    """Prepare a table of plans, one (pp, chunks) after the other."""
    kinds = model_kinds(problem.architecture)
    seconds = _seconds_by_key(problem, columns, constants, kinds)
    size = len(columns)
    pp, chunks = (np.broadcast_to(v, (size,)) for v in (columns.pp, columns.chunks))
    for p, v in np.unique(np.stack([pp, chunks]), axis=1).T:
        rows = np.flatnonzero((pp == p) & (chunks == v))
        whole = len(rows) == size
        own = replace(columns if whole else columns.take(rows), pp=int(p), chunks=int(v))
        yield _prepare_pipeline(problem, rows, own, seconds if whole else [_take(k, rows) for k in seconds], constants)


_TIME_KEYS = ("sequence", "micro_batch", "tp", "cp", "ep", "etp", "imbalance")


def _seconds_by_key(
    problem: Problem, columns: Columns, constants: StepConstants, kinds: Sequence[LayerKind]
) -> list[KindSeconds]:
    """Seconds of each layer kind, evaluated once for each distinct combination of the columns that they depend on."""
    body = body_kinds(problem.architecture)
    size = len(columns)
    table, inverse = columns, None
    if size > 1:
        keys = np.stack([np.broadcast_to(np.asarray(getattr(columns, k), dtype=float), (size,)) for k in _TIME_KEYS])
        _, first, inverse = np.unique(keys, axis=1, return_index=True, return_inverse=True)
        table = columns.take(first)
    found = [
        kind_seconds(kind, problem.structure, table, constants, recomputes=i < body) for i, kind in enumerate(kinds)
    ]
    return found if inverse is None else [_take(k, inverse.reshape(-1)) for k in found]


def _take(kind: KindSeconds, rows: np.ndarray) -> KindSeconds:
    return kind.map(lambda v: v[rows] if isinstance(v, np.ndarray) and v.ndim else v)


def _prepare_pipeline(
    problem: Problem, rows: np.ndarray, columns: Columns, seconds: list[KindSeconds], c: StepConstants
) -> Prepared:
    architecture, structure = problem.architecture, problem.structure
    kinds, body = model_kinds(architecture), body_kinds(architecture)
    runs = stages(architecture, int(columns.pp), int(columns.chunks))
    parameters = kind_parameters(problem, columns)
    share = structure.recompute.layers if structure.recompute.mode != "none" else 0
    recomputed = [float(share) if i < body else 0.0 for i in range(len(kinds))]
    load = StepLoad(
        seconds,
        [_unit(problem, p, columns, c) for p in parameters],
        [_stage(problem, stage, parameters, recomputed, columns, c) for stage in runs],
        collective_time("send_recv", hop_bytes(problem, columns), *columns.group(("pp",)), c.tiers),
        columns.micro_batches,
        columns.pp,
        columns.chunks,
        problem.schedule,
    )
    return Prepared(rows, columns, runs, parameters, load)


def kind_parameters(problem: Problem, columns: Columns) -> list[LocalParameters]:
    """Parameters of one layer of each kind on one rank.

    What two ends share (a tied table) belongs to the embedding; a pipeline keeps a copy at its other end.
    """
    architecture, structure = problem.architecture, problem.structure
    body = body_kinds(architecture)
    shared: frozenset[str] = frozenset()
    if int(columns.pp) == 1:
        own = kind_terms(architecture.embedding, structure, recomputes=False).parameters
        shared = frozenset(p.name for p in own)
    return [
        local_parameters(
            kind_terms(kind, structure, recomputes=i < body).parameters,
            kind_sizes(kind, columns, structure),
            columns,
            padded=structure.software.padded_shards,
            skip=shared if i > body else frozenset(),
        )
        for i, kind in enumerate(model_kinds(architecture))
    ]


def hop_bytes(problem: Problem, columns: Columns) -> Number:
    """What one rank sends to the next stage for one micro-batch: its part of the residual stream."""
    part = columns.cp * (columns.tp if problem.structure.sequence_parallel else 1)
    elements = columns.micro_batch * columns.sequence * problem.architecture.hidden
    return problem.structure.formats()["activation"].bytes(elements) / part


def _unit(problem: Problem, p: LocalParameters, columns: Columns, c: StepConstants) -> UnitTraffic:
    """What full sharding moves for one layer and micro-batch."""
    if not problem.fully_sharded:
        return UnitTraffic()
    formats = problem.structure.formats()
    moved = exchange(
        problem.sharding,
        p.dense_shard * columns.shard,
        p.expert_shard * columns.edp,
        columns,
        c.tiers,
        parameter=formats["activation"],
        reduce=formats["reduce"],
    )
    each = problem.structure.software.defaults.data_parallel_reduce == "microbatch"
    reduce = moved.reduce if each else moved.reduce.scaled(1 / columns.micro_batches)
    return UnitTraffic(moved.gather, moved.gather + reduce)


def _stage(
    problem: Problem,
    stage: Stage,
    parameters: Sequence[LocalParameters],
    recomputed: Sequence[float],
    columns: Columns,
    c: StepConstants,
) -> StageLoad:
    dense = total(p.dense * n for p, n in zip(parameters, stage.counts, strict=True) if n)
    expert = total(p.expert * n for p, n in zip(parameters, stage.counts, strict=True) if n)
    gather, reduce = NO_TRAFFIC, NO_TRAFFIC
    formats = problem.structure.formats()
    if problem.sharding == "hsdp":
        reduce = replica_reduce(dense, columns, c.tiers, formats["reduce"])
    elif problem.sharding != "zero3":
        moved = exchange(
            problem.sharding, dense, expert, columns, c.tiers, parameter=formats["activation"], reduce=formats["reduce"]
        )
        gather, reduce = moved.gather, moved.reduce
    software, compute = problem.structure.software, problem.structure.recipe.compute
    bytes_each = get_optimizer(problem.optimizer).traffic_bytes(software.formats, compute)
    updated = updated_parameters(problem.sharding, parameters, stage.counts, columns)
    return StageLoad(
        stage.counts,
        [n * r for n, r in zip(stage.counts, recomputed, strict=True)],
        stage.repeats,
        gather,
        reduce,
        updated * bytes_each / (c.high.bandwidth * c.high.memory_efficiency),
    )
