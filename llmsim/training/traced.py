"""Any module as a table of operators: what was counted of it while torch ran it, and what a step of it takes.

The table is made by :func:`llmsim.measure.trace.trace`; nothing here needs torch. Its operators are rated and composed
with the same formulas as a layer kind's; data parallelism and a pipeline of its blocks are simulated, what splits
matrices is not, since a trace does not know what its dimensions mean.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import accumulate, pairwise
from math import prod
from pathlib import Path
from typing import Any, Literal

from ..core.arguments import of_kind, text, whole
from ..core.data_parallel import ShardingName
from ..core.errors import InputError
from ..core.formats import Format, get_format
from ..core.units import counted
from ..hardware.cluster import Cluster
from ..hardware.kernels import attention_seconds, gemm_seconds, memory_seconds
from ..hardware.network import NO_TRAFFIC, WireTime, collective_time
from ..hardware.software import Formats
from ..plans.optimizer import get_optimizer, moment_bytes, traffic_bytes
from ..timing.columns import Columns
from ..timing.kernel_times import KindSeconds, PhaseSeconds
from ..timing.layer_time import UnitTraffic, kind_time
from ..timing.step_constants import StepConstants, step_constants
from ..timing.structure import Structure
from .balance import split_layers
from .closed_forms import in_flight
from .compose import StageLoad, StepLoad, StepTime, compose_step
from .memory import memory_limit, seen_memory, with_headroom
from .pipeline_time import ChunkTimes
from .sharding import exchange

SCHEMA = "llmsim.traced-result/1"
TracedKind = Literal["product", "attention", "memory"]


@dataclass(frozen=True)
class TracedOperator:
    """One operator as it was executed.

    Attributes
    ----------
    block, name, phase
        Block of the module, torch's name, ``forward`` or ``backward``.
    kind
        ``product``, ``attention`` or ``memory``.
    flops, traffic_bytes
        Multiply-adds x 2; inputs and outputs once each.
    rows, columns, depth, groups
        Of a product, one of ``groups``; attention: query rows x heads and the width of a head in ``depth``.
    """

    block: str
    name: str
    phase: Literal["forward", "backward"]
    kind: TracedKind
    flops: int = 0
    traffic_bytes: int = 0
    rows: int = 0
    columns: int = 0
    depth: int = 0
    groups: int = 1


@dataclass(frozen=True)
class TracedBlock:
    """A part of a module that a pipeline does not cut.

    Attributes
    ----------
    name
        Path of the submodule.
    shapes
        Of its parameters.
    saved_bytes
        Kept for backward.
    output_bytes
        Of what it hands on.
    """

    name: str
    shapes: tuple[tuple[int, ...], ...]
    saved_bytes: int
    output_bytes: int

    @property
    def parameters(self) -> int:
        """Elements."""
        return sum(prod(shape) for shape in self.shapes)


@dataclass(frozen=True)
class TracedModule:
    """The operator table of a module for one example (one micro-batch).

    Attributes
    ----------
    name
        Of its class.
    format
        Of its floating-point parameters (``bf16``, ``fp32`` ...).
    operators, blocks
        In the order of execution.
    """

    name: str
    format: str
    operators: tuple[TracedOperator, ...]
    blocks: tuple[TracedBlock, ...]

    def flops(self, phase: str | None = None) -> int:
        """Multiply-adds x 2 of a phase, or of both."""
        return sum(op.flops for op in self.operators if phase in (None, op.phase))

    @property
    def parameters(self) -> int:
        """Elements of all blocks."""
        return sum(block.parameters for block in self.blocks)

    @property
    def saved_bytes(self) -> int:
        """Kept for backward."""
        return sum(block.saved_bytes for block in self.blocks)

    def table(self) -> dict[str, tuple[int, int, int]]:
        """Operator name -> how often, FLOPs, traffic in bytes; the costliest first."""
        found: dict[str, tuple[int, int, int]] = {}
        for op in self.operators:
            n, flops, traffic = found.get(op.name, (0, 0, 0))
            found[op.name] = n + 1, flops + op.flops, traffic + op.traffic_bytes
        return dict(sorted(found.items(), key=lambda item: (-item[1][1], -item[1][2])))


@dataclass(frozen=True)
class TracedResult:
    """One simulated step of a traced module.

    Attributes
    ----------
    step_time_s, breakdown_s
        Seconds, and by part; the parts sum to the step.
    stages
        Blocks of each pipeline stage.
    memory_bytes
        Part -> bytes allocated on the fullest stage.
    memory_limit_bytes, fits
        What the device offers less the headroom, and whether the stage stays below.
    assumed
        What the caller did not say.
    """

    step_time_s: float
    breakdown_s: dict[str, float]
    stages: tuple[tuple[str, ...], ...]
    memory_bytes: dict[str, float]
    memory_limit_bytes: float
    fits: bool
    assumed: dict[str, str] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """As JSON wants it, with a schema version."""
        return {"schema": SCHEMA, **asdict(self)}


def simulate_traced(
    traced: TracedModule,
    cluster: Cluster | Mapping[str, Any] | str | Path,
    *,
    micro_batches: int = 1,
    pipeline_parallel: int = 1,
    sharding: ShardingName = "ddp",
    optimizer: str = "adamw",
    framework: str = "torchtitan",
) -> TracedResult:
    """A training step of a traced module on a cluster.

    Parameters
    ----------
    micro_batches
        Examples of a data-parallel rank in a step.
    pipeline_parallel
        Stages that the blocks are spread over, contiguous and as even in time as they can be; the other devices are
        data-parallel.
    sharding
        ``ddp``, ``zero1``, ``zero2`` or ``zero3`` (without a pipeline).

    Raises
    ------
    InputError
        For more stages than blocks or devices, a number of devices that stages do not divide, or an unknown name.
    """
    traced = of_kind(traced, TracedModule, "traced", "what trace returns")
    machine = Cluster.parse(cluster)
    for name, value in (("optimizer", optimizer), ("framework", framework), ("sharding", sharding)):
        text(value, name, "a name")
    pp = whole(pipeline_parallel, "pipeline_parallel", 1, min(len(traced.blocks), machine.n_devices))
    m = whole(micro_batches, "micro_batches", 1, 10**9)
    _check(machine, pp, sharding)
    structure = Structure(framework, precision=traced.format)
    constants = step_constants(machine, structure)
    columns = Columns(sequence=1, micro_batch=1, micro_batches=m, dp=machine.n_devices // pp, pp=pp,
                      shard=machine.n_devices // pp)  # fmt: skip
    kinds = [_seconds(traced, block.name, constants) for block in traced.blocks]
    own = get_format(traced.format)
    units = [_unit(b, columns, sharding, own, constants) for b in traced.blocks]
    times = [kind_time(kind, unit, constants) for kind, unit in zip(kinds, units, strict=True)]
    stages = partition([t.forward.seconds + t.backward.seconds for t in times], pp)
    loads = [_load(traced, s, columns, sharding, optimizer, constants) for s in stages]
    hops = [traced.blocks[s[-1]].output_bytes for s in stages[:-1]]
    hop = collective_time("send_recv", max(hops), *columns.group(("pp",)), constants.tiers) if hops else NO_TRAFFIC
    step = compose_step(StepLoad(kinds, units, loads, hop, m, pp, 1, "1f1b"), constants, times)
    memory = max(
        (_memory(traced, s, i, columns, sharding, optimizer) for i, s in enumerate(stages)),
        key=lambda parts: sum(parts.values()),
    )
    software = structure.software
    limit = memory_limit(with_headroom(machine, software)[0], software)
    held = float(seen_memory(sum(memory.values()), constants)[1])
    breakdown = _breakdown(step, m)
    return TracedResult(
        sum(breakdown.values()),
        breakdown,
        tuple(tuple(traced.blocks[b].name for b in s) for s in stages),
        memory,
        limit,
        held <= limit,
        {**machine.assumed(), "kernels": "as executed one by one; a compiler would fuse some"},
    )


def _check(cluster: Cluster, pp: int, sharding: str) -> None:
    if cluster.n_devices % pp:
        near = next(d for d in range(pp, 0, -1) if cluster.n_devices % d == 0)
        raise InputError("pipeline_parallel", pp, f"a divisor of {counted(cluster.n_devices, 'device')}", near)
    if sharding not in ("ddp", "zero1", "zero2", "zero3"):
        raise InputError("sharding", sharding, "ddp, zero1, zero2, zero3", "zero3")
    if sharding == "zero3" and pp > 1:
        raise InputError("sharding", sharding, "ddp, zero1 or zero2 with a pipeline", "zero1")


def partition(weights: Sequence[float], parts: int) -> list[tuple[int, ...]]:
    """Contiguous parts of a row of weights, none empty, the heaviest as light as it can be."""
    counts = split_layers(weights, 0.0, 0.0, parts, lambda _, starts, ends: ends > starts)
    bounds = [0, *accumulate(counts or ())]
    return [tuple(range(a, b)) for a, b in pairwise(bounds)]


def _seconds(traced: TracedModule, block: str, c: StepConstants) -> KindSeconds:
    phases = {name: PhaseSeconds() for name in ("forward", "backward", "recompute")}
    for op in traced.operators:
        if op.block == block:
            phase = phases[op.phase]
            phase.launches = phase.launches + 1
            name, seconds = _rated(op, c)
            phase.add(name, seconds)
    return KindSeconds(phases, 0)


def _rated(op: TracedOperator, c: StepConstants) -> tuple[str, float]:
    if op.kind == "product":
        return c.high_class, float(gemm_seconds(op.rows, op.columns, op.depth, op.traffic_bytes, c.high, op.groups))
    if op.kind == "attention":
        backward = op.phase == "backward"
        seconds = attention_seconds(
            op.flops, op.rows, op.depth, op.traffic_bytes, c.high, backward=backward, peak=c.attention_peak
        )
        return "attention", float(seconds)
    return "memory", float(memory_seconds(op.traffic_bytes, 1, c.high))


def _exchange(
    elements: int, columns: Columns, sharding: ShardingName, format: Format, c: StepConstants
) -> tuple[WireTime, WireTime]:
    """Gathering and reducing so many elements, seconds alone."""
    moved = exchange(sharding, elements, 0, columns, c.tiers, parameter=format, reduce=format)
    return moved.gather, moved.scatter + moved.replicate


def _unit(
    block: TracedBlock, columns: Columns, sharding: ShardingName, format: Format, c: StepConstants
) -> UnitTraffic:
    if sharding != "zero3":
        return UnitTraffic()
    gather, reduce = _exchange(block.parameters, columns, sharding, format, c)
    return UnitTraffic(gather, gather + reduce)


@dataclass(frozen=True)
class _Update:
    """What updating all parameters of a stage takes, unsharded."""

    elements: int
    state_bytes: float
    traffic_bytes: float
    flops: float


def _update(traced: TracedModule, stage: Sequence[int], optimizer: str) -> _Update:
    """As torch does it: state in the format of the parameters, which are updated themselves."""
    name = traced.format
    formats = Formats(parameter=name, gradient=name, reduce=name, master=None, moments=name)
    chosen, each = get_optimizer(optimizer), moment_bytes(formats, name)
    elements, state, flops = 0, 0.0, 0.0
    for shape in (shape for b in stage for shape in traced.blocks[b].shapes):
        rows, columns = shape[0] if shape else 1, prod(shape[1:])
        rule = chosen.rule("matrix" if len(shape) == 2 else "vector")
        elements += rows * columns
        state += float(rule.state_bytes(rows, columns, each))
        flops += float(rule.products_flops(rows, columns))
    mean = state / elements if elements else 0.0
    return _Update(elements, state, elements * float(traffic_bytes(mean, formats, name)), flops)


def _load(
    traced: TracedModule,
    stage: Sequence[int],
    columns: Columns,
    sharding: ShardingName,
    optimizer: str,
    c: StepConstants,
) -> StageLoad:
    update = _update(traced, stage, optimizer)
    gather, reduce = (NO_TRAFFIC, NO_TRAFFIC)
    if sharding != "zero3":
        gather, reduce = _exchange(update.elements, columns, sharding, get_format(traced.format), c)
    share = 1 if sharding == "ddp" else 1 / columns.dp
    counts = [1 if b in stage else 0 for b in range(len(traced.blocks))]
    return StageLoad(
        counts,
        [0.0] * len(counts),
        1,
        gather,
        reduce,
        share * update.traffic_bytes / (c.high.bandwidth * c.high.memory_efficiency),
        {c.high_class: share * update.flops / (c.high.peak * c.high.gemm_efficiency)},
        NO_TRAFFIC,
    )


def _memory(
    traced: TracedModule, stage: Sequence[int], index: int, columns: Columns, sharding: ShardingName, optimizer: str
) -> dict[str, float]:
    """Bytes allocated on one rank of a stage."""
    update, format, shards = _update(traced, stage, optimizer), get_format(traced.format), columns.dp
    whole = float(format.bytes(update.elements))
    largest = float(format.bytes(max(traced.blocks[b].parameters for b in stage)))
    held = in_flight("1f1b", index, columns.pp, 1, columns.micro_batches)
    return {
        "parameters": whole / (shards if sharding == "zero3" else 1),
        "gradients": whole / (shards if sharding in ("zero2", "zero3") else 1),
        "optimizer": update.state_bytes / (1 if sharding == "ddp" else shards),
        "activations": float(held * sum(traced.blocks[b].saved_bytes for b in stage)),
        "unsharded": 3 * largest * (sharding == "zero3"),
    }


def _breakdown(step: StepTime, micro_batches: int) -> dict[str, float]:
    """Seconds by part: the busiest stage's, the pipeline's rest as bubble, and what is done once a step."""
    busiest = max(step.stages, key=lambda s: float(s.forward_s + s.backward_s))
    parts: dict[str, float] = {}
    for table in (busiest.forward, busiest.backward):
        for name, seconds in table.items():
            parts[name] = parts.get(name, 0.0) + micro_batches * float(seconds)
    chunks = ChunkTimes.of([[(float(s.forward_s), float(s.backward_s), 0.0)] for s in step.stages])
    whole = chunks.seconds("1f1b", micro_batches, float(step.hop_s))
    parts["bubble"] = max(0.0, whole - sum(parts.values()))
    once = max(step.stages, key=lambda s: float(s.once_s))
    parts |= {n: float(getattr(once, n)) for n in ("gradients", "parameters", "optimizer")}
    return {**parts, "fixed": float(step.fixed_s)}
