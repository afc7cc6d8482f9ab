"""Small models whose messages are counted from our operators and parameters, in the form in which torch's are logged.

Each ``derived_*`` answers for the ``run_*`` of ``parallel`` with the same arguments; the two are to be equal with
``==``: collective, mesh axis, bytes, phase, and how often.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import pairwise

from ..core.data_parallel import (
    ShardingKind,
    Stored,
    Unit,
    UnitMessage,
    data_parallel_messages,
    gradient_buckets,
)
from ..core.formats import get_format
from ..core.layout import home_term
from ..core.messages import Message, derive_messages, repeated_messages, stage_transfers
from ..core.operators import Operator
from ..core.parameters import Parameter, derive_parameters
from ..core.pipelines import schedule_facts
from ..core.saved import Savings, derive_saved, saved_terms
from ..core.sharding import Sharding, mesh_sharding
from ..core.terms import Sizes
from ..core.work import derive_work
from ..layers.base import layer_input
from ..training.orders import routes
from .counters import CollectiveEvent, Phase
from .pairs import CLASSES, BlockSpec, inventory, layer_operators, model_parts, regions
from .parallel import Events, PipelineSchedule


def events_of(messages: Iterable[Message], values: Sizes, times: int = 1, phase: Phase | None = None) -> Events:
    """Messages of an operator list as torch would log them; groups of one rank are not logged."""
    result: Events = Events()
    for m in messages:
        if values.degree(m.axes) > 1:
            event = CollectiveEvent(m.collective, "·".join(m.axes), values.bytes(m.payload), phase or m.phase)
            result[event] += times
    return result


def _savings(
    spec: BlockSpec, operators: Sequence[Operator], sharding: Sharding, *, block: bool, shared_input: bool
) -> Savings:
    return derive_saved(
        operators,
        sharding,
        inventory(spec, loss="parallel"),
        formats=CLASSES[spec.precision],
        regions=regions(spec, operators) if block else (),
        shared_input=shared_input,
    )


def derived_tensor_parallel(
    spec: BlockSpec, layers: int, degree: int, *, sequence_parallel: bool, shared_input: bool
) -> tuple[Events, int]:
    """Collectives of one micro-batch and the bytes kept for backward on one rank."""
    sharding, values = mesh_sharding(sequence_parallel=sequence_parallel), spec.values({"tp": degree})
    events, kept = Events(), 0
    for operators, times, block in model_parts(spec, layers):
        messages = derive_messages(operators, sharding, inventory(spec), shared_input=shared_input)
        savings = _savings(spec, operators, sharding, block=block, shared_input=shared_input)
        events += events_of(messages, values, times)
        events += events_of(repeated_messages(messages, savings.recomputed), values, times, "recompute")
        kept += times * values.size(saved_terms(savings.kept))
    return events, kept


# --- data parallelism -----------------------------------------------------------------------------------------------


def _parameters(spec: BlockSpec, layers: int, sharding: Sharding) -> list[tuple[Parameter, int, bool]]:
    return [
        (parameter, times, block)
        for operators, times, block in model_parts(spec, layers)
        for parameter in derive_parameters(operators, sharding)
    ]


def model_units(
    spec: BlockSpec, layers: int, values: Sizes, *, reshard_root: bool, reshard_blocks: bool
) -> tuple[Unit, Unit]:
    """The root (embedding, final norm, head) and the block as FSDP units."""
    found = _parameters(spec, layers, mesh_sharding(sequence_parallel=values.degree(["tp"]) > 1))
    stored = [(Stored(values.elements(p.leading), values.elements(p.rest)), block) for p, _, block in found]
    return (
        Unit(tuple(s for s, block in stored if not block), 1, reshard_root),
        Unit(tuple(s for s, block in stored if block), layers, reshard_blocks),
    )


def unit_events(messages: Iterable[UnitMessage], microbatches: int = 1) -> Events:
    """Messages of units as torch would log them."""
    result: Events = Events()
    for m in messages:
        result[CollectiveEvent(m.collective, m.group, m.payload_bytes, m.phase)] += m.per_step(microbatches)
    return result


def derived_fully_sharded(
    spec: BlockSpec,
    layers: int,
    *,
    shard: int,
    replicas: int = 1,
    reshard_root: bool | None = None,
    reshard_blocks: bool = True,
    microbatches: int = 1,
    sync_last: bool = False,
) -> Events:
    """A step of FSDP2. By default torch does not reshard the root after forward."""
    units = model_units(spec, layers, spec.values(), reshard_root=bool(reshard_root), reshard_blocks=reshard_blocks)
    messages = data_parallel_messages(
        "hsdp" if replicas > 1 else "zero3",
        units,
        shard=shard,
        parameter_format=get_format("bf16"),
        gradient_format=get_format("fp32"),
        accumulation="last" if sync_last else "each",
    )
    return unit_events(messages, microbatches)


def derived_fully_sharded_tensor_parallel(spec: BlockSpec, layers: int, *, shard: int, degree: int) -> Events:
    """FSDP2 over one axis, tensor and sequence parallelism over the other.

    The gradient of a parameter that is replicated over tp but used on a part of the sequence is summed over tp, in the
    compute format, before it is scattered.
    """
    values = spec.values({"tp": degree})
    units = model_units(spec, layers, values, reshard_root=False, reshard_blocks=True)
    sharded = data_parallel_messages(
        "zero3", units, shard=shard, parameter_format=get_format("bf16"), gradient_format=get_format("fp32")
    )
    events, _ = derived_tensor_parallel(spec, layers, degree, sequence_parallel=True, shared_input=True)
    events += unit_events(sharded)
    for parameter, times, _ in _parameters(spec, layers, mesh_sharding(sequence_parallel=True)):
        if "tp" in parameter.gradient_axes:
            size = values.bytes(parameter.local.stored("activation"))
            events[CollectiveEvent("all_reduce", "tp", size, "backward")] += times
    return events


def _parameter_bytes(spec: BlockSpec, layers: int) -> list[int]:
    """Bytes of every parameter of the model, in forward order."""
    values, sharding = spec.values(), mesh_sharding(sequence_parallel=False)
    return [
        values.bytes(p.local.stored(p.format))
        for operators, times, _ in model_parts(spec, layers)
        for p in derive_parameters(operators, sharding) * times
    ]


def derived_distributed_data_parallel(
    spec: BlockSpec, layers: int, *, degree: int, bucket_mib: float | None
) -> list[int]:
    """Bytes of DDP's buckets, gradients in reverse order."""
    sizes = _parameter_bytes(spec, layers)[::-1]
    result, start = [], 0
    counts = gradient_buckets(sizes) if bucket_mib is None else gradient_buckets(sizes, int(bucket_mib * 2**20), None)
    for taken in counts:
        result.append(sum(sizes[start : start + taken]))
        start += taken
    return result


def derived_zero_redundancy_update(spec: BlockSpec, layers: int, *, degree: int) -> Events:
    """The broadcasts after the optimizer step."""
    kind: ShardingKind = "zero1_broadcast"
    format = get_format(CLASSES[spec.precision]["weight"])
    units = model_units(spec, layers, spec.values(), reshard_root=False, reshard_blocks=False)
    messages = data_parallel_messages(kind, units, shard=degree, parameter_format=format, gradient_format=format)
    return unit_events(m for m in messages if m.phase == "update")


# --- expert and pipeline parallelism --------------------------------------------------------------------------------


def derived_expert_parallel(spec: BlockSpec, degree: int) -> tuple[Events, int, int, int]:
    """Collectives, forward FLOPs, backward FLOPs and saved bytes of one rank of a block with spread experts.

    The ranks of the expert group are data-parallel ranks: the global micro-batch has ``degree`` times the sequences.
    """
    s = spec.dims()
    values = spec.values({"dp": degree, "ep": degree}, batch=s["batch"] * degree, slots=s["slots"] * degree)
    operators, sharding = layer_operators(spec), mesh_sharding(sequence_parallel=False)
    kernels = inventory(spec, dispatch="eager_exchanged", combine="eager_exchanged")
    messages = derive_messages(operators, sharding, kernels)
    work = derive_work(operators, sharding, kernels)
    kept = derive_saved(operators, sharding, kernels, formats=CLASSES[spec.precision]).kept
    return (
        events_of(messages, values),
        values.count(t for w in work if w.phase == "forward" for t in w.flops),
        values.count(t for w in work if w.phase != "forward" for t in w.flops),
        values.size((*saved_terms(kept), *saved_terms(kept, per_step=True))),
    )


def derived_pipeline(
    spec: BlockSpec, schedule: PipelineSchedule, *, ranks: int, rank: int, microbatches: int, chunks: int = 1
) -> Counter[tuple[str, int]]:
    """Sends and receives of one rank, forward and backward: the residual stream, whatever the schedule."""
    if schedule_facts(schedule).shape == "loop":
        sends, receives = stage_transfers(rank, ranks, chunks)
    else:
        steps = list(pairwise(device for device, _ in routes(schedule, ranks, chunks)[0]))
        sends = sum(here == rank != there for here, there in steps)
        receives = sum(here != rank == there for here, there in steps)
    size = spec.values().bytes(home_term(layer_input(), mesh_sharding(sequence_parallel=False)))
    crossings = microbatches * (sends + receives)
    return Counter({("send", size): crossings, ("receive", size): crossings})
