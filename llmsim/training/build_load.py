"""Preparation: what a table of plans has to do, counted and rated in isolation, before anything overlaps.

Each sub-formula is evaluated on the distinct tuples of the columns that it depends on and gathered back to the rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

from ..architecture import body_kinds, model_kinds
from ..core.numeric import Number, maximum, total
from ..core.records import where_numbers
from ..hardware.network import NO_TRAFFIC, WireTime, collective_time
from ..plans.optimizer import get_optimizer
from ..timing.columns import Columns, kind_sizes
from ..timing.kernel_times import KindRates, KindSeconds
from ..timing.layer_time import UnitTraffic
from ..timing.model_rates import known_rates
from ..timing.step_constants import StepConstants
from ..timing.structure import layer_terms
from .compose import StageLoad, StepLoad
from .problem import Problem
from .saved_activations import KindMemory, kept_transfers, model_memory
from .sharding import NOTHING_FROZEN, Exchange, LocalParameters, exchange, local_parameters, updated_shares
from .split import PartLoad
from .stages import Stage, part_table
from .structure import activation_terms
from .update import WHOLE_BYTES, Update, stage_update, updated_elements


@dataclass
class Prepared:
    """A table of plans, ready to be composed.

    Attributes
    ----------
    columns
        Their values.
    stages
        Their stages, in runs.
    parameters
        Of one layer of each kind on one rank.
    load
        What the step has to do.
    """

    columns: Columns
    stages: tuple[Stage, ...]
    parameters: list[LocalParameters]
    load: StepLoad


def build_load(problem: Problem, columns: Columns, constants: StepConstants) -> Prepared:
    """Prepare a table of plans (or a single one)."""
    runs = problem.stages(columns)
    parameters = kind_parameters(problem, columns)
    seconds = model_seconds(problem, known_rates(problem.architecture, problem.structure.timed, columns, constants))
    load = step_load(problem, columns, runs, parameters, seconds, constants)
    if problem.offload.moves_activations:
        load = offloading(problem, load, model_memory(problem, columns), constants)
    return Prepared(columns, runs, parameters, load)


def step_load(
    problem: Problem,
    columns: Columns,
    runs: Sequence[Stage],
    parameters: Sequence[LocalParameters],
    seconds: Sequence[KindSeconds],
    constants: StepConstants,
) -> StepLoad:
    """What a step has to do, from its layers' seconds and parameters."""
    body = body_kinds(problem.architecture)
    return StepLoad(
        seconds,
        [_unit(problem, p, columns, constants, root=i >= body) for i, p in enumerate(parameters)],
        [_stage(problem, stage, parameters, columns, constants) for stage in runs],
        collective_time("send_recv", hop_bytes(problem, columns), *columns.group(("pp",)), constants.tiers),
        columns.micro_batches,
        columns.pp,
        columns.chunks,
        problem.schedule,
        _parts(problem, columns) if problem.facts.split else (),
    )


def offloading(problem: Problem, load: StepLoad, memories: Sequence[KindMemory], constants: StepConstants) -> StepLoad:
    """The same step with the transfers of activations that live on the host."""
    share = problem.offload.activations
    if not problem.offload.moves_activations:
        return load
    hidden = constants.overlap["offload"]
    return replace(
        load, kept=kept_transfers(memories[: body_kinds(problem.architecture)], share, constants.host_bandwidth, hidden)
    )


def _parts(problem: Problem, columns: Columns) -> list[PartLoad]:
    shape = columns.pp, columns.chunks
    runs = part_table(problem.architecture, *shape, problem.schedule, problem.layout, problem.depths)
    return [PartLoad(r.counts, recomputed_layers(problem, r.counts, r.share), r.first, r.repeats) for r in runs]


def state_columns(problem: Problem, columns: Columns) -> Columns:
    """The columns as model states see them: a schedule that keeps two copies of each parameter in the pipeline makes
    twice as many ranks that sum their gradients and may share a state.

    They are counted as data-parallel neighbours, although the copies lie in different stages.
    """
    copies = problem.facts.copies
    return columns if copies == 1 else replace(columns, dp=columns.dp * copies, shard=columns.shard * copies)


def recomputed_layers(problem: Problem, counts: Sequence[Number], share: Number | None = None) -> list[Number]:
    """How many of a stage's layers of each kind compute their forward again; the ends never do.

    Parameters
    ----------
    share
        Of the stage's layers, where it has one of its own.
    """
    body, share = body_kinds(problem.architecture), recomputed_share(problem, share)
    return [n * share if i < body else 0 for i, n in enumerate(counts)]


def recomputed_share(problem: Problem, share: Number | None = None) -> Number:
    """Of a stage's layers, how many recompute: its own share, else the plan's."""
    if share is not None:
        return share
    recompute = problem.structure.recompute
    return float(recompute.layers) if recompute.mode != "none" else 0.0


def model_seconds(problem: Problem, rates: Sequence[KindRates]) -> list[KindSeconds]:
    """Seconds of one layer of each kind."""
    body = body_kinds(problem.architecture)
    kinds = model_kinds(problem.architecture)
    again = [
        activation_terms(k, problem.structure, recomputes=i < body).recomputing.recomputed for i, k in enumerate(kinds)
    ]
    # The ends of a model run their backward whole: what a head would have to keep are the gradients of its logits.
    split = [problem.facts.split and i < body for i in range(len(kinds))]
    return [rate.seconds(frozenset(own), split=s) for rate, own, s in zip(rates, again, split, strict=True)]


def kind_parameters(problem: Problem, columns: Columns) -> list[LocalParameters]:
    """Parameters of one layer of each kind on one rank.

    What two ends share (a tied table) belongs to the embedding; a pipeline keeps a copy at its other end, unless both
    ends are on one device.
    """
    architecture, structure = problem.architecture, problem.structure
    columns = state_columns(problem, columns)
    body = body_kinds(architecture)
    embedding = layer_terms(architecture.embedding, structure).parameters
    shared = frozenset(p.name for p in embedding)
    found: list[LocalParameters] = []
    for i, kind in enumerate(model_kinds(architecture)):
        parameters = layer_terms(kind, structure).parameters
        local = partial(
            local_parameters,
            sizes=kind_sizes(kind, columns, structure),
            columns=columns,
            software=structure.software,
            optimizer=problem.optimizer,
            compute=structure.recipe.compute,
        )
        own = local(parameters)
        if i > body and any(p.name in shared for p in parameters):
            alone = local([p for p in parameters if p.name not in shared])
            own = where_numbers(columns.pp > 1, own, alone) if problem.facts.shape == "loop" else alone
        found.append(own)
    return found


def hop_bytes(problem: Problem, columns: Columns) -> Number:
    """What one rank sends to the next stage for one micro-batch: its part of the residual stream."""
    part = columns.cp * (columns.tp if problem.structure.sequence_parallel else 1)
    elements = columns.micro_batch * columns.sequence * problem.architecture.hidden
    return problem.structure.formats()["activation"].bytes(elements) / part


def _unit(problem: Problem, p: LocalParameters, columns: Columns, c: StepConstants, *, root: bool) -> UnitTraffic:
    """What full sharding moves for one layer and micro-batch; the root unit holds both ends, and some stacks do not
    free it after forward."""
    if not problem.fully_sharded:
        return UnitTraffic()
    formats = problem.structure.formats()

    def exchanged(dense: Number, expert: Number) -> Exchange:
        both = dense * columns.shard, expert * columns.edp
        parameter, reduce = formats["activation"], formats["reduce"]
        return exchange(problem.sharding, *both, columns, c.tiers, parameter=parameter, reduce=reduce)

    moved = exchanged(p.dense_shard, p.expert_shard)
    if p.frozen is not NOTHING_FROZEN:
        gathered = exchanged(p.dense_shard + p.frozen.dense_shard, p.expert_shard + p.frozen.expert_shard).gather
        moved = replace(moved, gather=gathered)
    each = problem.structure.software.training.defaults.data_parallel_reduce == "microbatch"
    reduce = moved.scatter if each else moved.scatter.scaled(1 / columns.micro_batches)
    if root and not problem.structure.software.training.reshard_root:
        return UnitTraffic(moved.gather, reduce)
    return UnitTraffic(moved.gather, moved.gather + reduce)


def _stage(
    problem: Problem,
    stage: Stage,
    parameters: Sequence[LocalParameters],
    columns: Columns,
    c: StepConstants,
) -> StageLoad:
    copies, counts = problem.facts.copies, stage.counts
    columns = state_columns(problem, columns)
    dense = total(p.dense * n for p, n in zip(parameters, stage.counts, strict=True))
    expert = total(p.expert * n for p, n in zip(parameters, stage.counts, strict=True))
    gather, reduce = NO_TRAFFIC, NO_TRAFFIC
    formats = problem.structure.formats()
    if problem.sharding != "zero3":
        moved = exchange(
            problem.sharding, dense, expert, columns, c.tiers, parameter=formats["activation"], reduce=formats["reduce"]
        )
        # What full sharding moves inside its groups goes with the layers.
        gather, reduce = moved.gather, moved.scatter + moved.replicate
        if problem.fully_sharded:
            gather, reduce = NO_TRAFFIC, moved.replicate
    shares = updated_shares(problem.sharding, parameters, columns)
    update = stage_update(
        shares,
        stage.counts,
        problem.structure.software.training.formats,
        problem.structure.recipe.compute,
    )
    if copies > 1:  # each copy takes its share of the micro-batches
        counts = tuple(n / copies for n in counts)
    here = 1 - problem.offload.optimizer
    return StageLoad(
        counts,
        recomputed_layers(problem, counts, stage.share),
        stage.repeats,
        gather,
        reduce,
        here * update.traffic_bytes / (c.high.bandwidth * c.high.memory_efficiency),
        {c.high_class: here * update.flops / (c.high.peak * c.high.gemm_efficiency)},
        _whole_matrices(problem, update, columns, c),
        _host_update(problem, update, updated_elements(shares, stage.counts), c),
        stage.lead if problem.schedule == "interleaved" else None,
    )


def _host_update(problem: Problem, update: Update, elements: Number, c: StepConstants) -> Number:
    """Seconds of the update on the host: gradients come down, states pass through its memory, parameters go up, tensor
    by tensor, so that the slowest of the three decides (Ren 2021, arXiv:2101.06840, section 4)."""
    share, formats = problem.offload.optimizer, problem.structure.formats()
    if not problem.offload.moves_states:
        return 0
    down = formats["gradient"].bytes(elements) / c.host_bandwidth
    up = formats["weight"].bytes(elements) / c.host_bandwidth
    return share * maximum(down, up, update.traffic_bytes / c.host_memory_bandwidth)


def _whole_matrices(problem: Problem, update: Update, columns: Columns, c: StepConstants) -> WireTime:
    """What is gathered so that matrices are whole where they are updated, if states are sharded."""
    if problem.sharding == "ddp" or get_optimizer(problem.optimizer).uniform:
        return NO_TRAFFIC
    dense, expert = columns.group(("ulysses", "cp", "dp")), columns.group(("edp",))
    if problem.sharding == "hsdp":
        dense = columns.shard, dense[1]
    return collective_time(
        "all_gather", WHOLE_BYTES * update.whole_dense * dense[0], *dense, c.tiers
    ) + collective_time("all_gather", WHOLE_BYTES * update.whole_expert * expert[0], *expert, c.tiers)
